"""Readers of text files: plain text, JSON lines, CSV, TSV and Parquet, each plain or compressed, line by line.

A reader yields raw texts and never holds more than one line (or one Parquet batch). Compression is told by the first
bytes of a file, the format by its name.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .._optional import require
from ..errors import CorpusError

DEFAULT_COLUMN = "text"
PARQUET_BATCH = 1024

_OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_COMPRESSED = (".gz", ".bz2", ".xz")
_BOM_NAMES = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_UTF8_BOM = b"\xef\xbb\xbf"
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)
_CSV_FIELD_LIMIT = 2**27


def pick_column(names: Iterable[str], wanted: str | None, where: str) -> str:
    """Return the column that holds the text: the wanted one, else ``text``, else the only one.

    Raises:
        CorpusError: If there is no such column; the message lists the columns.
    """
    columns = list(names)
    if wanted is None and len(columns) == 1:
        return columns[0]
    name = DEFAULT_COLUMN if wanted is None else wanted
    if name not in columns:
        listed = ", ".join(repr(column) for column in columns) or "none"
        raise CorpusError(f"{where} has no column '{name}'. Its columns: {listed}. Choose one with text_column.")
    return name


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading bytes, decompressed if its first bytes say that it is compressed."""
    with path.open("rb") as file:
        head = file.read(8)
    for magic, opener in _OPENERS.items():
        if head.startswith(magic):
            return opener(path)
    return path.open("rb")


