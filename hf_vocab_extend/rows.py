"""From a method's answer to the rows of every table: overrides, fallback and random rows, handled here alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .errors import InvalidTableError
from .mapping import RowKind, TokenMapping, assemble_mapping
from .methods import get_method_class
from .methods.base import FitContext, InitMethod, RowSource
from .methods.mixture import Mixture
from .methods.normal import Normal

if TYPE_CHECKING:
    from .methods.overrides import Entries
    from .surgery.sites import Site

_BIASES = frozenset({"bias", "logits_bias"})
FALLBACKS = ("subword", "mean", "normal")
_ROWS_PER_BLOCK = 16_384  # bounds the float64 copy that a mean needs


@dataclass(frozen=True)
class NewRows:
    """Rows of the plan's new tokens for any table over the source vocabulary.

    Attributes:
        kinds: :class:`~hf_vocab_extend.mapping.RowKind` of each new token, shape `(n_new,)`.
        mixture: Entries of the rows that are mixtures, `(n_new, n_source)`.
        predicted: Rows that are given as numbers: one source for each kind that needs it.
        trained: Which source rows may enter a mean, shape `(n_source,)`.
    """

    kinds: np.ndarray
    mixture: Mixture
    predicted: dict[RowKind, RowSource]
    trained: np.ndarray

    def __call__(self, table: torch.Tensor, site: Site) -> torch.Tensor:
        """Return the rows of one table.

        Args:
            table: Source table, shape `(n_source, width)`.
            site: Where the table sits; biases take the mean instead of numbers that were made for vectors.

        Returns:
            Float32 rows, shape `(n_new, width)`.
        """
        rows = self.mixture.rows(table)
        for kind, source in self.predicted.items():
            chosen = torch.from_numpy(np.flatnonzero(self.kinds == kind)).to(table.device)
            if len(chosen) == 0:
                continue
            if site.role in _BIASES:
                rows[chosen] = self.pad_row(table, site)
            else:
                rows[chosen] = source.rows(table)[chosen].to(rows)
        if not torch.isfinite(rows).all():
            raise InvalidTableError(
                f"The rows made for '{site.name}' hold NaN or infinite values. Nothing was changed."
            )
        return rows

    def pad_row(self, table: torch.Tensor, site: Site) -> torch.Tensor:
        """Return the row of a padding id: the mean of the trained source rows, float32, shape `(width,)`."""
        trained = torch.from_numpy(self.trained[: table.shape[0]]).to(table.device)
        total = torch.zeros(table.shape[1], dtype=torch.float64, device=table.device)
        for block, mask in zip(table.split(_ROWS_PER_BLOCK), trained.split(_ROWS_PER_BLOCK), strict=True):
            total += block[mask].double().sum(0)
        return total.div(max(1, int(trained.sum()))).float()


def fit_rows(
    context: FitContext, method: InitMethod, overrides: dict[int, Entries], fallback: str
) -> tuple[NewRows, TokenMapping]:
    """Find a row for every new token: named sources first, then the method, the fallback, and the normal distribution.

    Args:
        context: What methods may look at.
        method: The method.
        overrides: Named sources by target id; their weights are used as given.
        fallback: Name of the method for tokens that ``method`` does not cover.

    Returns:
        The rows, and the mapping that explains them.
    """
    plan = context.plan
    kinds = np.full(len(plan.new_ids), RowKind.NEW, np.uint8)
    named = np.asarray([index for index, target in enumerate(plan.new_ids) if int(target) in overrides], np.int64)
    kinds[named] = RowKind.OVERRIDE
    parts = [(named, Mixture.from_lists([overrides[int(plan.new_ids[i])] for i in named], n_source=context.n_source))]
    predicted: dict[RowKind, RowSource] = {}

    steps = [(method, RowKind.METHOD)]
    if fallback != method.name:
        steps.append((get_method_class(fallback)(), RowKind.FALLBACK))
    for step, kind in steps:
        open_rows = kinds == RowKind.NEW
        if not open_rows.any():
            break
        source = step.fit(context)
        found = np.flatnonzero(open_rows & np.asarray(source.covered))
        if isinstance(source, Mixture):
            kinds[found] = kind
            parts.append((found, source.select(found)))
        else:
            kind = _numbers_kind(step, kind)
            kinds[found] = kind
            predicted[kind] = source
        if step is method and context.shared is not None:  # what it asked for and did not cover is copied after all
            copied = np.flatnonzero((kinds == RowKind.NEW) & (context.shared >= 0))
            kinds[copied] = RowKind.EXACT
            entries = [[(int(source_id), 1.0)] for source_id in context.shared[copied]]
            parts.append((copied, Mixture.from_lists(entries, n_source=context.n_source)))
    if (kinds == RowKind.NEW).any():
        kinds[kinds == RowKind.NEW] = RowKind.RANDOM
        predicted.setdefault(RowKind.RANDOM, Normal().fit(context))

    mixture = _join(parts, len(kinds), context.n_source)
    return NewRows(kinds, mixture, predicted, context.trained), assemble_mapping(plan, kinds, mixture)


def _numbers_kind(method: InitMethod, kind: RowKind) -> RowKind:
    """Return the kind of rows that are numbers: random ones are always called so."""
    if method.name == Normal.name:
        return RowKind.RANDOM
    return RowKind.PREDICTED if kind is RowKind.METHOD else kind


def _join(parts: list[tuple[np.ndarray, Mixture]], n_rows: int, n_source: int) -> Mixture:
    """Place the rows of several mixtures in one, `(n_rows, n_source)`."""
    rows = [np.repeat(indices, np.diff(mixture.offsets)) for indices, mixture in parts]
    columns = [mixture.columns for _, mixture in parts]
    weights = [mixture.weights for _, mixture in parts]
    matched = np.zeros(n_rows, bool)
    for indices, mixture in parts:
        if mixture.norm_matched is not None:
            matched[indices] = mixture.norm_matched
    return Mixture.from_entries(
        np.concatenate(rows),
        np.concatenate(columns),
        np.concatenate(weights),
        n_rows=n_rows,
        n_source=n_source,
        norm_matched=matched if matched.any() else None,
    )
