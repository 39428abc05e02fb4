"""New rows drawn from the multivariate normal distribution of the trained source rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from .base import FitContext, InitMethod, MethodConfig, check_option
from .mean import check_trained, trained_blocks, trained_mean

_DIGEST_ROWS = 64


@dataclass(frozen=True)
class NormalConfig(MethodConfig):
    """Options of :class:`Normal`.

    Attributes:
        scale: Factor of the standard deviation: 1 draws rows as spread as the source rows, 0 gives their mean.
        diagonal: Draw each dimension on its own, by its standard deviation, instead of by the whole covariance.
    """

    scale: float = 1.0
    diagonal: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        check_option(0 <= self.scale < 1e3, f"scale is {self.scale}. It must lie between 0 and 1000.")


@dataclass(frozen=True, eq=False)
class NormalRows:
    """Rows drawn anew, and alike, for each table.

    Attributes:
        covered: All of the new tokens, bool, shape `(n_new,)`.
        trained: Source rows whose distribution is drawn from, bool, shape `(n_source,)`.
        seed: Drawn once from the generator of the call.
        config: The options.
    """

    covered: np.ndarray
    trained: np.ndarray
    seed: int
    config: NormalConfig

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """Draw the rows of a table.

        The seed is joined with the table's own bytes: two tables get different rows, whichever comes first.

        Returns:
            Float32, shape `(n_new, width)`.
        """
        generator = torch.Generator().manual_seed(self._table_seed(table))
        noise = torch.randn(len(self.covered), table.shape[1], generator=generator).to(table.device)
        mean = trained_mean(table, self.trained)
        spread = self._deviation(table, mean) if self.config.diagonal else self._factor(table, mean)
        drawn = noise * spread if spread.ndim == 1 else noise @ spread.T
        return drawn.mul_(self.config.scale).add_(mean.float())

    def _table_seed(self, table: torch.Tensor) -> int:
        """Return a seed from the first trained rows and the shape of a table."""
        first = np.flatnonzero(self.trained[: table.shape[0]])[:_DIGEST_ROWS]
        rows = table.detach()[torch.from_numpy(first).to(table.device)].float().cpu().contiguous().numpy()
        digest = hashlib.sha256(f"{self.seed} {tuple(table.shape)}".encode())
        digest.update(rows.tobytes())
        return int.from_bytes(digest.digest()[:8], "little") >> 1

    def _deviation(self, table: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Return the standard deviation of each column, float32, shape `(width,)`."""
        total = torch.zeros_like(mean)
        blocks = trained_blocks(table, self.trained)
        for block in blocks:
            squares = table.index_select(0, block).double().sub_(mean).square_()
            total += squares.sum(0) if squares.is_cuda else torch.from_numpy(np.add.reduce(squares.numpy(), axis=0))
        return (total / max(1, sum(map(len, blocks)) - 1)).sqrt_().float()

    def _factor(self, table: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """Return `L` with `L @ L.T` the covariance of the trained rows, float32, shape `(width, width)`."""
        width = table.shape[1]
        total = torch.zeros(width, width, dtype=torch.float64, device=table.device)
        blocks = trained_blocks(table, self.trained)
        centre = mean.float()
        for block in blocks:
            rows = table.index_select(0, block).float().sub_(centre)
            total += rows.T @ rows
        n_rows = sum(map(len, blocks))
        covariance = total / max(1, n_rows - 1)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if int(failed) or n_rows <= width:  # the rows lie in a subspace, and so do the drawn ones
            values, vectors = torch.linalg.eigh(covariance)
            values = values.masked_fill(values < values.amax() * width * torch.finfo(torch.float32).eps, 0)
            factor = vectors * values.sqrt_()
        return factor.float()


class Normal(InitMethod):
    """Multivariate normal distribution of the trained source rows."""

    name = "normal"
    pretty_name = "Normal"
    summary = "New rows are drawn from the normal distribution (mean and covariance) of the trained source rows."
    config_class = NormalConfig
    config: NormalConfig

    def fit(self, context: FitContext) -> NormalRows:
        """Cover every new token.

        Raises:
            InvalidTableError: If fewer than two source rows are trained.
        """
        check_trained(context.trained, 2)
        seed = int(torch.randint(2**62, (1,), generator=context.generator))
        return NormalRows(np.ones(len(context.plan.new_ids), bool), context.trained, seed, self.config)
