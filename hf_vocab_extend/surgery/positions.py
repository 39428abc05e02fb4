"""Position embeddings that count from the padding id, as in RoBERTa: they must follow when that id moves.

RoBERTa gives the first token position ``padding_idx + 1``. A tokenizer whose padding id is another one would read
positions from the wrong rows, or from beyond the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError
from .config_tree import all_configs
from .journal import Journal
from .registry import PADDING_IS_FIXED
from .sites import Sites
from .token_ids import IdMap

_MAX_SHIFT = 1024


@dataclass(frozen=True, eq=False)
class PositionShift:
    """New position tables for a padding id that moves.

    Attributes:
        old_pad: Padding id before.
        new_pad: Padding id after.
        tables: Position embeddings and their new weights, shape `(n_positions, width)`.
    """

    old_pad: int
    new_pad: int
    tables: tuple[tuple[nn.Embedding, torch.Tensor], ...]


def plan_position_shift(model: PreTrainedModel, sites: Sites, ids: IdMap) -> PositionShift | None:
    """Find position embeddings that count from the padding id, and compute where they go.

    Raises:
        UnsupportedModelError: If they cannot follow: computed positions, or a padding id that is far away or gone.
    """
    token_modules = {id(alias.module) for site in sites for alias in site.aliases}
    found = [
        (name, module)
        for name, module in model.named_modules()
        if "position" in f"{name} {type(module).__name__}".lower()
        and id(module) not in token_modules
        and isinstance(getattr(module, "padding_idx", None), int)
    ]
    if ids.is_identity or not found:
        return None
    old_pad = found[0][1].padding_idx
    new_pad = ids.find(old_pad, role="pad")
    if new_pad == old_pad:
        return None
    computed = [name for name, module in found if type(module) is not nn.Embedding]
    if computed or model.config.model_type in PADDING_IS_FIXED or new_pad is None or new_pad > _MAX_SHIFT:
        raise UnsupportedModelError(
            f"The positions of {type(model).__name__} count from the padding id {old_pad} ({found[0][0]}), which "
            f"{'has no match in' if new_pad is None else f'would become {new_pad} with'} the new tokenizer. Give the "
            f"new tokenizer its padding token at id {old_pad}, or use mode='extend'."
        )
    tables = tuple((module, _shifted(module.weight.detach(), old_pad, new_pad)) for _, module in found)
    return PositionShift(old_pad, new_pad, tables)


def _shifted(table: torch.Tensor, old_pad: int, new_pad: int) -> torch.Tensor:
    """Move the rows after the padding row so that they follow the new padding id; rows up to it repeat the old one."""
    head = table[old_pad : old_pad + 1].expand(new_pad + 1, -1)
    return torch.cat([head, table[old_pad + 1 :]])


def write_position_shift(model: PreTrainedModel, shift: PositionShift, journal: Journal) -> None:
    """Write shifted position tables, their sizes and ``max_position_embeddings``."""
    moved = shift.new_pad - shift.old_pad
    for module, table in shift.tables:
        before = module.num_embeddings
        journal.set_data(module.weight, table)
        journal.set_attribute(module, "num_embeddings", table.shape[0])
        journal.set_attribute(module, "padding_idx", shift.new_pad)
        _write_buffers(model, module, before, table.shape[0], journal)
        for _, config in all_configs(model):
            if getattr(config, "max_position_embeddings", None) == before:
                journal.set_attribute(config, "max_position_embeddings", before + moved)


def _write_buffers(model: PreTrainedModel, table: nn.Embedding, before: int, after: int, journal: Journal) -> None:
    """Lengthen the ``position_ids`` and ``token_type_ids`` that stand beside a position table."""
    parents = [module for module in model.modules() if any(child is table for child in module.children())]
    for parent in parents:
        for name, buffer in parent.named_buffers(recurse=False):
            if name == "position_ids" and buffer.shape[-1] == before:
                journal.set_data(buffer, torch.arange(after, device=buffer.device).expand(1, -1))
            elif name == "token_type_ids" and buffer.shape[-1] == before:
                journal.set_data(buffer, buffer.new_zeros(1, after))
