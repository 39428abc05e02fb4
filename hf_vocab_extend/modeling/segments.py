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

_FILLS = {"attention_mask": 0, "labels": IGNORED, "token_type_ids": 0}


def as_batch(prompts: Any, languages: Sequence[str]) -> list[Any]:
    """Return one prompt, or several, as a list of prompts.

    Raises:
        InvalidOptionError: If it is neither a text nor a sequence, or one bare segment.
    """
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, Mapping | bytes) or not all(hasattr(prompts, name) for name in ("__len__", "__iter__")):
        raise InvalidOptionError(
            f"prompts is a {type(prompts).__name__}. Give a text, a list of (language, text) pairs, or several."
        )
    batch = list(prompts)
    if len(batch) == 2 and all(isinstance(item, str) for item in batch) and batch[0] in languages:
        raise InvalidOptionError(
            f"prompts is the bare pair {tuple(batch)!r:.80}, which would be read as two texts. "
            "Give [(language, text)] for one prompt of one segment."
        )
    pairs = [isinstance(item, tuple) and [type(part) for part in item] == [str, str] for item in batch]
    return [batch] if batch and all(pairs) else batch


def as_segments(prompt: Prompt, language: str, tokenizers: Mapping[str, PreTrainedTokenizerBase]) -> list[Segment]:
    """Return a prompt as segments; a plain string is of ``language``.

    Raises:
        InvalidOptionError: If it is empty, or a segment is no pair of a known language and a text.
    """
    if not isinstance(prompt, str | list | tuple):
        raise InvalidOptionError(
            f"A prompt is a {type(prompt).__name__}. Give a text, or a list of (language, text) segments."
        )
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

    Raises:
        InvalidOptionError: If there are no ids.
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
    if not row["input_ids"]:
        raise InvalidOptionError("A prompt gives no ids: its text is empty. Leave it out, or give some text.")
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


def pad_rows(rows: Sequence[Mapping[str, Any]], *, pad_id: int, pad_language: int, side: str) -> BatchEncoding:
    """Pad rows to one length.

    Args:
        rows: Each with ``input_ids`` and the same other columns: numbers, lists or tensors. Lists as long as
            ``input_ids`` are padded, with 0 if they are none of ours; ``labels`` to the longest of their own, as those
            of a decoder are. Other columns are stacked.
        pad_id: Id of padding.
        pad_language: Index of the language that padding is counted to.
        side: ``left`` or ``right``.

    Returns:
        Tensors on the CPU, ids of shape `(len(rows), longest)`; ``attention_mask`` is always there.

    Raises:
        InvalidOptionError: If the columns or lengths of the rows do not agree, or there is no such side.
    """
    if side not in ("left", "right"):
        raise InvalidOptionError(f"padding_side is {side!r}. Give 'left' or 'right'.")
    fills = {"input_ids": pad_id, "language_ids": pad_language, **_FILLS}
    plain = [_plain_row(row) for row in rows]
    names = list(plain[0])
    for number, row in enumerate(plain):
        if set(row) != set(names):
            raise InvalidOptionError(
                f"Row 0 has {', '.join(sorted(names))}, row {number} has {', '.join(sorted(row))}. "
                "Give all rows the same columns."
            )
    lengths = [len(row["input_ids"]) for row in plain]
    return BatchEncoding({name: _column(name, [row[name] for row in plain], lengths, fills, side) for name in names})


def _plain_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as numbers and lists, with an ``attention_mask``."""
    plain = {}
    for name, value in row.items():
        try:
            plain[name] = torch.as_tensor(value).tolist()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidOptionError(
                f"'{name}' is no number, list of numbers or tensor. Remove the column."
            ) from error
    ids = plain.get("input_ids")
    if not isinstance(ids, list) or any(isinstance(item, list) for item in ids):
        raise InvalidOptionError("A row has no one-dimensional input_ids. Give each row those of one text.")
    plain.setdefault("attention_mask", [1] * len(ids))
    return plain


def _column(name: str, values: list[Any], lengths: list[int], fills: Mapping[str, int], side: str) -> torch.Tensor:
    """Return one column of all rows as a tensor, padded if it goes along with the ids."""
    own = [len(value) if isinstance(value, list) else -1 for value in values]
    is_along = own == lengths
    if is_along or (name == "labels" and -1 not in own):
        values = [_padded(value, max(own), fills.get(name, 0), side) for value in values]
    elif name in fills and name != "labels":
        raise InvalidOptionError(f"'{name}' has the lengths {own}, input_ids {lengths}. Give one for each id.")
    elif len(set(own)) > 1:
        raise InvalidOptionError(f"'{name}' has the lengths {own}, and cannot be stacked. Pad it, or remove it.")
    return torch.tensor(values, dtype=torch.long if is_along and name in fills else None)


def _padded(values: list[int], length: int, fill: int, side: str) -> list[int]:
    """Lengthen a list on one side."""
    missing = [fill] * (length - len(values))
    return missing + values if side == "left" else values + missing


def languages_of(
    sequences: torch.Tensor,
    language_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    languages: Sequence[str],
    output: str,
) -> torch.Tensor:
    """Return the language of each id of sequences that begin with a prompt; -1 where its mask is zero.

    Args:
        sequences: Shape `(batch, length)`.
        language_ids: Those of the prompt; the same for the rows that were generated from one.
        attention_mask: That of the prompt.
        languages: Names, in the order that language ids count.
        output: Language of ids behind the prompt.

    Raises:
        InvalidOptionError: If a shape or a language id does not fit.
    """
    shape = tuple(sequences.shape)
    if len(shape) != 2:
        raise InvalidOptionError(f"sequences has the shape {shape}. Give (batch, length), for example ids[None].")
    found = torch.full_like(sequences, languages.index(output))
    for name, given in (("language_ids", language_ids), ("attention_mask", attention_mask)):
        if given is None:
            continue
        if given.ndim != 2 or not len(given) or len(sequences) % len(given) or given.shape[1] > shape[1]:
            raise InvalidOptionError(
                f"{name} has the shape {tuple(given.shape)}, sequences {shape}. Give that of their prompt."
            )
        part = given.repeat_interleave(len(sequences) // len(given), 0).to(found)
        if name == "language_ids":
            outside = part[(part < 0) | (part >= len(languages))]
            if len(outside):
                raise InvalidOptionError(
                    f"language_ids holds {int(outside[0])}, and there are {len(languages)} languages. "
                    "Give indices in .languages."
                )
            found[:, : part.shape[1]] = part
        else:
            found[:, : part.shape[1]].masked_fill_(part == 0, -1)
    return found


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
