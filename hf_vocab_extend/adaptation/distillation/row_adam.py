"""Adam for tables of which each step touches a few rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class RowAdam:
    """Adam that moves rows with a gradient only, each by its own count of steps.

    A row that a batch does not hold stays where it is, where plain Adam moves it on by its momentum; and the first
    step of a rare row is corrected for its own age, not for the table's.

    Attributes:
        moments: First and second moments of each parameter, both of its shape: all the state that there is, beside
            one count for each row.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        anchor: float = 0.0,
    ) -> None:
        """Take the rows at their start.

        Args:
            parameters: Tables, each of shape `(n, width)`.
            learning_rate: Step size of a whole step; see ``scale`` of :meth:`step`.
            betas: Decay of the moments.
            eps: Added to the root of the second moment.
            anchor: Share of the way back to its start that a row of a single sighting goes at each of its steps,
                in units of the step size; a row of n sightings goes `1 / sqrt(n)` of it.
        """
        self.parameters, self.learning_rate, self.betas, self.eps = list(parameters), learning_rate, betas, eps
        self.anchor = anchor
        self.moments = [(torch.zeros_like(item), torch.zeros_like(item)) for item in self.parameters]
        self.steps = [torch.zeros(len(item), device=item.device) for item in self.parameters]
        self._start = [item.detach().clone() for item in self.parameters] if anchor else []

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:
        """Move the rows that have a gradient, and forget the gradients.

        Args:
            scale: Factor on the step size.
        """
        first, second = self.betas
        for index, (parameter, (mean, square)) in enumerate(zip(self.parameters, self.moments, strict=True)):
            if parameter.grad is None:
                continue
            rows = parameter.grad.any(dim=1).nonzero().flatten()
            gradient = parameter.grad[rows]
            parameter.grad = None
            steps = self.steps[index][rows] + 1
            self.steps[index][rows] = steps
            mean[rows] = mean[rows].lerp(gradient, 1 - first)
            square[rows] = square[rows].lerp(gradient.square(), 1 - second)
            age = steps[:, None]
            size = self.learning_rate * scale
            move = (mean[rows] / (1 - first**age)) / ((square[rows] / (1 - second**age)).sqrt() + self.eps)
            if self.anchor:
                move = move + self.anchor * (parameter[rows] - self._start[index][rows]) / age.sqrt()
            parameter[rows] -= size * move


__all__ = ["RowAdam"]
