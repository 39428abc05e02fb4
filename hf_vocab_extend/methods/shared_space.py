"""The space of words in which tokens of both vocabularies get their vectors: given, aligned, or built from text."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._logging import get_logger
from ..errors import MissingResourceError, VocabExtendWarning
from ..resources.bilingual_space import BUILDS, FROM_DICTIONARY, BilingualOptions, bilingual_space
from ..resources.corpus import Corpus
from ..resources.fasttext import FastTextOptions
from ..resources.word_filters import filter_words
from ..resources.word_keys import KEYS
from ..resources.word_vectors import SIDES, Rows, WordVectors, read_word_vectors
from .base import FitContext, MethodConfig, Resources, check_option
from .two_spaces import (
    ALIGNMENTS,
    check_sides,
    check_training,
    fasttext_options,
    given_sides,
    rereadable,
    rotation,
    train_side,
)

logger = get_logger(__name__)

SPACE_NEEDS = (
    frozenset({"word_vectors"}),
    frozenset({"parallel"}),
    frozenset({"word_vectors", "dictionary"}),
    frozenset({"parallel", "dictionary"}),
    frozenset({"dictionary"}),
)
"""The ``needs`` of a method that uses :func:`shared_space`."""


@dataclass(frozen=True)
class SpaceConfig(MethodConfig):
    """Options of the space that OFA and HyperOFA share.

    Attributes:
        build: Where no ``word_vectors`` are given, how a space is made of the parallel text: ``aligned``: each target
            word is placed where its translations are, which a dictionary joins or suffices for; ``pairs``: words that
            occur in the same pairs are near; ``fasttext``: vectors are trained on each side and aligned.
        align: What brings two spaces into one: ``dictionary``: its pairs; ``parallel``: words of the parallel text
            that are each other's most frequent translation; ``identical``: words that both spaces spell alike;
            ``auto``: the first two together, as far as they were given, else the third; ``none``: the two are in one
            space already.
        source_languages: Codes of the languages whose words source tokens get their vectors from; None for all. Only
            for spaces whose words have languages.
        target_languages: The same of target tokens.
        words_per_language: Only so many words of each language count, the most frequent ones; None for all. Of files
            with ``keys="plain"`` no more are read.
        min_frequency: Words that were counted less often are left out; None for none.
        keys: How the words of files tell their language: ``auto``, ``plain``, ``colon`` or ``conceptnet``.
        default_language: Language of the words whose key tells none.
        dim: Dimensions of vectors that are made here; None for 512 of ``aligned``, 300 of ``pairs`` and 100 of
            fastText.
        min_count: Words that occur less often get no vector where vectors are made here (of ``aligned`` they get one
            of their translations alone); None for 2 in pairs and 5 in fastText.
        epochs: fastText's passes over the text.
        window: fastText's words on each side that count as context.
        negatives: fastText's negative samples.
        min_ngram: fastText's shortest character n-gram.
        max_ngram: Its longest one; 0 for none.
        buckets: Hash places of the n-grams.
        threads: fastText's threads. Only 1 gives the same rows at every run.
        cache: Keep what was made for the next call with the same text, tokenizers, options and seed.
    """

    build: str = "aligned"
    align: str = "auto"
    source_languages: Sequence[str] | None = None
    target_languages: Sequence[str] | None = None
    words_per_language: int | None = None
    min_frequency: float | None = None
    keys: str = "auto"
    default_language: str = ""
    dim: int | None = None
    min_count: int | None = None
    epochs: int = 20
    window: int = 5
    negatives: int = 10
    min_ngram: int = 5
    max_ngram: int = 5
    buckets: int = 200_000
    threads: int = 1
    cache: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        for name in ("source_languages", "target_languages"):  # of JSON they are lists
            codes = getattr(self, name)
            codes = (codes,) if isinstance(codes, str) else codes
            check_option(codes is None or len(codes) > 0, f"{name} is empty. Name at least one, or give None for all.")
            object.__setattr__(self, name, None if codes is None else tuple(codes))
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            check_option(value in known, f"{name} is {value!r}. Choose one of: {', '.join(sorted(known))}.")
        for name in ("words_per_language", "dim", "min_count"):
            value = getattr(self, name)
            check_option(value is None or value >= 1, f"{name} is {value}. It must be at least 1, or None.")
        check_option(
            self.min_frequency is None or self.min_frequency >= 0,
            f"min_frequency is {self.min_frequency}. It must not be negative.",
        )
        check_training(self)

    def fasttext(self) -> FastTextOptions:
        """Return the options of fastText."""
        return fasttext_options(self, dim=self.dim or 100, min_count=self.min_count or 5)

    def bilingual(self) -> BilingualOptions:
        """Return the options of a space of pairs."""
        return BilingualOptions(self.build, self.dim, self.min_count or BilingualOptions.min_count)


@dataclass(frozen=True, eq=False)
class SharedSpace:
    """Words of the source and of the target side in one system of coordinates.

    Attributes:
        source: Words that source tokens get their vectors from.
        target: Words that target tokens get their vectors from; the same object where one space serves both.
    """

    source: WordVectors
    target: WordVectors


@dataclass(frozen=True, eq=False)
class _TurnedRows:
    """Rows times a matrix, computed when they are asked for."""

    rows: Rows
    matrix: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return int(self.rows.shape[0]), self.matrix.shape[1]

    def __getitem__(self, places: np.ndarray, /) -> np.ndarray:
        return (np.asarray(self.rows[places], np.float64) @ self.matrix).astype(np.float32)


def check_space(resources: Resources, config: SpaceConfig) -> None:
    """Raise before any work if the space cannot be had from what was given.

    Raises:
        MissingResourceError: It names the missing arguments.
    """
    if resources.word_vectors is None and config.build in BUILDS:
        enough = {"parallel", "dictionary"} if config.build in FROM_DICTIONARY else {"parallel"}
        if not enough & resources.given():
            raise MissingResourceError(
                f"There are no word vectors, and nothing that a space of the kind '{config.build}' is built from. "
                f"Bring word_vectors= or {' or '.join(f'{name}=' for name in sorted(enough, reverse=True))}."
            )
        if "dictionary" in resources.given() - enough:
            warnings.warn(
                f"A space of the kind '{config.build}' makes no use of a dictionary. Leave it out, or set build to "
                "'aligned' or 'fasttext'.",
                VocabExtendWarning,
                stacklevel=4,
            )
        if config.source_languages or config.target_languages:
            warnings.warn(
                "source_languages and target_languages choose among the languages of word_vectors=, and there are "
                "none. A space that is built here has the two languages of what it is built from; leave them out.",
                VocabExtendWarning,
                stacklevel=4,
            )
        return
    check_sides(resources, config.align)


def shared_space(context: FitContext, config: SpaceConfig) -> SharedSpace:
    """Return the space that the resources give.

    One given space serves both sides. Two, given or trained, are aligned: the source side is turned into the target's.
    Without word vectors one is built from the parallel text, the dictionary, or both.

    Raises:
        InvalidTableError: If vectors cannot be read, or two spaces cannot be aligned.
        InvalidOptionError: If a filter asks for what the space does not have.
        CorpusError: If text cannot be read or is too small.
        MissingDependencyError: If fastText is needed and not installed.
    """
    context = rereadable(context)
    if context.resources.word_vectors is None and config.build in BUILDS:
        built = bilingual_space(
            context.resources.parallel,
            context.source_tokenizer,
            context.target_tokenizer,
            config.bilingual(),
            dictionary=context.resources.dictionary,
            seed=context.generator.initial_seed() % 2**31,
            use_cache=config.cache,
        )
        return SharedSpace(*(_filtered(space, None, config) for space in built))
    sides = given_sides(context.resources)
    if sides is None:
        space = _read(context.resources.word_vectors, config)
        source = _filtered(space, config.source_languages, config)
        if config.source_languages == config.target_languages:
            return SharedSpace(source, source)
        return SharedSpace(source, _filtered(space, config.target_languages, config))
    source, target = (
        _filtered(_side(context, side, given, config), getattr(config, f"{side}_languages"), config)
        for side, given in zip(SIDES, sides, strict=True)
    )
    turn = rotation(context, source, target, config.align, config.cache)
    if turn is not None:
        source = dataclasses.replace(source, vectors=_TurnedRows(source.vectors, turn), compose=None)
    return SharedSpace(source, target)


def _read(given: Any, config: SpaceConfig, name: str = "word_vectors") -> WordVectors:
    """Read one space."""
    return read_word_vectors(
        given,
        name=name,
        limit=config.words_per_language if config.keys == "plain" else None,  # languages follow one another else
        keys=config.keys,
        default_language=config.default_language,
        cache=config.cache,
    )


def _filtered(space: WordVectors, languages: Sequence[str] | None, config: SpaceConfig) -> WordVectors:
    """Return the words of a space that the config asks for."""
    return filter_words(
        space, languages=languages, max_words=config.words_per_language, min_frequency=config.min_frequency
    )


def _side(context: FitContext, side: str, given: Any, config: SpaceConfig) -> WordVectors:
    """Read or train the space of one side."""
    if given is None or isinstance(given, Corpus):
        return train_side(context, side, given, config.fasttext(), config.cache)
    return _read(given, config, f"the {side} word vectors")


_CHOICES: dict[str, Iterable[str]] = {"build": (*BUILDS, "fasttext"), "align": ALIGNMENTS, "keys": KEYS}

__all__ = ["SPACE_NEEDS", "SharedSpace", "SpaceConfig", "check_space", "shared_space"]