def decoded_lines(path: Path, name: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, line ends included.

    Args:
        path: The file.
        name: How messages call it.

    Raises:
        CorpusError: If the bytes are not UTF-8 (it names the line and the byte) or the compressed file is damaged.
    """
    offset = 0
    try:
        with open_binary(path) as file:
            for number, raw in enumerate(file, start=1):
                yield _decode(raw, number, offset, name)
                offset += len(raw)
    except DAMAGED as error:
        raise CorpusError(f"{name} cannot be read past byte {offset} ({error or type(error).__name__}).") from error


def _decode(raw: bytes, number: int, offset: int, name: str) -> str:
    """Return one line as text."""
    if number == 1:
        _refuse_wide_encoding(raw, name)
        if raw.startswith(_UTF8_BOM):
            raw = raw[len(_UTF8_BOM) :]
            offset += len(_UTF8_BOM)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{name} is not UTF-8: line {number}, byte {offset + error.start} is 0x{raw[error.start]:02x}. "
            "Convert it from the encoding it was written in, for example: iconv -f LATIN1 -t UTF-8 IN > OUT"
        ) from error
    if "\0" in text:
        position = offset + raw.index(b"\0")
        raise CorpusError(
            f"{name} is not text: line {number} holds a zero byte (byte {position}). "
            "If it is UTF-16 or UTF-32, convert it: iconv -f UTF-16 -t UTF-8 IN > OUT"
        )
    return text


def _refuse_wide_encoding(raw: bytes, name: str) -> None:
    """Raise if the first line shows UTF-16 or UTF-32, by its byte order mark or by the zero bytes of ASCII letters."""
    encoding = next((label for bom, label in _BOM_NAMES.items() if raw.startswith(bom)), None)
    if encoding is None and len(raw) >= 4:
        pairs = min(len(raw) // 2, 512)
        even, odd = (raw[start : 2 * pairs : 2].count(0) / pairs for start in (0, 1))
        if max(even, odd) > 0.4 and min(even, odd) < 0.1:
            encoding = "UTF-16LE" if odd > even else "UTF-16BE"
    if encoding is not None:
        raise CorpusError(
            f"{name} is {encoding}, not UTF-8 (line 1, byte 0). Convert it: iconv -f {encoding} -t UTF-8 IN > OUT"
        )


def read_text(path: Path, name: str, column: str | None) -> Iterator[str]:
    """Yield the lines of a text file."""
    return decoded_lines(path, name)


def read_jsonl(path: Path, name: str, column: str | None) -> Iterator[str]:
    """Yield one text per JSON line: a string, or a field of an object."""
    for number, line in enumerate(decoded_lines(path, name), start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number},"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{where} is not JSON ({error}). One JSON object per line is expected.") from error
        yield from text_of(record, column, where)


def text_of(record: Any, column: str | None, where: str) -> Iterator[str]:
    """Yield the text of one record (a string or a mapping); nothing for a null.

    Raises:
        CorpusError: If the record holds no text there.
    """
    value = record
    if isinstance(record, dict):
        value = record[pick_column(record, column, where)]
    if value is None:
        return
    if not isinstance(value, str):
        raise CorpusError(
            f"{where} holds a {type(value).__name__} where a text is expected. Pass texts, or objects with a text "
            "field (text_column names it)."
        )
    yield value


def read_csv(path: Path, name: str, column: str | None) -> Iterator[str]:
    """Yield one column of a CSV file with a header and standard quoting."""
    csv.field_size_limit(max(csv.field_size_limit(), _CSV_FIELD_LIMIT))  # the default refuses a long document
    rows = csv.reader(decoded_lines(path, name))
    try:
        yield from _column(rows, name, column)
    except csv.Error as error:
        raise CorpusError(f"{name}, line {rows.line_num}, is not CSV ({error}).") from error


def read_tsv(path: Path, name: str, column: str | None) -> Iterator[str]:
    """Yield one column of a TSV file with a header; quotes are ordinary characters there."""
    return _column((line.rstrip("\r\n").split("\t") for line in decoded_lines(path, name)), name, column)


def _column(rows: Iterable[list[str]], name: str, column: str | None) -> Iterator[str]:
    """Yield one column of rows whose first is the header; blank rows are skipped."""
    iterator = iter(rows)
    header = next(iterator, None)
    if header is None:
        return
    index = header.index(pick_column(header, column, f"{name} (read by its header line)"))
    for number, row in enumerate(iterator, start=2):
        if not any(row):
            continue
        if len(row) <= index:
            raise CorpusError(f"{name}, row {number}, has {len(row)} columns where the header has {len(header)}.")
        yield row[index]


def read_parquet(path: Path, name: str, column: str | None) -> Iterator[str]:
    """Yield one column of a Parquet file, batch by batch."""
    parquet = require("pyarrow.parquet", "data")
    arrow_error = require("pyarrow", "data").ArrowException
    with open_binary(path) as source, tempfile.TemporaryFile() as unpacked:
        if not isinstance(
            source, io.BufferedReader
        ):  # Parquet is read from its end: a compressed one is unpacked first
            shutil.copyfileobj(source, unpacked)
        try:
            file = parquet.ParquetFile(source if isinstance(source, io.BufferedReader) else unpacked)
            chosen = pick_column(file.schema_arrow.names, column, name)
            for batch in file.iter_batches(PARQUET_BATCH, columns=[chosen]):
                for value in batch.column(0).to_pylist():
                    yield from text_of(value, None, f"{name}, column '{chosen}',")
        except arrow_error as error:
            raise CorpusError(f"{name} cannot be read as Parquet ({error}).") from error


Reader = Callable[[Path, str, str | None], Iterator[str]]

READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".text": read_text,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
"""Suffix to reader; a file of another suffix is read as plain text when it is named itself."""

REFUSED = {
    ".json": "one JSON document; write it as JSON lines (.jsonl), one object per line",
    ".arrow": "an Arrow file; load it with datasets and pass the dataset",
    ".zip": "an archive; unpack it and pass the folder",
    ".tar": "an archive; unpack it and pass the folder",
    ".tgz": "an archive; unpack it and pass the folder",
    ".zst": "compressed with zstd; use gzip",
    ".pdf": "a PDF; convert it to text",
    ".docx": "a word processor file; convert it to text",
}
"""Suffixes that are known not to be text, and what to do about them."""


def format_suffix(path: Path) -> str:
    """Return the suffix that tells the format, without the one of a compression, in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def read_file(path: Path, column: str | None) -> Iterator[str]:
    """Yield the raw texts of one file.

    Raises:
        CorpusError: If its format is known not to be text, or its content cannot be read.
    """
    suffix = format_suffix(path)
    name = f"'{path.name}'"
    if suffix in REFUSED:
        raise CorpusError(f"{name} is {REFUSED[suffix]}.")
    return READERS.get(suffix, read_text)(path, name, column)
