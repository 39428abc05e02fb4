"""Retrieval of translations: do two sides of parallel text find each other by the nearest vector?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .._logging import progress
from ..errors import InvalidTableError
from .vectors import padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BLOCK = 1024


def retrieval_scores(source_vectors: torch.Tensor, target_vectors: torch.Tensor) -> dict[str, float]:
    """Score how well pairs find each other by cosine similarity.

    The rank of a partner is 1 + the number of others that are at least as similar: a tie counts against it, so that
    vectors which are all alike score near zero.

    Args:
        source_vectors: One vector per source text, shape `(n, d)`.
        target_vectors: The vector of the partner in the same row, shape `(n, d)`.

    Returns:
        ``r1_source_to_target``, ``r1_target_to_source`` (share of ranks that are 1), ``mrr_source_to_target``,
        ``mrr_target_to_source`` (mean of 1 / rank), ``mrr`` (mean of the two), and ``pairs`` (n).

    Raises:
        InvalidTableError: If the shapes differ, there is no pair, or a vector is zero or not finite.
    """
    if source_vectors.shape != target_vectors.shape or source_vectors.ndim != 2 or len(source_vectors) == 0:
        raise InvalidTableError(
            f"Retrieval needs two matrices of the same shape (n, d), n > 0; got {tuple(source_vectors.shape)} and "
            f"{tuple(target_vectors.shape)}."
        )
    source, target = _unit(source_vectors, "source"), _unit(target_vectors, "target")
    forward, backward = _ranks(source, target), _ranks(target, source)
    mrr = [float((1.0 / ranks).mean()) for ranks in (forward, backward)]
    return {
        "r1_source_to_target": float((forward == 1).double().mean()),
        "r1_target_to_source": float((backward == 1).double().mean()),
        "mrr_source_to_target": mrr[0],
        "mrr_target_to_source": mrr[1],
        "mrr": sum(mrr) / 2,
        "pairs": float(len(source)),
    }


def _unit(vectors: torch.Tensor, name: str) -> torch.Tensor:
    """Return vectors of length 1, float64 so that equal vectors tie exactly whatever the block, shape `(n, d)`."""
    vectors = vectors.detach().double()
    lengths = vectors.norm(dim=1, keepdim=True)
    bad = ~(torch.isfinite(lengths) & (lengths > 0)).flatten()
    if bad.any():
        raise InvalidTableError(
            f"{int(bad.sum())} {name} vectors are zero or not finite (the first in row {int(bad.nonzero()[0])})."
        )
    return vectors / lengths


def _ranks(queries: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return the rank of each query's partner among the candidates, 1 is best, float64, shape `(n,)`.

    Differences below 1e-12 are rounding and count as ties.
    """
    ranks = []
    own = (queries * candidates).sum(1)
    for block, partner in zip(queries.split(BLOCK), own.split(BLOCK), strict=True):
        at_least = block @ candidates.T >= partner[:, None] - 1e-12
        ranks.append(at_least.sum(1).double())  # the partner itself is among them
    return torch.cat(ranks)


@torch.inference_mode()
def embed_sentences(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    max_length: int = 256,
    device: str | torch.device | None = None,
) -> torch.Tensor:
    """Embed texts by the mean of the last hidden states over all tokens that are not padding, special tokens included.

    This is what sentence-transformers does with a mean pooling module.

    Args:
        model: An encoder.
        tokenizer: Its tokenizer, with a padding token.
        texts: Texts, n of them.
        batch_size: Texts per forward pass; they are sorted by length, so padding is small.
        max_length: Longer texts are cut to so many tokens.
        device: Where the model is moved for this; by default it stays where it is.

    Returns:
        Unit vectors on the CPU, float32, shape `(n, d)`.
    """
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    was_training = model.training
    model.eval()
    try:
        return _embed(model, tokenizer, texts, batch_size, max_length)
    finally:
        model.train(was_training)


def _embed(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], batch_size: int, max_length: int
) -> torch.Tensor:
    """Embed texts in order of their lengths and put them back in their own order."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    starts = range(0, len(order), batch_size)
    parts = []
    for start in progress(starts, desc="Embedding", unit="batch", total=len(starts)):
        chosen = [texts[index] for index in order[start : start + batch_size]]
        if tokenizer.pad_token_id is None:
            batch = padded(tokenizer(chosen, truncation=True, max_length=max_length)["input_ids"], model.device)
        else:
            batch = tokenizer(chosen, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
            batch = batch.to(model.device)
        states = model(**batch).last_hidden_state.float()  # (b, length, d)
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        parts.append(((states * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu())
    pooled = torch.nn.functional.normalize(torch.cat(parts), dim=1)
    result = torch.empty_like(pooled)
    result[torch.tensor(order)] = pooled
    return result
