"""Rows of different lengths laid end to end: `flat`, and `offsets (n_rows + 1,)` that say where each row begins."""

from __future__ import annotations

import numpy as np


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return where each row begins and the last one ends, int64, shape `(n_rows + 1,)`."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def row_of(offsets: np.ndarray) -> np.ndarray:
    """Return the row that each place of the flat array belongs to, int64, shape `(offsets[-1],)`."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def places_of(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of some rows in the flat array, end to end, and the offsets of these rows among them.

    Args:
        offsets: Of all rows, int64, shape `(n_rows + 1,)`.
        rows: Which rows, in the order wanted, repetitions allowed, shape `(n,)`.
    """
    starts = offsets[rows]
    inner = offsets_of(offsets[rows + 1] - starts)
    return np.arange(inner[-1]) + np.repeat(starts - inner[:-1], np.diff(inner)), inner


def take_rows(flat: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return some rows, end to end, and their offsets."""
    places, inner = places_of(offsets, rows)
    return flat[places], inner
