"""Rows of a table as the numbers that a network predicts, and back."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from ...surgery.low_rank import Basis, check_rank, principal_basis

SPACES = ("E", "F")
"""Where a loss is taken: on rows of the table, or on those of its orthonormal factor, as HyperOFA does."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Coordinates of rows along the table's first principal directions, or the rows themselves.

    Attributes:
        directions: Orthonormal columns, float32, shape `(D, R)`; None for the rows themselves.
        scale: Root mean square of an entry of the trained rows; coordinates are divided by it.
        decode_loss: What a loss multiplies coordinates by, float32, shape `(R, n)`; None for nothing.
    """

    directions: torch.Tensor | None
    scale: float
    decode_loss: torch.Tensor | None

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """Return coordinates of rows, `(n, D)` to `(n, R)`."""
        rows = rows.float() / self.scale
        return rows if self.directions is None else rows @ self.directions

    def decode(self, coordinates: torch.Tensor) -> torch.Tensor:
        """Return rows, `(n, R)` to `(n, D)`."""
        rows = coordinates if self.directions is None else coordinates @ self.directions.T
        return rows * self.scale


def make_coordinates(table: torch.Tensor, known: torch.Tensor, rank: int | None, space: str) -> Coordinates:
    """Choose the coordinates of a table.

    Args:
        table: Source table, `(n_source, D)`, on the CPU.
        known: Its rows that are learnt from, which set the scale, float32, shape `(n, D)`.
        rank: R; None for the full width.
        space: A name of :data:`SPACES`.

    Raises:
        InvalidOptionError: If the rank is beyond min(n_source, D) or below 1.
        InvalidTableError: If the table holds NaN or infinite values.
    """
    width = table.shape[1]
    if rank is not None:
        check_rank(rank, *table.shape)
    scale = float(known.double().square().mean().sqrt()) or 1.0
    if space == "E" and rank in (None, width):
        return Coordinates(None, scale, None)
    basis = principal_basis(table)
    kept = width if rank is None else rank
    directions = basis.vectors[:, :kept].float().contiguous()
    if space == "E":
        return Coordinates(directions, scale, directions.T.contiguous())
    return Coordinates(directions, scale, torch.diag(_whitening(basis, kept, len(known), scale)))


def _whitening(basis: Basis, rank: int, n_rows: int, scale: float) -> torch.Tensor:
    """Return what turns coordinates into those of the orthonormal factor, float32, shape `(R,)`.

    Its entries are scaled to a root mean square of about 1; no published loss depends on that.
    """
    values = basis.values[:rank].clamp(min=1e-6 * float(basis.values[0]) or 1.0)
    return (scale * n_rows**0.5 / values).float()


def table_key(table: torch.Tensor, known: np.ndarray) -> str:
    """Return a hexadecimal key of some rows of a table."""
    digest = hashlib.sha256(str(tuple(table.shape)).encode())
    for block in torch.from_numpy(known).to(table.device).split(1 << 14):
        digest.update(table[block].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


__all__ = ["SPACES", "Coordinates", "make_coordinates", "table_key"]
