"""Writes that can be taken back: a failure in the middle leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

_MISSING = object()


class Journal:
    """Context manager around writes to live objects; any exception inside undoes all of them in reverse order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Journal:
        """Start recording."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take everything back if an exception is on its way."""
        if kind is not None:
            self.undo()

    def undo(self) -> None:
        """Take back every write, the last one first."""
        while self._undo:
            self._undo.pop()()

    def set_data(self, tensor: torch.Tensor, data: torch.Tensor) -> None:
        """Put other data into an existing Parameter or buffer; a gradient of the old shape is dropped."""
        before, gradient = tensor.data, tensor.grad

        def restore() -> None:
            tensor.grad = None
            tensor.data = before
            tensor.grad = gradient

        self._undo.append(restore)
        tensor.grad = None
        tensor.data = data

    def set_attribute(self, owner: Any, name: str, value: Any) -> None:
        """Set an attribute; one that did not exist before is deleted again by :meth:`undo`."""
        before = getattr(owner, name, _MISSING)
        if before is _MISSING:
            self._undo.append(lambda: delattr(owner, name))
        else:
            self._undo.append(lambda: setattr(owner, name, before))
        setattr(owner, name, value)

    def delete_attribute(self, owner: Any, name: str) -> None:
        """Delete an attribute that exists."""
        before = getattr(owner, name)
        self._undo.append(lambda: setattr(owner, name, before))
        delattr(owner, name)
