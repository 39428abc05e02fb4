"""What a network is trained by. Each takes predictions and targets, `(n, width)`, and gives a mean over the batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def contrastive(predicted: torch.Tensor, target: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Return the cross-entropy of finding each prediction's own target among those of the batch, by cosine."""
    scores = functional.normalize(predicted, dim=1) @ functional.normalize(target, dim=1).T / temperature
    return functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


def absolute(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute error over the mean absolute value of the targets."""
    return (predicted - target).abs().mean() / target.abs().mean().clamp(min=1e-12)


def published(
    predicted: torch.Tensor, target: torch.Tensor, *, temperature: float, share: float = 0.1
) -> torch.Tensor:
    """Return what HyperOFA minimises: a share of the contrastive loss and the rest of the absolute error."""
    found = contrastive(predicted, target, temperature=temperature)
    return share * found + (1 - share) * absolute(predicted, target)


def cosine(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return 1 less the mean cosine."""
    return 1 - functional.cosine_similarity(predicted, target, dim=1).mean()


def squared(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error over the mean square of the targets."""
    return (predicted - target).square().mean() / target.square().mean().clamp(min=1e-12)


def both(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the sum of the cosine and the squared loss: direction, and a length."""
    return cosine(predicted, target) + squared(predicted, target)


LOSSES: dict[str, Callable[[float], Loss]] = {
    "published": lambda temperature: partial(published, temperature=temperature),
    "contrastive": lambda temperature: partial(contrastive, temperature=temperature),
    "absolute": lambda temperature: absolute,
    "cosine": lambda temperature: cosine,
    "squared": lambda temperature: squared,
    "cosine_squared": lambda temperature: both,
}
"""Loss by the name of the option, made for a temperature, which only the contrastive ones have."""

__all__ = ["LOSSES", "Loss"]
