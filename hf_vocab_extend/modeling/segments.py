"""Texts of several languages: cut into ids, padded, and read back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from ..errors import InvalidOptionError
from .reading import IGNORED

Segment = tuple[str, str]
"""Language and text."""
Prompt = str | Sequence[Segment]
"""A text of one language, or segments of several in reading order."""
Row = dict[str, list[int]]

_FILLS = {"attention_mask": 0, "labels": IGNORED}


def as_segments(prompt: Prompt, language: str, tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> list[Segment]:
    """Return a prompt as segments; a plain string is of ``language``.

    Raises:
        InvalidOptionError: If it is empty, or a segment is no pair of a known language and a text.
    """
    segments = [(language, prompt)] if isinstance(prompt, str) else list(prompt)
    if not segments:
        raise InvalidOptionError("A prompt has no segments. Give a text, or a list of (language, text) pairs.")
    for segment in segments:
        is_pair = isinstance(segment, tuple | list) and len(segment) == 2
        if not is_pair or not all(isinstance(part, str) for part in segment):
            raise InvalidOptionError(f"A segment is {segment!r:.80}, not a pair of a language and a text.")
        if segment[0] not in tokenizers:
            raise InvalidOptionError(
                f"A segment is of the language {segment[0]!r}, which is not here. Languages: {', '.join(tokenizers)}."
            )
    return [(name, text) for name, text in segments]


def encode_segments(
    segments: Sequence[Segment],
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    languages: Sequence[str],
    *,
    special_tokens: bool,
) -> Row:
    """Cut segments into ids, each with its own tokenizer.

    Special tokens stand as in one text: what goes before it is that of the first segment's tokenizer, what goes after
    it that of the last one's.

    Returns:
        ``input_ids`` and ``language_ids``, equally long.
    """
    row: Row = {"input_ids": [], "language_ids": []}
    for index, (language, text) in enumerate(segments):
        before, ids, after = _cut(text, tokenizers[language], special_tokens)
        if index == 0:
            ids = before + ids
        if index == len(segments) - 1:
            ids = ids + after
        row["input_ids"] += ids
        row["language_ids"] += [languages.index(language)] * len(ids)
    return row


def _cut(text: str, tokenizer: PreTrainedTokenizerBase, special: bool) -> tuple[list[int], list[int], list[int]]:
    """Return the special tokens before a text, its ids, and the special tokens after it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    if not special:
        return [], ids, []
    full: list[int] = tokenizer(text, add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
    for start in range(len(full) - len(ids) + 1):
        if full[start : start + len(ids)] == ids:
            if not ids:  # an empty text does not show where it would stand; most special tokens go before it
                start = sum(index != tokenizer.sep_token_id and index != tokenizer.eos_token_id for index in full)
            return full[:start], ids, full[start + len(ids) :]
    return [], full, []


def pad_rows(
    rows: Sequence[Mapping[str, Any]], *, pad_id: int, pad_language: int, side: str, device: torch.device | None = None
) -> BatchEncoding:
    """Pad rows to one length.

    Args:
        rows: Each with ``input_ids``, and whichever of ``language_ids``, ``attention_mask``, ``labels`` it has: lists
            or one-dimensional tensors. Other columns are stacked.
        pad_id: Id of padding.
        pad_language: Index of the language that padding is counted to.
        side: ``left`` or ``right``.
        device: Where the tensors shall be.

    Returns:
        Tensors of shape `(len(rows), longest)`; ``attention_mask`` is always there.
    """
    fills = {"input_ids": pad_id, "language_ids": pad_language, **_FILLS}
    plain = [{name: torch.as_tensor(value).tolist() for name, value in row.items()} for row in rows]
    for row in plain:
        row.setdefault("attention_mask", [1] * len(row["input_ids"]))
    longest = max(len(row["input_ids"]) for row in plain)
    batch = {}
    for name in plain[0]:
        values = [row[name] for row in plain]
        if name in fills:
            values = [_padded(value, longest, fills[name], side) for value in values]
        batch[name] = torch.tensor(values, device=device)
    return BatchEncoding(batch)


def _padded(values: list[int], length: int, fill: int, side: str) -> list[int]:
    """Lengthen a list on one side."""
    missing = [fill] * (length - len(values))
    return missing + values if side == "left" else values + missing


def decode_rows(
    ids: torch.Tensor,
    language_ids: torch.Tensor,
    tokenizers: Mapping[str, PreTrainedTokenizerBase],
    languages: Sequence[str],
    *,
    skip_special_tokens: bool,
) -> list[list[Segment]]:
    """Return the segments of each row: runs of ids of one language, decoded by its tokenizer.

    Args:
        ids: Shape `(batch, length)`.
        language_ids: Same shape; a negative one marks padding, which is left out.
        tokenizers: By language.
        languages: Names, in the order that language ids count.
        skip_special_tokens: Leave special tokens out.
    """
    rows = []
    for row, indices in zip(ids.tolist(), language_ids.tolist(), strict=True):
        runs: list[tuple[int, list[int]]] = []
        for token, index in zip(row, indices, strict=True):
            if index < 0:
                continue
            if not runs or runs[-1][0] != index:
                runs.append((index, []))
            runs[-1][1].append(token)
        rows.append(
            [
                (
                    languages[index],
                    str(tokenizers[languages[index]].decode(run, skip_special_tokens=skip_special_tokens)),
                )
                for index, run in runs
            ]
        )
    return rows
