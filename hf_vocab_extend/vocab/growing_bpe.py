"""Continued training of a BPE: the old merges come first, the new ones join what they leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from .adding import Data, append_merges, append_tokens, first_free_id, merge_pairs, new_data, token_ids
from .growing_base import Material, bare, frequent_characters, joinable_sequences, used_counts
from .pair_training import train_pairs

Pair = tuple[str, str]

_ROUNDS = 8
_AFTER = tuple("axqz1-")
"""What may follow a token that does not end a word, to find a word that holds it."""


def grow_bpe(material: Material) -> tuple[Data, list[str]]:
    """Return the ``tokenizer.json`` of a BPE with new tokens, and these in the order of their ids.

    Each pre-token is written as the ids that it has today, pairs are learnt on these, and the merges are translated
    back and appended. Since every old merge keeps its rank, text is first cut as before and then joined. Tokens that
    no pre-token of the text ends up with are replaced by the next ones, unless another token is made from them.
    """
    letters = _missing_letters(material)
    base = new_data(material.data)
    append_tokens(base, letters)
    budget = material.options.num_new_tokens - len(letters)
    dropped: set[str] = set()
    candidates, limit = _train(material, base, budget + budget // 8 + 64)
    data, selection = _build(material, base, candidates, budget, dropped)
    for _ in range(_ROUNDS):
        if len(selection.tokens) < budget and limit == len(candidates):
            candidates, limit = _train(material, base, 2 * limit)
        elif not (unused := _unused(material, data, selection)):
            break
        else:
            dropped |= unused
        data, selection = _build(material, base, candidates, budget, dropped)
    return data, letters + selection.tokens


def _train(material: Material, base: Data, limit: int) -> tuple[list[Pair], int]:
    """Return at most ``limit`` merges as pairs of strings, and ``limit``."""
    names = {index: token for token, index in token_ids(base).items()}
    pairs = train_pairs(joinable_sequences(material, base), limit, material.options.min_frequency)
    return [
        ("".join(map(names.__getitem__, left)), "".join(map(names.__getitem__, right))) for left, right in pairs
    ], limit


@dataclass
class _Selection:
    """Merges taken so far and the tokens that they make."""

    merges: list[Pair] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)

    @property
    def parents(self) -> set[str]:
        """Tokens that others are made from."""
        return {part for pair in self.merges for part in pair}


def _select(material: Material, base: Data, candidates: Sequence[Pair], budget: int, dropped: set[str]) -> _Selection:
    """Take merges in order until they make ``budget`` tokens.

    A merge whose parts are not there, whose product may not be, or that the tokenizer has already (its rank would
    change) is passed over. One whose product is an old token is taken, and counts nothing.
    """
    known, old = set(base["model"]["vocab"]), set(merge_pairs(base))
    barred = material.barred() | dropped
    chosen = _Selection()
    for pair in candidates:
        product = pair[0] + pair[1]
        if product in barred or pair in old or not known.issuperset(pair) or material.too_long(product):
            continue
        if product not in known:
            if len(chosen.tokens) == budget:
                break
            known.add(product)
            chosen.tokens.append(product)
        chosen.merges.append(pair)
    return chosen


def _build(
    material: Material, base: Data, candidates: Sequence[Pair], budget: int, dropped: set[str]
) -> tuple[Data, _Selection]:
    """Return the data with the merges that :func:`_select` takes."""
    selection = _select(material, base, candidates, budget, dropped)
    data = new_data(base)
    append_tokens(data, selection.tokens)
    append_merges(data, selection.merges)
    return data, selection


def _unused(material: Material, data: Data, selection: _Selection) -> set[str]:
    """Return the new tokens that can go: in no word of the text, and either no part of others or out of reach."""
    backend, words = bare(data), list(material.words)
    vocab = data["model"]["vocab"]
    counts = used_counts(
        backend.encode_batch_fast(words, add_special_tokens=False), material.words.values(), first_free_id(data)
    )
    idle = [token for token in selection.tokens if not counts[vocab[token]]]
    parents = selection.parents
    inner = [token for token in idle if token in parents]
    return {token for token in idle if token not in parents} | _unreachable(inner, material, data, backend)


def _unreachable(tokens: list[str], material: Material, data: Data, backend: Tokenizer) -> set[str]:
    """Return the tokens that are not even made of the very word that they spell."""
    suffix, vocab = material.spelling.suffix, data["model"]["vocab"]
    left = tokens
    for after in _AFTER if suffix else ("",):
        words = [token.removesuffix(suffix) if suffix and token.endswith(suffix) else token + after for token in left]
        found = backend.encode_batch_fast(words, add_special_tokens=False)
        left = [token for token, encoding in zip(left, found, strict=True) if vocab[token] not in encoding.ids]
    return set(left)


def _missing_letters(material: Material) -> list[str]:
    """Return the characters that the vocabulary lacks, most frequent first, as tokens; none if it spells bytes."""
    if material.spelling.byte_level:
        return []
    suffix, vocab = material.spelling.suffix, material.data["model"]["vocab"]
    forms = [form for char in frequent_characters(material) for form in ([char, char + suffix] if suffix else [char])]
    return [form for form in forms if form not in vocab][: material.options.num_new_tokens]


__all__ = ["grow_bpe"]
