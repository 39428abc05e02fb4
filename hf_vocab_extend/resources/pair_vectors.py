"""Token vectors from sentence pairs: tokens that occur in the same pairs get similar vectors, in both languages.

A token is described by the pairs that it occurs in, on either side (inverted index, Sogaard et al. 2015; sentence ids
as features, Levy et al. 2017, arXiv 1608.05426): a matrix of tokens by pairs, see :mod:`.cooccurrence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from .cooccurrence import association, left_factors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    shape = (int(tokens.max(initial=0)) + 1, len(pairs))
    ids, matrix = association(tokens, places, shape, min_count=min_count)
    names = tokenizer.convert_ids_to_tokens(ids.tolist())
    return list(names), left_factors(matrix, dim, seed).numpy()


def _occurrences(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return which token occurs in which pair, each once, int64, both of shape `(n_occurrences,)`."""
    sides = [
        tokenizer(list(texts), add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
        for texts in zip(*pairs, strict=True)
    ]
    found = [sorted({*left, *right}) for left, right in zip(*sides, strict=True)]
    lengths = [len(ids) for ids in found]
    return np.fromiter(chain.from_iterable(found), np.int64, sum(lengths)), np.repeat(np.arange(len(found)), lengths)
