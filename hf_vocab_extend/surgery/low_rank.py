"""The truncated singular value decomposition of a table: ``E (V, D) ~ F (V, R) @ P (R, D)``.

The right singular vectors are the eigenvectors of the Gram matrix `E^T E`, which is `(D, D)`; nothing of size
`V x V` is made, and the table is read in blocks. Squaring halves the digits, so the Gram matrix is summed in float64:
singular values down to 1e-8 of the largest come out right, which is as far as a float32 table goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real

import torch

from ..errors import InvalidOptionError, InvalidTableError

_ROWS_PER_BLOCK = 1 << 13
_NOT_FINITE = "The table holds NaN or infinite values and cannot be factorised. Repair its rows."
_COLUMN_BLOCKS = 4  # the Gram matrix is symmetric: 10 of 16 blocks are computed
_SMALLEST = 1e-4
"""A singular value counts at least this share of the largest in a scale. The product `F P` does not depend on the
scale, but a dimension whose `P` is zero would never train."""


@dataclass(frozen=True, eq=False)
class Basis:
    """Principal directions of the rows of a table.

    Attributes:
        values: Singular values, largest first, float64, shape `(D,)`.
        vectors: Right singular vectors as columns, float64, shape `(D, D)`; the largest entry of each is positive.
        n_rows: Rows of the table.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    n_rows: int

    @property
    def max_rank(self) -> int:
        """Largest rank that the table can have, `min(V, D)`."""
        return min(self.n_rows, len(self.values))

    def explained(self, rank: int) -> float:
        """Return the share of the table's squared norm that the first so many directions hold, in [0, 1]."""
        energies = self.values.square()
        total = float(energies.sum())
        return float(energies[:rank].sum()) / total if total > 0 else 1.0

    def rank_for(self, explained: float) -> int:
        """Return the least rank that holds at least a share of the table's squared norm.

        The mean row is not taken out first: the product `F P` has to hold it, too.

        Raises:
            InvalidOptionError: If the share is not in (0, 1].
        """
        if not 0 < explained <= 1:
            raise InvalidOptionError(f"The explained share is {explained}. It must lie above 0 and not above 1.")
        energies = self.values.square().cumsum(0)
        enough = energies >= explained * energies[-1] * (1 - 1e-12)
        return min(int(enough.nonzero()[0]) + 1, self.max_rank)


@dataclass(frozen=True, eq=False)
class Factors:
    """A table as a product.

    Attributes:
        factor: Coordinates of the tokens, float32, shape `(V, R)`.
        projection: Directions, float32, shape `(R, D)`.
    """

    factor: torch.Tensor
    projection: torch.Tensor


Scaling = Callable[[torch.Tensor, int, int], torch.Tensor]
SCALINGS: dict[str, Scaling] = {
    "balanced": lambda values, n_rows, width: values.sqrt() * (width / n_rows) ** 0.25,
    "symmetric": lambda values, n_rows, width: values.sqrt(),
    "published": lambda values, n_rows, width: values,
    "orthonormal": lambda values, n_rows, width: torch.ones_like(values),
}
"""Length of each row of `P`, from singular values `(R,)`, V and D; `F` is divided by it.

``balanced``: entries of both have the same root mean square, so one learning rate suits both. ``symmetric``: both
have the same norm. ``published``: all singular values in `P`, as OFA has it (arXiv 2311.08849). ``orthonormal``: all
in `F`.
"""


def principal_basis(table: torch.Tensor) -> Basis:
    """Return the principal directions of a table.

    Args:
        table: Shape `(V, D)`, any float dtype; the work is done where it lies.

    Raises:
        InvalidTableError: If it is no matrix, is empty, or holds NaN or infinite values.
    """
    if table.ndim != 2 or table.numel() == 0:
        raise InvalidTableError(f"A table of shape {tuple(table.shape)} cannot be factorised; (V, D) is needed.")
    gram = _gram(table.detach())
    if not torch.isfinite(gram).all():
        raise InvalidTableError(_NOT_FINITE)
    energies, vectors = torch.linalg.eigh(gram)
    energies, vectors = energies.flip(0).clamp_(min=0), vectors.flip(1)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return Basis(energies.sqrt(), vectors * torch.where(largest < 0, -1.0, 1.0), table.shape[0])


