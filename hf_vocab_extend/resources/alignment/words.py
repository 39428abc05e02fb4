"""Where words begin in encoded text, told from the token ids alone, whatever the script and the tokenizer.

A token's raw bytes say what its first and last characters are. Neighbours belong to one word if no word start lies
between them and the characters that meet are both letters, digits or marks. Where a token holds only a part of a
character, the bytes of its neighbours complete it. Punctuation and symbols stand alone, and so does every token of a
script without spaces between words (Han, Kana, Thai, Khmer, ...): a "word" there would be a whole clause.
"""

from __future__ import annotations

import bisect
import unicodedata
from enum import IntEnum
from functools import cache

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...vocab.canonical import CanonicalVocab, Family, TokenKind, canonicalise
from ...vocab.pipeline import backend_of, unknown_id
from .ragged import offsets_of, places_of

_UNSPACED = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x3005, 0x3007),
    (0x3021, 0x3029), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA980, 0xA9FF),
    (0xAA60, 0xAADF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x3FFFF),
)  # fmt: skip
"""Thai and Lao, Myanmar, Khmer, Tai scripts, Javanese, Kana, Han."""

_STARTS = [start for start, _ in _UNSPACED]
_JOINERS = (0x200C, 0x200D)


class Meeting(IntEnum):
    """What a character does at the border of a token."""

    WORD = 0
    """A letter or digit: joins its like."""
    MARK = 1
    """A combining mark or joiner: belongs to whatever stands before it."""
    ALONE = 2
    """Punctuation, a symbol, a character of a script without spaces: joins nothing."""
    BLANK = 3
    """White space or a control character: no part of any word."""


@cache
def meeting(code_point: int) -> int:
    """Return the :class:`Meeting` of a character."""
    category = unicodedata.category(chr(code_point))
    if category[0] == "M" or code_point in _JOINERS:
        return Meeting.MARK
    if category[0] == "Z" or category in ("Cc", "Cf"):
        return Meeting.BLANK
    place = bisect.bisect_right(_STARTS, code_point) - 1
    if place >= 0 and code_point <= _UNSPACED[place][1]:
        return Meeting.ALONE
    return Meeting.WORD if category[0] in "LN" else Meeting.ALONE


