"""The binary format of word2vec: two sizes, then each word, a space and its float32 numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

import numpy as np

from .._logging import progress_bar
from ..errors import InvalidTableError, VocabExtendWarning
from .readers import DAMAGED, open_binary
from .word_vector_tables import Block
from .word_vector_text import is_text_row

_BYTES_PER_BLOCK = 4 << 20
_LONGEST_WORD = 4096
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def binary_sizes(head: bytes) -> tuple[int, int, int] | None:
    """Tell word2vec's binary format by the first bytes of a file.

    Args:
        head: Enough bytes for the first line, a word and its vector.

    Returns:
        Number of words, of dimensions, and of the bytes of the first line; None for another format.
    """
    line, end, rest = head.partition(b"\n")
    fields = line.split()
    if not end or len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None
    n_words, dim = int(fields[0]), int(fields[1])
    _, space, numbers = rest.partition(b" ")
    numbers = numbers[: 4 * dim]
    if dim < 1 or not space or is_text_row(rest.partition(b"\n")[0], dim):
        return None
    try:
        numbers.decode("ascii")
    except UnicodeDecodeError:
        is_text = False
    else:
        is_text = _NO_TEXT.search(numbers) is None
    return None if is_text else (n_words, dim, len(line) + 1)


@dataclass
class _Stand:
    """Where the reading of a binary file stands."""

    name: str
    n_words: int
    width: int
    """Bytes of a vector."""
    start: int
    """At which byte the kept bytes begin."""
    kept: bytes = b""
    """Bytes that were read and not yet parsed."""
    n_read: int = 0
    """Words that were parsed."""


def binary_blocks(path: Path, name: str, limit: int | None, sizes: tuple[int, int, int]) -> Iterator[Block]:
    """Yield the words of a binary file, which may be compressed; with positions if it is not.

    Args:
        path: The file.
        name: What messages call it.
        limit: Yield no more words than that.
        sizes: What :func:`binary_sizes` gave.

    Raises:
        InvalidTableError: If the file is damaged or ends before its last word.
    """
    n_words, dim, start = sizes
    wanted = n_words if limit is None else min(limit, n_words)
    stand = _Stand(name, n_words, 4 * dim, start)
    try:
        with (
            open_binary(path) as file,
            progress_bar(desc="Read word vectors", unit=" words", total=wanted) as bar,
        ):
            mapped = _is_plain(path)
            file.read(start)
            while stand.n_read < wanted:
                block = _next_block(file, stand, wanted, mapped)
                yield block
                bar.update(len(block.words))
            if limit is None:
                _refuse_more(file, stand)
    except DAMAGED as error:
        raise InvalidTableError(
            f"{name} cannot be read past byte {stand.start} ({error or type(error).__name__}): it is cut short or "
            "damaged. Fetch it again."
        ) from error


def _is_plain(path: Path) -> bool:
    """Whether a file is not compressed: it begins with digits."""
    with path.open("rb") as file:
        return file.read(1).isdigit()


def _next_block(file: IO[bytes], stand: _Stand, wanted: int, mapped: bool) -> Block:
    """Read on and parse what is complete, at least one word.

    Raises:
        InvalidTableError: If the file ends within a word, or a word does not end.
    """
    words: list[bytes] = []
    starts: list[int] = []
    while not words:
        more = file.read(_BYTES_PER_BLOCK)  # a damaged first line may promise vectors that no memory holds
        raw = stand.kept + more
        at = 0
        while stand.n_read + len(words) < wanted:
            space = raw.find(b" ", at)
            if space < 0 or space + 1 + stand.width > len(raw):
                break
            words.append(raw[at:space].lstrip(b"\n"))  # the first word2vec ends each vector by a line end
            starts.append(space + 1)
            at = space + 1 + stand.width
        if not words:
            _refuse_end(stand, raw, more)
        stand.kept = raw
    if _NO_TEXT.search(b" ".join(words)):
        wrong = next(place for place, word in enumerate(words) if _NO_TEXT.search(word))
        _refuse_word(stand, stand.start + starts[wrong] - 1, stand.n_read + wrong)
    places = np.asarray(starts, np.int64)
    rows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(raw, np.uint8), stand.width)[places]
    positions = places + stand.start if mapped else None
    stand.kept, stand.start, stand.n_read = raw[at:], stand.start + at, stand.n_read + len(words)
    return Block(words, rows.view("<f4"), positions)


def _refuse_end(stand: _Stand, raw: bytes, more: bytes) -> None:
    """Raise if the file has ended or if what stands there cannot be a word."""
    space = raw.find(b" ")
    if (space if space >= 0 else len(raw)) > _LONGEST_WORD:
        _refuse_word(stand, stand.start, stand.n_read)
    if not more:
        raise InvalidTableError(
            f"{stand.name} ends at byte {stand.start + len(raw)}, within word {stand.n_read + 1} of the "
            f"{stand.n_words} that its first line promises. It is cut short: fetch it again."
        )


def _refuse_word(stand: _Stand, place: int, n_read: int) -> NoReturn:
    """Raise for bytes that are no word."""
    raise InvalidTableError(
        f"{stand.name} has no word at byte {place}, after {n_read} of the {stand.n_words} words that its first line "
        f"promises. It is damaged, or its vectors have not {stand.width // 4} dimensions as that line says."
    )


def _refuse_more(file: IO[bytes], stand: _Stand) -> None:
    """Warn if something follows the last word."""
    n_more = len(stand.kept.strip(b"\n"))
    while part := file.read(_BYTES_PER_BLOCK):
        n_more += len(part)
    if n_more:
        warnings.warn(
            f"{stand.name} goes on for {n_more} bytes after the {stand.n_words} words that its first line promises; "
            "they are not read. Correct the first line if there are more words.",
            VocabExtendWarning,
            stacklevel=2,
        )


@dataclass(frozen=True, eq=False)
class PositionedRows:
    """Vectors that begin anywhere in a file, read from there when they are asked for.

    Attributes:
        raw: The bytes of the file, mapped.
        positions: At which byte each vector begins, int64, shape `(n,)`.
        dim: Number of dimensions.
    """

    raw: np.ndarray
    positions: np.ndarray
    dim: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self.positions), self.dim

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Return the rows at some places, float32, shape `(n, dim)`."""
        windows = np.lib.stride_tricks.sliding_window_view(self.raw, 4 * self.dim)
        return np.ascontiguousarray(windows[self.positions[places]]).view("<f4")
