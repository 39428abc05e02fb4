"""The part of a model that all its languages share."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import nn

from ..errors import BaseModelMismatchError, UnsupportedModelError, VocabExtendWarning

_SAMPLES = 256
"""Values of each tensor that enter the fingerprint: evenly spread, so that training shows, and cheap at any size."""


@dataclass(frozen=True)
class BodyFingerprint:
    """What tells one body from another.

    Attributes:
        structure: Hash of the names and shapes of its parameters.
        values: Hash of up to 256 values of each, rounded to bfloat16: the same in whichever type it was loaded.
        n_tensors: Number of its parameters.
    """

    structure: str
    values: str
    n_tensors: int

    def to_dict(self) -> dict[str, str | int]:
        """Return plain data."""
        return asdict(self)


def adapter_parameters(model: nn.Module) -> set[int]:
    """Return the ``id`` of every parameter that peft put into a model."""
    found: set[int] = set()
    for module in model.modules():
        names = getattr(module, "adapter_layer_names", ()) if hasattr(module, "base_layer") else ()
        for name in names:
            part = getattr(module, name, None)
            if isinstance(part, nn.Module | nn.ParameterDict):
                found.update(id(parameter) for parameter in part.parameters())
    return found


def body_parameters(model: nn.Module, vocabulary: Collection[int]) -> Iterator[tuple[str, nn.Parameter]]:
    """Give the parameters that neither belong to a vocabulary nor to an adapter, with their names without adapters.

    Args:
        model: The model.
        vocabulary: ``id`` of the parameters that belong to a vocabulary.
    """
    left_out = adapter_parameters(model) | set(vocabulary)
    for name, parameter in model.named_parameters():
        if id(parameter) not in left_out:
            yield name.replace(".base_layer.", "."), parameter


@torch.no_grad()
def fingerprint(model: nn.Module, vocabulary: Collection[int]) -> BodyFingerprint:
    """Return the fingerprint of a model's body.

    Args:
        model: The model.
        vocabulary: ``id`` of the parameters that belong to a vocabulary.

    Raises:
        UnsupportedModelError: If a part of it has no data.
    """
    structure, values, n_tensors = hashlib.sha256(), hashlib.sha256(), 0
    for name, parameter in sorted(body_parameters(model, vocabulary), key=lambda item: item[0]):
        if parameter.device.type == "meta":
            raise UnsupportedModelError(
                f"'{name}' is on the meta device: it has no data, or is offloaded. Load the model without device_map."
            )
        structure.update(f"{name} {tuple(parameter.shape)}\n".encode())
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, -(-len(flat) // _SAMPLES))]
        values.update(sample.to(torch.bfloat16).view(torch.int16).cpu().numpy().astype("<i2").tobytes())
        n_tensors += 1
    return BodyFingerprint(structure.hexdigest()[:32], values.hexdigest()[:32], n_tensors)


def check_same_structure(own: BodyFingerprint, other: BodyFingerprint, language: str) -> None:
    """Raise if a language was made for a body with other parameters.

    Raises:
        BaseModelMismatchError: If their names or shapes differ.
    """
    if own.structure != other.structure:
        raise BaseModelMismatchError(
            f"Language '{language}' was made for another architecture: its body has {other.n_tensors} parameters, "
            f"this one {own.n_tensors}, or their names and shapes differ. Load the base model that it names."
        )


def check_same_body(own: BodyFingerprint, other: BodyFingerprint, language: str, *, allow_other_body: bool) -> None:
    """Raise if a language was made for another body.

    Raises:
        BaseModelMismatchError: If the architecture differs, or the values do and ``allow_other_body`` is False; if it
            is True, that is a warning.
    """
    check_same_structure(own, other, language)
    if own.values == other.values:
        return
    message = f"Language '{language}' was made for a body with other values than this one's"
    if not allow_other_body:
        raise BaseModelMismatchError(
            f"{message}. Load the base model that it names; if this one is that model after more training, pass "
            "allow_other_body=True."
        )
    warnings.warn(f"{message}: check its outputs before you rely on them.", VocabExtendWarning, stacklevel=4)
