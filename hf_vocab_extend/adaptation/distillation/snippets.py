"""Short pieces of text that hold new tokens, found by the extended tokenizer's own segmentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from transformers import PreTrainedTokenizerBase

from ..._logging import progress
from ...errors import UnsupportedTokenizerError
from .aligned import Encoded, aligned_positions

LINES = 512
"""Lines that are cut into tokens at once."""


@dataclass(frozen=True)
class Snippet:
    """One piece of text in both segmentations.

    Attributes:
        student: Ids of the extended tokenizer.
        teacher: Ids of the source tokenizer.
        pairs: Positions (student, teacher) to be matched.
    """

    student: list[int]
    teacher: list[int]
    pairs: list[tuple[int, int]]


@dataclass(frozen=True)
class Snippets:
    """Snippets, and how often each new token stands in them.

    Attributes:
        items: The snippets, in the order of the corpus.
        counts: Snippets that hold each new token, int64, shape `(n_new,)`.
        wanted: How many of them were wanted for each.
        lines: Lines that were read.
    """

    items: list[Snippet]
    counts: torch.Tensor
    wanted: int
    lines: int

    def summary(self) -> dict[str, int]:
        """Return what the report says of them."""
        return {
            "snippets": len(self.items),
            "lines_read": self.lines,
            "tokens_with_all_snippets": int((self.counts >= self.wanted).sum()),
            "tokens_with_fewer": int(((self.counts > 0) & (self.counts < self.wanted)).sum()),
            "tokens_without": int((self.counts == 0).sum()),
        }


def find_snippets(
    lines: Iterable[str],
    student: PreTrainedTokenizerBase,
    teacher: PreTrainedTokenizerBase,
    new_ids: torch.Tensor,
    *,
    per_token: int,
    length: int,
    causal: bool,
    limit: int | None = None,
    generator: torch.Generator | None = None,
) -> Snippets:
    """Collect pieces of text until each new token stands in enough of them, or the text ends.

    A piece is kept if it holds a new token that still lacks some; it then counts for all new tokens in it.

    Args:
        lines: Text.
        student: The extended tokenizer.
        teacher: The source tokenizer.
        new_ids: Ids of the new tokens, shape `(n_new,)`.
        per_token: Snippets wanted for each token.
        length: Tokens of a snippet, special tokens left aside; longer lines are cut at spaces.
        causal: Whether positions see only what goes before them.
        limit: Most snippets; None for no limit. Which ones is drawn by chance, so that they are of the whole text.
        generator: Source of that chance.
    """
    slots = {int(token): slot for slot, token in enumerate(new_ids.tolist())}
    counts = torch.zeros(len(new_ids), dtype=torch.int64)
    items: list[Snippet] = []
    lacking, n_lines = len(new_ids), 0
    source = iter(progress(lines, desc="Finding new tokens", unit="line"))
    while lacking:
        block = list(islice(source, LINES))
        if not block:
            break
        n_lines += len(block)
        pieces = [piece for line in _cuts(block, student, length) for piece in line]
        for ours, theirs in zip(encode(student, pieces), encode(teacher, pieces), strict=True):
            found = {slots[token] for token in ours.ids if token in slots}
            if not any(int(counts[slot]) < per_token for slot in found):
                continue
            pairs = aligned_positions(ours, theirs, [token in slots for token in ours.ids], causal=causal)
            if not pairs or len(ours.ids) < 2:  # of one token nothing can be predicted
                continue
            for slot in found:
                counts[slot] += 1
                lacking -= int(counts[slot]) == per_token
            items.append(Snippet(ours.ids, theirs.ids, pairs))
    if limit is not None and len(items) > limit:
        drawn = torch.randperm(len(items), generator=generator)[:limit].sort().values
        items = [items[index] for index in drawn.tolist()]
        held = [slots[token] for item in items for token in set(item.student) if token in slots]
        counts = torch.bincount(torch.tensor(held), minlength=len(new_ids))
    return Snippets(items, counts, per_token, n_lines)


def encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Encoded]:
    """Cut texts into ids with their places.

    Raises:
        UnsupportedTokenizerError: If the tokenizer does not know places.
    """
    if not texts:
        return []
    if not tokenizer.is_fast:
        raise UnsupportedTokenizerError(
            f"{type(tokenizer).__name__} does not say where tokens lie in the text. Load a fast tokenizer."
        )
    batch = tokenizer(
        texts, truncation=False, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    columns = zip(batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"], strict=True)
    return [Encoded(list(ids), list(offsets), [bool(item) for item in special]) for ids, offsets, special in columns]


def _cuts(lines: list[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Iterator[list[str]]:
    """Yield each line as pieces of at most ``length`` tokens, cut at spaces where there are any."""
    batch = tokenizer(lines, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
    for line, offsets in zip(lines, batch["offset_mapping"], strict=True):
        pieces, begin, start = [], 0, 0
        while len(offsets) - start > length:
            stop = start + length
            word = next((index for index in range(stop, start, -1) if _starts_word(line, offsets[index])), stop)
            end = offsets[word][0]
            if end > begin:
                pieces.append(line[begin:end].strip())
                begin = end
            start = word
        pieces.append(line[begin:].strip())
        yield [piece for piece in pieces if piece]


def _starts_word(line: str, offset: tuple[int, int]) -> bool:
    """Whether a token begins behind a space, or with one."""
    start, end = offset
    return start < len(line) and (line[start:end][:1].isspace() or line[max(0, start - 1) : start].isspace())


__all__ = ["Snippet", "Snippets", "encode", "find_snippets"]
