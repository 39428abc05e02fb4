"""WECHSEL: a new token is a mixture of the source tokens that are nearest to it in a space of words of both languages.

Minixhofer et al. 2022, arXiv 2112.06598. Word vectors of the two languages are brought into one space by a dictionary,
tokens of both tokenizers get vectors in it, and a new row is the softmax-weighted mean of the rows of the `k` nearest
source tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._logging import get_logger
from ..errors import InvalidTableError
from ..plan import VocabPlan
from ..resources.corpus import Corpus
from ..resources.fasttext import FastTextOptions
from ..resources.piece_vectors import PIECES, WEIGHTINGS, PieceOptions, lettered_copies, piece_vectors
from ..resources.word_vectors import SIDES, WordVectors, read_word_vectors
from ..vocab.canonical import TokenKind
from .base import FitContext, InitMethod, MethodConfig, Resources, check_option
from .mixture import Mixture
from .neighbours import softmax_weights
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
            ``counted`` weighs by frequencies that were counted only.
        max_words: Only the first so many words of a space count, of each language where it tells them; None for all.
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
        cache: Keep what was made for the next call with the same text, tokenizers, options and seed.
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
        for name in ("dim", "min_count"):
            check_option(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}. It must be at least 1.")
        check_training(self)

    def fasttext(self) -> FastTextOptions:
        """Return the options of fastText."""
        return fasttext_options(self)

    def piece_options(self) -> PieceOptions:
        """Return how tokens get their vectors."""
        return PieceOptions(self.pieces, self.weighting, self.max_words, self.cache)


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
        """
        super().check_resources(resources)
        check_sides(resources, self.config.align)

    def reestimates(self, plan: VocabPlan) -> np.ndarray:
        """Return the ids of tokens with letters that would be copied by their spelling, if they shall be estimated."""
        return lettered_copies(plan) if self.config.shared == "estimate" else np.zeros(0, np.int64)

    def fit(self, context: FitContext) -> Mixture:
        """Cover every new token that has a vector.

        Raises:
            InvalidTableError: If the vectors cannot be read or no source token has one.
            CorpusError: If text is too small for ``min_count``.
            MissingDependencyError: If fastText is needed and not installed.
        """
        context = rereadable(context)
        plan, options = context.plan, self.config.piece_options()
        source, target = self._spaces(context)
        left = piece_vectors(source, context.source_tokenizer, plan.source, options)
        right = piece_vectors(target, context.target_tokenizer, plan.target, options)[plan.new_ids]
        align = self.config.align
        turn = None if source is target else rotation(context, source, target, align, self.config.cache)
        if turn is not None:
            left = (left.astype(np.float64) @ turn).astype(np.float32)
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

    def _spaces(self, context: FitContext) -> tuple[WordVectors, WordVectors]:
        """Read or train the two spaces; one and the same object if both languages are in one."""
        sides = given_sides(context.resources)
        if sides is None:
            space = read_word_vectors(context.resources.word_vectors, cache=self.config.cache)
            return space, space  # read whole: in one file, languages may follow one another
        source, target = (self._space(context, side, given) for side, given in zip(SIDES, sides, strict=True))
        return source, target

    def _space(self, context: FitContext, side: str, given: Any) -> WordVectors:
        """Read the space of one side, or train it."""
        if given is not None and not isinstance(given, Corpus):
            return read_word_vectors(
                given, name=f"the {side} word vectors", limit=self.config.max_words, cache=self.config.cache
            )
        return train_side(context, side, given, self.config.fasttext(), self.config.cache)


__all__ = ["ALIGNMENTS", "Wechsel", "WechselConfig"]
