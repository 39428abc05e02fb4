"""Sources that the user names for single tokens, whatever the method: ``sources={"token": "text"}``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InvalidOptionError
from ..vocab.canonical import CanonicalVocab, TokenKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Sources = Mapping[str, str | Iterable[tuple[str, float]]]
"""Target token to a text, or to source tokens (or texts) with weights."""

Entries = list[tuple[int, float]]


def resolve_sources(
    sources: Sources, source_tokenizer: PreTrainedTokenizerBase, source: CanonicalVocab, target: CanonicalVocab
) -> dict[int, Entries]:
    """Turn named sources into weighted source ids.

    Args:
        sources: For each target token, as the target tokenizer spells it or in plain text, either a text (its source
            pieces share the weight equally) or pairs of a source token or text and a weight.
        source_tokenizer: Cuts texts into source pieces.
        source: Source vocabulary.
        target: Target vocabulary.

    Returns:
        Target id to ``(source id, weight)`` entries, weights as given.

    Raises:
        InvalidOptionError: If a token is not in the target vocabulary, a text has no source pieces, or a weight is
            not a finite number.
    """
    ids = {token: index for index, token in enumerate(target.tokens) if token is not None}
    by_text: dict[str, int] = {}
    for index in range(len(target)):
        if target.tokens[index] is not None and target.kinds[index] == TokenKind.NORMAL:
            by_text.setdefault((target.text(index) or "").strip(), index)
    resolved: dict[int, Entries] = {}
    for token, value in sources.items():
        target_id = ids.get(token, by_text.get(token.strip()))
        if target_id is None:
            raise InvalidOptionError(
                f"sources names {token!r}, which is no token of the new tokenizer. "
                "Spell it as new_tokenizer.convert_ids_to_tokens does, or add it to the tokenizer first."
            )
        pairs = [(value, 1.0)] if isinstance(value, str) else list(value)
        resolved[target_id] = _entries(token, pairs, source_tokenizer, source)
    return resolved


def _entries(
    token: str, pairs: list[tuple[str, float]], source_tokenizer: PreTrainedTokenizerBase, source: CanonicalVocab
) -> Entries:
    """Resolve the pairs of one target token; each pair's pieces share its weight."""
    entries: Entries = []
    for name, weight in pairs:
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            raise InvalidOptionError(
                f"sources gives {token!r} the weight {weight!r} for {name!r}. Give a finite number."
            )
        pieces = _pieces(name, source_tokenizer, source)
        if not pieces:
            raise InvalidOptionError(
                f"sources gives {token!r} the text {name!r}, which the source tokenizer knows no piece of. "
                "Choose another text."
            )
        entries += [(piece, float(weight) / len(pieces)) for piece in pieces]
    totals: dict[int, float] = {}
    for piece, weight in entries:
        totals[piece] = totals.get(piece, 0.0) + weight
    if not any(totals.values()):
        raise InvalidOptionError(
            f"sources gives {token!r} nothing, or weights that cancel out. "
            "Give a text or at least one (token, weight) pair."
        )
    return entries


def _pieces(name: str, source_tokenizer: PreTrainedTokenizerBase, source: CanonicalVocab) -> list[int]:
    """Return the id of a source token spelled exactly so, else the known pieces of a text."""
    exact = source_tokenizer.get_vocab().get(name)
    if exact is not None:
        return [exact]
    ids = np.asarray(source_tokenizer(name, add_special_tokens=False)["input_ids"], np.int64)
    usable = np.isin(source.kinds[ids], (TokenKind.NORMAL, TokenKind.BYTE)) if len(ids) else np.zeros(0, bool)
    return [int(index) for index in ids[usable]]
