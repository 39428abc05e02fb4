"""From counts of units (words) to counts of their pieces (tokens): which links count, and how they are dealt out.

Remy et al. 2024, arXiv 2408.04303, section 3: a pair of words counts for the pairs of their tokens, in reading order,
or each with each. Every target token of a word gets the word's whole count, however it is dealt out over the source.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidTableError
from ..resources.alignment.ragged import offsets_of, row_of

if TYPE_CHECKING:
    from ..resources.alignment.counts import UnitCounts

_BLOCK = 1 << 22  # entries that are dealt out together: about 300 MiB at a time


@dataclass(frozen=True, eq=False)
class PieceCounts:
    """How often a target token is translated by a source token, in CSR form by target id.

    Attributes:
        offsets: Start of each target id in ``columns``, int64, shape `(n_target + 1,)`.
        columns: Source ids, int32, shape `(n_entries,)`, ascending within a target id.
        counts: Positive counts, float64, shape `(n_entries,)`.
        n_source: Number of source ids.
    """

    offsets: np.ndarray
    columns: np.ndarray
    counts: np.ndarray
    n_source: int

    @classmethod
    def from_entries(
        cls, rows: np.ndarray, columns: np.ndarray, counts: np.ndarray, *, n_target: int, n_source: int
    ) -> PieceCounts:
        """Build from triplets in any order; counts of one pair are added up, what is not positive is dropped.

        Args:
            rows: Target id of each entry, shape `(n_entries,)`.
            columns: Source id of each entry, shape `(n_entries,)`.
            counts: Count of each entry, shape `(n_entries,)`.
            n_target: Number of target ids.
            n_source: Number of source ids.
        """
        keys, summed = _summed(np.asarray(rows, np.int64) * n_source + columns, np.asarray(counts, np.float64))
        return cls._from_sums(keys, summed, n_target, n_source)

    @classmethod
    def _from_sums(cls, keys: np.ndarray, summed: np.ndarray, n_target: int, n_source: int) -> PieceCounts:
        """Build from keys ``target id * n_source + source id``, ascending, each once, and their counts."""
        keys, summed = keys[summed > 0], summed[summed > 0]
        lengths = np.bincount(keys // max(n_source, 1), minlength=n_target)
        return cls(offsets_of(lengths), (keys % max(n_source, 1)).astype(np.int32), summed, n_source)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.columns)

    @property
    def n_target(self) -> int:
        """Number of target ids."""
        return len(self.offsets) - 1

    @property
    def rows(self) -> np.ndarray:
        """Target id of each entry, int64, shape `(n_entries,)`."""
        return row_of(self.offsets)

    @property
    def mass(self) -> np.ndarray:
        """Sum of the counts of each target id, float64, shape `(n_target,)`."""
        return np.bincount(self.rows, weights=self.counts, minlength=self.n_target)

    @property
    def entropy(self) -> np.ndarray:
        """Entropy of p(source | target) in nats, 0 where one source token has it all, float64, shape `(n_target,)`."""
        shares = self.counts / self.mass[self.rows]
        return np.bincount(self.rows, weights=-shares * np.log(shares), minlength=self.n_target)

    def keep(self, mask: np.ndarray) -> PieceCounts:
        """Return only the entries where the mask, bool, shape `(n_entries,)`, is set."""
        before = np.concatenate([[0], np.cumsum(mask)])
        return PieceCounts(before[self.offsets], self.columns[mask], self.counts[mask], self.n_source)

    def plus(self, rows: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> PieceCounts:
        """Return these counts and more entries, added up."""
        return PieceCounts.from_entries(
            np.concatenate([self.rows, rows]),
            np.concatenate([self.columns, columns]),
            np.concatenate([self.counts, counts]),
            n_target=self.n_target,
            n_source=self.n_source,
        )

    def scaled(self, factor: float) -> PieceCounts:
        """Return these counts times a positive number."""
        return PieceCounts(self.offsets, self.columns, self.counts * factor, self.n_source)

    def weighted(self, factors: np.ndarray) -> PieceCounts:
        """Return these counts times a factor of each source id, shape `(n_source,)`; sums stay as they are."""
        changed = PieceCounts(self.offsets, self.columns, self.counts * factors[self.columns], self.n_source)
        counts = changed.counts * (self.mass[self.rows] / changed.mass[self.rows])
        return PieceCounts(self.offsets, self.columns, counts, self.n_source)

    def shares(self) -> PieceCounts:
        """Return p(source | target): each target id's counts divided by their sum."""
        return PieceCounts(self.offsets, self.columns, self.counts / self.mass[self.rows], self.n_source)


DIRECTIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sum": lambda forward, backward: forward + backward,
    "forward": lambda forward, backward: forward,
    "backward": lambda forward, backward: backward,
    "minimum": np.minimum,
    "geometric": lambda forward, backward: np.sqrt(forward * backward),
}
"""One count of a link from those of both directions, by the name of the option."""


@dataclass(frozen=True, eq=False)
class Links:
    """Links of units that count.

    Attributes:
        source_index: Source unit of each link, int32, shape `(n,)`.
        target_index: Target unit of each link, int32, shape `(n,)`.
        counts: Positive counts, float64, shape `(n,)`.
    """

    source_index: np.ndarray
    target_index: np.ndarray
    counts: np.ndarray


def choose_links(counts: UnitCounts, direction: str = "sum", min_count: float = 0.0, min_share: float = 0.0) -> Links:
    """Return the links that are frequent enough, and a large enough part of their target unit's translations.

    Args:
        counts: Counts of units.
        direction: A name of :data:`DIRECTIONS`.
        min_count: A link needs at least this count.
        min_share: A link needs at least this share of the sum of its target unit's counts.
    """
    values = DIRECTIONS[direction](counts.forward, counts.backward)
    mass = np.bincount(counts.target_index, weights=values, minlength=len(counts.target))
    chosen = (values > 0) & (values >= min_count) & (values >= min_share * mass[counts.target_index])
    return Links(counts.source_index[chosen], counts.target_index[chosen], values[chosen])


