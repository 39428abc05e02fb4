"""Options that a caller gives one by one, and those that make no sense where little trains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import InvalidOptionError
from ..option_checks import check_names

if TYPE_CHECKING:
    from ..training_options import TrainingOptions

Options = TypeVar("Options")


def changed_options(options: Options, changes: dict[str, Any], caller: str) -> Options:
    """Return options of which some are others.

    Args:
        options: A dataclass.
        changes: Field to value.
        caller: Name of the function that was called, for the message.

    Raises:
        InvalidOptionError: If there is no such option, or a value is out of range or of a wrong type.
    """
    kind: Any = type(options)
    check_names(kind, changes, caller)
    try:
        return replace(options, **changes)  # type: ignore[type-var]
    except TypeError as error:
        raise InvalidOptionError(
            f"An option of {caller} has a value of the wrong type ({error}). See {kind.__name__}."
        ) from error


def changed_training(options: TrainingOptions, changes: dict[str, Any], caller: str, trains: str) -> TrainingOptions:
    """Return how a part of a model is trained, without files that no one asked for.

    Args:
        options: How to train.
        changes: Options that differ.
        caller: As for :func:`changed_options`.
        trains: What trains, for the message.

    Raises:
        InvalidOptionError: As :func:`changed_options`, or if an option would let something else train.
    """
    chosen = changed_options(options, changes, caller)
    for name in ("stages", "lora"):
        if getattr(chosen, name) is not None:
            raise InvalidOptionError(
                f"{name} is {getattr(chosen, name)!r}, and {caller} trains {trains} only. Leave it out, or call "
                "train_language_model."
            )
    if not chosen.evaluations:
        chosen = replace(chosen, training_arguments={"save_strategy": "no", **chosen.training_arguments})
    return chosen


__all__ = ["changed_options", "changed_training"]
