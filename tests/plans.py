"""Plans made by hand, so that surgery is tested apart from matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hf_vocab_extend.plan import MatchKind, VocabPlan
from hf_vocab_extend.vocab.canonical import CanonicalVocab, Family, TokenKind


def vocabulary(n: int, kinds: Mapping[int, TokenKind] | None = None, prefix: str = "t") -> CanonicalVocab:
    """A vocabulary of `n` made-up tokens."""
    all_kinds = np.full(n, TokenKind.NORMAL, np.uint8)
    for index, kind in (kinds or {}).items():
        all_kinds[index] = kind
    holes = all_kinds == TokenKind.HOLE
    tokens = tuple(None if hole else f"{prefix}{index}" for index, hole in enumerate(holes))
    raw = tuple((token or "").encode() for token in tokens)
    place = np.full(n, -1, np.int8)
    return CanonicalVocab(Family.WORDPIECE, tokens, raw, place, place, all_kinds)


def extend_plan(n_source: int, n_target: int) -> VocabPlan:
    """All source ids stay, the rest is new."""
    kinds = np.full(n_target, MatchKind.NEW, np.uint8)
    kinds[:n_source] = MatchKind.SAME
    source_ids = np.where(np.arange(n_target) < n_source, np.arange(n_target), -1)
    return VocabPlan("extend", vocabulary(n_source), vocabulary(n_target), source_ids, kinds)


def replace_plan(
    source_ids: Sequence[int], n_source: int, *, holes: Sequence[int] = (), specials: Sequence[int] = ()
) -> VocabPlan:
    """Target id `i` is source id `source_ids[i]`, or new where that is -1."""
    ids = np.asarray(source_ids, np.int64)
    kinds = np.where(ids >= 0, MatchKind.EXACT, MatchKind.NEW).astype(np.uint8)
    kinds[list(holes)] = MatchKind.HOLE
    kinds[list(specials)] = MatchKind.SPECIAL
    return VocabPlan("replace", vocabulary(n_source), vocabulary(len(ids), prefix="u"), ids, kinds)


def permutation(n: int, fixed: int = 5, seed: int = 0) -> np.ndarray:
    """A permutation that leaves the first ids where they are."""
    rest = np.random.default_rng(seed).permutation(np.arange(fixed, n))
    return np.concatenate([np.arange(fixed), rest])
