"""Pairs worth merging, learnt by the BPE trainer on sequences of ids instead of characters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain, repeat

from tokenizers import Tokenizer, models, trainers

Ids = tuple[int, ...]

_FIRST = 0x10000
"""Private letters start here: beyond the surrogates, without white space, and room for a million ids."""


def train_pairs(sequences: Mapping[Ids, int], limit: int, min_frequency: int) -> list[tuple[Ids, Ids]]:
    """Return the pairs that byte-pair encoding merges, in order, when each id is one letter.

    Every id is written as one private code point and the plain trainer runs on that: it is deterministic, which it is
    not with a prefix or a suffix set. Ties follow the order of the ids.

    Args:
        sequences: Sequences of ids, each with how often it occurs.
        limit: Most pairs to return.
        min_frequency: Least count of a pair.

    Returns:
        Pairs of the id sequences that are joined; fewer than ``limit`` where the sequences give no more.
    """
    ids = sorted({index for sequence in sequences for index in sequence})
    if not ids or limit < 1:
        return []
    letter = {index: chr(_FIRST + rank) for rank, index in enumerate(ids)}
    written = {"".join(map(letter.__getitem__, ids)): count for ids, count in sorted(sequences.items())}
    trainer = trainers.BpeTrainer(
        vocab_size=len(ids) + limit, min_frequency=min_frequency, show_progress=False, special_tokens=[]
    )
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(_repeated(written), trainer)
    merges = json.loads(trained.model.__getstate__())["merges"]
    read = {letter: index for index, letter in letter.items()}
    return [(tuple(map(read.__getitem__, left)), tuple(map(read.__getitem__, right))) for left, right in merges]


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Yield each word as often as it occurs; the trainer counts for itself, in parallel."""
    return chain.from_iterable(repeat(word, count) for word, count in words.items())


__all__ = ["train_pairs"]
