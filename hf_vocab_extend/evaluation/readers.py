"""Files of test data: documents, pairs, labelled texts and tagged sentences, plain or gzipped."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import CorpusError


def read_documents(path: str, limit: int | None = None) -> list[str]:
    """Read documents, one a line, or any other corpus that ``extend`` takes.

    Raises:
        CorpusError: If there is nothing.
    """
    from ..resources.corpus import open_corpus

    lines = (line for batch in open_corpus(path).batches(1000) for line in batch if line.strip())
    return list(islice(lines, limit))


def read_pairs(path: str, limit: int | None = None) -> list[tuple[str, str]]:
    """Read translations: the last two columns of a TSV file, source language first; a header begins with ``id``.

    Raises:
        CorpusError: If there is no such file, no pair, or a line with one column.
    """
    rows = list(islice(_rows(path), limit))
    return [(row[-2], row[-1]) for _, row in rows]


def read_labelled(path: str, limit: int | None = None) -> list[tuple[str, str]]:
    """Read label and text: columns of these names, or the two columns of a TSV file without a header.

    Raises:
        CorpusError: If there is no such file, nothing in it, or a line with one column.
    """
    found = []
    for header, row in islice(_rows(path), limit):
        label = header.index("label") if "label" in header else len(row) - 2
        text = header.index("text") if "text" in header else len(row) - 1
        found.append((row[label], row[text]))
    return found


def read_tagged(path: str, limit: int | None = None) -> list[tuple[list[str], list[str]]]:
    """Read words and tags: JSON lines with ``tokens`` and ``upos`` (or ``tags``), or a word and its tag a line.

    In the second form an empty line ends a sentence.

    Raises:
        CorpusError: If there is no such file, nothing in it, or a line of neither form.
    """
    json_lines = Path(path).name.removesuffix(".gz").endswith((".jsonl", ".json"))
    reader: Callable[[str], Iterator[tuple[list[str], list[str]]]] = _json_tags if json_lines else _column_tags
    return _some(list(islice(reader(path), limit)), path)


def _json_tags(path: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield sentences of a file of JSON lines."""
    for number, line in enumerate(_lines(path), start=1):
        try:
            data = json.loads(line)
            yield list(data["tokens"]), list(data["upos"] if "upos" in data else data["tags"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                f"Line {number} of '{path}' is no JSON object with 'tokens' and 'upos' or 'tags'. Correct it."
            ) from error


def _column_tags(path: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield sentences of a file with a word and its tag a line."""
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*_lines(path), ""], start=1):
        if line.strip():
            cells = line.split("\t")
            if len(cells) < 2:
                raise CorpusError(f"Line {number} of '{path}' has no tab between word and tag. Correct it.")
            words.append(cells[0])
            tags.append(cells[-1])
        elif words:
            yield words, tags
            words, tags = [], []


def _rows(path: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the header (empty without one) and the cells of each line of a TSV file."""
    header: list[str] = []
    n_rows = 0
    for number, line in enumerate(_lines(path), start=1):
        cells = line.split("\t")
        if number == 1 and (cells[0].lower() == "id" or "label" in cells):
            header = cells
            continue
        if len(cells) < 2 or (header and len(cells) != len(header)):
            raise CorpusError(
                f"Line {number} of '{path}' has {len(cells)} columns and needs {len(header) or 2}. Put tabs between."
            )
        n_rows += 1
        yield header, cells
    _some([None] * n_rows, path)


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of a text file, plain or gzipped.

    Raises:
        CorpusError: If it cannot be read as UTF-8.
    """
    opened: Any = gzip.open if path.endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise CorpusError(
            f"'{path}' cannot be read as UTF-8 text ({error}). Give a file of text, or its .gz."
        ) from error


def _some(found: list[Any], path: str) -> list[Any]:
    """Return what was found.

    Raises:
        CorpusError: If it is nothing.
    """
    if not found:
        raise CorpusError(f"'{path}' holds nothing to test on. Give a file with lines.")
    return found


__all__ = ["read_documents", "read_labelled", "read_pairs", "read_tagged"]
