"""The pieces that a source tokenizer cuts a target token into, in the token's own place in a word.

A tokenizer's whole pipeline always takes a text for the start of a word; a token may stand inside one. So the
normalizer and the pre-tokenizer are asked for the text's parts, the mark of a word start is put on or taken off, and
the bare model cuts each part. What comes out counts only if the pieces' bytes, joined, are the token's again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase

from ..vocab.backend import read_json
from ..vocab.canonical import BYTE_LETTERS, CanonicalVocab, Family, TokenKind
from ..vocab.pipeline import Spelling, backend_of, read_spelling

_LETTER_OF_BYTE = {byte: chr(code) for code, byte in BYTE_LETTERS.items()}
_SPACE_LETTER = _LETTER_OF_BYTE[0x20]
_BATCH = 50_000
_STEM = "a"  # a letter to put in front of a text that stands inside a word
_WHOLE, _INSIDE, _OPEN = "whole", "inside", "open"  # bare models, see _bare_models


@dataclass(frozen=True, eq=False)
class Pieces:
    """Source pieces of some tokens; a token without pieces could not be spelled.

    Attributes:
        offsets: Start of each token in ``ids``, int64, shape `(n_tokens + 1,)`.
        ids: Source ids in reading order, int64, shape `(n_pieces,)`.
    """

    offsets: np.ndarray
    ids: np.ndarray

    def keep(self, mask: np.ndarray) -> Pieces:
        """Return only the pieces where the mask, bool, shape `(n_pieces,)`, is set."""
        before = np.concatenate([[0], np.cumsum(mask)])
        return Pieces(before[self.offsets].astype(np.int64), self.ids[mask])

    def of(self, index: int) -> list[int]:
        """Return the pieces of one token."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]].tolist()


@dataclass(frozen=True)
class _Part:
    """A stretch of a token for the bare model."""

    owner: int
    text: str
    model: str


def segment(
    source_tokenizer: PreTrainedTokenizerBase,
    source: CanonicalVocab,
    target: CanonicalVocab,
    target_ids: Iterable[int],
) -> Pieces:
    """Cut target tokens into source pieces.

    Args:
        source_tokenizer: Cuts; its normalizer (lower-casing, NFC, ...) applies.
        source: Its vocabulary.
        target: The target vocabulary.
        target_ids: The tokens to cut. Special and unused ones get no pieces.

    Returns:
        Pieces that are text or bytes, never a special token or the unknown one. A token that the model cannot spell
        exactly is spelled by single bytes if the source has all of them.
    """
    wanted = np.asarray(list(target_ids), np.int64)
    cutter = _Cutter(source_tokenizer, source)
    parts: list[_Part] = []
    expected: list[bytes] = []
    for owner, target_id in enumerate(wanted.tolist()):
        spelled, of_token = cutter.parts(owner, target, target_id)
        expected.append(spelled)
        parts += of_token
    found: list[list[int]] = [[] for _ in wanted]
    for part, ids in zip(parts, cutter.cut(parts), strict=True):
        found[part.owner] += ids
    chosen = []
    for target_id, spelled, ids in zip(wanted.tolist(), expected, found, strict=True):
        chosen.append(ids if cutter.spells(ids, spelled) else cutter.bytes_of(target, target_id))
    offsets = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum([len(ids) for ids in chosen], out=offsets[1:])
    return Pieces(offsets, np.fromiter((index for ids in chosen for index in ids), np.int64, int(offsets[-1])))


