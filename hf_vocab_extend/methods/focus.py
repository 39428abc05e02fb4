"""FOCUS: a new token is a sparse mixture of the tokens that both vocabularies share and that are used alike.

Dobler & de Melo 2023, arXiv 2305.14481. Each target token has an auxiliary vector, by default from fastText trained
on target text that the target tokenizer has cut. The weights of a new token are the sparsemax of its cosines to the
shared tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .._logging import get_logger
from ..errors import InvalidTableError
from ..plan import MatchKind, VocabPlan
from ..resources.fasttext import FastTextOptions, train_token_vectors
from ..resources.token_vectors import TokenVectors, read_token_vectors
from ..vocab.canonical import TokenKind
from .base import FitContext, InitMethod, MethodConfig, check_option
from .mixture import Mixture
from .neighbours import sparsemax_weights

logger = get_logger(__name__)


@dataclass(frozen=True)
class FocusConfig(MethodConfig):
    """Options of :class:`Focus`.

    The defaults of the fastText options are those of the package ``deepfocus``; the paper's experiments used
    ``dim=300``.

    Attributes:
        temperature: Cosines are divided by it before the sparsemax; smaller is sparser, 1 is the paper's.
        k: Only the `k` nearest shared tokens may get weight; None for all, as in the paper.
        pool: Which shared tokens may get weight: ``overlap``: all whose source row is trained; ``text``: of these only
            whole text that matches exactly, no single bytes and no fuzzy matches.
        dim: Dimensions of the fastText vectors.
        epochs: Passes over the corpus.
        min_count: Tokens that occur less often get no vector, and so are neither covered nor mixed from.
        window: Tokens on each side that count as context.
        negatives: Negative samples.
        min_ngram: Shortest character n-gram of a token's spelling.
        max_ngram: Longest one; 0 for none.
        buckets: Hash places of the n-grams; each takes `dim` floats of memory while fastText trains.
        threads: fastText's threads. Only 1 gives the same rows at every run.
        cache: Keep the trained vectors for the next call with the same text, tokenizer, options and seed.
    """

    temperature: float = 1.0
    k: int | None = None
    pool: str = "overlap"
    dim: int = 100
    epochs: int = 3
    min_count: int = 10
    window: int = 5
    negatives: int = 10
    min_ngram: int = 3
    max_ngram: int = 6
    buckets: int = 2_000_000
    threads: int = 1
    cache: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_option(0 < self.temperature < 1e6, f"temperature is {self.temperature}. It must be positive.")
        check_option(self.k is None or self.k >= 1, f"k is {self.k}. It must be at least 1, or None for all.")
        check_option(self.pool in POOLS, f"pool is {self.pool!r}. Choose one of: {', '.join(sorted(POOLS))}.")
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


def _overlap(plan: VocabPlan, ids: np.ndarray) -> np.ndarray:
    """Which copied tokens stand for text or bytes, bool, shape of ``ids``."""
    return np.isin(plan.target.kinds[ids], (TokenKind.NORMAL, TokenKind.BYTE))


def _text(plan: VocabPlan, ids: np.ndarray) -> np.ndarray:
    """Which copied tokens are the same text in both vocabularies, bool, shape of ``ids``."""
    same = np.isin(plan.kinds[ids], (MatchKind.SAME, MatchKind.EXACT))
    return same & (plan.target.kinds[ids] == TokenKind.NORMAL)


POOLS: dict[str, Callable[[VocabPlan, np.ndarray], np.ndarray]] = {"overlap": _overlap, "text": _text}
"""Which copied target ids may get weight, by the name of the option."""


class Focus(InitMethod):
    """Sparse mixtures of shared tokens, by auxiliary vectors of the target tokens."""

    name = "focus"
    pretty_name = "FOCUS"
    summary = (
        "Each new row is a sparse mixture of shared tokens that the target text uses alike (fastText, sparsemax)."
    )
    paper_url = "https://arxiv.org/abs/2305.14481"
    citation = (
        "@inproceedings{dobler-de-melo-2023-focus, title={{FOCUS}: Effective Embedding Initialization for Monolingual "
        "Specialization of Multilingual Models}, author={Dobler, Konstantin and de Melo, Gerard}, "
        "booktitle={Proceedings of EMNLP 2023}, year={2023}}"
    )
    config_class = FocusConfig
    config: FocusConfig
    needs = (frozenset({"corpus"}), frozenset({"token_vectors"}))
    extra = "focus"

    def fit(self, context: FitContext) -> Mixture:
        """Cover every new token that has an auxiliary vector.

        Raises:
            InvalidTableError: If no shared token has a vector and a trained row.
            CorpusError: If the corpus is too small for ``min_count``.
            MissingDependencyError: If fastText is needed and not installed.
        """
        plan = context.plan
        vectors = self._vectors(context)
        anchors, anchor_places = self._anchors(context, vectors)
        new_places = vectors.places(plan.new_ids)
        known = np.flatnonzero(new_places >= 0)
        weights = sparsemax_weights(
            torch.from_numpy(vectors.vectors[new_places[known]]),
            torch.from_numpy(vectors.vectors[anchor_places]),
            temperature=self.config.temperature,
            k=self.config.k,
            device=context.device,
        )
        logger.info("FOCUS: %d of %d new tokens over %d anchors", len(known), len(new_places), len(anchors))
        rows = np.repeat(known, np.diff(weights.offsets))
        columns = plan.source_ids[anchors][weights.columns]
        return Mixture.from_entries(rows, columns, weights.weights, n_rows=len(new_places), n_source=context.n_source)

    def _vectors(self, context: FitContext) -> TokenVectors:
        """Return the given vectors, else train them."""
        if context.resources.token_vectors is not None:
            return read_token_vectors(context.resources.token_vectors, context.plan.target)
        seed = int(torch.randint(2**31 - 1, (1,), generator=context.generator))
        return train_token_vectors(
            context.target_tokenizer,
            context.resources.corpus,
            self.config.fasttext(),
            seed=seed,
            use_cache=self.config.cache,
        )

    def _anchors(self, context: FitContext, vectors: TokenVectors) -> tuple[np.ndarray, np.ndarray]:
        """Return the target ids that may get weight, and the rows of their vectors."""
        plan = context.plan
        copied = plan.copied_ids
        in_pool = POOLS[self.config.pool](plan, copied) & context.trained[plan.source_ids[copied]]
        shared = copied[in_pool]
        places = vectors.places(shared)
        usable = places >= 0
        usable[usable] = vectors.vectors[places[usable]].any(1)
        if not usable.any():
            raise InvalidTableError(
                f"{len(vectors.ids)} target tokens have a vector and {len(shared)} are shared with the source "
                "vocabulary, but no token is both, so there is nothing to mix from. Bring more text, lower min_count, "
                "or choose another method."
            )
        return shared[usable], places[usable]
