"""Spaces of many languages: a folder of one file for each, or a mapping of language to file."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._logging import get_logger
from ..errors import InvalidTableError
from .packed_words import PackedWords, number_labels
from .word_vectors import BEGINS, ENDS, SIDES, Rows, WordVectors, is_space, without_repeated

logger = get_logger(__name__)

_SUFFIXES = (".vec", ".bin", ".npz", ".txt", ".w2v")
_COMPRESSED = (".gz", ".bz2", ".xz")
_NO_VECTORS = ("readme", "license", "licence", "changelog")
_PUBLISHED = re.compile(
    r"(?:cc|wiki|wiki\.multi|crawl|glove|word2vec|w2v|wordvec)\.([A-Za-z]{2,3}(?:[-_][A-Za-z]+)?)(?:\..*)?"
)
_LISTED = 8

Reader = Callable[[Any, str, str], WordVectors]
"""Reads one space: what was given, what messages call it, and its language."""


def read_languages(given: Any, name: str, read: Reader, default_language: str = "") -> WordVectors | None:
    """Read a space of several languages.

    Args:
        given: A folder of files named by their languages (``eng.vec``, ``swa.vec.gz``, ``cc.hi.300.bin``), or a
            mapping of language to file or space.
        name: What messages call it.
        read: Reads one language.
        default_language: Refused here: every file tells its language.

    Returns:
        One space; None if `given` is neither.

    Raises:
        InvalidTableError: If a folder has no file of vectors or two of one language, the values of a mapping are
            partly vectors, or the spaces differ in their number of dimensions.
    """
    if isinstance(given, str | os.PathLike) and Path(given).is_dir():
        files: Mapping[str, Any] = language_files(Path(given))
        name = f"the folder '{Path(given).name}'"
    elif isinstance(given, Mapping) and is_space(next(iter(given.values()), None)):
        files = _checked(given, name)
    else:
        return None
    if default_language:
        raise InvalidTableError(
            f"default_language is {default_language!r}, and {name} gives a language to each of its "
            f"{len(files)} spaces. Leave it out."
        )
    spaces = []
    for code, one in files.items():
        called = f"'{one}'" if isinstance(one, str | os.PathLike) else f"{name}[{code!r}]"
        space = read(one, called, code)
        spaces.append(dataclasses.replace(space, languages=_known(space, code)))
        _check_dims(spaces[0], space, name)  # before the next large file is parsed
    return stack_spaces(spaces, name)


def _checked(given: Mapping[Any, Any], name: str) -> Mapping[str, Any]:
    """Return a mapping of language to space.

    Raises:
        InvalidTableError: If a key or a value is something else.
    """
    if set(given) == set(SIDES):
        raise InvalidTableError(
            f"{name} gives two spaces, 'source' and 'target', where one is read. Give one space of both languages."
        )
    for code, value in given.items():
        if not isinstance(code, str) or not is_space(value):
            raise InvalidTableError(
                f"{name} maps {code!r} to a {type(value).__name__}, and others to files or spaces. Map every "
                "word to a vector, or every language to a file or a space."
            )
    return given


def language_files(folder: Path) -> dict[str, Path]:
    """Return the file of each language in a folder, ordered by name, without its subfolders.

    The language is the file's name up to the suffix; in the names that fastText and MUSE publish
    (``cc.sw.300.vec``, ``wiki.sw.align.vec``, ``wiki.multi.en.vec``) it is the part that is its code.

    Raises:
        InvalidTableError: If there is none, or two of one language.
    """
    found: dict[str, Path] = {}
    others = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() or path.name.startswith("."):
            continue
        code = _language_of(path)
        if code is None:
            others.append(path.name)
        elif code in found:
            raise InvalidTableError(
                f"The folder '{folder}' has two files of the language '{code}', '{found[code].name}' and "
                f"'{path.name}'. Keep one of them, or name the files: {{'{code}': file, ...}}."
            )
        else:
            found[code] = path
    if not found:
        listed = ", ".join(others[:_LISTED]) + (", ..." if len(others) > _LISTED else "")
        raise InvalidTableError(
            f"The folder '{folder}' has no file of word vectors; it has {listed or 'no file'}. Files are named by "
            f"their language and end with {', '.join(_SUFFIXES)}, plain or compressed: eng.vec, swa.vec.gz."
        )
    if others:
        logger.info("The folder '%s': %d files are not read, for example %s.", folder, len(others), others[0])
    return found


def _language_of(path: Path) -> str | None:
    """Return the language that a file's name tells, None for one that holds no vectors."""
    name = path.name
    for known in (_COMPRESSED, _SUFFIXES):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in known:
            name = stem
        elif known is _SUFFIXES:
            return None
    if not name or name.lower() in _NO_VECTORS:
        return None
    published = _PUBLISHED.fullmatch(name)
    return published[1] if published else name


