"""Cut a mini-model out of a finished model: its bottom layers, shared, under a few new ones (MiniPost).

Marchisio et al. 2023 (arXiv 2212.10503). The mini-model is a plain model of the same class with fewer layers. Its
embeddings and bottom layers are the full model's own storage, so rows that are learned through it are rows that the
full model reads; its new layers and what stands after them are trained on source-language text until the mini-model
predicts like a whole one.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...errors import InvalidOptionError, UnsupportedModelError, VocabExtendWarning
from ...evaluation.scoring import evaluating, own_type
from ..objectives import choose_objective
from .given import check_model_given
from .layers import LayerStack, find_layer_stack, probe_inputs, set_layer_count, watching
from .random_state import random_state_kept
from .record import FIELD, MiniRecord, write_record
from .sharing import rebuild_shared

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def build_mini_model(
    model: PreTrainedModel, num_layers: int = 4, new_layers: int = 2, *, seed: int = 0
) -> PreTrainedModel:
    """Build a shallow model over the bottom of a finished one; the finished one is not changed.

    A model without a head that writes tokens gives a mini-model that no text trains, which is told in a warning.

    Embeddings, bottom layers and every vocabulary-sized tensor share the storage of ``model`` through Parameters with
    ``requires_grad=False``; the flags of ``model`` stay as they are. New layers and copies of what runs after the
    last layer (a final norm, the transform of a masked model's head) have storage of their own and train. A new layer
    is of the kind that the full model has at its place (``layer_types`` and the like).

    Training ``model`` afterwards moves the mini-model's shared part with it, as they are one storage; a mini-model
    that is saved and loaded has its own.

    Args:
        model: An encoder or a decoder whose layers are a list, with its data, not quantised.
        num_layers: Bottom layers to share, 4 of 12 in the paper.
        new_layers: Layers to add, 2 in the paper; 0 to have the head read the states of the bottom.
        seed: Seed of the new layers; global generators are left as they were.

    Returns:
        A model of the same class with ``num_layers + new_layers`` layers, in the mode of ``model``, whose config
        remembers where it comes from (:class:`~.record.MiniRecord`).

    Raises:
        InvalidOptionError: If a number of layers or the seed is out of its range, or the model is only a name.
        UnsupportedModelError: If the layers of this model cannot be cut; the message says why.
    """
    check_model_given(model)
    stack = find_layer_stack(model)
    _warn_without_head(model)
    _check_counts(stack, num_layers, new_layers, seed)
    config = copy.deepcopy(model.config)
    vars(config).pop(FIELD, None)  # what the full model remembers of itself
    set_layer_count(config, num_layers + new_layers)
    _check_config(type(model).__name__, config)
    fresh = tuple(f"{stack.path}.{index}." for index in range(num_layers, num_layers + new_layers))
    record = MiniRecord.of(model, "post", num_layers, new_layers, layers_path=stack.path)
    mini = rebuild_shared(
        model,
        config,
        own=lambda name: any(name == part or name.startswith(f"{part}.") for part in stack.after),
        empty=lambda name: name.startswith(fresh),
    )
    own_stack: Any = mini.get_submodule(stack.path)
    _initialise(mini, stack.path, own_stack[num_layers:], stack.modules[num_layers : num_layers + new_layers], seed)
    check_same_states(model, stack.modules, mini, own_stack, num_layers)
    write_record(mini, record)
    return mini


def _warn_without_head(model: PreTrainedModel) -> None:
    """Warn if a model cannot be trained on text."""
    try:
        choose_objective(model)
    except UnsupportedModelError:
        warnings.warn(
            f"A {type(model).__name__} has no head that writes tokens, so its mini-model cannot be trained on text. "
            "Load the model with AutoModelForMaskedLM or AutoModelForCausalLM.",
            VocabExtendWarning,
            stacklevel=3,
        )


def _check_counts(stack: LayerStack, num_layers: int, new_layers: int, seed: int) -> None:
    """Raise unless the numbers of layers fit a model."""
    for name, value, least in (("num_layers", num_layers, 1), ("new_layers", new_layers, 0), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidOptionError(f"{name} is {value!r}. Give a whole number of at least {least}.")
    if num_layers + new_layers > stack.n_layers:
        raise InvalidOptionError(
            f"num_layers={num_layers} and new_layers={new_layers} make {num_layers + new_layers} layers, and the "
            f"model has {stack.n_layers}. Give at most {stack.n_layers} together: a mini-model is no deeper than its "
            "model."
        )


def _check_config(name: str, config: PretrainedConfig) -> None:
    """Raise if a config with another number of layers would not be read back as it is.

    Raises:
        UnsupportedModelError: If so: another field states the layers once more, in a form of its own.
    """
    fields = config.to_dict()
    try:
        again = type(config).from_dict(copy.deepcopy(fields)).to_dict()
        different = sorted(key for key in {*fields, *again} if fields.get(key) != again.get(key))
        reason = f"{', '.join(different)} would change" if different else ""
    except Exception as error:  # config classes check themselves in their own ways
        reason = str(error)
    if reason:
        raise UnsupportedModelError(
            f"The config of {name} states its layers in more than one way, so one with fewer layers is not read back "
            f"as it is saved ({reason}). Take a model of another class."
        )


def _initialise(mini: PreTrainedModel, path: str, layers: nn.ModuleList, places: nn.ModuleList, seed: int) -> None:
    """Give new layers the values with which the model's class begins, the same on every device.

    Args:
        mini: The mini-model.
        path: Name of the list of its layers.
        layers: The new ones.
        places: The full model's layers in their places, to whose devices they go.
        seed: Seed of the values.

    Raises:
        UnsupportedModelError: If the class leaves a parameter without a value.
    """
    owner = mini
    for end in [index for index, char in enumerate(path) if char == "."]:
        part = mini.get_submodule(path[:end])
        owner = part if isinstance(part, PreTrainedModel) else owner
    with torch.no_grad(), random_state_kept(seed):
        for parameter in layers.parameters():
            parameter.fill_(torch.nan)
        layers.apply(owner._init_weights)
    left = [name for name, parameter in layers.named_parameters() if parameter.isnan().any()]
    if left:
        raise UnsupportedModelError(
            f"{type(mini).__name__} does not say how {', '.join(left[:3])} of a new layer begins ({len(left)} of its "
            "parameters). Use new_layers=0, or a model of a class whose _init_weights covers its layers."
        )
    for layer, place in zip(layers, places, strict=True):
        for name, parameter in layer.named_parameters():
            parameter.data = parameter.data.to(place.get_parameter(name).device)


def check_same_states(
    model: PreTrainedModel,
    layers: nn.ModuleList,
    mini: PreTrainedModel,
    mini_layers: nn.ModuleList,
    n_layers: int,
) -> None:
    """Raise unless two models give the same states after each of their first layers, bit by bit, on a few tokens.

    Args:
        model: The full model.
        layers: Its layers.
        mini: The mini-model.
        mini_layers: Its layers.
        n_layers: How many of them are to agree.

    Raises:
        UnsupportedModelError: If they do not: what a bottom layer gives depends on more than the layers below it.
    """
    seen = []
    for each, its_layers in ((model, layers), (mini, mini_layers)):
        with evaluating(each), own_type(each), watching(its_layers) as states:
            each(**probe_inputs(each))
        seen.append(dict(states))
    for index in range(n_layers):
        full, cut = seen[0][index], seen[1][index]
        if not torch.equal(full, cut):
            worst = (full.float() - cut.float()).abs().max().item()
            raise UnsupportedModelError(
                f"After layer {index + 1} of {n_layers} the states of the cut {type(model).__name__} differ from the "
                f"full model's by up to {worst:.3g}: its layers depend on how many there are, or read more than the "
                "layer below. Take a model whose layers run one on the other."
            )


__all__ = ["build_mini_model", "check_same_states"]
