"""Files of word vectors: word2vec text (fastText's ``.vec``, GloVe), fastText's ``.bin``, NumPy's ``.npz``."""

from __future__ import annotations

import struct
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .._logging import get_logger, progress_bar
from .._optional import require
from ..errors import InvalidTableError
from .readers import DAMAGED, open_binary
from .word_vectors import WordVectors, make_word_vectors

logger = get_logger(__name__)

_LINES_PER_BLOCK = 2000
_FASTTEXT_MAGIC = struct.pack("<i", 793712314)
_FASTTEXT_HEADER = 4 + 4 + 12 * 4 + 8 + 3 * 4 + 2 * 8  # format, options, sizes of the dictionary
_FASTTEXT_ENTRY = 2 + 8 + 1  # a letter and the end of a word, its count, its kind
_END_OF_LINE = "</s>"  # fastText's own word
_ZIPF_SHIFT = 2.7  # Mandelbrot's constant: frequency ~ 1 / (rank + 2.7)


def read_vector_file(path: Path, limit: int | None = None) -> WordVectors:
    """Read a file of word vectors; its first bytes tell the format.

    Args:
        path: The file.
        limit: Keep only the first so many words of a text file or an ``.npz``.

    Raises:
        InvalidTableError: If it is missing, damaged, or of another format.
        MissingDependencyError: If it is a fastText model and fastText is not installed.
    """
    if not path.is_file():
        raise InvalidTableError(f"There is no file '{path}' of word vectors. Give an existing file.")
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_FASTTEXT_MAGIC):
        return _read_fasttext(path)
    if head.startswith(b"PK\x03\x04"):
        return _read_npz(path, limit)
    return _read_text(path, limit)


def _read_fasttext(path: Path) -> WordVectors:
    """Load a fastText model."""
    fasttext = require("fasttext", "focus")
    try:
        model = fasttext.load_model(str(path))
    except (ValueError, MemoryError) as error:
        raise InvalidTableError(
            f"'{path.name}' begins like a fastText model and cannot be loaded ({error or type(error).__name__}): "
            "it is cut short or damaged. Fetch it again."
        ) from error
    space = of_fasttext_model(model, f"'{path.name}'")
    least = _least_size(model, len(space))
    if least is None or path.stat().st_size < least:  # the library reads past the end without a word
        raise InvalidTableError(
            f"'{path.name}' has {path.stat().st_size} bytes; a fastText model of {len(space)} words and "
            f"{space.dim} dimensions has at least {least or 'some'}. It is cut short: fetch it again."
        )
    return space


def _least_size(model: Any, n_words: int) -> int | None:
    """Return the least size of a model's file in bytes, 0 for a quantised one, None for one without words."""
    if n_words == 0 or model.get_dimension() == 0:
        return None
    if model.is_quantized():
        return 0
    options = model.f.getArgs()
    rows = 2 * n_words + (options.bucket if options.maxn else 0)  # of the input and the output matrix
    return _FASTTEXT_HEADER + n_words * _FASTTEXT_ENTRY + rows * model.get_dimension() * 4


@dataclass(frozen=True, eq=False)
class _ModelRows:
    """Rows of a fastText model, made when they are asked for: all at once may take more memory than the model."""

    model: Any
    words: Sequence[str]
    shape: tuple[int, int]

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        return compose_by_ngrams(self.model, [self.words[place] for place in places.tolist()])


def compose_by_ngrams(model: Any, texts: Sequence[str]) -> np.ndarray:
    """Return fastText's vectors of strings: a word's own, else the mean of its character n-grams, float32.

    Strings that have neither, and empty ones, get zeros.
    """
    rows = np.zeros((len(texts), model.get_dimension()), np.float32)
    for row, text in enumerate(texts):
        if text:
            rows[row] = model.get_word_vector(text)
    return rows


def of_fasttext_model(model: Any, name: str) -> WordVectors:
    """Return the space of a loaded fastText model; words that are no valid UTF-8 are left out."""
    words, counts = model.get_words(include_freq=True, on_unicode_error="ignore")
    keep = [place for place, word in enumerate(words) if word and word != _END_OF_LINE]
    kept = list(dict.fromkeys(words[place] for place in keep))
    frequencies = np.asarray([counts[place] for place in keep], np.float64)
    if len(kept) < len(keep):  # only words with broken bytes can have become equal
        first = {word: place for place, word in reversed(list(enumerate(words[place] for place in keep)))}
        frequencies = frequencies[[first[word] for word in kept]]
    rows = _ModelRows(model, kept, (len(kept), model.get_dimension()))
    return WordVectors(kept, rows, frequencies, name, lambda texts: compose_by_ngrams(model, texts))


