"""merge_tokenizers: the vocabulary of another tokenizer, or a word list, added to a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import InvalidOptionError
from .adding import Data, append_special_tokens, first_free_id, new_data, token_ids
from .backend import read_json, rebuild
from .merging_families import STRATEGIES, Addition
from .pipeline import Spelling, read_spelling
from .reachability import unreachable_ids
from .requests import Entries, Request, Speller, Words, read_tokenizer, read_words
from .special_tokens import is_unused_name, match_roles

if TYPE_CHECKING:
    from ..resources.corpus import Corpus


@dataclass(frozen=True)
class MergeReport:
    """What became of everything that was asked for; all but the last two add up to ``requested``.

    Attributes:
        requested: Tokens of the other tokenizer, or different words of the list.
        added: Tokens added because they were asked for, control tokens included.
        already_present: Tokens that were there, or became equal to another one by the tokenizer's normalizer.
        unreachable: Left out: the normalizer or pre-tokenizer changes or cuts them, so that no text leads to them.
        skipped_special: Control tokens and names of unused places.
        skipped_partial: Bytes and parts of characters.
        skipped_rare: Counted less often than ``min_frequency``.
        left_out: Beyond ``max_new_tokens``.
        intermediate_added: Further new tokens, each a step on the way to others or a character they need.
        unreachable_tokens: Those left out as unreachable, in the tokenizer's own spelling where it has one.
    """

    requested: int
    added: int
    already_present: int
    unreachable: int
    skipped_special: int
    skipped_partial: int
    skipped_rare: int
    left_out: int
    intermediate_added: int
    unreachable_tokens: tuple[str, ...] = ()

    @property
    def new_tokens(self) -> int:
        """Rows that a model needs for the additions."""
        return self.added + self.intermediate_added


@overload
def merge_tokenizers(
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | Words,
    *,
    corpus: Corpus | Any = ...,
    min_frequency: int = ...,
    max_new_tokens: int | None = ...,
    special_tokens: bool = ...,
    return_report: Literal[False] = ...,
) -> PreTrainedTokenizerFast: ...
@overload
def merge_tokenizers(
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | Words,
    *,
    corpus: Corpus | Any = ...,
    min_frequency: int = ...,
    max_new_tokens: int | None = ...,
    special_tokens: bool = ...,
    return_report: Literal[True],
) -> tuple[PreTrainedTokenizerFast, MergeReport]: ...
def merge_tokenizers(
    tokenizer: PreTrainedTokenizerBase,
    other: PreTrainedTokenizerBase | Words,
    *,
    corpus: Corpus | Any = None,
    min_frequency: int = 1,
    max_new_tokens: int | None = None,
    special_tokens: bool = False,
    return_report: bool = False,
) -> PreTrainedTokenizerFast | tuple[PreTrainedTokenizerFast, MergeReport]:
    """Add the vocabulary of another tokenizer, of any family, or a word list to a tokenizer.

    Old ids stay, new ones follow the highest. The pipeline, the control tokens, the chat template, truncation and
    maximum length stay. Every added token is one that text can lead to; others are left out and counted. The result is
    the same, byte for byte, at every run.

    A BPE gets merges of its own that make each token out of the pieces it is cut into today, after all old merges, so
    that text without new tokens is cut as before; merges of the other tokenizer would start from pieces that never
    occur here. That holds under ``ignore_merges`` too, so that a new word also serves inside longer ones. A Unigram
    model gets scores: those of the other one if it has them, lifted where a piece would not win its own text. A
    WordPiece vocabulary is appended to.

    Args:
        tokenizer: Tokenizer to extend; it is not changed.
        other: A tokenizer, or whole words: an iterable, or a mapping of words to counts.
        corpus: Text in which the tokens of ``other`` are counted, to order and to drop them; without it their order
            and scores stand in for counts. Not used for a word list.
        min_frequency: Tokens or words counted less often are left out.
        max_new_tokens: Most ids to add, those on the way to others included; the most wanted go first.
        special_tokens: Whether to add those control tokens of ``other`` that play no role here and have no namesake,
            chat markers for example, as control tokens.
        return_report: Whether to return a :class:`MergeReport` too.

    Raises:
        UnsupportedTokenizerError: If a tokenizer has no ``tokenizer.json`` behind it or is of no known family.
        InvalidOptionError: If an option is out of range, the word list is empty or holds something else than words.
        CorpusError: If the corpus is empty or unreadable.
    """
    _check_options(other, corpus, min_frequency, max_new_tokens, special_tokens)
    spelling = read_spelling(tokenizer)
    if isinstance(other, PreTrainedTokenizerBase):
        entries = read_tokenizer(other, corpus, min_frequency)
        controls = _control_tokens(tokenizer, other) if special_tokens else []
    else:
        entries, controls = read_words(other, min_frequency), []
    if not len(entries):
        raise InvalidOptionError("The word list is empty: nothing to merge. Pass at least one word.")
    merger = _Merger(tokenizer, spelling, entries, controls, max_new_tokens)
    merged = merger.run()
    return (merged, merger.report()) if return_report else merged


def _check_options(
    other: Any, corpus: Any, min_frequency: int, max_new_tokens: int | None, special_tokens: bool
) -> None:
    """Refuse what makes no sense, before any work."""
    if min_frequency < 1:
        raise InvalidOptionError(f"min_frequency is {min_frequency}; it must be at least 1.")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InvalidOptionError(f"max_new_tokens is {max_new_tokens}; it must be at least 1, or None for no limit.")
    if isinstance(other, PreTrainedTokenizerBase):
        if min_frequency > 1 and corpus is None:
            raise InvalidOptionError(
                f"min_frequency is {min_frequency}, but a vocabulary has no counts. Pass corpus= to count them in."
            )
        return
    if isinstance(other, str | bytes) or not hasattr(other, "__iter__"):
        raise InvalidOptionError(
            f"other is a {type(other).__name__}. Pass a tokenizer, words, or a mapping of words to counts."
        )
    if corpus is not None or special_tokens:
        raise InvalidOptionError("corpus and special_tokens go with another tokenizer; a word list takes neither.")


def _control_tokens(tokenizer: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> list[str]:
    """Return the control tokens of the other tokenizer without a counterpart here, in id order, no unused places."""
    matched = match_roles(tokenizer, other)
    present = tokenizer.get_vocab()
    names = [
        token.content
        for index, token in sorted(other.added_tokens_decoder.items())
        if token.special and index not in matched
    ]
    return [name for name in names if name not in present and not is_unused_name(name)]


_FITTING = 6
"""Attempts at using the whole of a limit."""


class _Merger:
    """One merge: add, look for dead tokens, take those out, until there are none."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        spelling: Spelling,
        entries: Entries,
        controls: list[str],
        limit: int | None,
    ) -> None:
        self.tokenizer, self.spelling, self.entries = tokenizer, spelling, entries
        self.controls, self.limit = controls if limit is None else controls[:limit], limit
        self.data = read_json(tokenizer)
        self.unreachable: list[str] = []
        self.left_out = 0
        self.forbidden = frozenset(token["content"] for token in self.data["added_tokens"]) | frozenset(controls)
        self.requests = self._read()
        self.result = Addition([], [], [])

    def _read(self) -> list[Request]:
        """Spell the entries; keep those that are new and that text can lead to."""
        speller = Speller(self.tokenizer)
        present = token_ids(self.data).keys()
        requests: dict[str, Request] = {}
        for entry in self.entries.entries:
            request = speller.request(entry)
            if request is None:
                self.unreachable.append(entry.text)
            elif request.token not in present:
                requests.setdefault(request.token, request)
        self.already_present = len(self.entries.entries) - len(self.unreachable) - len(requests)
        return list(requests.values())

    def run(self) -> PreTrainedTokenizerFast:
        """Return the extended tokenizer."""
        while True:
            data = self._add_what_fits()
            append_special_tokens(data, self.controls)
            merged = rebuild(self.tokenizer, data)
            if not self._take_out_dead(merged):
                self.left_out = len(self.requests) - len(self.result.added) - len(self.result.failed)
                self._drop(self.result.failed)
                return merged

    def _add_what_fits(self) -> Data:
        """Add as many requests as the limit has room for, the most wanted first."""
        if self.limit is None:
            return self._add(len(self.requests))
        room = max(0, self.limit - len(self.controls))
        number, tries = min(room, len(self.requests)), _FITTING
        while True:
            data = self._add(number)
            total = len(self.result.added) + len(self.result.steps)
            full = number == len(self.requests) or total >= 0.99 * room
            if total <= room and (full or tries <= 0):
                return data
            tries -= 1
            if tries > 0:
                # The steps on the way grow about as the requests do.
                number = min(len(self.requests), max(1, number * room // max(1, total)))
            else:
                number = max(0, number - max(0, total - room))

    def _add(self, number: int) -> Data:
        """Add the first requests to fresh data."""
        data = new_data(self.data)
        strategy = STRATEGIES[self.spelling.family]
        self.result = strategy(data, self.requests[:number], self.spelling, self.forbidden)
        return data

    def _drop(self, requests: Sequence[Request]) -> None:
        """Count requests as unreachable."""
        gone = {request.token for request in requests}
        self.unreachable += [request.token for request in requests]
        self.requests = [request for request in self.requests if request.token not in gone]

    def _take_out_dead(self, merged: PreTrainedTokenizerFast) -> bool:
        """Take the new tokens that no text leads to out of the next attempt; say whether there were any."""
        ids = range(
            first_free_id(self.data), first_free_id(self.data) + len(self.result.added) + len(self.result.steps)
        )
        dead = {str(merged.convert_ids_to_tokens(index)) for index in unreachable_ids(merged, ids)}
        if not dead:
            return False
        self._drop([request for request in self.requests if request.token in dead])
        self.forbidden |= dead
        return True

    def report(self) -> MergeReport:
        """Return the counts."""
        entries = self.entries
        return MergeReport(
            requested=len(entries),
            added=len(self.result.added) + len(self.controls),
            already_present=self.already_present,
            unreachable=len(self.unreachable),
            skipped_special=entries.special - len(self.controls),
            skipped_partial=entries.partial,
            skipped_rare=entries.rare,
            left_out=self.left_out,
            intermediate_added=len(self.result.steps),
            unreachable_tokens=tuple(self.unreachable),
        )


__all__ = ["MergeReport", "merge_tokenizers"]
