"""Where the layers of a model are, how its config counts them, and what runs after the last one.

All of it is measured: the list is the one that grows when the config counts one layer more, and what runs after the
last layer is what still receives a gradient when the states that the last layer gives are cut from the graph.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import UnsupportedModelError
from ...evaluation.scoring import evaluation_mode
from ...surgery.checks import check_model
from ...surgery.config_tree import main_config, walk
from ...surgery.probe import build_shapes
from ...surgery.token_ids import ID_FIELD
from ..tables import vocabulary_tables

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

COUNT = "num_hidden_layers"
"""What transformers calls the number of layers; ``attribute_map`` of a config says if the field has another name."""
_NOT_PER_LAYER = re.compile(r"^_|^architectures$|att_type|labels?$")
"""Lists of a config that are never one entry a layer, however long they are."""
_PROBE_SHAPE = (2, 8)


@dataclass(frozen=True, eq=False)
class LayerStack:
    """The layers of a model.

    Attributes:
        path: Dotted name of the list inside the model, for example ``bert.encoder.layer``.
        modules: The list itself.
        count_field: Field of the text config that counts them.
        after: Names of what is used after the last layer and holds parameters, none of them vocabulary-sized: modules,
            the largest that hold nothing else (a final norm, the transform of a masked model's head), and single
            parameters that hang beside others.
    """

    path: str
    modules: nn.ModuleList
    count_field: str
    after: tuple[str, ...]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.modules)


def find_layer_stack(model: PreTrainedModel) -> LayerStack:
    """Find the layers of a model; a few tokens are run through it, nothing is changed.

    Args:
        model: An encoder or a decoder, also one on the meta device.

    Raises:
        UnsupportedModelError: If its layers cannot be cut: an encoder and a decoder, one layer that is used many
            times (ALBERT), layers that share weights, layers that are no single list, or a quantised model.
    """
    check_model(model)
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{name} has two stacks of layers, an encoder's and a decoder's, and the decoder reads the encoder's top. "
            "A mini-model needs a model with one: an encoder (BERT, XLM-R) or a decoder (Llama, GPT-2)."
        )
    field = count_field(model.config)
    n_layers = getattr(main_config(model.config), field, None) if field else None
    if field is None or not isinstance(n_layers, int):
        raise UnsupportedModelError(
            f"The config of {name} states no number of layers ({COUNT}) that can be set, so a model with fewer of "
            "them cannot be described. Take a model whose config counts its layers in one field."
        )
    path = _find_list(model, field, n_layers)
    modules: Any = model.get_submodule(path)
    _check_own_weights(name, path, modules)
    return LayerStack(path, modules, field, _find_after(model, modules))


def count_field(config: PretrainedConfig) -> str | None:
    """Return the name of the field that counts layers in a model's text config, None if there is none."""
    text = main_config(config)
    field = text.attribute_map.get(COUNT, COUNT)
    return field if field in vars(text) else None


def set_layer_count(config: PretrainedConfig, n_layers: int) -> None:
    """Change in place how many layers a config counts, and cut or lengthen its lists of one entry a layer.

    A list that is too short repeats its last entry.

    Args:
        config: A model's own config, whose text config has a count.
        n_layers: The new number.
    """
    text, field = main_config(config), count_field(config)
    before = getattr(text, field or COUNT)
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == before and before and not _excluded(name):
            longer = [*value, *[value[-1]] * max(0, n_layers - before)]
            setattr(text, name, type(value)(longer[:n_layers]))
    setattr(text, field or COUNT, n_layers)


def _excluded(name: str) -> bool:
    """Whether a list of a config holds something else than one entry a layer."""
    return bool(ID_FIELD.search(name) or _NOT_PER_LAYER.search(name))


def _find_list(model: PreTrainedModel, field: str, n_layers: int) -> str:
    """Return the dotted name of the one list that grows with the count.

    Raises:
        UnsupportedModelError: If there is none or more than one.
    """
    name = type(model).__name__
    config = copy.deepcopy(model.config)
    set_layer_count(config, n_layers + 1)
    shapes = build_shapes(model, config)
    if shapes is None:
        raise UnsupportedModelError(
            f"{name} cannot be built from its config with {n_layers + 1} layers instead of {n_layers}, so it cannot "
            "be built with fewer. Take a model of a class whose config alone describes it."
        )
    lists = [path for path, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    found = [
        path
        for path in lists
        if _length(path, shapes) == n_layers + 1 and len(model.get_submodule(path)) == n_layers  # type: ignore[arg-type]
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UnsupportedModelError(
            f"The parts of the layers of {name} lie in {len(found)} lists ({', '.join(found)}), so a layer is no "
            "module that can be taken out. Take a model whose layers are one list."
        )
    own = {path for path, _ in model.named_parameters()}
    if own == set(shapes) & own and not any(_length(path, shapes) > len(model.get_submodule(path)) for path in lists):  # type: ignore[arg-type]
        raise UnsupportedModelError(
            f"{name} counts {n_layers} layers but holds the same weights with {n_layers + 1}: it uses one layer many "
            "times, as ALBERT does, so there is no bottom to take out. Take a model whose layers have weights of "
            "their own."
        )
    raise UnsupportedModelError(
        f"{name} keeps its {n_layers} layers in no list whose length follows {field}. Take a model whose layers are "
        "one list."
    )


def _length(path: str, names: Any) -> int:
    """Return how many entries of a list the names of tensors mention."""
    start = f"{path}."
    return len({name[len(start) :].partition(".")[0] for name in names if name.startswith(start)})


def _check_own_weights(name: str, path: str, modules: nn.ModuleList) -> None:
    """Raise if a parameter belongs to two layers."""
    owner: dict[int, int] = {}
    for index, layer in enumerate(modules):
        for parameter in layer.parameters():
            other = owner.setdefault(id(parameter), index)
            if other != index:
                raise UnsupportedModelError(
                    f"Layers {other} and {index} of {name} ('{path}') share weights, so the layers that would be cut "
                    "away are in use below. Take a model whose layers have their own weights."
                )


def probe_inputs(model: PreTrainedModel) -> dict[str, Any]:
    """Return a few ordinary tokens for a forward pass, the same at every call, ids of shape `(2, 8)`."""
    weight: Any = model.get_input_embeddings().weight
    special = {
        item
        for _, config in walk(model.config)
        for name, value in vars(config).items()
        if ID_FIELD.search(name)
        for item in (value if isinstance(value, list | tuple) else [value])
    }
    plain = [number for number in range(min(len(weight), 4096)) if number not in special] or [0]
    n_tokens = _PROBE_SHAPE[0] * _PROBE_SHAPE[1]
    ids = torch.tensor([plain[(7 * index + 3) % len(plain)] for index in range(n_tokens)], device="cpu")
    accepted = inspect.signature(model.forward).parameters
    has_data = weight.device.type != "meta"  # without a cache, decoders look for packed texts in the position ids
    options = {"use_cache": not has_data} if "use_cache" in accepted else {}
    return {"input_ids": ids.reshape(_PROBE_SHAPE).to(weight.device), **options}


def layer_states(output: Any) -> torch.Tensor:
    """Return the hidden states in what a layer gives."""
    return output[0] if isinstance(output, tuple | list) else output


@contextmanager
def watching(modules: nn.ModuleList) -> Iterator[list[tuple[int, torch.Tensor]]]:
    """Give a list that fills with the number of each layer that runs and the states that it gives."""
    seen: list[tuple[int, torch.Tensor]] = []

    def note(index: int) -> Any:
        return lambda module, args, output: seen.append((index, layer_states(output)))

    hooks = [layer.register_forward_hook(note(index)) for index, layer in enumerate(modules)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _find_after(model: PreTrainedModel, modules: nn.ModuleList) -> tuple[str, ...]:
    """Return the names of what is used after the last layer and is not vocabulary-sized.

    Raises:
        UnsupportedModelError: If the layers do not run once each, one after the other.
    """
    tables = vocabulary_tables(model)
    vocabulary = {id(item) for table in tables for item in (table.parameter, *table.projections)}
    body = {name: item for name, item in model.named_parameters() if id(item) not in vocabulary}
    wanted = {id(body[name]) for name in _used_after(model, modules, body)}
    names: list[str] = []
    for path, module in model.named_modules():
        inside = {id(parameter) for parameter in module.parameters()}
        if path and inside and inside <= wanted and not any(path.startswith(f"{above}.") for above in names):
            names.append(path)
    for path, parameter in model.named_parameters():
        if id(parameter) in wanted and not any(path.startswith(f"{above}.") for above in names):
            names.append(path)
    return tuple(names)


def _used_after(model: PreTrainedModel, modules: nn.ModuleList, body: dict[str, nn.Parameter]) -> set[str]:
    """Return the names of those of some parameters through which the states of the last layer reach the output."""
    inputs = probe_inputs(model)

    def cut(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return (output[0].detach(), *output[1:])
        return output.detach()

    leaves = {name: item.detach().requires_grad_() for name, item in body.items() if item.is_floating_point()}
    with torch.enable_grad(), evaluation_mode(model), watching(modules) as seen:
        hook = modules[-1].register_forward_hook(cut)
        try:
            output: Any = torch.func.functional_call(model, leaves, (), inputs)
        finally:
            hook.remove()
        result = output.logits if "logits" in output else output[0]
        wanted = list(leaves.values())
        connected = result.requires_grad
        gradients = torch.autograd.grad(result.sum(), wanted, allow_unused=True) if connected else [None] * len(wanted)
    order = [index for index, _ in seen]
    if order != list(range(len(modules))):
        raise UnsupportedModelError(
            f"The layers of {type(model).__name__} ran in the order {order}, not once each from the first to the "
            "last. Take a model whose layers run one after the other."
        )
    return {name for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}


__all__ = [
    "COUNT",
    "LayerStack",
    "count_field",
    "find_layer_stack",
    "layer_states",
    "probe_inputs",
    "set_layer_count",
    "watching",
]
