"""save_sentencepiece: a Unigram or sentencepiece-BPE tokenizer as a ``.model`` that cuts every text the same way."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from .._optional import require
from ..errors import OutputFolderError, TokenizerMismatchError, UnsupportedTokenizerError, VerificationError
from .adding import Data, merge_pairs, token_ids
from .backend import read_json
from .canonical import TokenKind, canonicalise
from .pipeline import Family, Spelling, backend_of, nodes, read_spelling
from .reachability import whole_lines
from .sentencepiece_proto import MARK, ModelType, PieceType, new_proto, read_proto

if TYPE_CHECKING:
    from ..resources.corpus import Corpus

Piece = tuple[str, float, PieceType]
_TYPES = {Family.UNIGRAM: ModelType.UNIGRAM, Family.SENTENCEPIECE_BPE: ModelType.BPE}
_GROUP = 8


def save_sentencepiece(
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    *,
    base_model: str | Path | None = None,
    corpus: Corpus | Any = None,
) -> Path:
    """Write a tokenizer as a sentencepiece ``.model``.

    Without ``base_model`` the pieces stand in the order of the tokenizer's ids, so that sentencepiece gives the same
    ids. With it, its pieces keep their order, and the tokenizer's further ones follow in the order of their ids: for
    code that expects the original file's ids with an offset of its own (XLM-R). Ids then are those of the file.

    The scores of a BPE piece follow the first of its merges. Sentencepiece merges whatever spells a piece, a
    ``tokenizer.json`` only listed pairs; where that makes a difference, it shows in the check below.

    Before anything is written, the model is loaded by sentencepiece, and its cuts are compared with the tokenizer's on
    the text of every token, of runs of tokens, and on ``corpus``.

    Args:
        tokenizer: Unigram, or BPE with a space mark.
        path: File to write; an existing one is replaced.
        base_model: The ``.model`` that the tokenizer was extended from: gives normalizer, trainer settings, and types.
        corpus: Text to compare on as well, whatever ``open_corpus`` accepts.

    Returns:
        The path.

    Raises:
        UnsupportedTokenizerError: If the tokenizer is of another family, or a part of its pipeline has no counterpart
            in sentencepiece.
        TokenizerMismatchError: If the tokenizer lacks pieces of ``base_model`` or scores them otherwise.
        VerificationError: If sentencepiece cuts a text otherwise; nothing is written.
        MissingDependencyError: If sentencepiece or protobuf is missing.
        OutputFolderError: If the file cannot be written.
    """
    path = Path(path)
    spelling = read_spelling(tokenizer)
    if spelling.family not in _TYPES or spelling.space_mark != MARK:
        raise UnsupportedTokenizerError(
            f"A {spelling.family.value} tokenizer with the space mark {spelling.space_mark!r} cannot be written as a "
            f".model. Only Unigram and sentencepiece BPE with the mark {MARK!r} can."
        )
    data = read_json(tokenizer)
    pieces = _pieces(tokenizer, data, spelling)
    if base_model is None:
        proto = _fresh_proto(tokenizer, data, spelling)
    else:
        proto = read_proto(base_model)
        pieces = _after_base(pieces, proto, spelling, base_model)
    _fill(proto, pieces)
    raw = proto.SerializeToString()
    _verify(tokenizer, raw, corpus)
    _write(path, raw)
    return path


def _pieces(tokenizer: PreTrainedTokenizerBase, data: Data, spelling: Spelling) -> list[Piece]:
    """Return the pieces in the order of the ids, holes as unused pieces."""
    vocab = canonicalise(tokenizer)
    scores = _SCORES[spelling.family](data)
    added = {token["content"]: bool(token["special"]) for token in data["added_tokens"]}
    pieces: list[Piece] = []
    for index, token in enumerate(vocab.tokens):
        if token is None:
            pieces.append((f"<unused{index}>", 0.0, PieceType.UNUSED))
        elif index == _unknown_id(data):
            pieces.append((token, 0.0, PieceType.UNKNOWN))
        elif token in added or vocab.kinds[index] == TokenKind.SPECIAL:
            pieces.append((token, 0.0, PieceType.CONTROL if added.get(token, True) else PieceType.USER_DEFINED))
        elif vocab.kinds[index] == TokenKind.BYTE and spelling.byte_fallback and token.startswith("<0x"):
            pieces.append((token, 0.0, PieceType.BYTE))
        elif vocab.kinds[index] == TokenKind.UNUSED and spelling.family is Family.UNIGRAM:
            pieces.append((token, 0.0, PieceType.UNUSED))
        else:
            pieces.append((token, scores[token], PieceType.NORMAL))
    return pieces


def _unknown_id(data: Data) -> int:
    """Return the id of the unknown piece.

    Raises:
        UnsupportedTokenizerError: If there is none; sentencepiece needs one.
    """
    model = data["model"]
    index = model.get("unk_id") if model["type"] == "Unigram" else token_ids(data).get(model.get("unk_token") or "")
    if index is None:
        raise UnsupportedTokenizerError(
            "The tokenizer has no unknown token, and sentencepiece needs one. Set unk_token of its model first."
        )
    return int(index)


def _unigram_scores(data: Data) -> dict[str, float]:
    return {piece: float(score) for piece, score in data["model"]["vocab"]}


def _bpe_scores(data: Data) -> dict[str, float]:
    """Return minus the rank of the first merge that makes a piece; pieces that none makes come last, by id."""
    ranks: dict[str, int] = {}
    for left, right in merge_pairs(data):
        ranks.setdefault(left + right, len(ranks))
    for token, _ in sorted(data["model"]["vocab"].items(), key=lambda item: item[1]):
        ranks.setdefault(token, len(ranks))
    return {token: -float(rank) for token, rank in ranks.items()}


_SCORES: dict[Family, Callable[[Data], dict[str, float]]] = {
    Family.UNIGRAM: _unigram_scores,
    Family.SENTENCEPIECE_BPE: _bpe_scores,
}


def _after_base(pieces: list[Piece], proto: Any, spelling: Spelling, path: str | Path) -> list[Piece]:
    """Return the pieces of the base file and behind them the tokenizer's others, scored below them in a BPE.

    Raises:
        TokenizerMismatchError: If the two do not belong together.
    """
    if proto.trainer_spec.model_type != _TYPES[spelling.family]:
        raise TokenizerMismatchError(
            f"{path} is a {ModelType(proto.trainer_spec.model_type).name} model and the tokenizer is "
            f"{spelling.family.value}. Pass the file that the tokenizer came from."
        )
    own = {piece: (score, kind) for piece, score, kind in pieces}
    for item in proto.pieces:
        if item.type != PieceType.NORMAL:
            continue
        score, _ = own.get(item.piece, (None, None))
        unlike = spelling.family is Family.UNIGRAM and score is not None and abs(score - item.score) > 1e-3
        if score is None or unlike:
            raise TokenizerMismatchError(
                f"The piece {item.piece!r} of {path} has the score {item.score} there and {score} in the tokenizer. "
                "Pass the file that the tokenizer came from."
            )
    base: list[Piece] = [(item.piece, item.score, PieceType(item.type)) for item in proto.pieces]
    present = {piece for piece, _, _ in base}
    # One unknown piece is enough, whatever it is called.
    new = [item for item in pieces if item[0] not in present and item[2] != PieceType.UNKNOWN]
    if spelling.family is Family.SENTENCEPIECE_BPE:
        lowest = min(score for _, score, kind in base if kind == PieceType.NORMAL)
        order = {item[0]: place for place, item in enumerate(sorted(new, key=lambda item: -item[1]))}
        new = [
            (piece, lowest - 1 - order[piece] if kind == PieceType.NORMAL else score, kind)
            for piece, score, kind in new
        ]
    return base + new


def _fresh_proto(tokenizer: PreTrainedTokenizerBase, data: Data, spelling: Spelling) -> Any:
    """Return a proto with the settings that the pipeline shows."""
    proto = new_proto()
    settings = _read_pipeline(tokenizer)
    spec = proto.normalizer_spec
    spec.name = "user_defined" if settings.charsmap else "identity"
    spec.precompiled_charsmap = settings.charsmap
    spec.add_dummy_prefix = settings.dummy_prefix
    spec.remove_extra_whitespaces = settings.remove_extra
    spec.escape_whitespaces = True
    trainer = proto.trainer_spec
    trainer.model_type = int(_TYPES[spelling.family])
    trainer.byte_fallback = bool(data["model"].get("byte_fallback"))
    for role in ("bos", "eos", "pad", "unk"):
        token = getattr(tokenizer, f"{role}_token", None)
        setattr(trainer, f"{role}_id", -1 if token is None else tokenizer.convert_tokens_to_ids(str(token)))
        if token is not None:
            setattr(trainer, f"{role}_piece", str(token))
    return proto


@dataclass
class _Settings:
    charsmap: bytes = b""
    dummy_prefix: bool = False
    remove_extra: bool = False


def _read_pipeline(tokenizer: PreTrainedTokenizerBase) -> _Settings:
    """Translate normalizer and pre-tokenizer.

    Raises:
        UnsupportedTokenizerError: If a part has no counterpart.
    """
    backend = backend_of(tokenizer)
    settings = _Settings()
    for node in [*nodes(backend.normalizer), *nodes(backend.pre_tokenizer)]:
        if not any(read(node, settings) for read in _READERS.get(node["type"], ())):
            shown = {key: value for key, value in node.items() if key != "precompiled_charsmap"}
            raise UnsupportedTokenizerError(
                f"The tokenizer's {shown} has no counterpart in a .model without a character map. Pass base_model=, "
                "the .model that it came from."
            )
    return settings


def _pattern(node: dict[str, Any]) -> str:
    pattern = node.get("pattern", "")
    return pattern if isinstance(pattern, str) else str(next(iter(pattern.values())))


def _read_charsmap(node: dict[str, Any], settings: _Settings) -> bool:
    settings.charsmap = base64.b64decode(node["precompiled_charsmap"] or "")
    return True


def _read_spaces(node: dict[str, Any], settings: _Settings) -> bool:
    """Read a replacement of runs of spaces, of spaces at the ends, or of spaces by marks."""
    if _pattern(node) in (" {2,}", r"\A | \z"):
        settings.remove_extra = True
        return True
    return _pattern(node) == " " and node["content"] == MARK


def _read_prefix(node: dict[str, Any], settings: _Settings) -> bool:
    settings.dummy_prefix = True
    return node["prepend"] == MARK


def _read_metaspace(node: dict[str, Any], settings: _Settings) -> bool:
    settings.dummy_prefix |= node["prepend_scheme"] != "never"
    return True


def _read_split_on_spaces(node: dict[str, Any], settings: _Settings) -> bool:
    settings.remove_extra = True
    return True


_READERS: dict[str, tuple[Callable[[dict[str, Any], _Settings], bool], ...]] = {
    "Sequence": (lambda node, settings: True,),
    "Precompiled": (_read_charsmap,),
    "Replace": (_read_spaces,),
    "Prepend": (_read_prefix,),
    "Metaspace": (_read_metaspace,),
    "WhitespaceSplit": (_read_split_on_spaces,),
    "Strip": (_read_split_on_spaces,),
    "Split": (lambda node, settings: _pattern(node) in (MARK, " "),),
}


def _fill(proto: Any, pieces: list[Piece]) -> None:
    """Put the pieces into the proto."""
    del proto.pieces[:]
    for piece, score, kind in pieces:
        proto.pieces.add(piece=piece, score=score, type=int(kind))
    proto.trainer_spec.vocab_size = len(pieces)


def _battery(tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield the text of every token, and runs of neighbours by id, which meet nowhere else."""
    vocab = canonicalise(tokenizer)
    texts = []
    for index in range(len(vocab)):
        text = vocab.text(index) if vocab.kinds[index] == TokenKind.NORMAL else None
        if text and text.strip():
            texts.append(text)
            yield text.strip()
    for start in range(0, len(texts), _GROUP):
        yield "".join(texts[start : start + _GROUP]).strip()


