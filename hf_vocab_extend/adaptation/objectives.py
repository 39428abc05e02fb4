"""What a model is trained to predict, chosen by its class: the next token, masked words, or spans taken out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InvalidOptionError, UnsupportedModelError


@dataclass(frozen=True)
class Objective:
    """A way to train a language model on plain text.

    Attributes:
        name: Its short name.
        mappings: Names of the tables of transformers that list the model classes that it fits.
        encoder_decoder: Whether those have an encoder and a decoder.
    """

    name: str
    mappings: tuple[str, ...]
    encoder_decoder: bool


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective(
            "causal",
            ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"),
            encoder_decoder=False,
        ),
        Objective("masked", ("MODEL_FOR_MASKED_LM_MAPPING_NAMES",), encoder_decoder=False),
        Objective("span", ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",), encoder_decoder=True),
    )
}
"""By name; the first that fits a class is taken: some classes stand in two tables."""


def choose_objective(model: Any, objective: str = "auto") -> str:
    """Return the objective that a model's class is trained with.

    Args:
        model: The model, perhaps inside a ``PeftModel``.
        objective: A name of :data:`OBJECTIVES`, which is returned if the class can be trained so, or ``"auto"``.

    Raises:
        InvalidOptionError: If there is no such objective, or another kind of model is needed for it.
        UnsupportedModelError: If the class writes no text: it has no language modelling head.
    """
    if objective != "auto" and objective not in OBJECTIVES:
        raise InvalidOptionError(f"There is no objective '{objective}'. Take auto, {', '.join(OBJECTIVES)}.")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    fitting = _fitting(inner)
    if not fitting:
        raise UnsupportedModelError(
            f"A {type(inner).__name__} has no head that writes tokens, so there is nothing to train it on in plain "
            "text. Load it with AutoModelForCausalLM, AutoModelForMaskedLM or AutoModelForSeq2SeqLM."
        )
    if objective == "auto":
        return fitting[0]
    if objective not in fitting:
        raise InvalidOptionError(
            f"A {type(inner).__name__} is not trained with the objective '{objective}'. Take '{fitting[0]}' or 'auto'."
        )
    return objective


def _fitting(model: Any) -> list[str]:
    """Return the objectives whose tables name the model's class or one that it stands on."""
    from transformers.models.auto import modeling_auto

    classes = {base.__name__ for base in type(model).__mro__}
    paired = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    found = []
    for objective in OBJECTIVES.values():
        tables = [getattr(modeling_auto, name, {}) for name in objective.mappings]
        names = {name for table in tables for value in table.values() for name in _names(value)}
        if objective.encoder_decoder == paired and names & classes:
            found.append(objective.name)
    return found


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the class names of an entry of a table."""
    return (value,) if isinstance(value, str) else tuple(value)


__all__ = ["OBJECTIVES", "Objective", "choose_objective"]
