"""Pairs of texts: parallel sentences or a bilingual dictionary, streamed and readable again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from .readers import decoded_lines, pick_column, read_file

Pair = tuple[str, str]


class Pairs:
    """Pairs ``(source_text, target_text)``; iterate as often as needed. Made by :func:`open_pairs`.

    Pairs with a blank side are skipped, white space around a text is removed.
    """

    def __init__(self, name: str, read: Callable[[], Iterable[Pair]]) -> None:
        """Take a function that starts a new reading."""
        self.name = name
        self._read = read
        self._fingerprint: str | None = None

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs.

        Raises:
            CorpusError: If a part cannot be read, or there is no pair at all.
        """
        empty = True
        for source, target in self._read():
            if (source := source.strip()) and (target := target.strip()):
                empty = False
                yield source, target
        if empty:
            raise CorpusError(f"The pairs {self.name} are empty: there is no pair with text on both sides.")

    def fingerprint(self) -> str:
        """Return the SHA-256 of the pairs (hexadecimal); the first call reads them once."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for source, target in self:
                digest.update(f"{len(source)}\t{source}\t{target}\n".encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def __repr__(self) -> str:
        return f"Pairs({self.name})"


def open_pairs(pairs: Any, *, columns: tuple[str, str] | None = None) -> Pairs:
    """Return pairs of texts as a stream that can be read again.

    Args:
        pairs: A TSV file (plain or compressed), two files of as many lines as a tuple ``(source_path, target_path)``,
            or an iterable of pairs (one that can be read once only is kept in memory).
        columns: Names of the source and the target column of a TSV file with a header; by default the file has no
            header and two columns.

    Raises:
        CorpusError: If something is missing, empty, not UTF-8, or not a pair.
    """
    if isinstance(pairs, Pairs):
        return pairs
    if isinstance(pairs, (str, os.PathLike)):
        opened = _open_tsv(Path(pairs), columns)
    elif _are_paths(pairs):
        source, target = (Path(path) for path in pairs)
        opened = Pairs(f"('{source}', '{target}')", lambda: _two_files(source, target))
    elif isinstance(pairs, Iterable):
        kept = list(pairs) if iter(pairs) is pairs else pairs
        opened = Pairs(f"({type(pairs).__name__})", lambda: _checked(kept))
    else:
        raise CorpusError(f"The pairs are of type {type(pairs).__name__}. Pass a TSV file, two files, or an iterable.")
    next(iter(opened))  # what is wrong at the start is said at once
    return opened


def _are_paths(value: Any) -> bool:
    """Whether a value is two existing paths."""
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(item, (str, os.PathLike)) and os.path.exists(item) for item in value)
    )


def _open_tsv(path: Path, columns: tuple[str, str] | None) -> Pairs:
    """Open a TSV file."""
    if not path.is_file():
        raise CorpusError(
            f"There is no file '{path}'. Give a TSV file, two files as a tuple, or an iterable of pairs."
        )
    return Pairs(f"'{path}'", lambda: _tsv(path, columns))


def _tsv(path: Path, columns: tuple[str, str] | None) -> Iterator[Pair]:
    """Yield two columns of a TSV file."""
    name = f"'{path.name}'"
    source, target, width = 0, 1, 2
    for number, line in enumerate(decoded_lines(path, name), start=1):
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and columns is not None:
            source, target = (fields.index(pick_column(fields, column, name)) for column in columns)
            width = len(fields)
            continue
        if len(fields) != width and line.strip():
            raise CorpusError(
                f"{name}, line {number}, has {len(fields)} columns, not {width}. "
                "For a file with a header and more columns, name the two with columns=."
            )
        if len(fields) == width:
            yield fields[source], fields[target]


def _two_files(source: Path, target: Path) -> Iterator[Pair]:
    """Yield the lines of two files side by side."""
    try:
        yield from zip(read_file(source, None), read_file(target, None), strict=True)
    except ValueError as error:
        if isinstance(error, CorpusError):
            raise
        raise CorpusError(f"'{source.name}' and '{target.name}' have different numbers of lines.") from error


def _checked(pairs: Iterable[Any]) -> Iterator[Pair]:
    """Yield the pairs of an iterable."""
    for index, pair in enumerate(pairs):
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise CorpusError(f"Item {index} of the pairs is {pair!r:.80}, not a pair of texts.")
        yield pair[0], pair[1]
