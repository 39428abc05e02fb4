"""New pieces for a Unigram model: proposed by merging characters, scored by how the best path uses them."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from tokenizers import Tokenizer, models

from .adding import Data, append_pieces, new_data
from .growing_base import Material, frequent_characters, joined_runs, used_counts
from .pair_training import train_pairs
from .pruning import prune

_PROPOSED = 2.5
"""Pieces proposed for each one asked for."""

_SHARE = 0.02
"""Weight of the new pieces against the old ones, as in a mixture of two models. A small one keeps source text as it
was cut (8.8 % of English lines are cut otherwise after Swahili was learnt at weight 1, and 1.6 % at this one) and
costs next to nothing on the new text (0.7 % more tokens), since long pieces beat several short ones all the same."""


def grow_unigram(material: Material) -> tuple[Data, list[str]]:
    """Return the ``tokenizer.json`` of a Unigram model with new pieces, and these in the order of their ids.

    Candidates are the products of byte-pair encoding on the characters. Old scores stay as they are; a new piece has
    the log of its share in the best paths over the text, times a small weight, found by encoding anew whenever the
    least useful candidates have been dropped (hard expectation maximisation). So old text is cut otherwise only where
    it holds a new piece that beats its old pieces.
    """
    vocab = material.data["model"]["vocab"]
    known = {piece for piece, _ in vocab} | material.barred()
    letters = [char for char in frequent_characters(material) if char not in known]
    letters = letters[: material.options.num_new_tokens]
    proposed = letters + _propose(material, known | set(letters))
    scores = _Scores(material, letters, proposed)
    chosen = prune(proposed, material.options.num_new_tokens, scores.count, lambda t: len(t) - 1, frozenset(letters))
    data = new_data(material.data)
    append_pieces(data, [(piece, scores.of[piece]) for piece in chosen], scores.floor)
    return data, chosen


def _propose(material: Material, known: set[str]) -> list[str]:
    """Return candidates in the order of learning."""
    rules = material.rules
    sequences: Counter[tuple[int, ...]] = Counter()
    for word, count in material.words.items():
        for run in joined_runs(tuple(map(ord, word)), rules.groups(word)):
            sequences[run] += count
    most = int(_PROPOSED * material.options.num_new_tokens)
    found: dict[str, None] = {}
    limit = 2 * most
    pairs = train_pairs(sequences, limit, material.options.min_frequency)
    for left, right in pairs:
        token = "".join(map(chr, left + right))
        if token not in known and not material.too_long(token):
            found[token] = None
    return list(found)[:most]


class _Scores:
    """Scores of the candidates, and the counts that the model has with them."""

    def __init__(self, material: Material, letters: list[str], proposed: list[str]) -> None:
        model = material.data["model"]
        self.old = [(piece, score) for piece, score in model["vocab"]]
        self.options = {"unk_id": model["unk_id"], "byte_fallback": bool(model.get("byte_fallback"))}
        self.words, self.counts = list(material.words), list(material.words.values())
        # Unknown text costs the lowest score less ten: a new piece below the lowest would change that for old text.
        self.floor = min((score for _, score in self.old), default=0.0)
        flat = max(self.floor, -math.log(len(proposed) + 1))
        self.of = dict.fromkeys(proposed, flat)

    def count(self, chosen: list[str], learning: bool) -> np.ndarray:
        """Return how often each chosen piece is used, and learn its score from that."""
        pieces = self.old + [(piece, self.of[piece]) for piece in chosen]
        backend = Tokenizer(models.Unigram(pieces, **self.options))
        used = used_counts(backend.encode_batch_fast(self.words, add_special_tokens=False), self.counts, len(pieces))
        if learning:
            total = math.log(max(1, int(used.sum())))
            for piece, count in zip(chosen, used[len(self.old) :].tolist(), strict=True):
                self.of[piece] = max(self.floor, math.log(max(count, 0.5)) - total + math.log(_SHARE))
        return used[len(self.old) :]


__all__ = ["grow_unigram"]