def _verify(tokenizer: PreTrainedTokenizerBase, raw: bytes, corpus: Corpus | Any) -> None:
    """Compare the pieces that sentencepiece and the tokenizer give.

    Raises:
        VerificationError: If sentencepiece does not load the model or cuts a text otherwise.
    """
    from ..resources.corpus import open_corpus

    library = require("sentencepiece", "sentencepiece")
    try:
        processor = library.SentencePieceProcessor(model_proto=raw)
    except RuntimeError as error:
        raise VerificationError(f"sentencepiece refuses the model: {error}. Nothing was written.") from error
    backend = backend_of(tokenizer)
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    sources = [_battery(tokenizer), iter(()) if corpus is None else iter(open_corpus(corpus))]
    n_texts = 0
    with whole_lines(backend):
        for source in sources:
            while batch := [line for line in islice(source, 1000)]:
                # A control symbol written out in a text is plain text to sentencepiece, by design.
                batch = [text for text in batch if not any(name in text for name in added)]
                _compare(processor, backend, batch, n_texts)
                n_texts += len(batch)


def _compare(processor: Any, backend: Any, texts: list[str], before: int) -> None:
    """Raise for the first text of a batch that is cut otherwise."""
    theirs = processor.encode(texts, out_type=int)
    ours = backend.encode_batch(texts, add_special_tokens=False)
    for text, ids, encoding in zip(texts, theirs, ours, strict=True):
        pieces = [processor.id_to_piece(index) for index in ids]
        if pieces != encoding.tokens and pieces != [backend.id_to_token(index) for index in encoding.ids]:
            raise VerificationError(
                f"sentencepiece would cut {text[:60]!r} into {pieces[:12]}, the tokenizer cuts it into "
                f"{encoding.tokens[:12]} ({before} texts before it agree). A .model cannot express this tokenizer; "
                "nothing was written. Keep its tokenizer.json."
            )


def _write(path: Path, raw: bytes) -> None:
    """Write a file by rename.

    Raises:
        OutputFolderError: If the folder is missing or not writable.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputFolderError(
            f"{path} cannot be written: {error}. Choose a folder that exists and is writable."
        ) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OutputFolderError(f"{path} cannot be written: {error}. Free space, or choose another place.") from error


__all__ = ["save_sentencepiece"]
