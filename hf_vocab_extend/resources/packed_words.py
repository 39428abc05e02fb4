"""Millions of words as one run of bytes, so that they can be mapped from a file and cost no object each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

_WORDS_PER_BLOCK = 1 << 16
_LABEL = 8  # letters of a label that fit into one number


class PackedWords(Sequence[str]):
    """A read-only sequence of strings, decoded from UTF-8 when they are asked for."""

    def __init__(self, text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Keep references to arrays, which may be memory maps.

        Args:
            text: UTF-8, uint8, shape `(n_bytes,)`.
            starts: Where each word begins in the text, int64, shape `(n,)`.
            ends: Where it ends, int64, shape `(n,)`.
        """
        self.text, self.starts, self.ends = text, starts, ends

    @classmethod
    def of(cls, words: Iterable[bytes]) -> PackedWords:
        """Pack encoded words."""
        words = list(words)
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, words), np.int64, len(words)), out=offsets[1:])
        return cls(np.frombuffer(b"".join(words), np.uint8), offsets[:-1], offsets[1:])

    @classmethod
    def concatenate(cls, parts: Sequence[PackedWords]) -> PackedWords:
        """Return the words of several sequences, one after the other."""
        shifts = np.cumsum([0, *(len(part.text) for part in parts)]).tolist()
        return cls(
            np.concatenate([part.text for part in parts]),
            np.concatenate([part.starts + shift for part, shift in zip(parts, shifts, strict=False)]),
            np.concatenate([part.ends + shift for part, shift in zip(parts, shifts, strict=False)]),
        )

    def __len__(self) -> int:
        """Number of words."""
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> PackedWords: ...

    def __getitem__(self, index: int | slice) -> str | PackedWords:
        """Return one word, or a view of some."""
        if isinstance(index, slice):
            return PackedWords(self.text, self.starts[index], self.ends[index])
        return self.text[self.starts[index] : self.ends[index]].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        """Yield the words in order, block by block."""
        for first in range(0, len(self), _WORDS_PER_BLOCK):
            starts, ends = (part[first : first + _WORDS_PER_BLOCK] for part in (self.starts, self.ends))
            low = int(starts.min())
            high = int(ends.max())
            if high - low > 4 * int((ends - starts).sum()) + _WORDS_PER_BLOCK:  # words far apart: one by one
                yield from (self[place] for place in range(first, first + len(starts)))
                continue
            raw = self.text[low:high].tobytes()
            for start, end in zip((starts - low).tolist(), (ends - low).tolist(), strict=True):
                yield raw[start:end].decode("utf-8")

    def select(self, places: np.ndarray) -> PackedWords:
        """Return a view of the words at some places, in their order."""
        return PackedWords(self.text, self.starts[places], self.ends[places])


def is_utf8(word: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        word.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def repeated_places(words: Sequence[str], groups: np.ndarray | None = None) -> np.ndarray:
    """Return the places of the words that occurred before, int64, ascending.

    Args:
        words: Words, length `n`.
        groups: Words count as equal only within one group, integers, shape `(n,)`; None for a single group.
    """
    codes = np.fromiter(map(hash, words), np.int64, len(words))  # equal words are told by them without an object each
    if groups is not None:
        codes = codes ^ (groups.astype(np.int64) * np.int64(0x9E3779B97F4A7C1))
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    seen: set[tuple[int, str]] = set()
    again = []
    for place in np.unique(np.concatenate([order[same], order[same + 1]])).tolist():
        key = (0 if groups is None else int(groups[place]), words[place])
        if key in seen:
            again.append(place)
        seen.add(key)
    return np.asarray(again, np.int64)


def number_labels(labels: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Number a few short strings that occur again and again, as languages do.

    Args:
        labels: Strings, shape `(n,)`.

    Returns:
        The different ones, in their order, and the number of each label among them, int64, shape `(n,)`.
    """
    if labels.dtype.itemsize > 4 * _LABEL or not labels.dtype.itemsize:
        names, numbers = np.unique(labels, return_inverse=True)
        return [str(name) for name in names], numbers.astype(np.int64)
    try:  # whole numbers are sorted ten times as fast as strings
        codes = labels.astype(f"S{_LABEL}").view(">u8")
    except UnicodeEncodeError:
        return number_labels(labels.astype(f"U{_LABEL + 1}"))
    known, numbers = np.unique(codes.astype(np.uint64), return_inverse=True)
    return known.astype(">u8").view(f"S{_LABEL}").astype(np.str_).tolist(), numbers.astype(np.int64)
