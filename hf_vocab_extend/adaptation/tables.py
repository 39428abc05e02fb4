"""Which parameters of a model in training are tables of tokens, also factorised, tied or wrapped by peft."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import UnsupportedModelError
from ..modeling.factorized import is_factorized
from ..surgery.sites import scan_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INPUT_ROLES = frozenset({"input", "per_layer"})
HEAD_ROLES = frozenset({"head", "head_part", "bias", "logits_bias"})
_ADAPTER, _COPY = ".token_adapter.", ".modules_to_save."
"""Where peft puts a table of which it trains rows, and the trained copy of a whole one."""
_DELTA = ".trainable_tokens_delta."
"""Inside the first: the trained rows, which stand for those of the frozen table that lies beside them."""


@dataclass(frozen=True, eq=False)
class Table:
    """A parameter with an axis of tokens.

    Attributes:
        name: Its name, the first one of a tied parameter.
        parameter: The live parameter.
        axis: Which axis counts tokens.
        roles: Parts that it plays: of :data:`INPUT_ROLES` and :data:`HEAD_ROLES`.
        only_new: Whether it holds nothing but rows of trained tokens (peft's ``trainable_token_indices``).
        only_old: Whether another table has what the model uses for its new rows, so that its own are dead.
        projections: The second factors of a factorised table.
    """

    name: str
    parameter: nn.Parameter
    axis: int
    roles: frozenset[str]
    only_new: bool = False
    only_old: bool = False
    projections: tuple[nn.Parameter, ...] = ()

    @property
    def n_rows(self) -> int:
        """Number of rows; of a sharded one, in all processes together."""
        return self.parameter.shape[self.axis]

    def new_rows(self, new_ids: torch.Tensor) -> torch.Tensor:
        """Return which of its rows are new, of ids `(n_new,)`."""
        if self.only_old:
            return new_ids[:0]
        if self.only_new:
            return torch.arange(self.n_rows)
        return new_ids[new_ids < self.n_rows]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside the wrappers of ``torch.compile`` and of launchers."""
    while True:
        inner = getattr(model, "_orig_mod", None) or vars(model).get("_modules", {}).get("module")
        if not isinstance(inner, nn.Module) or hasattr(model, "config"):
            return model
        model = inner


def plain_model(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a model of peft or a wrapper.

    Raises:
        UnsupportedModelError: If there is none.
    """
    from transformers import PreTrainedModel

    found: Any = unwrapped(model)
    if hasattr(found, "get_base_model"):
        found = found.get_base_model()
    if not isinstance(found, PreTrainedModel):
        remedy = "Give the Trainer the transformers model itself."
        if hasattr(found, "using") and hasattr(found, "languages"):
            remedy = "Give the Trainer heads.model, with the language to train as the output language."
        raise UnsupportedModelError(f"A {type(found).__name__} has no tables that stages know. {remedy}")
    return found


def vocabulary_tables(model: nn.Module) -> tuple[Table, ...]:
    """Return every parameter of a model that has an axis of tokens, each once, input tables first.

    Args:
        model: A transformers model; also one of peft, or wrapped by a launcher.

    Raises:
        UnsupportedModelError: If the model is none, or a vocabulary-sized tensor is of unknown kind.
    """
    base = plain_model(model)
    wrapped = list(_peft_tables(unwrapped(model), base))
    if wrapped:
        return tuple(wrapped)
    tables = []
    for site in scan_sites(base):
        if not isinstance(site.tensor, nn.Parameter):
            continue
        modules = {id(alias.module): alias.module for alias in site.aliases if alias.attribute == "weight"}
        factors = [module.get_parameter("projection") for module in modules.values() if is_factorized(module)]
        projections = tuple({id(factor): factor for factor in factors}.values())
        tables.append(Table(site.name, site.tensor, site.axis, site.roles, projections=projections))
    return tuple(tables)


def _peft_tables(model: nn.Module, base: PreTrainedModel) -> Iterator[Table]:
    """Give what peft trains of the tables, if it has wrapped them."""
    if not hasattr(model, "get_base_model"):
        return
    places = {id(base.get_input_embeddings()): "input", id(base.get_output_embeddings()): "head"}
    found: dict[int, tuple[str, nn.Parameter, set[str]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        mark = next((mark for mark in (_ADAPTER, _COPY) if mark in name), None)
        if mark is None:
            continue
        role = places.get(id(model.get_submodule(name.partition(mark)[0])))
        if role is not None and "original" not in name:
            entry = found.setdefault(id(parameter), (name, parameter, set()))
            entry[2].add("bias" if name.endswith(".bias") else role)
    for name, parameter, roles in found.values():
        only_new = _DELTA in name
        yield Table(name, parameter, 0, frozenset(roles), only_new, only_old=_ADAPTER in name and not only_new)


__all__ = ["HEAD_ROLES", "INPUT_ROLES", "Table", "plain_model", "unwrapped", "vocabulary_tables"]