class _Cutter:
    """A source tokenizer taken apart."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: CanonicalVocab) -> None:
        self.source = source
        self.spelling: Spelling = read_spelling(tokenizer)
        backend = backend_of(tokenizer)
        self.normalizer, self.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        self.mark = _SPACE_LETTER if self.spelling.byte_level else self.spelling.space_mark
        self.holds_space = self.spelling.family not in (Family.WORDPIECE, Family.SUFFIX_BPE) and self.mark is not None
        mark = self.spelling.space_mark
        self.marked_before = (
            mark is not None and self.normalizer is not None and mark in self.normalizer.normalize_str("a b")
        )
        self.models = _bare_models(tokenizer, self.spelling)
        usable = np.isin(source.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
        self.usable = usable.tolist()
        self.squeezed = [raw.replace(b" ", b"") for raw in source.raw]
        self.byte_ids = {
            source.raw[index]: index for index in reversed(np.flatnonzero(source.kinds == TokenKind.BYTE).tolist())
        }

    def parts(self, owner: int, target: CanonicalVocab, target_id: int) -> tuple[bytes, list[_Part]]:
        """Return the bytes, without spaces, that the pieces must join to, and the parts to cut."""
        if target.kinds[target_id] not in (TokenKind.NORMAL, TokenKind.BYTE):
            return b"", []
        raw = target.raw[target_id]
        starts = int(target.starts_word[target_id]) == 1 or target.family is Family.SUFFIX_BPE
        is_open = self.spelling.family is Family.SUFFIX_BPE and target.ends_word[target_id] == 0
        try:
            text = self._normal(raw.decode("utf-8"))
            strings, kinds = self._split(text, starts)
            spelled = text.encode("utf-8", "surrogatepass").replace(b" ", b"")
        except UnicodeDecodeError:
            if not self.spelling.byte_level:
                return raw, []
            letters = "".join(_LETTER_OF_BYTE[byte] for byte in raw)
            strings = [_SPACE_LETTER + letters if starts and self.holds_space else letters]
            kinds, spelled = [_WHOLE], raw.replace(b" ", b"")
        if is_open and strings:
            kinds[-1] = _OPEN
        return spelled, [_Part(owner, *pair) for pair in zip(strings, kinds, strict=True)]

    def _normal(self, text: str) -> str:
        """Return the text as the normalizer leaves it, with plain spaces and without a space put in front."""
        if self.normalizer is None:
            return text
        normal = self.normalizer.normalize_str(text)
        if self.spelling.space_mark is not None:
            normal = normal.replace(self.spelling.space_mark, " ")
        return normal[1:] if normal.startswith(" ") and not text.startswith(" ") else normal

    def _split(self, text: str, starts: bool) -> tuple[list[str], list[str]]:
        """Return the parts of a normalised text as the model spells them, and the bare model for each."""
        if not text:
            return [], []
        if self.holds_space:
            strings = self._split_spaced(text, starts)
            return strings, [_WHOLE] * len(strings)
        if starts or _INSIDE not in self.models:
            strings = self._pre_tokenize(text)
            return strings, [_WHOLE] * len(strings)
        first, *rest = self._pre_tokenize(_STEM + text)
        if first == _STEM:  # cut off from letters, so it never stands inside a word
            return rest, [_WHOLE] * len(rest)
        return [first.removeprefix(_STEM), *rest], [_INSIDE] + [_WHOLE] * len(rest)

    def _split_spaced(self, text: str, starts: bool) -> list[str]:
        """Return the parts of a text where tokens hold their spaces, with or without one at the start."""
        mark = self.mark or ""
        if not text.strip(" "):
            return [mark * len(text)]
        strings = self._pre_tokenize(" " + text if starts else text)
        if starts and strings and not strings[0].startswith(mark):
            strings[0] = mark + strings[0]
        if not starts and strings and strings[0].startswith(mark) and not text.startswith(" "):
            strings[0] = strings[0][len(mark) :]
        return [string for string in strings if string]

    def _pre_tokenize(self, text: str) -> list[str]:
        """Apply the pre-tokenizer to a text whose spaces are marked if the normalizer marks them."""
        if self.marked_before:
            text = text.replace(" ", self.mark or " ")
        return [text] if self.pre_tokenizer is None else [cut for cut, _ in self.pre_tokenizer.pre_tokenize_str(text)]

    def cut(self, parts: list[_Part]) -> list[list[int]]:
        """Return the ids of each part, in batches that run in parallel."""
        result: list[list[int]] = [[] for _ in parts]
        for name in dict.fromkeys(part.model for part in parts):
            places = [index for index, part in enumerate(parts) if part.model == name]
            backend, to_source = self.models[name]
            for start in range(0, len(places), _BATCH):
                batch = places[start : start + _BATCH]
                encodings = backend.encode_batch_fast([parts[index].text for index in batch], add_special_tokens=False)
                for index, encoding in zip(batch, encodings, strict=True):
                    ids = encoding.ids
                    result[index] = ids if to_source is None else [to_source[own] for own in ids]
        return result

    def spells(self, ids: list[int], spelled: bytes) -> bool:
        """Whether pieces may be used and join to the bytes, spaces aside."""
        return (
            bool(ids)
            and all(index < len(self.usable) and self.usable[index] for index in ids)
            and b"".join(self.squeezed[index] for index in ids) == spelled
        )

    def bytes_of(self, target: CanonicalVocab, target_id: int) -> list[int]:
        """Return the byte tokens of a token's bytes, or nothing if one is missing."""
        if target.kinds[target_id] not in (TokenKind.NORMAL, TokenKind.BYTE):
            return []
        ids = [self.byte_ids.get(bytes([byte])) for byte in target.raw[target_id]]
        return [] if None in ids else [index for index in ids if index is not None]


