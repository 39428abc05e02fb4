"""Which part of a mini-model trains, and whether the other part is still what it was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...errors import BaseModelMismatchError, InvalidOptionError, UnsupportedModelError
from ..tables import vocabulary_tables
from .layers import find_layer_stack
from .record import float16_note, read_record, table_hashes

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def trained_parameters(mini: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return what trains of a mini-model: its new layers, and what runs after the last layer.

    Args:
        mini: What :func:`~.building.build_mini_model` gave, also saved and loaded.

    Raises:
        UnsupportedModelError: If the model is no mini-model.
        InvalidOptionError: If nothing of it trains, because it was cut from a model that was trained with two heads.
        BaseModelMismatchError: If its table of tokens is not the one that it was cut with.
    """
    record = read_record(mini)
    if record is None:
        raise UnsupportedModelError(
            f"The config of this {type(mini).__name__} says nothing of a mini-model. Make one with build_mini_model."
        )
    if record.kind == "joint":
        raise InvalidOptionError(
            "This mini-model was cut from a model that was trained with two heads, so nothing of it is left to train. "
            "Learn embeddings on it as it is."
        )
    now = table_hashes(mini)
    moved = sorted(role for role in now if now[role] != record.source_tables.get(role))
    if moved:
        raise BaseModelMismatchError(
            f"The tables of this mini-model ({', '.join(moved)}) are not those with which it was cut. Train it before "
            f"its vocabulary changes, or cut it again from the model as it is.{float16_note(mini.parameters())}"
        )
    stack = find_layer_stack(mini)
    new = [f"{stack.path}.{index}" for index in range(record.bottom_layers, stack.n_layers)]
    vocabulary = {id(item) for table in vocabulary_tables(mini) for item in (table.parameter, *table.projections)}
    found = {
        name: parameter
        for name, parameter in mini.named_parameters()
        if id(parameter) not in vocabulary
        and any(name == part or name.startswith(f"{part}.") for part in (*new, *stack.after))
    }
    if not found:
        raise InvalidOptionError(
            "The mini-model has no new layers, and nothing with weights runs after its last one. Build it with "
            "new_layers=2."
        )
    return found


@torch.no_grad()
def digest(parameter: torch.Tensor) -> str:
    """Return a hash of the bits of a parameter."""
    values = parameter.detach().reshape(-1).contiguous().cpu()
    return hashlib.sha256(values.view(torch.uint8).numpy().data).hexdigest()


@torch.no_grad()
def same_values(own: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two parameters are equal in the type of the first."""
    if own.data_ptr() == other.data_ptr() and own.shape == other.shape:
        return True
    return own.shape == other.shape and torch.equal(own, other.to(own.device, own.dtype))


class Apart:
    """Keeps what a Trainer loads from a checkpoint, in place, out of storage that a model shares with another."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Give parameters that do not train storage of their own, for as long as a checkpoint may be loaded."""
        self._given = [(name, parameter, parameter.data) for name, parameter in parameters.items()]
        for _, parameter, values in self._given:
            parameter.data = values.clone()

    def back(self) -> str | None:
        """Give them the shared storage back; return the name of one that has other values by now, None if none has."""
        found = None
        for name, parameter, values in self._given:
            if not same_values(values, parameter.data):
                found = found or name
            if parameter.device == values.device and parameter.shape == values.shape:
                parameter.data = values
        self._given = []
        return found

    def check_back(self) -> None:
        """Give them the shared storage back.

        Raises:
            BaseModelMismatchError: If a checkpoint had other values than the model that was given.
        """
        found = self.back()
        if found is not None:
            raise BaseModelMismatchError(
                f"The checkpoint to resume from has another body than the model that was given ('{found}' differs). "
                "Give the model with which the run began, or another work folder."
            )


__all__ = ["Apart", "digest", "same_values", "trained_parameters"]