def _in_order(counts: np.ndarray, n_source: np.ndarray, n_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeat each side's pieces to the least common multiple of both lengths and pair them by position."""
    return np.lcm(n_source, n_target), counts * np.gcd(n_source, n_target) / n_source


def _all_to_all(counts: np.ndarray, n_source: np.ndarray, n_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair each piece of one side with each of the other."""
    return n_source * n_target, counts / n_source


def _halves(counts: np.ndarray) -> np.ndarray:
    """Return half of each count as the package cuts it: whole numbers, at least 1."""
    return np.maximum(1, np.floor(counts) // 2)


@dataclass(frozen=True)
class _Step:
    """One way to pair the pieces of two units, and what each pair of pieces gets."""

    all_to_all: bool
    share: float = 1.0
    whole: bool = False
    """Whether counts are cut to whole numbers as the package does."""

    def amounts(self, counts: np.ndarray, n_source: np.ndarray, n_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the number of pairs of pieces of each link, and the count that each of them gets."""
        pair = _all_to_all if self.all_to_all else _in_order
        if not self.whole:
            return pair(counts * self.share, n_source, n_target)
        single = (n_source == 1) & (n_target == 1)
        # two pieces alone are one pair with one whole count: the first of both steps gives it
        counts = np.where(single, np.floor(counts) if self.all_to_all else 0.0, _halves(counts))
        n_pairs, amounts = pair(counts, n_source, n_target)
        return n_pairs, np.where(single, counts, np.maximum(1, np.floor(amounts + 1e-9)))


DISTRIBUTIONS: dict[str, tuple[_Step, ...]] = {
    "in_order": (_Step(all_to_all=False),),
    "all_to_all": (_Step(all_to_all=True),),
    "both": (_Step(all_to_all=True, share=0.5), _Step(all_to_all=False, share=0.5)),
    "package": (_Step(all_to_all=True, whole=True), _Step(all_to_all=False, whole=True)),
}
"""How the count of two units is dealt out to their pieces, by the name of the option."""


def distribute(
    counts: UnitCounts, how: str, links: Links | None = None, *, n_target: int, n_source: int
) -> PieceCounts:
    """Deal the counts of units out to their pieces.

    Args:
        counts: Counts of units.
        how: A name of :data:`DISTRIBUTIONS`. ``in_order``: both lists of pieces are stretched to the same length, by
            repeating each piece, and paired by position. ``all_to_all``: each piece with each. ``both``: half of the
            count one way, half the other. ``package``: as ``both`` but in whole numbers, halves rounded down and no
            part below 1, as the package ``trans-tokenizers`` computes.
        links: Which links count, and how much; by default all, both directions summed.
        n_target: Number of target ids.
        n_source: Number of source ids.

    Raises:
        InvalidTableError: If a unit has a piece outside these numbers.
    """
    links = links if links is not None else choose_links(counts)
    _check_ids(counts.source.pieces, n_source, "source")
    _check_ids(counts.target.pieces, n_target, "target")
    parts = [_deal(counts, links, step, n_source) for step in DISTRIBUTIONS[how]]
    return PieceCounts._from_sums(*_joined(parts), n_target, n_source)


def _deal(counts: UnitCounts, links: Links, step: _Step, n_source: int) -> tuple[np.ndarray, np.ndarray]:
    """Return keys ``target id * n_source + source id`` and their counts, each once, in blocks of bounded size."""
    source_lengths = counts.source.lengths[links.source_index]
    target_lengths = counts.target.lengths[links.target_index]
    n_pairs, amounts = step.amounts(links.counts, source_lengths, target_lengths)
    ends = np.cumsum(n_pairs)
    found: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.int64), np.zeros(0))]
    start = 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, "right")))
        part = slice(start, stop)
        link = np.repeat(np.arange(start, stop), n_pairs[part])
        place = np.arange(len(link)) - np.repeat(ends[part] - n_pairs[part] - before, n_pairs[part])
        # in order: place * length // lcm repeats each piece lcm / length times
        length = target_lengths[link]
        if step.all_to_all:
            target_place, source_place = place % length, place // length
        else:
            target_place = place * length // n_pairs[link]
            source_place = place * source_lengths[link] // n_pairs[link]
        targets = counts.target.pieces[counts.target.offsets[links.target_index[link]] + target_place]
        sources = counts.source.pieces[counts.source.offsets[links.source_index[link]] + source_place]
        found.append(_summed(targets.astype(np.int64) * n_source + sources, amounts[link]))
        start = stop
    return _joined(found)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add up several lists of keys and counts, each ascending with every key once."""
    filled = [part for part in parts if len(part[0])]
    if len(filled) < 2:
        return filled[0] if filled else parts[0]
    return _summed(*(np.concatenate(arrays) for arrays in zip(*filled, strict=True)))


def _summed(keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each key once, ascending, and the sum of its values."""
    unique, inverse = np.unique(keys, return_inverse=True)
    return unique, np.bincount(inverse, weights=values, minlength=len(unique)).astype(np.float64)


def _check_ids(pieces: np.ndarray, n: int, side: str) -> None:
    """Raise if a piece is no id of the vocabulary."""
    if len(pieces) and not 0 <= int(pieces.min()) <= int(pieces.max()) < n:
        raise InvalidTableError(
            f"The counts hold the {side} id {int(pieces.max())}, and the {side} vocabulary has {n} ids. "
            "Count the text with these tokenizers."
        )


__all__ = ["DIRECTIONS", "DISTRIBUTIONS", "Links", "PieceCounts", "choose_links", "distribute"]
