"""What is given to the functions of mini-models: names where a model is needed, and tokenizers of other models."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from torch import nn

from ...errors import InvalidOptionError, TokenizerMismatchError, VocabExtendWarning
from ...prepare import has_spare_rows, highest_id
from ..tables import vocabulary_tables

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOADERS = "AutoModelForMaskedLM.from_pretrained(...) or AutoModelForCausalLM.from_pretrained(...)"


def check_model_given(model: Any, what: str = "model", *, loader: str = LOADERS) -> None:
    """Raise if something else than a loaded model was given.

    Args:
        model: What was given.
        what: Name of the argument, for the message.
        loader: How such a model is loaded.

    Raises:
        InvalidOptionError: It says how to load it.
    """
    if isinstance(model, str | os.PathLike):
        raise InvalidOptionError(f"{what} is the name '{os.fspath(model)}'. Load it first: {loader}.")
    if not isinstance(model, nn.Module):
        raise InvalidOptionError(f"{what} is a {type(model).__name__}. Give a loaded model of transformers.")


def check_tokenizer_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, stacklevel: int) -> None:
    """Raise if a tokenizer has more ids than its model rows, and warn if it has so few that it may be another's.

    Args:
        model: The model.
        tokenizer: What is said to be its tokenizer.
        stacklevel: As of ``warnings.warn``, counted from the caller.

    Raises:
        TokenizerMismatchError: It has both numbers.
    """
    n_rows, n_ids = vocabulary_tables(model)[0].n_rows, highest_id(tokenizer) + 1
    if n_ids > n_rows:
        raise TokenizerMismatchError(
            f"The tokenizer has {n_ids} ids and the model {n_rows} rows: they do not belong together. Pass the "
            "tokenizer that the model was trained with as tokenizer=."
        )
    if has_spare_rows(n_rows, n_ids):
        warnings.warn(
            f"The tokenizer has {n_ids} ids and the model {n_rows} rows, more than padding explains. Check that it is "
            "the one that the model was trained with, else pass that as tokenizer=.",
            VocabExtendWarning,
            stacklevel=stacklevel + 1,
        )


def warn_if_same_vocabulary(
    tokenizer: PreTrainedTokenizerBase, new_tokenizer: PreTrainedTokenizerBase, *, stacklevel: int
) -> None:
    """Warn if the tokenizer of the new language is that of the model.

    Args:
        tokenizer: The model's tokenizer.
        new_tokenizer: That of the new language.
        stacklevel: As of ``warnings.warn``, counted from the caller.
    """
    if tokenizer.get_vocab() == new_tokenizer.get_vocab():
        warnings.warn(
            "The new tokenizer has the same vocabulary as that of the model, so no token is new. Check that tokenizer "
            "is the model's own and new_tokenizer that of the new language.",
            VocabExtendWarning,
            stacklevel=stacklevel + 1,
        )


__all__ = ["check_model_given", "check_tokenizer_of", "warn_if_same_vocabulary"]
