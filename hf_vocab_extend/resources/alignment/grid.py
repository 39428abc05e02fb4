"""The possible links of a text, laid out for batched work: which unit pair stands in each cell of a sentence pair."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from .bitext import Bitext

_CHUNK = 1 << 22  # cells whose keys are sorted together


@dataclass(frozen=True, eq=False)
class Batch:
    """Sentence pairs of similar lengths, padded to a common shape.

    Attributes:
        pairs: Index into the grid's unit pairs, int32 `(n, source length, target length)`; the number of unit pairs
            where there is no unit.
        source: Source units, int32 `(n, source length)`; the number of source units where there is none.
        target: Target units, int32 `(n, target length)`; the number of target units where there is none.
    """

    pairs: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """Every possible link of a text.

    Attributes:
        n_source: Number of source units.
        n_target: Number of target units.
        source_of: Source unit of each unit pair that occurs, int32 `(n_pairs,)`, ascending.
        target_of: Target unit of each, int32 `(n_pairs,)`, ascending within a source unit.
    """

    n_source: int
    n_target: int
    source_of: np.ndarray
    target_of: np.ndarray
    _cells: np.ndarray
    _source: list[np.ndarray]
    _target: list[np.ndarray]

    @property
    def n_pairs(self) -> int:
        """Number of different unit pairs that share a sentence pair."""
        return len(self.source_of)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self._source)

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """Give the batches, always in the same order."""
        start = 0
        for source, target in zip(self._source, self._target, strict=True):
            shape = (len(source), source.shape[1], target.shape[1])
            end = start + shape[0] * shape[1] * shape[2]
            pairs = torch.from_numpy(self._cells[start:end]).view(shape)
            yield Batch(*(array.to(device) for array in (pairs, torch.from_numpy(source), torch.from_numpy(target))))
            start = end


def build_grid(bitext: Bitext, chosen: np.ndarray, cells_per_batch: int) -> Grid:
    """Lay out sentence pairs.

    Args:
        bitext: The text.
        chosen: Which of its pairs, none of them with an empty side.
        cells_per_batch: Most cells (possible links and padding) of a batch of more than one pair.
    """
    n_source, n_target = len(bitext.source), len(bitext.target)
    source_lengths = np.diff(bitext.source_offsets)[chosen]
    target_lengths = np.diff(bitext.target_offsets)[chosen]
    sources, targets = [], []
    for rows in _batch_rows(source_lengths, target_lengths, cells_per_batch):
        sources.append(_padded(bitext.source_ids, bitext.source_offsets, chosen[rows], n_source))
        targets.append(_padded(bitext.target_ids, bitext.target_offsets, chosen[rows], n_target))
    keys, cells = _number_pairs(sources, targets, n_source, n_target)
    source_of, target_of = np.divmod(keys, max(n_target, 1))
    return Grid(n_source, n_target, source_of.astype(np.int32), target_of.astype(np.int32), cells, sources, targets)


def _batch_rows(source_lengths: np.ndarray, target_lengths: np.ndarray, cells: int) -> Iterator[np.ndarray]:
    """Give rows of similar lengths; the last batch of a bucket may be small."""
    # an eighth of an octave wide at most: the padding of the source side stays under an eighth
    width = np.maximum(1 << np.maximum(np.log2(np.maximum(source_lengths, 1)).astype(np.int64) - 3, 0), 1)
    buckets = -(-source_lengths // width) * width
    order = np.lexsort((np.arange(len(buckets)), target_lengths, buckets))
    edges = np.flatnonzero(np.diff(buckets[order], prepend=-1, append=-1))
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        place, height = int(start), int(buckets[order[start]])
        while place < stop:

            def size(end: int, place: int = place, height: int = height) -> int:
                return (end - place) * height * int(target_lengths[order[end - 1]])

            ends = range(place + 2, int(stop) + 1)
            end = place + 1 + bisect_right(ends, cells, key=size)
            yield order[place:end]
            place = end


def _padded(ids: np.ndarray, offsets: np.ndarray, rows: np.ndarray, filler: int) -> np.ndarray:
    """Return some rows of a ragged array as a rectangle, int32."""
    lengths = offsets[rows + 1] - offsets[rows]
    columns = np.arange(int(lengths.max()))
    inside = columns < lengths[:, None]
    result = np.full(inside.shape, filler, np.int32)
    result[inside] = ids[(offsets[rows][:, None] + columns)[inside]]
    return result


def _number_pairs(
    sources: list[np.ndarray], targets: list[np.ndarray], n_source: int, n_target: int
) -> tuple[np.ndarray, np.ndarray]:
    """Number the unit pairs that occur.

    Returns:
        Their keys, `source * n_target + target`, sorted, int64; and the number of each cell's, int32, batch by batch.
    """
    sizes = [source.size * target.shape[1] for source, target in zip(sources, targets, strict=True)]
    cells = np.zeros(sum(sizes), np.int32)
    filler = n_source * n_target
    chunks: list[tuple[int, int, np.ndarray]] = []
    pending: list[np.ndarray] = []
    start = filled = 0
    for index, (source, target) in enumerate(zip(sources, targets, strict=True)):
        keys = source.astype(np.int64)[:, :, None] * n_target + target[:, None, :]
        keys[(source == n_source)[:, :, None] | (target == n_target)[:, None, :]] = filler
        pending.append(keys.ravel())
        filled += keys.size
        if filled - start >= _CHUNK or index == len(sources) - 1:
            found, cells[start:filled] = _distinct(np.concatenate(pending), filler)
            chunks.append((start, filled, found))
            start, pending = filled, []
    keys = np.sort(np.concatenate([found for _, _, found in chunks] or [np.zeros(0, np.int64)]))
    keys = keys[_firsts(keys) & (keys < filler)]
    for first, last, found in chunks:
        # the filler lies beyond all keys and so gets their number
        cells[first:last] = np.searchsorted(keys, found).astype(np.int32)[cells[first:last]]
    return keys, cells


def _distinct(keys: np.ndarray, largest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the different keys in ascending order, and the place of each key among them.

    A key and its position share one number where they fit, which sorts several times faster than `np.unique` does.
    """
    bits = len(keys).bit_length()
    if largest.bit_length() + bits > 63:
        return np.unique(keys, return_inverse=True)
    packed = np.sort((keys << bits) | np.arange(len(keys)))
    ordered = packed >> bits
    new = _firsts(ordered)
    places = np.empty(len(keys), np.int32)
    places[packed & ((1 << bits) - 1)] = np.cumsum(new, dtype=np.int32) - 1
    return ordered[new], places


def _firsts(ordered: np.ndarray) -> np.ndarray:
    """Return where a sorted array shows a value for the first time, bool."""
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return new
