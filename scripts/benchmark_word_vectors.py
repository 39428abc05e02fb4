"""Times and measures the reading of files of word vectors.

    python scripts/benchmark_word_vectors.py --words 200000 --dim 100 --output scripts/results/word_vectors.md

Every step is a process of its own; memory is the peak of the process above what it holds before the step (imports).
The floor of text is NumPy's parser alone on the same numbers; a naive reader keeps Python floats, as many tools do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from focus_workers import Measure
from workers import HEADER, Runner

_ROWS = 2000


def write_files(folder: Path, n_words: int, dim: int) -> None:
    """Write the same vectors as text and as word2vec's binary, plain and compressed."""
    generator = np.random.default_rng(0)
    with (folder / "v.vec").open("w") as text, (folder / "v.bin").open("wb") as binary:
        text.write(f"{n_words} {dim}\n")
        binary.write(f"{n_words} {dim}\n".encode())
        for start in range(0, n_words, _ROWS):
            rows = generator.standard_normal((min(_ROWS, n_words - start), dim)).round(4).astype(np.float32)
            for place, row in enumerate(rows, start=start):
                text.write(f"eng:$w{place}$ " + " ".join(f"{value:.4f}" for value in row.tolist()) + "\n")
                binary.write(f"eng:$w{place}$ ".encode() + row.tobytes() + b"\n")
    with gzip.open(folder / "v.vec.gz", "wb", compresslevel=1) as packed:
        packed.write((folder / "v.vec").read_bytes())


def ours(name: str, cache: bool = True) -> Callable[[Path], object]:
    """Return a step that reads a file."""

    def read(folder: Path) -> object:
        from hf_vocab_extend.resources.word_vectors import read_word_vectors

        return read_word_vectors(folder / name, cache=cache)

    return read


def all_rows(folder: Path) -> object:
    """Map what was parsed and read every vector, block by block."""
    space = ours("v.vec")(folder)
    return sum(
        float(space.take(np.arange(at, min(at + _ROWS, len(space)))).sum()) for at in range(0, len(space), _ROWS)
    )


def parser_alone(folder: Path) -> object:
    """Parse the numbers, and do nothing else."""
    size = 0
    with (folder / "v.vec").open("rb") as file:
        next(file)
        while lines := file.readlines(1 << 21):
            size += np.fromstring(b" ".join(line.partition(b" ")[2] for line in lines).decode("ascii"), sep=" ").size
    return size


def naive(folder: Path) -> object:
    """Read into a dictionary of lists of floats."""
    with (folder / "v.vec").open(encoding="utf-8") as file:
        next(file)
        return {word: [float(x) for x in rest] for word, *rest in (line.split() for line in file)}


STEPS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "text": ("text, the first time", ours("v.vec")),
    "text-again": ("text, the second time", ours("v.vec")),
    "rows": ("text, the second time, and every vector read", all_rows),
    "packed": ("compressed text, the first time", ours("v.vec.gz")),
    "packed-again": ("compressed text, the second time", ours("v.vec.gz")),
    "binary": ("word2vec binary, the first time", ours("v.bin")),
    "binary-again": ("word2vec binary, the second time", ours("v.bin")),
    "floor": ("floor: NumPy's parser of numbers alone", parser_alone),
    "naive": ("lists of Python floats", naive),
}


def work(name: str, folder: Path) -> dict[str, float]:
    """Measure one step."""
    import hf_vocab_extend.resources.word_vectors  # noqa: F401  (imports are not measured)

    with Measure() as measure:
        kept = STEPS[name][1](folder)
    del kept
    return measure.to_dict()


def main() -> None:
    """Write files, measure all steps, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--words", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", choices=STEPS)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.worker, args.folder)))
        return
    runner = Runner(__file__, threads=1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HF_VOCAB_EXTEND_CACHE"] = str(folder / "cache")
        write_files(folder, args.words, args.dim)
        sizes = {path.name: path.stat().st_size >> 20 for path in sorted(folder.glob("v.*"))}
        runner.say(f"# Reading {args.words:,} word vectors of {args.dim} dimensions, measured\n")
        runner.say(
            f"One thread, NumPy {np.__version__}, Python {platform.python_version()}; load before: {load:.1f}. "
            "Keys look like `eng:$w17$`, so prefixes and marks are parsed too. Files in MiB: "
            + ", ".join(f"{key} {size}" for key, size in sizes.items())
            + f"; the vectors alone are {args.words * args.dim * 4 >> 20}.\n"
        )
        for line in HEADER:
            runner.say(line.replace("above the inputs", "above the imports"))
        for step, (label, _) in STEPS.items():
            runner.row(label, runner.run(step, folder))
    if args.output:
        args.output.write_text("\n".join(runner.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
