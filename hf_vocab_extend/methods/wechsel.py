"""WECHSEL: a new token is a mixture of the source tokens that are nearest to it in a space of words of both languages.

Minixhofer et al. 2022, arXiv 2112.06598. Word vectors of the two languages are brought into one space by a dictionary,
tokens of both tokenizers get vectors in it, and a new row is the softmax-weighted mean of the rows of the `k` nearest
source tokens.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from .._logging import get_logger
from ..errors import InvalidTableError, MissingResourceError, VocabExtendWarning
from ..plan import MatchKind, VocabPlan
from ..resources.alignment import align_pairs
from ..resources.corpus import Corpus
from ..resources.fasttext import FastTextOptions
from ..resources.parallel import open_pairs
from ..resources.piece_vectors import PIECES, WEIGHTINGS, PieceOptions, piece_texts, piece_vectors
from ..resources.procrustes import find_correspondences, procrustes
from ..resources.word_pairs import translation_pairs
from ..resources.word_training import train_word_vectors
from ..resources.word_vectors import SIDES, WordVectors, read_word_vectors, split_sides
from ..vocab.canonical import TokenKind
from .base import FitContext, InitMethod, MethodConfig, Resources, check_option
from .mixture import Mixture
from .neighbours import softmax_weights

if TYPE_CHECKING:
    import torch

logger = get_logger(__name__)


@dataclass(frozen=True)
class WechselConfig(MethodConfig):
    """Options of :class:`Wechsel`.

    The defaults are those of the package ``wechsel``, but for ``pieces`` and ``shared``, where it has ``ngrams`` and
    ``estimate``: with vectors trained on 30,000 pairs, means of words and copies found translations better.

    Attributes:
        k: Number of nearest source tokens.
        temperature: Cosines are divided by it before the softmax.
        align: What brings two spaces into one: ``dictionary``: its pairs; ``parallel``: words of the parallel text
            that are each other's most frequent translation; ``identical``: words that both spaces spell alike;
            ``auto``: the first two together, as far as they were given, else the third; ``none``: the two are in one
            space already.
        pieces: How a token gets its vector: ``words``: the mean of the words that contain it; ``ngrams``: from the
            character n-grams of its text, for which both spaces must be fastText's.
        weighting: ``frequency`` or ``equal``: how the words that contain a token are weighed. Files without counts
            list words by falling frequency, so Zipf's law stands in; a mapping tells nothing, so it weighs equally.
        max_words: Only the first so many words of a space count; None for all.
        shared: What happens in mode ``replace`` to tokens with letters that both vocabularies spell alike: ``copy``
            their rows, or ``estimate`` them, as the paper does.
        dim: Dimensions of vectors that are trained here.
        epochs: Passes over the text.
        min_count: Words that occur less often get no vector.
        window: Words on each side that count as context.
        negatives: Negative samples.
        min_ngram: Shortest character n-gram.
        max_ngram: Longest one; 0 for none.
        buckets: Hash places of the n-grams; each takes `dim` floats of memory while fastText trains.
        threads: fastText's threads. Only 1 gives the same rows at every run.
        cache: Keep trained vectors for the next call with the same text, tokenizers, options and seed.
    """

    k: int = 10
    temperature: float = 0.1
    align: str = "auto"
    pieces: str = "words"
    weighting: str = "frequency"
    max_words: int | None = None
    shared: str = "copy"
    dim: int = 100
    epochs: int = 20
    min_count: int = 5
    window: int = 5
    negatives: int = 10
    min_ngram: int = 5
    max_ngram: int = 5
    buckets: int = 200_000
    threads: int = 1
    cache: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_option(self.k >= 1, f"k is {self.k}. It must be at least 1.")
        check_option(0 < self.temperature < 1e6, f"temperature is {self.temperature}. It must be positive.")
        check_option(
            self.max_words is None or self.max_words >= 1,
            f"max_words is {self.max_words}. It must be at least 1, or None for all.",
        )
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            check_option(value in known, f"{name} is {value!r}. Choose one of: {', '.join(sorted(known))}.")
        for name in ("dim", "epochs", "min_count", "window", "negatives", "buckets", "threads"):
            check_option(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}. It must be at least 1.")
        check_option(
            self.max_ngram == 0 or 1 <= self.min_ngram <= self.max_ngram,
            f"min_ngram is {self.min_ngram} and max_ngram {self.max_ngram}. "
            "Give 1 <= min_ngram <= max_ngram, or max_ngram=0 for none.",
        )

    def fasttext(self) -> FastTextOptions:
        """Return the options of fastText."""
        return FastTextOptions(**{name: getattr(self, name) for name in FastTextOptions.__dataclass_fields__})

    def piece_options(self) -> PieceOptions:
        """Return how tokens get their vectors."""
        return PieceOptions(self.pieces, self.weighting, self.max_words)


WordPairs = Iterable[tuple[str, str]]


def _identical_words(context: FitContext, source: WordVectors, target: WordVectors) -> WordPairs:
    """Return the words that both spaces spell alike: numbers, names, loans."""
    places = target.places(source.words)
    return ((source.words[place], source.words[place]) for place in np.flatnonzero(places >= 0).tolist())


def _given_pairs(context: FitContext, source: WordVectors, target: WordVectors) -> WordPairs:
    """Return the pairs of the dictionary."""
    return open_pairs(context.resources.dictionary)


def _aligned_words(context: FitContext, source: WordVectors, target: WordVectors) -> WordPairs:
    """Return the words of the parallel text that are each other's most frequent translation."""
    counts = align_pairs(context.resources.parallel, context.source_tokenizer, context.target_tokenizer, unit="word")
    return translation_pairs(counts, context.plan.source, context.plan.target)


