"""The report of ``benchmark_training.py``: tables, the ratio of steps, and a plot."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

SHOWN = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the budget in the table."""
TITLES = {"causal-sw": "causal, Swahili", "causal-hi": "causal, Hindi", "masked-sw": "masked, Swahili"}
MARKS = "osD^vPX*<>hd"

Cell = dict[str, Any]


def label(run: Cell) -> str:
    """Name of a row."""
    return run["start"] + (", stages" if run["stages"] else "")


def grouped(done: dict[str, Cell], setting: str) -> dict[str, list[Cell]]:
    """Return the runs of a setting by row."""
    rows: dict[str, list[Cell]] = {}
    for run in done.values():
        if f"{run['kind']}-{run['language']}" == setting:
            rows.setdefault(label(run), []).append(run)
    return rows


def curve(runs: list[Cell]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and the mean bits per byte over seeds."""
    return np.asarray(runs[0]["steps"]), np.mean([run["bits_per_byte"] for run in runs], axis=0)


def steps_to(steps: np.ndarray, values: np.ndarray, goal: float) -> float | None:
    """Return the step at which a curve first is at or below the goal, between two points on the line between them."""
    below = np.flatnonzero(values <= goal)
    if not len(below):
        return None
    at = int(below[0])
    if at == 0:
        return 0.0
    share = (values[at - 1] - goal) / (values[at - 1] - values[at])
    return float(steps[at - 1] + share * (steps[at] - steps[at - 1]))


def table(rows: dict[str, list[Cell]]) -> list[str]:
    """Return the table of one setting, best first."""
    lines = [
        f"| start | seeds | {' | '.join(f'{share:.0%}' for share in SHOWN)} | steps to random's end "
        "| ratio | English | seconds |",
        "|---|---:|" + "---:|" * (len(SHOWN) + 4),
    ]
    random = curve(rows["random"]) if "random" in rows else None
    for name, runs in sorted(rows.items(), key=lambda item: curve(item[1])[1][-1]):
        steps, values = curve(runs)
        ends = [run["bits_per_byte"][-1] for run in runs]
        spread = f" ± {np.std(ends, ddof=1):.3f}" if len(ends) > 1 else ""
        cells = [f"{values[list(steps).index(round(share * steps[-1]))]:.3f}" for share in SHOWN]
        reached = None if random is None else steps_to(steps, values, float(random[1][-1]))
        if reached is None:
            ratio = ["never", "–"]
        elif reached < 1:
            ratio = [f"{reached:.0f}", f"over {steps[-1]}"]
        else:
            ratio = [f"{reached:.0f}", f"{steps[-1] / reached:.1f}"]
        english = np.mean([run["english"] for run in runs], axis=0)
        seconds = np.mean([run["seconds"] for run in runs])
        cells[-1] += spread
        lines.append(
            f"| {name} | {len(runs)} | {' | '.join(cells)} | {' | '.join(ratio)} "
            f"| {english[0]:.3f} to {english[1]:.3f} | {seconds:.0f} |"
        )
    return lines


def plot(path: Path, done: dict[str, Cell]) -> bool:
    """Draw the curves; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = [setting for setting in TITLES if grouped(done, setting)]
    figure, axes = pyplot.subplots(1, len(settings), figsize=(5 * len(settings), 4.2), squeeze=False)
    colors = pyplot.get_cmap("tab20").colors
    names = sorted({label(run) for run in done.values()})
    for axis, setting in zip(axes[0], settings, strict=True):
        for name, runs in grouped(done, setting).items():
            steps, values = curve(runs)
            at = names.index(name)
            style = "--" if name.endswith("stages") else "-"
            axis.plot(steps, values, style, color=colors[at % 20], marker=MARKS[at % len(MARKS)], ms=3, label=name)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_title(TITLES[setting])
        axis.set_xlabel("steps")
        axis.set_ylabel("bits per byte, held-out text")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return True


def write_report(out: Path, done: dict[str, Cell], facts: dict[str, Any]) -> None:
    """Write the report, the plot and all figures beside each other."""
    out.with_suffix(".json").write_text(
        json.dumps({"models": facts, "runs": [done[name] for name in sorted(done)]}, indent=0), encoding="utf-8"
    )
    lines = ["# Continued pretraining from each start", ""]
    for kind, fact in facts.items():
        lines.append(
            f"- The {kind} reference model: {fact['parameters']:,} parameters, trained from scratch on "
            f"{fact['tokens']:,} tokens of English ({fact['tokens_in_text']:,} in the text) in "
            f"{fact['seconds']:.0f} s with {fact['threads']} thread(s), last loss {fact['last_loss']:.3f}."
        )
    some = next(iter(done.values()), None)
    if some is not None:
        lines.append(
            f"- Each run: {some['steps'][-1]} steps of the same text of the new language in the seed's order. "
            "Bits per byte of held-out text at shares of the budget; the mean over seeds, at the end with the "
            "standard deviation. *Ratio*: the budget over the steps to the quality where the random start ends."
        )
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()}"
    lines.append(f"- {datetime.now():%Y-%m-%d}, {versions}.")
    for setting, title in TITLES.items():
        rows = grouped(done, setting)
        if rows:
            lines += ["", f"## {title}", "", *table(rows)]
    if plot(out.with_suffix(".png"), done):
        lines += ["", f"![Bits per byte against steps]({out.with_suffix('.png').name})"]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
