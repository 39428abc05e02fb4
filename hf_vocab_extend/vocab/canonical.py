"""One spelling per token whatever the tokenizer family: raw bytes, place in a word, kind."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .pipeline import Family, Spelling, backend_of, detect_family, read_spelling
from .special_tokens import is_unused_name, special_ids

UNTOLD = -1
"""Value of ``starts_word`` and ``ends_word`` where the spelling does not tell."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenKind(IntEnum):
    """What an id stands for."""

    NORMAL = 0
    """Text, or a part of a character's bytes."""
    SPECIAL = 1
    """A control token: never produced from plain text."""
    BYTE = 2
    """One byte: a letter of a byte alphabet, or a ``<0xNN>`` of byte fallback."""
    UNUSED = 3
    """A place kept free (``[unused7]``, ``<|reserved_special_token_7|>``)."""
    HOLE = 4
    """An id without a token."""


@dataclass(frozen=True, eq=False)
class CanonicalVocab:
    """All ids of a tokenizer in one spelling.

    ``(b" " if starts_word == 1) + raw``, concatenated over an encoded text, gives that text's normalised bytes in the
    families whose tokens hold their spaces. A token of spaces only keeps them all in ``raw`` and starts no word.

    Attributes:
        family: How the tokenizer spells.
        tokens: Token string as ``get_vocab()`` has it, or None for an id without a token, length `n`.
        raw: UTF-8 (or partial) bytes of the text that the token stands for, without its word-start space, length `n`;
            for special and unused tokens the bytes of their content, for holes empty.
        starts_word: 1 at the start of a word, 0 inside, -1 where the spelling does not tell, int8, shape `(n,)`. It is
            -1 for all text of the suffix family, and in WordPiece for unmarked characters that the pipeline cuts off
            on both sides (punctuation, Han characters): no space need precede them.
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

    def text(self, token_id: int) -> str | None:
        """Return the text that an id stands for.

        It begins with a space where the token holds one (byte-level, sentencepiece, Unigram); WordPiece and suffix
        tokens hold none. None for holes and for bytes that are no whole characters.
        """
        if self.kinds[token_id] == TokenKind.HOLE:
            return None
        try:
            text = self.raw[token_id].decode("utf-8")
        except UnicodeDecodeError:
            return None
        return " " + text if self.starts_word[token_id] == 1 and self.family is not Family.WORDPIECE else text


def _byte_letters() -> dict[int, int]:
    """Return the code point of each letter of the byte alphabet (GPT-2's byte-to-unicode table) with its byte.

    Printable Latin-1 characters stand for themselves; the other bytes, ascending, for the code points from 256 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in set(plain)]
    return {value: value for value in plain} | {256 + index: value for index, value in enumerate(others)}


class _Letters(dict[int, int]):
    """Translation table that refuses characters outside the byte alphabet instead of passing them on."""

    def __missing__(self, key: int) -> int:
        raise ValueError(key)


BYTE_LETTERS = _Letters(_byte_letters())
"""Code point of a letter of the byte alphabet -> byte value."""


def byte_level_bytes(token: str) -> bytes:
    """Return the bytes that a token of a byte-level tokenizer stands for.

    A token with a character outside the byte alphabet cannot come from text; its own UTF-8 bytes are returned, as the
    decoder does.
    """
    try:
        return token.translate(BYTE_LETTERS).encode("latin-1")
    except ValueError:
        return token.encode("utf-8", "surrogatepass")


def _split_space(raw: bytes) -> tuple[bytes, int]:
    """Take the word-start space off; spaces alone stay as they are and start no word."""
    if raw[:1] != b" " or not raw.strip(b" "):
        return raw, 0
    return raw[1:], 1


def _spaced(token: str, spelling: Spelling) -> tuple[bytes, int, int, bool]:
    """Read a token of a family whose tokens hold their spaces."""
    if spelling.byte_level:
        raw = byte_level_bytes(token)
        if len(raw) == 1:
            return raw, 0, UNTOLD, True
        return *_split_space(raw), UNTOLD, False
    byte = _BYTE_TOKEN.fullmatch(token) if spelling.byte_fallback and token[:3] == "<0x" else None
    if byte:
        return bytes([int(byte[1], 16)]), 0, UNTOLD, True
    if spelling.space_mark is None:
        return token.encode("utf-8", "surrogatepass"), UNTOLD, UNTOLD, False
    raw = token.replace(spelling.space_mark, " ").encode("utf-8", "surrogatepass")
    return *_split_space(raw), UNTOLD, False


