"""One way into any corpus: a stream of lines that can be read again and has a content hash."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from .._optional import require
from ..errors import CorpusError
from .readers import READERS, REFUSED, Reader, format_suffix, pick_column, read_file, read_jsonl, read_text, text_of

CHECKED_CHARS = 4_000_000
"""So much of a local corpus is read when it is opened, to find a wrong encoding or column before any work."""

HUB_NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<split>[\w.\[\]:%-]+))?")
_LINE_ENDS = re.compile(r"[\r\n]+")
DATASET_BATCH = 1000


class Corpus:
    """Lines of text, streamed; iterate as often as needed. Made by :func:`open_corpus`.

    Every line is a non-blank ``str`` without line ends; a text that holds line ends counts as several lines.

    Attributes:
        name: What messages call the corpus.
    """

    def __init__(self, name: str, read: Callable[[], Iterable[str]], spool: Path | None = None) -> None:
        """Take a function that starts a new reading, and a temporary file to remove at the end, if any."""
        self.name = name
        self._read = read
        self._fingerprint: str | None = None
        self._finalizer = None if spool is None else weakref.finalize(self, _remove, spool)

    def __iter__(self) -> Iterator[str]:
        """Yield the lines.

        Raises:
            CorpusError: If a part cannot be read, or there is no line at all.
        """
        empty = True
        for text in self._read():
            for line in _lines(text, self.name):
                empty = False
                yield line
        if empty:
            raise CorpusError(f"The corpus {self.name} is empty: it has no line with text.")

    def batches(self, size: int) -> Iterator[list[str]]:
        """Yield the lines in lists of ``size``; the last one may be shorter."""
        lines = iter(self)
        while batch := list(islice(lines, size)):
            yield batch

    def fingerprint(self) -> str:
        """Return the SHA-256 of the lines (hexadecimal): the same text has the same one in any file format.

        The first call reads the corpus once; the result is kept.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for batch in self.batches(1000):
                digest.update("\n".join([*batch, ""]).encode("utf-8"))
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def close(self) -> None:
        """Remove the temporary file, if there is one; it also goes when the object or the process ends."""
        if self._finalizer is not None:
            self._finalizer()

    def __repr__(self) -> str:
        return f"Corpus({self.name})"


CorpusLike = Corpus | str | os.PathLike[str] | Iterable[Any]
"""What :func:`open_corpus` reads."""


def open_corpus(corpus: CorpusLike, *, text_column: str | None = None) -> Corpus:
    """Return a corpus as a stream of lines that can be read again.

    Args:
        corpus: A path to a file (text, ``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``; each may be compressed with gzip,
            bzip2 or xz) or to a folder of such files (read in sorted order); ``"-"`` for standard input (JSON lines if
            ``text_column`` is given); a ``datasets`` object; a name on the Hub (``"owner/name"`` or
            ``"owner/name:config@split"``, streamed); or any iterable of strings. What can be read once only goes to a
            temporary file first.
        text_column: Column or key that holds the text; by default ``text``, or the only column.

    Raises:
        CorpusError: If it is missing, empty, not UTF-8, or has no such column. The first lines are read at once; what
            is wrong further on is raised while reading.
        MissingDependencyError: If Parquet or the Hub is asked for and the extra ``data`` is not installed.
    """
    if isinstance(corpus, Corpus):
        return corpus
    if isinstance(corpus, str):
        opened, checked_chars = _open_string(corpus, text_column)
    elif isinstance(corpus, os.PathLike):
        opened, checked_chars = _open_path(Path(corpus), text_column), CHECKED_CHARS
    else:
        opened, checked_chars = _open_object(corpus, text_column), 1
    _check_start(opened, checked_chars)
    return opened


def _check_start(corpus: Corpus, chars: int) -> None:
    """Read the first characters, so that what is wrong there is said at once."""
    for line in corpus:
        chars -= len(line) + 1
        if chars <= 0:
            break


