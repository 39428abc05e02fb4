"""How finely a tokenizer cuts a text, and whether the text comes back: measured on any corpus, in one pass."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from ..errors import CorpusError, InvalidOptionError
from .canonical import CanonicalVocab, TokenKind, canonicalise
from .pipeline import Family, Spelling, backend_of, read_spelling
from .reachability import whole_lines

if TYPE_CHECKING:
    from ..resources.corpus import Corpus

BATCH_LINES = 1000


@dataclass(frozen=True)
class Fertility:
    """What a tokenizer does to a text. Special tokens that a template would add are not counted, nothing is cut off.

    Attributes:
        lines: Lines of text.
        words: Words: runs of characters between Unicode white space. In scripts that write none between words
            (Thai, Chinese, Khmer) a "word" is a clause: read the figures per character and per byte there.
        characters: Code points.
        bytes: UTF-8 bytes.
        tokens: Tokens.
        tokens_per_word: Fertility.
        tokens_per_character: The same without the notion of a word.
        bytes_per_token: Compression.
        tokens_per_byte: Its inverse, comparable between languages and tokenizers.
        unknown_rate: Share of tokens that are the unknown token.
        byte_fallback_rate: Share of tokens that stand for bytes instead of characters: ``<0xNN>``, or a token of a
            byte-level vocabulary that holds no whole character.
        round_trip_rate: Share of lines for which ``decode(encode(line))`` is the line as the tokenizer's normalizer
            leaves it (lower-cased, composed, ...). White space at the ends is never compared; runs of it count as one
            space for Unigram, and none is compared for WordPiece and suffix BPE, whose decoders space by rule.
        pre_tokens_per_word: Pieces into which the pre-tokenizer cuts a word before the vocabulary is looked at: no
            vocabulary brings ``tokens_per_word`` below it. Near 0 where no pre-tokenizer cuts at all.
        new_token_rate: Share of tokens that are among ``new_ids``; None if none were given.
        new_tokens_used: How many of ``new_ids`` occur at all; None if none were given.
        seconds: Time spent encoding. Not compared and not in :meth:`to_dict`, since it differs between runs.
    """

    lines: int
    words: int
    characters: int
    bytes: int
    tokens: int
    tokens_per_word: float
    tokens_per_character: float
    bytes_per_token: float
    tokens_per_byte: float
    unknown_rate: float
    byte_fallback_rate: float
    round_trip_rate: float
    pre_tokens_per_word: float
    new_token_rate: float | None = None
    new_tokens_used: int | None = None
    seconds: float = field(default=0.0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are the same at every run."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}


def measure_fertility(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus | Any,
    *,
    new_ids: Sequence[int] | np.ndarray | None = None,
) -> Fertility:
    """Measure how a tokenizer cuts a text.

    Args:
        tokenizer: A tokenizer with a ``tokenizer.json`` behind it.
        corpus: Text: a path, a ``datasets`` object or name, or an iterable of lines. It is streamed.
        new_ids: Ids whose use is counted, shape `(n_new,)`.

    Raises:
        UnsupportedTokenizerError: If the tokenizer has no ``tokenizer.json`` behind it or is of no known family.
        CorpusError: If the corpus is empty, unreadable, or holds white space only.
        InvalidOptionError: If ``new_ids`` holds an id that the tokenizer does not have.
    """
    from ..resources.corpus import open_corpus

    meter = _Meter(tokenizer, new_ids)
    source = open_corpus(corpus)
    with whole_lines(meter.backend):
        for lines in source.batches(BATCH_LINES):
            meter.add(lines)
    return meter.result(source.name)


class _Meter:
    """Counts of one pass."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, new_ids: Sequence[int] | np.ndarray | None) -> None:
        self.backend = backend_of(tokenizer)
        vocab = canonicalise(tokenizer)
        self.new_ids = _checked_ids(new_ids, len(vocab))
        self.unknown_id = tokenizer.unk_token_id
        self.is_byte = _stands_for_bytes(vocab)
        self.round_trip = RoundTrip(tokenizer)
        self.uses = np.zeros(len(vocab), np.int64)
        self.lines = self.words = self.characters = self.bytes = self.pre_tokens = self.returned = 0
        self.seconds = 0.0

    def add(self, lines: list[str]) -> None:
        """Count a batch of lines."""
        start = time.perf_counter()
        encodings = self.backend.encode_batch(lines, add_special_tokens=False)
        self.seconds += time.perf_counter() - start
        ids = [encoding.ids for encoding in encodings]
        flat = np.concatenate([np.asarray(row, np.int64) for row in ids])
        self.uses += np.bincount(flat, minlength=len(self.uses))
        self.lines += len(lines)
        self.words += sum(len(line.split()) for line in lines)
        self.characters += sum(map(len, lines))
        self.bytes += sum(len(line.encode("utf-8", "surrogatepass")) for line in lines)
        self.pre_tokens += sum(map(_count_pre_tokens, encodings))
        self.returned += sum(self.round_trip.check(lines, ids))

    def result(self, name: str) -> Fertility:
        """Return the figures.

        Raises:
            CorpusError: If there was no word or no token.
        """
        tokens = int(self.uses.sum())
        if not self.words or not tokens:
            raise CorpusError(
                f"{name} holds {self.words} words in {self.lines} lines, and the tokenizer makes {tokens} tokens: "
                "nothing to measure. Pass a corpus with text."
            )
        unknown = 0 if self.unknown_id is None else int(self.uses[self.unknown_id])
        used = None if self.new_ids is None else self.uses[self.new_ids]
        return Fertility(
            lines=self.lines,
            words=self.words,
            characters=self.characters,
            bytes=self.bytes,
            tokens=tokens,
            tokens_per_word=tokens / self.words,
            tokens_per_character=tokens / self.characters,
            bytes_per_token=self.bytes / tokens,
            tokens_per_byte=tokens / self.bytes,
            unknown_rate=unknown / tokens,
            byte_fallback_rate=int(self.uses[self.is_byte].sum()) / tokens,
            round_trip_rate=self.returned / self.lines,
            pre_tokens_per_word=self.pre_tokens / self.words,
            new_token_rate=None if used is None else int(used.sum()) / tokens,
            new_tokens_used=None if used is None else int(np.count_nonzero(used)),
            seconds=self.seconds,
        )


