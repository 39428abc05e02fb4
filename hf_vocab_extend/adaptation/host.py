"""The Trainer around a callback: callbacks are not given it, nor told when training ends by an exception."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

_LOOPS = ("_run_epoch", "training_step")
"""Methods of the Trainer through which an exception of the training loop passes, the widest first."""


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
    """Calls a function when the training loop of a Trainer ends by an exception, an interrupt included."""

    def __init__(self, trainer: Any | None, undo: Callable[[], None]) -> None:
        """Watch a Trainer whose training has begun; without one nothing is watched."""
        self._trainer = trainer
        self._name = next((name for name in _LOOPS if hasattr(trainer, name)), None)
        if trainer is None or self._name is None:
            return
        run = getattr(trainer, self._name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return run(*args, **kwargs)
            except BaseException:
                undo()
                raise

        vars(trainer)[self._name] = watched

    def release(self) -> None:
        """Stop watching."""
        if self._trainer is not None and self._name is not None:
            vars(self._trainer).pop(self._name, None)
        self._trainer = None


__all__ = ["Guard", "running_trainer"]