def _gram(table: torch.Tensor) -> torch.Tensor:
    """Return `E^T E`, float64, shape `(D, D)`."""
    width = table.shape[1]
    gram = torch.zeros(width, width, dtype=torch.float64, device=table.device)
    step = -(-width // _COLUMN_BLOCKS)
    for block in table.split(_ROWS_PER_BLOCK):
        rows = block.double()
        for start in range(0, width, step):  # from the diagonal to the right; the rest is its mirror image
            gram[start : start + step, start:].addmm_(rows[:, start : start + step].T, rows[:, start:])
    return gram.triu().add_(gram.triu(1).T)


def resolve_rank(rank: int | float, basis: Basis) -> int:
    """Return a rank that was given as such, or as the share of the squared norm that it shall keep.

    Args:
        rank: A whole number from 1 on, or a fraction above 0 and below 1.
        basis: Of the table.

    Raises:
        InvalidOptionError: If the table cannot have that rank, or the share is out of range.
    """
    if is_share(rank):
        return basis.rank_for(rank)
    check_rank(rank, basis.n_rows, len(basis.values))
    return int(rank)


def is_share(rank: int | float) -> bool:
    """Whether a rank is given as the share of the squared norm that it shall keep."""
    return isinstance(rank, Real) and not isinstance(rank, Integral) and float(rank) < 1


def check_rank(rank: int | float, n_rows: int, width: int) -> None:
    """Raise unless a table can have a rank.

    Raises:
        InvalidOptionError: It states the limits.
    """
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 1 <= rank <= min(n_rows, width):
        raise InvalidOptionError(
            f"The rank is {rank!r}. A table of {n_rows} rows and {width} columns can be factorised at whole ranks "
            f"from 1 to {min(n_rows, width)}."
        )


def choose_rank(table: torch.Tensor, explained: float = 0.9) -> int:
    """Return the least rank that keeps a share of a table's squared norm.

    Args:
        table: Shape `(V, D)`.
        explained: The share, in (0, 1].

    Raises:
        InvalidOptionError: If the share is out of range.
        InvalidTableError: If the table holds NaN or infinite values.
    """
    return principal_basis(table).rank_for(explained)


def factorize_table(
    table: torch.Tensor, rank: int, *, scaling: str = "balanced", basis: Basis | None = None
) -> Factors:
    """Return the best approximation of a table by a product (Eckart & Young 1936), or that within a given basis.

    Args:
        table: Shape `(V, D)`, any float dtype.
        rank: R.
        scaling: A name in :data:`SCALINGS`: how the singular values are shared out.
        basis: Principal directions of another table of the same width (that of the source vocabulary); by default the
            table's own.

    Raises:
        InvalidOptionError: If the rank is beyond min(V, D) or below 1, or the scaling is unknown.
        InvalidTableError: If the table holds NaN or infinite values, or the basis has another width.
    """
    check_rank(rank, *table.shape)
    if scaling not in SCALINGS:
        raise InvalidOptionError(f"The scaling is {scaling!r}. Choose one of: {', '.join(SCALINGS)}.")
    basis = basis or principal_basis(table)
    if len(basis.values) != table.shape[1]:
        raise InvalidTableError(
            f"The basis is of a table of {len(basis.values)} columns; this one has {table.shape[1]}."
        )
    check_rank(rank, basis.n_rows, len(basis.values))
    values = basis.values[:rank].clamp(min=_SMALLEST * float(basis.values[0]) or 1.0)
    lengths = SCALINGS[scaling](values, *table.shape)
    directions = basis.vectors[:, :rank]
    to_factor = (directions / lengths).to(table.device, torch.float32)
    factor = torch.empty(len(table), rank, dtype=torch.float32, device=table.device)
    for start in range(0, len(table), _ROWS_PER_BLOCK):
        block = table[start : start + _ROWS_PER_BLOCK].detach().float()
        part = torch.mm(block, to_factor, out=factor[start : start + _ROWS_PER_BLOCK])
        if not torch.isfinite(part).all():
            raise InvalidTableError(_NOT_FINITE)
    return Factors(factor, (directions * lengths).T.to(table.device, torch.float32).contiguous())
