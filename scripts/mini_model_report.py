"""The report of ``benchmark_mini_model.py``: quality against arithmetic and time, transfer of tasks, and a plot."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from training_report import steps_to

FAMILIES = {"deep": "ModernBERT, 12 layers of width 192", "minilm": "all-MiniLM-L6-v2, 6 layers of width 384"}
LANGUAGES = {"sw": "Swahili", "hi": "Hindi", "de": "German"}
STARTS = ("random", "trans_tokenization")
ROUTES = {
    "standard": "standard",
    "minipost": "MiniPost",
    "imitation": "MiniPost, imitating",
    "minijoint": "MiniJoint",
}
COLORS = {
    "standard": "tab:gray",
    "minipost": "tab:blue",
    "imitation": "tab:green",
    "minijoint": "tab:red",
}
TERA = 1e12

Cell = dict[str, Any]


def chosen(done: dict[str, Cell], family: str, code: str, start: str) -> dict[str, list[Cell]]:
    """Return the runs of each route."""
    rows: dict[str, list[Cell]] = {}
    for run in done.values():
        if (run["family"], run["language"], run["start"]) == (family, code, start):
            rows.setdefault(run["route"], []).append(run)
    return rows


def curve(runs: list[Cell]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return teraflops, seconds and bits per byte, means over seeds."""
    flops = np.asarray(runs[0]["flops"]) / TERA
    return flops, np.mean([run["seconds"] for run in runs], 0), np.mean([run["bits_per_byte"] for run in runs], 0)


def ratio(total: float, reached: float | None) -> str:
    """Say how many times less was needed."""
    return "never" if reached is None else "–" if not reached else f"{total / reached:.2f}"


def rows_of(done: dict[str, Cell], family: str, ratios: dict[tuple[str, str], list[float]]) -> list[str]:
    """Return the table of one primary model; notes the ratios that were reached."""
    lines = [
        "| language | start | route | seeds | steps | bits per byte: start | half | end | TFLOP | seconds "
        "| to the standard's end: TFLOP | FLOP ratio | seconds ratio | FLOP ratio to the random standard's end |",
        "|---|---|---|" + "---:|" * 11,
    ]
    for code, language in LANGUAGES.items():
        baseline = chosen(done, family, code, "random").get("standard")
        for start in STARTS:
            found = chosen(done, family, code, start)
            goal = curve(found["standard"]) if "standard" in found else None
            for route, name in ROUTES.items():
                if route not in found:
                    continue
                flops, seconds, values = curve(found[route])
                half = float(np.interp(flops[-1] / 2, flops, values))
                reached: list[str] = ["–"] * 4
                if baseline is not None and (route, start) != ("standard", "random"):
                    end = curve(baseline)
                    reached[3] = ratio(end[0][-1], steps_to(flops, values, end[2][-1]))
                if goal is not None and route != "standard":
                    by_flops = steps_to(flops, values, goal[2][-1])
                    by_seconds = steps_to(seconds, values, goal[2][-1])
                    reached[0] = "never" if by_flops is None else f"{by_flops:.1f}"
                    reached[1], reached[2] = ratio(goal[0][-1], by_flops), ratio(goal[1][-1], by_seconds)
                    ratios.setdefault((route, start), []).append(goal[0][-1] / by_flops if by_flops else float("nan"))
                lines.append(
                    f"| {language} | {start} | {name} | {len(found[route])} | {found[route][0]['steps'][-1]} "
                    f"| {values[0]:.3f} | {half:.3f} | {values[-1]:.3f} | {flops[-1]:.1f} | {seconds[-1]:.0f} "
                    f"| {' | '.join(reached)} |"
                )
    return lines


