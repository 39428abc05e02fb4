"""Options that a caller gave, and what was meant by those that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, TypeVar

from ..errors import InvalidOptionError

Options = TypeVar("Options")

SAME: dict[str, str] = {
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "warmup_ratio": "warmup",
    "max_seq_length": "block_size",
    "lr": "learning_rate",
}
"""Names that ``TrainingArguments`` and other tools have for options."""


def given_options(options: Options | None, default: Options, caller: str) -> Options:
    """Return the options of a call.

    Args:
        options: What was given; None for the default.
        default: Options of the right type.
        caller: Name of the function that was called, for the message.

    Raises:
        InvalidOptionError: If they are no such options.
    """
    kind = type(default)
    if options is None:
        return default
    if not isinstance(options, kind):
        raise InvalidOptionError(
            f"The options of {caller} are a {type(options).__name__}. Give {kind.__name__}, or keywords such as "
            "epochs=3; what TrainingArguments alone have goes into training_arguments={...}."
        )
    return options


def check_names(kind: Any, names: Iterable[str], caller: str) -> None:
    """Raise if there is no such option; the message says which one is near.

    Args:
        kind: A dataclass of options.
        names: Names of options.
        caller: Name of the function that was called, for the message.

    Raises:
        InvalidOptionError: It names them.
    """
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(names) - set(known))
    if not unknown:
        return
    near = {name: _nearest(name, known) for name in unknown}
    meant = ", ".join(f"{found} for {name}" for name, found in near.items() if found)
    remedy = f"Give {meant}; see {kind.__name__}." if meant else f"See {kind.__name__}."
    raise InvalidOptionError(f"{caller} has no such option: {', '.join(unknown)}. {remedy}")


def _nearest(name: str, known: list[str]) -> str | None:
    """Return the option that a name may stand for."""
    if SAME.get(name) in known:
        return SAME[name]
    return next(iter(get_close_matches(name, known, 1, 0.75)), None)


__all__ = ["check_names", "given_options"]
