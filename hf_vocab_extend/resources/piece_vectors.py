"""Vectors of a tokenizer's tokens in a space of words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer

from .._logging import progress
from ..errors import InvalidOptionError
from ..vocab.canonical import CanonicalVocab, Family, TokenKind
from ..vocab.pipeline import backend_of
from ..vocab.reachability import whole_lines
from .word_vectors import WordVectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_WORDS_PER_BLOCK = 20_000


@dataclass(frozen=True)
class PieceOptions:
    """How tokens get their vectors.

    Attributes:
        pieces: A name in :data:`PIECES`.
        weighting: A name in :data:`WEIGHTINGS`: how the words that contain a token are weighed.
        max_words: Only the first so many words count; None for all.
    """

    pieces: str = "words"
    weighting: str = "frequency"
    max_words: int | None = None


WEIGHTINGS: dict[str, Callable[[WordVectors], np.ndarray]] = {
    "frequency": lambda space: np.ones(len(space)) if space.frequencies is None else space.frequencies,
    "equal": lambda space: np.ones(len(space)),
}
"""Weights of the words of a space, shape `(n,)`, by the name of the option."""


def piece_texts(vocab: CanonicalVocab) -> list[str]:
    """Return the text of each token without spaces around it.

    It is empty for special and unused tokens, holes, white space and bytes that are no whole characters.
    """
    plain = np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    return [(vocab.text(index) or "").strip() if plain[index] else "" for index in range(len(vocab))]


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
    Where tokens hold no spaces (WordPiece) both cuts are the same, and one will do.
    """
    spaced = vocab.family is not Family.WORDPIECE
    n_words = len(space) if options.max_words is None else min(options.max_words, len(space))
    frequencies = WEIGHTINGS[options.weighting](space)
    sums, totals = np.zeros((len(vocab), space.dim)), np.zeros(len(vocab))
    backend = backend_of(tokenizer)
    with whole_lines(backend):
        for start in progress(range(0, n_words, _WORDS_PER_BLOCK), desc="Cut words", unit=" blocks"):
            block = np.arange(start, min(start + _WORDS_PER_BLOCK, n_words))
            tokens, places = _incidence([space.words[place] for place in block.tolist()], backend, spaced)
            weights = frequencies[block][places]
            totals += np.bincount(tokens, weights, len(vocab))
            sums += _weighted_sums(tokens, places, weights, space.take(block), len(vocab))
    usable = (totals > 0) & np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    vectors = np.zeros_like(sums, np.float32)
    vectors[usable] = sums[usable] / totals[usable, None]
    return vectors


def _incidence(words: list[str], backend: Tokenizer, spaced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return which token occurs in which word, both int64, ordered by token.

    Args:
        words: The words.
        backend: Cuts them.
        spaced: Also cut them with a space in front; what occurs in both cuts is listed twice.
    """
    parts = []
    for texts in (words, [" " + word for word in words])[: 1 + spaced]:
        rows = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        parts.append(np.unique(flat * len(words) + np.repeat(np.arange(len(words)), lengths)))
    keys = np.sort(np.concatenate(parts), kind="stable")
    return keys // len(words), keys % len(words)


def _weighted_sums(
    tokens: np.ndarray, places: np.ndarray, weights: np.ndarray, vectors: np.ndarray, n_tokens: int
) -> np.ndarray:
    """Return for each token the weighted sum of its words' vectors, float64, shape `(n_tokens, dim)`.

    Args:
        tokens: Token of each entry, ascending.
        places: Row of its word in ``vectors``.
        weights: Its weight.
        vectors: Shape `(n_words, dim)`.
        n_tokens: Number of tokens.
    """
    offsets = np.zeros(n_tokens + 1, np.int64)
    np.cumsum(np.bincount(tokens, minlength=n_tokens), out=offsets[1:])
    sums = torch.nn.functional.embedding_bag(
        torch.from_numpy(places),
        torch.from_numpy(vectors).double(),
        torch.from_numpy(offsets),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights.astype(np.float64)),
        include_last_offset=True,
    )
    return sums.numpy()


PIECES: dict[str, Callable[[WordVectors, PreTrainedTokenizerBase, CanonicalVocab, PieceOptions], np.ndarray]] = {
    "ngrams": _by_ngrams,
    "words": _by_words,
}
"""How a token gets its vector, by the name of the option."""
