"""Where two segmentations of one text stand side by side: positions whose text ends at the same character."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Offset = tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """One text as ids.

    Attributes:
        ids: Ids, special tokens included.
        offsets: Where each begins and ends in the text, in characters.
        special: Whether each was put around the text by the tokenizer's template.
    """

    ids: list[int]
    offsets: list[Offset]
    special: list[bool]


def aligned_positions(
    student: Encoded, teacher: Encoded, is_new: Sequence[bool], *, causal: bool
) -> list[tuple[int, int]]:
    """Return pairs of positions (student, teacher) that have read the same text, one of them a new token.

    Positions before the first new token of a causal model cannot see one: student and teacher agree there already,
    and their zeros would dilute the loss. Special tokens around the text are paired where both sides have as many.

    Args:
        student: The text as new tokens.
        teacher: The same text as source tokens.
        is_new: Whether each token of the student is new.
        causal: Whether a position sees only what goes before it.

    Returns:
        Pairs in order; empty without a new token.
    """
    first = next((index for index, new in enumerate(is_new) if new), None)
    if first is None:
        return []
    ends, partners = _last_at_end(student), _last_at_end(teacher)
    pairs = [(index, partners[end]) for end, index in ends.items() if end in partners]
    before, after = _around(student)
    before_teacher, after_teacher = _around(teacher)
    if len(before) == len(before_teacher):
        pairs += list(zip(before, before_teacher, strict=True))
    if len(after) == len(after_teacher):
        pairs += list(zip(after, after_teacher, strict=True))
    return sorted(pair for pair in pairs if not causal or pair[0] >= first)


def _last_at_end(encoded: Encoded) -> dict[int, int]:
    """Return the last token that ends at each character, so that of the bytes of one character only the last counts.

    Tokens without text of their own (the space that a pipeline puts in front) end nowhere.
    """
    return {
        end: index
        for index, ((start, end), special) in enumerate(zip(encoded.offsets, encoded.special, strict=True))
        if end > start and not special
    }


def _around(encoded: Encoded) -> tuple[list[int], list[int]]:
    """Return the positions of special tokens before and after the text."""
    text = [index for index, special in enumerate(encoded.special) if not special]
    if not text:
        return [], []
    return list(range(text[0])), list(range(text[-1] + 1, len(encoded.ids)))


__all__ = ["Encoded", "aligned_positions"]
