"""Word vectors, however they were had: in memory, in a file, in a fastText model, of one language or of two."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import InvalidTableError, VocabExtendWarning
from .packed_words import PackedWords, number_labels, repeated_places

SIDES = ("source", "target")
BEGINS, ENDS = 1, 2
"""Bits of :attr:`WordVectors.bounds`: the word begins, or ends, where a word of running text does."""
_EXAMPLES = 3
_ROWS_PER_BLOCK = 1 << 14
_ZIPF_SHIFT = 2.7  # Mandelbrot's constant: frequency ~ 1 / (rank + 2.7)


def zipf(ranks: np.ndarray) -> np.ndarray:
    """Return the frequencies that Zipf's law gives to ranks from 0, up to a factor, float64, the same shape."""
    return 1.0 / (ranks + 1 + _ZIPF_SHIFT)


class Rows(Protocol):
    """What vectors are read from: an array, a memory map, or a model that makes rows when asked for them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and of columns."""
        ...

    def __getitem__(self, places: np.ndarray, /) -> np.ndarray:
        """Return the rows at some places, shape `(n, dim)`."""
        ...


@dataclass(frozen=True, eq=False)
class _SelectedRows:
    """Some rows of others, read when they are asked for."""

    rows: Rows
    places: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.places), int(self.rows.shape[1])

    def __getitem__(self, places: np.ndarray, /) -> np.ndarray:
        return self.rows[self.places[places]]


def _select_rows(rows: Rows, places: np.ndarray) -> _SelectedRows:
    """Return a view of some rows; a view of a view reads from the first one."""
    if isinstance(rows, _SelectedRows):
        return _SelectedRows(rows.rows, rows.places[places])
    return _SelectedRows(rows, places)


