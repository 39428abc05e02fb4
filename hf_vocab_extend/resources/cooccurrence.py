"""Vectors from what occurs together: a sparse matrix weighted by mutual information and reduced by a truncated SVD.

Rows are words or tokens, columns the places that they occur in (sentence pairs, say). Weights are positive pointwise
mutual information, rows get length 1, and the SVD is randomised (Halko et al. 2011, arXiv 0909.4061).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from .._logging import progress
from .alignment.ragged import offsets_of

_OVERSAMPLING, _POWER_ITERATIONS = 20, 3


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A sparse matrix in CSR form.

    Attributes:
        offsets: Start of each row in the entries, int64, shape `(n_rows + 1,)`.
        columns: Columns, int64, shape `(n_entries,)`, ascending within a row.
        values: Values, float32, shape `(n_entries,)`.
        n_columns: Number of columns.
    """

    offsets: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    n_columns: int

    @classmethod
    def of(cls, rows: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> SparseRows:
        """Sort entries, of which no two share a row and a column."""
        order = np.lexsort((columns, rows))
        offsets = offsets_of(np.bincount(rows, minlength=shape[0]))
        return cls(
            torch.from_numpy(offsets),
            torch.from_numpy(columns[order].astype(np.int64)),
            torch.from_numpy(values[order].astype(np.float32)),
            shape[1],
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return len(self.offsets) - 1, self.n_columns

    def transposed(self) -> SparseRows:
        """Return the matrix with rows and columns exchanged."""
        rows = np.repeat(np.arange(self.shape[0]), np.diff(self.offsets.numpy()))
        return SparseRows.of(self.columns.numpy(), rows, self.values.numpy(), self.shape[::-1])

    def __matmul__(self, dense: torch.Tensor) -> torch.Tensor:
        """Return the product with a dense matrix `(n_columns, width)`, summed in the order of the columns."""
        return torch.nn.functional.embedding_bag(
            self.columns, dense, self.offsets, mode="sum", per_sample_weights=self.values, include_last_offset=True
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let dense arithmetic run in one thread: the last bits of a sum depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def association(
    rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int], *, min_count: int = 1
) -> tuple[np.ndarray, SparseRows]:
    """Weigh occurrences by positive pointwise mutual information.

    Args:
        rows: Row of each occurrence, shape `(n,)`; each (row, column) once.
        columns: Its column, shape `(n,)`.
        shape: Number of rows and of columns.
        min_count: Rows with fewer occurrences are left out.

    Returns:
        The rows that are kept, ascending, int64, shape `(n_kept,)`, and the matrix of them, each of length 1.
    """
    counts = np.bincount(rows, minlength=shape[0])
    frequent = counts[rows] >= min_count
    rows, columns = rows[frequent], columns[frequent]
    kept, places = np.unique(rows, return_inverse=True)
    in_column = np.bincount(columns, minlength=shape[1])
    expected = counts[rows].astype(np.float64) * in_column[columns]
    weights = np.maximum(np.log(len(rows) / expected), 1e-6)
    lengths = np.sqrt(np.bincount(places, weights * weights, len(kept)))
    return kept, SparseRows.of(places, columns, weights / lengths[places], (len(kept), shape[1]))


def left_factors(matrix: SparseRows, dim: int, seed: int = 0) -> torch.Tensor:
    """Return `U S` of a truncated SVD, float32, shape `(n_rows, min(dim, n_rows, n_columns))`.

    Args:
        matrix: Shape `(n_rows, n_columns)`.
        dim: Number of singular vectors.
        seed: Of the random start.
    """
    dim = min(dim, *matrix.shape)
    generator = torch.Generator().manual_seed(seed)
    width = min(dim + _OVERSAMPLING, *matrix.shape)
    with _one_thread():
        transposed = matrix.transposed()
        basis = matrix @ torch.randn(matrix.n_columns, width, generator=generator)
        for _ in progress(range(_POWER_ITERATIONS), desc="Decompose", unit=" rounds"):
            basis = matrix @ (transposed @ torch.linalg.qr(basis)[0])
        basis = torch.linalg.qr(basis)[0]
        left, values, _ = torch.linalg.svd((transposed @ basis).t(), full_matrices=False)
        return (basis @ left)[:, :dim] * values[:dim]
