"""Two spaces of words, of the source and of the target language: where they are from, and what makes them one."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np

from .._logging import get_logger
from ..errors import InvalidTableError, MissingResourceError, VocabExtendWarning
from ..resources.alignment import align_pairs
from ..resources.corpus import Corpus
from ..resources.fasttext import FastTextOptions
from ..resources.parallel import open_pairs
from ..resources.piece_vectors import piece_texts
from ..resources.procrustes import find_correspondences, procrustes
from ..resources.word_pairs import translation_pairs
from ..resources.word_training import train_word_vectors
from ..resources.word_vectors import SIDES, WordVectors, split_sides
from .base import FitContext, Resources, check_option

logger = get_logger(__name__)

WordPairs = Iterable[tuple[str, str]]
PairFinder = Callable[[FitContext, WordVectors, WordVectors, bool], WordPairs]


def check_training(config: Any) -> None:
    """Raise if an option of fastText is out of range."""
    for name in ("epochs", "window", "negatives", "buckets", "threads"):
        check_option(getattr(config, name) >= 1, f"{name} is {getattr(config, name)}. It must be at least 1.")
    check_option(
        config.max_ngram == 0 or 1 <= config.min_ngram <= config.max_ngram,
        f"min_ngram is {config.min_ngram} and max_ngram {config.max_ngram}. "
        "Give 1 <= min_ngram <= max_ngram, or max_ngram=0 for none.",
    )


def fasttext_options(config: Any, **others: int) -> FastTextOptions:
    """Return the options of fastText that a config holds under their own names, but for some."""
    names = set(FastTextOptions.__dataclass_fields__) - set(others)
    return FastTextOptions(**{name: getattr(config, name) for name in names}, **others)


def given_sides(resources: Resources) -> tuple[Any, Any] | None:
    """Return what was given for the source and the target side; None for one space of both."""
    return (None, None) if resources.word_vectors is None else split_sides(resources.word_vectors)


def rereadable(context: FitContext) -> FitContext:
    """Return the context with parallel text that can be read more than once."""
    if not isinstance(context.resources.parallel, Iterator):
        return context
    kept = dataclasses.replace(context.resources, parallel=open_pairs(context.resources.parallel))
    return dataclasses.replace(context, resources=kept)


def check_sides(resources: Resources, align: str) -> None:
    """Raise before any work if a space is missing, or what would align two of them.

    Raises:
        MissingResourceError: It names the missing arguments.
    """
    sides = given_sides(resources)
    if sides is None:
        if resources.dictionary is not None:
            warnings.warn(
                "word_vectors is one space, in which nothing is to be aligned, so the dictionary is not used. "
                "For two spaces pass word_vectors=(source, target).",
                VocabExtendWarning,
                stacklevel=5,
            )
        return
    for side, given in zip(SIDES, sides, strict=True):
        if given is None and not any(getattr(resources, name) is not None for name in _TEXTS[side]):
            texts = "parallel=" if side == "source" else "corpus= or parallel="
            raise MissingResourceError(
                f"There are no {side} word vectors and no {side} text to train them on. Give both spaces as "
                f"word_vectors=(source, target), or bring {texts}."
            )
    if align in _BY_RESOURCE and align not in resources.given():
        raise MissingResourceError(f"align is '{align}', and there is none. Bring {align}=.")


def train_side(
    context: FitContext, side: str, text: Corpus | None, options: FastTextOptions, use_cache: bool
) -> WordVectors:
    """Train the space of one side on a text, or on what else was brought.

    Raises:
        MissingResourceError: If there is no text.
        MissingDependencyError: If fastText is not installed.
        CorpusError: If the text is too small.
    """
    text = text if text is not None else _text(context.resources, side)
    if text is None:
        raise MissingResourceError(f"There is no {side} text to train word vectors on.")
    return train_word_vectors(
        getattr(context, f"{side}_tokenizer"),
        text,
        sorted(set(piece_texts(getattr(context.plan, side)))),
        options,
        seed=context.generator.initial_seed() % 2**31,
        use_cache=use_cache,
    )


def _text(resources: Resources, side: str) -> Corpus | None:
    """Return the text that the vectors of a side are trained on, if there is any."""
    if side == "target" and resources.corpus is not None:
        return resources.corpus
    if resources.parallel is None:
        return None
    pairs, column = open_pairs(resources.parallel), SIDES.index(side)
    return Corpus(f"the {side} side of the pairs {pairs.name}", lambda: (pair[column] for pair in pairs))


def rotation(
    context: FitContext, source: WordVectors, target: WordVectors, align: str, use_cache: bool = True
) -> np.ndarray | None:
    """Return the matrix that brings vectors of the source space into the target space.

    Args:
        context: Holds the dictionary and the parallel text.
        source: Space of the source side.
        target: Space of the target side.
        align: A name in :data:`ALIGNMENTS`.
        use_cache: Look the alignment of parallel text up, and keep it.

    Returns:
        Float64, shape `(source dim, target dim)`; None where the two are in one space already.

    Raises:
        InvalidTableError: If no pair of words is in both spaces, or spaces that are one differ in dimension.
    """
    find = ALIGNMENTS[align]
    if find is None:
        if source.dim != target.dim:
            raise InvalidTableError(
                f"{source.name} has {source.dim} dimensions and {target.name} {target.dim}, so they are not one "
                "space. Bring a dictionary and leave align at 'auto'."
            )
        return None
    found = find_correspondences(source, target, find(context, source, target, use_cache))
    logger.info("%d of %d pairs of words are in both spaces", found.n_found, found.n_pairs)
    if found.n_found < min(source.dim, target.dim):
        warnings.warn(
            f"Only {found.n_found} of the {found.n_pairs} pairs of words are in both spaces, fewer than the "
            f"{min(source.dim, target.dim)} dimensions, so the rotation is not determined. Bring a larger "
            "dictionary or vectors of more words.",
            VocabExtendWarning,
            stacklevel=3,
        )
    return procrustes(source, target, found)


def _identical_words(context: FitContext, source: WordVectors, target: WordVectors, use_cache: bool) -> WordPairs:
    """Return the words that both spaces spell alike: numbers, names, loans."""
    places = target.places(source.words)
    return ((source.words[place], source.words[place]) for place in np.flatnonzero(places >= 0).tolist())


def _given_pairs(context: FitContext, source: WordVectors, target: WordVectors, use_cache: bool) -> WordPairs:
    """Return the pairs of the dictionary."""
    given = context.resources.dictionary
    return open_pairs(list(given.items()) if isinstance(given, dict) else given)


def _aligned_words(context: FitContext, source: WordVectors, target: WordVectors, use_cache: bool) -> WordPairs:
    """Return the words of the parallel text that are each other's most frequent translation."""
    tokenizers = context.source_tokenizer, context.target_tokenizer
    counts = align_pairs(context.resources.parallel, *tokenizers, unit="word", use_cache=use_cache)
    return translation_pairs(counts, context.plan.source, context.plan.target)


def _best_pairs(context: FitContext, source: WordVectors, target: WordVectors, use_cache: bool) -> WordPairs:
    """Return the pairs of the dictionary and of the parallel text; words that are spelled alike without both."""
    given = context.resources.given()
    finders = [find for name, find in _BY_RESOURCE.items() if name in given] or [_identical_words]
    return chain.from_iterable(find(context, source, target, use_cache) for find in finders)


_BY_RESOURCE: dict[str, PairFinder] = {"dictionary": _given_pairs, "parallel": _aligned_words}
ALIGNMENTS: dict[str, PairFinder | None] = {
    "auto": _best_pairs,
    "identical": _identical_words,
    "none": None,
    **_BY_RESOURCE,
}
"""Pairs of words that two spaces are aligned by, by the name of the option."""

_TEXTS = {"source": ("parallel",), "target": ("corpus", "parallel")}
"""What the vectors of a side can be trained on."""

__all__ = [
    "ALIGNMENTS",
    "check_sides",
    "check_training",
    "fasttext_options",
    "given_sides",
    "rereadable",
    "rotation",
    "train_side",
]
