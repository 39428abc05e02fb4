"""Append tokens to the data of a ``tokenizer.json``, so that every old id stays and every new one loads back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Data = dict[str, Any]


def first_free_id(data: Data) -> int:
    """Return the highest id + 1, added tokens included; holes below it stay, since a model may use their rows."""
    model = data["model"]
    own = len(model["vocab"]) - 1 if model["type"] == "Unigram" else max(model["vocab"].values(), default=-1)
    return max(own, *(token["id"] for token in data["added_tokens"]), -1) + 1


def token_ids(data: Data) -> dict[str, int]:
    """Return every token with its id, added tokens included."""
    model = data["model"]
    if model["type"] == "Unigram":
        vocab = {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    else:
        vocab = dict(model["vocab"])
    return vocab | {token["content"]: token["id"] for token in data["added_tokens"]}


def merge_pairs(data: Data) -> list[tuple[str, str]]:
    """Return the merges of a BPE as pairs, from either of the two ways to write them."""
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in data["model"]["merges"])
    return [(left, right) for left, right in pairs]


def append_tokens(data: Data, tokens: Sequence[str]) -> None:
    """Append tokens to the vocabulary of a BPE or WordPiece model, in place, from the first free id on."""
    start = first_free_id(data)
    _pin_added_tokens(data)
    data["model"]["vocab"].update({token: start + index for index, token in enumerate(tokens)})


def append_merges(data: Data, merges: Iterable[tuple[str, str]]) -> None:
    """Append merges to a BPE model, in place; written as lists, since a token may hold a space."""
    data["model"]["merges"] = [list(pair) for pair in [*merge_pairs(data), *merges]]


def append_pieces(data: Data, pieces: Sequence[tuple[str, float]], silent: float) -> None:
    """Append pieces with scores to a Unigram model, in place, from the first free id on.

    Its ids are places in a list, so that added tokens and holes behind the list need an entry each: the token itself,
    or ``<unusedN>`` for a hole.

    Args:
        data: The ``tokenizer.json``.
        pieces: Pieces and scores.
        silent: Score of such an entry, low enough that no text is cut into it.
    """
    model = data["model"]
    start = first_free_id(data)
    added = {token["id"]: token["content"] for token in data["added_tokens"]}
    model["vocab"] += [[added.get(index, f"<unused{index}>"), silent] for index in range(len(model["vocab"]), start)]
    model["vocab"] += [[piece, score] for piece, score in pieces]


def append_special_tokens(data: Data, contents: Sequence[str]) -> None:
    """Append control tokens, in place, from the first free id on."""
    start = first_free_id(data)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    data["added_tokens"] += [
        {"id": start + index, "content": content, **flags} for index, content in enumerate(contents)
    ]


def new_data(data: Data) -> Data:
    """Return a copy of a ``tokenizer.json`` whose vocabulary and merges may be appended to."""
    model = dict(data["model"])
    model["vocab"] = model["vocab"].copy()
    if "merges" in model:
        model["merges"] = list(model["merges"])
    return {**data, "model": model, "added_tokens": list(data["added_tokens"])}


def _pin_added_tokens(data: Data) -> None:
    """Put every added token into the model's vocabulary, at its id.

    One that is not there gets the size of the model's vocabulary as its id when the file is loaded: another id than
    before as soon as tokens were appended.
    """
    vocab = data["model"]["vocab"]
    for token in data["added_tokens"]:
        vocab.setdefault(token["content"], token["id"])


__all__ = [
    "append_merges",
    "append_pieces",
    "append_special_tokens",
    "append_tokens",
    "first_free_id",
    "merge_pairs",
    "new_data",
    "token_ids",
]
