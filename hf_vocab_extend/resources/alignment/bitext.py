"""Parallel text as numbers: every sentence pair as the units of both sides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..._logging import progress_bar
from ...errors import CorpusError, InvalidOptionError
from ..parallel import Pair, open_pairs
from .encoding import TextEncoder
from .ragged import offsets_of, row_of, take_rows
from .units import Units, UnitTable
from .words import WordFinder

UNITS = ("token", "word")
DEFAULT_UNIT = "token"
BATCH_PAIRS = 4096


@dataclass(frozen=True, eq=False)
class Bitext:
    """Sentence pairs as indices of units.

    Attributes:
        source: Unique units of the source side.
        target: Unique units of the target side.
        source_ids: Source units of all pairs end to end, in reading order, int32.
        source_offsets: Where each pair begins in ``source_ids``, int64, shape `(n_pairs + 1,)`.
        target_ids: As ``source_ids``, for the target side.
        target_offsets: As ``source_offsets``, for the target side.
        info: Figures of the reading: ``unit``, ``n_blank_pairs`` (a side has no text), ``n_skipped_pairs`` (a side
            has text but no unit), and ``n_source_tokens``, ``n_source_unknown`` and the same of the target side.
    """

    source: Units
    target: Units
    source_ids: np.ndarray
    source_offsets: np.ndarray
    target_ids: np.ndarray
    target_offsets: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.source_offsets) - 1

    def __repr__(self) -> str:
        return f"Bitext({len(self)} pairs, {len(self.source)} source units, {len(self.target)} target units)"

    def take(self, pairs: np.ndarray) -> Bitext:
        """Return some of the pairs, shape `(n,)`; the units keep their numbers, their frequencies are counted anew."""
        source_ids, source_offsets = take_rows(self.source_ids, self.source_offsets, pairs)
        target_ids, target_offsets = take_rows(self.target_ids, self.target_offsets, pairs)
        source, target = (
            Units(units.offsets, units.pieces, np.bincount(ids, minlength=len(units)))
            for units, ids in ((self.source, source_ids), (self.target, target_ids))
        )
        return Bitext(source, target, source_ids, source_offsets, target_ids, target_offsets, self.info)


def read_bitext(
    pairs: Any,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    *,
    unit: str = DEFAULT_UNIT,
    show_progress: bool = True,
) -> Bitext:
    """Cut parallel text into units.

    Control tokens, unknown tokens and white space are left out; pairs where a side has no unit then are skipped and
    counted. The text is read once, in batches; only numbers are kept.

    Args:
        pairs: Whatever :func:`~hf_vocab_extend.resources.parallel.open_pairs` reads.
        source_tokenizer: Cuts the first text of each pair.
        target_tokenizer: Cuts the second.
        unit: ``"token"``, or ``"word"`` (the tokens of a word together, in every script).
        show_progress: Show a progress bar.

    Raises:
        CorpusError: If the text cannot be read, or no pair has units on both sides.
        InvalidOptionError: If there is no such unit.
        UnsupportedTokenizerError: If a tokenizer has no ``tokenizer.json`` behind it or is of no known family.
    """
    if unit not in UNITS:
        raise InvalidOptionError(f"There is no unit {unit!r}. There are: {', '.join(UNITS)}.")
    opened = open_pairs(pairs)
    source, target = Side(source_tokenizer, unit), Side(target_tokenizer, unit)
    kept = read = 0
    with progress_bar(desc="Reading pairs", unit="pair") if show_progress else nullcontext() as bar:
        for batch in batches(opened, BATCH_PAIRS):
            lefts, rights = ([pair[side] for pair in batch] for side in (0, 1))
            left, right = source.cut(lefts), target.cut(rights)
            both = np.flatnonzero((left.lengths > 0) & (right.lengths > 0))
            source.keep(left, both)
            target.keep(right, both)
            read, kept = read + len(batch), kept + len(both)
            if bar is not None:
                bar.update(len(batch))
    if not kept:
        raise CorpusError(
            f"None of the {read} pairs of {opened.name} has a token on both sides that is known: "
            f"{source.n_unknown} of {source.n_tokens} source tokens and {target.n_unknown} of {target.n_tokens} "
            "target tokens are unknown. Check the order of the languages and the tokenizers."
        )
    info = {"unit": unit, "n_blank_pairs": opened.n_blank, "n_skipped_pairs": read - kept}
    info |= {f"n_source_{name}": value for name, value in source.figures().items()}
    info |= {f"n_target_{name}": value for name, value in target.figures().items()}
    return Bitext(source.units(), target.units(), *source.ids(), *target.ids(), info)


@dataclass(frozen=True, eq=False)
class Cut:
    """Texts cut into units.

    Attributes:
        pieces: Token ids of all units end to end, int32.
        offsets: Where each unit begins, int64, shape `(n_units + 1,)`.
        lengths: Units of each text, int64, shape `(n_texts,)`.
    """

    pieces: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray


class Side:
    """One side of parallel text: cuts texts into units and collects them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, unit: str) -> None:
        self.finder = WordFinder(tokenizer)
        self._encoder = TextEncoder(tokenizer, self.finder.vocab)
        self._by_word = unit == "word"
        self._table = UnitTable()
        self._ids: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self.n_tokens = self.n_unknown = 0

    def cut(self, texts: list[str]) -> Cut:
        """Cut texts into units; nothing is collected yet."""
        tokens, offsets = self._encoder.encode(texts)
        if self.finder.unknown is not None:
            self.n_unknown += int(np.count_nonzero(tokens == self.finder.unknown))
        self.n_tokens += len(tokens)
        starts, kept = self.finder.find(tokens, offsets)
        units = np.cumsum(starts) - 1 if self._by_word else np.arange(len(tokens))
        return group(tokens, row_of(offsets), units, kept, len(texts))

    def keep(self, cut: Cut, rows: np.ndarray) -> None:
        """Collect some of the texts."""
        units, _ = take_rows(np.arange(len(cut.offsets) - 1), offsets_of(cut.lengths), rows)
        pieces, offsets = take_rows(cut.pieces, cut.offsets, units)
        self._ids.append(self._table.add(pieces, offsets))
        self._lengths.append(cut.lengths[rows])

    def ids(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the units of all texts, int32, and where each text begins, int64."""
        return np.concatenate(self._ids), offsets_of(np.concatenate(self._lengths))

    def units(self) -> Units:
        """Return the unique units."""
        frequency = np.zeros(len(self._table), np.int64)
        for ids in self._ids:
            frequency += np.bincount(ids, minlength=len(frequency))
        return self._table.units(frequency)

    def figures(self) -> dict[str, int]:
        """Return how many tokens there were, and how many of them unknown."""
        return {"tokens": self.n_tokens, "unknown": self.n_unknown}


def group(tokens: np.ndarray, text_of: np.ndarray, unit_of: np.ndarray, kept: np.ndarray, n_texts: int) -> Cut:
    """Put the kept tokens of each unit together; units without one vanish.

    Args:
        tokens: Token ids, shape `(n,)`.
        text_of: Text of each token, ascending, shape `(n,)`.
        unit_of: Unit of each token, ascending, never the same one in two texts, shape `(n,)`.
        kept: Which tokens count, bool, shape `(n,)`.
        n_texts: Number of texts.
    """
    tokens, text_of, unit_of = tokens[kept], text_of[kept], unit_of[kept]
    begins = np.flatnonzero(np.diff(unit_of, prepend=-1))
    offsets = np.append(begins, len(tokens)).astype(np.int64)
    return Cut(tokens.astype(np.int32), offsets, np.bincount(text_of[begins], minlength=n_texts))


def batches(pairs: Iterable[Pair], size: int) -> Iterator[list[Pair]]:
    """Yield pairs in lists of ``size``; the last one may be shorter."""
    iterator = iter(pairs)
    while batch := list(islice(iterator, size)):
        yield batch
