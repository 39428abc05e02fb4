"""Words and their float32 vectors as one safetensors file, written block by block and mapped into memory."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from .._logging import get_logger
from ..errors import InvalidTableError, OutputFolderError
from .cache import ENVIRONMENT, cache_folder, content_key
from .packed_words import PackedWords, is_utf8, repeated_places

logger = get_logger(__name__)

CACHED_FROM = 8 << 20
"""Files of at least so many bytes are parsed into a file, smaller ones into memory at every reading."""

_VERSION = 1
_KIND = "vectors"
_HEADER = 4096 - 8  # bytes of the JSON header, padded with spaces, which the format allows
_SAMPLE = 1 << 20
_EXAMPLES = 3
_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "I64": np.dtype("<i8"), "U8": np.dtype("u1")}


@dataclass(frozen=True, eq=False)
class Block:
    """Some words of a file, in order.

    Attributes:
        words: As they are encoded, length `n`.
        vectors: Float32, shape `(n, dim)`.
        positions: At which byte of the file each vector begins, int64, shape `(n,)`, if it can be read from there;
            such vectors are not written a second time.
    """

    words: list[bytes]
    vectors: np.ndarray
    positions: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class VectorTable:
    """What was read from a file of vectors.

    Attributes:
        words: Length `n`, those that are valid UTF-8.
        vectors: Float32, shape `(n, dim)`; None where `positions` are known.
        positions: See :class:`Block`.
        dim: Number of dimensions.
        keep: Places of the words that did not occur before, int64, ascending; None if no word occurs twice.
        n_broken: How many words of the file were left out as they are no UTF-8.
    """

    words: PackedWords
    vectors: np.ndarray | None
    positions: np.ndarray | None
    dim: int
    keep: np.ndarray | None
    n_broken: int = 0


def read_table(
    path: Path, blocks: Callable[[], Iterable[Block]], name: str, limit: int | None, *, use_cache: bool = True
) -> VectorTable:
    """Parse a file, or take what was parsed of it before.

    A large file is parsed into the folder of cached files and mapped from there: no more than the words and a block
    of vectors is ever held.

    Args:
        path: The file.
        blocks: Parses it, up to `limit`.
        name: What messages call it.
        limit: How many words of it are read; None for all.
        use_cache: Look for the table in the cache and keep it there; False parses into a temporary file.

    Raises:
        InvalidTableError: What `blocks` raises; and if a vector holds NaN or infinite values.
    """
    if path.stat().st_size < CACHED_FROM:
        memory = io.BytesIO()
        _write(blocks(), memory, name)
        return _table(np.frombuffer(memory.getbuffer(), np.uint8))
    if use_cache:
        own = _key(path, limit)
        for key in dict.fromkeys((_key(path, None), own)):
            table = _load(cache_folder() / _KIND / f"{key}.safetensors")
            if table is not None and (key == own or table.n_broken == 0):  # a limit counts words that are left out
                logger.info("%s is mapped from the cache (%s).", name, key[:16])
                return _first(table, limit)
        kept = _store(own, blocks, name)
        if kept is not None:
            return kept
    with tempfile.TemporaryFile(prefix="hf_vocab_extend_") as file:
        _write(blocks(), file, name)
        return _table(np.memmap(file, np.uint8, "r"))


def _key(path: Path, limit: int | None) -> str:
    """Return the cache key of a file by its size, its times, and its first and last bytes.

    The time of writing can be set back, as tools that copy files do; that of the last change cannot.
    """
    status = path.stat()
    with path.open("rb") as file:
        head = file.read(_SAMPLE)
        file.seek(max(0, status.st_size - _SAMPLE))
        tail = file.read(_SAMPLE)
    digests = [hashlib.sha256(part).hexdigest() for part in (head, tail)]
    return content_key(
        version=_VERSION,
        size=status.st_size,
        times=[status.st_mtime_ns, status.st_ctime_ns],
        head=digests[0],
        tail=digests[1],
        limit=limit,
    )


def _store(key: str, blocks: Callable[[], Iterable[Block]], name: str) -> VectorTable | None:
    """Parse into the cache by way of a temporary file; None if the folder cannot be written."""
    folder = cache_folder() / _KIND
    path = folder / f"{key}.safetensors"
    temporary = folder / f".{key[:16]}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = temporary.open("wb")
    except OSError as error:
        logger.warning(
            "%s is parsed anew at every reading: the cache folder cannot be written (%s). Set %s to another.",
            name,
            error,
            ENVIRONMENT,
        )
        return None
    try:
        with file:
            _write(blocks(), file, name)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    logger.info("%s is kept in the cache (%s, %d MiB).", name, key[:16], path.stat().st_size >> 20)
    return _load(path)


def _write(blocks: Iterable[Block], file: IO[bytes], name: str) -> None:
    """Write blocks as a safetensors file.

    Raises:
        InvalidTableError: If a vector holds NaN or infinite values.
        OutputFolderError: If the disk is full.
    """
    words, lengths = bytearray(), [np.zeros(1, np.int64)]
    positions: list[np.ndarray] = []
    n, dim, n_broken, n_bad, bad = 0, 0, 0, 0, list[bytes]()
    try:
        file.write(b"\0" * (_HEADER + 8))
        for block in blocks:
            valid, n_before = _decodable(block.words), len(block.words)
            if len(valid) < n_before:
                n_broken += n_before - len(valid)
                block = _part(block, valid)
            wrong = ~np.isfinite(block.vectors).all(1)
            if wrong.any():
                n_bad += int(wrong.sum())
                bad += [block.words[place] for place in np.flatnonzero(wrong)[:_EXAMPLES].tolist()]
            words += b"".join(block.words)
            lengths.append(np.fromiter(map(len, block.words), np.int64, len(block.words)))
            n, dim = n + len(block.words), block.vectors.shape[1]
            if block.positions is None:
                file.write(np.ascontiguousarray(block.vectors, "<f4").data)
            else:
                positions.append(block.positions)
        _refuse(name, n, n_broken, n_bad, bad)
        _finish(file, words, np.cumsum(np.concatenate(lengths)), positions, (n, dim), n_broken)
    except OSError as error:
        if isinstance(error, OutputFolderError):
            raise
        raise OutputFolderError(
            f"The vectors of {name} cannot be written ({error}). Set {ENVIRONMENT} to a folder with free space."
        ) from error


def _refuse(name: str, n: int, n_broken: int, n_bad: int, bad: list[bytes]) -> None:
    """Raise for a table that no one can use, and tell what was left out."""
    if n_bad:
        shown = ", ".join(repr(word.decode("utf-8")) for word in bad[:_EXAMPLES])
        raise InvalidTableError(
            f"The vectors of {n_bad} words of {name} hold NaN or infinite values, for example {shown}. "
            "Remove or repair them."
        )
    if n_broken > n:
        raise InvalidTableError(
            f"Of the {n + n_broken} words of {name}, {n_broken} are not UTF-8. It is in another encoding, damaged, or "
            "has another number of dimensions than its first line says."
        )
    if n_broken:
        logger.info("%s: %d words that are not UTF-8 are left out.", name, n_broken)


def _finish(
    file: IO[bytes],
    text: bytearray,
    offsets: np.ndarray,
    positions: list[np.ndarray],
    shape: tuple[int, int],
    n_broken: int,
) -> None:
    """Write what follows the vectors, and the header over the place kept for it."""
    raw = np.frombuffer(bytes(text), np.uint8)
    arrays = {"offsets": offsets}
    if positions:
        arrays["positions"] = np.concatenate(positions)
    again = repeated_places(PackedWords(raw, offsets[:-1], offsets[1:]))
    if len(again):
        arrays["keep"] = np.delete(np.arange(shape[0]), again)
    end = 0 if positions else shape[0] * shape[1] * 4
    metadata = {"version": str(_VERSION), "dim": str(shape[1]), "broken": str(n_broken)}
    header: dict[str, object] = {"__metadata__": metadata}
    if not positions:
        header["vectors"] = {"dtype": "F32", "shape": list(shape), "data_offsets": [0, end]}
    for name, array in [*arrays.items(), ("words", raw)]:
        kind = "U8" if array is raw else "I64"
        file.write(np.ascontiguousarray(array, _TYPES[kind]).data)
        header[name] = {"dtype": kind, "shape": [len(array)], "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    file.seek(0)
    file.write(_HEADER.to_bytes(8, "little") + json.dumps(header).encode("ascii").ljust(_HEADER))
    file.flush()


def _load(path: Path) -> VectorTable | None:
    """Map a table, or return None if there is none or it is damaged."""
    try:
        return _table(np.memmap(path, np.uint8, "r"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("The cached file %s cannot be read (%s); it is made anew.", path.name, error)
        return None


def _table(raw: np.ndarray) -> VectorTable:
    """Return the arrays within the bytes of a table.

    Raises:
        ValueError: If it is cut short.
    """
    header = json.loads(raw[8 : 8 + _HEADER].tobytes())
    metadata = header.pop("__metadata__")
    arrays: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        start, end = (8 + _HEADER + offset for offset in entry["data_offsets"])
        if end > len(raw):
            raise ValueError(f"{len(raw)} bytes of {end}")
        part = raw[start:end]
        arrays[name] = (
            np.ndarray(entry["shape"], _TYPES[entry["dtype"]], buffer=part)
            if len(part)
            else (np.zeros(entry["shape"], _TYPES[entry["dtype"]]))
        )
    offsets = np.array(arrays["offsets"])
    words = PackedWords(arrays["words"], offsets[:-1], offsets[1:])
    dim, n_broken = int(metadata["dim"]), int(metadata["broken"])
    return VectorTable(words, arrays.get("vectors"), arrays.get("positions"), dim, arrays.get("keep"), n_broken)


def _first(table: VectorTable, limit: int | None) -> VectorTable:
    """Return the first words of a table."""
    if limit is None or limit >= len(table.words):
        return table
    vectors, positions = (None if one is None else one[:limit] for one in (table.vectors, table.positions))
    keep = None if table.keep is None else table.keep[: np.searchsorted(table.keep, limit)]
    return VectorTable(table.words[:limit], vectors, positions, table.dim, keep)


def _decodable(words: list[bytes]) -> list[int] | range:
    """Return the places of the words that are valid UTF-8."""
    try:
        b"\n".join(words).decode("utf-8")
        return range(len(words))
    except UnicodeDecodeError:
        return [place for place, word in enumerate(words) if is_utf8(word)]


def _part(block: Block, places: list[int] | range) -> Block:
    """Return some words of a block."""
    rows = np.asarray(places, np.int64)
    positions = None if block.positions is None else block.positions[rows]
    return Block([block.words[place] for place in places], block.vectors[rows], positions)
