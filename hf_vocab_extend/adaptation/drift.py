"""How far the rows of tables have gone from their start, followed on some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..mapping import RowKind
from ..report import COPIED
from .shards import global_rows, is_dtensor, local_tensor
from .tables import Table, vocabulary_tables

if TYPE_CHECKING:
    from ..mapping import TokenMapping

_OLD = tuple(RowKind[name.upper()] for name in COPIED)


@dataclass
class _Sample:
    """Rows of one kind of one table, and what they were, `(n, d)` in the table's own precision on the CPU."""

    label: str
    table: Table
    rows: torch.Tensor
    start: torch.Tensor


class RowDrift:
    """Rows of the tables of a model as they are when it is made, compared with what they become."""

    def __init__(
        self, model: Any, mapping: TokenMapping, new_ids: torch.Tensor, limit: int = 2048, seed: int = 0
    ) -> None:
        """Remember rows.

        Args:
            model: The model, wrapped or not; DTensors of FSDP2 are read from all processes.
            mapping: Which rows are copies: the others, but for the new ones, are padding and are not followed.
            new_ids: Ids of the new rows, shape `(n_new,)`.
            limit: How many rows of each kind and table are followed; more are drawn from.
            seed: Seed of the draw.
        """
        old_ids = torch.from_numpy(np.flatnonzero(np.isin(mapping.kinds, _OLD)))
        self._samples: list[_Sample] = []
        for table in vocabulary_tables(model):
            if table.parameter.ndim != 2:
                continue
            kinds = {"new": table.new_rows(new_ids)}
            if not table.only_new:
                kinds["old"] = old_ids[old_ids < table.n_rows]
            for kind, rows in kinds.items():
                chosen = _drawn(rows, limit, seed)
                if len(chosen):
                    name = f"{kind}_{_table_name(table)}"
                    self._samples.append(_Sample(name, table, chosen, _rows_of(table, chosen)))

    def measure(self) -> dict[str, float]:
        """Return ``drift_``, ``cosine_`` and ``norm_`` of each kind and table; the first table of a name counts."""
        found: dict[str, float] = {}
        for sample in self._samples:
            now, start = _rows_of(sample.table, sample.rows).float(), sample.start.float()
            cosine = torch.nn.functional.cosine_similarity(now, start, dim=1)
            both_zero = (now.norm(dim=1) == 0) & (start.norm(dim=1) == 0)
            values = {
                "drift": float((now - start).norm() / start.norm().clamp(min=torch.finfo(torch.float32).tiny)),
                "cosine": float(torch.where(both_zero, 1.0, cosine).mean()),
                "norm": float(now.norm(dim=1).mean()),
            }
            for name, value in values.items():
                found.setdefault(f"{name}_{sample.label}", value)
        return found

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the start of all rows, to go on from after an interruption."""
        return {f"{sample.label}.{sample.table.name}": sample.start for sample in self._samples}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take the start that :meth:`state_dict` gave; rows of another shape are left as they are."""
        for sample in self._samples:
            start = state.get(f"{sample.label}.{sample.table.name}")
            if start is not None and start.shape == sample.start.shape:
                sample.start = start


def _drawn(rows: torch.Tensor, limit: int, seed: int) -> torch.Tensor:
    """Draw some rows, ascending."""
    if len(rows) <= limit:
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[order[:limit]].sort().values


def _table_name(table: Table) -> str:
    """Name a table by what it is used for."""
    if {"input", "head"} <= table.roles:
        return "tied"
    return "_".join(sorted(table.roles - {"bias"}))


def _rows_of(table: Table, rows: torch.Tensor) -> torch.Tensor:
    """Return rows of a table on the CPU in its own precision, shape `(n, d)`; the same in every process."""
    parameter = table.parameter
    if not is_dtensor(parameter):
        found = parameter.detach().index_select(table.axis, rows.to(parameter.device))
        return found.movedim(table.axis, 0).cpu().clone()
    held = global_rows(table.name, parameter, table.axis)
    local = local_tensor(parameter)
    mine = (rows >= held.start) & (rows < held.stop)
    shape = (len(rows), parameter.shape[1 - table.axis])
    whole = torch.zeros(shape, device=local.device)  # float32: not every backend sums half precision
    picked = local.index_select(table.axis, (rows[mine] - held.start).to(local.device))
    whole[mine.to(local.device)] = picked.movedim(table.axis, 0).float()
    mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
    for dimension, placement in enumerate(placements):
        if placement.is_shard(table.axis):
            torch.distributed.all_reduce(whole, group=mesh.get_group(dimension))
    return whole.to("cpu", local.dtype)


__all__ = ["RowDrift"]
