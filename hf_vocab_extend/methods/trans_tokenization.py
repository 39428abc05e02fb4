"""Trans-tokenization: a new token is a mixture of the source tokens that translate it in parallel text.

Remy et al. 2024, arXiv 2408.04303. Words of the two texts are aligned, their counts are dealt out to their tokens, and
each target token's counts are divided by their sum. Tokens that no pair covers take the mean of related ones.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .._logging import get_logger
from ..plan import MatchKind, VocabPlan
from ..resources.alignment.aligners import ALIGNERS
from ..resources.alignment.bitext import UNITS
from ..resources.alignment.links import AlignerOptions
from ..resources.alignment.ragged import row_of
from ..vocab.canonical import TokenKind
from .base import FitContext, InitMethod, MethodConfig, Resources, check_option
from .distribution import DIRECTIONS, DISTRIBUTIONS, PieceCounts
from .mixture import Mixture
from .segmentation import segment
from .spelling import begins_word, has_letters, is_literal, number_entries, spelled_alike
from .translations import MIXES, check_weights, read_translations, tell_coverage
from .uncovered import SPELLINGS, cover

logger = get_logger(__name__)

SHARED = ("blend", "candidate", "copy", "none")


@dataclass(frozen=True)
class TransTokenizationConfig(MethodConfig):
    """Options of :class:`TransTokenization`; :meth:`package` gives those of the package ``trans-tokenizers``.

    Attributes:
        aligner: A name of ``resources.alignment.aligners.ALIGNERS``; not used where counts or alignments are given.
        iterations: Rounds of the aligner; None for its own default.
        unit: ``token``: tokens are aligned; ``word``: words are, and their counts dealt out to tokens, as in the
            paper. Tokens measured better on dev text: the forms of a word share them.
        direction: One count from those of both directions of alignment: ``sum``, ``forward``, ``backward``,
            ``minimum``, ``geometric`` (mean).
        distribution: How a word pair's count is dealt out to tokens, see :func:`~.distribution.distribute`:
            ``in_order``, ``all_to_all``, ``both``, ``package``.
        min_count: Pairs of words with a lower count are dropped. The paper took 10, of much text; the count is the
            sum of both directions.
        min_share: Pairs with a smaller share of the target word's counts are dropped.
        min_weight: Weights of a token under it are dropped in the end, but never the largest one.
        source_discount: Counts are divided by the frequency of the source token in the text, raised to this; the sum
            of a token's counts stays. Above 0, what a frequent source token takes from every side (articles,
            prepositions, commas) counts for less. 0 is the paper's.
        match_norms: Whether rows get the length that their sources have on average, instead of the shorter one of a
            sum of different directions, which is the paper's.
        power: Weights are raised to it and scaled back to sum 1; above 1 sharpens.
        shared: What happens in mode ``replace`` to tokens that both vocabularies spell alike, since a word of the new
            language can spell like an unrelated one. ``blend``: those with letters are translated, and their own
            source token gets ``shared_prior`` counts more, so that a word that the text is sure of (a false friend)
            takes its translation and a rare one (a name) stays what it is; digits, punctuation, symbols and bytes are
            copied. ``candidate``: all are translated, with ``smoothing`` counts for their own source token, as in the
            paper. ``none``: all are translated, without. ``copy``: all are copied. What no pair covers is copied.
        shared_prior: Counts of ``blend``.
        smoothing: Counts of ``candidate``.
        literal: Whether tokens of ASCII digits, punctuation or symbols that the source vocabulary lacks are spelled
            with its tokens instead of translated.
        numbers: Add a count of 1 from numbers to their first source token, as the package does.
        blend: A token with counts of sum `n` gets `n / (n + blend)` of its translations, and the rest of the mean of
            its own source tokens: rare tokens lean on their spelling. 0 for translations alone.
        uncovered: What tokens take that no pair covers: ``text``: the mean of the covered tokens that begin with them
            and of the longest ones inside them, compared by their text; ``token``: the same, compared as the
            tokenizer writes them, as the package does; ``none``: nothing, the fallback method finds their rows.
        start_boost: There, a translation that starts a word counts so many times.
        source_mix: How several parallel texts are put together: ``mean``: their distributions are averaged;
            ``counts``: their counts are added, so that the longer text decides.
        source_weights: Weight of each parallel text by name; 1 where none is given.
        dictionary_weight: Count of a dictionary's entry beside counted text.
        processes: Processes that count the text.
        cache: Keep the counts for the next call with the same text, tokenizers and options.
    """

    aligner: str = AlignerOptions.aligner
    iterations: int | None = None
    unit: str = "token"
    direction: str = "sum"
    distribution: str = "in_order"
    min_count: float = 0.0
    min_share: float = 0.02
    min_weight: float = 0.0
    source_discount: float = 0.25
    match_norms: bool = True
    power: float = 1.0
    shared: str = "blend"
    shared_prior: float = 30.0
    smoothing: float = 1.0
    literal: bool = True
    numbers: bool = False
    blend: float = 0.0
    uncovered: str = "text"
    start_boost: float = 2.0
    source_mix: str = "mean"
    source_weights: dict[str, float] | None = None
    dictionary_weight: float = 1.0
    processes: int = 1
    cache: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        for name, table in _CHOICES.items():
            value = getattr(self, name)
            check_option(value in table, f"{name} is {value!r}. Choose one of: {', '.join(sorted(table))}.")
        for name in ("min_count", "shared_prior", "smoothing", "blend"):
            value = getattr(self, name)
            check_option(0 <= value < 1e12, f"{name} is {value}. It must not be negative.")
        for name in ("min_share", "min_weight"):
            value = getattr(self, name)
            check_option(0 <= value < 1, f"{name} is {value}. It must lie in 0 .. 1, below 1.")
        check_option(
            0 <= self.source_discount <= 1, f"source_discount is {self.source_discount}. It must lie in 0 .. 1."
        )
        for name in ("power", "start_boost", "dictionary_weight"):
            value = getattr(self, name)
            check_option(0 < value < 1e6, f"{name} is {value}. It must be positive.")
        for name, value in (self.source_weights or {}).items():
            check_option(0 < value < 1e12, f"source_weights of {name!r} is {value}. It must be positive.")
        check_option(self.processes >= 1, f"processes is {self.processes}. It must be at least 1.")
        self.aligner_options()

    def aligner_options(self, device: torch.device | None = None) -> AlignerOptions:
        """Return the options of the aligner."""
        return AlignerOptions(
            aligner=self.aligner, iterations=self.iterations, device=None if device is None else str(device)
        )

    @classmethod
    def package(cls, **options: Any) -> TransTokenizationConfig:
        """Return options that give the mapping of the package ``trans-tokenizers`` from the same counts.

        The counts must be those of its aligner, in one direction (``forward``). Left out are faults of its code: that
        what it finds for one uncovered token changes what it finds for the next, how it guesses the marks of word
        starts, and that its boost of word starts works for sentencepiece sources only (for others, pass
        ``start_boost=1`` to get its numbers). Single bytes are copied, special tokens match by role.

        Args:
            options: Options that differ.
        """
        paper: dict[str, Any] = {
            "aligner": "ibm1",
            "iterations": 7,
            "direction": "forward",
            "distribution": "package",
            "min_count": 10.0,
            "min_share": 0.0,
            "source_discount": 0.0,
            "match_norms": False,
            "shared": "candidate",
            "smoothing": 1.0,
            "literal": False,
            "numbers": True,
            "uncovered": "token",
        }
        return cls(**{**paper, **options})


_CHOICES = {
    "aligner": ALIGNERS,
    "unit": UNITS,
    "direction": DIRECTIONS,
    "distribution": DISTRIBUTIONS,
    "shared": SHARED,
    "uncovered": ("none", *SPELLINGS),
    "source_mix": MIXES,
}


class TransTokenization(InitMethod):
    """Mixtures of the source tokens that translate a token, by aligned parallel text."""

    name = "trans_tokenization"
    pretty_name = "Trans-tokenization"
    summary = "Each new row is a mixture of the source tokens that translate it in parallel text or a dictionary."
    paper_url = "https://arxiv.org/abs/2408.04303"
    citation = (
        "@inproceedings{remy-etal-2024-trans, title={Trans-Tokenization and Cross-lingual Vocabulary Transfers: "
        "Language Adaptation of {LLM}s for Low-Resource {NLP}}, author={Remy, Fran{\\c{c}}ois and Delobelle, Pieter "
        "and Avetisyan, Hayastan and Khabibullina, Alfiya and de Lhoneux, Miryam and Demeester, Thomas}, "
        "booktitle={First Conference on Language Modeling}, year={2024}}"
    )
    config_class = TransTokenizationConfig
    config: TransTokenizationConfig
    needs = (frozenset({"parallel"}), frozenset({"dictionary"}))

    def check_resources(self, resources: Resources) -> None:
        """Raise before any work if there are no pairs, or weights of texts that are not there.

        Raises:
            MissingResourceError: It names the missing arguments.
            InvalidOptionError: If ``source_weights`` names a text that ``parallel`` has not.
        """
        super().check_resources(resources)
        check_weights(self.config.source_weights, resources)

    def reestimates(self, plan: VocabPlan) -> np.ndarray:
        """Return the tokens that both vocabularies spell alike and that the option ``shared`` wants translated.

        None where both vocabularies are the same: replacing a tokenizer by itself changes no row.
        """
        if self.config.shared == "copy" or plan.source.tokens == plan.target.tokens:
            return np.empty(0, np.int64)
        alike = np.isin(plan.kinds, (MatchKind.EXACT, MatchKind.FUZZY)) & (plan.target.kinds == TokenKind.NORMAL)
        ids = np.flatnonzero(alike)
        return ids[has_letters(plan.target, ids)] if self.config.shared == "blend" else ids

    def fit(self, context: FitContext) -> Mixture:
        """Cover every new token that the pairs cover or that is related to one that they cover.

        Raises:
            TokenizerMismatchError: If counts are given that were made with other tokenizers.
            AlignmentError: If the aligner fails, or what is given does not fit together.
            CorpusError: If the pairs are missing, empty or broken.
        """
        translations = read_translations(context, self.config)
        tell_coverage(context, translations)
        mass = translations.counts.mass
        alike = spelled_alike(context.plan, context.shared)
        counts = self._with_spelling(context, translations.counts, alike)
        related = self._related(context, counts, alike)
        copied = (mass == 0) & (alike >= 0)  # the text knows no better than the spelling
        shares = _sharpened(counts.keep(~copied[counts.rows]).shares(), self.config.power, self.config.min_weight)
        shares = shares.plus(related.rows, related.columns, related.counts)
        mixture = Mixture.from_entries(
            shares.rows, shares.columns, shares.counts, n_rows=context.plan.n_target, n_source=context.n_source
        )
        mixture = self._with_own_tokens(context, mixture.select(context.plan.new_ids), mass[context.plan.new_ids])
        return dataclasses.replace(mixture, norm_matched=mixture.covered) if self.config.match_norms else mixture

    def _with_spelling(self, context: FitContext, counts: PieceCounts, alike: np.ndarray) -> PieceCounts:
        """Add the counts that come from spelling: of tokens that are spelled alike, and of numbers."""
        config, plan = self.config, context.plan
        prior = {"blend": config.shared_prior, "none": 0.0}.get(config.shared, config.smoothing)
        ids = np.flatnonzero(alike >= 0)
        ids = ids[context.trained[alike[ids]]]
        # a kept source token with letters says nothing about the new language unless the text uses it
        used = (plan.kinds[ids] != MatchKind.SAME) | (counts.mass[ids] > 0) | ~has_letters(plan.target, ids)
        ids = ids[used]
        if config.shared in ("blend", "copy"):  # signs mean themselves, whatever they were aligned with
            fixed = np.zeros(plan.n_target, bool)
            fixed[ids] = ~has_letters(plan.target, ids)
            counts = counts.keep(~fixed[counts.rows])
            amounts = np.where(fixed[ids], max(prior, 1.0), prior)
        else:
            amounts = np.full(len(ids), prior)
        counts = counts.plus(ids, alike[ids], amounts)
        if config.numbers:
            targets, sources = number_entries(context.source_tokenizer, context.target_tokenizer)
            text = (TokenKind.NORMAL, TokenKind.BYTE)
            usable = np.isin(plan.target.kinds[targets], text) & np.isin(plan.source.kinds[sources], text)
            usable &= context.trained[sources]
            counts = counts.plus(targets[usable], sources[usable], np.ones(int(usable.sum())))
        return counts

    def _related(self, context: FitContext, counts: PieceCounts, alike: np.ndarray) -> PieceCounts:
        """Return shares for the new tokens that neither pairs nor spelling cover."""
        config, plan = self.config, context.plan
        open_ids = plan.new_ids[(np.diff(counts.offsets)[plan.new_ids] == 0) & (alike[plan.new_ids] < 0)]
        open_ids = open_ids[plan.target.kinds[open_ids] == TokenKind.NORMAL]
        if config.uncovered == "none" or not len(open_ids):
            return counts.keep(np.zeros(len(counts), bool))
        boost = np.where(begins_word(plan.source), config.start_boost, 1.0)
        whole = config.distribution == "package"
        found = cover(counts, plan.target, open_ids, boost, spelling=config.uncovered, whole=whole)
        n_found = int((np.diff(found.offsets) > 0).sum())
        logger.info(
            "Trans-tokenization: %d of %d uncovered tokens take the mean of related ones", n_found, len(open_ids)
        )
        return found.shares()

    def _with_own_tokens(self, context: FitContext, mixture: Mixture, mass: np.ndarray) -> Mixture:
        """Mix in the mean of a token's own source tokens: wholly for signs, and the more the rarer a token is."""
        config, plan = self.config, context.plan
        trust = np.ones(len(plan.new_ids))
        if config.blend > 0:
            trust = np.where(mass > 0, mass / (mass + config.blend), 1.0)
        if config.literal:
            own_twin = np.zeros(len(trust), bool) if context.shared is None else context.shared >= 0
            trust[is_literal(plan.target, plan.new_ids) & ~own_twin] = 0.0
        trust[~mixture.covered & (trust > 0)] = 1.0  # what is open so far is left to the fallback method
        if (trust == 1).all():
            return mixture
        own = _own_tokens(context, trust < 1)
        trust[~own.covered] = 1.0
        rows, own_rows = row_of(mixture.offsets), row_of(own.offsets)
        return Mixture.from_entries(
            np.concatenate([rows, own_rows]),
            np.concatenate([mixture.columns, own.columns]),
            np.concatenate([mixture.weights * trust[rows], own.weights * (1 - trust[own_rows])]),
            n_rows=mixture.n_rows,
            n_source=mixture.n_source,
        )


