"""A model with some parts exchanged, for one forward pass: neither the model nor its values are touched.

A view is made of shallow copies of the modules on the way to the exchanged parts. All others, and all parameters, are
the model's own. As nothing is written to the model, an error, a second thread or a nested call leaves no trace.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from .layers import layer_states

Part = nn.Module | nn.Parameter


def view_with(model: PreTrainedModel, parts: Mapping[str, Part]) -> PreTrainedModel:
    """Return a model of the same class in which the parts of some names are others.

    Args:
        model: The model; it stays as it is.
        parts: Module or parameter by the dotted name of what it stands for.
    """
    copies: dict[str, nn.Module] = {"": _shallow(model)}
    for name, part in parts.items():
        path, _, attribute = name.rpartition(".")
        owner = _copy_at(copies, path)
        held: dict[str, Any] = owner._parameters if isinstance(part, nn.Parameter) else owner._modules
        held[attribute] = part
    return cast(PreTrainedModel, copies[""])


def _copy_at(copies: dict[str, nn.Module], path: str) -> nn.Module:
    """Return the copy of the module at a path, made where there is none yet."""
    if path not in copies:
        above, _, attribute = path.rpartition(".")
        owner = _copy_at(copies, above)
        made = _shallow(owner.get_submodule(attribute))
        owner._modules[attribute] = copies[path] = made
    return copies[path]


def _shallow(module: nn.Module) -> nn.Module:
    """Return a module with the same parts, which can be given others."""
    made = module.__new__(type(module))
    vars(made).update(vars(module))
    vars(made).update(_modules=dict(module._modules), _parameters=dict(module._parameters))
    forward: Any = vars(module).get("forward")  # a Trainer with bf16 leaves one there, bound to its model
    if getattr(forward, "__self__", None) is module:
        vars(made)["forward"] = MethodType(forward.__func__, made)
    return made


def part_at(model: nn.Module, name: str) -> Part:
    """Return a module or a parameter by its dotted name."""
    path, _, attribute = name.rpartition(".")
    return cast(Part, getattr(model.get_submodule(path), attribute))


def copies_of(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """Return copies of some parts of a model, each under the name that it has there."""
    root = nn.Module()
    for name in names:
        path, _, attribute = name.rpartition(".")
        owner = root
        for step in path.split(".") if path else ():
            if step not in owner._modules:
                owner.add_module(step, nn.Module())
            owner = owner.get_submodule(step)
        part = copy.deepcopy(part_at(model, name))
        if isinstance(part, nn.Parameter):
            owner.register_parameter(attribute, part)
        else:
            owner.add_module(attribute, part)
    return root


class _InPlaceOf(nn.Module):
    """Stands in a list for one of its layers, whose other attributes it has."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer if there is none of its own."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class Observed(_InPlaceOf):
    """Runs a layer, keeps what it gives, and hands on the states of some positions only.

    Attributes:
        given: What the layer gave last.
    """

    def __init__(self, layer: nn.Module, places: torch.Tensor | None = None) -> None:
        """Take a layer.

        Args:
            layer: The layer.
            places: Which positions go on, a mask `(batch, length)`; None for all, unchanged.
        """
        super().__init__(layer)
        self.given: Any = None
        self._places = places

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer."""
        self.given = self.layer(*args, **kwargs)
        return at_places(self.given, self._places)


class Replayed(_InPlaceOf):
    """Gives what another layer gave, instead of running."""

    def __init__(self, layer: nn.Module, given: Any) -> None:
        """Take the layer for which it stands, and what to give."""
        super().__init__(layer)
        self._given = given

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Ignore the input."""
        return self._given


def at_places(given: Any, places: torch.Tensor | None) -> Any:
    """Return what a layer gives with the states of some positions only, as one row `(1, n, width)`."""
    if places is None:
        return given
    states = layer_states(given)
    chosen = states[places.to(states.device)].unsqueeze(0)
    return (chosen, *given[1:]) if isinstance(given, tuple | list) else chosen


__all__ = ["Observed", "Part", "Replayed", "at_places", "copies_of", "part_at", "view_with"]
