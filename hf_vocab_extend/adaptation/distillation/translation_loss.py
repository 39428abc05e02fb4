"""How far sentences are from their translations, with gradients for the sentences."""

from __future__ import annotations

import torch
from torch.nn import functional

SAME = 0.95
"""Cosine of two source vectors from which on their sentences count as the same one, not as each other's contrast."""


def translation_loss(
    found: torch.Tensor, bank: torch.Tensor, partners: torch.Tensor, *, temperature: float, contrast: float
) -> torch.Tensor:
    """Return one minus the mean cosine, plus the contrast in both directions.

    Sentence to translation: a softmax over the whole bank, which holds hard negatives at no cost, since its vectors do
    not change. Translation to sentence: a softmax over the batch.

    Args:
        found: Unit vectors of the sentences of a batch, shape `(b, width)`.
        bank: Unit vectors of translations, shape `(n, width)`.
        partners: Row of each sentence's own translation, int64, shape `(b,)`.
        temperature: Cosines are divided by it.
        contrast: Weight of the contrast.
    """
    wanted = bank[partners]
    loss = 1 - (found * wanted).sum(1).mean()
    if not contrast:
        return loss
    rows = torch.arange(len(found), device=found.device)
    same = wanted @ bank.T > SAME
    same[rows, partners] = False
    forward = functional.cross_entropy((found @ bank.T).masked_fill(same, -torch.inf) / temperature, partners)
    twins = same[:, partners]
    twins[rows, rows] = False
    backward = functional.cross_entropy((wanted @ found.T).masked_fill(twins, -torch.inf) / temperature, rows)
    return loss + contrast * (forward + backward) / 2


__all__ = ["translation_loss"]
