"""Translation counts of tokens from whatever a user brings: one text or several, a dictionary, or both."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._logging import get_logger
from ..errors import InvalidOptionError, VocabExtendWarning
from ..resources.alignment.counts import UnitCounts
from ..resources.alignment.run import read_counts
from ..resources.alignment.tables import read_dictionary
from ..resources.corpus import is_of_datasets
from ..vocab.canonical import TokenKind
from .distribution import PieceCounts, choose_links, distribute
from .parallel import able_device

if TYPE_CHECKING:
    from ..resources.alignment.units import Units
    from .base import FitContext, Resources
    from .trans_tokenization import TransTokenizationConfig

logger = get_logger(__name__)

LOW_COVERAGE = 0.2
"""Share of the new tokens; below it the pairs hardly speak of the new vocabulary."""


@dataclass(frozen=True, eq=False)
class Translations:
    """What the pairs say.

    Attributes:
        counts: How often each target token is translated by each source token; only usable source tokens.
        frequency: How often each target token occurs in the pairs, float64, shape `(n_target,)`.
        n_pairs: Number of pairs in all.
    """

    counts: PieceCounts
    frequency: np.ndarray
    n_pairs: int


def named_sources(resources: Resources) -> dict[str, Any]:
    """Return the parallel texts by name; one that has no name is called ``parallel``."""
    given = resources.parallel
    if given is None:
        return {}
    if is_of_datasets(given):
        return {"parallel": given}  # a DatasetDict is a mapping of splits, not of languages: open_pairs asks for one
    return dict(given) if isinstance(given, Mapping) else {"parallel": given}


def check_weights(weights: Mapping[str, float] | None, resources: Resources) -> None:
    """Raise if weights are given for source texts that are not there.

    Raises:
        InvalidOptionError: It names them and those that are there.
    """
    names = named_sources(resources)
    unknown = sorted(set(weights or {}) - set(names))
    if unknown:
        raise InvalidOptionError(
            f"source_weights names {unknown[0]!r}; the parallel texts are {', '.join(map(repr, names)) or 'none'}. "
            "Give parallel= as a mapping of these names to texts."
        )
    if isinstance(resources.parallel, Mapping) and not names:
        raise InvalidOptionError("parallel= is an empty mapping. Give at least one text.")


def read_translations(context: FitContext, config: TransTokenizationConfig) -> Translations:
    """Read, align and deal out all pairs that were given."""
    texts = _read_texts(context, config)
    weights = [float((config.source_weights or {}).get(name, 1.0)) for name in texts]
    parts = [_deal(context, config, counts) for counts in texts.values()]
    units = list(texts.values())
    entries = [MIXES[config.source_mix](parts, weights)] if parts else []
    if context.resources.dictionary is not None:
        units.append(_read_dictionary(context))
        entries.append(_deal(context, config, units[-1], dictionary=True).scaled(config.dictionary_weight))
    n_target = context.plan.n_target
    frequency = sum((_token_frequency(counts.target, n_target) for counts in units), np.zeros(n_target))
    total = _add_counts(entries, [1.0] * len(entries))
    if config.source_discount > 0:
        n_source = context.plan.n_source
        spread = sum((_token_frequency(counts.source, n_source) for counts in units), np.zeros(n_source))
        total = total.weighted(np.maximum(spread, 1.0) ** -config.source_discount)
    return Translations(total, frequency, sum(counts.n_pairs for counts in units))


def _read_texts(context: FitContext, config: TransTokenizationConfig) -> dict[str, UnitCounts]:
    """Return the counts of each parallel text by name."""
    return {
        name: read_counts(
            given,
            context.source_tokenizer,
            context.target_tokenizer,
            config.aligner_options(able_device(context.device)),
            unit=config.unit,
            processes=config.processes,
            use_cache=config.cache,
        )
        for name, given in named_sources(context.resources).items()
    }


def _read_dictionary(context: FitContext) -> UnitCounts:
    """Return the counts of the dictionary."""
    given, tokenizers = context.resources.dictionary, (context.source_tokenizer, context.target_tokenizer)
    if not isinstance(given, UnitCounts):
        return read_dictionary(given, *tokenizers)
    given.check_tokenizers(*tokenizers)
    return given


def _deal(
    context: FitContext, config: TransTokenizationConfig, counts: UnitCounts, dictionary: bool = False
) -> PieceCounts:
    """Return the counts of tokens, without source tokens that are not text or were never trained."""
    plan = context.plan
    limits = (0.0, 0.0) if dictionary else (config.min_count, config.min_share)
    links = choose_links(counts, "sum" if dictionary else config.direction, *limits)
    pieces = distribute(counts, config.distribution, links, n_target=plan.n_target, n_source=plan.n_source)
    usable = np.isin(plan.source.kinds, (TokenKind.NORMAL, TokenKind.BYTE)) & context.trained[: plan.n_source]
    text = np.isin(plan.target.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    return pieces.keep(usable[pieces.columns] & text[pieces.rows])


def _add_counts(parts: list[PieceCounts], weights: list[float]) -> PieceCounts:
    """Add up the counts: a text speaks as loudly as it is long."""
    total = parts[0].scaled(weights[0])
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total = total.plus(part.rows, part.columns, part.counts * weight)
    return total


def _mean_shares(parts: list[PieceCounts], weights: list[float]) -> PieceCounts:
    """Mix the distributions of the texts that know a token; its mass is the sum of theirs."""
    if len(parts) == 1:
        return parts[0].scaled(weights[0])
    mixed = _add_counts([part.shares() for part in parts], weights)
    mass = sum((part.mass * weight for part, weight in zip(parts, weights, strict=True)), np.zeros(mixed.n_target))
    counts = mixed.shares().counts * mass[mixed.rows]
    return PieceCounts(mixed.offsets, mixed.columns, counts, mixed.n_source)


MIXES: dict[str, Callable[[list[PieceCounts], list[float]], PieceCounts]] = {
    "mean": _mean_shares,
    "counts": _add_counts,
}
"""How several source texts are put together, by the name of the option."""


def _token_frequency(units: Units, n_ids: int) -> np.ndarray:
    """Return how often each token occurs in a text, float64, shape `(n_ids,)`."""
    weights = np.repeat(units.frequency, units.lengths).astype(np.float64)
    return np.bincount(units.pieces, weights=weights, minlength=n_ids)


def tell_coverage(context: FitContext, translations: Translations) -> None:
    """Note how far the pairs cover the new tokens; warn if hardly: too few pairs, or the two languages swapped."""
    plan = context.plan
    new = plan.new_ids[plan.target.kinds[plan.new_ids] == TokenKind.NORMAL]
    if not len(new):
        return
    covered = translations.counts.mass[new] > 0
    frequency = translations.frequency[new]
    share = float(covered.mean())
    mass = float(frequency[covered].sum() / frequency.sum()) if frequency.sum() else 0.0
    figures = (
        f"The {translations.n_pairs:,} pairs cover {int(covered.sum()):,} of {len(new):,} new tokens ({share:.1%}), "
        f"which are {mass:.1%} of the occurrences of new tokens in the text."
    )
    context.notes.append(figures)
    entropy = float(translations.counts.entropy[new[covered]].mean()) if covered.any() else 0.0
    logger.info("Trans-tokenization: %s Mean entropy of their translations: %.2f nats.", figures, entropy)
    if share < LOW_COVERAGE:
        warnings.warn(
            f"{figures} The other rows are put together from parts of words. Bring more text, "
            "text of these two languages, the source language first.",
            VocabExtendWarning,
            stacklevel=3,
        )


__all__ = ["MIXES", "Translations", "check_weights", "named_sources", "read_translations", "tell_coverage"]