def _bare_models(
    tokenizer: PreTrainedTokenizerBase, spelling: Spelling
) -> dict[str, tuple[Tokenizer, list[int] | None]]:
    """Return tokenizers without a pipeline, each with the source id of its ids (None: the same).

    `whole` is the model as it is; `inside` cuts the inside of a word as WordPiece does; `open` cuts as BPE with an
    end-of-word suffix does where no word ends.
    """
    model = backend_of(tokenizer).model
    if getattr(model, "dropout", None):
        model = _bpe(read_json(tokenizer)["model"], suffix=spelling.suffix or None)
    bare: dict[str, tuple[Tokenizer, list[int] | None]] = {_WHOLE: (Tokenizer(model), None)}
    if spelling.family is Family.WORDPIECE and spelling.prefix:
        data = read_json(tokenizer)["model"]
        inside = [(token[len(spelling.prefix) :], index) for token, index in data["vocab"].items()
                  if token.startswith(spelling.prefix) and token != spelling.prefix]  # fmt: skip
        unknown = data["unk_token"]
        vocab = {token: place for place, (token, _) in enumerate(inside)}
        to_source = [index for _, index in inside]
        if unknown not in vocab:
            vocab[unknown] = len(to_source)
            to_source.append(data["vocab"][unknown])
        word_piece = models.WordPiece(
            vocab=vocab,
            unk_token=unknown,
            continuing_subword_prefix="",
            max_input_chars_per_word=data["max_input_chars_per_word"],
        )
        bare[_INSIDE] = (Tokenizer(word_piece), to_source)
    if spelling.family is Family.SUFFIX_BPE:
        bare[_OPEN] = (Tokenizer(_bpe(read_json(tokenizer)["model"], suffix=None)), None)
    return bare


def _bpe(data: dict, suffix: str | None) -> models.BPE:
    """Rebuild a BPE model without dropout, with another end-of-word suffix."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in data["merges"])
    merges = [(left, right) for left, right in pairs]
    options = {"unk_token": data.get("unk_token"), "end_of_word_suffix": suffix}
    return models.BPE(
        vocab=data["vocab"],
        merges=merges,
        fuse_unk=bool(data.get("fuse_unk")),
        byte_fallback=bool(data.get("byte_fallback")),
        ignore_merges=bool(data.get("ignore_merges")),
        **{name: value for name, value in options.items() if value is not None},
    )
