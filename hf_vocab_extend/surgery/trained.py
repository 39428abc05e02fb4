"""Which rows of a table were trained, so that means and distributions are taken over those only.

Three kinds of rows are known from the vocabulary to be untrained: rows beyond it (padding to a round number), holes in
the ids, and tokens reserved for later (``[unused1]``, ``<unused5>``). Real ones hold more under ordinary names:
tokens that the normalizer makes unreachable, or that the training text never held. Those stayed where the first kinds
stayed, close together around one vector and away from everything else, and are found by that distance.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from ..vocab.canonical import CanonicalVocab, TokenKind

_ROWS_PER_BLOCK = 1 << 14
_MIN_REFERENCE = 8
_REFERENCE_QUANTILE = 0.9
"""Share of the known untrained rows that set the radius; the rest may have been put to use under the same name."""
_MAX_RADIUS = 0.5
"""Radius over the median distance of ordinary rows, above which the known untrained rows are no cluster."""
_MAX_SHARE = 0.5
"""Share of ordinary rows that may be found untrained; above it the finding is not believed."""


@torch.no_grad()
def trained_rows(table: torch.Tensor, vocab: CanonicalVocab) -> np.ndarray:
    """Say which rows may enter a mean.

    Left out are rows beyond the vocabulary, holes, reserved tokens, zero rows, ordinary tokens that lie within the
    cluster of those, and special tokens: they are trained, but on positions rather than on text, and their norms are
    often several times those of words. The statistical part only runs with at least 8 known untrained rows that form
    a cluster: the radius that holds 90 % of them around their coordinate-wise median must be less than half the
    median distance of the ordinary tokens from it. On all-MiniLM-L6-v2 the radius is 0.21 and that distance 1.18.

    Args:
        table: Input table, shape `(n_rows, width)`, any float type.
        vocab: The vocabulary of its first rows.

    Returns:
        Bool, shape `(n_rows,)`. If nothing would be left, all rows of tokens that are not zero; if these are none,
        all rows.
    """
    n_rows = table.shape[0]
    kinds = np.full(n_rows, TokenKind.HOLE, np.uint8)
    kinds[: len(vocab)] = vocab.kinds[:n_rows]
    nonzero = np.concatenate([block.any(dim=1).cpu().numpy() for block in _blocks(table)])
    ordinary = nonzero & np.isin(kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    reference = nonzero & np.isin(kinds, (TokenKind.HOLE, TokenKind.UNUSED))
    trained = ordinary & ~_near_untrained(table, reference, ordinary)
    named = nonzero & (kinds != TokenKind.HOLE)
    return next((rows for rows in (trained, named) if rows.any()), np.ones(n_rows, bool))


def _near_untrained(table: torch.Tensor, reference: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
    """Return which ordinary rows lie within the cluster of the known untrained ones, bool, shape `(n_rows,)`."""
    none = np.zeros(len(reference), bool)
    if reference.sum() < _MIN_REFERENCE or not ordinary.any():
        return none
    ids = torch.from_numpy(np.flatnonzero(reference)).to(table.device)
    centre = table.index_select(0, ids).float().median(dim=0).values
    distances = np.concatenate([(block.float() - centre).norm(dim=1).cpu().numpy() for block in _blocks(table)])
    radius = float(np.quantile(distances[reference], _REFERENCE_QUANTILE))
    near = ordinary & (distances <= radius)
    is_cluster = radius < _MAX_RADIUS * float(np.median(distances[ordinary]))
    return near if is_cluster and near.sum() <= _MAX_SHARE * ordinary.sum() else none


def _blocks(table: torch.Tensor) -> Iterator[torch.Tensor]:
    """Cut a table into blocks of rows; an empty one gives one empty block."""
    return iter(table.split(_ROWS_PER_BLOCK))
