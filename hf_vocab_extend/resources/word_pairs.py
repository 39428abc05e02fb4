"""Pairs of words that translate each other, from counts of translations."""

from __future__ import annotations

import numpy as np

from ..vocab.canonical import CanonicalVocab
from .alignment.counts import UnitCounts
from .alignment.units import Units


def translation_pairs(
    counts: UnitCounts, source: CanonicalVocab, target: CanonicalVocab, *, min_count: float = 3.0
) -> list[tuple[str, str]]:
    """Return the words that are each other's most frequent translation.

    Args:
        counts: How often words translate each other.
        source: Vocabulary of the source side's tokenizer.
        target: Vocabulary of the target side's.
        min_count: Pairs that were counted less often (mean of both directions) are left out.

    Returns:
        ``(source_word, target_word)``, the most frequent first.
    """
    both = (counts.forward > 0).any() and (counts.backward > 0).any()
    found = counts.counts / 2 if both else counts.counts
    best = _is_best(counts.source_index, found, len(counts.source)) & _is_best(
        counts.target_index, found, len(counts.target)
    )
    kept = np.flatnonzero(best & (found >= min_count))
    kept = kept[np.argsort(-found[kept], kind="stable")]
    left = unit_texts(counts.source, counts.source_index[kept], source)
    right = unit_texts(counts.target, counts.target_index[kept], target)
    return [pair for pair in zip(left, right, strict=True) if all(pair)]


def _is_best(owners: np.ndarray, values: np.ndarray, n_owners: int) -> np.ndarray:
    """Whether an entry has the largest value of its owner, the first of equal ones, bool, shape of ``values``."""
    order = np.lexsort((np.arange(len(values)), -values, owners))
    first = np.full(n_owners, -1, np.int64)
    sorted_owners = owners[order]
    starts = np.flatnonzero(np.diff(sorted_owners, prepend=-1))
    first[sorted_owners[starts]] = order[starts]
    return first[owners] == np.arange(len(values))


def unit_texts(units: Units, chosen: np.ndarray, vocab: CanonicalVocab) -> list[str]:
    """Return the text of some units without spaces around it; it is empty where the bytes are no whole characters."""
    texts = []
    for unit in chosen.tolist():
        pieces = units.pieces[units.offsets[unit] : units.offsets[unit + 1]].tolist()
        try:
            texts.append(b"".join(vocab.raw[piece] for piece in pieces).decode("utf-8").strip())
        except UnicodeDecodeError:
            texts.append("")
    return texts
