"""New rows of a model's tables as one small parameter each, put in their places while the model computes.

The tables themselves stay as they are until :meth:`CompactRows.write`: what is trained, its gradient and its moments
have the size of the new rows, and a run that is broken off leaves the model as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ...errors import InvalidTableError, UnsupportedModelError
from ...evaluation.scoring import evaluation_mode
from ...surgery.sites import Site, find_sites


class CompactRows:
    """Trainable copies of rows of the input table, and of the head where it has a table of its own.

    Attributes:
        ids: Their ids, ascending, int64, shape `(n,)`.
        input: Rows of the input table, float32, shape `(n, width)`.
        head: Rows of an untied head, float32, shape `(n, width)`; None where the head shares the input table, where
            there is none, or where it is not trained.
    """

    def __init__(self, model: PreTrainedModel, ids: torch.Tensor, *, with_head: bool = False) -> None:
        """Copy the rows; nothing of the model is changed.

        Args:
            model: The model.
            ids: Ids of the rows, ascending, shape `(n,)`.
            with_head: Whether the head takes part: its rows too, or if it is tied, the same rows.

        Raises:
            UnsupportedModelError: If a table is quantised, sharded, or of a kind that is not known.
            InvalidTableError: If a row is not finite.
        """
        sites = find_sites(model, int(ids[-1]) + 1)
        self.model, self._input_site = model, sites.input
        self._active = True
        self._places: torch.Tensor | None = None
        self._head_site = sites.head if with_head else None
        self.tied = self._head_site is not None and self._head_site is self._input_site
        device = sites.input.tensor.device
        self.ids = ids.to(device)
        self._slots = torch.full((sites.n_rows,), -1, dtype=torch.int64, device=device)
        self._slots[self.ids] = torch.arange(len(ids), device=device)
        self.input = self._copy(sites.input)
        own_head = self._head_site is not None and not self.tied
        self.head = self._copy(self._head_site) if own_head and self._head_site is not None else None

    def _copy(self, site: Site) -> nn.Parameter:
        """Return the rows of one table as a parameter."""
        if site.axis != 0 or site.tensor.ndim != 2:
            raise UnsupportedModelError(f"The rows of '{site.name}' cannot be trained apart: its layout is unusual.")
        rows = site.tensor.detach()[self.ids].float()
        if not torch.isfinite(rows).all():
            raise InvalidTableError(f"'{site.name}' holds new rows that are not finite. Extend the model anew.")
        return nn.Parameter(rows.clone())

    @property
    def has_head(self) -> bool:
        """Whether the head takes part."""
        return self._head_site is not None

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""
        return [self.input] if self.head is None else [self.input, self.head]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the model compute with these rows, without dropout, and with gradients for nothing else."""
        flags = [(parameter, parameter.requires_grad) for parameter in self.model.parameters()]
        hooks = []
        try:
            self.model.requires_grad_(False)
            for module in {id(alias.module): alias.module for alias in self._input_site.aliases}.values():
                if isinstance(module, nn.Embedding):
                    hooks.append(module.register_forward_hook(self._embed, with_kwargs=True))
            if self._head_site is not None:
                head: Any = self.model.get_output_embeddings()
                hooks.append(head.register_forward_pre_hook(self._select))
                hooks.append(head.register_forward_hook(self._score))
            with evaluation_mode(self.model):
                yield
        finally:
            for hook in hooks:
                hook.remove()
            for parameter, wanted in flags:
                parameter.requires_grad_(wanted)

    @contextmanager
    def out_of_place(self) -> Iterator[None]:
        """Let the model compute with its own tables for a while, as the teacher of itself."""
        self._active = False
        try:
            yield
        finally:
            self._active = True

    @contextmanager
    def logits_at(self, places: torch.Tensor) -> Iterator[None]:
        """Let the head compute logits at some places only, shape `(1, n_places, V)`; the table can be large.

        Args:
            places: Bool, shape `(batch, length)`.
        """
        self._places = places
        try:
            yield
        finally:
            self._places = None

    def _select(self, module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Leave the states at the places where logits are wanted."""
        return args if self._places is None else (args[0][self._places][None], *args[1:])

    def _embed(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> torch.Tensor:
        """Put embeddings of new ids in the places of those that the table gave."""
        slots = self._slots[args[0] if args else kwargs["input"]]
        new = slots >= 0
        if not self._active or not new.any():
            return output
        values = _with_weight(module, self.input)(slots[new])
        return output.masked_scatter(new.unsqueeze(-1), values.to(output.dtype))

    def _score(self, module: Any, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """Put logits of new ids in the places of those that the head gave."""
        rows = self.input if self.head is None else self.head
        bias = getattr(module, "bias", None)
        states = args[0]
        if "projection" in module._parameters:  # a factorised head
            states = functional.linear(states, module.projection)
        values = functional.linear(states.to(rows.dtype), rows)
        if bias is not None:
            values = values + bias[self.ids]
        return output.index_copy(-1, self.ids, values.to(output.dtype))

    @torch.no_grad()
    def moved(self) -> torch.Tensor:
        """Return which rows differ from those of the tables, in the tables' own precision, bool, shape `(n,)`."""
        changed = torch.zeros(len(self.ids), dtype=torch.bool, device=self.ids.device)
        for rows, site in ((self.input, self._input_site), (self.head, self._head_site)):
            if rows is not None and site is not None:
                changed |= (rows.to(site.tensor.dtype) != site.tensor[self.ids]).any(1)
        return changed

    @torch.no_grad()
    def write(self) -> None:
        """Write the rows into the model's tables.

        Raises:
            InvalidTableError: If a row is not finite. Nothing is written then.
        """
        for rows in self.parameters():
            if not torch.isfinite(rows).all():
                raise InvalidTableError("Distilled rows are not finite. Lower learning_rate; the model is as it was.")
        self._input_site.tensor.data[self.ids] = self.input.detach().to(self._input_site.tensor.dtype)
        if self.head is not None and self._head_site is not None:
            self._head_site.tensor.data[self.ids] = self.head.detach().to(self._head_site.tensor.dtype)


def _with_weight(module: nn.Embedding, rows: nn.Parameter) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the module with other rows: a shallow copy, so that what its class does (scales, products) is kept."""
    twin = copy.copy(module)
    twin._parameters = {**module._parameters, "weight": rows}
    twin._forward_hooks, twin._forward_hooks_with_kwargs = type(module._forward_hooks)(), {}
    twin.padding_idx, twin.num_embeddings = None, len(rows)
    return twin.forward


__all__ = ["CompactRows"]
