"""OFA: a new token is a mixture of the source tokens that are nearest to it in a space of words of many languages.

Liu et al. 2024, arXiv 2311.08849. A token of either vocabulary gets the mean of the vectors of the words that it
occurs in, however they are written; a new row is the softmax-weighted mean of the rows of its `k` nearest source
tokens. The paper mixes rows of a factorised table; a mixture is linear, so the same weights serve the table and its
factor.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._logging import get_logger
from ..errors import InvalidTableError, VocabExtendWarning
from ..plan import VocabPlan
from ..resources.coverage import likely_cause
from ..resources.piece_incidence import VARIANTS, piece_incidence
from ..resources.piece_vectors import WEIGHTINGS, lettered_copies
from ..resources.word_vectors import WordVectors
from .base import FitContext, InitMethod, Resources, check_option
from .mixture import Mixture
from .neighbours import softmax_weights
from .shared_space import SPACE_NEEDS, SpaceConfig, check_space, shared_space

if TYPE_CHECKING:
    from ..vocab.canonical import CanonicalVocab

logger = get_logger(__name__)

_FEW = {"source": 0.01, "target": 0.1}  # a smaller share of tokens with a vector is worth a warning


@dataclass(frozen=True)
class OfaConfig(SpaceConfig):
    """Options of :class:`Ofa`, besides those of the space.

    Attributes:
        k: Number of nearest source tokens.
        temperature: Cosines are divided by it before the softmax.
        variants: In which surface forms words are cut to find their tokens: ``four``: with and without a space in
            front and a capital letter; ``two``: with and without a space; ``one``: as it is written; ``published``:
            the three forms that the authors' code cuts.
        counts: Whether a word counts once for each of its forms that hold a token, as published, or once.
        weighting: How the words that hold a token are weighed: ``counted``: by their frequency where that was counted,
            which finds more translations, else alike; ``frequency``: also by Zipf's law where a file only tells their
            order; ``equal``: alike, as published.
        match_norms: Whether rows get the length that their sources have on average, instead of the shorter one of a
            mean.
        shared: What happens in mode ``replace`` to tokens with letters that both vocabularies spell alike: ``copy``
            their rows, as the paper does, or ``estimate`` them.
    """

    k: int = 10
    temperature: float = 0.1
    variants: str = "four"
    counts: bool = True
    weighting: str = "counted"
    match_norms: bool = False
    shared: str = "copy"

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_option(self.k >= 1, f"k is {self.k}. It must be at least 1.")
        check_option(0 < self.temperature < 1e6, f"temperature is {self.temperature}. It must be positive.")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            check_option(value in known, f"{name} is {value!r}. Choose one of: {', '.join(sorted(known))}.")

    @classmethod
    def package(cls, **options: Any) -> OfaConfig:
        """Return the settings of the authors' code.

        Left out are its faults: source tokens that no word holds as neighbours of cosine 0, single bytes that match
        any other byte, and doubled and trailing spaces around words.

        Args:
            options: Options that differ.
        """
        published: dict[str, Any] = {
            "k": 10,
            "temperature": 0.1,
            "variants": "published",
            "counts": True,
            "weighting": "equal",
            "match_norms": False,
            "shared": "copy",
        }
        return cls(**{**published, **options})


_CHOICES: dict[str, Iterable[str]] = {
    "variants": VARIANTS,
    "weighting": WEIGHTINGS,
    "shared": ("copy", "estimate"),
}


class Ofa(InitMethod):
    """Softmax mixtures of the nearest source tokens in one space of words of many languages."""

    name = "ofa"
    pretty_name = "OFA"
    summary = "Each new row is a mixture of the source tokens that are nearest in a space of words of many languages."
    paper_url = "https://arxiv.org/abs/2311.08849"
    citation = (
        "@inproceedings{liu-etal-2024-ofa, title={{OFA}: A Framework of Initializing Unseen Subword Embeddings for "
        "Efficient Large-scale Multilingual Continued Pretraining}, author={Liu, Yihong and Lin, Peiqin and Wang, "
        'Mingyang and Sch{\\"u}tze, Hinrich}, booktitle={Findings of NAACL 2024}, year={2024}}'
    )
    config_class = OfaConfig
    config: OfaConfig
    needs = SPACE_NEEDS

    def check_resources(self, resources: Resources) -> None:
        """Raise before any work if the space cannot be had from what was given.

        Raises:
            MissingResourceError: It names the missing arguments.
        """
        super().check_resources(resources)
        check_space(resources, self.config)

    def reestimates(self, plan: VocabPlan) -> np.ndarray:
        """Return the ids of tokens with letters that would be copied by their spelling, if they shall be estimated."""
        return lettered_copies(plan) if self.config.shared == "estimate" else np.zeros(0, np.int64)

    def fit(self, context: FitContext) -> Mixture:
        """Cover every new token that occurs in a word of the space.

        Raises:
            InvalidTableError: If the words hold no trained source token or no new token; it says why that may be.
        """
        config, plan = self.config, context.plan
        space = shared_space(context, config)
        left = self._vectors(context, "source", space.source, np.arange(plan.n_source))
        right = self._vectors(context, "target", space.target, plan.new_ids)
        usable = left.any(1)
        usable &= context.trained[: plan.n_source]
        pool = np.flatnonzero(usable)
        found = int(right.any(1).sum())
        trained = np.flatnonzero(context.trained[: plan.n_source])
        self._check(space.source, plan.source, "source", len(pool), trained)
        self._check(space.target, plan.target, "target", found, plan.new_ids)
        summary = f"{found} of {len(right)} new tokens are mixtures of {len(pool)} source tokens with a vector"
        logger.info("OFA: %s", summary)
        context.notes.append(f"OFA: {summary}, in a space of {len(space.target)} words ({space.target.name}).")
        weights = softmax_weights(right, left[pool], config.k, temperature=config.temperature, device=context.device)
        return Mixture(
            weights.offsets,
            pool[weights.columns].astype(np.int32),
            weights.weights,
            context.n_source,
            weights.covered if config.match_norms else None,
        )

    def _vectors(self, context: FitContext, side: str, space: WordVectors, ids: np.ndarray) -> np.ndarray:
        """Return the vectors of some tokens of a side, float32, shape `(len(ids), dim)`, zeros for those without."""
        config = self.config
        tokenizer, vocab = getattr(context, f"{side}_tokenizer"), getattr(context.plan, side)
        incidence = piece_incidence(space, tokenizer, vocab, variants=config.variants, cache=config.cache)
        return incidence.select(ids).mean(space, WEIGHTINGS[config.weighting](space), config.counts)

    def _check(self, space: WordVectors, vocab: CanonicalVocab, side: str, found: int, ids: np.ndarray) -> None:
        """Raise if no token of a side has a vector, and warn if few have."""
        count = len(ids)
        if count == 0 or found >= max(1, _FEW[side] * count):
            return
        kind = {"source": "trained source", "target": "new"}[side]
        message = (
            f"{f'Only {found}' if found else 'None'} of the {count} {kind} tokens occur in the {len(space)} words of "
            f"{space.name}. {likely_cause(space, vocab, ids)}"
        )
        if found == 0:
            raise InvalidTableError(message)
        warnings.warn(message, VocabExtendWarning, stacklevel=4)


__all__ = ["Ofa", "OfaConfig"]
