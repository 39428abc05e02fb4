"""Which tokens of a text make one word, told from their ids alone, for any family of tokenizers.

A word is what spaces part, without the punctuation at its edges. In scripts that write no spaces between words (Han,
kana, Thai, Lao, Khmer, Burmese, Tibetan) every token stands on its own.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from ..vocab.canonical import UNTOLD, CanonicalVocab, Family, TokenKind, canonicalise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNSPACED = ((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x312F), (0x31F0, 0xA4CF), (0xF900, 0xFAFF))
"""Blocks of Unicode, both ends included, of scripts without spaces between words."""
_INSIDE = "'\u2019\u02bc\u200c\u200d"
"""Marks that stand inside words: apostrophes (Swahili "ng'ombe") and joiners."""


def _in_word(char: str) -> bool:
    """Whether a character continues a word."""
    return unicodedata.category(char)[0] in "LMN" or char in _INSIDE


def _unspaced(char: str) -> bool:
    """Whether a character is of a script without spaces between words."""
    code = ord(char)
    return code > UNSPACED[0][0] and (code >= 0x20000 or any(low <= code <= high for low, high in UNSPACED))


class WordUnits:
    """Tables by id that tell where words begin in a row of ids.

    Attributes:
        special: Whether an id is no text: a control token, a place kept free, or an id without a token, shape `(n,)`.
        plain_ids: Ids of text, int64, ascending.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read a tokenizer.

        Raises:
            UnsupportedTokenizerError: If it has no ``tokenizer.json`` behind it.
        """
        vocab = canonicalise(tokenizer)
        self.special = ~np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
        self.plain_ids = np.flatnonzero(~self.special)
        self._opens, self._closes = _borders(vocab)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        """Return the word that each id belongs to.

        Args:
            ids: Ids of one text, shape `(n,)`; ids beyond the vocabulary (padding rows) count as special.

        Returns:
            Number of the word, ascending from 0, and -1 for ids that are no text; int64, shape `(n,)`.
        """
        known = ids < len(self.special)
        safe = np.where(known, ids, 0)
        special = self.special[safe] | ~known
        begins = self._opens[safe] | special
        begins[1:] |= self._closes[safe[:-1]] | special[:-1]
        begins[:1] = True
        words = np.cumsum(begins & ~special) - 1
        return np.where(special, -1, words)


def _borders(vocab: CanonicalVocab) -> tuple[np.ndarray, np.ndarray]:
    """Return for each id whether a word begins with it, and whether one ends with it, each of shape `(n,)`."""
    opens, closes = vocab.starts_word == 1, vocab.ends_word == 1
    alone = (vocab.starts_word == UNTOLD) & (vocab.family is Family.WORDPIECE)
    for index, raw in enumerate(vocab.raw):
        text = raw.decode("utf-8", "ignore").strip(" ")
        if not text:  # a part of a character goes with its neighbours; spaces go with what follows
            opens[index] |= raw.startswith(b" ")
            continue
        apart = _unspaced(text[0])
        opens[index] |= apart or not _in_word(text[0])
        closes[index] |= apart or not _in_word(text[-1])
    return opens | alone, closes | alone


__all__ = ["WordUnits"]
