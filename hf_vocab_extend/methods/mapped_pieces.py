"""Tokens that no translation covers, and the covered tokens that they are made of or that begin with them.

Remy et al. 2024 compare every such token with every other one. Here all covered tokens stand in one trie, and all
places of all uncovered tokens walk down it at once: a step is one binary search for all of them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..resources.alignment.ragged import offsets_of, row_of
from ..vocab.canonical import CanonicalVocab, TokenKind

_START, _END, _SYMBOLS = 256, 257, 258


@dataclass(frozen=True, eq=False)
class Strings:
    """Strings of symbols end to end: bytes, and marks of the start and the end of a word.

    Attributes:
        offsets: Start of each string, int64, shape `(n + 1,)`.
        symbols: Int16, shape `(offsets[-1],)`.
    """

    offsets: np.ndarray
    symbols: np.ndarray

    def __len__(self) -> int:
        """Number of strings."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Symbols of each string, int64, shape `(n,)`."""
        return np.diff(self.offsets)

    @classmethod
    def from_bytes(
        cls, raw: Sequence[bytes], starts: np.ndarray | None = None, ends: np.ndarray | None = None
    ) -> Strings:
        """Join byte strings; where a mask, bool, shape `(n,)`, is set, a mark of the word's start or end is added."""
        starts = np.zeros(len(raw), bool) if starts is None else starts
        ends = np.zeros(len(raw), bool) if ends is None else ends
        lengths = np.fromiter(map(len, raw), np.int64, len(raw))
        offsets = offsets_of(lengths + starts + ends)
        symbols = np.empty(offsets[-1], np.int16)
        is_mark = np.zeros(offsets[-1], bool)
        first, last = offsets[:-1][starts], offsets[1:][ends] - 1
        symbols[first], symbols[last] = _START, _END
        is_mark[first] = is_mark[last] = True
        symbols[~is_mark] = np.frombuffer(b"".join(raw), np.uint8)
        return cls(offsets, symbols)


def spelled(vocab: CanonicalVocab, ids: np.ndarray) -> Strings:
    """Return the bytes of tokens with the marks of word starts and ends that their spelling tells, for any family."""
    raw = [vocab.raw[index] for index in ids.tolist()]
    return Strings.from_bytes(raw, vocab.starts_word[ids] == 1, vocab.ends_word[ids] == 1)


def token_strings(vocab: CanonicalVocab, ids: np.ndarray) -> Strings:
    """Return tokens as the tokenizer writes them, marks included, as the package ``trans-tokenizers`` does."""
    return Strings.from_bytes([(vocab.tokens[index] or "").encode("utf-8", "surrogatepass") for index in ids.tolist()])


def whole_characters(vocab: CanonicalVocab, ids: np.ndarray) -> np.ndarray:
    """Which tokens are text of whole characters, bool, shape of ``ids``."""
    whole = np.fromiter((_decodes(vocab.raw[index]) for index in ids.tolist()), bool, len(ids))
    return whole & (vocab.kinds[ids] == TokenKind.NORMAL)


