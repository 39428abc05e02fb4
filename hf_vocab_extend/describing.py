"""Short texts about models and extensions, for ``repr``: no parameters, and no tables of thousands of rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .result import VocabExtension

INDENT = "  "


def model_text(model: Any) -> str:
    """Return class, layers and vocabulary of a model: "BertForMaskedLM, 12 layers, 30,522 x 768 token rows"."""
    from .surgery.config_tree import main_config

    told = [type(model).__name__]
    config: Any = getattr(model, "config", None)
    main = main_config(config) if hasattr(config, "get_text_config") else config
    layers, rows, width = (getattr(main, name, None) for name in ("num_hidden_layers", "vocab_size", "hidden_size"))
    if isinstance(layers, int):
        told.append(f"{layers} {'layer' if layers == 1 else 'layers'}")
    if isinstance(rows, int):
        told.append(f"{rows:,}" + (f" x {width:,}" if isinstance(width, int) else "") + " token rows")
    return ", ".join(told)


def extension_lines(extension: VocabExtension) -> list[str]:
    """Return the model, what was done, and how many rows are of which kind."""
    report = extension.report
    languages = f" for {', '.join(report.languages)}" if report.languages else ""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in report.counts_by_kind.items() if count)
    return [
        model_text(extension.model),
        f"mode {report.mode}{languages}, method {report.method}, fallback {report.fallback}",
        f"{report.sizes['source_tokens']:,} -> {report.sizes['target_tokens']:,} tokens; rows: {kinds or 'none'}",
    ]


def short_repr(owner: Any, lines: Iterable[str]) -> str:
    """Return a class and its lines, as ``__repr__`` gives them back.

    Args:
        owner: The object.
        lines: What is to be said of it; empty ones are left out.
    """
    return "\n".join([f"<{type(owner).__name__}", *(INDENT + line for line in lines if line)]) + ">"


__all__ = ["extension_lines", "model_text", "short_repr"]
