"""Why the words of a space may hold few or none of a tokenizer's tokens: what the words and the tokens look like."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ..vocab.canonical import CanonicalVocab, TokenKind
from .word_vectors import WordVectors

_SAMPLE = 2000
_MOST = 0.5  # a cause is named if at least so many words show it
_EXAMPLES = 3
_PREFIXED = re.compile(r"[a-z]{2,3}([_-][A-Za-z]{2,4})?[:/].")
_MARKS = ("\u2581", "\u0120", "##", "$")


def likely_cause(space: WordVectors, vocab: CanonicalVocab, ids: np.ndarray | None = None) -> str:
    """Say in one or two sentences why words and tokens may not meet, by their looks.

    Args:
        space: The words.
        vocab: The vocabulary whose tokens they should hold.
        ids: Which of its tokens; by default all.

    Returns:
        The first of these that holds for most words: keys with a language code in front, marks of word edges, capital
        letters where the tokens have none, letters of another script; else a plain guess with examples of both.
    """
    words = _spread(space.words, len(space))
    ids = np.arange(len(vocab)) if ids is None else ids
    plain = ids[np.isin(vocab.kinds[ids], (TokenKind.NORMAL, TokenKind.BYTE))]
    texts = [(vocab.text(int(index)) or "").strip() for index in _spread(plain, len(plain))]
    tokens = [text for text in texts if len(text) > 1] or [text for text in texts if text]
    shown = ", ".join(map(repr, words[:_EXAMPLES]))
    for find in _CAUSES:
        cause = find(words, tokens)
        if cause:
            return f"{cause} Words begin like this: {shown}."
    beside = ", ".join(map(repr, tokens[:_EXAMPLES]))
    return f"The words ({shown}) may be of another language or spelling than the tokens ({beside})."


def _spread(values: Sequence[str] | np.ndarray, count: int) -> list:
    """Return at most so many values from all over a sequence."""
    return [values[place] for place in np.unique(np.linspace(0, count - 1, min(_SAMPLE, count), dtype=np.int64))]


def _share(words: Sequence[str], holds: Callable[[str], bool]) -> float:
    """Return the share of words that something holds for."""
    return sum(map(holds, words)) / max(1, len(words))


def _prefixed(words: Sequence[str], tokens: Sequence[str]) -> str:
    """Find language codes in front of words."""
    if _share(words, lambda word: _PREFIXED.match(word) is not None) < _MOST:
        return ""
    return "Most words begin with a code of their language, which belongs to no word; read the file with its prefixes."


def _marked(words: Sequence[str], tokens: Sequence[str]) -> str:
    """Find marks of word edges."""
    for mark in _MARKS:
        if sum(word.startswith(mark) or word.endswith(mark) for word in words) >= _MOST * len(words):
            return f"Most words carry the mark '{mark}' of a word's edge, which is no part of their text."
    return ""


def _cased(words: Sequence[str], tokens: Sequence[str]) -> str:
    """Find words in capitals where tokens have none."""
    capitals = _share(words, lambda word: word != word.lower())
    if capitals < _MOST or _share(tokens, lambda token: token != token.lower()) > capitals / 10:
        return ""
    return "Most words have capital letters and the tokens have none; bring the words in lower case."


def _scripts(texts: Sequence[str]) -> Counter[str]:
    """Count the scripts of letters."""
    letters = Counter(char for text in texts for char in text if char.isalpha())
    scripts: Counter[str] = Counter()
    for char, count in letters.items():
        scripts[unicodedata.name(char, "UNKNOWN").split()[0].split("-")[0]] += count
    return scripts


def _foreign(words: Sequence[str], tokens: Sequence[str]) -> str:
    """Find words in a script that few tokens are in."""
    (script, count), *_ = _scripts(words).most_common(1) or [("", 0)]
    of_tokens = _scripts(tokens)
    if not count or not of_tokens or of_tokens[script] >= of_tokens.total() / 20:
        return ""
    main = of_tokens.most_common(1)[0][0]
    return (
        f"The words are written in {_called(script)} letters and the tokens mostly in {_called(main)} ones, so the "
        "language is probably the wrong one."
    )


def _called(script: str) -> str:
    """Return what a script is called."""
    return {"CJK": "Chinese"}.get(script, script.title())


_CAUSES = (_prefixed, _marked, _cased, _foreign)
