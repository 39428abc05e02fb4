"""Vectors of target tokens, however they were had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import InvalidTableError
from ..vocab.canonical import CanonicalVocab


@dataclass(frozen=True, eq=False)
class TokenVectors:
    """Vectors of some tokens of a vocabulary.

    Attributes:
        ids: Token ids, ascending, int64, shape `(n,)`.
        vectors: Float32, shape `(n, dim)`.
    """

    ids: np.ndarray
    vectors: np.ndarray

    def places(self, token_ids: np.ndarray) -> np.ndarray:
        """Return the row of each token id, -1 for one without a vector, int64, shape of ``token_ids``."""
        if len(self.ids) == 0:
            return np.full(len(token_ids), -1, np.int64)
        found = np.minimum(np.searchsorted(self.ids, token_ids), len(self.ids) - 1)
        return np.where(self.ids[found] == token_ids, found, -1)


def read_token_vectors(given: Any, vocab: CanonicalVocab) -> TokenVectors:
    """Read vectors that the user gives.

    Args:
        given: A mapping of token to vector, or ``(tokens, matrix)``; tokens spelled as
            ``tokenizer.convert_ids_to_tokens`` spells them. Tokens that the vocabulary lacks are ignored.
        vocab: The vocabulary.

    Raises:
        InvalidTableError: If shapes do not fit, a value is not finite, or no token is in the vocabulary.
    """
    tokens, matrix = _as_matrix(given)
    ids = {token: index for index, token in enumerate(vocab.tokens) if token is not None}
    places = {ids[token]: row for row, token in enumerate(tokens) if token in ids}
    if not places:
        raise InvalidTableError(
            f"None of the {len(tokens)} tokens with a vector is in the vocabulary. "
            "Spell tokens as new_tokenizer.convert_ids_to_tokens does."
        )
    order = np.asarray(sorted(places), np.int64)
    vectors = matrix[[places[index] for index in order.tolist()]]
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(1)).sum())
        raise InvalidTableError(f"{bad} token vectors hold NaN or infinite values. Remove or repair them.")
    return TokenVectors(order, np.ascontiguousarray(vectors, np.float32))


def _as_matrix(given: Any) -> tuple[list[str], np.ndarray]:
    """Return tokens and a matrix of their vectors, shape `(n_tokens, dim)`."""
    if isinstance(given, Mapping):
        tokens = list(given)
        try:
            rows = [_as_array(given[token]) for token in tokens]
            matrix = np.stack(rows) if rows else np.zeros((0, 1), np.float32)
        except ValueError as error:
            raise InvalidTableError(
                f"The token vectors differ in length ({error}). Give them one dimension."
            ) from error
    elif isinstance(given, tuple) and len(given) == 2:
        tokens, matrix = list(given[0]), _as_array(given[1])
    else:
        raise InvalidTableError(
            f"token_vectors is a {type(given).__name__}. Give a mapping of token to vector, or (tokens, matrix)."
        )
    if matrix.ndim != 2 or len(matrix) != len(tokens) or matrix.dtype.kind not in "fiu":
        raise InvalidTableError(
            f"The token vectors have the shape {matrix.shape} and the type {matrix.dtype}; "
            f"{len(tokens)} rows of numbers are needed, one for each token."
        )
    return tokens, matrix


def _as_array(values: Any) -> np.ndarray:
    """Return an array on the CPU."""
    if isinstance(values, torch.Tensor):
        return values.detach().float().cpu().numpy()
    return np.asarray(values)
