"""Models for tasks with labels, made in memory of a language model's body."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..._logging import get_logger
from ...errors import (
    TokenizerMismatchError,
    UnsupportedModelError,
    UnsupportedTokenizerError,
    VerificationError,
)
from ...modeling.factorized import factorized_modules
from ...prepare import highest_id
from ..tables import vocabulary_tables
from .task_kinds import TaskKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = get_logger(__name__)


def make_task_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: TaskKind, labels: tuple[str, ...]
) -> PreTrainedModel:
    """Return a task model with a copy of a model's body, a new head, and frozen tables of tokens.

    What else has the same name and shape in both (ModernBERT's dense layer before the head) is taken over too, as
    ``from_pretrained`` does. The new head is drawn from torch's generator as it is.

    Raises:
        UnsupportedModelError: If transformers has no such model of this architecture, or tables are factorised.
        TokenizerMismatchError: If the tokenizer has more ids than the model rows.
        UnsupportedTokenizerError: If there is no token to pad with.
    """
    import transformers

    if factorized_modules(model):
        raise UnsupportedModelError(
            "The tables of the model are factorised, and transformers makes task models with dense ones. Call "
            "merge_factorized(model) first."
        )
    n_rows = vocabulary_tables(model)[0].n_rows
    if highest_id(tokenizer) >= n_rows:
        raise TokenizerMismatchError(
            f"The tokenizer has ids up to {highest_id(tokenizer)} and the input table {n_rows} rows. Give the "
            "tokenizer of this model."
        )
    config = copy.deepcopy(model.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: index for index, name in enumerate(labels)}
    config.problem_type = None if kind.per_token else "single_label_classification"
    try:
        task = getattr(transformers, kind.auto_class).from_config(config, dtype=model.dtype)
    except ValueError as error:
        raise UnsupportedModelError(
            f"transformers has no model for {kind.name} of the type '{config.model_type}' ({error!s:.200}). Give a "
            "model whose architecture has one."
        ) from error
    _take_over(task, model)
    task.to(model.device)
    set_padding(task, tokenizer)
    for table in vocabulary_tables(task):
        table.parameter.requires_grad_(False)
    return task


def _take_over(task: PreTrainedModel, model: PreTrainedModel) -> None:
    """Copy the body of a model into a task model, and what else both have.

    Raises:
        UnsupportedModelError: If the bodies differ.
    """
    body: nn.Module = model.base_model
    own: nn.Module = task.base_model
    try:
        found = own.load_state_dict(body.state_dict(), strict=False)
    except RuntimeError as error:
        raise UnsupportedModelError(
            f"The body of a {type(model).__name__} does not fit into a {type(task).__name__}: {error!s:.300}"
        ) from error
    unknown = [name for name in found.unexpected_keys if getattr(own, name.partition(".")[0], own) is not None]
    if unknown:  # a part that the task's class has switched off (BERT's pooler) is none
        raise UnsupportedModelError(
            f"A {type(task).__name__} has no place for {', '.join(unknown[:5])} of the "
            f"{type(model).__name__}. Give a model whose body is that of its task models."
        )
    if found.missing_keys:
        logger.info("New in the task model: %s", ", ".join(found.missing_keys))
    if body is model or model.get_output_embeddings() is None:
        return
    inside = f"{task.base_model_prefix}."
    there, here = model.state_dict(), task.state_dict()
    same = {
        name: tensor
        for name, tensor in there.items()
        if name in here and not name.startswith(inside) and here[name].shape == tensor.shape
    }
    task.load_state_dict(same, strict=False)


def set_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say in the config which id pads: the tokenizer's, else as before, else the one that ends a text.

    Classifiers of causal models look there for the last token of a text. A model whose positions count from its
    padding id keeps that.

    Raises:
        UnsupportedTokenizerError: If there is no token to pad with.
    """
    config = model.config.get_text_config()
    ids = (tokenizer.pad_token_id, config.pad_token_id, tokenizer.eos_token_id)
    pad_id = next((own for own in ids if own is not None), None)
    if pad_id is None:
        raise UnsupportedTokenizerError(
            "Neither the config nor the tokenizer names a token to pad with, and none that ends a text. Set "
            "tokenizer.pad_token to a token that does not occur in texts."
        )
    counted = any(
        "position" in name and isinstance(getattr(module, "padding_idx", None), int)
        for name, module in model.named_modules()
    )
    if config.pad_token_id is None or not counted:
        config.pad_token_id = pad_id
        model.config.pad_token_id = pad_id


@torch.no_grad()
def check_tables_kept(task: PreTrainedModel, model: PreTrainedModel) -> None:
    """Compare the frozen tables of a task model with those of the model that it was made of, bit by bit.

    Raises:
        VerificationError: It names the table and how many rows moved.
    """
    names = {id(parameter): name for name, parameter in task.base_model.named_parameters()}
    for table in vocabulary_tables(task):
        now = table.parameter
        then = model.base_model.get_parameter(names[id(now)]).to(now.device)
        differs = (now.view(torch.uint8) != then.view(torch.uint8)).movedim(table.axis, 0).flatten(1).any(1)
        if differs.any():
            raise VerificationError(
                f"{int(differs.sum())} of {table.n_rows} rows of the frozen table '{table.name}' moved in the "
                "training. Something wrote to it: leave out callbacks that do."
            )


__all__ = ["check_tables_kept", "make_task_model", "set_padding"]
