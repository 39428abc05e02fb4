"""Curves of a training run: as a picture where matplotlib is there, and as a table everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._optional import require
from ..errors import InvalidOptionError, MissingDependencyError
from ..origin import origin_of

CURVES_FILE = "training_curves.png"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, told apart by colour-blind readers, on top of marks and dashes."""
_MARKS = "osD^vPX"
_BITS = "bits_per_byte_"
_DRIFT = {"drift_new_": "new rows", "drift_old_": "old rows"}
_TABLE_ROWS = 12

History = Sequence[Mapping[str, Any]]


def bits_names(history: History) -> list[str]:
    """Return the names of the texts whose bits per byte a history holds."""
    return list(dict.fromkeys(key.removeprefix(_BITS) for entry in history for key in entry if key.startswith(_BITS)))


def curves_table(history: History) -> str:
    """Return a history as a Markdown table: steps, tokens, bits per byte by text, drift of new and old rows.

    Long histories are thinned to about a dozen rows; the first and the last one stay.

    Args:
        history: ``history`` of :class:`~hf_vocab_extend.adaptation.measures.MeasuresPart`.
    """
    names = bits_names(history)
    drift = [key for key in dict.fromkeys(key for entry in history for key in entry) if key.startswith(tuple(_DRIFT))]
    columns = [(f"{_BITS}{name}", f"bits per byte, {name}") for name in names]
    columns += [(key, f"drift of {_drift_label(key)}") for key in drift]
    lines = ["| step | tokens | " + " | ".join(_cell(label) for _, label in columns) + " |"]
    lines.append("|---:|---:|" + "---:|" * len(columns))
    for entry in _thinned(history):
        numbers = [f"{entry[key]:.4f}" if key in entry else "" for key, _ in columns]
        lines.append(f"| {entry['step']:,} | {entry.get('trained_tokens', 0):,} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def plot_curves(
    history: History,
    path: str | Path,
    *,
    stages: Sequence[Mapping[str, Any]] = (),
    source_names: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draw bits per byte and drift of rows over the tokens trained on.

    Args:
        history: ``history`` of :class:`~hf_vocab_extend.adaptation.measures.MeasuresPart`, two entries or more.
        path: Where the PNG goes.
        stages: Stages with ``stage`` (name) and ``begin`` (optimizer step); their beginnings are marked.
        source_names: Texts of the source language; their curves are dashed.
        title: Title of the picture; none if empty.

    Raises:
        MissingDependencyError: If matplotlib is not installed.
        InvalidOptionError: If there are not two entries.
    """
    if len(history) < 2:
        raise InvalidOptionError(f"A curve needs two measures; the history has {len(history)}. Measure more often.")
    require("matplotlib", "plots", otherwise=" The numbers are in the report as well.")
    from matplotlib.figure import Figure

    drift = [key for key in dict.fromkeys(key for entry in history for key in entry) if key.startswith(tuple(_DRIFT))]
    panels = [
        ("bits per byte", [(f"{_BITS}{name}", name, name in source_names) for name in bits_names(history)]),
        ("distance from start / length at start", [(key, _drift_label(key), "_old_" in key) for key in drift]),
    ]
    panels = [panel for panel in panels if panel[1]]
    figure = Figure(figsize=(5.0 * max(1, len(panels)), 3.6), layout="constrained")
    tokens, unit = _scaled([entry.get("trained_tokens", 0) for entry in history])
    for place, (label, curves) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for index, (key, name, dashed) in enumerate(curves):
            points = [(x, entry[key]) for x, entry in zip(tokens, history, strict=True) if key in entry]
            style: dict[str, Any] = {"linestyle": "--" if dashed else "-", "marker": _MARKS[index % len(_MARKS)]}
            across, up = [x for x, _ in points], [y for _, y in points]
            axes.plot(across, up, color=_COLOURS[index % len(_COLOURS)], label=name, markersize=4, **style)
        for stage in stages[1:]:
            axes.axvline(_at_step(stage["begin"], history, tokens), color="0.6", linewidth=0.8, linestyle=":")
        axes.set_xlabel(f"training tokens{unit}")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0 if place > 1 else None)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    if title:
        figure.suptitle(title, fontsize="medium")
    figure.savefig(path, dpi=130, metadata={"Software": None})


def write_curves(training: Mapping[str, Any] | None, folder: Path) -> bool:
    """Draw the curves of a report's training into a folder, if there are curves and matplotlib is there.

    Returns:
        Whether the picture was written.
    """
    history = list((training or {}).get("history") or ())
    if (
        training is None
        or len(history) < 2
        or not (bits_names(history) or any("drift_new" in key for key in history[0]))
    ):
        return False
    source = [name for name, text in (training.get("texts") or {}).items() if text.get("source")]
    origin, path = origin_of(training), folder / CURVES_FILE
    title = f"Training of {origin.which}" if origin else ""
    try:
        plot_curves(history, path, stages=training.get("stages") or (), source_names=source, title=title)
    except MissingDependencyError:
        return False
    return True


def _drift_label(key: str) -> str:
    """Say which rows a drift is of."""
    prefix = next(prefix for prefix in _DRIFT if key.startswith(prefix))
    table = key.removeprefix(prefix)
    return _DRIFT[prefix] + ("" if table == "tied" else f", {table}")


def _scaled(tokens: Sequence[int]) -> tuple[list[float], str]:
    """Return numbers of tokens in a fitting unit, and its name."""
    for size, name in ((10**9, " (billions)"), (10**6, " (millions)"), (10**3, " (thousands)")):
        if max(tokens) >= 2 * size:
            return [number / size for number in tokens], name
    return [float(number) for number in tokens], ""


def _at_step(step: int, history: History, tokens: Sequence[float]) -> float:
    """Return how many tokens, in the unit of the axis, had been trained on at a step, between two measures."""
    pairs = list(zip([entry["step"] for entry in history], tokens, strict=True))
    for (first, low), (second, high) in zip(pairs, pairs[1:], strict=False):
        if first <= step <= second and second > first:
            return low + (high - low) * (step - first) / (second - first)
    return pairs[-1][1]


def _thinned(history: History) -> list[Mapping[str, Any]]:
    """Return about a dozen entries, the first and the last among them."""
    last = len(history) - 1
    if last < _TABLE_ROWS:
        return list(history)
    chosen = sorted({round(index * last / (_TABLE_ROWS - 1)) for index in range(_TABLE_ROWS)})
    return [history[index] for index in chosen]


def _cell(text: str) -> str:
    """Return text that cannot break a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


__all__ = ["CURVES_FILE", "bits_names", "curves_table", "plot_curves", "write_curves"]
