"""The steps of a distillation, the same whatever the loss: schedule, averaging, guard."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..._logging import progress
from ...errors import InvalidOptionError, VocabExtendWarning
from .compact_rows import CompactRows
from .guard import Guard
from .row_adam import RowAdam

WARM_UP = 0.1
"""Share of the steps in which the step size rises; it then falls as a cosine to zero."""


@dataclass(frozen=True)
class Schedule:
    """How rows move.

    Attributes:
        steps: Steps at most.
        learning_rate: Highest step size of Adam.
        average: Decay of the moving average of the rows that is kept in place of the last ones; 0 for the last ones.
        anchor: Pull of each row to its start; see :class:`RowAdam`.
        evaluate_every: Steps between two looks of the guard.
    """

    steps: int
    learning_rate: float
    average: float
    anchor: float
    evaluate_every: int

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidOptionError: It names the one that lies outside its range.
        """
        ranges = {
            "steps": self.steps >= 1,
            "learning_rate": 0 < self.learning_rate < math.inf,
            "average": 0 <= self.average < 1,
            "anchor": 0 <= self.anchor < math.inf,
            "evaluate_every": self.evaluate_every >= 1,
        }
        for name, good in ranges.items():
            if not good:
                raise InvalidOptionError(
                    f"{name} is {getattr(self, name)}. Give "
                    + {"average": "a decay in 0 .. 1, 1 excluded", "anchor": "0 or more"}.get(name, "more than 0")
                    + "."
                )

    def scale(self, step: int) -> float:
        """Return the factor on the step size at a step, counted from 0."""
        warm = max(1, round(WARM_UP * self.steps))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        steps: Steps done.
        losses: Loss of each.
        seconds: Of the steps and the guard's looks.
    """

    steps: int
    losses: list[float]
    seconds: float


def run_steps(rows: CompactRows, backward: Callable[[int], float], guard: Guard, schedule: Schedule) -> Outcome:
    """Train the rows; afterwards they are the guard's best ones. The model's tables are not touched.

    Args:
        rows: The rows, in their places in the model.
        backward: Computes the loss of a step, counted from 0, and its gradients; returns the loss.
        guard: Looks at the start, every ``evaluate_every`` steps, and at the end.
        schedule: How rows move.
    """
    start = time.perf_counter()
    parameters = rows.parameters()
    optimizer = RowAdam(parameters, learning_rate=schedule.learning_rate, anchor=schedule.anchor)
    mean = _Average(parameters, schedule.average)
    losses: list[float] = []
    guard.look(0, parameters)
    for step in progress(range(schedule.steps), desc="Distilling", unit="step", total=schedule.steps):
        loss = backward(step)
        if not math.isfinite(loss):
            warnings.warn(
                f"The loss of step {step + 1} is {loss}: stopped, the best rows before it are kept. Lower "
                "learning_rate.",
                VocabExtendWarning,
                stacklevel=3,
            )
            break
        losses.append(loss)
        optimizer.step(schedule.scale(step))
        mean.update()
        if (step + 1) % schedule.evaluate_every == 0 or step + 1 == schedule.steps:
            with mean.in_place():
                go_on = guard.look(step + 1, parameters)
            if not go_on:
                break
    guard.restore(parameters)
    return Outcome(len(losses), losses, time.perf_counter() - start)


class _Average:
    """Moving average of parameters; without a decay the parameters themselves."""

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.updates = parameters, decay, 0
        self.values = [item.detach().clone() for item in parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present values; early ones count more, so that the start is soon forgotten."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        for value, item in zip(self.values, self.parameters, strict=False):
            value.lerp_(item, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in place of the parameters."""
        kept = [item.detach().clone() for item in self.parameters] if self.values else []
        try:
            self._put(self.values)
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for item, value in zip(self.parameters, values, strict=False):
            item.copy_(value)


__all__ = ["Outcome", "Schedule", "run_steps"]
