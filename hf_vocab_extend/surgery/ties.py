"""Make ``config.tie_word_embeddings`` say what the storage says."""

from __future__ import annotations

from transformers import PretrainedConfig, PreTrainedModel

from .config_tree import main_config
from .journal import Journal
from .registry import FLAG_IS_ARITHMETIC
from .sites import Site, Sites


def make_flag_truthful(model: PreTrainedModel, sites: Sites, journal: Journal) -> None:
    """Set the flag of the model's config, and of its text config, to what the head's storage is.

    transformers before 5 and other runtimes tie on the flag alone, and the next ``resize_token_embeddings`` or
    ``tie_weights`` of transformers 5 does too: a flag that says True destroys a head of its own.

    The flag stays True over an untied head where it cannot hurt or is needed: where the class ties no head whatever
    the flag says (RemBERT), where it also ties other tensors that do share storage and that would not be saved (BERT's
    ``decoder.bias``, BART's encoder; transformers 5 compares values at loading and leaves the head alone), and where
    the forward pass reads it as a scale (UMT5).
    """
    if sites.head is None:
        return
    wanted = sites.tied
    if not wanted and not _may_say_untied(model, sites.head):
        return
    for config in (model.config, main_config(model.config)):
        if isinstance(getattr(config, "tie_word_embeddings", None), bool) and config.tie_word_embeddings != wanted:
            journal.set_attribute(config, "tie_word_embeddings", wanted)
    keys = getattr(model, "all_tied_weights_keys", None)
    if not wanted and keys:
        heads = {alias.name for alias in sites.head.aliases}
        journal.set_attribute(model, "all_tied_weights_keys", {k: v for k, v in keys.items() if k not in heads})


def _may_say_untied(model: PreTrainedModel, head: Site) -> bool:
    """Whether False is safe: the flag ties this head, and nothing else that depends on it."""
    if model.config.model_type in FLAG_IS_ARITHMETIC:
        return False
    heads = {alias.name for alias in head.aliases}
    pairs = model.get_expanded_tied_weights_keys(all_submodels=True)
    if not heads & {*pairs, *pairs.values()}:
        return False
    if _flag_is_forced(model.config):
        return True
    return not any(
        target not in heads
        and model.get_parameter_or_buffer(target).data_ptr() == model.get_parameter_or_buffer(source).data_ptr()
        for target, source in pairs.items()
    )


def _flag_is_forced(config: PretrainedConfig) -> bool:
    """Whether the config class sets the flag to True whatever the file says (the T5 family)."""
    fresh = type(config).from_dict({**config.to_dict(), "tie_word_embeddings": False})
    return bool(fresh.tie_word_embeddings)