def _checked_ids(new_ids: Sequence[int] | np.ndarray | None, n_ids: int) -> np.ndarray | None:
    """Return the ids without repetitions, shape `(n_new,)`."""
    if new_ids is None:
        return None
    ids = np.unique(np.asarray(new_ids, np.int64))
    if len(ids) and (ids[0] < 0 or ids[-1] >= n_ids):
        wrong = int(ids[0] if ids[0] < 0 else ids[-1])
        raise InvalidOptionError(f"new_ids holds {wrong}; the tokenizer's ids run from 0 to {n_ids - 1}.")
    return ids


def _stands_for_bytes(vocab: CanonicalVocab) -> np.ndarray:
    """Return which ids stand for bytes instead of characters, bool, shape `(n,)`."""
    fallback = np.asarray([token is not None and token.startswith("<0x") for token in vocab.tokens], bool)
    partial = np.asarray([not _is_text(raw) for raw in vocab.raw], bool)
    return (fallback & (vocab.kinds == TokenKind.BYTE)) | partial


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _count_pre_tokens(encoding: Encoding) -> int:
    """Return how many pre-tokens a line was cut into."""
    return len({word for word in encoding.word_ids if word is not None})


_SPACES = re.compile(r"\s+")
_COMPARED: dict[Family, Callable[[str], str]] = {
    Family.BYTE_BPE: str.strip,
    Family.SENTENCEPIECE_BPE: str.strip,
    Family.UNIGRAM: lambda text: _SPACES.sub(" ", text).strip(),
    Family.WORDPIECE: lambda text: _SPACES.sub("", text),
    Family.SUFFIX_BPE: lambda text: _SPACES.sub("", text),
}


class RoundTrip:
    """Compares texts with what their tokens decode to; :class:`Fertility` says what "equal" leaves out."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.backend = backend_of(tokenizer)
        self.spelling: Spelling = read_spelling(tokenizer)
        self._compared = _COMPARED[self.spelling.family]

    def check(self, lines: Sequence[str], ids: Sequence[Sequence[int]]) -> list[bool]:
        """Return for each line whether its ids decode to it."""
        decoded = self.backend.decode_batch([list(row) for row in ids], skip_special_tokens=False)
        return [
            self._compared(self.expected(line)) == self._compared(text)
            for line, text in zip(lines, decoded, strict=True)
        ]

    def expected(self, line: str) -> str:
        """Return the text that a lossless tokenizer gives back: the line as the normalizer leaves it."""
        if self.backend.normalizer is not None:
            line = self.backend.normalizer.normalize_str(line)
        # The decoder turns every mark into a space, those that the text itself holds included.
        return line.replace(self.spelling.space_mark, " ") if self.spelling.space_mark else line


_ROWS: tuple[tuple[str, str, str], ...] = (
    ("tokens per word", "tokens_per_word", ".3f"),
    ("  floor by pre-tokens", "pre_tokens_per_word", ".3f"),
    ("tokens per character", "tokens_per_character", ".3f"),
    ("bytes per token", "bytes_per_token", ".3f"),
    ("tokens", "tokens", ","),
    ("unknown", "unknown_rate", ".3%"),
    ("byte fallback", "byte_fallback_rate", ".3%"),
    ("lines that come back", "round_trip_rate", ".2%"),
    ("new tokens in the text", "new_token_rate", ".2%"),
    ("new tokens used", "new_tokens_used", ","),
)


def compare_fertility(before: Fertility, after: Fertility, names: tuple[str, str] = ("before", "after")) -> str:
    """Return a table in plain text of two tokenizers on the same text.

    Args:
        before: Figures of the first.
        after: Figures of the second.
        names: Headings of the two columns.

    Raises:
        InvalidOptionError: If the two were not measured on the same text.
    """
    sizes = [(item.lines, item.words, item.bytes) for item in (before, after)]
    if sizes[0] != sizes[1]:
        raise InvalidOptionError(
            f"The two were measured on different texts (lines, words, bytes: {sizes[0]} and {sizes[1]}). "
            "Measure both on the same corpus."
        )
    rows = [(f"{before.lines:,} lines, {before.words:,} words", *names)]
    for label, name, style in _ROWS:
        values = [getattr(item, name) for item in (before, after)]
        if any(value is not None for value in values):
            left, right = ("-" if value is None else format(value, style) for value in values)
            rows.append((label, left, right))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows)


__all__ = ["Fertility", "RoundTrip", "compare_fertility", "measure_fertility"]
