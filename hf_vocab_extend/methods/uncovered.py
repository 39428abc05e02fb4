"""Counts for tokens that no pair covers, from the covered tokens that begin with them or that they are made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..resources.alignment.ragged import places_of
from ..vocab.canonical import CanonicalVocab
from .distribution import PieceCounts
from .mapped_pieces import Strings, mapped_pieces, spelled, token_strings, whole_characters

_BLOCK = 1 << 22
_THOUSAND = 1000

SPELLINGS: dict[str, Callable[[CanonicalVocab, np.ndarray], Strings]] = {"text": spelled, "token": token_strings}
"""How tokens are compared, by the name of the option."""


def cover(
    counts: PieceCounts,
    vocab: CanonicalVocab,
    queries: np.ndarray,
    boost: np.ndarray,
    *,
    spelling: str = "text",
    whole: bool = False,
) -> PieceCounts:
    """Give uncovered tokens the mean of the distributions of related ones.

    Args:
        counts: Counts of all target ids; those of ids with any count are related to others.
        vocab: The target vocabulary.
        queries: Target ids without a count, ascending, int64.
        boost: Factor of each source id before a distribution is scaled to sum 1, float64, shape `(n_source,)`.
        spelling: A name of :data:`SPELLINGS`: ``text`` compares bytes and places in a word, ``token`` the tokens as
            the tokenizer writes them.
        whole: Cut to whole numbers out of 1000, at least 1, as the package ``trans-tokenizers`` does.

    Returns:
        Counts over all target ids; only rows of queries have entries.
    """
    covered = np.flatnonzero(np.diff(counts.offsets))
    read = SPELLINGS[spelling]
    inner = whole_characters(vocab, covered) if spelling == "text" else None
    parts = mapped_pieces(read(vocab, queries), read(vocab, covered), inner)
    mass = counts.mass
    sizes = np.diff(counts.offsets)[covered][parts.piece]
    ends = np.cumsum(sizes)
    result = counts.keep(np.zeros(len(counts), bool))
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _BLOCK, "right")))
        pieces = covered[parts.piece[start:stop]]
        places, _ = places_of(counts.offsets, pieces)
        columns = counts.columns[places]
        owner = np.repeat(pieces, sizes[start:stop])
        amounts = counts.counts[places] * boost[columns]
        if whole:
            amounts = np.maximum(1, np.floor(_THOUSAND * amounts / mass[owner]))
        else:
            amounts = amounts / mass[owner]
        result = result.plus(np.repeat(queries[parts.query[start:stop]], sizes[start:stop]), columns, amounts)
        start = stop
    return result


__all__ = ["SPELLINGS", "cover"]
