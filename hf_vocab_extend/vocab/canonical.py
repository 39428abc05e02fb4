"""One spelling per token whatever the tokenizer family: raw bytes, place in a word, kind."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

import numpy as np
from transformers import PreTrainedTokenizerBase


class TokenKind(IntEnum):
    """What an id stands for."""

    NORMAL = 0
    SPECIAL = 1
    BYTE = 2
    UNUSED = 3
    HOLE = 4


class Family(str, Enum):
    """How a tokenizer spells its tokens."""

    BYTE_BPE = "byte-level BPE"
    SENTENCEPIECE_BPE = "sentencepiece BPE"
    UNIGRAM = "Unigram"
    WORDPIECE = "WordPiece"
    SUFFIX_BPE = "BPE with end-of-word suffix"


@dataclass(frozen=True, eq=False)
class CanonicalVocab:
    """All ids of a tokenizer in one spelling.

    Attributes:
        family: How the tokenizer spells.
        tokens: Token string as ``get_vocab()`` has it, or None for an id without a token, length `n`.
        raw: UTF-8 (or partial) bytes of the text that the token stands for, without its word-start space, length `n`.
        starts_word: 1 at the start of a word, 0 inside, -1 where the family does not tell, int8, shape `(n,)`.
        ends_word: 1 at the end of a word, 0 not, -1 where the family does not tell, int8, shape `(n,)`.
        kinds: :class:`TokenKind` of each id, uint8, shape `(n,)`.
    """

    family: Family
    tokens: tuple[str | None, ...]
    raw: tuple[bytes, ...]
    starts_word: np.ndarray
    ends_word: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        """Highest id + 1."""
        return len(self.tokens)


def canonicalise(tokenizer: PreTrainedTokenizerBase) -> CanonicalVocab:
    """Read every id of a tokenizer."""
    raise NotImplementedError
