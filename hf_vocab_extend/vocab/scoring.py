"""Scores that let new Unigram pieces win their own text and little else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

MARGIN = 0.01
"""What a piece scores above the best way to cut it: far above the rounding of the 32-bit scores of a ``.model``."""


def best_cut(piece: str, scores: Mapping[str, float]) -> float:
    """Return the highest score of a way to cut a piece into two or more others; minus infinity if there is none."""
    n = len(piece)
    best = [0.0] + [-math.inf] * n
    for end in range(1, n + 1):
        for start in range(end):
            score = scores.get(piece[start:end])
            if score is not None and end - start < n and best[start] + score > best[end]:
                best[end] = best[start] + score
    return best[n]


def score_pieces(
    pieces: Mapping[str, float | None], scores: Mapping[str, float], margin: float = MARGIN
) -> dict[str, float]:
    """Give every new piece a score at which its own text comes out whole.

    A piece keeps its proposed score (a log probability) where that wins already, and is lifted a little above the best
    cut of its text where not. A piece without a proposal gets just that: it wins where its own parts would have stood
    and outbids hardly anything else, so other text keeps its cuts as far as possible. Shorter pieces are settled
    first, since a cut only holds shorter ones.

    The lift is ``margin`` for the last piece and ten times that for the first: no two are equal, so that two lifted
    pieces that overlap never tie (rounding would decide, and programs round differently): the more wanted one wins.

    Args:
        pieces: New piece -> proposed score or None, most wanted first.
        scores: Score of each present piece.
        margin: Least distance to the best cut.

    Returns:
        New piece -> score, in the order given.
    """
    known = dict(scores)
    lowest = min(known.values(), default=0.0)
    lift = {piece: margin * (10 - 9 * (place + 1) / len(pieces)) for place, piece in enumerate(pieces)}
    for piece in sorted(pieces, key=len):
        cut, proposal = best_cut(piece, known), pieces[piece]
        floor = cut + lift[piece] if cut > -math.inf else -math.inf
        if proposal is None:
            proposal = lowest if cut == -math.inf else -math.inf
        known[piece] = max(floor, proposal)
    return {piece: known[piece] for piece in pieces}


def silent_score(names: Sequence[str], scores: Mapping[str, float]) -> float:
    """Return a score at which none of the names is ever preferred to its parts: that of entries that hold a place."""
    cuts = [cut for name in names if (cut := best_cut(name, scores)) > -math.inf]
    return min([*cuts, *scores.values(), 0.0]) - 1.0


__all__ = ["MARGIN", "best_cut", "score_pieces", "silent_score"]
