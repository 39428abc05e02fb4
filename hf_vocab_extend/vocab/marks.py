"""Let a pre-tokenizer's regex keep combining marks with their letters."""

from __future__ import annotations

import re
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..errors import InvalidOptionError
from .adding import Data
from .backend import read_json
from .pipeline import backend_of

GPT2_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ``ByteLevel`` with ``use_regex`` cuts by."""

_SAMPLES = ("\u0915\u093f\u0924\u093e\u092c", "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48", "\u0643\u0650\u062a\u064e")
"""Words with marks that no composed character stands for: Devanagari, Thai, Arabic with vowels."""


def upgrade_marks(tokenizer: PreTrainedTokenizerBase) -> Data:
    r"""Return the ``tokenizer.json`` with a regex that joins marks to letters.

    In every ``Split`` by a regex, and in the regex of ``ByteLevel``, ``\p{L}`` becomes ``[\p{L}\p{M}]``. Text without
    marks is cut as before. A pipeline that cuts no marks off is returned as it is.

    Raises:
        InvalidOptionError: If marks are cut off in another way.
    """
    data = read_json(tokenizer)
    if not _cuts_marks(backend_of(tokenizer)):
        return data
    upgraded = {**data, "pre_tokenizer": _upgrade(data["pre_tokenizer"])}
    if _cuts_marks(_pipeline(upgraded)):
        raise InvalidOptionError(
            "marks_aware was asked for, but the pre-tokenizer cuts combining marks off by a rule that cannot be "
            "rewritten: only regexes over \\p{L} can, without a space put in front. Leave marks_aware out, or "
            "change the pre-tokenizer first."
        )
    return upgraded


def _cuts_marks(backend: Tokenizer) -> bool:
    """Whether the pre-tokenizer cuts a mark off its letter."""
    if backend.pre_tokenizer is None:
        return False
    return any(len(backend.pre_tokenizer.pre_tokenize_str(sample)) > 1 for sample in _SAMPLES)


def _pipeline(data: Data) -> Tokenizer:
    """Return a Rust tokenizer with the pre-tokenizer of the data and an empty model."""
    import json

    model = {"type": "BPE", "vocab": {}, "merges": []}
    parts = {"version": "1.0", "added_tokens": [], "pre_tokenizer": data["pre_tokenizer"], "model": model}
    return Tokenizer.from_str(json.dumps(parts))


def _upgrade(node: dict[str, Any]) -> dict[str, Any]:
    """Return a part of the pre-tokenizer, and what is nested in it, rewritten."""
    if node["type"] == "Sequence":
        return {**node, "pretokenizers": [_upgrade(child) for child in node["pretokenizers"]]}
    if node["type"] == "Split" and "Regex" in node["pattern"]:
        return {**node, "pattern": {"Regex": join_marks(node["pattern"]["Regex"])}}
    if node["type"] == "ByteLevel" and node["use_regex"] and not node["add_prefix_space"]:
        split = {
            "type": "Split",
            "pattern": {"Regex": join_marks(GPT2_REGEX)},
            "behavior": "Isolated",
            "invert": False,
        }
        return {"type": "Sequence", "pretokenizers": [split, {**node, "use_regex": False}]}
    return node


def join_marks(regex: str) -> str:
    r"""Return a regex in which ``\p{L}`` takes in marks, inside and outside of brackets."""
    parts: list[str] = []
    inside = False
    for token in re.findall(r"\\p\{L\}|\\.|.", regex, re.DOTALL):
        if token == r"\p{L}":
            token = r"\p{L}\p{M}" if inside else r"[\p{L}\p{M}]"
        inside = token == "[" or (inside and token != "]")
        parts.append(token)
    return "".join(parts)


__all__ = ["join_marks", "upgrade_marks"]
