"""A fastText model read straight from its file: its matrix is mapped, and vectors are made of what is asked for.

Bojanowski et al. 2017, arXiv 1607.04606: the vector of a word is the mean of a vector of its own and of vectors of its
character n-grams, which share hashed places.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..errors import InvalidTableError
from .packed_words import PackedWords, is_utf8
from .word_vectors import WordVectors

FASTTEXT_MAGIC = struct.pack("<i", 793712314)

_HEADER = struct.Struct("<2i12id3i2q")
_ENTRY = struct.Struct("<qb")
_SHAPE = struct.Struct("<2q")
_OLD_FORMAT, _SUPERVISED = 11, 3  # that format's classifiers used no n-grams
_END_OF_LINE = b"</s>"  # fastText's own word, which has no n-grams
_READ = 1 << 22
_ROWS_PER_BLOCK = 1 << 15
_FNV_BASIS, _FNV_PRIME = np.uint32(2166136261), np.uint32(16777619)


@dataclass(frozen=True, eq=False)
class FastTextFile:
    """The input side of a model, unless it is quantised.

    Attributes:
        words: As they are encoded, length `n`, in the order of the file.
        counts: How often each occurred, int64, shape `(n,)`.
        matrix: Vectors of the words and of the places of n-grams, float32, mapped, shape `(n + n_buckets, dim)`.
        n_buckets: Number of places of n-grams.
        shortest: Least number of characters of an n-gram.
        longest: Greatest one; 0 for no n-grams.
    """

    words: list[bytes]
    counts: np.ndarray
    matrix: np.ndarray
    n_buckets: int
    shortest: int
    longest: int

    def vectors(self, texts: Sequence[bytes], own: np.ndarray) -> np.ndarray:
        """Return vectors of strings, zeros for one that has neither a vector of its own nor an n-gram.

        Sums are taken in fastText's order and precision, so vectors are those that it gives, to the bit.

        Args:
            texts: UTF-8, length `m`.
            own: The place of each among the words, -1 for one that is none, int64, shape `(m,)`.

        Returns:
            Float32, shape `(m, dim)`.
        """
        found = np.zeros((len(texts), self.matrix.shape[1]), np.float32)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts)) + 2
        most = np.cumsum(lengths * max(1, self.longest - self.shortest + 1))  # rows that are summed, at the most
        start = 0
        while start < len(texts):
            before = most[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(most, before + _ROWS_PER_BLOCK, side="right")))
            found[start:stop] = self._block(texts[start:stop], own[start:stop])
            start = stop
        return found

    def _block(self, texts: Sequence[bytes], own: np.ndarray) -> np.ndarray:
        """Return vectors of a few strings."""
        has_own = np.flatnonzero(own >= 0)
        owners, rows = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if self.longest and self.n_buckets:
            framed = [b"" if text in (b"", _END_OF_LINE) else b"<" + text + b">" for text in texts]
            owners, codes = ngram_codes(framed, self.shortest, self.longest)
            rows = len(self.words) + codes.astype(np.int64) % self.n_buckets
        places = np.searchsorted(owners, has_own)  # a word's own row comes first
        owners, rows = np.insert(owners, places, has_own), np.insert(rows, places, own[has_own])
        sizes = np.bincount(owners, minlength=len(texts))
        starts = np.cumsum(sizes) - sizes
        order = np.argsort(-sizes, kind="stable")
        sums = np.zeros((len(texts), self.matrix.shape[1]), np.float32)
        for step in range(int(sizes.max())):
            active = order[: np.searchsorted(-sizes[order], -step, side="left")]  # those with more rows than that
            sums[active] += self.matrix[rows[starts[active] + step]]
        return sums * (1.0 / np.maximum(sizes, 1)).astype(np.float32)[:, None]


def ngram_codes(texts: Sequence[bytes], shortest: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the character n-grams of strings (FNV-1a on signed bytes, as fastText takes them).

    A single character at either end of a string is none of them.

    Args:
        texts: UTF-8.
        shortest: Least number of characters.
        longest: Greatest number.

    Returns:
        Which string each n-gram is of, int64, ascending, and its hash, uint32; both of one shape, in the order of
        where n-grams begin and then of their lengths.
    """
    packed = PackedWords.of(texts)
    raw, ends = packed.text, packed.ends
    starts_here = (raw & 0xC0) != 0x80
    begins = np.flatnonzero(starts_here)
    owners = np.searchsorted(ends, begins, side="right")
    last = ends[owners]
    signed = raw.view(np.int8).astype(np.int32).view(np.uint32)
    hashes = np.full(len(begins), _FNV_BASIS)
    n_chars = np.zeros(len(begins), np.int64)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    active = np.arange(len(begins))
    step = 0
    while len(active):
        at = begins[active] + step
        n_chars[active] += starts_here[at]
        hashes[active] = (hashes[active] ^ signed[at]) * _FNV_PRIME
        at_end = at + 1 == last[active]
        whole = at_end | starts_here[np.minimum(at + 1, len(raw) - 1)]
        length = n_chars[active]
        first = begins[active] == packed.starts[owners[active]]
        wanted = whole & (length >= shortest) & ~((length == 1) & (first | at_end))
        found.append((active[wanted], length[wanted], hashes[active[wanted]]))
        active = active[~at_end & ~(whole & (length >= longest))]
        step += 1
    places, lengths, codes = (
        (np.concatenate(part) for part in zip(*found, strict=True))
        if found
        else ((np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint32)))
    )
    order = np.lexsort((lengths, places))
    return owners[places[order]], codes[order]


