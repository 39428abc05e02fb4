"""The one call: ``extend_vocabulary``. It walks through the layers and does nothing else itself."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import __version__
from ._logging import get_logger
from .low_rank_tables import as_long_as_their_products, plan_low_rank, rank_of
from .mapping import TokenMapping
from .methods.base import FitContext, InitMethod, MethodConfig, Resources
from .methods.overrides import Sources, resolve_sources
from .plan import Mode, VocabPlan, build_plan
from .prepare import (
    ROWS_IN_USE,
    check_belongs,
    check_loaded,
    check_options,
    choose_method,
    find_source_tokenizer,
    find_target_tokenizer,
    free_overridden,
    free_reestimated,
    highest_id,
    hub_name,
    public_name,
    warn_of_earlier_rows,
)
from .report import ExtensionReport
from .resources.corpus import Corpus, open_corpus
from .result import VocabExtension
from .rows import fit_rows
from .surgery.apply import apply_rows
from .surgery.journal import Journal
from .surgery.sites import Sites, describe, find_sites
from .surgery.token_ids import remap_token_ids
from .surgery.trained import trained_rows
from .vocab.fertility import measure_fertility

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = get_logger(__name__)

MEASURED_LINES = 10_000
"""Fertility and coverage are measured on this many first lines of the corpus."""

SPLIT_WORDS = 1.5
"""Pre-tokens per word from which on the report says that the pre-tokenizer, not the vocabulary, cuts the words."""


@dataclass
class _Clock:
    """Seconds by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 3)