@dataclass(frozen=True, eq=False)
class StackedRows:
    """Rows of several spaces, one below the other, read from each when they are asked for."""

    parts: Sequence[Rows]
    offsets: np.ndarray
    """Where each part begins, and where the last one ends, int64, shape `(n_parts + 1,)`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and of columns."""
        return int(self.offsets[-1]), int(self.parts[0].shape[1])

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        """Return the rows at some places, float32, shape `(n, dim)`."""
        found = np.empty((len(places), self.shape[1]), np.float32)
        owners = np.searchsorted(self.offsets, places, side="right") - 1
        for owner in np.unique(owners).tolist():
            mine = owners == owner
            found[mine] = self.parts[owner][places[mine] - self.offsets[owner]]
        return found


def stack_spaces(spaces: Sequence[WordVectors], name: str) -> WordVectors:
    """Return one space of the words of several, one after the other; no vector is read.

    Counts are kept as they are. If they are not known of all, each space's frequencies are made to sum to one.

    Args:
        spaces: Spaces with languages, in one coordinate system.
        name: What messages call the whole.

    Raises:
        InvalidTableError: If they differ in their number of dimensions, or there is none.
    """
    if not spaces:
        raise InvalidTableError(f"{name} holds no space of word vectors. Give at least one.")
    for space in spaces:
        _check_dims(spaces[0], space, name)
    counted = all(space.counted and space.frequencies is not None for space in spaces)
    offsets = np.concatenate([[0], np.cumsum([len(space) for space in spaces])])
    bounds = None
    if any(space.bounds is not None for space in spaces):
        whole = np.uint8(BEGINS | ENDS)
        bounds = np.concatenate([np.full(len(one), whole) if one.bounds is None else one.bounds for one in spaces])
    stacked = WordVectors(
        _stacked_words(spaces),
        StackedRows([space.vectors for space in spaces], offsets),
        np.concatenate([_frequencies(space, counted) for space in spaces]),
        name,
        languages=np.concatenate([_known(space) for space in spaces]),
        bounds=bounds,
        counted=counted,
    )
    return without_repeated(stacked) if _overlap(spaces) else stacked


def _check_dims(first: WordVectors, other: WordVectors, name: str) -> None:
    """Raise if two spaces differ in their number of dimensions."""
    if first.dim != other.dim:
        raise InvalidTableError(
            f"The spaces of {name} differ in their number of dimensions: {first.name} has {first.dim}, {other.name} "
            f"{other.dim}. Vectors of several languages must be aligned in one space."
        )


def _known(space: WordVectors, code: str = "") -> np.ndarray:
    """Return the languages of a space's words; all of one code if it does not know them."""
    return np.full(len(space), code) if space.languages is None else space.languages


def _stacked_words(spaces: Sequence[WordVectors]) -> Sequence[str]:
    """Return the words of several spaces."""
    parts = [space.words for space in spaces]
    packed = [part for part in parts if isinstance(part, PackedWords)]
    if len(packed) < len(parts):
        return [word for part in parts for word in part]
    return PackedWords.concatenate(packed)


def _frequencies(space: WordVectors, counted: bool) -> np.ndarray:
    """Return frequencies that compare with those of other spaces, float64, shape `(n,)`."""
    found = np.ones(len(space)) if space.frequencies is None else space.frequencies
    return found if counted else found / max(found.sum(), np.finfo(np.float64).tiny)


def _overlap(spaces: Sequence[WordVectors]) -> bool:
    """Whether two spaces hold words of one language."""
    codes = [code for space in spaces for code in number_labels(_known(space))[0]]
    return len(set(codes)) < len(codes)
