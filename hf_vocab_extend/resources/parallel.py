"""Pairs of texts: parallel sentences or a bilingual dictionary, streamed and readable again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from .corpus import DATASET_BATCH, HUB_NAME, is_dataset, load_hub_dataset
from .readers import READERS, REFUSED, decoded_lines, format_suffix, pick_column, read_file, read_text

Pair = tuple[str, str]
TRANSLATION = "translation"
"""Column of a dataset that holds one text for each language."""


class Pairs:
    """Pairs ``(source_text, target_text)``; iterate as often as needed. Made by :func:`open_pairs`.

    Pairs with a blank side are skipped and counted, white space around a text is removed.

    Attributes:
        name: What messages call the pairs.
        n_blank: Pairs with a blank side that the last whole reading skipped; None before one.
    """

    def __init__(self, name: str, read: Callable[[], Iterable[Pair]]) -> None:
        """Take a function that starts a new reading."""
        self.name = name
        self.n_blank: int | None = None
        self._read = read
        self._fingerprint: str | None = None

    def __iter__(self) -> Iterator[Pair]:
        """Yield the pairs.

        Raises:
            CorpusError: If a part cannot be read, or there is no pair at all.
        """
        empty, n_blank = True, 0
        for source, target in self.all():
            if source and target:
                empty = False
                yield source, target
            else:
                n_blank += 1
        self.n_blank = n_blank
        if empty:
            raise CorpusError(
                f"The pairs {self.name} are empty: there is no pair with text on both sides ({n_blank} with a blank "
                "side)."
            )

    def all(self) -> Iterator[Pair]:
        """Yield every pair, those with a blank side too, so that numbers of lines stay as they are."""
        for source, target in self._read():
            yield source.strip(), target.strip()

    def fingerprint(self) -> str:
        """Return the SHA-256 of the pairs (hexadecimal); the first call reads them once."""
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for source, target in self:
                digest.update(f"{len(source)}\t{source}\t{target}\n".encode("utf-8", "surrogatepass"))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def __repr__(self) -> str:
        return f"Pairs({self.name})"


def open_pairs(pairs: Any, *, columns: tuple[str, str] | None = None) -> Pairs:
    """Return pairs of texts as a stream that can be read again.

    Args:
        pairs: A TSV file (plain or compressed); two files of as many lines (Moses format) as a tuple
            ``(source_path, target_path)``; a ``datasets`` object or a name on the Hub (``"owner/name"`` or
            ``"owner/name:config@split"``, streamed); or an iterable of pairs (one that can be read once only is kept
            in memory).
        columns: Names of the source and the target column: of a TSV file with a header (by default it has no header
            and two columns), of a dataset (by default its two columns), or the two languages of a dataset whose column
            ``translation`` holds one text for each.

    Raises:
        CorpusError: If something is missing, empty, not UTF-8, or not a pair.
        MissingDependencyError: If the Hub is asked for and the extra ``data`` is not installed.
    """
    if isinstance(pairs, Pairs):
        return pairs
    if isinstance(pairs, (str, os.PathLike)):
        opened = _open_one(pairs, columns)
    elif is_dataset(pairs) or isinstance(pairs, Mapping):
        opened = _open_dataset(pairs, f"({type(pairs).__name__})", columns)
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
    """Whether a value is two paths; two strings cannot be two pairs.

    Raises:
        CorpusError: If a file is missing.
    """
    if not (isinstance(value, (tuple, list)) and len(value) == 2):
        return False
    if not all(isinstance(item, (str, os.PathLike)) for item in value):
        return False
    missing = [str(item) for item in value if not os.path.isfile(item)]
    if missing:
        raise CorpusError(
            f"There is no file '{missing[0]:.200}'. Two strings are taken as the files of the source and the target "
            "side; put a pair of texts into a list of pairs."
        )
    return True


def _open_one(value: str | os.PathLike[str], columns: tuple[str, str] | None) -> Pairs:
    """Open what one string names: a TSV file or a dataset on the Hub."""
    path = Path(value)
    if path.is_file():
        return Pairs(f"'{path}'", lambda: _tsv(path, columns))
    match = HUB_NAME.fullmatch(value) if isinstance(value, str) else None
    if match and not path.exists() and format_suffix(path) not in {*READERS, *REFUSED}:
        return _open_dataset(load_hub_dataset(str(value), match), f"'{value}'", columns)
    raise CorpusError(
        f"There is no file '{path}'. Give a TSV file, two files as a tuple, a dataset, or an iterable of pairs."
    )


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
        if not line.strip():
            yield "", ""
        elif len(fields) != width:
            raise CorpusError(
                f"{name}, line {number}, has {len(fields)} columns, not {width}. "
                "For a file with a header and more columns, name the two with columns=."
            )
        else:
            yield fields[source], fields[target]


def _two_files(source: Path, target: Path) -> Iterator[Pair]:
    """Yield the lines of two files side by side.

    Raises:
        CorpusError: If they are of unequal length, or of a format whose reader skips records, which would shift lines.
    """
    for path in (source, target):
        if READERS.get(suffix := format_suffix(path), read_text) is not read_text:
            raise CorpusError(
                f"'{path.name}' is a {suffix} file. Two files are read line by line, so both must be plain text; put "
                "the pairs into one TSV file, or load them with datasets."
            )
    lines = 0
    for left, right in zip_longest(read_file(source, None), read_file(target, None)):
        if left is None or right is None:
            raise CorpusError(_unequal(source, target, lines))
        lines += 1
        yield left, right


def _unequal(source: Path, target: Path, lines: int) -> str:
    """Return the message about files of unequal length, both of which have so many lines."""
    counts = [sum(1 for _ in read_file(path, None)) for path in (source, target)]
    longer = (source, target)[counts[1] > counts[0]]
    return (
        f"'{source.name}' has {counts[0]} lines and '{target.name}' {counts[1]}: line {lines + 1} of '{longer.name}' "
        "has no partner. If lines were lost further up, all pairs after that place are wrong: make the two anew, "
        "line by line from one source."
    )


def _open_dataset(value: Any, name: str, columns: tuple[str, str] | None) -> Pairs:
    """Open a ``datasets`` object."""
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in islice(value, 8))
        raise CorpusError(f"The pairs are a {type(value).__name__} with keys {keys}. Choose one, like ['train'].")
    source, target, nested = _dataset_columns(value, name, columns)

    def read() -> Iterator[Pair]:
        for batch in value.iter(batch_size=DATASET_BATCH):
            texts = batch[TRANSLATION] if nested else None
            sides = [batch[side] if texts is None else [row.get(side) for row in texts] for side in (source, target)]
            rows = zip(*sides, strict=True)
            yield from _checked((left or "", right or "") for left, right in rows)  # a null is a blank side

    return Pairs(name, read)


def _dataset_columns(value: Any, name: str, columns: tuple[str, str] | None) -> tuple[str, str, bool]:
    """Return the names of both sides in a dataset, and whether they are keys of its column ``translation``."""
    first: dict[str, Any] = next(iter(value), {})
    names = list(value.column_names or first)
    if not first:
        raise CorpusError(f"The dataset {name} is empty: it has no row.")
    translations = first.get(TRANSLATION)
    nested = isinstance(translations, Mapping) and not (columns and set(columns) <= set(names))
    found = list(translations) if isinstance(translations, Mapping) and nested else names
    chosen = tuple(found) if columns is None else columns
    if len(chosen) != 2 or not set(chosen) <= set(found):
        what = f"languages in its column '{TRANSLATION}'" if nested else "columns"
        raise CorpusError(
            f"The dataset {name} has the {what} {', '.join(map(repr, found))}"
            + (f", not {', '.join(map(repr, chosen))}. " if columns else ". ")
            + "Name the source and the target one with columns=."
        )
    return chosen[0], chosen[1], nested


def _checked(pairs: Iterable[Any]) -> Iterator[Pair]:
    """Yield the pairs of an iterable."""
    for index, pair in enumerate(pairs):
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise CorpusError(f"Item {index} of the pairs is {pair!r:.80}, not a pair of texts.")
        yield pair[0], pair[1]
