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


def shadow(target: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], None]:
    """Put a function in the place of a method of one object; what the user has put there himself comes back.

    Args:
        target: The object.
        name: Name of the method.
        make: Given the method as it is, returns the function.

    Returns:
        A function that undoes it.
    """
    own = {key: value for key, value in vars(target).items() if key == name}
    vars(target)[name] = make(getattr(target, name))

    def undo() -> None:
        vars(target).pop(name, None)
        vars(target).update(own)

    return undo


class Guard:
    """Calls a function when the training of a Trainer ends by an exception, an interrupt included."""

    def __init__(self, trainer: Any | None, undo: Callable[[], None]) -> None:
        """Watch a Trainer whose training has begun; without one nothing is watched."""
        found = (next((name for name in names if hasattr(trainer, name)), None) for names in _STEPS)
        names = [name for name in found if name is not None]
        self._undo = [shadow(trainer, name, lambda method: _watched(method, undo)) for name in names]

    def release(self) -> None:
        """Stop watching."""
        while self._undo:
            self._undo.pop()()


def _watched(run: Callable[..., Any], undo: Callable[[], None]) -> Callable[..., Any]:
    """Return a function that calls another one, and ``undo`` if that raises."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except BaseException:
            undo()
            raise

    return watched


__all__ = ["Guard", "running_trainer", "shadow"]
