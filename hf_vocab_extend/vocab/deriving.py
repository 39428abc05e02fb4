"""Merges that make given tokens out of the pieces a BPE cuts them into today."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Pair = tuple[str, str]


@dataclass(frozen=True)
class Goal:
    """A token to be made.

    Attributes:
        pieces: Its pieces today, in order, at least one.
        weight: How often it is expected, at least 1.
    """

    pieces: tuple[str, ...]
    weight: int


def derive_merges(goals: Sequence[Goal], forbidden: frozenset[str] = frozenset()) -> list[str]:
    """Return the products, in merge order, after which every goal is one piece.

    This is BPE training with the goals as its only words: at every step the product with the highest weight is made
    everywhere. Since training and encoding apply the same products in the same order to the same pieces, a goal comes
    out of the encoder as it came out of the training: as one token. The same holds for every product on the way.
    What joins is decided by what it spells: any two neighbours that spell a product become it.

    Args:
        goals: Tokens to be made.
        forbidden: Strings that must not become products.

    Returns:
        Products. Goals of which one part is forbidden may stay in several pieces.
    """
    state = _State(goals, forbidden)
    while (product := state.pop()) is not None:
        state.make(product)
    return list(state.ranks)


class _State:
    """Pieces of every goal, weights of every possible product, and a heap over them."""

    def __init__(self, goals: Sequence[Goal], forbidden: frozenset[str]) -> None:
        self.goals = goals
        self.pieces = [list(goal.pieces) for goal in goals]
        self.forbidden = forbidden
        self.weights: dict[str, int] = defaultdict(int)
        self.places: dict[str, set[int]] = defaultdict(set)
        self.ranks: dict[str, int] = {}
        self.heap: list[tuple[int, str]] = []
        changed: set[str] = set()
        for index in range(len(goals)):
            changed |= self._count(index, 1)
        self._push(changed)

    def _count(self, index: int, sign: int) -> set[str]:
        """Add or take off the products that the neighbours of a goal spell; return those."""
        goal, pieces = self.goals[index], self.pieces[index]
        products = set()
        for left, right in zip(pieces, pieces[1:], strict=False):
            product = left + right
            if product in self.forbidden:
                continue
            self.weights[product] += sign * goal.weight
            if sign > 0:
                self.places[product].add(index)
            products.add(product)
        return products

    def _push(self, products: Iterable[str]) -> None:
        for product in products:
            if self.weights[product] > 0:
                heapq.heappush(self.heap, (-self.weights[product], product))

    def pop(self) -> str | None:
        """Return the heaviest product, or None when nothing is left; equal weights go by spelling."""
        while self.heap:
            weight, product = heapq.heappop(self.heap)
            # Entries are never taken out of the heap when a weight changes; an outdated one does not agree.
            if self.weights[product] == -weight > 0 and product not in self.ranks:
                return product
        return None

    def make(self, product: str) -> None:
        """Give the product the next rank and apply all ranks to the goals in which it occurs."""
        self.ranks[product] = len(self.ranks)
        changed: set[str] = set()
        for index in sorted(self.places.pop(product)):
            changed |= self._count(index, -1)
            self.pieces[index] = join(self.pieces[index], self.ranks)
            changed |= self._count(index, 1)
        self._push(sorted(changed))


def join(pieces: Sequence[str], ranks: dict[str, int]) -> list[str]:
    """Join neighbours as the encoder does: the lowest rank first, the leftmost of equal ones first."""
    pieces = list(pieces)
    while len(pieces) > 1:
        found = [
            (ranks[product], place)
            for place in range(len(pieces) - 1)
            if (product := pieces[place] + pieces[place + 1]) in ranks
        ]
        if not found:
            break
        place = min(found)[1]
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
    return pieces


def all_splits(products: Iterable[str], vocab: Iterable[str], suffix: str = "") -> list[Pair]:
    """Return every pair of tokens that spells a product, products in their order, pairs from the left.

    A BPE knows pairs, not spellings: with all of them listed, two neighbours join wherever they were cut.

    Args:
        products: Tokens that are made of two.
        vocab: All tokens.
        suffix: What the last piece of a word ends with; a left half never does.
    """
    known = frozenset(vocab)
    pairs = []
    for product in products:
        for cut in range(1, len(product)):
            left, right = product[:cut], product[cut:]
            if left in known and right in known and right != suffix and not (suffix and left.endswith(suffix)):
                pairs.append((left, right))
    return pairs


__all__ = ["Goal", "all_splits", "derive_merges", "join"]