@dataclass(frozen=True, eq=False)
class WordVectors:
    """Vectors of the words of a language, or of several languages in one space.

    Attributes:
        words: Words, length `n`; no two of them agree in language, spelling and bounds.
        vectors: Their vectors, shape `(n, dim)`; only rows that are asked for are read.
        frequencies: How often each word occurs, up to a factor, float64, shape `(n,)`; None where it is not known.
        name: What messages call it.
        compose: Gives a vector to any string by its character n-grams, float32, `(n,)` strings to `(n, dim)`, zeros
            for a string without any; None where the space cannot.
        languages: Code of each word's language, ``""`` where it is not known, strings, shape `(n,)`; None where
            nothing is known of any. A spelling may occur once in each language.
        bounds: Where each word ends at the edges of words, uint8, shape `(n,)`: the sum of :data:`BEGINS` and
            :data:`ENDS`, so 0 for letters from within a word; None where all are whole words.
        counted: Whether the frequencies were counted; False where Zipf's law stands in for them.
    """

    words: Sequence[str]
    vectors: Rows
    frequencies: np.ndarray | None = None
    name: str = "(word vectors)"
    compose: Callable[[Sequence[str]], np.ndarray] | None = None
    languages: np.ndarray | None = None
    bounds: np.ndarray | None = None
    counted: bool = True

    def __len__(self) -> int:
        """Number of words."""
        return len(self.words)

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return int(self.vectors.shape[1])

    @cached_property
    def _index(self) -> dict[str, int]:
        first: dict[str, int] = {}
        for place, word in enumerate(self.words):
            first.setdefault(word, place)
        return first

    def places(self, words: Sequence[str]) -> np.ndarray:
        """Return the place of each word, -1 for one without a vector, int64, shape `(len(words),)`.

        Of a spelling that several languages share it is the first place.
        """
        return np.fromiter((self._index.get(word, -1) for word in words), np.int64, len(words))

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the vectors at some places, float32, shape `(len(places), dim)`.

        Raises:
            InvalidTableError: If one of them holds NaN or infinite values.
        """
        rows = np.asarray(self.vectors[places], np.float32).reshape(len(places), self.dim)
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            raise _not_finite(self.name, [self.words[int(place)] for place in places[~finite]])
        return rows

    def select(self, places: np.ndarray) -> WordVectors:
        """Return a view of the words at some places, in the order of these; no vector is read or copied.

        Args:
            places: Integers, shape `(m,)`, none twice.

        Raises:
            IndexError: If there is no such place.
        """
        places = np.asarray(places, np.int64).reshape(-1)
        if len(places) and not 0 <= places.min() <= places.max() < len(self):
            raise IndexError(f"Places {places.min()} to {places.max()} of {len(self)} words are asked for.")
        words = self.words
        frequencies, languages, bounds = (
            None if one is None else one[places] for one in (self.frequencies, self.languages, self.bounds)
        )
        return dataclasses.replace(
            self,
            words=words.select(places) if isinstance(words, PackedWords) else [words[n] for n in places.tolist()],
            vectors=_select_rows(self.vectors, places),
            frequencies=frequencies,
            languages=languages,
            bounds=bounds,
        )


def _not_finite(name: str, words: Sequence[str]) -> InvalidTableError:
    """Return the error of vectors that are no numbers."""
    shown = ", ".join(repr(word) for word in words[:_EXAMPLES])
    return InvalidTableError(
        f"The vectors of {len(words)} words of {name} hold NaN or infinite values, for example {shown}. "
        "Remove or repair them."
    )


def make_word_vectors(
    words: Sequence[str],
    vectors: np.ndarray,
    *,
    frequencies: np.ndarray | None = None,
    name: str = "(word vectors)",
    languages: Sequence[str] | np.ndarray | None = None,
    bounds: np.ndarray | None = None,
) -> WordVectors:
    """Check words and a matrix, and make a space of them.

    Args:
        words: Words. Of a word that occurs twice (in a language) the first vector is kept, with a warning.
        vectors: Shape `(len(words), dim)`. Values of a memory map are checked when they are read.
        frequencies: Of the words, shape `(len(words),)`.
        name: What messages call it.
        languages: Of the words, shape `(len(words),)`.
        bounds: See :class:`WordVectors`, shape `(len(words),)`.

    Raises:
        InvalidTableError: If shapes do not fit, there is no word, or a value is not finite.
    """
    if vectors.ndim != 2 or len(vectors) != len(words) or vectors.dtype.kind not in "fiu":
        raise InvalidTableError(
            f"The vectors of {name} have the shape {vectors.shape} and the type {vectors.dtype}; "
            f"{len(words)} rows of numbers are needed, one for each word."
        )
    odd = next((word for word in words if not isinstance(word, str)), None)
    if odd is not None:
        raise InvalidTableError(f"{name} has {odd!r} among its words, a {type(odd).__name__}. Give them as strings.")
    if vectors.size == 0:
        raise InvalidTableError(f"{name} holds no word vector. Give at least one word with a vector.")
    if frequencies is not None and frequencies.dtype.kind not in "fiu":
        raise InvalidTableError(f"The frequencies of {name} are of the type {frequencies.dtype}, not numbers.")
    if frequencies is not None and (frequencies.shape != (len(words),) or not np.all(frequencies >= 0)):
        raise InvalidTableError(
            f"The frequencies of {name} have the shape {frequencies.shape} or a negative value; "
            f"{len(words)} are needed, one for each word."
        )
    languages = None if languages is None else np.asarray(languages, np.str_)
    bounds = None if bounds is None else np.asarray(bounds)
    for what, values in (("languages", languages), ("bounds", bounds)):
        if values is not None and values.shape != (len(words),):
            raise InvalidTableError(
                f"The {what} of {name} have the shape {values.shape}; {len(words)} are needed, one for each word."
            )
    if bounds is not None and not np.isin(bounds, range(BEGINS + ENDS + 1)).all():
        raise InvalidTableError(f"The bounds of {name} hold a value that is not 0, 1, 2 or 3.")
    if not isinstance(vectors, np.memmap):
        blocks = range(0, len(words), _ROWS_PER_BLOCK)
        finite = np.concatenate([np.isfinite(vectors[at : at + _ROWS_PER_BLOCK]).all(1) for at in blocks])
        if not finite.all():
            raise _not_finite(name, [words[place] for place in np.flatnonzero(~finite).tolist()])
    counts = None if frequencies is None else frequencies.astype(np.float64)
    bounds = None if bounds is None else bounds.astype(np.uint8)
    return without_repeated(WordVectors(words, vectors, counts, name, languages=languages, bounds=bounds))


def without_repeated(space: WordVectors) -> WordVectors:
    """Return a space with the first vector only of each word, and warn if that leaves some out."""
    groups = np.zeros(len(space), np.int64)
    if space.languages is not None:
        groups += 4 * number_labels(space.languages)[1]
    if space.bounds is not None:
        groups += space.bounds
    again = repeated_places(space.words, groups)
    if len(again) == 0:
        return space
    warn_repeated(space.name, len(again), [space.words[place] for place in again[:_EXAMPLES].tolist()])
    return space.select(np.delete(np.arange(len(space)), again))


def warn_repeated(name: str, n_repeated: int, examples: Sequence[str]) -> None:
    """Warn that words occur more than once."""
    warnings.warn(
        f"{n_repeated} words of {name} occur more than once, for example "
        f"{', '.join(map(repr, examples))}; the first vector of each is kept.",
        VocabExtendWarning,
        stacklevel=4,
    )


def read_word_vectors(
    given: Any,
    *,
    name: str = "word_vectors",
    limit: int | None = None,
    keys: str = "auto",
    default_language: str = "",
    cache: bool = True,
) -> WordVectors:
    """Read one space of word vectors.

    Args:
        given: A mapping of word to vector; ``(words, matrix)``; a file: word2vec text or GloVe (``.vec``, ``.txt``) or
            word2vec binary (``.bin``), plain or compressed, a fastText model (``.bin``), NumPy (``.npz`` with the
            arrays ``words`` and ``vectors``, and ``frequencies``, ``languages`` and ``bounds`` if they are known); a
            loaded fastText model or gensim's ``KeyedVectors``. Or several languages in one space: a folder of such
            files, each named by its language, or a mapping of language to any of these.
        name: What messages call it.
        limit: Keep only the first so many words, of each file; files list the most frequent words first. A fastText
            model is kept whole.
        keys: How the words tell their language: ``colon``: ``eng:house``, or ``eng:$house$`` with marks where words
            begin and end; ``conceptnet``: ``/c/en/house``; ``plain``: not at all; ``auto``: as half of them do.
        default_language: Language of the words whose key tells none.
        cache: Keep what was parsed of large files for the next time; it is mapped then, not parsed.

    Raises:
        InvalidTableError: If it cannot be read; for a text file it names the line.
        InvalidOptionError: If `keys` is unknown.
        MissingDependencyError: If a quantised fastText model is given and fastText is not installed.
    """
    from .language_files import read_languages
    from .word_keys import check_keys, parse_keys

    check_keys(keys)
    if isinstance(given, WordVectors):  # its words are words unless they are said to be keys
        return given if keys == "auto" and not default_language else parse_keys(given, keys, default_language)

    def read(one: Any, one_name: str, language: str) -> WordVectors:
        space = one if isinstance(one, WordVectors) else _read_one(one, one_name, limit, cache)
        return parse_keys(space, keys, language)

    languages = read_languages(given, name, read, default_language)
    return read(given, name, default_language) if languages is None else languages


def _read_one(given: Any, name: str, limit: int | None, cache: bool) -> WordVectors:
    """Read what is no folder and no mapping of languages."""
    from . import word_vector_files as files

    if isinstance(given, str | os.PathLike):
        return files.read_vector_file(Path(given), limit, cache=cache)
    if isinstance(given, Mapping):
        words, matrix = _of_mapping(given, name)
        return make_word_vectors(words, matrix, name=name)
    if _is_matrix_pair(given):
        return make_word_vectors(list(given[0]), as_array(given[1]), name=name)
    if hasattr(given, "get_word_vector") and hasattr(given, "get_words"):
        return files.of_fasttext_model(given, name)
    keyed = getattr(given, "wv", given)  # gensim's models hold their vectors there
    if hasattr(keyed, "index_to_key") and hasattr(keyed, "vectors"):
        counts = getattr(keyed, "expandos", {}).get("count")
        counts = None if counts is None else np.asarray(counts, np.float64)
        return make_word_vectors(list(keyed.index_to_key), as_array(keyed.vectors), frequencies=counts, name=name)
    raise InvalidTableError(
        f"{name} is a {type(given).__name__}. Give a mapping of word to vector, (words, matrix), a file of vectors, "
        "a folder of one file for each language, or a loaded fastText or gensim model."
    )


def is_space(given: Any) -> bool:
    """Whether this can be read as a space by itself, and is no vector."""
    keyed = getattr(given, "wv", given)
    return (
        isinstance(given, str | os.PathLike | Mapping | WordVectors)
        or _is_matrix_pair(given)
        or hasattr(given, "get_word_vector")
        or hasattr(keyed, "index_to_key")
    )


def _of_mapping(given: Mapping[str, Any], name: str) -> tuple[list[str], np.ndarray]:
    """Return the words of a mapping and the matrix of their vectors."""
    words = list(given)
    rows = [as_array(given[word]) for word in words]
    lengths = {row.shape for row in rows}
    if len(lengths) > 1:
        shown = sorted(lengths)[:_EXAMPLES]
        raise InvalidTableError(f"The vectors of {name} differ in shape: {shown}. Give them one dimension.")
    return words, np.stack(rows) if rows else np.zeros((0, 1), np.float32)


def as_array(values: Any) -> np.ndarray:
    """Return an array on the CPU."""
    if isinstance(values, torch.Tensor):
        return values.detach().float().cpu().numpy()
    return np.asarray(values)


def _is_matrix_pair(given: Any) -> bool:
    """Whether this is ``(words, matrix)``."""
    return (
        isinstance(given, tuple | list)
        and len(given) == 2
        and not isinstance(given[0], str | Mapping)
        and isinstance(given[0], Sequence | np.ndarray)
        and (isinstance(given[1], np.ndarray | torch.Tensor))
    )


def split_sides(given: Any) -> tuple[Any, Any] | None:
    """Tell two spaces from one.

    Args:
        given: What the user passes as ``word_vectors``.

    Returns:
        What was given for the source and for the target, or None for one space of both languages.
    """
    if isinstance(given, Mapping) and set(given) == set(SIDES):
        return given["source"], given["target"]
    if isinstance(given, tuple | list) and len(given) == 2 and not _is_matrix_pair(given):
        return given[0], given[1]
    return None
