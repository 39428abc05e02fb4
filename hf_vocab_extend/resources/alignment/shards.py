"""Alignment in several processes: each aligns a shard of the pairs on its own, and the links are added up.

A worker is a fresh interpreter that reads numbers from a file and writes numbers to another, so it needs neither the
text nor the tokenizers, and scripts need no guard around their main part.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from ..._logging import get_logger
from ...errors import AlignmentError, VocabExtendError
from .aligners import align
from .bitext import Bitext
from .links import AlignerOptions, Links, merge_links
from .units import Units

_TAIL = 600
_WORKER = f"from {__name__} import main; main()"
_SIDES = ("source", "target")
_LINKS = ("source_index", "target_index", "forward", "backward")

logger = get_logger(__name__)


def align_in_processes(bitext: Bitext, options: AlignerOptions, processes: int) -> Links:
    """Align every `processes`-th pair in a process of its own and add up.

    Each process sees only its share, so the counts differ a little from those of one process; a share should hold some
    ten thousand pairs.

    Args:
        bitext: The text.
        options: As for one process; without ``threads`` each process takes its share of torch's threads.
        processes: How many, at least 1.

    Raises:
        AlignmentError: If a process fails; the end of its messages is quoted.
    """
    processes = min(processes, len(bitext))
    if processes <= 1:
        return align(bitext, options)
    threads = options.threads or max(1, torch.get_num_threads() // processes)
    options = dataclasses.replace(options, threads=threads, show_progress=False)
    with tempfile.TemporaryDirectory(prefix="hf_vocab_extend-") as name:
        folders = [Path(name) / str(shard) for shard in range(processes)]
        for shard, folder in enumerate(folders):
            folder.mkdir()
            _write_job(bitext.take(np.arange(shard, len(bitext), processes)), options, folder)
        _run_all(folders, threads)
        parts = [Links(**load_file(folder / "links.safetensors")) for folder in folders]
    return merge_links(parts)


def _run_all(folders: list[Path], threads: int) -> None:
    """Run one worker for each folder, all at once; the first failure ends all of them."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "OMP_NUM_THREADS": str(threads),
    }
    running = []
    try:
        for folder in folders:
            with (folder / "messages").open("wb") as messages:
                command = [sys.executable, "-c", _WORKER, str(folder)]
                running.append(subprocess.Popen(command, stdout=messages, stderr=messages, env=environment))
        for number, (process, folder) in enumerate(zip(running, folders, strict=True), start=1):
            if process.wait():
                said = " ".join((folder / "messages").read_text("utf-8", "replace").split())
                raise AlignmentError(
                    f"Process {number} of {len(folders)} ended with status {process.returncode}. Its last words: "
                    f"...{said[-_TAIL:]} Use fewer processes if memory ran out."
                )
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def _write_job(bitext: Bitext, options: AlignerOptions, folder: Path) -> None:
    """Write what a worker needs."""
    arrays: dict[str, np.ndarray] = {}
    for side in _SIDES:
        units = getattr(bitext, side)
        arrays |= {
            f"{side}_ids": getattr(bitext, f"{side}_ids"),
            f"{side}_offsets": getattr(bitext, f"{side}_offsets"),
        }
        arrays |= {f"{side}_unit_{name}": getattr(units, name) for name in ("offsets", "pieces", "frequency")}
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / "bitext.safetensors")
    (folder / "options.json").write_text(json.dumps(dataclasses.asdict(options)), encoding="utf-8")


def _read_job(folder: Path) -> tuple[Bitext, AlignerOptions]:
    """Read what :func:`_write_job` wrote."""
    arrays = load_file(folder / "bitext.safetensors")
    source, target = (
        Units(*(arrays[f"{side}_unit_{name}"] for name in ("offsets", "pieces", "frequency"))) for side in _SIDES
    )
    sides = {f"{side}_{name}": arrays[f"{side}_{name}"] for side in _SIDES for name in ("ids", "offsets")}
    options = AlignerOptions(**json.loads((folder / "options.json").read_text(encoding="utf-8")))
    return Bitext(source, target, **sides), options  # type: ignore[arg-type]


def work(folder: Path) -> None:
    """Do one worker's share: read its text, write its links."""
    bitext, options = _read_job(folder)
    links = align(bitext, options)
    arrays = {name: np.ascontiguousarray(getattr(links, name)) for name in _LINKS}
    save_file(arrays, folder / "links.safetensors")


def main() -> None:
    """Run a worker on the folder that the command line names."""
    try:
        work(Path(sys.argv[1]))
    except VocabExtendError as problem:
        sys.exit(str(problem))
