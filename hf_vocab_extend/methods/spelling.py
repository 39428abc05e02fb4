"""What the spelling of a token says about how its row may be found: letters, signs that mean themselves, numbers."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import numpy as np

from ..plan import MatchKind, VocabPlan
from ..resources.alignment.encoding import encode
from ..vocab.canonical import CanonicalVocab, TokenKind
from ..vocab.pipeline import backend_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NUMBERS = [str(number) for number in range(9999)] + [f"0{number}" for number in range(99)]


def has_letters(vocab: CanonicalVocab, ids: np.ndarray) -> np.ndarray:
    """Which tokens are text with a letter or a combining mark, bool, shape of ``ids``; parts of characters are not."""
    found = np.zeros(len(ids), bool)
    for place in np.flatnonzero(vocab.kinds[ids] == TokenKind.NORMAL).tolist():
        raw = vocab.raw[ids[place]]
        if raw.isascii():
            found[place] = raw.translate(None, _NO_LETTERS) != b""
            continue
        text = vocab.text(ids[place])
        found[place] = text is not None and any(unicodedata.category(char)[0] in "LM" for char in text)
    return found


_NO_LETTERS = bytes(value for value in range(128) if not chr(value).isalpha())


def is_literal(vocab: CanonicalVocab, ids: np.ndarray) -> np.ndarray:
    """Which tokens are ASCII text without letters: digits, punctuation, symbols, space. Bool, shape of ``ids``."""
    ascii_text = np.fromiter((vocab.raw[index].isascii() for index in ids.tolist()), bool, len(ids))
    usual = np.isin(vocab.kinds[ids], (TokenKind.NORMAL, TokenKind.BYTE))
    return usual & ascii_text & ~has_letters(vocab, ids)


def begins_word(vocab: CanonicalVocab) -> np.ndarray:
    """Which tokens start a word, or are the space before one, bool, shape `(n,)`."""
    spaces = np.fromiter((raw != b"" and not raw.strip(b" ") for raw in vocab.raw), bool, len(vocab))
    return (vocab.starts_word == 1) | (spaces & (vocab.kinds == TokenKind.NORMAL))


def spelled_alike(plan: VocabPlan, shared: np.ndarray | None) -> np.ndarray:
    """Return the source id that is spelled like each target id, -1 for none, int64, shape `(n_target,)`.

    Args:
        plan: The plan, in which a method may have asked for copies to be estimated.
        shared: Source ids of those, by place in ``plan.new_ids``, see ``FitContext.shared``.
    """
    alike = np.isin(plan.kinds, (MatchKind.SAME, MatchKind.EXACT, MatchKind.FUZZY, MatchKind.BYTE))
    text = np.isin(plan.target.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    source_ids = np.where(alike & text, plan.source_ids, -1)
    if shared is not None:
        source_ids[plan.new_ids] = shared
    return source_ids


def number_entries(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of tokens that the package ``trans-tokenizers`` adds for numbers, each with a count of 1.

    A number (0 to 9998; 0 to 98 with a zero in front) that is one target token, by its spelling in the vocabulary, cut
    out of text, or after a space, is paired with the first source token of the number.

    Returns:
        Target ids and source ids, int64, both of shape `(n,)`; a pair can occur more than once.
    """
    backends = backend_of(source), backend_of(target)
    vocabs = [backend.get_vocab(with_added_tokens=True) for backend in backends]
    found = []
    for lead in ("", " "):
        texts = [lead + number for number in _NUMBERS]
        (there, there_offsets), (here, here_offsets) = (encode(backend, texts) for backend in backends)
        known = np.flatnonzero(np.diff(there_offsets))
        first = np.full(len(texts), -1, np.int64)
        first[known] = there[there_offsets[known]]
        single = np.diff(here_offsets) == 1
        found.append((here[here_offsets[:-1][single]], first[single]))
        if not lead:
            spelled = np.asarray([vocabs[1].get(number, -1) for number in _NUMBERS], np.int64)
            twins = np.asarray([vocabs[0].get(number, -1) for number in _NUMBERS], np.int64)
            found.append((spelled, np.where(twins >= 0, twins, first)))
    targets, sources = (np.concatenate(parts).astype(np.int64) for parts in zip(*found, strict=True))
    usable = (targets >= 0) & (sources >= 0)
    return targets[usable], sources[usable]


__all__ = ["begins_word", "has_letters", "is_literal", "number_entries", "spelled_alike"]
