"""The sparse matrix that nearly every method is: row t says which source tokens make up target token t."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InvalidTableError

_FLOATS_PER_BLOCK = 1 << 25  # float32 copy of a table in another dtype: 128 MiB at a time


@dataclass(frozen=True, eq=False)
class Mixture:
    """Sparse weights `(n_rows, n_source)` in CSR form; a row without entries is not covered.

    Attributes:
        offsets: Start of each row in ``columns``, int64, shape `(n_rows + 1,)`.
        columns: Source ids, int32, shape `(n_entries,)`, ascending within a row.
        weights: Weights, float32, shape `(n_entries,)`; a method's rows normally sum to 1.
        n_source: Number of source rows.
        norm_matched: Which rows are scaled to the length that their sources have on (weighted) average, bool, shape
            `(n_rows,)`; None for no row. A sum of vectors that point different ways is shorter than any of them.
    """

    offsets: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    n_source: int
    norm_matched: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check shapes, order and range once, so that no reader has to."""
        n_entries = len(self.columns)
        if len(self.offsets) < 1 or self.offsets[0] != 0 or self.offsets[-1] != n_entries:
            raise InvalidTableError(f"Row offsets end at {self.offsets[-1:]}, but there are {n_entries} entries.")
        if len(self.weights) != n_entries or np.any(np.diff(self.offsets) < 0):
            raise InvalidTableError("Columns, weights and row offsets of a mixture do not fit together.")
        if n_entries and (self.columns.min() < 0 or self.columns.max() >= self.n_source):
            raise InvalidTableError(f"A column of a mixture lies outside the {self.n_source} source rows.")
        if not np.isfinite(self.weights).all():
            raise InvalidTableError("A weight of a mixture is NaN or infinite.")
        if self.norm_matched is not None and self.norm_matched.shape != (self.n_rows,):
            raise InvalidTableError(
                f"norm_matched has shape {self.norm_matched.shape}, the mixture {self.n_rows} rows."
            )

    @classmethod
    def from_entries(
        cls,
        rows: np.ndarray,
        columns: np.ndarray,
        weights: np.ndarray,
        *,
        n_rows: int,
        n_source: int,
        norm_matched: np.ndarray | None = None,
    ) -> Mixture:
        """Build from triplets in any order; entries of one place are added up, zeros are dropped.

        Args:
            rows: Row of each entry, shape `(n_entries,)`.
            columns: Source id of each entry, shape `(n_entries,)`.
            weights: Weight of each entry, shape `(n_entries,)`.
            n_rows: Number of rows.
            n_source: Number of source rows.
            norm_matched: See the class, shape `(n_rows,)`.
        """
        places, inverse = np.unique(
            np.asarray(rows, np.int64) * n_source + np.asarray(columns, np.int64), return_inverse=True
        )
        summed = np.bincount(inverse, weights=np.asarray(weights, np.float64), minlength=len(places))
        places, summed = places[summed != 0], summed[summed != 0]
        offsets = np.zeros(n_rows + 1, np.int64)
        np.cumsum(np.bincount(places // n_source, minlength=n_rows), out=offsets[1:])
        columns = (places % n_source).astype(np.int32)
        return cls(offsets, columns, summed.astype(np.float32), n_source, norm_matched)

    @classmethod
    def from_lists(cls, entries: Sequence[Sequence[tuple[int, float]]], *, n_source: int) -> Mixture:
        """Build from one list of ``(source id, weight)`` per row."""
        counts = [len(row) for row in entries]
        flat = [pair for row in entries for pair in row]
        rows = np.repeat(np.arange(len(entries)), counts)
        columns = np.fromiter((pair[0] for pair in flat), np.int64, len(flat))
        weights = np.fromiter((pair[1] for pair in flat), np.float64, len(flat))
        return cls.from_entries(rows, columns, weights, n_rows=len(entries), n_source=n_source)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @property
    def covered(self) -> np.ndarray:
        """Which rows have entries, bool, shape `(n_rows,)`."""
        return np.diff(self.offsets) > 0

    def row(self, index: int) -> list[tuple[int, float]]:
        """Return the entries of one row, largest weight first, ties by lower source id."""
        part = slice(self.offsets[index], self.offsets[index + 1])
        pairs = zip(self.columns[part].tolist(), self.weights[part].tolist(), strict=True)
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """Multiply with a table.

        Args:
            table: Source table, shape `(n_source, width)`, any float dtype.

        Returns:
            Float32 rows on the table's device, shape `(n_rows, width)`; rows without entries are zero. Each row is
            summed on its own, in ascending order of source id, so it does not depend on block size or thread count.
            A table of width 1 is a bias; its numbers have no length to match.

        Raises:
            InvalidTableError: If the table has another number of rows.
        """
        sums = self._sums(table)
        if self.norm_matched is None or table.shape[1] == 1:
            return sums
        lengths = torch.linalg.vector_norm(sums, dim=1, keepdim=True)
        wanted = self._sums(torch.linalg.vector_norm(table.detach(), dim=1, keepdim=True, dtype=torch.float32))
        matched = torch.from_numpy(self.norm_matched).to(table.device)[:, None] & (lengths > 0) & (wanted > 0)
        return sums.mul_(torch.where(matched, wanted / lengths.clamp(min=torch.finfo(torch.float32).tiny), 1.0))

    def _sums(self, table: torch.Tensor) -> torch.Tensor:
        """Return weighted sums of the rows of a table, float32, shape `(n_rows, width)`."""
        if table.ndim != 2 or table.shape[0] != self.n_source:
            raise InvalidTableError(
                f"The mixture is over {self.n_source} source rows; got a table {tuple(table.shape)}."
            )
        table = table.detach()
        width = table.shape[1]
        result = torch.zeros(self.n_rows, width, dtype=torch.float32, device=table.device)
        if len(self.columns) == 0:
            return result
        if table.dtype == torch.float32 and table.is_contiguous():
            return self._sum(table, self.columns, result)
        used, columns = np.unique(self.columns, return_inverse=True)
        chosen = torch.from_numpy(used.astype(np.int64)).to(table.device)
        step = max(1, _FLOATS_PER_BLOCK // len(used))
        for start in range(0, width, step):
            block = table[:, start : start + step].index_select(0, chosen).float().contiguous()
            result[:, start : start + step] = self._sum(block, columns, result[:, start : start + step])
        return result

    def _sum(self, table: torch.Tensor, columns: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        """Return weighted sums of rows of a float32 table, shape of ``like``."""
        integer = np.int32 if len(columns) < 2**31 else np.int64
        sums = torch.nn.functional.embedding_bag(
            torch.from_numpy(columns.astype(integer)).to(table.device),
            table,
            torch.from_numpy(self.offsets.astype(integer)).to(table.device),
            mode="sum",
            per_sample_weights=torch.from_numpy(self.weights.copy()).to(table.device),
            include_last_offset=True,
        )
        return sums.view(like.shape)

    def select(self, indices: np.ndarray) -> Mixture:
        """Return the mixture of some rows, in the given order."""
        lengths = np.diff(self.offsets)[indices]
        offsets = np.zeros(len(indices) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        entries = np.repeat(self.offsets[:-1][indices], lengths) + within
        matched = None if self.norm_matched is None else self.norm_matched[indices]
        return Mixture(offsets, self.columns[entries], self.weights[entries], self.n_source, matched)
