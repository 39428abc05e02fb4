"""New pieces for a WordPiece vocabulary: proposed by merging, kept by what longest-match-first encoding uses."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .adding import Data, append_tokens, first_free_id, new_data, token_ids
from .growing_base import Material, bare, frequent_characters, joinable_sequences, used_counts
from .pair_training import train_pairs
from .pruning import prune

_PROPOSED = 2.0
"""Pieces proposed for each one asked for."""


def grow_wordpiece(material: Material) -> tuple[Data, list[str]]:
    """Return the ``tokenizer.json`` of a WordPiece with new tokens, and these in the order of their ids.

    Words are written as the pieces that they have today, pairs are learnt on these, and each product is a candidate.
    The encoder takes the longest piece that fits, whatever the order of learning, so candidates are encoded with and
    the least useful ones dropped, until as many are left as asked for and all of them occur.
    """
    letters = _missing_letters(material)
    base = new_data(material.data)
    append_tokens(base, letters)
    budget = material.options.num_new_tokens - len(letters)
    chosen = _choose(material, base, _propose(material, base, int(_PROPOSED * budget)), budget)
    append_tokens(base, chosen)
    return base, letters + chosen


def _propose(material: Material, base: Data, limit: int) -> list[str]:
    """Return candidates in the order of learning."""
    prefix, vocab = material.spelling.prefix, base["model"]["vocab"]
    names = {index: token for token, index in token_ids(base).items()}
    barred = material.barred()
    found: dict[str, None] = {}
    for left, right in train_pairs(joinable_sequences(material, base), limit, material.options.min_frequency):
        first, *rest = (names[index] for index in left + right)
        token = first + "".join(piece.removeprefix(prefix) for piece in rest)
        if token not in vocab and token not in barred and not material.too_long(token):
            found[token] = None
    return list(found)


def _choose(material: Material, base: Data, proposed: list[str], budget: int) -> list[str]:
    """Return the candidates to take."""
    words, start, prefix = list(material.words), first_free_id(base), material.spelling.prefix
    plain = [token.removeprefix(prefix) for token in proposed]
    pieces = bare(base).encode_batch_fast(plain, add_special_tokens=False)
    saved = {token: len(encoding.ids) - 1 for token, encoding in zip(proposed, pieces, strict=True)}

    def count(chosen: list[str], learning: bool) -> np.ndarray:
        data = new_data(base)
        append_tokens(data, chosen)
        encodings = bare(data).encode_batch_fast(words, add_special_tokens=False)
        return used_counts(encodings, material.words.values(), start + len(chosen))[start:]

    return prune(proposed, budget, count, saved.__getitem__)


def _missing_letters(material: Material) -> list[str]:
    """Return the characters that the vocabulary lacks at the start of words and inside, most frequent first."""
    prefix, vocab = material.spelling.prefix, material.data["model"]["vocab"]
    longest = material.data["model"]["max_input_chars_per_word"]
    wanted = set(frequent_characters(material))
    least = 1 if material.letters else material.options.min_frequency
    counts: Counter[str] = Counter()
    for word, count in (material.letters or material.words).items():
        if len(word) <= longest:
            for place, char in enumerate(word):
                counts[prefix + char if place else char] += count
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    forms = [form for form, count in ranked if count >= least and form.removeprefix(prefix) in wanted]
    return [form for form in forms if form not in vocab][: material.options.num_new_tokens]


__all__ = ["grow_wordpiece"]