def _prefixed(token: str, spelling: Spelling) -> tuple[bytes, int, int, bool]:
    """Read a WordPiece token: with the prefix it stands inside a word, without at its start."""
    inside = len(token) > len(spelling.prefix) > 0 and token.startswith(spelling.prefix)
    text = token[len(spelling.prefix) :] if inside else token
    raw = byte_level_bytes(text) if spelling.byte_level else text.encode("utf-8", "surrogatepass")
    return raw, 0 if inside else 1, UNTOLD, False


def _suffixed(token: str, spelling: Spelling) -> tuple[bytes, int, int, bool]:
    """Read a token of the suffix family: with the suffix it ends a word; whether it starts one, it does not tell."""
    ends = len(token) > len(spelling.suffix) and token.endswith(spelling.suffix)
    text = token[: -len(spelling.suffix)] if ends else token
    raw = byte_level_bytes(text) if spelling.byte_level else text.encode("utf-8", "surrogatepass")
    return raw, UNTOLD, int(ends), spelling.byte_level and len(raw) == 1 and not ends


_READERS = {
    Family.BYTE_BPE: _spaced,
    Family.SENTENCEPIECE_BPE: _spaced,
    Family.UNIGRAM: _spaced,
    Family.WORDPIECE: _prefixed,
    Family.SUFFIX_BPE: _suffixed,
}


def _literal(content: str, spelling: Spelling) -> tuple[bytes, int, int, bool]:
    """Read an added token: its content is the text that it matches, whatever the family; a space mark is a space."""
    raw = content.replace(spelling.space_mark or " ", " ").encode("utf-8", "surrogatepass")
    if spelling.family is Family.WORDPIECE:
        return raw, 1, UNTOLD, False
    if spelling.family is Family.SUFFIX_BPE:
        return raw, UNTOLD, 0, False
    return *_split_space(raw), UNTOLD, False


def _isolated(texts: Iterable[str], backend: Tokenizer) -> set[str]:
    """Return the texts that the pipeline cuts off from letters on both sides."""
    found = set()
    for text in texts:
        sample = f"a{text}a"
        if backend.normalizer is not None:
            sample = backend.normalizer.normalize_str(sample)
        if backend.pre_tokenizer is not None:
            pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(sample)]
            if pieces == ["a", text, "a"]:
                found.add(text)
    return found


def _may_be_isolated(token: str) -> bool:
    """Whether a pipeline might cut the token off from letters: no word of an alphabet."""
    return len(token) == 1 and ord(token) > 0x2E00 or not any(char.isalnum() for char in token)


def canonicalise(tokenizer: PreTrainedTokenizerBase) -> CanonicalVocab:
    """Read every id of a tokenizer.

    Args:
        tokenizer: A tokenizer with a ``tokenizer.json`` behind it.

    Returns:
        The vocabulary by id, as long as the highest id + 1.

    Raises:
        UnsupportedTokenizerError: If it has no ``tokenizer.json`` behind it or belongs to no known family.
    """
    backend = backend_of(tokenizer)
    spelling = read_spelling(tokenizer)
    vocab = backend.get_vocab(with_added_tokens=True)
    special, named = special_ids(tokenizer)
    added = backend.get_added_tokens_decoder()
    literal = {index for index, token in added.items() if backend.model.token_to_id(token.content) != index}
    n = max(vocab.values(), default=-1) + 1
    tokens: list[str | None] = [None] * n
    raw, kinds = [b""] * n, [int(TokenKind.HOLE)] * n
    starts, ends = [UNTOLD] * n, [UNTOLD] * n
    read = _READERS[spelling.family]
    for token, index in vocab.items():
        tokens[index] = token
        unused = index not in named and is_unused_name(token)
        if unused or index in special:
            raw[index] = token.encode("utf-8", "surrogatepass")
            kinds[index] = TokenKind.UNUSED if unused else TokenKind.SPECIAL
            continue
        parts = _literal(token, spelling) if index in literal else read(token, spelling)
        raw[index], starts[index], ends[index], is_byte = parts
        kinds[index] = TokenKind.BYTE if is_byte else TokenKind.NORMAL
    if spelling.family is Family.WORDPIECE:
        unmarked = [index for index in range(n) if starts[index] == 1 and _may_be_isolated(tokens[index] or "")]
        isolated = _isolated((tokens[index] or "" for index in unmarked), backend)
        for index in unmarked:
            if tokens[index] in isolated:
                starts[index] = UNTOLD
    places = np.array(starts, np.int8), np.array(ends, np.int8)
    return CanonicalVocab(spelling.family, tuple(tokens), tuple(raw), *places, np.array(kinds, np.uint8))


__all__ = ["CanonicalVocab", "Family", "TokenKind", "canonicalise", "detect_family"]
