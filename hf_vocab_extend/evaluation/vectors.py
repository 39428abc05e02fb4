"""Hidden states of any model: the body of one with a head, the encoder of one with a decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UnsupportedModelError
from .scoring import unwrap

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def body_of(model: Any) -> Any:
    """Return the part of a model that gives hidden states for a text alone.

    Raises:
        UnsupportedModelError: If there is none.
    """
    plain = unwrap(model)
    if getattr(plain.config, "is_encoder_decoder", False):
        encoder = plain.get_encoder()
        if encoder is None or encoder is plain:
            raise UnsupportedModelError(
                f"{type(plain).__name__} has no encoder of its own. Give a model with hidden states for a text."
            )
        return encoder
    return plain.base_model


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return an id to pad with; which one does not matter under a mask."""
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def padded(ids: Sequence[Sequence[int]], device: torch.device, pad_id: int = 0) -> dict[str, torch.Tensor]:
    """Return ids and mask `(n, longest)`, filled on the right with an id that the mask hides."""
    longest = max(len(own) for own in ids)
    filled = [[*own, *[pad_id] * (longest - len(own))] for own in ids]
    mask = [[1] * len(own) + [0] * (longest - len(own)) for own in ids]
    return {"input_ids": torch.tensor(filled, device=device), "attention_mask": torch.tensor(mask, device=device)}


__all__ = ["body_of", "pad_id_of", "padded"]