class WordFinder:
    """Finds words in the token ids of one tokenizer.

    Attributes:
        vocab: The vocabulary.
        dropped: Ids that are no part of any unit (control tokens, the unknown token, white space), bool, shape `(n,)`.
        unknown: The unknown token's id, or None.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read the vocabulary.

        Raises:
            UnsupportedTokenizerError: If the tokenizer has no ``tokenizer.json`` behind it or is of no known family.
        """
        self.vocab = vocab = canonicalise(tokenizer)
        self.unknown = unknown_id(backend_of(tokenizer))
        texts = [_text(raw) for raw in vocab.raw]
        self._partial = np.asarray([text is None for text in texts], bool)
        self._first, self._last = (
            np.asarray([Meeting.WORD if not text else meeting(ord(text[end])) for text in texts], np.int8)
            for end in (0, -1)
        )
        control = np.isin(vocab.kinds, (TokenKind.SPECIAL, TokenKind.UNUSED, TokenKind.HOLE))
        blank = np.asarray([text is not None and _is_blank(text) for text in texts], bool)
        self.dropped = control | blank
        self._cut_before, self._cut_after = _cuts(vocab, control)
        if self.unknown is not None:
            self._open_unknown(vocab, self.unknown)
        self._bytes = np.frombuffer(b"".join(vocab.raw), np.uint8)
        self._offsets = offsets_of(np.asarray([len(raw) for raw in vocab.raw], np.int64))

    def _open_unknown(self, vocab: CanonicalVocab, unknown: int) -> None:
        """Let the unknown token stand inside a word, as a letter; WordPiece has one for a whole word."""
        self.dropped[unknown] = True
        self._first[unknown] = self._last[unknown] = Meeting.WORD
        self._cut_before[unknown] = self._cut_after[unknown] = vocab.family is Family.WORDPIECE

    def __len__(self) -> int:
        """Number of ids."""
        return len(self.dropped)

    def find(self, ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which tokens begin a word, and which are part of one.

        Args:
            ids: Token ids of texts laid end to end, shape `(n,)`.
            offsets: Where each text begins, shape `(n_texts + 1,)`.

        Returns:
            Two of bool, shape `(n,)`: whether a token begins a word (the first one of a text does), and whether it
            belongs to a unit at all: not dropped, and no part of a blank character.
        """
        first, last = self._first[ids], self._last[ids]
        whole, kept = np.ones(len(ids), bool), ~self.dropped[ids]
        partial = np.flatnonzero(self._partial[ids])
        if len(partial):
            first[partial], last[partial], whole[partial] = self._complete(ids[partial])
            kept[partial] &= (first[partial] != Meeting.BLANK) | (last[partial] != Meeting.BLANK)
        joins = np.zeros(len(ids), bool)
        left, right = last[:-1], first[1:]
        letters = (right == Meeting.WORD) & (left <= Meeting.MARK)
        marks = (right == Meeting.MARK) & (left != Meeting.BLANK)
        cut = self._cut_before[ids[1:]] | self._cut_after[ids[:-1]]
        joins[1:] = (letters | marks | ~whole[1:]) & ~cut
        joins[offsets[:-1][np.diff(offsets) > 0]] = False
        return ~joins, kept

    def _complete(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read tokens that hold parts of characters, with their neighbours' bytes.

        Only such tokens can stand on both sides of a cut character, so the others need not be among them.

        Args:
            ids: All such tokens of some texts, in order, shape `(n,)`.

        Returns:
            Meeting of the first and of the last character, int8, and whether the token begins with the first byte of a
            character, bool, each of shape `(n,)`.
        """
        places, offsets = places_of(self._offsets, ids)
        data = self._bytes[places]
        leads = (data & 0xC0) != 0x80
        lead_places = np.flatnonzero(leads)
        kinds = np.full(len(data) + 1, Meeting.WORD, np.int8)
        if len(lead_places):
            found = _meetings(_code_points(data, lead_places))
            char = np.cumsum(leads) - 1
            kinds[:-1] = np.where(char >= 0, found[np.maximum(char, 0)], Meeting.WORD)
        return kinds[offsets[:-1]], kinds[offsets[1:] - 1], leads[offsets[:-1]]


def _cuts(vocab: CanonicalVocab, control: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return before and after which ids a word always ends, bool, shape `(n,)` each."""
    starts = vocab.starts_word != 0 if vocab.family is Family.WORDPIECE else vocab.starts_word == 1
    return starts | control, (vocab.ends_word == 1) | control


def _text(raw: bytes) -> str | None:
    """Return bytes as text, or None if they are no whole characters."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_blank(text: str) -> bool:
    """Whether a text has no character that could be translated."""
    return all(meeting(ord(char)) == Meeting.BLANK for char in text)


def _code_points(data: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """Return the characters that begin at some bytes; what is no UTF-8 becomes a letter.

    Args:
        data: Bytes, uint8, shape `(n,)`.
        leads: Places of first bytes, shape `(n_chars,)`.

    Returns:
        Code points, int64, shape `(n_chars,)`.
    """
    padded = np.concatenate([data, np.zeros(3, np.uint8)]).astype(np.int64)
    first, second, third, fourth = (padded[leads + step] for step in range(4))
    tails = [byte & 0x3F for byte in (second, third, fourth)]
    two = (first & 0x1F) << 6 | tails[0]
    three = (first & 0x0F) << 12 | tails[0] << 6 | tails[1]
    four = (first & 0x07) << 18 | tails[0] << 12 | tails[1] << 6 | tails[2]
    points = np.select([first < 0x80, first < 0xE0, first < 0xF0], [first, two, three], four)
    follow = [(byte & 0xC0) == 0x80 for byte in (second, third, fourth)]
    whole = np.select(
        [first < 0x80, first < 0xE0, first < 0xF0],
        [np.ones(len(leads), bool), follow[0], follow[0] & follow[1]],
        follow[0] & follow[1] & follow[2],
    )
    return np.where(whole & (points < 0x110000), points, ord("a"))


def _meetings(points: np.ndarray) -> np.ndarray:
    """Return the :class:`Meeting` of each character, int8."""
    unique, inverse = np.unique(points, return_inverse=True)
    return np.asarray([meeting(point) for point in unique.tolist()], np.int8)[inverse]


__all__ = ["Meeting", "WordFinder", "meeting"]
