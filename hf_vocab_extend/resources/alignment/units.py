"""Units: what an aligner aligns. A word or a token, held as token ids of its own side's tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .ragged import offsets_of, take_rows

_SEEDS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_WORD = (1 << 64) - 1


@dataclass(frozen=True, eq=False)
class Units:
    """Unique units of one side.

    Attributes:
        offsets: Where each unit's pieces begin, int64, shape `(n_units + 1,)`.
        pieces: Token ids in reading order, int32, shape `(offsets[-1],)`.
        frequency: How often each unit occurs in the text (1 in a dictionary), int64, shape `(n_units,)`.
    """

    offsets: np.ndarray
    pieces: np.ndarray
    frequency: np.ndarray

    def __len__(self) -> int:
        """Number of units."""
        return len(self.frequency)

    @property
    def lengths(self) -> np.ndarray:
        """Number of pieces of each unit, int64, shape `(n_units,)`."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> Units:
        """Return some of the units, in the order given, shape `(n,)`."""
        pieces, offsets = take_rows(self.pieces, self.offsets, rows)
        return Units(offsets, pieces, self.frequency[rows])


class UnitTable:
    """Gives every different sequence of pieces a number, in the order of first occurrence.

    Sequences are looked up by a 64-bit hash and then compared piece by piece, so two of them never share a number;
    should two hashes ever be equal, all are computed anew with another seed.
    """

    def __init__(self) -> None:
        self._seed = 0
        self._pieces, self._lengths = np.empty(0, np.int32), np.empty(0, np.int64)
        self._hashes, self._numbers = np.empty(0, np.uint64), np.empty(0, np.int64)  # ascending by hash

    def __len__(self) -> int:
        """How many different sequences there are."""
        return len(self._lengths)

    def add(self, pieces: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the number of each sequence; new ones get the next numbers.

        Args:
            pieces: Token ids, shape `(n_pieces,)`.
            offsets: Where each sequence begins, none of them empty, shape `(n + 1,)`.

        Returns:
            Int32, shape `(n,)`.
        """
        while True:
            numbers = self._look_up(pieces, offsets)
            if numbers is not None:
                return numbers.astype(np.int32)
            self._seed += 1
            self._index(self._hash(self._pieces, offsets_of(self._lengths)), np.arange(len(self)))

    def units(self, frequency: np.ndarray) -> Units:
        """Return all sequences with the given frequencies, int64, shape `(len(self),)`."""
        return Units(offsets_of(self._lengths), self._pieces, frequency)

    def _look_up(self, pieces: np.ndarray, offsets: np.ndarray) -> np.ndarray | None:
        """Return the numbers, or None (and nothing added) if two different sequences have the same hash."""
        hashes, first, inverse = np.unique(self._hash(pieces, offsets), return_index=True, return_inverse=True)
        if not len(self):
            known = np.full(len(hashes), -1, np.int64)
        else:
            place = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
            known = np.where(self._hashes[place] == hashes, self._numbers[place], -1)
        fresh = np.flatnonzero(known < 0)
        fresh = fresh[np.argsort(first[fresh], kind="stable")]
        known[fresh] = len(self) + np.arange(len(fresh))
        new_pieces, new_offsets = take_rows(pieces, offsets, first[fresh])
        all_pieces = np.concatenate([self._pieces, new_pieces.astype(np.int32)])
        all_lengths = np.concatenate([self._lengths, np.diff(new_offsets)])
        numbers = known[inverse]
        if not _equal(pieces, offsets, all_pieces, offsets_of(all_lengths), numbers):
            return None
        self._pieces, self._lengths = all_pieces, all_lengths
        if len(fresh):
            self._index(np.concatenate([self._hashes, hashes[fresh]]), np.concatenate([self._numbers, known[fresh]]))
        return numbers

    def _index(self, hashes: np.ndarray, numbers: np.ndarray) -> None:
        """Keep the hashes of all sequences in ascending order, with the number of each."""
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._numbers = hashes[order], numbers[order]

    def _hash(self, pieces: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return a number for each sequence: its pieces times the powers of an odd constant, modulo 2 ** 64."""
        if len(offsets) < 2:
            return np.empty(0, np.uint64)
        seed = _SEEDS[self._seed % len(_SEEDS)] + 2 * self._seed
        lengths = np.diff(offsets)
        powers = np.cumprod(np.full(int(lengths.max()), seed & _WORD, np.uint64))
        place = np.arange(len(pieces)) - np.repeat(offsets[:-1], lengths)
        spread = (pieces.astype(np.uint64) + np.uint64(1)) * np.uint64(0xFF51AFD7ED558CCD)
        spread ^= spread >> np.uint64(32)
        return np.add.reduceat(spread * powers[place], offsets[:-1])


def _equal(
    pieces: np.ndarray, offsets: np.ndarray, all_pieces: np.ndarray, all_offsets: np.ndarray, numbers: np.ndarray
) -> bool:
    """Whether every sequence is the one that its number stands for."""
    if not np.array_equal(np.diff(offsets), np.diff(all_offsets)[numbers]):
        return False
    return np.array_equal(pieces, take_rows(all_pieces, all_offsets, numbers)[0])


__all__ = ["UnitTable", "Units"]
