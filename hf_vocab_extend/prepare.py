"""What ``extend_vocabulary`` settles before any work: method, tokenizers, and whether all belongs together."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import InvalidOptionError, MissingResourceError, TokenizerMismatchError, VocabExtendWarning
from .methods import resolve_method
from .methods.base import names
from .plan import MatchKind, Mode, VocabPlan, is_grown_from
from .resources.word_vectors import split_sides
from .rows import FALLBACKS
from .scrub import public_model_id
from .vocab.merging import merge_tokenizers
from .vocab.special_tokens import special_roles

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .methods.base import InitMethod, MethodConfig, Resources


def _has_one_space(resources: Resources) -> bool:
    """Whether the word vectors are one space of both languages."""
    return resources.word_vectors is not None and split_sides(resources.word_vectors) is None


ROWS_IN_USE = "_vocab_extend_rows_in_use"
"""Attribute of a model in memory: number of ids that an extension gave rows to."""

AUTO: tuple[tuple[str, Callable[[Resources], bool], str], ...] = (
    ("trans_tokenization", lambda resources: resources.parallel is not None, "parallel text was given"),
    ("ofa", _has_one_space, "word vectors of one space were given"),
    ("wechsel", lambda resources: resources.word_vectors is not None, "word vectors of two spaces were given"),
    ("trans_tokenization", lambda resources: resources.dictionary is not None, "a dictionary was given"),
    ("focus", lambda resources: resources.token_vectors is not None, "token vectors were given"),
    ("focus", lambda resources: resources.corpus is not None, "a corpus was given"),
)
"""What ``method="auto"`` picks, first match wins: method, condition, reason. A method with other needs adds a line."""


def choose_method(method: str | MethodConfig | InitMethod, resources: Resources) -> tuple[InitMethod, str]:
    """Return the method and why it was taken.

    Raises:
        UnknownMethodError: If there is no such method.
        MissingResourceError: If it needs something that was not given.
    """
    given = resources.given()
    chosen, reason = resolve_method("subword" if method == "auto" else method), "asked for"
    if method == "auto":
        reason = "no resource was given that another method makes use of"
        for name, applies, why in AUTO:
            if applies(resources):
                chosen, reason = resolve_method(name), why
                break
    chosen.check_resources(resources)
    unused = given - {"corpus"} - frozenset().union(*chosen.needs)
    if unused:
        warnings.warn(
            f"Method '{chosen.name}' makes no use of {names(unused)}. Leave it out, or choose a method that does: "
            "hf-vocab-extend methods lists what each needs.",
            VocabExtendWarning,
            stacklevel=3,
        )
    return chosen, reason


def check_loaded(model: object, new_tokenizer: object) -> None:
    """Raise if a name was given where a loaded object is needed.

    Raises:
        InvalidOptionError: It says how to load it.
    """
    for what, value, loader in (("model", model, "AutoModel"), ("new_tokenizer", new_tokenizer, "AutoTokenizer")):
        if isinstance(value, str | Path):
            raise InvalidOptionError(f"{what} is the name '{value}'. Load it first: {loader}.from_pretrained(...).")


def warn_of_earlier_rows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, mode: str) -> None:
    """Warn if the model was extended in this process and the source tokenizer is older than that.

    Its rows beyond that tokenizer would be taken for padding and given to other tokens.
    """
    in_use, known = getattr(model, ROWS_IN_USE, 0), highest_id(tokenizer) + 1
    if mode == "extend" and in_use > known:
        warnings.warn(
            f"The model was extended to {in_use} tokens before, and the source tokenizer has {known}: the rows of the "
            f"other {in_use - known} are taken for padding and written over. To add to them pass "
            "tokenizer=extension.tokenizer; to start anew load the model again.",
            VocabExtendWarning,
            stacklevel=3,
        )


def check_options(mode: str, fallback: str, pad_to_multiple_of: int | None, seed: int) -> None:
    """Refuse values outside their range before any work."""
    if mode not in ("extend", "replace"):
        raise InvalidOptionError(f"mode is {mode!r}. Choose 'extend' (keep all source ids) or 'replace'.")
    if fallback not in FALLBACKS:
        raise InvalidOptionError(f"fallback is {fallback!r}. Choose one of: {', '.join(FALLBACKS)}.")
    if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
        raise InvalidOptionError(f"pad_to_multiple_of is {pad_to_multiple_of}. It must be at least 1.")
    if not 0 <= seed < 2**63:
        raise InvalidOptionError(f"seed is {seed}. It must lie in 0 .. 2**63 - 1.")


def find_source_tokenizer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> PreTrainedTokenizerBase:
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
            f"No tokenizer could be loaded from '{public_name(name)}' ({type(error).__name__}). Pass tokenizer=."
        ) from error


def highest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the highest id of a tokenizer; ids can have holes, so this is not ``len(tokenizer) - 1``."""
    return max(tokenizer.get_vocab().values(), default=-1)


