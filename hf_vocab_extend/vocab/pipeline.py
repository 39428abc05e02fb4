"""How a tokenizer spells its tokens, read from the parts of its ``tokenizer.json``.

Only the model's own fields and the declared pre-tokenizer, normalizer and decoder are read. Class names and the share
of tokens that carry a mark say nothing reliable: most classes of transformers 5 load as one backend class.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase

from ..errors import UnsupportedTokenizerError


class Family(str, Enum):
    """How a tokenizer spells its tokens."""

    BYTE_BPE = "byte-level BPE"
    SENTENCEPIECE_BPE = "sentencepiece BPE"
    UNIGRAM = "Unigram"
    WORDPIECE = "WordPiece"
    SUFFIX_BPE = "BPE with end-of-word suffix"


@dataclass(frozen=True)
class Spelling:
    """What the characters of a token mean.

    Attributes:
        family: The family.
        byte_level: Whether one character stands for one byte.
        space_mark: The character that stands for a space, or None.
        prefix: What a piece inside a word begins with (WordPiece), or an empty string.
        suffix: What the last piece of a word ends with, or an empty string.
        byte_fallback: Whether ``<0xNN>`` stands for a byte.
    """

    family: Family
    byte_level: bool
    space_mark: str | None
    prefix: str
    suffix: str
    byte_fallback: bool


def backend_of(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return the Rust tokenizer behind a tokenizer.

    Raises:
        UnsupportedTokenizerError: If there is none, and so no ``tokenizer.json``.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise UnsupportedTokenizerError(
            f"{type(tokenizer).__name__} has no tokenizer.json behind it. Convert it to a PreTrainedTokenizerFast "
            "first (transformers.convert_slow_tokenizer), or take a checkpoint that ships a tokenizer.json."
        )
    return backend


def nodes(component: Any) -> list[dict[str, Any]]:
    """Return a normalizer, pre-tokenizer or decoder with all that is nested in it, in order, as plain data.

    Args:
        component: A part of a Rust tokenizer, or None.

    Raises:
        UnsupportedTokenizerError: If the part is written in Python and so cannot be read or saved.
    """
    if component is None:
        return []
    try:
        state = component.__getstate__()
    except Exception as error:
        raise UnsupportedTokenizerError(
            f"A {type(component).__name__} of the tokenizer cannot be serialised ({error}). Replace custom Python "
            "parts by those of the tokenizers library."
        ) from error
    return list(_walk(json.loads(state)))


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a node and, for a sequence, its children."""
    yield node
    for value in node.values():
        if isinstance(value, list):
            for child in value:
                if isinstance(child, dict) and "type" in child:
                    yield from _walk(child)


def _literal(pattern: Any) -> str | None:
    """Return the text of a pattern that matches one text only, else None."""
    if isinstance(pattern, str):
        return pattern
    if isinstance(pattern, dict):
        return pattern.get("String", " " if pattern.get("Regex") == " " else None)
    return None


def _space_mark(normalizer: list[dict], pre_tokenizer: list[dict], decoder: list[dict]) -> str | None:
    """Return the character that stands for a space, or None."""
    for node in [*pre_tokenizer, *decoder]:
        if node["type"] == "Metaspace":
            return str(node["replacement"])
    for node in normalizer:
        if node["type"] == "Replace" and _literal(node["pattern"]) == " " and len(node["content"]) == 1:
            return str(node["content"])
    for node in decoder:
        mark = _literal(node["pattern"]) if node["type"] == "Replace" else None
        if mark and len(mark) == 1 and node["content"] == " ":
            return mark
    return None


def _bpe_family(model: models.BPE, byte_level: bool, mark: str | None) -> Family | None:
    """Return the family of a BPE model, or None for one whose tokens do not tell where words begin."""
    if model.end_of_word_suffix:
        return Family.SUFFIX_BPE
    if model.continuing_subword_prefix:
        return None
    if byte_level:
        return Family.BYTE_BPE
    return Family.SENTENCEPIECE_BPE if mark else None


def _unigram_field(model: models.Unigram, name: str) -> str:
    """Return a field of a Unigram model that has no attribute, as JSON text, without parsing the whole vocabulary.

    Quotes inside a piece are escaped and a piece is followed by a comma, so only the key itself can match.
    """
    found = re.search(rb'(?<!\\)"%s":\s*(\w+)' % name.encode(), model.__getstate__())
    return found[1].decode() if found else "null"


def unknown_id(backend: Tokenizer) -> int | None:
    """Return the id that a model gives to what it cannot write, or None."""
    model = backend.model
    if isinstance(model, models.Unigram):
        field = _unigram_field(model, "unk_id")
        return None if field == "null" else int(field)
    name = getattr(model, "unk_token", None)
    return None if name is None else backend.token_to_id(name)


def _byte_fallback(model: models.Model, decoder: list[dict[str, Any]]) -> bool:
    """Whether ``<0xNN>`` stands for a byte."""
    if any(node["type"] == "ByteFallback" for node in decoder):
        return True
    if isinstance(model, models.Unigram):
        return _unigram_field(model, "byte_fallback") == "true"
    return bool(getattr(model, "byte_fallback", False))


def read_spelling(tokenizer: PreTrainedTokenizerBase) -> Spelling:
    """Read how a tokenizer spells its tokens.

    Raises:
        UnsupportedTokenizerError: If it has no ``tokenizer.json`` behind it or belongs to no known family.
    """
    backend = backend_of(tokenizer)
    model = backend.model
    normalizer, pre_tokenizer = nodes(backend.normalizer), nodes(backend.pre_tokenizer)
    decoder = nodes(backend.decoder)
    byte_level = any(node["type"] == "ByteLevel" for node in [*normalizer, *pre_tokenizer, *decoder])
    mark = None if byte_level else _space_mark(normalizer, pre_tokenizer, decoder)
    family: Family | None = None
    if isinstance(model, models.BPE):
        family = _bpe_family(model, byte_level, mark)
    elif isinstance(model, models.Unigram):
        family = Family.UNIGRAM
    elif isinstance(model, models.WordPiece):
        family = Family.WORDPIECE
    if family is None:
        raise UnsupportedTokenizerError(
            f"A {type(model).__name__} model whose pipeline shows neither bytes, a space mark nor a word-end suffix "
            f"belongs to no known family. Known: {', '.join(item.value for item in Family)}."
        )
    return Spelling(
        family=family,
        byte_level=byte_level,
        space_mark=mark,
        prefix=model.continuing_subword_prefix if isinstance(model, models.WordPiece) else "",
        suffix=(model.end_of_word_suffix or "") if isinstance(model, models.BPE) else "",
        byte_fallback=not byte_level and _byte_fallback(model, decoder),
    )


def detect_family(tokenizer: PreTrainedTokenizerBase) -> Family:
    """Return the family of a tokenizer.

    Raises:
        UnsupportedTokenizerError: If it has no ``tokenizer.json`` behind it or belongs to no known family.
    """
    return read_spelling(tokenizer).family
