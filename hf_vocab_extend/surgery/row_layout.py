"""Where each row of a new table comes from: one answer per table length, in whole arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..plan import MatchKind, VocabPlan


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Origin of every row of a table.

    Attributes:
        n_rows: Rows of the new table.
        n_kept: The first so many rows are taken over as a block (mode ``extend``).
        copied: Target rows that are copies, int64.
        sources: Their source rows, int64.
        new: Target rows of new tokens, int64, ascending: the plan's order.
        padded: Target rows that stand for no token, int64.
    """

    n_rows: int
    n_kept: int
    copied: np.ndarray
    sources: np.ndarray
    new: np.ndarray
    padded: np.ndarray

    @property
    def is_unchanged(self) -> bool:
        """Whether the new table is the old one."""
        return self.n_rows == self.n_kept and not len(self.copied) and not len(self.new) and not len(self.padded)


def lay_out(plan: VocabPlan, n_before: int, n_after: int) -> RowLayout:
    """Say where the rows of one table come from.

    A source id beyond the table (a head shorter than the input table) has no row to copy; its target is padding.

    Args:
        plan: The plan.
        n_before: Rows of the table now.
        n_after: Rows of the table to be.
    """
    new = plan.new_ids
    kept = n_before if plan.mode == "extend" else 0
    targets = plan.copied_ids
    targets = targets[(plan.kinds[targets] != MatchKind.SAME) | (kept == 0)]
    sources = plan.source_ids[targets]
    has_row = sources < n_before
    filled = np.zeros(n_after, bool)
    filled[:kept] = True
    filled[new] = True
    filled[targets[has_row]] = True
    return RowLayout(n_after, kept, targets[has_row], sources[has_row], new, np.flatnonzero(~filled))
