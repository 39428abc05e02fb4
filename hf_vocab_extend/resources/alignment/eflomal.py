"""Alignment by the program `eflomal`, where it is installed: it is run as a program of its own, on numbers.

Ostling and Tiedemann (2016), Efficient Word Alignment with Markov Chain Monte Carlo. It samples, so that two runs
differ a little.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ..._logging import get_logger
from ...errors import AlignmentError, MissingDependencyError
from .bitext import Bitext
from .counts import LinkArrays, sum_links, sum_parts
from .links import AlignerOptions, Links
from .pharaoh import check_links, parse_links
from .ragged import take_rows

PROGRAM = "eflomal-align"
BATCH_LINES = 65536
_MAX_UNITS = 1000  # eflomal passes over sentences of 1024 words and more
_TAIL = 600

logger = get_logger(__name__)


def find_program() -> str:
    """Return where the program is: on the search path, or beside the running Python.

    Raises:
        MissingDependencyError: If it is in neither place.
    """
    found = shutil.which(PROGRAM) or shutil.which(PROGRAM, path=str(Path(sys.executable).parent))
    if found is None:
        raise MissingDependencyError(
            f"The program '{PROGRAM}' is neither on the search path nor beside this Python. Install it with: "
            "pip install eflomal, or choose an aligner that is built in."
        )
    return found


def align_eflomal(bitext: Bitext, options: AlignerOptions) -> Links:
    """Align with eflomal, both directions; every link that it draws counts 1.

    Args:
        bitext: The text.
        options: ``max_length`` and ``threads`` are used; the rest is the program's own default.

    Raises:
        MissingDependencyError: If the program is not installed.
        AlignmentError: If it fails, or writes something else than one line of links for each pair.
    """
    program = find_program()
    lengths = np.stack([np.diff(bitext.source_offsets), np.diff(bitext.target_offsets)])
    longest = min(options.max_length, _MAX_UNITS)
    chosen = np.flatnonzero((lengths.min(0) > 0) & (lengths.max(0) <= longest))
    if len(chosen) < len(bitext):
        logger.warning("%d of %d pairs are empty or longer than %d units and are left out of the alignment.",
                       len(bitext) - len(chosen), len(bitext), longest)  # fmt: skip
    if not len(chosen):
        return Links.empty()
    part = bitext.take(chosen)
    with tempfile.TemporaryDirectory(prefix="hf_vocab_extend-") as folder:
        _write_text(part, Path(folder) / "text")
        _run(program, Path(folder), options.threads)
        forward, backward = (_read_links(part, Path(folder) / name) for name in ("forward", "backward"))
    source, target, ones, zeros = backward
    return Links(*sum_parts([forward, (source, target, zeros, ones)]))


def _write_text(bitext: Bitext, path: Path) -> None:
    """Write the pairs as lines ``units ||| units``, each unit as its number."""
    sides = [
        (np.char.mod("%d", np.arange(len(units))), ids, offsets.tolist())
        for units, ids, offsets in (
            (bitext.source, bitext.source_ids, bitext.source_offsets),
            (bitext.target, bitext.target_ids, bitext.target_offsets),
        )
    ]
    words = [names[ids].tolist() for names, ids, _ in sides]
    with path.open("w", encoding="ascii") as file:
        for pair in range(len(bitext)):
            left, right = (
                " ".join(words[side][offsets[pair] : offsets[pair + 1]]) for side, (_, _, offsets) in enumerate(sides)
            )
            file.write(f"{left} ||| {right}\n")


def _run(program: str, folder: Path, threads: int | None) -> None:
    """Run the program in both directions.

    Raises:
        AlignmentError: If it cannot be started, or ends with an error; the end of its messages is quoted.
    """
    command = [program, "-i", str(folder / "text"), "-f", str(folder / "forward"), "-r", str(folder / "backward")]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    try:
        done = subprocess.run(command, capture_output=True, env=environment, cwd=folder, check=False)
    except OSError as error:
        raise AlignmentError(f"'{PROGRAM}' cannot be started ({error}). Install it anew.") from error
    if done.returncode:
        raise AlignmentError(f"'{PROGRAM}' ended with status {done.returncode}.{_tail(done.stderr)}")
    missing = [name for name in ("forward", "backward") if not (folder / name).is_file()]
    if missing:
        raise AlignmentError(f"'{PROGRAM}' wrote no file of {missing[0]} links.{_tail(done.stderr)}")


def _tail(messages: bytes) -> str:
    """Return the end of a program's messages as a sentence."""
    text = " ".join(messages.decode("utf-8", "replace").split())
    return f" Its last words: ...{text[-_TAIL:]}" if text else " It said nothing: is there room for temporary files?"


def _read_links(bitext: Bitext, path: Path) -> LinkArrays:
    """Return the source unit, the target unit and the number of each link of one direction, and zeros.

    Raises:
        AlignmentError: If there is not one line of links for each pair.
    """
    lines = path.read_text(encoding="ascii", errors="replace").split("\n")
    n_lines = len(lines) - 1  # every line has an end, so what is cut off does not count
    if n_lines != len(bitext) or lines[-1]:
        raise AlignmentError(
            f"'{PROGRAM}' wrote {n_lines} whole lines of {path.name} links for {len(bitext)} pairs: it stopped early, "
            "or the disk is full. Free space for temporary files and run it again."
        )
    parts = []
    for start in range(0, n_lines, BATCH_LINES):
        rows = np.arange(start, min(start + BATCH_LINES, n_lines))
        line_of, source, target = parse_links(lines[start : start + BATCH_LINES], start + 1, f"'{PROGRAM}'")
        found = []
        for ids, offsets, words, side in (
            (bitext.source_ids, bitext.source_offsets, source, "source"),
            (bitext.target_ids, bitext.target_offsets, target, "target"),
        ):
            units, inner = take_rows(ids, offsets, rows)
            check_links(line_of, words, np.diff(inner), start + 1, side, f"'{PROGRAM}'")
            found.append(units[inner[line_of] + words])
        parts.append(sum_links(found[0], found[1], np.ones(len(line_of)), np.zeros(len(line_of))))
    return sum_parts(parts)


__all__ = ["align_eflomal", "find_program"]