def extend_vocabulary(
    model: PreTrainedModel,
    new_tokenizer: PreTrainedTokenizerBase,
    method: str | MethodConfig | InitMethod = "auto",
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    mode: Mode = "extend",
    corpus: Any = None,
    parallel: Any = None,
    word_vectors: Any = None,
    token_vectors: Any = None,
    dictionary: Any = None,
    helper_model: Any = None,
    sources: Sources | None = None,
    fallback: str = "subword",
    factorize: int | float | None = None,
    languages: str | Sequence[str] = (),
    pad_to_multiple_of: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> VocabExtension:
    """Give a model the vocabulary of a new tokenizer; modifies the model in place.

    A failed call leaves the model as it was: everything is checked and computed before the first write. Parameters
    keep their identity and change their size, so build the optimizer afterwards.

    Args:
        model: A loaded model, not quantised, not sharded.
        new_tokenizer: The target tokenizer. In mode ``extend`` one that grew from the source tokenizer
            (``extend_tokenizer``, ``merge_tokenizers``) is taken as it is, any other is merged into the source.
        method: Name of a method, its config for options, or an instance; ``auto`` picks by what was brought.
        tokenizer: The source tokenizer; by default that of ``model.config._name_or_path``.
        mode: ``extend`` keeps every source id and row and appends; ``replace`` takes ``new_tokenizer`` as it is.
        corpus: Target-language text: a path, a ``datasets`` object or name, or an iterable of strings.
        parallel: Pairs ``(source_text, target_text)``: a path, two paths, a ``datasets`` object or name, an iterable;
            or counts or alignments made of them (:func:`~hf_vocab_extend.resources.alignment.run.read_counts`).
        word_vectors: Vectors of all languages in one space: a file (word2vec text or binary, fastText, GloVe, NumPy),
            a folder of one file per language, a mapping of language to file or of word to vector; or of two spaces:
            ``(source, target)``. See :func:`~hf_vocab_extend.resources.word_vectors.read_word_vectors`.
        token_vectors: Vectors of target tokens: a mapping of token to vector, or ``(tokens, matrix)``.
        dictionary: Pairs ``(source_word, target_word)``.
        helper_model: A model that already speaks the target vocabulary.
        sources: Sources of single tokens, whatever the method: ``{"token": "text"}`` or
            ``{"token": [("source token", weight), ...]}``.
        fallback: Method for tokens that ``method`` does not cover: ``subword``, ``mean`` or ``normal``; what that
            does not cover either is drawn from the normal distribution of the source rows, and counted.
        factorize: Keep the token tables as products ``F (V, R) @ P (R, D)``: the rank R, or as a fraction below 1 the
            share of the source table's squared norm to keep; None for dense tables. See
            :func:`~hf_vocab_extend.surgery.factorize.factorize_embeddings`.
        languages: Language code or codes for the card, for example ``"sw"``.
        pad_to_multiple_of: Round the number of rows up to a multiple.
        seed: Seed of all randomness.
        device: Where heavy arithmetic runs; by default where the input table is.

    Returns:
        The model, the tokenizer, the mapping that explains each row, and the report.

    Raises:
        VocabExtendError: One of its children, before any change, when something is missing, unknown, or does not fit
            together.
    """
    clock = _Clock()
    text = None if corpus is None else open_corpus(corpus)
    resources = Resources(text, parallel, word_vectors, token_vectors, dictionary, helper_model)
    check_loaded(model, new_tokenizer)
    check_options(mode, fallback, pad_to_multiple_of, seed)
    chosen, reason = choose_method(method, resources)
    source_tokenizer = find_source_tokenizer(model, tokenizer)

    with clock.step("plan"):
        sites = find_sites(model, highest_id(source_tokenizer) + 1)
        check_belongs(model, source_tokenizer, sites.n_rows)
        warn_of_earlier_rows(model, source_tokenizer, mode)
        target_tokenizer = find_target_tokenizer(source_tokenizer, new_tokenizer, mode)
        plan = build_plan(source_tokenizer, target_tokenizer, mode)
        overrides = resolve_sources(sources or {}, source_tokenizer, plan.source, plan.target)
        plan, shared = free_reestimated(free_overridden(plan, list(overrides)), chosen)
        low_rank = plan_low_rank(model, sites, factorize)
    with clock.step("measure"):
        measured = _measure(source_tokenizer, target_tokenizer, plan, text)
    with clock.step("method"):
        table = sites.input.table()
        trained = trained_rows(table, plan.source)
        generator = torch.Generator().manual_seed(seed)
        where = torch.device(device) if device is not None else table.device
        context = FitContext(
            plan, source_tokenizer, target_tokenizer, resources, generator, trained, where, shared, low_rank.rank
        )
        rows, mapping = fit_rows(context, chosen, overrides, fallback)
    with Journal() as journal:  # what fails from here on takes back every write
        with clock.step("apply"):
            apply_rows(
                model,
                sites,
                plan,
                as_long_as_their_products(rows),
                pad_row=rows.pad_row,
                pad_to_multiple_of=pad_to_multiple_of,
                journal=journal,
            )
            notes = context.notes + _notes(measured, mapping, chosen, token_vectors is not None)
            notes += remap_token_ids(model, plan, target_tokenizer, journal=journal)
            notes += low_rank.apply(model, sites, journal)
        journal.set_attribute(model, ROWS_IN_USE, plan.n_target)
        report = ExtensionReport(
            mode=mode,
            fallback=fallback,
            seed=seed,
            languages=(languages,) if isinstance(languages, str) else tuple(languages),
            notes=tuple(notes),
            factorized_rank=low_rank.rank or rank_of(model),
            seconds_by_step=clock.seconds,
            **_choice(chosen, reason),
            **_origin(model, source_tokenizer, new_tokenizer),
            **_outcome(plan, sites, mapping, measured),
        )
    logger.info("%s", report)
    return VocabExtension(model=model, tokenizer=target_tokenizer, mapping=mapping, report=report)


@dataclass(frozen=True)
class _Measured:
    """What the head of the corpus shows; all None without a corpus."""

    before: dict[str, Any] | None = None
    """Fertility of the source tokenizer."""
    after: dict[str, Any] | None = None
    """Fertility of the target tokenizer."""
    token_counts: np.ndarray | None = None
    """How often each target id occurs, int64, shape `(n_target,)`."""


def _measure(
    source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, plan: VocabPlan, corpus: Corpus | None
) -> _Measured:
    """Measure both tokenizers on the head of the corpus."""
    if corpus is None:
        return _Measured()
    lines = list(islice(corpus, MEASURED_LINES))
    counts = np.zeros(plan.n_target, np.int64)
    for start in range(0, len(lines), 1000):
        batch = target(lines[start : start + 1000], add_special_tokens=False, truncation=False, verbose=False)
        ids = np.fromiter(chain.from_iterable(batch["input_ids"]), np.int64)
        counts += np.bincount(ids, minlength=plan.n_target)
    return _Measured(
        before=measure_fertility(source, lines).to_dict(),
        after=measure_fertility(target, lines, new_ids=plan.new_ids).to_dict(),
        token_counts=counts,
    )


def _notes(measured: _Measured, mapping: TokenMapping, method: InitMethod, vectors_given: bool) -> list[str]:
    """Return what a reader of the report should know and would not look for."""
    notes = ["The token vectors were given by the caller; no fastText was trained."] if vectors_given else []
    random_rows = mapping.counts().get("random", 0)
    if random_rows and method.name != "normal":
        notes.append(f"{random_rows} rows are random: nothing covered their tokens.")
    before, after = measured.before, measured.after
    if before is None or after is None:
        return notes
    if after["pre_tokens_per_word"] > SPLIT_WORDS:
        notes.append(
            f"The pre-tokenizer cuts a word into {after['pre_tokens_per_word']:.2f} parts, and no added token can "
            "join them. extend_tokenizer(..., marks_aware=True) lifts this for scripts with combining marks."
        )
    if after["round_trip_rate"] < before["round_trip_rate"]:
        notes.append("Fewer lines of the corpus round-trip than before: the new tokenizer loses text.")
    return notes


def _choice(method: InitMethod, reason: str) -> dict[str, Any]:
    """Return the part of the report that says how rows were found."""
    return {"method": method.name, "method_reason": reason, "method_config": method.config.to_dict()}


def _origin(model: PreTrainedModel, source: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the part of the report that says what the result was made from."""
    packages = ("transformers", "tokenizers", "torch", "numpy")
    return {
        "version": __version__,
        "versions": {"hf_vocab_extend": __version__} | {name: importlib.metadata.version(name) for name in packages},
        "base_model": hub_name(model.config._name_or_path),
        "base_revision": getattr(model.config, "_commit_hash", None),
        "source_tokenizer": public_name(source.name_or_path),
        "target_tokenizer": public_name(new.name_or_path),
    }


def _outcome(plan: VocabPlan, sites: Sites, mapping: TokenMapping, measured: _Measured) -> dict[str, Any]:
    """Return the part of the report that says what the vocabulary is now; to be called after the rows are written."""
    sizes = {
        "source_tokens": sum(token is not None for token in plan.source.tokens),
        "target_tokens": sum(token is not None for token in plan.target.tokens),
        "source_rows": sites.n_rows,
        "target_rows": sites.input.n_rows,
        "new_tokens": len(plan.new_ids),
    }
    counts = measured.token_counts
    return {
        "sizes": sizes,
        "tables": tuple(describe(site) for site in sites),
        "counts_by_kind": mapping.counts(),
        "coverage": None if counts is None else mapping.coverage(counts),
        "tied": sites.tied,
        "fertility_before": measured.before,
        "fertility_after": measured.after,
    }
