"""Starts measured steps in processes of their own and collects the lines of a report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")
"""Variables that limit the threads of torch, NumPy, Numba and tokenizers."""
HEADER = ("| step | seconds | CPU seconds | MiB above the inputs |", "|---|---|---|---|")


class Runner:
    """Starts workers and collects lines of the report."""

    def __init__(self, script: str, threads: int, peer_python: str | None = None) -> None:
        self.script, self.threads, self.peer_python, self.lines = Path(script).resolve(), threads, peer_python, []

    def run(self, name: str, folder: Path, *arguments: str) -> dict | None:
        """Run the script with ``--worker name`` in a process of its own; None for a peer without an interpreter."""
        python = self.peer_python if name.startswith("peer") else sys.executable
        if python is None:
            return None
        threads = dict.fromkeys(THREADS, str(self.threads))
        environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [python, str(self.script), "--worker", name, "--folder", str(folder), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def say(self, line: str = "") -> None:
        """Add a line to the report and show it."""
        self.lines.append(line)
        print(line, flush=True)

    def row(self, label: str, found: dict | None) -> None:
        """Add a table row of one measurement."""
        if found is None:
            self.say(f"| {label} | not run: no --peer-python | | |")
        else:
            self.say(f"| {label} | {found['seconds']:.2f} | {found['cpu']:.2f} | {found['mib']:.0f} |")
