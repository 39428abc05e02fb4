"""Vectors of a tokenizer's tokens in a space of words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidOptionError
from ..plan import MatchKind, VocabPlan
from ..vocab.canonical import CanonicalVocab, TokenKind
from .packed_words import number_labels
from .piece_incidence import piece_incidence
from .word_filters import first_in_groups
from .word_vectors import WordVectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PieceOptions:
    """How tokens get their vectors.

    Attributes:
        pieces: A name in :data:`PIECES`.
        weighting: A name in :data:`WEIGHTINGS`: how the words that contain a token are weighed.
        max_words: Only the first so many words count, of each language in a space that tells languages; None for all.
        cache: Keep which words hold which tokens.
    """

    pieces: str = "words"
    weighting: str = "frequency"
    max_words: int | None = None
    cache: bool = True


def _frequencies(space: WordVectors) -> np.ndarray:
    """Return the frequencies of words; ones where nothing is known of them."""
    return np.ones(len(space)) if space.frequencies is None else space.frequencies


WEIGHTINGS: dict[str, Callable[[WordVectors], np.ndarray]] = {
    "frequency": _frequencies,
    "counted": lambda space: _frequencies(space) if space.counted else np.ones(len(space)),
    "equal": lambda space: np.ones(len(space)),
}
"""Weights of the words of a space, shape `(n,)`, by the name of the option."""


def piece_texts(vocab: CanonicalVocab) -> list[str]:
    """Return the text of each token without spaces around it.

    It is empty for special and unused tokens, holes, white space and bytes that are no whole characters.
    """
    plain = np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    return [(vocab.text(index) or "").strip() if plain[index] else "" for index in range(len(vocab))]


def lettered_copies(plan: VocabPlan) -> np.ndarray:
    """Return the ids of ordinary target tokens with letters that would be copied by their spelling, int64, ascending.

    None where both vocabularies are the same: replacing a tokenizer by itself changes no row.
    """
    if plan.source.tokens == plan.target.tokens:
        return np.zeros(0, np.int64)
    spelled = np.isin(plan.kinds, (MatchKind.EXACT, MatchKind.FUZZY)) & (plan.target.kinds == TokenKind.NORMAL)
    texts = piece_texts(plan.target)
    lettered = [index for index in np.flatnonzero(spelled).tolist() if any(map(str.isalpha, texts[index]))]
    return np.asarray(lettered, np.int64)


def piece_vectors(
    space: WordVectors, tokenizer: PreTrainedTokenizerBase, vocab: CanonicalVocab, options: PieceOptions
) -> np.ndarray:
    """Give the tokens of a tokenizer vectors in a space of words.

    Args:
        space: The space.
        tokenizer: Cuts the words.
        vocab: Its vocabulary.
        options: How.

    Returns:
        Float32, shape `(len(vocab), dim)`; zeros for tokens that get none.

    Raises:
        InvalidOptionError: If n-grams are asked for and the space has none.
    """
    return PIECES[options.pieces](space, tokenizer, vocab, options)


def _by_ngrams(
    space: WordVectors, tokenizer: PreTrainedTokenizerBase, vocab: CanonicalVocab, options: PieceOptions
) -> np.ndarray:
    """Compose the vector of a token's text by its character n-grams."""
    if space.compose is None:
        raise InvalidOptionError(
            f"pieces is 'ngrams', and {space.name} has no n-grams. Bring a fastText model (.bin), or choose 'words'."
        )
    texts = piece_texts(vocab)
    unique = sorted({text for text in texts if text})
    rows = {text: row for row, text in enumerate(unique)}
    places = np.fromiter((rows.get(text, -1) for text in texts), np.int64, len(texts))
    vectors = np.zeros((len(vocab), space.dim), np.float32)
    if unique:
        vectors[places >= 0] = space.compose(unique)[places[places >= 0]]
    return vectors


def _by_words(
    space: WordVectors, tokenizer: PreTrainedTokenizerBase, vocab: CanonicalVocab, options: PieceOptions
) -> np.ndarray:
    """Average the vectors of the words that contain a token.

    Each word is cut as it is and with a space in front; a word whose both cuts contain a token counts twice for it.
    """
    count = options.max_words
    if count is not None and space.languages is not None:
        space, count = space.select(first_in_groups(number_labels(space.languages)[1], count)), None
    incidence = piece_incidence(space, tokenizer, vocab, variants="two", cache=options.cache, n_words=count)
    return incidence.mean(space, WEIGHTINGS[options.weighting](space))


PIECES: dict[str, Callable[[WordVectors, PreTrainedTokenizerBase, CanonicalVocab, PieceOptions], np.ndarray]] = {
    "ngrams": _by_ngrams,
    "words": _by_words,
}
"""How a token gets its vector, by the name of the option."""