def summary(ratios: dict[tuple[str, str], list[float]]) -> list[str]:
    """Return the mean ratios."""
    lines = [
        "| route | start | mean FLOP ratio where reached | smallest | largest | reached |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (route, start), values in sorted(ratios.items()):
        there = [value for value in values if value == value]
        if there:
            lines.append(
                f"| {ROUTES[route]} | {start} | {np.mean(there):.2f} | {min(there):.2f} | {max(there):.2f} "
                f"| {len(there)} of {len(values)} |"
            )
    return lines


def task_rows(tasks: dict[str, Cell], done: dict[str, Cell]) -> list[str]:
    """Return the table of tasks: English itself, then each language after the swap."""
    kinds = sorted({(cell["family"], cell["task"]) for cell in tasks.values()})
    lines = ["| primary | task | route | start | English | " + " | ".join(LANGUAGES.values()) + " |"]
    lines.append("|---|---|---|---|" + "---:|" * (len(LANGUAGES) + 1))
    for family, task in kinds:
        for route, name in ROUTES.items():
            for start in ("untouched", *STARTS):
                cells = {
                    cell["language"]: cell["accuracy"]
                    for cell in tasks.values()
                    if (cell["family"], cell["task"], cell["route"], cell["start"]) == (family, task, route, start)
                }
                if cells:
                    shown = [f"{cells[code]:.3f}" if code in cells else "" for code in ("en", *LANGUAGES)]
                    lines.append(f"| {family} | {task} | {name} | {start} | {' | '.join(shown)} |")
    return lines


def plot(path: Path, done: dict[str, Cell]) -> bool:
    """Draw quality against arithmetic; False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    families = [family for family in FAMILIES if any(run["family"] == family for run in done.values())]
    figure, axes = pyplot.subplots(
        len(families), len(LANGUAGES), figsize=(5 * len(LANGUAGES), 3.8 * len(families)), squeeze=False
    )
    for line, family in zip(axes, families, strict=True):
        for axis, (code, language) in zip(line, LANGUAGES.items(), strict=True):
            for start in STARTS:
                for route, runs in chosen(done, family, code, start).items():
                    flops, _, values = curve(runs)
                    style = "--" if start == "random" else "-"
                    axis.plot(
                        flops, values, style, color=COLORS[route], marker="o", ms=3, label=f"{ROUTES[route]}, {start}"
                    )
            axis.set_title(f"{family}, {language}")
            axis.set_xlabel("TFLOP spent on the language")
            axis.set_ylabel("bits per byte of the full model")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return True


def notes(facts: dict[str, Any]) -> list[str]:
    """Say what was done once, before any language."""
    lines = []
    for name, fact in facts.items():
        if "alignment" in fact:
            own, full = (fact["alignment"][which]["bits_per_byte"] for which in ("mini", "full"))
            lines.append(
                f"- The mini-model `{name}`: {fact['cost']['steps']} steps on English, once, "
                f"{fact['cost']['flops'] / TERA:.1f} TFLOP, {fact['cost']['seconds']:.0f} s; held-out English "
                f"{own:.3f} bits per byte, the full model {full:.3f}."
            )
        else:
            lines.append(
                f"- The model `{name}`: {fact['parameters']:,} parameters, trained on {fact['tokens']:,} tokens of "
                f"English in {fact['seconds']:.0f} s, last loss {fact['last_loss']:.2f}."
            )
    return lines


def write_report(out: Path, done: dict[str, Cell], tasks: dict[str, Cell], facts: dict[str, Any]) -> None:
    """Write the report, the plot and all figures beside each other."""
    kept = {"models": facts, "runs": [done[name] for name in sorted(done)], "tasks": tasks}
    out.with_suffix(".json").write_text(json.dumps(kept, indent=0), encoding="utf-8")
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {platform.machine()}"
    lines = [
        "# Mini-model adaptation",
        "",
        "Marchisio et al. 2023 (arXiv 2212.10503) learn a language's embedding table on a shallow model that is "
        "aligned with the full one, and put it into the full one. Here every route may spend the same arithmetic on a "
        "language (floating-point operations of the training steps; the head at masked positions only, in all "
        "routes). Bits per byte are those of the *full* model on held-out text, with the table put into it. *FLOP "
        "ratio*: what the standard route spends, over what the route needs to reach the quality where the standard "
        "route ends with the same start, or with the random one. Seconds are those of one thread beside other work. "
        "`random`: every row but the special tokens' is drawn anew, as in the paper.",
        "",
        f"- {datetime.now():%Y-%m-%d}, {versions}.",
        *notes(facts),
    ]
    ratios: dict[tuple[str, str], list[float]] = {}
    for family, title in FAMILIES.items():
        if any(run["family"] == family for run in done.values()):
            lines += ["", f"## {title}", "", *rows_of(done, family, ratios)]
    lines += ["", "## Mean over languages and primary models", "", *summary(ratios)]
    if tasks:
        lines += [
            "",
            "## Tasks: English labels, embeddings frozen, table swapped",
            "",
            "Accuracy; topics on SIB-200's test files, parts of speech on Parallel UD (English: GUM's; none "
            "in Swahili). *untouched*: the task model with its English table and tokenizer on that text.",
            "",
            *task_rows(tasks, done),
        ]
    if plot(out.with_suffix(".png"), done):
        lines += ["", f"![Bits per byte against arithmetic]({out.with_suffix('.png').name})"]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
