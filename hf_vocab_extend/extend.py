"""The one call: ``extend_vocabulary``. It walks through the layers and does nothing else itself."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from . import __version__
from ._logging import get_logger
from .errors import InvalidOptionError, MissingResourceError, TokenizerMismatchError
from .mapping import TokenMapping
from .methods import METHODS, resolve_method
from .methods.base import FitContext, InitMethod, MethodConfig, Resources
from .methods.overrides import Sources, resolve_sources
from .plan import MatchKind, Mode, VocabPlan, build_plan, is_grown_from
from .report import ExtensionReport
from .resources.corpus import Corpus, open_corpus
from .result import VocabExtension
from .rows import FALLBACKS, fit_rows
from .surgery.apply import apply_rows
from .surgery.journal import Journal
from .surgery.sites import find_sites
from .surgery.token_ids import remap_token_ids
from .surgery.trained import trained_rows
from .vocab.fertility import measure_fertility
from .vocab.merging import merge_tokenizers
from .vocab.special_tokens import special_roles

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = get_logger(__name__)

MEASURED_LINES = 10_000
"""Fertility and coverage are measured on this many first lines of the corpus."""

AUTO = (
    ("trans_tokenization", "parallel", "parallel text was given"),
    ("ofa", "word_vectors", "word vectors were given"),
    ("focus", "token_vectors", "token vectors were given"),
    ("focus", "corpus", "a corpus was given"),
)
"""What ``method="auto"`` picks, first match wins: method, resource, reason."""


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
    languages: Sequence[str] = (),
    pad_to_multiple_of: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> VocabExtension:
    """Give a model the vocabulary of a new tokenizer; modifies the model in place.

    A failed call leaves the model as it was: everything is checked and computed before the first write.

    Args:
        model: A loaded model, not quantised, not sharded.
        new_tokenizer: The target tokenizer. In mode ``extend`` one that grew from the source tokenizer
            (``extend_tokenizer``, ``merge_tokenizers``) is taken as it is, any other is merged into the source.
        method: Name of a method, its config for options, or an instance; ``auto`` picks by what was brought.
        tokenizer: The source tokenizer; by default that of ``model.config._name_or_path``.
        mode: ``extend`` keeps every source id and row and appends; ``replace`` takes ``new_tokenizer`` as it is.
        corpus: Target-language text: a path, a ``datasets`` object or name, or an iterable of strings.
        parallel: Pairs ``(source_text, target_text)``.
        word_vectors: A file, a folder, or a mapping of word to vector.
        token_vectors: Vectors of target tokens: a mapping of token to vector, or ``(tokens, matrix)``.
        dictionary: Pairs ``(source_word, target_word)``.
        helper_model: A model that already speaks the target vocabulary.
        sources: Sources of single tokens, whatever the method: ``{"token": "text"}`` or
            ``{"token": [("source token", weight), ...]}``.
        fallback: Method for tokens that ``method`` does not cover: ``subword``, ``mean`` or ``normal``; what that
            does not cover either is drawn from the normal distribution of the source rows, and counted.
        languages: Language codes for the card, for example ``["sw"]``.
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
    resources = Resources(
        corpus=None if corpus is None else open_corpus(corpus),
        parallel=parallel,
        word_vectors=word_vectors,
        token_vectors=token_vectors,
        dictionary=dictionary,
        helper_model=helper_model,
    )
    chosen, reason = _choose_method(method, resources)
    _check_options(mode, fallback, pad_to_multiple_of, seed)
    chosen.check_resources(resources)
    source_tokenizer = _source_tokenizer(model, tokenizer)

    with clock.step("plan"):
        sites = find_sites(model, _highest_id(source_tokenizer) + 1)
        _check_belongs(model, source_tokenizer, sites.n_rows)
        target_tokenizer = _target_tokenizer(source_tokenizer, new_tokenizer, mode)
        plan = build_plan(source_tokenizer, target_tokenizer, mode)
        overrides = resolve_sources(sources or {}, source_tokenizer, plan.source, plan.target)
        plan = _free_overridden(plan, list(overrides))
    with clock.step("fertility"):
        before, after, token_counts = _measure(source_tokenizer, target_tokenizer, plan, resources.corpus)
    with clock.step("method"):
        table = sites.input.tensor.detach()
        context = FitContext(
            plan=plan,
            source_tokenizer=source_tokenizer,
            target_tokenizer=target_tokenizer,
            resources=resources,
            generator=torch.Generator().manual_seed(seed),
            trained=trained_rows(table, plan.source),
            device=torch.device(device) if device is not None else table.device,
        )
        rows, mapping = fit_rows(context, chosen, overrides, fallback)

    with Journal() as journal:
        with clock.step("apply"):
            tables = apply_rows(
                model, sites, plan, rows, pad_row=rows.pad_row, pad_to_multiple_of=pad_to_multiple_of, journal=journal
            )
            notes = remap_token_ids(model, plan, target_tokenizer, journal=journal)
        report = ExtensionReport(
            version=__version__,
            base_model=_hub_name(model.config._name_or_path),
            base_revision=getattr(model.config, "_commit_hash", None),
            source_tokenizer=_public_name(source_tokenizer.name_or_path),
            target_tokenizer=_public_name(new_tokenizer.name_or_path),
            mode=mode,
            method=chosen.name,
            method_reason=reason,
            method_config=chosen.config.to_dict(),
            fallback=fallback,
            seed=seed,
            languages=tuple(languages),
            sizes=_sizes(plan, sites.n_rows, sites.input.n_rows),
            counts_by_kind=mapping.counts(),
            coverage=None if token_counts is None else mapping.coverage(token_counts),
            tables=tuple(tables),
            tied=sites.tied,
            fertility_before=before,
            fertility_after=after,
            seconds_by_step=clock.seconds,
            versions=_versions(),
            notes=tuple(_notes(before, after, mapping, chosen) + notes),
        )
    logger.info("%s", report)
    return VocabExtension(model=model, tokenizer=target_tokenizer, mapping=mapping, report=report)