def _read_npz(path: Path, limit: int | None) -> WordVectors:
    """Read the arrays ``words``, ``vectors`` and, if it is there, ``frequencies``."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"words", "vectors"} - set(arrays.files)
            if missing:
                raise InvalidTableError(
                    f"'{path.name}' has the arrays {', '.join(sorted(arrays.files)) or 'none'}. "
                    "The arrays 'words' and 'vectors' are needed."
                )
            words, vectors = arrays["words"][:limit], arrays["vectors"][:limit]
            frequencies = arrays["frequencies"][:limit] if "frequencies" in arrays.files else None
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InvalidTableError):
            raise
        raise InvalidTableError(
            f"'{path.name}' cannot be read ({error}). Save words as an array of strings (not of objects): "
            "numpy.savez(path, words=numpy.array(words), vectors=matrix)."
        ) from error
    return make_word_vectors([str(word) for word in words], vectors, frequencies=frequencies, name=f"'{path.name}'")


@dataclass
class _Text:
    """What has been read of a text file."""

    name: str
    promised: int | None = None
    """Number of words by the header."""
    dim: int = 0
    line: int = 0
    """Number of the last line that was read."""
    words: list[str] = field(default_factory=list)
    blocks: list[np.ndarray] = field(default_factory=list)
    broken: int = 0
    """Number of words that are no valid UTF-8."""


def _read_text(path: Path, limit: int | None) -> WordVectors:
    """Read lines of a word and its numbers, with or without a first line of two sizes.

    Such files list words by falling frequency, so a word's frequency is taken to follow Zipf's law.
    """
    text = _Text(f"'{path.name}'")
    try:
        with open_binary(path) as file, progress_bar(desc="Read word vectors", unit=" words") as bar:
            lines = iter(file)
            first = next(lines, b"")
            lines = _after_header(first, lines, text)
            wanted = text.promised if limit is None else min(limit, text.promised or limit)
            while wanted is None or len(text.words) < wanted:
                size = _LINES_PER_BLOCK if wanted is None else min(_LINES_PER_BLOCK, wanted - len(text.words))
                block = [line for line in islice(lines, size)]
                if not block:
                    break
                _add_block(block, text)
                bar.update(len(block))
    except DAMAGED as error:
        raise InvalidTableError(
            f"{text.name} cannot be read past line {text.line} ({error or type(error).__name__}): it is cut short or "
            "damaged. Fetch it again."
        ) from error
    expected = text.promised if limit is None else min(limit, text.promised or 0)
    if expected is not None and len(text.words) + text.broken < expected:
        raise InvalidTableError(
            f"{text.name} ends after line {text.line} with {len(text.words) + text.broken} words; its first line "
            f"promises {text.promised}. It is cut short: fetch it again, or correct the first line."
        )
    if text.broken:
        logger.info("%s: %d words that are not UTF-8 are left out.", text.name, text.broken)
    vectors = np.concatenate(text.blocks) if text.blocks else np.zeros((0, 1), np.float32)
    frequencies = 1.0 / (np.arange(len(text.words)) + 1 + _ZIPF_SHIFT)
    return make_word_vectors(text.words, vectors, frequencies=frequencies, name=text.name)


def _after_header(first: bytes, lines: Iterator[bytes], text: _Text) -> Iterator[bytes]:
    """Read the first line: two sizes, or already a word whose numbers tell the dimension."""
    fields = first.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        text.promised, text.dim, text.line = int(fields[0]), int(fields[1]), 1
        if text.dim < 1:
            raise InvalidTableError(f"{text.name}, line 1, gives the vectors {text.dim} dimensions.")
        return lines
    text.dim = len(fields) - 1
    if text.dim < 1 or b"\0" in first:
        raise InvalidTableError(
            f"{text.name}, line 1, is {first[:40]!r}, not a word and its numbers. Give word2vec text (.vec), a "
            "fastText model (.bin) or NumPy's .npz."
        )

    def again() -> Iterator[bytes]:
        yield first
        yield from lines

    return again()


def _add_block(block: list[bytes], text: _Text) -> None:
    """Parse some lines: all numbers of the block in one go, line by line only where that does not fit."""
    while block and not block[-1].strip():  # blank lines at the end of the file
        block.pop()
    if not block:
        return
    parts = [line.rstrip().partition(b" ") for line in block]
    numbers = _numbers(b" ".join(part[2] for part in parts))
    if numbers is None or numbers.size != len(block) * text.dim or any(not part[0] for part in parts):
        parts, numbers = _one_by_one(block, text)
    vectors = numbers.reshape(len(parts), text.dim)
    keep = []
    for place, (word, _, _) in enumerate(parts):
        try:
            text.words.append(word.decode("utf-8"))
            keep.append(place)
        except UnicodeDecodeError:
            text.broken += 1
    text.blocks.append(vectors if len(keep) == len(parts) else vectors[keep])
    text.line += len(block)


def _numbers(raw: bytes) -> np.ndarray | None:
    """Return the numbers of a text, or None if something in it is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(raw.decode("ascii"), np.float32, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


def _one_by_one(block: list[bytes], text: _Text) -> tuple[list[tuple[bytes, bytes, bytes]], np.ndarray]:
    """Parse lines whose words may hold spaces; raise at the first that does not fit."""
    parts, rows = [], []
    for offset, line in enumerate(block, start=1):
        fields = line.rstrip().rsplit(b" ", text.dim)
        values = _numbers(b" ".join(fields[1:])) if len(fields) == text.dim + 1 else None
        _, spaced, last = fields[0].rpartition(b" ")  # ". . ." is a word of GloVe, "the 0.1" a number too many
        if values is None or values.size != text.dim or (spaced and _numbers(last) is not None):
            raise InvalidTableError(
                f"{text.name}, line {text.line + offset}, is {line[:40]!r}: it does not hold a word and {text.dim} "
                "numbers, as the lines before do. The file is cut short or damaged: fetch it again."
            )
        parts.append((fields[0], b" ", b""))
        rows.append(values)
    return parts, np.concatenate(rows)
