"""Texts as vectors: hidden states of one layer, averaged over the tokens that are not padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..._logging import progress
from ...errors import InvalidTableError
from ...evaluation.scoring import evaluation_mode
from ...evaluation.vectors import padded

Ids = list[int]
BATCH = 64


def cut(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[Ids]:
    """Return the ids of texts, special tokens included, cut to a length."""
    return list(tokenizer(list(texts), truncation=True, max_length=max_length, verbose=False)["input_ids"])


def hidden_states(model: PreTrainedModel, batch: dict[str, torch.Tensor], layer: int) -> torch.Tensor:
    """Return the hidden states of one layer, float32, shape `(n, length, width)`.

    Args:
        model: A model; its head, if it has one, is not run.
        batch: Ids and mask.
        layer: 0 for the embeddings, then the layers; -1 for the last with its norm, as in ``hidden_states`` of
            transformers.
    """
    body: Any = model.base_model
    if layer == -1:
        return body(**batch).last_hidden_state.float()
    return body(**batch, output_hidden_states=True).hidden_states[layer].float()


def pooled(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return unit vectors: the mean over tokens that are not padding, float32, shape `(n, width)`."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    mean = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
    return torch.nn.functional.normalize(mean, dim=1)


def vectors_of(model: PreTrainedModel, rows: Sequence[Ids], pad_id: int, layer: int) -> torch.Tensor:
    """Return the vectors of rows of ids that are run together in chunks of like length, shape `(n, width)`.

    Gradients flow unless the caller turns them off.
    """
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    parts = []
    for start in range(0, len(order), CHUNK):
        batch = padded([rows[index] for index in order[start : start + CHUNK]], model.device, pad_id)
        parts.append(pooled(hidden_states(model, batch, layer), batch["attention_mask"]))
    back = torch.empty(len(order), dtype=torch.int64)
    back[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(parts)[back.to(model.device)]


CHUNK = 32
"""Rows that are padded to one length."""


@torch.no_grad()
def embed_all(model: PreTrainedModel, rows: Sequence[Ids], pad_id: int, layer: int, *, desc: str) -> torch.Tensor:
    """Return the vectors of many rows of ids, without gradients and without dropout, shape `(n, width)`.

    Raises:
        InvalidTableError: If a vector is not finite.
    """
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    starts = range(0, len(order), BATCH)
    result: torch.Tensor | None = None
    with evaluation_mode(model):
        for start in progress(starts, desc=desc, unit="batch", total=len(starts)):
            chosen = order[start : start + BATCH]
            found = vectors_of(model, [rows[index] for index in chosen], pad_id, layer)
            if result is None:
                result = found.new_empty(len(rows), found.shape[1])
            result[torch.tensor(chosen, device=result.device)] = found
    assert result is not None
    if not torch.isfinite(result).all():
        bad = int((~torch.isfinite(result)).any(1).sum())
        raise InvalidTableError(f"{bad} of {len(rows)} texts give vectors that are not finite. Check the model.")
    return result


__all__ = ["cut", "embed_all", "hidden_states", "pooled", "vectors_of"]
