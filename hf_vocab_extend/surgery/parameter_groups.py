"""Learning rates for factorised models: one for F, one for P, one for the rest.

Adam moves every entry by about the learning rate, whatever its size. So a matrix of large entries hardly learns, and
one of small entries is torn up: with all singular values in `P`, one step at 5e-5 moves `F` by percents and `P` by
next to nothing. The rates here move every matrix by the same share of its size as a dense table would be moved.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import InvalidOptionError, UnsupportedModelError
from ..modeling.factorized import factorized_modules


def factorized_parameter_groups(
    model: PreTrainedModel,
    lr: float,
    *,
    factor_lr: float | None = None,
    projection_lr: float | None = None,
    weight_decay: float = 0.0,
    table_weight_decay: float = 0.0,
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups for an optimizer of torch.

    Args:
        model: A factorised model, also one wrapped by PEFT.
        lr: Rate of the body, and of a dense table of this model.
        factor_lr: Rate of `F`; by default ``lr`` times the root mean square of its entries over that of the table's.
        projection_lr: Rate of `P`; by default the same for its entries.
        weight_decay: Of the body; norms and biases have none.
        table_weight_decay: Of `F` and `P`. Not 0 means that rows of tokens that do not occur shrink all the same.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``name``: one for each `F` and `P`, ``decay``,
        ``no_decay``.

    Raises:
        InvalidOptionError: If a rate or a decay is negative.
        UnsupportedModelError: If the model has no factorised table.
    """
    values = {"lr": lr, "factor_lr": factor_lr, "projection_lr": projection_lr}
    values |= {"weight_decay": weight_decay, "table_weight_decay": table_weight_decay}
    for name, value in values.items():
        if value is not None and value < 0:
            raise InvalidOptionError(f"{name} is {value}; it must not be negative.")
    modules = factorized_modules(model)
    if not modules:
        raise UnsupportedModelError(
            f"No table of this {type(model).__name__} is factorised. Call factorize_embeddings(model, rank) first."
        )
    groups, taken = [], set()
    for name, module in modules.items():
        rates = {"weight": factor_lr, "projection": projection_lr}
        for attribute, rate in rates.items():
            tensor = getattr(module, attribute)
            if id(tensor) in taken or not tensor.requires_grad:
                continue
            taken.add(id(tensor))
            own = lr * _size(tensor) / _table_size(module) if rate is None else rate
            group = {"params": [tensor], "lr": own, "weight_decay": table_weight_decay, "name": f"{name}.{attribute}"}
            groups.append(group)
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    decayed = [parameter for parameter in rest if parameter.ndim > 1]
    others = [parameter for parameter in rest if parameter.ndim <= 1]
    groups.append({"params": decayed, "lr": lr, "weight_decay": weight_decay, "name": "decay"})
    groups.append({"params": others, "lr": lr, "weight_decay": 0.0, "name": "no_decay"})
    return [group for group in groups if group["params"]]


def _size(tensor: torch.Tensor) -> float:
    """Return the root mean square of the entries."""
    return float(tensor.detach().float().norm()) / tensor.numel() ** 0.5


def _table_size(module: nn.Module) -> float:
    """Return the root mean square of the entries of `F P`, from the Gram matrices of both."""
    factor, projection = (getattr(module, name).detach().double() for name in ("weight", "projection"))
    energy = float(((factor.T @ factor) * (projection @ projection.T)).sum())
    return max(energy, 1e-24) ** 0.5 / (len(factor) * projection.shape[1]) ** 0.5


__all__ = ["factorized_parameter_groups"]