def _choose_method(method: str | MethodConfig | InitMethod, resources: Resources) -> tuple[InitMethod, str]:
    """Return the method and why it was taken."""
    if method != "auto":
        return resolve_method(method), "asked for"
    given = resources.given()
    for name, resource, reason in AUTO:
        if resource in given and name in METHODS:
            return resolve_method(name), reason
    return resolve_method("subword"), "no corpus, parallel text or vectors were given"


def _check_options(mode: str, fallback: str, pad_to_multiple_of: int | None, seed: int) -> None:
    """Refuse values outside their range before any work."""
    if mode not in ("extend", "replace"):
        raise InvalidOptionError(f"mode is {mode!r}. Choose 'extend' (keep all source ids) or 'replace'.")
    if fallback not in FALLBACKS:
        raise InvalidOptionError(f"fallback is {fallback!r}. Choose one of: {', '.join(FALLBACKS)}.")
    if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
        raise InvalidOptionError(f"pad_to_multiple_of is {pad_to_multiple_of}. It must be at least 1.")
    if not 0 <= seed < 2**63:
        raise InvalidOptionError(f"seed is {seed}. It must lie in 0 .. 2**63 - 1.")


def _source_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> PreTrainedTokenizerBase:
    """Return the given tokenizer, else the one that the model was saved with.

    Raises:
        MissingResourceError: If neither is to be found.
    """
    if tokenizer is not None:
        return tokenizer
    name = model.config._name_or_path
    if not name:
        raise MissingResourceError(
            "The model does not say where it was loaded from, so its tokenizer cannot be found. Pass tokenizer=."
        )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise MissingResourceError(
            f"No tokenizer could be loaded from '{_public_name(name)}' ({type(error).__name__}). Pass tokenizer=."
        ) from error


def _highest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the highest id of a tokenizer; ids can have holes, so this is not ``len(tokenizer) - 1``."""
    return max(tokenizer.get_vocab().values(), default=-1)


def _check_belongs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n_rows: int) -> None:
    """Raise if a model and a tokenizer cannot be a pair.

    Padding explains a few spare rows. Many spare rows, or special ids that all differ, are another model's tokenizer.

    Raises:
        TokenizerMismatchError: It states the sizes and the ids.
    """
    n_ids = _highest_id(tokenizer) + 1
    config = model.config.get_text_config()
    roles = special_roles(tokenizer)
    declared = {role: getattr(config, f"{role}_token_id", None) for role in ("bos", "eos", "pad")}
    common = {role: (ids, roles[role]) for role, ids in declared.items() if ids is not None and role in roles}
    agree = [role for role, (ids, own) in common.items() if own in (ids if isinstance(ids, list) else [ids])]
    spare = n_rows - n_ids > max(128, n_rows // 10)
    if agree or not (spare or len(common) > 1):
        return
    differing = ", ".join(f"{role} {ids} in the config, {own} in the tokenizer" for role, (ids, own) in common.items())
    raise TokenizerMismatchError(
        f"The model has {n_rows} rows and the tokenizer {n_ids} ids{'; ' + differing if differing else ''}: they do "
        "not belong together. Pass the tokenizer that the model was trained with as tokenizer=."
    )


def _target_tokenizer(
    source: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, mode: Mode
) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the extended model will have."""
    if mode == "replace" or is_grown_from(source, new):
        return new
    return merge_tokenizers(source, new)


