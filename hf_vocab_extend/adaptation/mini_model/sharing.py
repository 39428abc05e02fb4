"""A second model of the same class over the storage of a first one, perhaps with fewer layers.

It is built from its config alone, without memory, as a folder that is loaded would be, and then given Parameters of
its own that look at the first model's storage. So what a reload will give is what is built, `requires_grad` of one
model says nothing about the other, and code that puts other data into a Parameter, as the surgery on vocabularies
does, leaves the first model alone. Code that writes into the storage, as an optimizer does, changes both: what is to
be trained needs storage of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from ...errors import UnsupportedModelError
from ...prepare import ROWS_IN_USE
from ...surgery.checks import check_plain

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Chooser = Callable[[str], bool]
_NAMED = 3


def none_of_them(name: str) -> bool:
    """Choose nothing."""
    return False


def rebuild_shared(
    model: PreTrainedModel,
    config: PretrainedConfig,
    *,
    own: Chooser = none_of_them,
    empty: Chooser = none_of_them,
) -> PreTrainedModel:
    """Build a model from a config over the storage of another; the other is not changed.

    Buffers are copied. Ties are those of ``model``, whatever the config says.

    Args:
        model: The model that has the values.
        config: Of the new model, which keeps it; every tensor that it asks for must be one of ``model``.
        own: Takes a parameter's name; True for one that gets a copy of the values and trains.
        empty: True for one that gets memory without values, on the CPU, and trains.

    Returns:
        A model of the same class and mode. All other parameters share storage and do not train.

    Raises:
        UnsupportedModelError: If a parameter has no plain data here, the class cannot be built from the config, or
            the new model asks for a tensor that ``model`` does not have in that shape.
    """
    for name, parameter in model.named_parameters():
        check_plain(name, parameter)
    made = _without_memory(model, config)
    _check_shapes(model, made)
    _give_parameters(model, made, own, empty)
    _give_buffers(model, made)
    _give_the_rest(model, made)
    return made.train(model.training)


def _without_memory(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """Return a model of the class on the meta device.

    Raises:
        UnsupportedModelError: If the class does not take the config.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return type(model)(config)
    except Exception as error:  # any class of any author is built here
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be built from its own config with the number of layers changed ({error}). "
            "Take a model of a class whose config alone describes it."
        ) from error


def _check_shapes(model: PreTrainedModel, made: PreTrainedModel) -> None:
    """Raise if a model asks for tensors that another does not have."""
    sources = dict(_tensors(model))
    odd = [
        f"{name} {tuple(tensor.shape)} (here {tuple(sources[name].shape)})" if name in sources else f"{name} (missing)"
        for name, tensor in _tensors(made)
        if name not in sources or sources[name].shape != tensor.shape
    ]
    if odd:
        more = f" and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
        raise UnsupportedModelError(
            f"With its new config {type(model).__name__} asks for other tensors than it has: "
            f"{', '.join(odd[:_NAMED])}{more}. They follow the number of layers, or the config is not that of the "
            "weights: load the model with from_pretrained, and if it stays so, take another class."
        )


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return all parameters and buffers under all their names."""
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]


def _give_parameters(model: nn.Module, made: nn.Module, own: Chooser, empty: Chooser) -> None:
    """Give a model its Parameters, one for each of the other's."""
    sources = dict(model.named_parameters(remove_duplicate=False))
    given: dict[int, nn.Parameter] = {}
    for name, _ in list(made.named_parameters(remove_duplicate=False)):
        source = sources[name]
        if id(source) not in given:
            given[id(source)] = _parameter(source.detach(), own(name), empty(name))
        path, _, attribute = name.rpartition(".")
        made.get_submodule(path)._parameters[attribute] = given[id(source)]


def _parameter(values: torch.Tensor, own: bool, empty: bool) -> nn.Parameter:
    """Return a Parameter over storage that is shared, copied or new."""
    if empty:
        return nn.Parameter(torch.empty_like(values, device="cpu"))
    if own:
        return nn.Parameter(values.clone())
    return nn.Parameter(values, requires_grad=False)


def _give_buffers(model: nn.Module, made: nn.Module) -> None:
    """Give a model copies of the other's buffers, also of tensors that are mere attributes."""
    sources = dict(model.named_buffers(remove_duplicate=False))
    for name, _ in list(made.named_buffers(remove_duplicate=False)):
        path, _, attribute = name.rpartition(".")
        made.get_submodule(path)._buffers[attribute] = sources[name].detach().clone()
    for path, module in made.named_modules():
        for attribute, value in list(vars(module).items()):
            if isinstance(value, torch.Tensor) and value.is_meta:
                found = getattr(model.get_submodule(path), attribute)
                vars(module)[attribute] = cast(torch.Tensor, found).detach().clone()


def _give_the_rest(model: PreTrainedModel, made: PreTrainedModel) -> None:
    """Give a model what neither its config nor its tensors hold."""
    if hasattr(model, "generation_config"):
        made.generation_config = copy.deepcopy(model.generation_config)
    if hasattr(model, ROWS_IN_USE):
        setattr(made, ROWS_IN_USE, getattr(model, ROWS_IN_USE))
    for path, module in made.named_modules():
        pairs = getattr(model.get_submodule(path), "all_tied_weights_keys", None)
        if pairs is not None:
            module.all_tied_weights_keys = dict(pairs)


__all__ = ["Chooser", "rebuild_shared"]
