"""Which source token is which target token: by bytes and place in a word, by byte value, by special role.

Matching never goes through decoded text: pieces of a character would all decode to the replacement character.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import IntEnum
from typing import TypeVar

import numpy as np

from .canonical import UNTOLD, CanonicalVocab, TokenKind

Key = TypeVar("Key", bound=Hashable)
Place = tuple[int, int]
"""Values of ``starts_word`` and ``ends_word``."""


class MatchKind(IntEnum):
    """How a target id found its source id."""

    NEW = 0
    """No source token: a method finds its row."""
    SAME = 1
    """Same id in both (mode ``extend``): the row stays as it is, holes and padding included."""
    EXACT = 2
    """Same bytes and same place in a word."""
    BYTE = 3
    """Same single byte of a byte alphabet or of byte fallback."""
    SPECIAL = 4
    """Same role (bos, eos, pad, ...)."""
    FUZZY = 5
    """Same spelling but for case or word start; only if asked for."""
    HOLE = 6
    """An id without a token (mode ``replace``): padding."""


class _Matches:
    """Result under construction: only ids without a match yet are looked at."""

    def __init__(self, target: CanonicalVocab) -> None:
        holes = target.kinds == TokenKind.HOLE
        self.source_ids = np.full(len(target), -1, np.int64)
        self.kinds = np.where(holes, MatchKind.HOLE, MatchKind.NEW).astype(np.uint8)

    def open(self, candidates: np.ndarray) -> list[int]:
        """Return the ids of a mask that have no match yet, ascending."""
        return np.flatnonzero(candidates & (self.source_ids < 0)).tolist()

    def look_up(
        self, ids: list[int], key: Callable[[int], Hashable], tables: Iterable[Mapping], kind: MatchKind
    ) -> None:
        """Match ids whose key is in the tables; with several tables the lowest source id wins."""
        if not ids:
            return
        keys = [key(index) for index in ids]
        nothing = np.iinfo(np.int64).max
        found = np.full(len(ids), nothing, np.int64)
        for table in tables:
            found = np.minimum(found, [table.get(item, nothing) for item in keys])
        hit = found < nothing
        positions = np.asarray(ids, np.int64)[hit]
        self.source_ids[positions] = found[hit]
        self.kinds[positions] = kind


def _table(ids: np.ndarray, key: Callable[[int], Key]) -> dict[Key, int]:
    """Return the lowest id of each key."""
    return {key(index): index for index in reversed(ids.tolist())}


def _is_letter(vocab: CanonicalVocab) -> np.ndarray:
    """Which ids are letters of a byte alphabet (and not ``<0xNN>`` of byte fallback), bool, shape `(n,)`."""
    letters = np.zeros(len(vocab), bool)
    bytes_ = np.flatnonzero(vocab.kinds == TokenKind.BYTE)
    letters[bytes_] = [len(vocab.tokens[index] or "") == 1 for index in bytes_.tolist()]
    return letters


def _is_ascii(vocab: CanonicalVocab) -> np.ndarray:
    """Which ids are one ASCII byte: the only bytes that are a character by themselves, bool, shape `(n,)`."""
    return np.fromiter((len(raw) == 1 and raw < b"\x80" for raw in vocab.raw), bool, len(vocab))


def _places(vocab: CanonicalVocab, mask: np.ndarray) -> dict[Place, np.ndarray]:
    """Split the ids of a mask by their place in a word."""
    codes = 4 * vocab.starts_word.astype(np.int16) + vocab.ends_word
    all_places = [(starts, ends) for starts in (UNTOLD, 0, 1) for ends in (UNTOLD, 0, 1)]
    masks = {place: mask & (codes == 4 * place[0] + place[1]) for place in all_places}
    return {place: found for place, found in masks.items() if found.any()}


def _rank(target: Place, source: Place, same_family: bool) -> int | None:
    """Return how well a place in a source word fits one in a target word: lower is better, None not at all.

    A place that one side does not tell contradicts nothing. Then:

    - a WordPiece character that stands by itself (``,``) goes before the form inside a word (``##,``), which the
      pipeline never yields;
    - such a character is taken from the form without a space (``,``) before the one with (`` ,``): most punctuation
      follows a word directly;
    - a token that starts a word is taken from one that ends it before one that does not: frequent tokens are words.
    """
    for here, there in zip(target, source, strict=True):
        if here != there and UNTOLD not in (here, there):
            return None
    isolated = (UNTOLD, UNTOLD)
    if source == isolated and not same_family:
        return 0
    if target == source:
        return 1
    if target == isolated and source[1] == UNTOLD:
        return 2 + source[0]
    return 2 + (target[0] == 1 and source[1] == 0)


def _match_spelled(source: CanonicalVocab, target: CanonicalVocab, matches: _Matches) -> None:
    """Match tokens of the same string and meaning: this alone tells doublets of a vocabulary apart."""
    comparable = np.isin(target.kinds, (TokenKind.NORMAL, TokenKind.BYTE, TokenKind.UNUSED))
    index_of = {token: index for index, token in enumerate(source.tokens) if token is not None}
    ids = np.array(matches.open(comparable), np.int64)
    twins = np.array([index_of.get(target.tokens[index] or "", -1) for index in ids.tolist()], np.int64)
    ids, twins = ids[twins >= 0], twins[twins >= 0]
    same = np.ones(len(ids), bool)
    for name in ("kinds", "starts_word", "ends_word"):
        same &= getattr(target, name)[ids] == getattr(source, name)[twins]
    same &= np.fromiter(
        (target.raw[here] == source.raw[there] for here, there in zip(ids.tolist(), twins.tolist(), strict=True)),
        bool,
        len(ids),
    )
    matches.source_ids[ids[same]] = twins[same]
    is_byte = target.kinds[ids[same]] == TokenKind.BYTE
    matches.kinds[ids[same]] = np.where(is_byte, MatchKind.BYTE, MatchKind.EXACT)


def _match_text(source: CanonicalVocab, target: CanonicalVocab, matches: _Matches) -> None:
    """Match by bytes and place in a word, best fitting places first, then the lowest id."""
    letters = _is_letter(target)
    text = (target.kinds == TokenKind.NORMAL) | (letters & _is_ascii(target))
    tables = {
        place: _table(np.flatnonzero(mask), source.raw.__getitem__)
        for place, mask in _places(source, (source.kinds == TokenKind.NORMAL) | _is_letter(source)).items()
    }
    same_family = source.family is target.family
    for place, mask in _places(target, text).items():
        ranks = {other: _rank(place, other, same_family) for other in tables}
        for rank in sorted({rank for rank in ranks.values() if rank is not None}):
            fitting = [tables[other] for other in tables if ranks[other] == rank]
            matches.look_up(matches.open(mask), target.raw.__getitem__, fitting, MatchKind.EXACT)
    found = np.flatnonzero(letters & (matches.kinds == MatchKind.EXACT))
    by_byte = source.kinds[matches.source_ids[found]] == TokenKind.BYTE
    matches.kinds[found[by_byte]] = MatchKind.BYTE


def _match_bytes(source: CanonicalVocab, target: CanonicalVocab, matches: _Matches) -> None:
    """Match bytes by value, and text of one ASCII byte with a byte of fallback, which is how the source writes it."""
    table = [_table(np.flatnonzero(source.kinds == TokenKind.BYTE), source.raw.__getitem__)]
    matches.look_up(matches.open(target.kinds == TokenKind.BYTE), target.raw.__getitem__, table, MatchKind.BYTE)
    inside = (target.kinds == TokenKind.NORMAL) & _is_ascii(target) & (target.starts_word != 1)
    matches.look_up(matches.open(inside), target.raw.__getitem__, table, MatchKind.BYTE)


def _texts(vocab: CanonicalVocab) -> tuple[np.ndarray, dict[int, str]]:
    """Return which ids are whole characters of text, and their text without a word-start space."""
    mask = (vocab.kinds == TokenKind.NORMAL) | (_is_letter(vocab) & _is_ascii(vocab))
    texts: dict[int, str] = {}
    for index in np.flatnonzero(mask).tolist():
        try:
            texts[index] = vocab.raw[index].decode("utf-8")
        except UnicodeDecodeError:
            mask[index] = False
    return mask, texts


def _match_fuzzy(source: CanonicalVocab, target: CanonicalVocab, matches: _Matches) -> None:
    """Match but for case, then but for the place in a word, then but for both."""
    source_mask, source_texts = _texts(source)
    target_mask, target_texts = _texts(target)
    source_ids = np.flatnonzero(source_mask)
    starts_there, starts_here = source.starts_word.tolist(), target.starts_word.tolist()
    rules: tuple[tuple[Callable[[int], Hashable], Callable[[int], Hashable]], ...] = (
        (
            lambda index: (source_texts[index].lower(), starts_there[index]),
            lambda index: (target_texts[index].lower(), starts_here[index]),
        ),
        (source_texts.__getitem__, target_texts.__getitem__),
        (lambda index: source_texts[index].lower(), lambda index: target_texts[index].lower()),
    )
    for there, here in rules:
        matches.look_up(matches.open(target_mask), here, [_table(source_ids, there)], MatchKind.FUZZY)


def match(
    source: CanonicalVocab, target: CanonicalVocab, roles: Mapping[int, int], fuzzy: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find the source id of each target id.

    In this order: special tokens by role; the same token string of the same meaning; the same bytes in a place in a
    word that agrees as far as both sides tell; bytes by value; and only if asked for, the same text but for case, for
    the place in a word, for both. Ties go to the lowest source id. Special tokens match by role alone, unused places
    only their namesakes, holes nothing.

    Args:
        source: Source vocabulary.
        target: Target vocabulary.
        roles: Target id -> source id of special tokens, see :func:`~.special_tokens.match_roles`.
        fuzzy: Whether to match but for case and word start what has no other match.

    Returns:
        Source id of each target id or -1, int64, and :class:`MatchKind` of each, uint8, both of shape `(n_target,)`.
    """
    matches = _Matches(target)
    for target_id, source_id in roles.items():
        matches.source_ids[target_id], matches.kinds[target_id] = source_id, MatchKind.SPECIAL
    _match_spelled(source, target, matches)
    _match_text(source, target, matches)
    _match_bytes(source, target, matches)
    if fuzzy:
        _match_fuzzy(source, target, matches)
    return matches.source_ids, matches.kinds
