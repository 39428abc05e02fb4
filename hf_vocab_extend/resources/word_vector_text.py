"""Lines of a word and its numbers: word2vec text, fastText's ``.vec``, GloVe, gensim's export."""

from __future__ import annotations

import codecs
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from .._logging import progress_bar
from ..errors import InvalidTableError, VocabExtendWarning
from .readers import DAMAGED, open_binary
from .word_vector_tables import Block

_NUMBERS_PER_BLOCK = 200_000
_LINES_PER_BLOCK = 2000


@dataclass
class _Text:
    """Where the reading of a text file stands."""

    name: str
    promised: int | None = None
    """Number of words by the header."""
    dim: int = 0
    line: int = 0
    """Number of the last line that was read."""
    n_words: int = 0
    tabs: bool = False
    """Whether tabs stand between the numbers."""


def text_blocks(path: Path, name: str, limit: int | None) -> Iterator[Block]:
    """Yield the words of a text file, with or without a first line of two sizes, which may be compressed.

    Args:
        path: The file.
        name: What messages call it.
        limit: Yield no more words than that.

    Raises:
        InvalidTableError: If a line does not fit, the file is damaged, or has fewer words than its first line says.
    """
    text = _Text(name)
    try:
        with open_binary(path) as file, progress_bar(desc="Read word vectors", unit=" words") as bar:
            lines = iter(file)
            lines = _after_header(next(lines, b""), lines, text)
            bar.reset(limit or text.promised)
            step = max(1, min(_LINES_PER_BLOCK, _NUMBERS_PER_BLOCK // text.dim))
            while limit is None or text.n_words < limit:
                size = step if limit is None else min(step, limit - text.n_words)
                block = list(islice(lines, size))
                if not block:
                    break
                yield from _parse(block, text)
                bar.update(len(block))
    except DAMAGED as error:
        raise InvalidTableError(
            f"{name} cannot be read past line {text.line} ({error or type(error).__name__}): it is cut short or "
            "damaged. Fetch it again."
        ) from error
    _compare(text, limit)


def _compare(text: _Text, limit: int | None) -> None:
    """Compare the number of words with the header's."""
    if text.promised is None:
        return
    if text.n_words < (text.promised if limit is None else min(limit, text.promised)):
        raise InvalidTableError(
            f"{text.name} ends after line {text.line} with {text.n_words} words; its first line "
            f"promises {text.promised}. It is cut short: fetch it again, or correct the first line."
        )
    if limit is None and text.n_words > text.promised:
        warnings.warn(
            f"{text.name} has {text.n_words} words; its first line promises {text.promised}. All are read; "
            "correct the first line if that is right.",
            VocabExtendWarning,
            stacklevel=2,
        )


def _after_header(first: bytes, lines: Iterator[bytes], text: _Text) -> Iterator[bytes]:
    """Read the first line: two sizes, or already a word whose numbers tell the dimension."""
    first = first.removeprefix(codecs.BOM_UTF8)
    fields = first.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        text.promised, text.dim, text.line = int(fields[0]), int(fields[1]), 1
        if text.dim < 1:
            raise InvalidTableError(f"{text.name}, line 1, gives the vectors {text.dim} dimensions.")
        first = next(lines, b"")
    else:
        text.dim = len(fields) - 1
        if text.dim < 1 or b"\0" in first:
            raise InvalidTableError(
                f"{text.name}, line 1, is {first[:40]!r}, not a word and its numbers. Give word2vec text (.vec) or "
                "binary, a fastText model (.bin) or NumPy's .npz."
            )
    text.tabs = b"\t" in first

    def again() -> Iterator[bytes]:
        if first:
            yield first
        yield from lines

    return again()


def _parse(lines: list[bytes], text: _Text) -> Iterator[Block]:
    """Parse some lines: all their numbers in one go, line by line only where that does not fit."""
    n_lines = len(lines)
    while lines and not lines[-1].strip():  # blank lines at the end of the file
        lines.pop()
    if not lines:
        return
    if text.tabs:
        lines = [line.replace(b"\t", b" ") for line in lines]
    parts = [line.rstrip().partition(b" ") for line in lines]
    words = [part[0] for part in parts]
    numbers = _numbers(b" ".join(part[2] for part in parts))
    spaces = text.dim - 1
    fit = all(words) and all(part[2].count(b" ") == spaces for part in parts)  # a number moved from line to line
    if numbers is None or numbers.size != len(lines) * text.dim or not fit:
        words, numbers = _one_by_one(lines, text)
    text.line += n_lines
    text.n_words += len(words)
    yield Block(words, numbers.reshape(len(words), text.dim))


def _numbers(raw: bytes) -> np.ndarray | None:
    """Return the numbers of a text, or None if something in it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(raw.decode("ascii"), np.float32, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


def _one_by_one(lines: list[bytes], text: _Text) -> tuple[list[bytes], np.ndarray]:
    """Parse lines whose words may hold spaces; raise at the first that does not fit."""
    words, rows = [], []
    for offset, line in enumerate(lines, start=1):
        fields = line.rsplit(None, text.dim)
        values = _numbers(b" ".join(fields[1:])) if len(fields) == text.dim + 1 else None
        word = fields[0].strip() if fields else b""
        _, spaced, last = word.rpartition(b" ")  # ". . ." is a word of GloVe, "the 0.1" a number too many
        if values is None or values.size != text.dim or (spaced and _numbers(last) is not None):
            raise InvalidTableError(
                f"{text.name}, line {text.line + offset}, is {line[:40]!r}: it does not hold a word and {text.dim} "
                "numbers, as the lines before do. The file is cut short or damaged: fetch it again."
            )
        words.append(word)
        rows.append(values)
    return words, np.concatenate(rows)


def is_text_row(line: bytes, dim: int) -> bool:
    """Whether a line is a word and `dim` numbers."""
    fields = line.rsplit(None, dim)
    values = _numbers(b" ".join(fields[1:])) if len(fields) == dim + 1 else None
    return values is not None and values.size == dim