def _own_tokens(context: FitContext, wanted: np.ndarray) -> Mixture:
    """Return the mean of their own source tokens for some new tokens, as the method ``subword`` finds it.

    Args:
        context: What the method looks at.
        wanted: Which of the new tokens, bool, shape `(n_new,)`; the others get no row.
    """
    plan = context.plan
    pieces = segment(context.source_tokenizer, plan.source, plan.target, plan.new_ids[wanted])
    pieces = pieces.keep(context.trained[pieces.ids])
    sizes = np.diff(pieces.offsets)
    return Mixture.from_entries(
        np.repeat(np.flatnonzero(wanted), sizes),
        pieces.ids,
        np.repeat(1 / np.maximum(sizes, 1), sizes),
        n_rows=len(wanted),
        n_source=context.n_source,
    )


def _sharpened(shares: PieceCounts, power: float, min_weight: float) -> PieceCounts:
    """Raise shares to a power, drop small ones but the largest of each target id, and scale back to sum 1."""
    if power != 1.0:  # relative to the largest, which so stays 1 however high the power
        raised = (shares.counts / _largest(shares)) ** power
        raised = np.maximum(raised, np.finfo(np.float64).tiny)
        shares = PieceCounts(shares.offsets, shares.columns, raised, shares.n_source).shares()
    if min_weight <= 0:
        return shares
    return shares.keep((shares.counts >= min_weight) | (shares.counts == _largest(shares))).shares()


def _largest(shares: PieceCounts) -> np.ndarray:
    """Return for each entry the largest one of its row."""
    largest = np.zeros(shares.n_target)
    np.maximum.at(largest, shares.rows, shares.counts)
    return largest[shares.rows]


__all__ = ["TransTokenization", "TransTokenizationConfig"]
