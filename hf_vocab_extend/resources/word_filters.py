"""Parts of a space of word vectors: by language, by rank and by frequency."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np

from ..errors import InvalidOptionError, InvalidTableError
from .packed_words import number_labels
from .word_vectors import WordVectors

_LISTED = 20


def filter_words(
    space: WordVectors,
    *,
    languages: str | Iterable[str] | None = None,
    max_words: int | None = None,
    min_frequency: float | None = None,
) -> WordVectors:
    """Return a view of some words of a space, in their order; no vector is read.

    Args:
        space: Any space.
        languages: Codes of the languages to keep, spelled as the space spells them; None for all. ``""`` stands for
            words of no known language.
        max_words: Keep so many words of each language: the most frequent ones, and where nothing is known of
            frequencies the first ones. None for all.
        min_frequency: Keep words that occur at least so often; only for a space whose words were counted.

    Raises:
        InvalidOptionError: If a language is asked for that the space does not have (it says which it has), or its
            words have no languages or counts, or a number is out of range.
        InvalidTableError: If no word is left.
    """
    keep = np.ones(len(space), bool)
    if languages is not None:
        keep &= _of_languages(space, [languages] if isinstance(languages, str) else list(languages))
    if min_frequency is not None:
        keep &= _frequent(space, min_frequency)
    if max_words is not None:
        if max_words < 1:
            raise InvalidOptionError(f"max_words is {max_words}. It must be at least 1, or None for all.")
        keep &= _ranks(space, keep) < max_words
    if keep.all():
        return space
    if not keep.any():
        raise InvalidTableError(
            f"None of the {len(space)} words of {space.name} passes the filters{_most(space)}. Widen them."
        )
    return space.select(np.flatnonzero(keep))


def _of_languages(space: WordVectors, wanted: list[str]) -> np.ndarray:
    """Return which words are of some languages, bool, shape `(n,)`."""
    if not wanted:
        raise InvalidOptionError("languages is empty. Name at least one, or give None for all.")
    if space.languages is None:
        raise InvalidOptionError(
            f"The words of {', '.join(map(repr, wanted))} are asked for, and nothing tells the language of the words "
            f"of {space.name}. Give keys with a prefix ('eng:house'), or one file for each language: a folder, or "
            "{'eng': file, ...}."
        )
    known, numbers = number_labels(space.languages)
    missing = [code for code in wanted if code not in known]
    if missing:
        close = [one for code in missing for one in difflib.get_close_matches(code, known, n=2, cutoff=0.5)]
        listed = ", ".join(repr(code) for code in known[:_LISTED])
        more = f" and {len(known) - _LISTED} others" if len(known) > _LISTED else ""
        hint = f" Is {' or '.join(map(repr, dict.fromkeys(close)))} meant?" if close else ""
        raise InvalidOptionError(
            f"The words of {', '.join(map(repr, missing))} are asked for, and {space.name} has no word of it. "
            f"It has {len(known)}: {listed}{more}.{hint}"
        )
    return np.isin(np.asarray(known), wanted)[numbers]


def _frequent(space: WordVectors, least: float) -> np.ndarray:
    """Return which words occur often enough, bool, shape `(n,)`."""
    if not least >= 0:
        raise InvalidOptionError(f"min_frequency is {least}. It must not be negative.")
    if space.frequencies is None or not space.counted:
        raise InvalidOptionError(
            f"min_frequency is {least}, and {space.name} does not tell how often its words occur. Limit the number "
            "of words instead, or bring counts: a fastText .bin, gensim KeyedVectors, or an .npz with the array "
            "'frequencies'."
        )
    return space.frequencies >= least


def _ranks(space: WordVectors, keep: np.ndarray) -> np.ndarray:
    """Return each kept word's rank by frequency among those of its language, from 0; others get no useful one."""
    places = np.flatnonzero(keep)
    ranks = np.zeros(len(space), np.int64)
    codes = np.zeros(len(space), np.int64) if space.languages is None else number_labels(space.languages)[1]
    frequencies = np.zeros(len(space)) if space.frequencies is None else space.frequencies
    order = places[np.lexsort((places, -frequencies[places], codes[places]))]
    ranks[order] = rank_in_groups(codes[order])
    return ranks


def rank_in_groups(groups: np.ndarray) -> np.ndarray:
    """Return each element's number within its run of equal groups, int64, shape `(n,)`."""
    numbers = np.arange(len(groups))
    first = np.ones(len(groups), bool)
    first[1:] = groups[1:] != groups[:-1]
    return numbers - np.maximum.accumulate(np.where(first, numbers, 0))


def first_in_groups(groups: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the first so many elements of each group, int64, ascending."""
    order = np.argsort(groups, kind="stable")
    return np.sort(order[rank_in_groups(groups[order]) < count])


def _most(space: WordVectors) -> str:
    """Say how often the most frequent word occurs."""
    if space.frequencies is None or not space.counted:
        return ""
    return f" (its most frequent word occurs {space.frequencies.max():g} times)"
