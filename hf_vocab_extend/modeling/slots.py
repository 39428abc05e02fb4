"""The places of a model that hold a vocabulary, and the tensors that one language puts there.

A model has one vocabulary at a time: its tables, heads and biases hang in its own modules, under their own names. A
language is another set of tensors for the same places, so every architecture runs its own code on it, scaled
embeddings, tied heads and biases included.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError
from ..surgery.sites import Sites

Groups = tuple[tuple[str, ...], ...]
"""Names of slots that share one tensor, the name that it is saved under first."""


@dataclass(frozen=True, eq=False)
class Slot:
    """One name under which a vocabulary-sized tensor hangs in a model.

    Attributes:
        name: Dotted name in the model.
        role: Its part, as :mod:`~hf_vocab_extend.surgery.sites` names them.
        axis: Which axis of the tensor counts tokens.
        module: The module that holds it.
        attribute: Its name in that module.
    """

    name: str
    role: str
    axis: int
    module: nn.Module
    attribute: str

    @property
    def path(self) -> str:
        """Dotted name of the module."""
        return self.name.rpartition(".")[0]

    @property
    def tensor(self) -> torch.Tensor:
        """The tensor that hangs there now."""
        return getattr(self.module, self.attribute)

    @property
    def is_parameter(self) -> bool:
        """Whether the tensor is a Parameter, not a buffer."""
        return self.attribute in self.module._parameters

    def put(self, tensor: torch.Tensor) -> None:
        """Hang another tensor there."""
        setattr(self.module, self.attribute, tensor)


@dataclass(frozen=True, eq=False)
class Slots:
    """All slots of a model.

    Attributes:
        by_name: Slots by dotted name, the main input table first.
        main: Name of the main input table.
    """

    by_name: Mapping[str, Slot]
    main: str

    @classmethod
    def of(cls, sites: Sites) -> Slots:
        """Make slots of what :func:`~hf_vocab_extend.surgery.sites.find_sites` found."""
        found = {
            alias.name: Slot(alias.name, alias.role, site.axis, alias.module, alias.attribute)
            for site in sites
            for alias in site.aliases
        }
        return cls(found, sites.input.name)

    def __iter__(self) -> Iterator[Slot]:
        """Iterate over the slots."""
        return iter(self.by_name.values())

    @property
    def readers(self) -> list[Slot]:
        """The input tables, one slot for each module that is called with ids."""
        return list({id(slot.module): slot for slot in self if slot.role == "input"}.values())

    def check_mixable(self, model: nn.Module) -> None:
        """Raise if a model looks ids up in more than its input tables.

        Raises:
            UnsupportedModelError: It names the table.
        """
        found = next((slot for slot in self if slot.role == "per_layer"), None)
        if found is not None:
            raise UnsupportedModelError(
                f"{type(model).__name__} looks ids up in '{found.name}' beside its input table, and changes those "
                "that it does not know. Texts of one language work: set_language with the same input and output."
            )

    @property
    def has_head(self) -> bool:
        """Whether the model predicts tokens."""
        return any(slot.role in ("head", "head_part") for slot in self)

    def check_in_place(self, model: nn.Module) -> None:
        """Raise if a module that holds a vocabulary was replaced, as an adapter on it does.

        Raises:
            UnsupportedModelError: It names the module.
        """
        for slot in self:
            module: object = model
            for part in slot.path.split(".") if slot.path else ():
                module = getattr(module, part, None)
            if module is not slot.module:
                raise UnsupportedModelError(
                    f"'{slot.path}' was replaced by a {type(module).__name__} after the languages were made. Leave "
                    "tables and heads out of target_modules and modules_to_save: an adapter belongs on the body."
                )


class LanguageTensors(nn.Module):
    """The tensors of one language, one for each group of slots that share it."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], groups: Sequence[Sequence[str]]) -> None:
        """Take tensors as they are.

        Args:
            tensors: Parameter or buffer by the first name of its group.
            groups: Names of slots that share one tensor.
        """
        super().__init__()
        self.groups: Groups = tuple(tuple(group) for group in groups)
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(_key(name), tensor)
            else:
                self.register_buffer(_key(name), tensor)

    @classmethod
    def of(cls, sites: Sites) -> LanguageTensors:
        """Take the live tensors of a model."""
        groups = [tuple(alias.name for alias in site.aliases) for site in sites]
        return cls({site.aliases[0].name: site.tensor for site in sites}, groups)

    def like(self, slots: Slots) -> LanguageTensors:
        """Return new tensors of the slots' types and devices, trainable; storage is shared where nothing changes."""
        moved = {}
        for name, tensor in self.named().items():
            slot = slots.by_name[name]
            values = tensor.detach().to(device=slot.tensor.device, dtype=slot.tensor.dtype)
            moved[name] = nn.Parameter(values) if slot.is_parameter else values
        return LanguageTensors(moved, self.groups)

    def named(self) -> dict[str, torch.Tensor]:
        """Tensors by the first name of their group."""
        return {group[0]: getattr(self, _key(group[0])) for group in self.groups}

    def by_slot(self) -> dict[str, torch.Tensor]:
        """Tensors by the name of each slot."""
        named = self.named()
        return {name: named[group[0]] for group in self.groups for name in group}

    def n_rows(self, slots: Slots) -> int:
        """Rows of the main input table."""
        return self.by_slot()[slots.main].shape[slots.by_name[slots.main].axis]


def _key(name: str) -> str:
    """Return a name that a module may have: dots would nest."""
    return name.replace(".", "/")


def alias_clone(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model's modules and configs, but none of its numbers.

    Every tensor of the clone is an object of its own over the same storage: giving one other data, as
    ``extend_vocabulary`` does, leaves the model as it is. Writing into it in place does not.
    """
    memo: dict[int, object] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(tensor.data, tensor.requires_grad) if is_parameter else tensor.detach()
    return copy.deepcopy(model, memo)
