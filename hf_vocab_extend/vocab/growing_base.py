"""What the growers of all families share: the options, the material, and quick encoding of words by a bare model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from tokenizers import Encoding, Tokenizer

from .adding import Data, token_ids
from .canonical import byte_level_bytes
from .pair_training import Ids
from .pipeline import Spelling
from .pretokens import CharClass, JoinRules, char_class

COVERAGE = 0.9995
"""Share of the characters of a text that get a token of their own where the vocabulary has none for them."""


@dataclass(frozen=True)
class GrowthOptions:
    """Checked options of :func:`~.growing.extend_tokenizer`; see there."""

    num_new_tokens: int
    min_frequency: int
    max_token_length: int | None
    digits: bool
    punctuation: bool


@dataclass(frozen=True)
class Material:
    """What a grower works on.

    Attributes:
        data: The ``tokenizer.json``; not to be changed.
        spelling: How the tokenizer spells.
        words: Pre-tokens with counts, sorted.
        options: The options.
        letters: Pre-tokens of the characters that were asked for, alone and after another one, or None for those that
            the text brings.
    """

    data: Data
    spelling: Spelling
    words: Mapping[str, int]
    options: GrowthOptions
    letters: Mapping[str, int] | None = None

    @property
    def rules(self) -> JoinRules:
        """Which characters new tokens may join."""
        return JoinRules(self.spelling, self.options.digits, self.options.punctuation)

    def barred(self) -> frozenset[str]:
        """Return the tokens that no new one may hold or be: added and unknown tokens, and byte codes."""
        model = self.data["model"]
        barred = {token["content"] for token in self.data["added_tokens"]}
        if model["type"] == "Unigram":
            barred |= {model["vocab"][model["unk_id"]][0]} if model["unk_id"] is not None else set()
        elif model["unk_token"] is not None:
            barred.add(model["unk_token"])
        if self.spelling.byte_fallback:
            barred |= {f"<0x{value:02X}>" for value in range(256)}
        return frozenset(barred)

    def too_long(self, token: str) -> bool:
        """Whether a token has more characters than the options allow, marks of place and spaces not counted."""
        limit = self.options.max_token_length
        return limit is not None and self.length(token) > limit

    def length(self, token: str) -> int:
        """Return how many characters of text a token stands for; of a character in parts, the first part counts."""
        spelling = self.spelling
        if spelling.prefix:
            token = token.removeprefix(spelling.prefix)
        if spelling.suffix:
            token = token.removesuffix(spelling.suffix)
        if spelling.byte_level:
            raw = byte_level_bytes(token).removeprefix(b" ")
            return sum(value & 0xC0 != 0x80 for value in raw)
        return len(token.removeprefix(spelling.space_mark) if spelling.space_mark else token)


def bare(data: Data) -> Tokenizer:
    """Return the model of a tokenizer alone: it encodes pre-tokens as they are, without chance."""
    model = dict(data["model"])
    if "dropout" in model:
        model["dropout"] = None
    return Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "model": model}, ensure_ascii=False))


def used_counts(encodings: Iterable[Encoding], counts: Iterable[int], n_ids: int) -> np.ndarray:
    """Return how often each id occurs in words that occur ``counts`` times, int64, shape `(n_ids,)`."""
    ids: list[int] = []
    weights: list[int] = []
    for encoding, count in zip(encodings, counts, strict=True):
        own = encoding.ids
        ids += own
        weights += [count] * len(own)
    return np.bincount(ids, weights, n_ids).astype(np.int64) if ids else np.zeros(n_ids, np.int64)


def joinable_sequences(material: Material, data: Data) -> Counter[Ids]:
    """Return the runs of token ids, at least two long, that new tokens may join, each with its count.

    Args:
        material: Words and rules.
        data: The ``tokenizer.json`` to encode with.
    """
    rules, backend = material.rules, bare(data)
    names = material.barred()
    barred = {index for token, index in token_ids(data).items() if token in names}
    words = list(material.words)
    grouped = {word: groups for word in words if (groups := rules.groups(word)) is not None}
    plain = [word for word in words if word not in grouped]
    found: Counter[Ids] = Counter()
    for word, encoding in zip(plain, backend.encode_batch_fast(plain, add_special_tokens=False), strict=True):
        ids = encoding.ids
        if len(ids) > 1:
            for run in joined_runs(ids, None, barred):
                found[run] += material.words[word]
    mixed = backend.encode_batch(list(grouped), add_special_tokens=False)
    for (word, groups), encoding in zip(grouped.items(), mixed, strict=True):
        of_tokens = [_common(groups[start:end]) for start, end in encoding.offsets]
        for run in joined_runs(encoding.ids, of_tokens, barred):
            found[run] += material.words[word]
    return found


def _common(groups: Sequence[int]) -> int:
    """Return the group that all places of a token have, or -1."""
    return groups[0] if groups and all(group == groups[0] for group in groups) else -1


def joined_runs(
    ids: Sequence[int], groups: Sequence[int] | None, barred: Set[int] = frozenset()
) -> Iterator[tuple[int, ...]]:
    """Yield the runs of at least two ids of one group (all are of one if None is given) without barred ones."""
    if groups is None and barred.isdisjoint(ids):
        if len(ids) > 1:
            yield tuple(ids)
        return
    run: list[int] = []
    last = -1
    for index, group in zip(ids, groups or repeat(0, len(ids)), strict=True):
        group = -1 if index in barred else group
        if group < 0 or group != last:
            if len(run) > 1:
                yield tuple(run)
            run = []
        last = group
        if group >= 0:
            run.append(index)
    if len(run) > 1:
        yield tuple(run)


def frequent_characters(material: Material) -> list[str]:
    """Return the characters that deserve tokens of their own, most frequent first.

    Those of the option ``alphabet`` if it is given, else those that cover :data:`COVERAGE` of the text and occur often
    enough; in either case whether the vocabulary has them or not.
    """
    if material.letters is not None:
        return list(dict.fromkeys(word[-1] for word in material.letters))
    counts: Counter[str] = Counter()
    for word, count in material.words.items():
        for char in word:
            counts[char] += count
    total, covered, chosen = sum(counts.values()), 0, []
    for char, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if covered >= COVERAGE * total or count < material.options.min_frequency:
            break
        covered += count
        if char_class(char) not in (CharClass.CONTROL, CharClass.SPACE):
            chosen.append(char)
    return chosen


__all__ = [
    "GrowthOptions",
    "Material",
    "bare",
    "frequent_characters",
    "joinable_sequences",
    "joined_runs",
    "used_counts",
]