def _decodes(raw: bytes) -> bool:
    """Whether bytes are whole characters."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


class _Trie:
    """All prefixes of some strings; node 0 is the root.

    Attributes:
        edges: ``parent * _SYMBOLS + symbol`` of each other node, ascending: node `i + 1` is reached by edge `i`.
        string: String that ends at each node, -1 for none.
        first: Place of the first sorted string that passes through each node.
        last: Place after the last one.
        order: Numbers of the strings in sorted order.
    """

    def __init__(self, strings: Strings) -> None:
        self.order = _sorted(strings)
        lengths, starts = strings.lengths[self.order], strings.offsets[:-1][self.order]
        node = np.zeros(len(strings), np.int64)
        edges = [np.zeros(0, np.int64)]
        firsts, lasts = [np.zeros(1, np.int64)], [np.full(1, len(strings), np.int64)]
        n_nodes, depth = 1, 0
        alive = np.flatnonzero(lengths > 0)
        while len(alive):
            step = node[alive] * _SYMBOLS + strings.symbols[starts[alive] + depth]
            is_new = np.diff(step, prepend=-1) != 0
            change = np.flatnonzero(is_new)
            edges.append(step[change])
            firsts.append(alive[change])
            lasts.append(alive[np.append(change[1:], len(alive)) - 1] + 1)
            node[alive] = n_nodes - 1 + np.cumsum(is_new)
            n_nodes, depth = n_nodes + len(change), depth + 1
            alive = alive[lengths[alive] > depth]
        self.edges, self.first, self.last = (np.concatenate(parts) for parts in (edges, firsts, lasts))
        self.string = np.full(n_nodes, -1, np.int64)
        self.string[node] = self.order

    def step(self, nodes: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """Return the child of each node by a symbol, -1 for none."""
        if not len(self.edges):
            return np.full(len(nodes), -1, np.int64)
        keys = nodes * _SYMBOLS + symbols
        places = np.minimum(np.searchsorted(self.edges, keys), len(self.edges) - 1)
        return np.where(self.edges[places] == keys, places + 1, -1)


def _sorted(strings: Strings) -> np.ndarray:
    """Return the numbers of strings in the order of their symbols."""
    text = strings.symbols.astype("<u4").tobytes().decode("utf-32-le")
    bounds = strings.offsets.tolist()
    keys = [text[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)]
    return np.asarray(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


@dataclass(frozen=True, eq=False)
class Parts:
    """Which covered tokens speak for which uncovered ones; each pair once, ascending by ``query``, then ``piece``.

    Attributes:
        query: Number of the uncovered token, int64, shape `(n,)`.
        piece: Number of the covered token, int64, shape `(n,)`.
    """

    query: np.ndarray
    piece: np.ndarray


def mapped_pieces(queries: Strings, pieces: Strings, inner: np.ndarray | None = None) -> Parts:
    """Find for each query the pieces that begin with it, and the longest pieces inside it.

    A piece inside a query counts if no other piece inside the query contains it, once however often it occurs.

    Args:
        queries: Uncovered tokens, none of them among the pieces.
        pieces: Covered tokens, all different and not empty.
        inner: Which pieces may count as part of a query, bool, shape `(n_pieces,)`; by default all.
    """
    trie = _Trie(pieces)
    usable = np.ones(len(pieces), bool) if inner is None else inner
    owner = row_of(queries.offsets)
    end_of, begin_of = queries.offsets[1:][owner], queries.offsets[:-1][owner]
    longest = np.zeros(len(owner), np.int64)  # where the longest piece from each place ends
    start, node, depth = np.arange(len(owner)), np.zeros(len(owner), np.int64), 0
    found, whole = [np.zeros((3, 0), np.int64)], [np.zeros((2, 0), np.int64)]
    while len(start):
        node = trie.step(node, queries.symbols[start + depth])
        start, node, depth = start[node >= 0], node[node >= 0], depth + 1
        ended = start + depth == end_of[start]
        full = ended & (start == begin_of[start])
        whole.append(np.stack([owner[start[full]], node[full]]))
        string = trie.string[node]
        hit = (string >= 0) & usable[string]
        longest[start[hit]] = start[hit] + depth
        found.append(np.stack([start[hit], start[hit] + depth, string[hit]]))
        start, node = start[~ended], node[~ended]
    n = max(len(pieces), 1)
    inside = _outermost(owner, np.concatenate(found, 1), longest, n)
    begins = _beginning(trie, np.concatenate(whole, 1), n)
    keys = np.union1d(inside, begins)
    return Parts(keys // n, keys % n)


def _outermost(owner: np.ndarray, occurrences: np.ndarray, longest: np.ndarray, n: int) -> np.ndarray:
    """Return ``query * n + piece`` of the pieces inside a query that no other piece inside it contains.

    If one piece contains another as a string and both occur in a query, then some occurrence of the smaller one lies
    within an occurrence of the larger one, so it is enough to compare places.
    """
    starts, ends, strings = occurrences
    # the furthest end of all pieces that begin before a place; those of earlier queries end before this one begins
    before = np.concatenate([[0], np.maximum.accumulate(longest)])[starts]
    contained = (before >= ends) | (longest[starts] > ends)
    keys = owner[starts] * n + strings
    return np.setdiff1d(keys, keys[contained])


def _beginning(trie: _Trie, whole: np.ndarray, n: int) -> np.ndarray:
    """Return ``query * n + piece`` of the pieces that pass through the node where a query ends."""
    queries, nodes = whole
    sizes = trie.last[nodes] - trie.first[nodes]
    inner = offsets_of(sizes)
    places = np.arange(inner[-1]) + np.repeat(trie.first[nodes] - inner[:-1], sizes)
    return np.repeat(queries, sizes) * n + trie.order[places]


__all__ = ["Parts", "Strings", "mapped_pieces", "spelled", "token_strings", "whole_characters"]
