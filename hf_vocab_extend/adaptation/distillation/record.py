"""What an extension says of itself after its rows were distilled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .compact_rows import CompactRows
from .guard import Guard
from .loop import Outcome

if TYPE_CHECKING:
    from ...result import VocabExtension

DIGITS = 4


def finish(
    extension: VocabExtension,
    rows: CompactRows,
    guard: Guard,
    outcome: Outcome,
    said: Mapping[str, Any],
) -> VocabExtension:
    """Write the kept rows into the model, and say so in the mapping and the report.

    Args:
        extension: The extension; changed in place.
        rows: The kept rows.
        guard: What it has seen.
        outcome: What the run did.
        said: What else the report is to say: method, options, counts.
    """
    moved = rows.ids[rows.moved()].cpu().numpy() if guard.best_step else np.empty(0, np.int64)
    if len(moved):
        rows.write()
        refined = np.zeros(len(extension.mapping.tokens), bool)
        refined[moved] = True
        extension.mapping = extension.mapping.with_distilled(refined)
    extension.report = extension.report.with_distillation(
        {
            **said,
            "rows": len(moved),
            "steps": outcome.steps,
            "kept_step": guard.best_step,
            "held_out_before": _rounded(guard.start),
            "held_out_after": _rounded(guard.best),
            "seconds": round(outcome.seconds, 1),
        }
    )
    return extension


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores as a reader wants them."""
    return {name: round(value, DIGITS) for name, value in scores.items()}


__all__ = ["finish"]
