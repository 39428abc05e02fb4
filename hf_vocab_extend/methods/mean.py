"""Every new row is the mean of the trained source rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InvalidTableError
from .base import FitContext, InitMethod, MethodConfig
from .parallel import able_device

_FLOATS_PER_BLOCK = 1 << 22


@dataclass(frozen=True)
class MeanConfig(MethodConfig):
    """No options."""


@dataclass(frozen=True, eq=False)
class MeanRows:
    """One row for all new tokens; a mixture of it would be dense.

    Attributes:
        covered: All of the new tokens, bool, shape `(n_new,)`.
        trained: Source rows that enter the mean, bool, shape `(n_source,)`.
    """

    covered: np.ndarray
    trained: np.ndarray

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """Return the mean of the table's trained rows once for each new token, float32, shape `(n_new, width)`."""
        mean = trained_mean(table.detach().to(able_device(table.device)), self.trained).float()
        return mean.to(table.device).expand(len(self.covered), -1).clone()


class Mean(InitMethod):
    """Mean of the trained source rows."""

    name = "mean"
    pretty_name = "Mean"
    summary = "Every new row is the mean of the trained source rows."
    config_class = MeanConfig

    def fit(self, context: FitContext) -> MeanRows:
        """Cover every new token.

        Raises:
            InvalidTableError: If no source row is trained.
        """
        check_trained(context.trained, 1)
        return MeanRows(np.ones(len(context.plan.new_ids), bool), context.trained)


def check_trained(trained: np.ndarray, least: int) -> None:
    """Raise unless enough source rows are trained.

    Raises:
        InvalidTableError: If there are fewer than ``least``.
    """
    found = int(trained.sum())
    if found < least:
        raise InvalidTableError(
            f"{found} of {len(trained)} source rows are trained, and at least {least} are needed for their "
            "distribution. Check that the model was loaded with its weights."
        )


def trained_blocks(table: torch.Tensor, trained: np.ndarray) -> list[torch.Tensor]:
    """Return the indices of a table's trained rows, split into blocks of a fixed size, each int64 on its device."""
    indices = torch.from_numpy(np.flatnonzero(trained[: table.shape[0]])).to(table.device)
    return list(indices.split(max(1, _FLOATS_PER_BLOCK // max(1, table.shape[1]))))


def trained_mean(table: torch.Tensor, trained: np.ndarray) -> torch.Tensor:
    """Return the mean of a table's trained rows, float64, shape `(width,)`.

    On the CPU numpy adds up, whose order does not depend on the number of threads.
    """
    total = torch.zeros(table.shape[1], dtype=torch.float64, device=table.device)
    blocks = trained_blocks(table, trained)
    for block in blocks:
        rows = table.index_select(0, block).double()
        total += rows.sum(0) if rows.is_cuda else torch.from_numpy(np.add.reduce(rows.numpy(), axis=0))
    return total / max(1, sum(map(len, blocks)))
