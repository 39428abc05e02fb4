"""Keys of multilingual spaces: ``eng:house``, ``eng:$house$``, ``/c/en/house``."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .._logging import get_logger
from ..errors import InvalidOptionError, InvalidTableError, VocabExtendWarning
from .packed_words import PackedWords, repeated_places
from .word_filters import rank_in_groups
from .word_vectors import BEGINS, ENDS, WordVectors, zipf

logger = get_logger(__name__)

_LONGEST_CODE = 8  # "zho_Hant"
_LONGEST_PART = 3  # of the language alone; "http" is none
_SHORTEST_CODE = 2
_MOST_CODES = 0.5  # so many of the keys must have a prefix for it to be taken for one
_MOST_MARKS = 0.1  # so many of the keys must begin or end with a mark for it to be taken for one
_MARK = ord("$")
_SPACE = ord(" ")
_EXAMPLES = 3


@dataclass(frozen=True, eq=False)
class _Prefixes:
    """Where the codes and the words of keys lie.

    Attributes:
        start: First byte of the code, int64, shape `(n,)`.
        length: Its bytes, 0 where there is none.
        word: First byte of the word.
    """

    start: np.ndarray
    length: np.ndarray
    word: np.ndarray


def _column(words: PackedWords, start: np.ndarray, offset: int) -> np.ndarray:
    """Return the byte at an offset from some place in each word, 0 past its end, uint8, shape `(n,)`."""
    places = start + offset
    inside = places < words.ends
    found = np.zeros(len(words), np.uint8)
    found[inside] = words.text[places[inside]]
    return found


def _code_lengths(words: PackedWords, start: np.ndarray, end: bytes) -> np.ndarray:
    """Return how many letters stand before a sign, 0 where that is no code, int64, shape `(n,)`."""
    lengths = np.zeros(len(words), np.int64)
    going, more = np.ones(len(words), bool), np.zeros(len(words), bool)
    for offset in range(_LONGEST_CODE + 1):
        byte = _column(words, start, offset)
        lengths[going & (byte == end[0])] = offset
        letter = ((byte | 32) >= ord("a")) & ((byte | 32) <= ord("z")) & (more | (offset < _LONGEST_PART))
        between = ((byte == ord("_")) | (byte == ord("-"))) & (offset >= _SHORTEST_CODE)  # "zho_Hant", "pt-br"
        going &= letter | between
        more |= between
    lengths[lengths < _SHORTEST_CODE] = 0
    return lengths


def _colon(words: PackedWords) -> _Prefixes:
    """Find the prefixes of ``eng:house``."""
    length = _code_lengths(words, words.starts, b":")
    return _Prefixes(words.starts, length, words.starts + np.where(length > 0, length + 1, 0))


def _path(words: PackedWords) -> _Prefixes:
    """Find the prefixes of ``/c/en/house``."""
    under = np.ones(len(words), bool)
    for offset, letter in enumerate(b"/c/"):
        under &= _column(words, words.starts, offset) == letter
    length = np.where(under, _code_lengths(words, words.starts + 3, b"/"), 0)
    return _Prefixes(words.starts + 3, length, words.starts + np.where(length > 0, length + 4, 0))


PREFIXES: dict[str, Callable[[PackedWords], _Prefixes]] = {"colon": _colon, "conceptnet": _path}
"""Where a key tells the language, by the name of the option."""

KEYS = ("auto", "plain", *PREFIXES)
"""Formats of keys; ``auto`` takes a prefix for one if half of the keys have it."""


def check_keys(keys: str) -> None:
    """Raise if a format of keys is unknown.

    Raises:
        InvalidOptionError: It lists the known ones.
    """
    if keys not in KEYS:
        raise InvalidOptionError(f"keys is {keys!r}. Choose one of: {', '.join(KEYS)}.")


def parse_keys(space: WordVectors, keys: str = "auto", default_language: str = "") -> WordVectors:
    """Take the language and the marks of word edges out of the keys of a space.

    In ``eng:$house$`` the marks say that the word begins and ends where a word of running text does; a mark within it
    is a space. They are taken for marks only in a space with prefixes where one key in ten begins or ends with one.

    Args:
        space: A space whose words are keys. One that knows its languages is returned as it is.
        keys: One of :data:`KEYS`.
        default_language: Language of the keys without a prefix; if no key has one, of all.

    Returns:
        A view of the space; the same if there is nothing to take out.

    Raises:
        InvalidOptionError: If `keys` is unknown.
        InvalidTableError: If a format is asked for that no key has.
    """
    check_keys(keys)
    if space.languages is not None or (keys == "plain" and not default_language):
        return space
    words = (
        space.words
        if isinstance(space.words, PackedWords)
        else PackedWords.of(word.encode("utf-8", "replace") for word in space.words)
    )
    found = None if keys == "plain" else _find(words, keys, space.name)
    if found is None:
        return _with(space, languages=np.full(len(space), default_language)) if default_language else space
    return _parsed(space, words, found, default_language)


def _find(words: PackedWords, keys: str, name: str) -> tuple[str, _Prefixes] | None:
    """Return the prefixes of keys and the name of their format, None if they have none."""
    for kind, find in PREFIXES.items():
        if keys not in ("auto", kind):
            continue
        found = find(words)
        share = np.count_nonzero(found.length) / max(1, len(words))
        if keys == kind and share == 0:
            raise InvalidTableError(
                f"keys is '{keys}', and none of the {len(words)} keys of {name} has such a prefix; the first is "
                f"{words[0]!r}. Give keys='plain', or tell the language by the file: {{'eng': file, ...}}."
            )
        if keys == kind or share >= _MOST_CODES:
            logger.info("%s: %d of %d keys tell their language.", name, np.count_nonzero(found.length), len(words))
            return kind, found
    return None


def _parsed(
    space: WordVectors, words: PackedWords, found: tuple[str, _Prefixes], default_language: str
) -> WordVectors:
    """Return a space of the words behind the prefixes, without empty and repeated ones."""
    kind, prefixes = found
    languages, codes = _languages(words, prefixes, default_language)
    bare = PackedWords(words.text, prefixes.word, words.ends)
    bounds = None
    if kind == "colon":
        bare, bounds = _without_marks(bare)
    else:
        bare = PackedWords(_replaced(bare.text, ord("_")), bare.starts, bare.ends)
    groups = codes if bounds is None else 4 * codes + bounds
    again = repeated_places(bare, groups)
    keep = bare.ends > bare.starts
    n_empty = len(keep) - int(keep.sum())
    keep[again] = False
    _tell(space.name, words, again, n_empty)
    parsed = _with(space, words=bare, languages=languages, bounds=bounds)
    if space.frequencies is not None and not space.counted:  # ranks are those within a language
        order = np.argsort(codes, kind="stable")
        ranks = np.empty(len(words), np.int64)
        ranks[order] = rank_in_groups(codes[order])
        parsed = _with(parsed, frequencies=zipf(ranks))
    return parsed if keep.all() else parsed.select(np.flatnonzero(keep))


def _with(space: WordVectors, **changes: object) -> WordVectors:
    """Return a space with other fields."""
    return dataclasses.replace(space, **changes)  # type: ignore[arg-type]


def _tell(name: str, keys: PackedWords, again: np.ndarray, n_empty: int) -> None:
    """Warn about keys that are left out."""
    if n_empty:
        logger.info("%s: %d keys without a word are left out.", name, n_empty)
    if len(again):
        shown = ", ".join(repr(keys[place]) for place in again[:_EXAMPLES].tolist())
        warnings.warn(
            f"{len(again)} words of {name} occur more than once in a language, for example {shown}; the first vector "
            "of each is kept.",
            VocabExtendWarning,
            stacklevel=4,
        )


def _languages(words: PackedWords, prefixes: _Prefixes, default_language: str) -> tuple[np.ndarray, np.ndarray]:
    """Return each word's language and its number, int64; both of shape `(n,)`."""
    letters = np.zeros((len(words), _LONGEST_CODE), np.uint8)
    for offset in range(int(prefixes.length.max(initial=0))):
        letters[:, offset] = np.where(offset < prefixes.length, _column(words, prefixes.start, offset), 0)
    known, codes = np.unique(letters.view(np.uint64).ravel(), return_inverse=True)
    names = [code.decode("ascii") or default_language for code in known.view(f"S{_LONGEST_CODE}").tolist()]
    if names.count(default_language) > 1:  # some keys say it, some do not
        first = names.index(default_language)
        codes = np.asarray([first if name == default_language else n for n, name in enumerate(names)])[codes]
    return np.asarray(names)[codes], codes.astype(np.int64)


def _without_marks(words: PackedWords) -> tuple[PackedWords, np.ndarray | None]:
    """Take ``$`` from both ends of words, and put spaces for those within; None for bounds if they are no marks."""
    long = words.ends > words.starts
    last = np.zeros(len(words), np.uint8)
    last[long] = words.text[words.ends[long] - 1]
    begins, ends = _column(words, words.starts, 0) == _MARK, last == _MARK
    if np.count_nonzero(begins | ends) < _MOST_MARKS * len(words):
        return words, None
    starts = words.starts + begins
    stops = np.maximum(starts, words.ends - ends)  # a mark alone is both
    bounds = (begins * BEGINS + ends * ENDS).astype(np.uint8)
    return PackedWords(_replaced(words.text, _MARK), starts, stops), bounds


def _replaced(text: np.ndarray, sign: int) -> np.ndarray:
    """Return the bytes with spaces for a sign."""
    return np.where(text == sign, np.uint8(_SPACE), text)