def _best_pairs(context: FitContext, source: WordVectors, target: WordVectors) -> WordPairs:
    """Return the pairs of the dictionary and of the parallel text; words that are spelled alike without both."""
    given = context.resources.given()
    finders = [find for name, find in _BY_RESOURCE.items() if name in given] or [_identical_words]
    return chain.from_iterable(find(context, source, target) for find in finders)


PairFinder = Callable[[FitContext, WordVectors, WordVectors], WordPairs]
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

_CHOICES: dict[str, Iterable[str]] = {
    "align": ALIGNMENTS,
    "pieces": PIECES,
    "weighting": WEIGHTINGS,
    "shared": ("copy", "estimate"),
}


class Wechsel(InitMethod):
    """Softmax mixtures of the nearest source tokens in a space of words of both languages.

    ``word_vectors`` is one space that holds both languages, or two: ``(source, target)`` or
    ``{"source": ..., "target": ...}``, each whatever :func:`~..resources.word_vectors.read_word_vectors` reads, or a
    :class:`~..resources.corpus.Corpus` (``open_corpus(...)``) to train it on, or None to train it on what else was
    brought: the source side of ``parallel``; the ``corpus`` if there is one, else the target side of ``parallel``.
    Without ``word_vectors`` both are trained so.
    """

    name = "wechsel"
    pretty_name = "WECHSEL"
    summary = (
        "Each new row is a mixture of the source tokens whose word vectors, aligned by a dictionary, are nearest."
    )
    paper_url = "https://arxiv.org/abs/2112.06598"
    citation = (
        "@inproceedings{minixhofer-etal-2022-wechsel, title={{WECHSEL}: Effective initialization of subword "
        "embeddings for cross-lingual transfer of monolingual language models}, author={Minixhofer, Benjamin and "
        "Paischer, Fabian and Rekabsaz, Navid}, booktitle={Proceedings of NAACL 2022}, year={2022}}"
    )
    config_class = WechselConfig
    config: WechselConfig
    needs = (
        frozenset({"word_vectors"}),
        frozenset({"parallel"}),
        frozenset({"word_vectors", "dictionary"}),
        frozenset({"parallel", "dictionary"}),
    )
    extra = "focus"

    def check_resources(self, resources: Resources) -> None:
        """Raise before any work if a space is missing, or what would align two of them.

        Raises:
            MissingResourceError: It names the missing arguments.
            InvalidTableError: If ``word_vectors`` is a folder.
        """
        super().check_resources(resources)
        sides = _sides(resources)
        if sides is None:
            if resources.dictionary is not None:
                warnings.warn(
                    "word_vectors is one space, in which nothing is to be aligned, so the dictionary is not used. "
                    "For two spaces pass word_vectors=(source, target).",
                    VocabExtendWarning,
                    stacklevel=4,
                )
            return
        for side, given in zip(SIDES, sides, strict=True):
            if given is None and not any(getattr(resources, name) is not None for name in _TEXTS[side]):
                texts = "parallel=" if side == "source" else "corpus= or parallel="
                raise MissingResourceError(
                    f"There are no {side} word vectors and no {side} text to train them on. Give both spaces as "
                    f"word_vectors=(source, target), or bring {texts}."
                )
        if self.config.align in _BY_RESOURCE and self.config.align not in resources.given():
            raise MissingResourceError(
                f"align is '{self.config.align}', and there is none. Bring {self.config.align}=."
            )

    def reestimates(self, plan: VocabPlan) -> np.ndarray:
        """Return the ids of tokens with letters that would be copied by their spelling, if they shall be estimated."""
        if self.config.shared == "copy":
            return np.zeros(0, np.int64)
        spelled = np.isin(plan.kinds, (MatchKind.EXACT, MatchKind.FUZZY)) & (plan.target.kinds == TokenKind.NORMAL)
        texts = piece_texts(plan.target)
        lettered = [index for index in np.flatnonzero(spelled).tolist() if any(map(str.isalpha, texts[index]))]
        return np.asarray(lettered, np.int64)

    def fit(self, context: FitContext) -> Mixture:
        """Cover every new token that has a vector.

        Raises:
            InvalidTableError: If the vectors cannot be read or no source token has one.
            CorpusError: If text is too small for ``min_count``.
            MissingDependencyError: If fastText is needed and not installed.
        """
        if isinstance(context.resources.parallel, Iterator):  # it is read more than once
            kept = dataclasses.replace(context.resources, parallel=open_pairs(context.resources.parallel))
            context = dataclasses.replace(context, resources=kept)
        plan, options = context.plan, self.config.piece_options()
        source, target = self._spaces(context)
        left = piece_vectors(source, context.source_tokenizer, plan.source, options)
        right = piece_vectors(target, context.target_tokenizer, plan.target, options)[plan.new_ids]
        if source is not target:
            left = self._align(context, source, target, left)
        usable = left.any(1) & np.isin(plan.source.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
        pool = np.flatnonzero(usable & context.trained[: plan.n_source])
        if len(pool) == 0:
            raise InvalidTableError(
                f"None of the {plan.n_source} source tokens has a vector in {source.name} and a trained row, so there "
                "is nothing to mix from. Bring vectors of the source language."
            )
        logger.info("WECHSEL: %d of %d new tokens over %d source tokens", right.any(1).sum(), len(right), len(pool))
        return self._mix(right, left, pool, context.n_source, context.device)

    def _mix(
        self, right: np.ndarray, left: np.ndarray, pool: np.ndarray, n_source: int, device: torch.device
    ) -> Mixture:
        """Weigh the source tokens of a pool for each new token."""
        weights = softmax_weights(right, left[pool], self.config.k, temperature=self.config.temperature, device=device)
        rows = np.repeat(np.arange(len(right)), np.diff(weights.offsets))
        return Mixture.from_entries(rows, pool[weights.columns], weights.weights, n_rows=len(right), n_source=n_source)

    def _align(self, context: FitContext, source: WordVectors, target: WordVectors, vectors: np.ndarray) -> np.ndarray:
        """Bring vectors of the source space into the target space."""
        find = ALIGNMENTS[self.config.align]
        if find is None:
            if source.dim != target.dim:
                raise InvalidTableError(
                    f"{source.name} has {source.dim} dimensions and {target.name} {target.dim}, so they are not one "
                    "space. Bring a dictionary and leave align at 'auto'."
                )
            return vectors
        found = find_correspondences(source, target, find(context, source, target))
        logger.info("WECHSEL: %d of %d dictionary pairs are in both spaces", found.n_found, found.n_pairs)
        if found.n_found < min(source.dim, target.dim):
            warnings.warn(
                f"Only {found.n_found} of the {found.n_pairs} pairs of words are in both spaces, fewer than the "
                f"{min(source.dim, target.dim)} dimensions, so the rotation is not determined. Bring a larger "
                "dictionary or vectors of more words.",
                VocabExtendWarning,
                stacklevel=2,
            )
        return (vectors.astype(np.float64) @ procrustes(source, target, found)).astype(np.float32)

    def _spaces(self, context: FitContext) -> tuple[WordVectors, WordVectors]:
        """Read or train the two spaces; one and the same object if both languages are in one."""
        sides = _sides(context.resources)
        if sides is None:
            space = read_word_vectors(context.resources.word_vectors, limit=self.config.max_words)
            return space, space
        source, target = (self._space(context, side, given) for side, given in zip(SIDES, sides, strict=True))
        return source, target

    def _space(self, context: FitContext, side: str, given: Any) -> WordVectors:
        """Read the space of one side, or train it."""
        if given is not None and not isinstance(given, Corpus):
            return read_word_vectors(given, name=f"the {side} word vectors", limit=self.config.max_words)
        text = given if given is not None else _text(context.resources, side)
        if text is None:
            raise MissingResourceError(f"There is no {side} text to train word vectors on.")
        tokenizer = getattr(context, f"{side}_tokenizer")
        texts = sorted(set(piece_texts(getattr(context.plan, side))))
        return train_word_vectors(
            tokenizer,
            text,
            texts,
            self.config.fasttext(),
            seed=context.generator.initial_seed() % 2**31,
            use_cache=self.config.cache,
        )


def _sides(resources: Resources) -> tuple[Any, Any] | None:
    """Return what was given for the source and the target side; None for one space of both."""
    return (None, None) if resources.word_vectors is None else split_sides(resources.word_vectors)


def _text(resources: Resources, side: str) -> Corpus | None:
    """Return the text that the vectors of a side are trained on, if there is any."""
    if side == "target" and resources.corpus is not None:
        return resources.corpus
    if resources.parallel is None:
        return None
    pairs, column = open_pairs(resources.parallel), SIDES.index(side)
    return Corpus(f"the {side} side of the pairs {pairs.name}", lambda: (pair[column] for pair in pairs))


__all__ = ["ALIGNMENTS", "Wechsel", "WechselConfig"]
