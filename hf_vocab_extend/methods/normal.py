"""New rows drawn from the multivariate normal distribution of the trained source rows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from .base import FitContext, InitMethod, MethodConfig, check_option
from .mean import check_trained, trained_blocks
from .parallel import able_device, exact_settings, run_blocks

_DIGEST_ROWS = 64
_ROWS_PER_DRAW = 2048
_PANELS = 4  # of columns: products above the diagonal are left out, but for those of one panel


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
        home = table.device
        table = table.detach().to(able_device(home))
        generator = torch.Generator().manual_seed(self._table_seed(table))
        noise = torch.randn(len(self.covered), table.shape[1], generator=generator)
        mean, covariance = _moments(table, self.trained, self.config.diagonal)
        spread = covariance.sqrt() if self.config.diagonal else _factor(covariance, int(self.trained.sum()))
        spread, centre = spread.float().mul_(self.config.scale), mean.float()

        def draw(_: None, part: slice) -> None:
            block = noise[part].to(table.device)
            drawn = block * spread if self.config.diagonal else block @ spread.T
            noise[part] = drawn.add_(centre).cpu()

        parts = [slice(start, start + _ROWS_PER_DRAW) for start in range(0, len(noise), _ROWS_PER_DRAW)]
        list(run_blocks(draw, parts, lambda: None, table.device))
        return noise.to(home)

    def _table_seed(self, table: torch.Tensor) -> int:
        """Return a seed from the first trained rows and the shape of a table."""
        first = np.flatnonzero(self.trained[: table.shape[0]])[:_DIGEST_ROWS]
        rows = table[torch.from_numpy(first).to(table.device)].float().cpu().contiguous().numpy()
        digest = hashlib.sha256(f"{self.seed} {tuple(table.shape)}".encode())
        digest.update(rows.tobytes())
        return int.from_bytes(digest.digest()[:8], "little") >> 1


def _moments(table: torch.Tensor, trained: np.ndarray, diagonal: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean and the covariance of a table's trained rows in one pass, both float64.

    Args:
        table: Shape `(n_source, width)`.
        trained: Which rows count, bool, shape `(n_source,)`.
        diagonal: Only variances.

    Returns:
        Mean, shape `(width,)`, and variances, shape `(width,)`, or the covariance's lower triangle, shape
        `(width, width)`.
    """
    width, blocks = table.shape[1], trained_blocks(table, trained)
    with exact_settings():
        centre = table.index_select(0, blocks[0]).double().mean(0).float()  # near the mean, so that no digits cancel
    panel = -(-width // _PANELS)

    def block_moments(_: None, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = table.index_select(0, block).float().sub_(centre)
        sums = rows.T @ rows.new_ones(len(rows))
        if diagonal:
            return sums, rows.square_().T @ rows.new_ones(len(rows))
        products = rows.new_zeros(width, width)
        for start in range(0, width, panel):
            torch.mm(rows[:, start:].T, rows[:, start : start + panel], out=products[start:, start : start + panel])
        return sums, products

    total = torch.zeros(width, dtype=torch.float64, device=table.device)
    second = total.clone() if diagonal else total.new_zeros(width, width)
    for sums, products in run_blocks(block_moments, blocks, lambda: None, table.device):
        total += sums
        second += products
    n_rows = sum(map(len, blocks))
    shift = total / n_rows
    second -= total * shift if diagonal else torch.outer(total, shift)
    return centre.double() + shift, second / max(1, n_rows - 1)


def _factor(covariance: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Return `L` with `L @ L.T` a covariance of which only the lower triangle is read, shape `(width, width)`."""
    width = len(covariance)
    with exact_settings():
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if int(failed) or n_rows <= width:  # the rows lie in a subspace, and so do the drawn ones
            values, vectors = torch.linalg.eigh(covariance)
            values = values.masked_fill(values < values.amax() * width * torch.finfo(torch.float32).eps, 0)
            factor = vectors * values.sqrt_()
    return factor


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
