"""What launchers need of an optimizer while some parameters do not train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_SET_ASIDE = "weight_decay_set_aside"
"""Entry of a parameter group that keeps its weight decay; it is saved with the optimizer, so a resume has it."""


def base_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """Return the torch optimizer inside the wrappers of accelerate and DeepSpeed."""
    while True:
        inner = getattr(optimizer, "optimizer", None)
        if inner is None or not hasattr(inner, "param_groups"):
            return optimizer
        optimizer = inner


@torch.no_grad()
def fill_state(optimizer: Any) -> int:
    """Give every parameter that has no state yet the state of one that was never stepped; values do not change.

    Optimizers make a parameter's state at its first step, so that what is frozen costs nothing. FSDP2 however loads a
    checkpoint before any callback is told, and wants state for all that has ``requires_grad`` then. The state is made
    by the optimizer itself, in a step with gradients, rate and decay of zero, and then set to zero: moments of zero
    and a step count of zero are where AdamW, Adam, SGD, Adagrad and Adafactor begin.

    Args:
        optimizer: The optimizer, also as accelerate wraps it. Gradients that exist are kept aside.

    Returns:
        How many parameters were given state.
    """
    base = base_optimizer(optimizer)
    parameters = [parameter for group in base.param_groups for parameter in group["params"]]
    fresh = [parameter for parameter in parameters if not base.state.get(parameter)]
    if not fresh:
        return 0
    gradients = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    for parameter in fresh:
        parameter.grad = torch.zeros_like(parameter)
    try:
        with _without_effect(base):
            base.step()
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    for parameter in fresh:
        _set_to_zero(base.state[parameter])
    return len(fresh)


@contextmanager
def _without_effect(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Set rates and decays to zero for a while."""
    names = ("lr", "weight_decay")
    kept = [{name: group[name] for name in names if group.get(name) is not None} for group in optimizer.param_groups]
    try:
        for group, values in zip(optimizer.param_groups, kept, strict=True):
            group.update({name: value * 0 for name, value in values.items()})
        yield
    finally:
        for group, values in zip(optimizer.param_groups, kept, strict=True):
            group.update(values)


def _set_to_zero(state: dict[str, Any]) -> None:
    """Take the count of the step back, and the little that a step leaves in moments although gradients were zero."""
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            value.zero_()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            state[name] = type(value)(0)


def set_decay_aside(optimizer: Any, aside: bool) -> None:
    """Set weight decay to zero, or back.

    Args:
        optimizer: The optimizer, also as DeepSpeed wraps it.
        aside: True to set it to zero, False to give every group its own back.
    """
    for group in base_optimizer(optimizer).param_groups:
        if "weight_decay" not in group:
            continue
        if aside:
            group.setdefault(_SET_ASIDE, group["weight_decay"])
            group["weight_decay"] = 0.0
        elif _SET_ASIDE in group:
            group["weight_decay"] = group.pop(_SET_ASIDE)


__all__ = ["base_optimizer", "fill_state", "set_decay_aside"]
