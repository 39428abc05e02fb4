"""The Trainer around a callback: callbacks are not given it, nor told when training ends by an exception."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_STEPS = (("_run_epoch", "training_step"), ("_evaluate",), ("_finalize_training",))
"""Methods of the Trainer that run between the events of a training; of each group, the first that there is."""


def running_trainer() -> Any | None:
    """Return the Trainer that is calling, None if none is.

    transformers gives callbacks everything but the Trainer, so it is looked up among the callers.
    """
    frame = inspect.currentframe()
    while frame is not None:
        found = frame.f_locals.get("self")
        if hasattr(found, "callback_handler") and hasattr(found, "training_step"):
            return found
        frame = frame.f_back
    return None


class Guard:
    """Calls a function when the training of a Trainer ends by an exception, an interrupt included."""

    def __init__(self, trainer: Any | None, undo: Callable[[], None]) -> None:
        """Watch a Trainer whose training has begun; without one nothing is watched."""
        self._trainer = trainer
        found = (next((name for name in names if hasattr(trainer, name)), None) for names in _STEPS)
        self._names = [name for name in found if name is not None]
        for name in self._names:
            vars(trainer)[name] = _watched(getattr(trainer, name), undo)

    def release(self) -> None:
        """Stop watching."""
        for name in self._names:
            vars(self._trainer).pop(name, None)
        self._names = []


def _watched(run: Callable[..., Any], undo: Callable[[], None]) -> Callable[..., Any]:
    """Return a function that calls another one, and ``undo`` if that raises."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except BaseException:
            undo()
            raise

    return watched


__all__ = ["Guard", "running_trainer"]
