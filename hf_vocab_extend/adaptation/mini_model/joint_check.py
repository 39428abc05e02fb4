"""Run a few tokens through a joint model, to see that its two heads are those of two ordinary models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...errors import UnsupportedModelError
from ...evaluation.scoring import evaluating, own_type
from .layers import probe_inputs

if TYPE_CHECKING:
    from .joint import MiniJointModel

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF = 3e-2
"""Largest difference of two orders of summation, relative to the largest value."""


def check_heads(joint: MiniJointModel) -> None:
    """Compare both heads with the full model and the mini-model, and labelled positions with all of them.

    Nothing is changed; a model without data is let pass.

    Raises:
        UnsupportedModelError: If values differ; the message says by how much.
    """
    if any(parameter.device.type == "meta" for parameter in joint.parameters()):
        return
    inputs = {**probe_inputs(joint.model), "return_dict": True}
    name, mini = type(joint.model).__name__, joint.cut()
    with evaluating(joint), evaluating(mini), own_type(joint.model):
        ids = inputs["input_ids"]
        everywhere = joint(input_ids=ids)
        for found, model, whose in (
            (everywhere.logits, joint.model, "the model's own"),
            (everywhere.mini_logits, mini, f"those of the model with {joint.config.layer} layers"),
        ):
            _check(found, model(**inputs).logits, f"The logits of a {name} with a second head are not {whose}")
        if not joint.is_masked or not joint.config.labelled_only:
            return
        places = torch.zeros_like(ids, dtype=torch.bool)
        places[:, ::3] = True
        message, remedy = f"The head of a {name} cannot be run at labelled positions only", "Pass labelled_only=False."
        try:
            few: Any = joint.run_heads({**inputs, "labels": ids[places].unsqueeze(0)}, places)
        except Exception as error:  # code of any author, given states of another shape than it expects
            raise UnsupportedModelError(f"{message} ({error}). {remedy}") from error
        for output, whole in zip(few, (everywhere.logits, everywhere.mini_logits), strict=True):
            _check(output.logits.flatten(0, -2), whole[places], message, remedy)


def _check(found: torch.Tensor, expected: torch.Tensor, message: str, remedy: str = "") -> None:
    """Raise if two tensors differ by more than the order of summation does.

    Raises:
        UnsupportedModelError: The message says by how much.
    """
    if found.shape != expected.shape:
        raise UnsupportedModelError(
            f"{message}: their shape is {tuple(found.shape)}, not {tuple(expected.shape)}. {remedy}".strip()
        )
    difference = float((found.float() - expected.float()).abs().max())
    largest = float(expected.float().abs().max())
    if not difference <= _TOLERANCE.get(found.dtype, _HALF) * max(largest, 1e-6):
        raise UnsupportedModelError(
            f"{message}: they differ by up to {difference:.2g} of {largest:.2g}. "
            f"{remedy or 'Take a model whose layers read nothing but the one below.'}"
        )


__all__ = ["check_heads"]
