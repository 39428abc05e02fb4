"""What the names in a stage mean in one model: which parameters train, whole or in some rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ..errors import InvalidOptionError
from ..surgery.registry import OTHER_MODALITY
from .stages import PATTERN, Stage
from .tables import HEAD_ROLES, INPUT_ROLES, Table, unwrapped, vocabulary_tables

_LAYER = re.compile(r"^(?P<stack>.*?)\.(?P<number>\d+)\.")


@dataclass
class Selection:
    """Parameters that train, by identity.

    Attributes:
        whole: Ids of parameters that train in all their entries.
        rows: Id of a parameter to the rows of it that train, ascending, int64.
    """

    whole: set[int] = field(default_factory=set)
    rows: dict[int, torch.Tensor] = field(default_factory=dict)

    def add_rows(self, parameter: nn.Parameter, rows: torch.Tensor) -> None:
        """Let some rows train, beside those that do."""
        known = self.rows.get(id(parameter))
        self.rows[id(parameter)] = rows if known is None else torch.cat([known, rows]).unique()

    def part(self, parameter: nn.Parameter) -> bool | torch.Tensor:
        """Return whether a parameter trains, or which rows of it."""
        if id(parameter) in self.whole:
            return True
        return self.rows.get(id(parameter), False)

    def same_part(self, other: Selection, parameter: nn.Parameter) -> bool:
        """Whether the same entries of a parameter train in both."""
        one, two = self.part(parameter), other.part(parameter)
        if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
            return torch.equal(one, two)
        return one is two

    def covers(self, other: Selection) -> bool:
        """Whether all that trains in another selection trains in this one."""
        return other.whole <= self.whole and all(
            key in self.whole or (key in self.rows and bool(torch.isin(rows, self.rows[key]).all()))
            for key, rows in other.rows.items()
        )


class ParameterMap:
    """The parameters of one model, and which of them are tables.

    Attributes:
        parameters: Name to parameter, each parameter once.
        tables: The tables of tokens.
        trainable: Ids of the parameters that had ``requires_grad`` when the map was made: only they may train.
    """

    def __init__(self, model: nn.Module, new_ids: torch.Tensor) -> None:
        """Read a model.

        Args:
            model: The model, as the Trainer gives it to callbacks.
            new_ids: Ids of the new tokens, shape `(n_new,)`.

        Raises:
            UnsupportedModelError: If the tables cannot be told.
        """
        inner = unwrapped(model)
        self.parameters = dict(inner.named_parameters())
        self._aliases = list(inner.named_parameters(remove_duplicate=False))
        self.tables = vocabulary_tables(model)
        self.new_ids = new_ids
        self.trainable = {id(parameter) for parameter in self.parameters.values() if parameter.requires_grad}
        self._by_id = {id(table.parameter): table for table in self.tables}
        self._projections = {id(item): table for table in self.tables for item in table.projections}

    def table_of(self, parameter: nn.Parameter) -> Table | None:
        """Return the table that a parameter holds, or the second factor of which it is."""
        return self._by_id.get(id(parameter)) or self._projections.get(id(parameter))

    def freezes(self, found: Selection) -> bool:
        """Whether a selection leaves anything frozen that may train."""
        return not self.trainable <= found.whole

    def is_input(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter is of a table that embeds the input, so that its training gives embeddings gradients."""
        table = self.table_of(parameter)
        return table is not None and "input" in table.roles

    def axis(self, parameter: nn.Parameter) -> int:
        """Return which axis of a table counts tokens."""
        return self._by_id[id(parameter)].axis

    def count(self, found: Selection) -> int:
        """Return the number of values that a selection trains."""
        total = 0
        for parameter in self.parameters.values():
            part = found.part(parameter)
            if isinstance(part, torch.Tensor):
                total += parameter.numel() // self._by_id[id(parameter)].n_rows * len(part)
            elif part:
                total += parameter.numel()
        return total

    def select(self, train: Sequence[str]) -> Selection:
        """Return what the names of a stage mean here.

        Raises:
            InvalidOptionError: If a pattern fits no parameter, or the model has no stack of layers.
        """
        found = Selection()
        for item in train:
            if item.startswith(PATTERN):
                self._by_pattern(item, found)
            else:
                name, _, number = item.partition(":")
                _SELECTORS[name](self, found, int(number or 0))
        found.whole &= self.trainable
        found.rows = {
            key: rows
            for key, rows in found.rows.items()
            if key in self.trainable and key not in found.whole and len(rows)
        }
        return found

    def check(self, stages: Iterable[Stage]) -> None:
        """Raise unless every stage trains something.

        Raises:
            InvalidOptionError: It names the stage and the remedy.
        """
        for number, stage in enumerate(stages, 1):
            found = self.select(stage.train)
            if found.whole or found.rows:
                continue
            if not len(self.new_ids) and all("rows" in item for item in stage.train):
                reason = "the extension has no new rows"
            else:
                reason = "this model has no such parameter, or it had requires_grad=False when training began"
            raise InvalidOptionError(
                f"Stage {number} ('{stage.name}') trains nothing: {reason}. Leave the stage out, or let stages, not "
                "requires_grad, say what trains: what is frozen before Trainer.train() never enters the optimizer."
            )

    def whole_tables(self, found: Selection, roles: frozenset[str]) -> None:
        """Add the tables of some roles, with their second factors."""
        for table in self.tables:
            if table.roles & roles:
                found.whole |= {id(table.parameter), *map(id, table.projections)}

    def new_rows(self, found: Selection, roles: frozenset[str]) -> None:
        """Add the new rows of the tables of some roles."""
        for table in self.tables:
            if table.roles & roles:
                found.add_rows(table.parameter, table.new_rows(self.new_ids))

    def layers(self, found: Selection, count: int, *, last: bool) -> None:
        """Add so many layers at one end of each stack."""
        numbered = [
            (match["stack"], int(match["number"]), parameter)
            for name, parameter in self.parameters.items()
            if (match := _LAYER.match(name)) and not OTHER_MODALITY.search(name) and not self.table_of(parameter)
        ]
        if not numbered:
            raise InvalidOptionError(
                "This model has no numbered layers, so 'first_layers' and 'last_layers' mean nothing. Name parameters "
                "by 're:' and a regular expression."
            )
        lengths: dict[str, int] = {}
        for stack, number, _ in numbered:
            lengths[stack] = max(lengths.get(stack, 0), number + 1)
        for stack, number, parameter in numbered:
            if (number >= lengths[stack] - count) if last else (number < count):
                found.whole.add(id(parameter))

    def _by_pattern(self, item: str, found: Selection) -> None:
        """Add the parameters that a regular expression finds under any of their names."""
        pattern = re.compile(item.removeprefix(PATTERN))
        matched = {id(parameter) for name, parameter in self._aliases if pattern.search(name)}
        if not matched:
            some = ", ".join(list(self.parameters)[:3])
            raise InvalidOptionError(f"'{item}' fits no parameter of this model. Names look like: {some}.")
        found.whole |= matched

    def body(self, found: Selection) -> None:
        """Add all that is no table."""
        found.whole |= {id(item) for item in self.parameters.values() if self.table_of(item) is None}

    def everything(self, found: Selection) -> None:
        """Add all."""
        found.whole |= {id(item) for item in self.parameters.values()}


_SELECTORS: dict[str, Callable[[ParameterMap, Selection, int], None]] = {
    "new_rows": lambda known, found, _: known.new_rows(found, INPUT_ROLES | HEAD_ROLES),
    "new_input_rows": lambda known, found, _: known.new_rows(found, INPUT_ROLES),
    "new_head_rows": lambda known, found, _: known.new_rows(found, HEAD_ROLES),
    "embeddings": lambda known, found, _: known.whole_tables(found, INPUT_ROLES),
    "head": lambda known, found, _: known.whole_tables(found, HEAD_ROLES),
    "first_layers": lambda known, found, count: known.layers(found, count, last=False),
    "last_layers": lambda known, found, count: known.layers(found, count, last=True),
    "body": lambda known, found, _: known.body(found),
    "all": lambda known, found, _: known.everything(found),
}

__all__ = ["ParameterMap", "Selection"]
