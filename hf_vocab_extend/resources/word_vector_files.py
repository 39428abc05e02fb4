"""Files of word vectors: word2vec text (``.vec``, GloVe) and binary, fastText's ``.bin``, NumPy's ``.npz``."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._optional import require
from ..errors import InvalidTableError
from .fasttext_file import FASTTEXT_MAGIC, fasttext_space, open_fasttext
from .readers import DAMAGED, open_binary
from .word_vector_binary import PositionedRows, binary_blocks, binary_sizes
from .word_vector_tables import VectorTable, read_table
from .word_vector_text import text_blocks
from .word_vectors import Rows, WordVectors, make_word_vectors, warn_repeated, zipf

_HEAD = 1 << 16  # bytes that tell the format
_EXAMPLES = 3
_NPZ_OTHERS = ("frequencies", "languages", "bounds")
_ZIP_NAMES = 26  # bytes before the two lengths in the header of a member
_END_OF_LINE = "</s>"  # fastText's own word


def read_vector_file(path: Path, limit: int | None = None, *, cache: bool = True) -> WordVectors:
    """Read a file of word vectors; its first bytes tell the format.

    Text and word2vec's binary list words by falling frequency, so a word's frequency is taken to follow Zipf's law.

    Args:
        path: The file.
        limit: Keep only the first so many words; a fastText model is kept whole.
        cache: Keep what was parsed of a large file for the next time.

    Raises:
        InvalidTableError: If it is missing, damaged, or of another format.
        MissingDependencyError: If it is a quantised fastText model and fastText is not installed.
    """
    if not path.is_file():
        raise InvalidTableError(f"There is no file or folder '{path}' of word vectors. Give an existing one.")
    with path.open("rb") as file:
        head = file.read(8)
    for magic, read in _READERS.items():
        if head.startswith(magic):
            return read(path, limit)
    name = f"'{path.name}'"
    head = _unpacked_head(path, name)
    for magic, (what, remedy) in _REFUSED.items():
        if head.startswith(magic):
            raise InvalidTableError(f"{name} is {what}, which is not read here. {remedy}")
    sizes = binary_sizes(head)
    if sizes is None:
        table = read_table(path, lambda: text_blocks(path, name, limit), name, limit, use_cache=cache)
    else:
        table = read_table(path, lambda: binary_blocks(path, name, limit, sizes), name, limit, use_cache=cache)
    return _of_table(table, path, name)


def _unpacked_head(path: Path, name: str) -> bytes:
    """Return the first bytes of a file, decompressed."""
    try:
        with open_binary(path) as file:
            return bytes(file.read(_HEAD))
    except DAMAGED as error:
        raise InvalidTableError(
            f"{name} cannot be read past line 0 ({error or type(error).__name__}): it is cut short or damaged. "
            "Fetch it again."
        ) from error


def _of_table(table: VectorTable, path: Path, name: str) -> WordVectors:
    """Make a space of what was parsed."""
    if len(table.words) == 0:
        raise InvalidTableError(f"{name} holds no word vector. Give at least one word with a vector.")
    rows: Rows
    if table.positions is not None:
        rows = PositionedRows(np.memmap(path, np.uint8, "r"), table.positions, table.dim)
    else:
        assert table.vectors is not None
        rows = table.vectors
    space = WordVectors(table.words, rows, zipf(np.arange(len(table.words))), name, counted=False)
    if table.keep is None:
        return space
    again = np.setdiff1d(np.arange(len(space)), table.keep)
    if len(again) == 0:
        return space
    warn_repeated(name, len(again), [space.words[place] for place in again[:_EXAMPLES].tolist()])
    return space.select(table.keep)


def _read_fasttext(path: Path, limit: int | None) -> WordVectors:
    """Map a fastText model; load it with the library if it is quantised."""
    name = f"'{path.name}'"
    mapped = open_fasttext(path)
    if mapped is not None:
        return fasttext_space(mapped, name)
    fasttext = require("fasttext", "focus")
    try:
        model = fasttext.load_model(str(path))
    except (ValueError, MemoryError) as error:
        raise InvalidTableError(
            f"{name} begins like a fastText model and cannot be loaded ({error or type(error).__name__}): "
            "it is cut short or damaged. Fetch it again."
        ) from error
    space = of_fasttext_model(model, name)
    if len(space) == 0 or space.dim == 0:  # the library reads past the end without a word
        raise InvalidTableError(f"{name} holds no word vector. It is cut short or damaged: fetch it again.")
    return space


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
    """Read the arrays ``words`` and ``vectors``, and others that are there; vectors are mapped if not compressed."""
    name = f"'{path.name}'"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            missing = {"words", "vectors"} - set(arrays.files)
            if missing:
                raise InvalidTableError(
                    f"{name} has the arrays {', '.join(sorted(arrays.files)) or 'none'}. "
                    "The arrays 'words' and 'vectors' are needed; other archives are to be unpacked."
                )
            words = arrays["words"][:limit]
            mapped = map_npz_array(path, "vectors")
            vectors = (arrays["vectors"] if mapped is None else mapped)[:limit]
            others = {one: arrays[one][:limit] for one in _NPZ_OTHERS if one in arrays.files}
    except Exception as error:  # NumPy and zipfile raise a dozen kinds for an archive that is damaged or encrypted
        if isinstance(error, InvalidTableError):
            raise
        raise InvalidTableError(
            f"{name} cannot be read ({error}). Save words as an array of strings (not of objects): "
            "numpy.savez(path, words=numpy.array(words), vectors=matrix)."
        ) from error
    texts = [word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word) for word in words.tolist()]
    return make_word_vectors(texts, vectors, name=name, **others)


def map_npz_array(path: Path, name: str) -> np.ndarray | None:
    """Map one array of an ``.npz`` file, or return None if it is compressed or in Fortran's order."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            return None
        file.seek(member.header_offset + _ZIP_NAMES)
        lengths = struct.unpack("<HH", file.read(4))
        file.seek(sum(lengths), os.SEEK_CUR)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if fortran or dtype.hasobject or 0 in shape:
            return None
        return np.memmap(file, dtype, "r", file.tell(), shape)


_READERS: dict[bytes, Callable[[Path, int | None], WordVectors]] = {
    FASTTEXT_MAGIC: _read_fasttext,
    b"PK\x03\x04": _read_npz,
}
"""Reader by the first bytes of the file as it is."""

_REFUSED = {
    FASTTEXT_MAGIC: ("a compressed fastText model", "Unpack it and give the .bin."),
    b"PK\x03\x04": ("a compressed archive", "Unpack it."),
    b"\x93NUMPY": ("a single NumPy array without words", "Save both: numpy.savez(path, words=..., vectors=...)."),
    **{
        bytes([0x80, protocol]): (
            "a pickle, as gensim's own format is",
            "Load it with gensim and pass the KeyedVectors, or export them: save_word2vec_format(path, binary=True).",
        )
        for protocol in range(2, 6)
    },
}
"""What a file is and what to do, by its first bytes when decompressed."""