def _lines(text: str, name: str) -> Iterator[str]:
    """Yield the non-blank lines of one text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError(
            f"The corpus {name} holds half of a surrogate pair, which is no character: {text[:60]!r}. "
            "Decode it anew from its source as UTF-8."
        ) from error
    text = text.rstrip("\r\n")
    parts = _LINE_ENDS.split(text) if "\n" in text or "\r" in text else [text]
    for part in parts:
        if part and not part.isspace():
            yield part


def _open_string(value: str, column: str | None) -> tuple[Corpus, int]:
    """Open what a string names, and say how many characters to check."""
    if value == "-":
        return _open_stdin(text_column=column), CHECKED_CHARS
    if "\n" not in value and "\0" not in value and len(value) < 4096 and os.path.exists(value):
        return _open_path(Path(value), column), CHECKED_CHARS
    match = HUB_NAME.fullmatch(value)
    names_a_format = len(value) < 256 and format_suffix(Path(value)) in {*READERS, *REFUSED}
    if match and not names_a_format:
        return _open_dataset(load_hub_dataset(value, match), f"'{value}'", column), 1
    spaced = " " in value.strip() and not names_a_format and "/" not in value and os.sep not in value
    if "\n" in value or len(value) > 1000 or spaced:
        raise CorpusError(
            f"The corpus is one string that looks like text, not like a path: {value[:40]!r}... "
            "Pass a list of lines, for example text.splitlines()."
        )
    raise CorpusError(
        f"There is no file or folder '{value}'. Give an existing path, '-' for standard input, or a dataset on the "
        "Hub as 'owner/name'."
    )


def _open_path(path: Path, column: str | None) -> Corpus:
    """Open a file or a folder."""
    if path.is_dir():
        files = _text_files(path)
        return Corpus(f"'{path}'", lambda: chain.from_iterable(read_file(file, column) for file in files))
    if not path.exists():
        raise CorpusError(f"There is no file or folder '{path}'.")
    if not os.access(path, os.R_OK):
        raise CorpusError(f"'{path}' cannot be read: no permission.")
    if not path.is_file():  # a pipe gives its bytes once
        with path.open("rb") as stream:
            return _spool(_chunks(stream), f"'{path}'", READERS.get(format_suffix(path), read_text), column)
    return Corpus(f"'{path}'", lambda: read_file(path, column))


def _text_files(folder: Path) -> list[Path]:
    """Return the files of a folder whose format is known, hidden ones left out, sorted by path."""
    inside = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    shown = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    files = [
        folder / path for path in sorted(shown, key=lambda path: path.as_posix()) if format_suffix(path) in READERS
    ]
    if not files:
        raise CorpusError(f"The folder '{folder}' has no corpus file ({', '.join(READERS)}, plain or gzipped).")
    return files


def _open_stdin(text_column: str | None) -> Corpus:
    """Keep what comes on standard input: plain text, or JSON lines if a column is named."""
    stream = getattr(sys.stdin, "buffer", None)
    chunks = (line.encode("utf-8") for line in sys.stdin) if stream is None else _chunks(stream)
    return _spool(chunks, "standard input", read_text if text_column is None else read_jsonl, text_column)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a stream piece by piece."""
    return iter(lambda: stream.read(1 << 20), b"")


def _spool_texts(texts: Iterable[Any], name: str, column: str | None) -> Corpus:
    """Write what can be iterated over once to a temporary file and open that."""
    lines = (line for text in _texts(texts, column) for line in _lines(text, name))
    return _spool(((line + "\n").encode("utf-8") for line in lines), name)


def _spool(chunks: Iterable[bytes], name: str, reader: Reader = read_text, column: str | None = None) -> Corpus:
    """Write chunks to a temporary file that goes with the corpus."""
    with tempfile.NamedTemporaryFile("wb", prefix="hf_vocab_extend-", suffix=".txt", delete=False) as file:
        path = Path(file.name)
        try:
            file.writelines(chunks)
        except BaseException:
            path.unlink()
            raise
    return Corpus(name, lambda: reader(path, name, column), spool=path)


def _remove(path: Path) -> None:
    """Remove a temporary file that may be gone already."""
    path.unlink(missing_ok=True)


def _texts(records: Iterable[Any], column: str | None) -> Iterator[str]:
    """Yield the text of each record."""
    for index, record in enumerate(records):
        yield from text_of(record, column, f"Item {index} of the corpus")


def _open_object(value: Any, column: str | None) -> Corpus:
    """Open an object in memory."""
    if isinstance(value, Mapping):
        keys = ", ".join(repr(key) for key in islice(value, 8))
        raise CorpusError(
            f"The corpus is a {type(value).__name__} with keys {keys}. Choose one, for example ['train']."
        )
    if isinstance(value, (bytes, bytearray)) or not isinstance(value, Iterable):
        raise CorpusError(
            f"The corpus is of type {type(value).__name__}. Pass a path, a datasets object, or an iterable of strings."
        )
    name = f"({type(value).__name__})"
    if is_dataset(value):
        return _open_dataset(value, name, column)
    if iter(value) is value:
        return _spool_texts(value, name, column)
    return Corpus(name, lambda: _texts(value, column))


def is_dataset(value: Any) -> bool:
    """Whether this is a ``datasets`` object (its package is not imported for the question)."""
    return is_of_datasets(value) and hasattr(value, "iter")


def is_of_datasets(value: Any) -> bool:
    """Whether this is of a class of ``datasets``, or of one that stands on it: a text, or a mapping of splits."""
    return any(base.__module__.partition(".")[0] == "datasets" for base in type(value).__mro__)


def _open_dataset(dataset: Any, name: str, column: str | None) -> Corpus:
    """Open a ``Dataset`` or an ``IterableDataset``."""
    names = dataset.column_names or list(next(iter(dataset), {}))
    if not names:
        raise CorpusError(f"The corpus {name} is empty: it has no column and no row.")
    chosen = pick_column(names, column, f"The dataset {name}")

    def read() -> Iterator[str]:
        for batch in dataset.select_columns([chosen]).iter(batch_size=DATASET_BATCH):
            yield from _texts(batch[chosen], None)

    return Corpus(name, read)


def load_hub_dataset(value: str, match: re.Match[str]) -> Any:
    """Return a dataset on the Hub, streamed; code in its repository is never run.

    Args:
        value: How the user named it.
        match: What :data:`HUB_NAME` found in that.

    Raises:
        CorpusError: If there is none.
        MissingDependencyError: If ``datasets`` is not installed.
    """
    datasets = require("datasets", "data")
    split = match["split"] or "train"
    try:
        return datasets.load_dataset(match["name"], match["config"], split=split, streaming=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise CorpusError(
            f"'{value}' is no file or folder here, and no dataset of that name (split '{split}') could be loaded from "
            f"the Hub: {reason}"
        ) from error
