"""Choose the most useful of many candidate tokens by encoding with them, and leave none that is not used."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_REFILLS = 10
_LAST_STEP = 0.02
"""Excess over the budget, as a share of it, that goes in one step."""


def prune(
    candidates: Sequence[str],
    budget: int,
    count: Callable[[list[str], bool], np.ndarray],
    saved: Callable[[str], int],
    kept: frozenset[str] = frozenset(),
) -> list[str]:
    """Return ``budget`` candidates, or fewer if fewer are used, in the order given.

    What is in excess goes in steps of a half, the least worth first: a candidate's worth is how often it is used times
    what each use saves. After that, candidates that turn out idle make room for the best of those dropped.

    Args:
        candidates: Distinct tokens.
        budget: How many to choose.
        count: Takes the tokens chosen and whether the choice is still open; returns how often each is used, int64,
            shape `(n,)`.
        saved: Tokens that a use of this one saves.
        kept: Candidates that stay whether used or not.
    """
    gains = {token: max(1, saved(token)) for token in candidates}
    place = {token: index for index, token in enumerate(candidates)}
    chosen = list(candidates)
    reserve: list[str] = []
    while len(chosen) > budget:
        used = dict(zip(chosen, count(chosen, True).tolist(), strict=True))
        ranked = sorted(chosen, key=lambda token: (token not in kept, -used[token] * gains[token], place[token]))
        idle = sum(1 for token in chosen if not used[token] and token not in kept)
        excess = len(chosen) - budget
        step = excess if excess <= budget * _LAST_STEP else max(1, idle, excess // 2)
        cut = len(chosen) - min(excess, step)
        reserve = [token for token in ranked[cut:] if used[token]] + reserve
        chosen = sorted(ranked[:cut], key=place.__getitem__)
    for _ in range(_REFILLS):
        used = dict(zip(chosen, count(chosen, False).tolist(), strict=True))
        busy = [token for token in chosen if used[token] or token in kept]
        if len(busy) == len(chosen) == min(budget, len(busy) + len(reserve)):
            break
        missing = budget - len(busy)
        chosen = sorted([*busy, *reserve[:missing]], key=place.__getitem__)
        reserve = reserve[missing:]
    else:
        used = dict(zip(chosen, count(chosen, False).tolist(), strict=True))
        chosen = [token for token in chosen if used[token] or token in kept]
    return chosen


__all__ = ["prune"]
