"""What must fit together before a distillation starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...errors import (
    BaseModelMismatchError,
    InvalidOptionError,
    MissingResourceError,
    TokenizerMismatchError,
    UnsupportedModelError,
)
from ...evaluation.scoring import evaluation_mode
from ...prepare import find_source_tokenizer, highest_id, public_name
from ..rows import new_row_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...result import VocabExtension


def check_counts(**counts: int | None) -> None:
    """Raise unless each is a whole number above 0, or None.

    Raises:
        InvalidOptionError: It names the option.
    """
    for name, value in counts.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InvalidOptionError(f"{name} is {value!r}. Give a whole number of at least 1.")


def new_rows_of(extension: VocabExtension) -> torch.Tensor:
    """Return the ids of the rows that can be refined, int64, shape `(n_new,)`.

    Raises:
        InvalidOptionError: If there are none.
        TokenizerMismatchError: If the mapping, the tokenizer and the model do not belong together.
        UnsupportedModelError: If the model is an encoder-decoder.
    """
    model = extension.model
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is an encoder-decoder. Rows of causal models and of encoders can be distilled."
        )
    ids = new_row_ids(extension)
    if len(ids) == 0:
        raise InvalidOptionError("The extension has no new row: every token was copied. There is nothing to distil.")
    n_rows, n_ids = rows_of(model), highest_id(extension.tokenizer) + 1
    if n_ids > n_rows or int(ids[-1]) >= n_rows or len(extension.mapping.tokens) < n_ids:
        raise TokenizerMismatchError(
            f"The model has {n_rows} rows, the tokenizer {n_ids} ids, the mapping {len(extension.mapping.tokens)}: "
            "they are not of one extension. Take all of them from one call, or one folder."
        )
    return ids


def find_teacher(
    extension: VocabExtension, model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model and tokenizer of the source side; in mode ``extend`` the extended model can be both.

    Raises:
        MissingResourceError: If one is needed and not there.
        TokenizerMismatchError: If they are not a pair, or the tokenizer is not the source one.
    """
    if model is None and extension.report.mode != "extend":
        raise MissingResourceError(
            "In mode 'replace' the source rows are gone from the extended model. Load the untouched model, and pass "
            "source_model=."
        )
    if model is None and extension.report.training:
        raise MissingResourceError(
            "The extended model was trained, so it no longer reads source tokens as the untouched model does. Load "
            "that one, and pass source_model=."
        )
    if tokenizer is None:
        tokenizer = _source_tokenizer(extension, model)
    teacher = model if model is not None else extension.model
    n_ids, n_source = highest_id(tokenizer) + 1, extension.report.sizes["source_rows"]
    limit = rows_of(teacher) if model is not None else n_source
    if n_ids > limit:
        raise TokenizerMismatchError(
            f"The source tokenizer has {n_ids} ids, the source model {limit} rows. Pass the tokenizer of the "
            "untouched model."
        )
    return teacher, tokenizer


def _source_tokenizer(extension: VocabExtension, model: PreTrainedModel | None) -> PreTrainedTokenizerBase:
    """Return the tokenizer beside the untouched model, or beside the base model that the report names."""
    if model is not None:
        return find_source_tokenizer(model, None)
    name = extension.report.base_model
    if not name:
        raise MissingResourceError(
            "The report names no base model, so the source tokenizer cannot be found. Pass tokenizer=."
        )
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise MissingResourceError(
            f"No tokenizer could be loaded from '{name}' ({type(error).__name__}). Pass tokenizer=."
        ) from error


def check_layer(model: PreTrainedModel, teacher: PreTrainedModel, layer: int) -> None:
    """Raise unless both models have such a layer, of one width.

    Raises:
        BaseModelMismatchError: If widths differ.
        InvalidOptionError: If there is no such layer.
    """
    widths = [_config(item).hidden_size for item in (model, teacher)]
    if widths[0] != widths[1]:
        raise BaseModelMismatchError(
            f"The teacher's states have width {widths[1]}, the extended model's {widths[0]}. Pass the untouched model "
            "that was extended."
        )
    depth = min(_config(item).num_hidden_layers for item in (model, teacher))
    if not -depth - 1 <= layer <= depth:
        raise InvalidOptionError(
            f"The layer {layer} does not exist: the model has {depth}. Give -1 for the last, 0 for the embeddings."
        )


@torch.no_grad()
def is_causal(model: PreTrainedModel) -> bool:
    """Whether a position sees only what goes before it: measured, since configs of encoders made of decoders lie."""
    ids = torch.tensor([[0, 1, 2], [0, 1, 3]], device=model.device)
    with evaluation_mode(model):
        states = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    first = states[:, 0].float()
    return bool(torch.allclose(first[0], first[1], rtol=0, atol=1e-6 * float(first.abs().max())))


def name_of(model: PreTrainedModel) -> str:
    """Return the name of a model as a report may show it."""
    return public_name(model.config._name_or_path) or type(model).__name__


def rows_of(model: PreTrainedModel) -> int:
    """Return the number of rows of the input table."""
    table: Any = model.get_input_embeddings().weight
    return int(table.shape[0])


def _config(model: PreTrainedModel) -> Any:
    """Return the config that speaks of the text layers."""
    return model.config.get_text_config()


__all__ = ["check_counts", "check_layer", "find_teacher", "is_causal", "name_of", "new_rows_of", "rows_of"]