def open_fasttext(path: Path) -> FastTextFile | None:
    """Map a model, or return None if it is quantised.

    Raises:
        InvalidTableError: If the file is cut short or holds no word.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            header = _HEADER.unpack(file.read(_HEADER.size))
            n_words, pruned = header[16], max(0, header[19])
            words, counts = _entries(file, header[15], size)
            if not 0 <= n_words <= len(words) or 8 * pruned > size:
                raise struct.error(f"{n_words} of {len(words)} entries are words, {pruned} are pruned")
            file.seek(8 * pruned, os.SEEK_CUR)
            quantised = file.read(1)
            if quantised == b"\1":
                return None
            n_rows, dim = _SHAPE.unpack(file.read(_SHAPE.size))
        except struct.error as error:
            raise _cut_short(path, size, "its dictionary goes on") from error
        start = file.tell()
        least = start + 4 * n_rows * dim
        if n_rows >= n_words and dim == header[2] and size > least:
            file.seek(least + 1)  # the output matrix follows, after a sign that it is not quantised
            shape = file.read(_SHAPE.size)
            least += 1 + _SHAPE.size + (4 * int(np.prod(_SHAPE.unpack(shape))) if len(shape) == _SHAPE.size else 0)
        if n_rows < n_words or dim != header[2] or size < least:
            model = f"a fastText model of {n_words} words and {header[2]} dimensions has at least {least}"
            raise _cut_short(path, size, model)
        if n_words == 0 or dim == 0:
            raise InvalidTableError(f"'{path.name}' holds no word vector. Give at least one word with a vector.")
        matrix = np.memmap(file, np.dtype("<f4"), "r", start, (n_rows, dim))
    longest = 0 if header[1] <= _OLD_FORMAT and header[9] == _SUPERVISED else header[12]
    return FastTextFile(words[:n_words], counts[:n_words], matrix, n_rows - n_words, header[11], longest)


def _cut_short(path: Path, size: int, what: str) -> InvalidTableError:
    """Return the error of a file that ends too early."""
    return InvalidTableError(f"'{path.name}' has {size} bytes; {what}. It is cut short: fetch it again.")


def _entries(file: IO[bytes], n_entries: int, size: int) -> tuple[list[bytes], np.ndarray]:
    """Read the dictionary: words, which come first, and labels.

    Raises:
        struct.error: If the file ends within it.
    """
    if not 0 <= n_entries * (_ENTRY.size + 1) <= size:
        raise struct.error(f"{n_entries} entries do not fit")
    words: list[bytes] = []
    counts = np.zeros(max(0, n_entries), np.int64)
    raw, at, start = b"", 0, file.tell()
    while len(words) < n_entries:
        end = raw.find(b"\0", at)
        if end < 0 or end + 1 + _ENTRY.size > len(raw):
            more = file.read(_READ)
            if not more:
                raise struct.error("the file ends within the dictionary")
            start += at
            raw, at = raw[at:] + more, 0
            continue
        counts[len(words)] = _ENTRY.unpack_from(raw, end + 1)[0]
        words.append(raw[at:end])
        at = end + 1 + _ENTRY.size
    file.seek(start + at)
    return words, counts


@dataclass(frozen=True, eq=False)
class _FileRows:
    """Vectors of a model's words, made when they are asked for."""

    model: FastTextFile
    own: np.ndarray
    """The place in the model of each word of the space, int64, shape `(n,)`."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.own), int(self.model.matrix.shape[1])

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        own = self.own[places]
        return self.model.vectors([self.model.words[place] for place in own.tolist()], own)


def fasttext_space(model: FastTextFile, name: str) -> WordVectors:
    """Return the space of a model; words that are no valid UTF-8, and fastText's line end, are left out."""
    keep = [place for place, word in enumerate(model.words) if word and word != _END_OF_LINE and is_utf8(word)]
    own = np.asarray(keep, np.int64)

    def compose(texts: Sequence[str]) -> np.ndarray:
        encoded = [text.encode("utf-8") for text in texts]
        wanted = set(encoded)
        known = {word: place for place, word in enumerate(model.words) if word in wanted}
        places = np.fromiter((known.get(text, -1) if text else -1 for text in encoded), np.int64, len(encoded))
        return model.vectors(encoded, places)

    words = PackedWords.of([model.words[place] for place in keep])
    return WordVectors(words, _FileRows(model, own), model.counts[own].astype(np.float64), name, compose)
