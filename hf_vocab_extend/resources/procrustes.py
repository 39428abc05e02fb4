"""One space for two languages: a rotation of the source vectors, found on the pairs of a dictionary.

Orthogonal Procrustes (Schonemann 1966): of all `R` with `R^T R = I`, the one that minimises `|S R - T|`, where the
rows of `S` and `T` are the vectors of words that translate each other, is `U V^T` with `U D V^T` the SVD of `S^T T`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import InvalidTableError
from .word_vectors import WordVectors

_ROWS_PER_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Words of two spaces that translate each other.

    Attributes:
        source: Places in the source space, int64, shape `(n,)`.
        target: Places in the target space, int64, shape `(n,)`; no pair occurs twice.
        weights: How often the pair was found, float64, shape `(n,)`.
        n_pairs: Number of pairs that the dictionary holds.
        n_found: Number of its pairs that both spaces know.
    """

    source: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    n_pairs: int
    n_found: int


def case_variants(word: str) -> tuple[str, str, str]:
    """Return a word as it is, in lower case and in title case; they can be equal."""
    return word, word.lower(), word.title()


def find_correspondences(
    source: WordVectors, target: WordVectors, pairs: Iterable[tuple[str, str]]
) -> Correspondences:
    """Look the pairs of a dictionary up in two spaces, in all 3 x 3 case variants.

    A variant that equals another counts again, so the spelling of the dictionary weighs more than the others.

    Args:
        source: Space of the source language.
        target: Space of the target language.
        pairs: ``(source_word, target_word)``.

    Raises:
        InvalidTableError: If no pair is in both spaces; it says how many words each of them knows.
    """
    pairs = list(pairs)
    places = [
        space.places([variant for pair in pairs for variant in case_variants(pair[side])]).reshape(len(pairs), 3)
        for side, space in enumerate((source, target))
    ]
    left = np.repeat(places[0], 3, axis=1).ravel()  # s0 s0 s0 s1 s1 s1 ... against t0 t1 t2 t0 t1 t2 ...
    right = np.tile(places[1], (1, 3)).ravel()
    both = (left >= 0) & (right >= 0)
    if not both.any():
        raise InvalidTableError(_nothing_found(source, target, pairs, places))
    unique, weights = np.unique(np.stack([left[both], right[both]], 1), axis=0, return_counts=True)
    found = int(both.reshape(len(pairs), 9).any(1).sum())
    return Correspondences(unique[:, 0], unique[:, 1], weights.astype(np.float64), len(pairs), found)


def _nothing_found(
    source: WordVectors, target: WordVectors, pairs: list[tuple[str, str]], places: list[np.ndarray]
) -> str:
    """Say how many words of a dictionary each space knows, and what that points to."""
    known = [int((side >= 0).any(1).sum()) for side in places]
    swapped = [
        int((space.places([pair[1 - side] for pair in pairs]) >= 0).sum())
        for side, space in enumerate((source, target))
    ]
    fact = (
        f"Of the {len(pairs)} pairs of the dictionary none is in both spaces: {source.name} knows {known[0]} of the "
        f"source words, {target.name} {known[1]} of the target words"
    )
    if min(swapped) > 0 and sum(swapped) > sum(known):
        return (
            f"{fact}. The other way round it is {swapped[0]} and {swapped[1]}: the pairs or the spaces are swapped. "
            "Pairs are (source_word, target_word), spaces (source, target)."
        )
    if not pairs:
        return (
            f"There is no pair of words to align {source.name} and {target.name} by. Bring dictionary= with pairs "
            "(source_word, target_word), or more parallel text."
        )
    first, word = pairs[0], source.words[0]
    return (
        f"{fact}. Its first pair is {first!r}; the first word of {source.name} is {word!r}. Bring a dictionary of "
        "these two languages, in the script and spelling of the vectors."
    )


def procrustes(source: WordVectors, target: WordVectors, found: Correspondences) -> np.ndarray:
    """Return the map of the source space onto the target space.

    Spaces may differ in their number of dimensions; the map is orthogonal then in the smaller one.

    Args:
        source: Space of the source language.
        target: Space of the target language.
        found: Words that translate each other.

    Returns:
        Float64, shape `(source dim, target dim)`; multiply source vectors from the right.

    Raises:
        InvalidTableError: If the vectors of all these words are zero on one side.
    """
    product = np.zeros((source.dim, target.dim))
    for start in range(0, len(found.source), _ROWS_PER_BLOCK):
        part = slice(start, start + _ROWS_PER_BLOCK)
        left = source.take(found.source[part]).astype(np.float64) * found.weights[part, None]
        product += left.T @ target.take(found.target[part]).astype(np.float64)
    if not product.any():
        raise InvalidTableError(
            f"The vectors of the {len(found.source)} dictionary words in {source.name} or {target.name} are all zero. "
            "Bring vectors that tell words apart."
        )
    left, _, right = np.linalg.svd(product, full_matrices=False)
    return left @ right