def has_spare_rows(n_rows: int, n_ids: int) -> bool:
    """Whether a model has more rows than ids, by more than padding explains."""
    return n_rows - n_ids > max(128, n_rows // 10)


def check_belongs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n_rows: int) -> None:
    """Raise if a model and a tokenizer cannot be a pair.

    Padding explains a few spare rows. Many spare rows, or special ids that all differ, are another model's tokenizer;
    not so where rows and ids are equally many (CLIP's config has special ids that mean nothing).

    Raises:
        TokenizerMismatchError: It states the sizes and the ids.
    """
    n_ids = highest_id(tokenizer) + 1
    config = model.config.get_text_config()
    roles = special_roles(tokenizer)
    declared = {role: getattr(config, f"{role}_token_id", None) for role in ("bos", "eos", "pad")}
    common = {role: (ids, roles[role]) for role, ids in declared.items() if ids is not None and role in roles}
    agree = [role for role, (ids, own) in common.items() if own in (ids if isinstance(ids, list) else [ids])]
    if agree or n_rows == n_ids or not (has_spare_rows(n_rows, n_ids) or len(common) > 1):
        return
    differing = ", ".join(f"{role} {ids} in the config, {own} in the tokenizer" for role, (ids, own) in common.items())
    raise TokenizerMismatchError(
        f"The model has {n_rows} rows and the tokenizer {n_ids} ids{'; ' + differing if differing else ''}: they do "
        "not belong together. Pass the tokenizer that the model was trained with as tokenizer=."
    )


def find_target_tokenizer(
    source: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, mode: Mode
) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the extended model will have."""
    if mode == "replace" or is_grown_from(source, new):
        return new
    return merge_tokenizers(source, new)


def free_overridden(plan: VocabPlan, target_ids: list[int]) -> VocabPlan:
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


def free_reestimated(plan: VocabPlan, method: InitMethod) -> tuple[VocabPlan, np.ndarray | None]:
    """Turn copies by spelling that the method would rather estimate into new tokens; mode ``replace`` only.

    Returns:
        The plan, and for each of its new tokens the source id that it would have been copied from or -1, shape
        `(n_new,)`; None if nothing changed.

    Raises:
        InvalidOptionError: If the method asks for a token that is no copy by spelling.
    """
    wanted = method.reestimates(plan) if plan.mode == "replace" else np.empty(0, np.int64)
    if len(wanted) == 0:
        return plan, None
    foreign = wanted[~np.isin(plan.kinds[wanted], (MatchKind.EXACT, MatchKind.FUZZY))]
    if len(foreign):
        raise InvalidOptionError(
            f"Method '{method.name}' asks to estimate {len(foreign)} tokens that are not copied by their spelling, "
            f"{plan.target.tokens[int(foreign[0])]!r} first. Only those may be estimated instead."
        )
    source_ids, kinds = plan.source_ids.copy(), plan.kinds.copy()
    source_ids[wanted], kinds[wanted] = -1, MatchKind.NEW
    freed = VocabPlan(plan.mode, plan.source, plan.target, source_ids, kinds)
    return freed, np.where(np.isin(freed.new_ids, wanted), plan.source_ids[freed.new_ids], -1)


def public_name(name: str | None) -> str | None:
    """Return a name that can be shown: a Hub id as it is, of a local path only the last part."""
    return hub_name(name) or (Path(name).name if name else None)


def hub_name(name: str | None) -> str | None:
    """Return the Hub id that a model was loaded by, also where it lies in the Hub's cache.

    Any other local path gives None: its last part alone would point to a stranger.
    """
    if not name:
        return None
    is_path = Path(name).exists() or name.startswith((".", "~", "/")) or "\\" in name or name[1:2] == ":"
    return None if is_path and "models--" not in name else public_model_id(name)
