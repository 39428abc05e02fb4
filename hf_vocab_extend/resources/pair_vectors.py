"""Token vectors from sentence pairs: tokens that occur in the same pairs get similar vectors, in both languages.

A token is described by the pairs that it occurs in, on either side (inverted index, Sogaard et al. 2015; sentence ids
as features, Levy et al. 2017, arXiv 1608.05426): a matrix of tokens by pairs, weighted by positive pointwise mutual
information, rows of length 1, reduced by a truncated SVD (randomised, Halko et al. 2011).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_OVERSAMPLING, _POWER_ITERATIONS = 20, 3


def pair_vectors(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[tuple[str, str]],
    *,
    dim: int = 300,
    min_count: int = 2,
    seed: int = 0,
) -> tuple[list[str], np.ndarray]:
    """Return vectors for ``extend_vocabulary(..., method="focus", token_vectors=...)``.

    Args:
        tokenizer: The target tokenizer; in mode ``extend`` it cuts both languages.
        pairs: Texts that are translations of each other, n of them.
        dim: Dimensions; at most n are there.
        min_count: Tokens that occur in fewer pairs get no vector.
        seed: Of the random start of the SVD.

    Returns:
        Tokens, and their vectors as float32, shape `(n_tokens, dim)`.
    """
    tokens, places = _occurrences(tokenizer, pairs)
    counts = torch.bincount(tokens, minlength=1)
    frequent = counts[tokens] >= min_count
    tokens, places = tokens[frequent], places[frequent]
    ids, rows = tokens.unique(return_inverse=True)
    in_pair = torch.bincount(places)
    weights = (len(tokens) / (counts[tokens] * in_pair[places]).double()).log().clamp(min=1e-6).float()
    lengths = torch.zeros(len(ids)).index_add_(0, rows, weights.square()).sqrt()
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows, places]), weights / lengths[rows], (len(ids), len(pairs)), check_invariants=True
    ).coalesce()
    names = tokenizer.convert_ids_to_tokens(ids.tolist())
    return list(names), _left_factors(matrix, dim, torch.Generator().manual_seed(seed)).numpy()


def _occurrences(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which token occurs in which pair, each once, int64, both of shape `(n_occurrences,)`."""
    sides = [
        tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
        for texts in zip(*pairs, strict=True)
    ]
    found = [sorted({*left, *right}) for left, right in zip(*sides, strict=True)]
    places = torch.repeat_interleave(torch.arange(len(found)), torch.tensor([len(ids) for ids in found]))
    return torch.tensor([index for ids in found for index in ids]), places


def _left_factors(matrix: torch.Tensor, dim: int, generator: torch.Generator) -> torch.Tensor:
    """Return U S of a truncated SVD of a sparse matrix `(n_tokens, n_pairs)`, shape `(n_tokens, dim)`."""
    dim = min(dim, *matrix.shape)
    transposed = matrix.t().coalesce()
    basis = matrix @ torch.randn(matrix.shape[1], min(dim + _OVERSAMPLING, *matrix.shape), generator=generator)
    for _ in range(_POWER_ITERATIONS):
        basis = matrix @ (transposed @ torch.linalg.qr(basis)[0])
    basis = torch.linalg.qr(basis)[0]
    left, values, _ = torch.linalg.svd((transposed @ basis).t(), full_matrices=False)
    return (basis @ left)[:, :dim] * values[:dim]
