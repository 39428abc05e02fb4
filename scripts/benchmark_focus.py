"""Measure FOCUS and the normal initialisation against the package deepfocus and against transformers' resizing.

    python scripts/benchmark_focus.py --peer-python /path/to/other/venv/bin/python --out focus_benchmark.md

The peer's interpreter needs ``deepfocus`` and its dependencies; without ``--peer-python`` only our side is measured.
Every figure comes from a process of its own. Peak memory is what the step took above what the process held before it,
with the source table and the auxiliary vectors already loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch
from focus_workers import WORKERS, confused_tokens, make_bytes, make_real, make_table, make_tokenizers, make_vectors
from workers import HEADER, Runner


def ratios(left: dict, right: dict) -> str:
    """Say how many times the figures of one the figures of the other are."""
    parts = [f"{left[key] / max(right[key], 1e-9):.1f} times the {name}" for key, name in
             (("seconds", "seconds"), ("cpu", "CPU seconds"))]  # fmt: skip
    if right["mib"] >= 1:
        parts.append(f"{left['mib'] / right['mib']:.1f} times the memory")
    return ", ".join(parts)


def report_equality(runner: Runner, folder: Path, label: str) -> None:
    """Compare all rows of both on equal auxiliary vectors."""
    ours, peer = runner.run("ours_whole", folder), runner.run("peer_whole", folder)
    if ours is None or peer is None:
        runner.say(f"- {label}: skipped, no --peer-python")
        return
    left, right = np.load(folder / "ours.npy"), np.load(folder / "peer.npy")
    kinds = np.load(folder / "ours_kinds.npy")
    gap = np.abs(left[: len(right)] - right).max(1)
    names = {2: "mixed by both", 1: "copied", 0: "without a vector (random there, left to the fallback here)"}
    for kind, name in names.items():
        rows = gap[kinds[: len(right)] == kind]
        if len(rows):
            runner.say(f"- {label}, {name}: {len(rows)} rows, largest difference {rows.max():.2e}, "
                       f"rows that differ by more than 1e-5: {(rows > 1e-5).sum()}")  # fmt: skip


def report_kernel(runner: Runner, folder: Path, queries: int, candidates: int, dim: int, peer: bool) -> None:
    """Measure the step from vectors to rows, its floor, and the peer's same step."""
    (folder / "sizes.json").write_text(json.dumps({"queries": queries, "candidates": candidates, "dim": dim}))
    runner.say(f"\n### {queries:,} new tokens, {candidates:,} shared tokens, {dim} dimensions, rows of 768\n")
    for line in HEADER:
        runner.say(line)
    ours = runner.run("ours_kernel", folder)
    runner.row("ours: weights and rows", ours)
    for name, part in ours["floor"].items():
        runner.row(f"floor: {name}", part)
    floor = {key: sum(part[key] for part in ours["floor"].values()) for key in ("seconds", "cpu", "mib")}
    runner.row("floor: sum", floor)
    theirs = runner.run("peer_kernel", folder) if peer else None
    if peer:
        runner.row("deepfocus: the same", theirs)
    runner.say(
        f"\nOurs takes {ratios(ours, floor)} of the floor; {ours['entries'] / queries:.1f} sources for each token."
    )
    if theirs:
        gap = np.abs(np.load(folder / "ours_kernel.npy") - np.load(folder / "peer_kernel.npy")).max()
        runner.say(
            f"deepfocus takes {ratios(theirs, ours)} of ours. Largest difference of the first 500 rows: {gap:.1e}."
        )


def report_whole(runner: Runner, folder: Path) -> None:
    """Measure the whole initialisation apart from fastText."""
    runner.say(
        "\n### The whole call apart from fastText: 250,002 source tokens, 50,002 target tokens, 20,000 shared\n"
    )
    for line in HEADER:
        runner.say(line)
    ours, theirs = runner.run("ours_whole", folder), runner.run("peer_whole", folder)
    runner.row("ours: plan, weights, rows", ours)
    runner.row("deepfocus: FOCUS()", theirs)
    if theirs:
        runner.say(f"\ndeepfocus takes {ratios(theirs, ours)} of ours.")


def report_normal(runner: Runner, folder: Path) -> None:
    """Measure 50,000 random rows behind 250,002."""
    runner.say("\n## 50,000 random rows behind a table of 250,002 x 768\n")
    for line in HEADER:
        runner.say(line)
    ours, theirs = runner.run("ours_normal", folder), runner.run("transformers_normal", folder)
    runner.row("ours: normal", ours)
    runner.row("floor: covariance and product", ours["floor"])
    runner.row("transformers: resize_token_embeddings", theirs)
    runner.say(
        f"\nOurs takes {ratios(ours, ours['floor'])} of the floor, transformers {ratios(theirs, ours)} of ours."
    )
    runner.say(f"Spread of the new rows over that of the old: {ours['spread']:.3f} and {theirs['spread']:.1e}.")


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter of an environment with deepfocus")
    parser.add_argument("--parts", default="equality,kernel,whole,normal", help="comma-separated")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.folder)))
        return
    runner, parts = Runner(__file__, options.threads, options.peer_python), set(options.parts.split(","))
    runner.say(f"# FOCUS and normal, measured\n\n{options.threads} threads, torch {torch.__version__}, "
               f"Python {platform.python_version()}; load before: {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "equality" in parts:
            runner.say("## Equality with deepfocus on equal auxiliary vectors\n")
            make_tokenizers(folder, 20_000, 6_000, 3_000)
            make_vectors(folder, 50, share=0.95)
            make_table(folder, 20_002, 64)
            report_equality(runner, folder, "invented words")
            make_bytes(folder)
            make_table(folder, 8_000, 64)
            confused = frozenset(confused_tokens(folder))
            make_vectors(folder, 50, without=confused)
            report_equality(runner, folder, "byte-level English and Swahili")
            runner.say(
                f"  - {len(confused)} of its tokens are partial characters or white space, which deepfocus matches by "
                "decoded and stripped text, and so copies from another token; they got no vector here."
            )
            make_real(folder)
            report_equality(runner, folder, "all-MiniLM-L6-v2 and Swahili")
        make_table(folder, 250_002, 768)
        if "kernel" in parts:
            runner.say("\n## From vectors to rows")
            for dim in (300, 100):
                report_kernel(runner, folder, 30_000, 20_000, dim, peer=True)
            for dim in (300, 100):
                report_kernel(runner, folder, 50_000, 200_000, dim, peer=False)
        if "whole" in parts:
            make_tokenizers(folder, 250_000, 50_000, 20_000)
            make_vectors(folder, 300)
            report_whole(runner, folder)
        if "normal" in parts:
            report_normal(runner, folder)
    if options.out:
        options.out.write_text("\n".join(runner.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