def _free_overridden(plan: VocabPlan, target_ids: list[int]) -> VocabPlan:
    """Turn copies that the user named sources for into new tokens.

    Raises:
        InvalidOptionError: If one of them is a source row that mode ``extend`` must not touch.
    """
    source_ids, kinds = plan.source_ids.copy(), plan.kinds.copy()
    for target_id in target_ids:
        if kinds[target_id] == MatchKind.SAME:
            raise InvalidOptionError(
                f"sources names {plan.target.tokens[target_id]!r}, which the source vocabulary has already. "
                "Mode 'extend' leaves its row as it is; leave it out or use mode='replace'."
            )
        source_ids[target_id], kinds[target_id] = -1, MatchKind.NEW
    return VocabPlan(plan.mode, plan.source, plan.target, source_ids, kinds)


def _measure(
    source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase, plan: VocabPlan, corpus: Corpus | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, np.ndarray | None]:
    """Return the fertility before and after, and the target token counts, shape `(n_target,)`, on the corpus' head."""
    if corpus is None:
        return None, None, None
    lines = list(islice(corpus, MEASURED_LINES))
    before = measure_fertility(source, lines)
    after = measure_fertility(target, lines, new_ids=plan.new_ids)
    counts = np.zeros(plan.n_target, np.int64)
    for start in range(0, len(lines), 1000):
        batch = target(lines[start : start + 1000], add_special_tokens=False)["input_ids"]
        counts += np.bincount(np.concatenate([np.asarray(ids, np.int64) for ids in batch]), minlength=plan.n_target)
    return before.to_dict(), after.to_dict(), counts


def _notes(
    before: dict[str, Any] | None, after: dict[str, Any] | None, mapping: TokenMapping, method: InitMethod
) -> list[str]:
    """Return what a reader of the report should know and would not look for."""
    notes = []
    counts = mapping.counts()
    if counts.get("random") and method.name != "normal":
        notes.append(f"{counts['random']} rows are random: nothing covered their tokens.")
    if after is not None and after["pre_tokens_per_word"] > 1.5:
        notes.append(
            f"The pre-tokenizer cuts a word into {after['pre_tokens_per_word']:.2f} parts, and no added token can "
            "join them. extend_tokenizer(..., marks_aware=True) lifts this for scripts with combining marks."
        )
    if before is not None and after is not None and after["round_trip_rate"] < before["round_trip_rate"]:
        notes.append("Fewer lines of the corpus round-trip than before: the new tokenizer loses text.")
    return notes


def _sizes(plan: VocabPlan, source_rows: int, target_rows: int) -> dict[str, int]:
    """Return the counts of tokens and rows."""
    return {
        "source_tokens": sum(token is not None for token in plan.source.tokens),
        "target_tokens": sum(token is not None for token in plan.target.tokens),
        "source_rows": source_rows,
        "target_rows": target_rows,
        "new_tokens": len(plan.new_ids),
    }


def _public_name(name: str | None) -> str | None:
    """Return a name that can be shown: a Hub id as it is, of a local path only the last part."""
    return _hub_name(name) or (Path(name).name if name else None)


def _hub_name(name: str | None) -> str | None:
    """Return a name if it may be a Hub id; a local path is none, and its last part would point to a stranger."""
    if not name:
        return None
    path = Path(name)
    return None if path.is_absolute() or path.exists() or name.startswith(".") else name


def _versions() -> dict[str, str]:
    """Return the versions of what shapes the result."""
    packages = ("hf_vocab_extend", "transformers", "tokenizers", "torch", "numpy")
    return {name: _version(name) for name in packages}


def _version(name: str) -> str:
    """Return the version of an installed package."""
    return __version__ if name == "hf_vocab_extend" else importlib.metadata.version(name)
