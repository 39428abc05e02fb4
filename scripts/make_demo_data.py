"""Cut the demo's small English-Swahili sample from the full data folder.

The result is what ``hf_vocab_extend/demo/data`` ships: all TICO-19 training pairs, every second Bible verse of the
training split, and all TICO-19 test pairs (documents that occur in no training row).

    python scripts/make_demo_data.py --data DATA_FOLDER
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent.parent / "hf_vocab_extend" / "demo" / "data"


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a gzipped parallel file without its header, each ``[id, corpus, english, swahili]``."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file][1:]


def write_rows(path: Path, rows: list[list[str]]) -> None:
    """Write rows as gzipped TSV with a header; the same rows give the same bytes (no time stamp)."""
    lines = ["\t".join(["id", "corpus", "eng_Latn", "swh_Latn"])] + ["\t".join(row) for row in rows]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode("utf-8"), 9, mtime=0))


def main() -> None:
    """Write the two files of the sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with parallel/eng_Latn-swh_Latn.*.tsv.gz")
    parallel = parser.parse_args().data / "parallel"
    train = read_rows(parallel / "eng_Latn-swh_Latn.train.tsv.gz")
    test = read_rows(parallel / "eng_Latn-swh_Latn.test.tsv.gz")
    tico = [row for row in train if row[1] == "tico19"]
    bible = [row for row in train if row[1] == "bible"][::2]
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write_rows(OUTPUT / "eng-swh.train.tsv.gz", tico + bible)
    write_rows(OUTPUT / "eng-swh.test.tsv.gz", [row for row in test if row[1] == "tico19"])


if __name__ == "__main__":
    main()
