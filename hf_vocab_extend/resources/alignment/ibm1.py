"""IBM Model 1 (Brown et al. 1993): every unit is translated by itself, whatever stands around it."""

from __future__ import annotations

import torch

from .grid import Batch
from .lexicon import Lexicon, add_at, gather


def posteriors(batch: Batch, lexicon: Lexicon, *, reverse: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how likely each unit was made by each unit of the other side, and by the null word.

    Args:
        batch: The sentence pairs.
        lexicon: p(target | source), or p(source | target) if `reverse`.
        reverse: Whether the source side is explained by the target side.

    Returns:
        Shape `(n, source length, target length)` and `(n, length of the explained side)`.
    """
    null = gather(lexicon.null, batch.source if reverse else batch.target)
    cells = gather(lexicon.pairs, batch.pairs)
    total = cells.sum(2 if reverse else 1) + null
    cells /= total[:, :, None] if reverse else total[:, None, :]
    return cells, null / total


def expect(batch: Batch, forward: Lexicon, backward: Lexicon) -> None:
    """Add the expected counts of some sentence pairs to both directions."""
    for lexicon, units, reverse in ((forward, batch.target, False), (backward, batch.source, True)):
        cells, null = posteriors(batch, lexicon, reverse=reverse)
        add_at(lexicon.pair_counts, batch.pairs, cells)
        add_at(lexicon.null_counts, units, null)
