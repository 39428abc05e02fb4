"""How each family takes in given tokens: merges for BPE, scores for Unigram, a list for WordPiece."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import models

from .adding import Data, append_merges, append_pieces, append_tokens, first_free_id, merge_pairs, token_ids
from .deriving import Goal, all_splits, derive_merges, join
from .pipeline import Family, Spelling
from .requests import Request
from .scoring import score_pieces, silent_score


@dataclass
class Addition:
    """What a family's strategy put into a ``tokenizer.json``.

    Attributes:
        added: Requests that are in, in the order of their ids or not.
        steps: Further tokens.
        failed: Requests that could not be made.
    """

    added: list[Request]
    steps: list[str]
    failed: list[Request]


Strategy = Callable[[Data, Sequence[Request], Spelling, frozenset[str]], Addition]
"""Takes a ``tokenizer.json`` to change in place, requests, the spelling, and strings that must not become tokens."""


def _add_to_bpe(data: Data, requests: Sequence[Request], spelling: Spelling, forbidden: frozenset[str]) -> Addition:
    """Append products and the merges that make them."""
    present = token_ids(data)
    symbols = _new_symbols(requests, present, spelling, forbidden)
    cutter = _Cutter(data, symbols, spelling.suffix)
    goals, asked, failed = [], [], []
    for request in requests:
        pieces = cutter.cut(request.token)
        if pieces is None:
            failed.append(request)
        else:
            goals.append(Goal(pieces, request.entry.weight))
            asked.append(request)
    products = derive_merges(goals, forbidden)
    ranks = {product: rank for rank, product in enumerate(products)}
    made = set()
    for goal, request in zip(goals, asked, strict=True):
        if len(join(goal.pieces, ranks)) == 1:
            made.add(request.token)
        else:
            failed.append(request)
    tokens = list(dict.fromkeys([*symbols, *(item for item in products if item not in present)]))
    append_tokens(data, tokens)
    known = set(merge_pairs(data))
    splits = all_splits(products, data["model"]["vocab"], spelling.suffix)
    append_merges(data, (pair for pair in splits if pair not in known))
    added = [request for request in asked if request.token in made]
    return Addition(added, [token for token in tokens if token not in made], failed)


def _new_symbols(
    requests: Sequence[Request], present: dict[str, int], spelling: Spelling, forbidden: frozenset[str]
) -> list[str]:
    """Return the single characters that the requests need and the vocabulary lacks, in the order of their use."""
    needed: dict[str, None] = {}
    for request in requests:
        ends = bool(spelling.suffix) and request.token.endswith(spelling.suffix)
        body = request.token[: -len(spelling.suffix)] if ends else request.token
        symbols = list(body[:-1]) + [body[-1] + spelling.suffix] if ends else list(body)
        if not any(symbol in forbidden for symbol in symbols):
            needed.update((symbol, None) for symbol in symbols if symbol not in present)
    return list(needed)


class _Cutter:
    """Cuts tokens with the merges of a BPE alone, whatever its pipeline and its other rules."""

    def __init__(self, data: Data, symbols: Sequence[str], suffix: str) -> None:
        vocab = dict(data["model"]["vocab"])
        start = first_free_id(data)
        vocab |= {symbol: start + index for index, symbol in enumerate(symbols)}
        merges = merge_pairs(data)
        self.suffix = suffix
        self.inner = models.BPE(vocab=vocab, merges=merges)
        self.last = models.BPE(vocab=vocab, merges=merges, end_of_word_suffix=suffix) if suffix else self.inner

    def cut(self, token: str) -> tuple[str, ...] | None:
        """Return the pieces of a token, or None if a character of it is not in the vocabulary."""
        ends = bool(self.suffix) and token.endswith(self.suffix)
        pieces = self.last.tokenize(token[: -len(self.suffix)]) if ends else self.inner.tokenize(token)
        values = tuple(piece.value for piece in pieces)
        return values if "".join(values) == token else None


def _add_to_unigram(
    data: Data, requests: Sequence[Request], spelling: Spelling, forbidden: frozenset[str]
) -> Addition:
    """Append pieces with scores."""
    scores = {piece: score for piece, score in data["model"]["vocab"] if piece not in forbidden}
    proposals = {request.token: request.entry.score for request in requests}
    pieces = score_pieces(proposals, scores)
    names = [token["content"] for token in data["added_tokens"]]
    append_pieces(data, list(pieces.items()), silent_score(names, scores | pieces))
    return Addition(list(requests), [], [])


def _add_to_wordpiece(
    data: Data, requests: Sequence[Request], spelling: Spelling, forbidden: frozenset[str]
) -> Addition:
    """Append pieces, and each character that could be left over behind a new one.

    The longest piece wins, and if the rest of the word then has no piece, the whole word becomes unknown. Where each
    character is a piece inside words, that cannot happen; a vocabulary in which some is not gets it.
    """
    vocab, prefix = data["model"]["vocab"], spelling.prefix
    inside = {
        char for token in vocab if token.startswith(prefix) and token not in forbidden for char in token[len(prefix) :]
    }
    needed = sorted(prefix + char for char in inside if prefix + char not in vocab)
    tokens = [request.token for request in requests]
    wanted = set(tokens)
    steps = [token for token in needed if token not in wanted and token not in forbidden] if tokens else []
    append_tokens(data, [*tokens, *steps])
    return Addition(list(requests), steps, [])


STRATEGIES: dict[Family, Strategy] = {
    Family.BYTE_BPE: _add_to_bpe,
    Family.SENTENCEPIECE_BPE: _add_to_bpe,
    Family.SUFFIX_BPE: _add_to_bpe,
    Family.UNIGRAM: _add_to_unigram,
    Family.WORDPIECE: _add_to_wordpiece,
}

__all__ = ["STRATEGIES", "Addition"]
