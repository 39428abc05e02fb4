"""What a tokenizer shows its model of a text: pre-tokens with their counts, and where a new token may join them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from .._logging import progress
from .canonical import BYTE_LETTERS
from .pipeline import Spelling, backend_of, read_spelling

_JOINERS = "\u200c\u200d"


class CharClass(IntEnum):
    """What a character is, as far as new tokens may join it to its neighbour."""

    LETTER = 0
    """Letters, marks and joiners."""
    PUNCTUATION = 1
    DIGIT = 2
    SPACE = 3
    CONTROL = 4


_JOINED = (CharClass.LETTER, CharClass.PUNCTUATION)


@cache
def char_class(char: str) -> CharClass:
    """Return the class of a character."""
    category = unicodedata.category(char)
    if category[0] in "LM" or char in _JOINERS:
        return CharClass.LETTER
    if category[0] == "N":
        return CharClass.DIGIT
    if category[0] == "Z":
        return CharClass.SPACE
    return CharClass.CONTROL if category in ("Cc", "Cs", "Cn") else CharClass.PUNCTUATION


def count_pre_tokens(
    tokenizer: PreTrainedTokenizerBase, lines: Iterable[str], show_progress: bool = False
) -> Counter[str]:
    """Return every pre-token of a corpus with its count; only these are held in memory.

    The tokenizer's own normalizer and pre-tokenizer cut the text, after its added tokens were taken out. A tokenizer
    of a family with a space mark whose pre-tokenizer does not cut at it is cut there all the same, so that no new
    token reaches over the start of a word.
    """
    backend = backend_of(tokenizer)
    pieces = _pieces_of(backend, read_spelling(tokenizer))
    cut = _added_token_cutter(backend)
    counts: Counter[str] = Counter()
    for line in progress(lines, desc="Counting words", unit="line") if show_progress else lines:
        for part in cut(line):
            counts.update(pieces(part))
    return counts


def _pieces_of(backend: Tokenizer, spelling: Spelling) -> Callable[[str], Iterable[str]]:
    """Return the function that cuts a text into pre-tokens."""
    normalizer, pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    cut_words = _word_starts(spelling.space_mark)

    def pieces(text: str) -> Iterator[str]:
        if normalizer is not None:
            text = normalizer.normalize_str(text)
        found = [text] if pre_tokenizer is None else [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)]
        for piece in found:
            if cut_words is None or spelling.space_mark not in piece[1:]:
                yield piece
            else:
                yield from cut_words.findall(piece)

    return pieces


def _word_starts(mark: str | None) -> re.Pattern[str] | None:
    """Return a pattern whose matches are words with the one space mark before them, and further marks on their own."""
    if mark is None:
        return None
    mark = re.escape(mark)
    return re.compile(f"{mark}+(?={mark}[^{mark}])|{mark}?[^{mark}]+|{mark}+")


def _added_token_cutter(backend: Tokenizer) -> Callable[[str], list[str]]:
    """Return the function that cuts the added tokens out of a text: they never reach the model."""
    contents = sorted((token.content for token in backend.get_added_tokens_decoder().values()), key=len, reverse=True)
    if not contents:
        return lambda text: [text]
    pattern = re.compile("|".join(map(re.escape, contents)))
    return lambda text: [part for part in pattern.split(text) if part]


@dataclass(frozen=True)
class JoinRules:
    """Which characters new tokens may join.

    Attributes:
        spelling: How the tokenizer spells.
        digits: Whether new tokens may hold digits.
        punctuation: Whether they may hold both letters and punctuation.
    """

    spelling: Spelling
    digits: bool
    punctuation: bool

    def text(self, pre_token: str) -> str:
        """Return the text of a pre-token; undecodable bytes are lone surrogates, the space mark is a space."""
        if self.spelling.byte_level:
            return bytes(map(BYTE_LETTERS.__getitem__, map(ord, pre_token))).decode("utf-8", "surrogateescape")
        return pre_token.replace(self.spelling.space_mark, " ") if self.spelling.space_mark else pre_token

    def groups(self, pre_token: str) -> list[int] | None:
        """Return a number for each place of a pre-token, or None if all of it may be joined.

        Neighbours with the same number may be joined; a place numbered -1 may be joined to nothing.
        """
        text = self.text(pre_token)
        if text.removeprefix(" ").isalpha():
            return None
        classes = [self._group_class(char) for char in text]
        if not any(char.isalpha() for char in text):  # a regex without marks cuts them off with the punctuation
            classes = [CharClass.PUNCTUATION if kind is CharClass.LETTER else kind for kind in classes]
        if len(classes) > 1 and classes[0] == CharClass.SPACE != classes[1]:
            classes[0] = classes[1]
        if len(set(classes)) == 1 and classes[0] in _JOINED:
            return None
        numbers, last, number = [], None, 0
        for char, kind in zip(text, classes, strict=True):
            number += kind != last
            last = kind
            width = len(char.encode("utf-8", "surrogateescape")) if self.spelling.byte_level else 1
            numbers += [number if kind in _JOINED else -1] * width
        return numbers

    def _group_class(self, char: str) -> CharClass:
        """Return the class of a character with what the options allow to be joined taken as letters."""
        kind = char_class(char)
        if kind is CharClass.DIGIT and self.digits or kind is CharClass.PUNCTUATION and self.punctuation:
            return CharClass.LETTER
        return kind


__all__ = ["CharClass", "JoinRules", "char_class", "count_pre_tokens"]
