"""Learning rates: groups for tables, head and body, and a factor per stage on what the schedule gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..errors import InvalidOptionError
from ..modeling.factorized import factorized_modules
from ..surgery.parameter_groups import factorized_parameter_groups
from .tables import INPUT_ROLES, plain_model, vocabulary_tables

if TYPE_CHECKING:
    from torch import nn

GROUPS = ("tables", "head", "body")
"""Names of groups: input tables and what is tied to them, heads of their own with their biases, all else."""


def parameter_groups(
    model: nn.Module,
    lr: float,
    *,
    factors: Mapping[str, float] | None = None,
    weight_decay: float = 0.0,
    table_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups for an optimizer, so that stages can give each group its rate.

    Args:
        model: A transformers model; also a factorised one, or one of peft.
        lr: Learning rate of the body.
        factors: Group (:data:`GROUPS`) to its rate over ``lr``; 1 for those left out. The two matrices of a factorised
            table get rates that move its rows as much as ``lr`` would move those of a dense table
            (:func:`~hf_vocab_extend.factorized_parameter_groups`), times the factor.
        weight_decay: Weight decay; norms and biases have none.
        table_weight_decay: That of tables and heads; by default the same.

    Returns:
        Groups with ``params``, ``lr``, ``weight_decay`` and ``name``, one of :data:`GROUPS`; some names occur twice.

    Raises:
        InvalidOptionError: If a rate, a decay or a factor is negative, or a group is unknown.
        UnsupportedModelError: If the tables of the model cannot be told.
    """
    for name, value in {"lr": lr, "weight_decay": weight_decay, "table_weight_decay": table_weight_decay}.items():
        if value is not None and value < 0:
            raise InvalidOptionError(f"{name} is {value}; it must not be negative.")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [item for item in trainable if item.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [item for item in trainable if item.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]
    made = split_groups(groups, model, factors)
    for group in made:
        if table_weight_decay is not None and group["weight_decay"] and group["name"] != "body":
            group["weight_decay"] = table_weight_decay
    return made


def split_groups(
    groups: Iterable[Mapping[str, Any]], model: nn.Module, factors: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Split an optimizer's groups into tables, head and body; every other option stays.

    Args:
        groups: Groups with ``params`` and ``lr``.
        model: The model that the parameters are of.
        factors: Group to its rate over that of the group that it is taken from.

    Raises:
        InvalidOptionError: If a factor is negative or its group unknown.
    """
    factors = dict(factors or {})
    for name, factor in factors.items():
        if name not in GROUPS or factor < 0:
            raise InvalidOptionError(
                f"The group '{name}' cannot have the factor {factor}. Groups are {', '.join(GROUPS)}; factors are "
                "not negative."
            )
    places = _places(model)
    made = []
    for group in groups:
        parts: dict[tuple[str, float], list[torch.Tensor]] = {}
        for parameter in group["params"]:
            parts.setdefault(places.get(id(parameter), ("body", 1.0)), []).append(parameter)
        for (name, scale), parameters in parts.items():
            rate = group["lr"] * scale * factors.get(name, 1.0)
            made.append({**group, "params": parameters, "lr": rate, "name": name})
    return made


def _places(model: nn.Module) -> dict[int, tuple[str, float]]:
    """Return the group of every parameter of a table, and the scale of its rate."""
    places: dict[int, tuple[str, float]] = {}
    for table in vocabulary_tables(model):
        name = "tables" if table.roles & INPUT_ROLES else "head"
        for parameter in (table.parameter, *table.projections):
            places.setdefault(id(parameter), (name, 1.0))
    base = plain_model(model)
    if factorized_modules(base):
        for group in factorized_parameter_groups(base, 1.0):
            for parameter in group["params"]:
                if id(parameter) in places:
                    places[id(parameter)] = (places[id(parameter)][0], group["lr"])
    return places


class StageRates:
    """Multiplies the rates that the schedule gave, for one step at a time, and puts them back before it goes on.

    Schedules that compute the next rate from the present one would otherwise accumulate the factor.
    """

    def __init__(self, optimizer: Any, scheduler: Any) -> None:
        """Take the optimizer and the schedule of a run."""
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._given: list[tuple[Any, Any]] = []

    @property
    def names(self) -> list[str | None]:
        """Names of the groups."""
        return [group.get("name") for group in self._optimizer.param_groups]

    def check(self, asked: Iterable[str]) -> None:
        """Raise unless the optimizer has the groups.

        Raises:
            InvalidOptionError: The message says how to make them.
        """
        missing = sorted(set(asked) - set(self.names) - (set(GROUPS) if "body" in self.names else set()))
        if missing:
            raise InvalidOptionError(
                f"A stage has a learning rate for {', '.join(missing)}, and the optimizer has no such group. Train "
                "with VocabExtensionTrainer (or its mixin), or pass Trainer(optimizers=(AdamW(parameter_groups("
                "model, lr)), None))."
            )

    def scale(self, rate: float | Mapping[str, float], warmup: float) -> None:
        """Multiply the rates for the step to come.

        Args:
            rate: Factor, or one for each group; 1 for those left out.
            warmup: Another factor on all.
        """
        self.put_back()
        groups = self._optimizer.param_groups
        for group in groups:
            given, factor = group["lr"], rate.get(group.get("name"), 1.0) if isinstance(rate, Mapping) else rate
            if factor * warmup != 1:
                group["lr"] = given * (factor * warmup)
            self._given.append((given, group["lr"]))

    def report(self) -> None:
        """Let the Trainer log the rate of what trains; call it after the step, before the schedule goes on."""
        if self._reads_groups():
            return
        groups = self._optimizer.param_groups
        first = next((i for i, group in enumerate(groups) if any(p.requires_grad for p in group["params"])), 0)
        rates = [group["lr"] for group in groups]
        schedule = getattr(self._scheduler, "scheduler", self._scheduler)  # DeepSpeed's is wrapped by accelerate
        if rates and hasattr(schedule, "_last_lr"):
            schedule._last_lr = [rates[first], *rates[1:]]
        self.put_back()

    def put_back(self) -> None:
        """Give the groups the rates of the schedule again, but for those that the schedule has changed meanwhile."""
        for group, (given, scaled) in zip(self._optimizer.param_groups, self._given, strict=False):
            if group["lr"] == scaled:
                group["lr"] = given
        self._given = []

    def _reads_groups(self) -> bool:
        """Whether the Trainer logs the rate of the first group for this schedule, and steps it at evaluations only."""
        return any(kind.__name__ in ("ReduceLROnPlateau", "GreedyLR") for kind in type(self._scheduler).__mro__)


__all__ = ["GROUPS", "StageRates", "parameter_groups", "split_groups"]
