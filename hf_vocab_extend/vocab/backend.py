"""In and out of ``tokenizer.json``: the one place that takes a tokenizer apart and puts it together again."""

from __future__ import annotations

import copy
import json
import warnings
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import VocabExtendWarning
from .pipeline import backend_of

_CARRIED = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "model_input_names",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
    "chat_template",
    "name_or_path",
)
_DROPPED = {"tokenizer_object", "tokenizer_file", "vocab", "merges", "vocab_file", "merges_file", "backend"}


def read_json(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the ``tokenizer.json`` of a tokenizer as data of the caller's own.

    Raises:
        UnsupportedTokenizerError: If there is no ``tokenizer.json`` behind it.
    """
    return json.loads(backend_of(tokenizer).to_str())


def rebuild(tokenizer: PreTrainedTokenizerBase, data: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return a new tokenizer with another ``tokenizer.json`` and everything else as it was.

    Special tokens, chat template, sides of padding and truncation, maximum length, input names and clean-up flags
    are carried over; the given tokenizer is not changed.

    Args:
        tokenizer: The tokenizer to take all but the pipeline and the vocabulary from.
        data: The new ``tokenizer.json``.
    """
    if hasattr(tokenizer, "set_src_lang_special_tokens"):
        warnings.warn(
            f"{type(tokenizer).__name__} switches languages in code of its own (src_lang, tgt_lang), which a changed "
            f"vocabulary cannot keep: the new tokenizer always marks text as {getattr(tokenizer, 'src_lang', None)}. "
            "Set another language's mark with new_tokenizer.backend_tokenizer.post_processor.",
            VocabExtendWarning,
            stacklevel=3,
        )
    options = {name: value for name, value in tokenizer.init_kwargs.items() if name not in _DROPPED}
    options |= {name: getattr(tokenizer, name) for name in _CARRIED if getattr(tokenizer, name, None) is not None}
    options |= dict.fromkeys(tokenizer.SPECIAL_TOKENS_ATTRIBUTES) | tokenizer.special_tokens_map
    options["extra_special_tokens"] = tokenizer.extra_special_tokens
    options = copy.deepcopy(options)
    for name in ("added_tokens_decoder", "tokenizer_class", "auto_map", "add_bos_token", "add_eos_token"):
        options.pop(name, None)
    backend = Tokenizer.from_str(json.dumps(data, ensure_ascii=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)
