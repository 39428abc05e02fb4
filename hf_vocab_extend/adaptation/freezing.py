"""Hold rows of a table bitwise while its other rows train, whatever the optimizer does.

A row is not frozen by a zero gradient: weight decay shrinks it all the same, momentum moves it on, and the softmax
pulls the head rows of tokens that never occur. So a row is held twice. Its gradient is zeroed as soon as it is
accumulated, before clipping and before processes exchange gradients: the norm is that of what trains, and the
optimizer's moments of the row stay zero. After each step the row is written back from a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..errors import InvalidOptionError, VerificationError
from .shards import global_rows, local_tensor

_MAX_RUNS = 16
_BIT_TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Entry = tuple[nn.Parameter, torch.Tensor, int]
"""A parameter, the ids of its trainable rows `(n,)` and the axis that counts rows."""


@dataclass(frozen=True)
class _Rows:
    """Some rows of an axis: a few runs of neighbours, else single positions."""

    axis: int
    runs: tuple[tuple[int, int], ...]
    positions: torch.Tensor | None
    count: int

    @classmethod
    def of(cls, chosen: torch.Tensor, axis: int) -> _Rows:
        """Describe the rows where a mask `(n_local_rows,)` is true, on the mask's device."""
        count = int(chosen.sum())
        padded = torch.nn.functional.pad(chosen.to(torch.int8), (1, 1))
        edges = padded.diff().nonzero().flatten().tolist()
        runs = tuple((start, stop - start) for start, stop in zip(edges[::2], edges[1::2], strict=True))
        if len(runs) <= _MAX_RUNS:
            return cls(axis, runs, None, count)
        return cls(axis, (), chosen.nonzero().flatten(), count)

    def parts(self, tensor: torch.Tensor) -> Iterator[torch.Tensor]:
        """Give the runs of a local tensor as views; nothing for single positions."""
        return (tensor.narrow(self.axis, start, length) for start, length in self.runs)

    def copy(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Copy the rows out, one tensor for each run or one for all positions."""
        if self.positions is not None:
            return [tensor.index_select(self.axis, self.positions)]
        return [part.clone(memory_format=torch.contiguous_format) for part in self.parts(tensor)]

    def write(self, tensor: torch.Tensor, saved: list[torch.Tensor]) -> None:
        """Write copied rows back in place."""
        if self.positions is not None:
            tensor.index_copy_(self.axis, self.positions, saved[0])
            return
        for part, values in zip(self.parts(tensor), saved, strict=True):
            part.copy_(values)

    def zero(self, tensor: torch.Tensor) -> None:
        """Set the rows to zero in place."""
        if self.positions is not None:
            tensor.index_fill_(self.axis, self.positions, 0)
            return
        for part in self.parts(tensor):
            part.zero_()


@dataclass(eq=False)
class _Held:
    """One parameter of which rows are held on this process."""

    name: str
    parameter: nn.Parameter
    rows: _Rows
    saved: list[torch.Tensor]

    def zero_gradient(self, parameter: torch.Tensor) -> None:
        """Zero the gradient of the frozen rows, in place: what was accumulated belongs to the parameter alone."""
        gradient = parameter.grad
        if gradient is not None and not gradient.is_sparse:
            self.rows.zero(local_tensor(gradient))

    def moved(self) -> int:
        """Count the rows of this process whose bits are no longer those of the copy."""
        total = 0
        for now, then in zip(self.rows.copy(local_tensor(self.parameter)), self.saved, strict=True):
            differs = _bits(now) != _bits(then)
            total += int(differs.movedim(self.rows.axis, 0).flatten(1).any(1).sum()) if differs.numel() else 0
        return total


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Read a tensor as integers, so that NaN equals itself and -0.0 differs from 0.0; at least two axes."""
    bits = tensor.view(_BIT_TYPES[tensor.element_size()])
    return bits.unsqueeze(-1) if bits.ndim == 1 else bits


class RowKeeper:
    """Keep the rows of parameters that do not train bitwise as they are.

    Plain parameters (also under ``DistributedDataParallel``) and the sharded or replicated ``DTensor`` parameters of
    FSDP2 are held; each process keeps a copy of the frozen rows that it stores itself. A parameter that
    is given under several names (a tied head) is held once. A parameter without ``requires_grad`` has no gradient,
    optimizers pass it over, and it costs nothing.

    The optimizer's state is not touched. Where decay is added to the gradient (SGD, Adam) it gathers in the moments of
    frozen rows: clear the state of the parameter when other rows of it begin to train, as the stages do.

    Args:
        entries: Name to parameter, ids of the rows that train `(n,)` and the axis that counts rows. The parameter
            is the live one, after the launcher has wrapped the model.

    Raises:
        UnsupportedModelError: If a parameter is flattened (FSDP1), a placeholder (DeepSpeed ZeRO-3), partly summed
            or sharded in a way in which rows cannot be told; the message names the remedy.
        InvalidOptionError: If ids or the axis lie outside a parameter, or if one parameter is given twice with
            different rows.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries: dict[str, tuple[nn.Parameter, _Rows]] = {}
        seen: dict[int, tuple[str, torch.Tensor, int]] = {}
        for name, (parameter, trainable, axis) in entries.items():
            trainable = trainable.detach().flatten().to("cpu", torch.long)
            if id(parameter) in seen:
                first, ids, first_axis = seen[id(parameter)]
                if axis != first_axis or not torch.equal(ids.unique(), trainable.unique()):
                    raise InvalidOptionError(
                        f"'{first}' and '{name}' are one parameter, but different rows of it are to train. "
                        "Give the same rows for both names."
                    )
                continue
            seen[id(parameter)] = (name, trainable, axis)
            self._entries[name] = (parameter, _frozen_rows(name, parameter, trainable, axis))
        self._held: list[_Held] = []
        self._hooks: list[RemovableHandle] = []

    @property
    def held_bytes(self) -> int:
        """Bytes of the copies on this process, 0 while nothing is held."""
        return sum(part.nbytes for held in self._held for part in held.saved)

    @property
    def n_frozen(self) -> dict[str, int]:
        """Number of frozen rows of each parameter on this process."""
        return {name: rows.count for name, (_, rows) in self._entries.items()}

    @torch.no_grad()
    def hold(self) -> None:
        """Copy the frozen rows and zero their gradients from now on.

        A later call takes the rows as they are then. Parameters without ``requires_grad`` are left out.
        """
        self.release()
        for name, (parameter, rows) in self._entries.items():
            if not parameter.requires_grad or not rows.count:
                continue
            held = _Held(name, parameter, rows, rows.copy(local_tensor(parameter)))
            self._held.append(held)
            # Runs inside the accumulation: before DDP takes the gradient, and after FSDP2 has scattered it.
            self._hooks.append(parameter.register_post_accumulate_grad_hook(held.zero_gradient))
            held.zero_gradient(parameter)

    @torch.no_grad()
    def restore(self) -> None:
        """Write the frozen rows back; call it after each step of the optimizer."""
        for held in self._held:
            held.rows.write(local_tensor(held.parameter), held.saved)

    @torch.no_grad()
    def check(self) -> None:
        """Compare the frozen rows of this process with their copies, bit by bit.

        Raises:
            VerificationError: If a row differs; the message names the parameters and the number of rows.
        """
        moved = {held.name: count for held in self._held if (count := held.moved())}
        if moved:
            told = ", ".join(f"{count} of {name}" for name, count in moved.items())
            raise VerificationError(
                f"Frozen rows have moved: {told}. Something wrote to the table after restore(): call restore() after "
                "every optimizer step, and keep averaging and clipping of weights off these tables."
            )

    def release(self) -> None:
        """Let the rows go: no gradient is touched any more and the copies are freed."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._held.clear()


def _frozen_rows(name: str, parameter: nn.Parameter, trainable: torch.Tensor, axis: int) -> _Rows:
    """Return the frozen rows that this process stores, in its own counting."""
    if not 0 <= axis < parameter.ndim:
        raise InvalidOptionError(f"'{name}' has {parameter.ndim} axes: axis {axis} cannot count its rows.")
    rows = global_rows(name, parameter, axis)
    n_rows = parameter.shape[axis]
    if trainable.numel() and not 0 <= int(trainable.min()) <= int(trainable.max()) < n_rows:
        raise InvalidOptionError(
            f"'{name}' has {n_rows} rows, but rows {int(trainable.min())} to {int(trainable.max())} are to train. "
            "Pass the extension that belongs to this model."
        )
    frozen = torch.ones(n_rows, dtype=torch.bool)
    frozen[trainable] = False
    return _Rows.of(frozen[rows.start : rows.stop].to(local_tensor(parameter).device), axis)


__all__ = ["Entry", "RowKeeper"]
