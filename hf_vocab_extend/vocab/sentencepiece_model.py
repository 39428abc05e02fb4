"""Sentencepiece ``.model`` files in and out of tokenizers with a ``tokenizer.json``."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ..errors import UnsupportedTokenizerError, VocabExtendWarning
from .deriving import all_splits
from .scoring import silent_score
from .sentencepiece_proto import MARK, ModelType, PieceType, read_proto
from .sentencepiece_writer import save_sentencepiece

_OWN_TEXT = (PieceType.NORMAL, PieceType.USER_DEFINED)


def load_sentencepiece(path: str | Path) -> PreTrainedTokenizerFast:
    """Load a sentencepiece model as a tokenizer that can be extended, trained with, and saved as ``tokenizer.json``.

    Ids are the positions in the file and equal those of sentencepiece; ``encode(text, add_special_tokens=False)``
    equals sentencepiece's encoding. (A model class of transformers may number the same pieces otherwise: XLM-R puts
    three control tokens in front, so that its ids are one higher from the first real piece on. Use the checkpoint's
    own ``tokenizer.json`` with its model.) No template is set: bos and eos are known, but not put around a text.

    Some things follow the tokenizers library instead of sentencepiece. A control symbol written out in a text (such as
    ``</s>``) is read as that symbol, and so is the name of a byte (``<0x41>``) in a Unigram model of which a character
    of that name is no piece. A text that begins with a user-defined symbol gets no mark in front of it; and if there
    are user-defined symbols, spaces at the ends of a text are kept, and no mark is put in front of a leading space.

    Args:
        path: A ``.model`` file of type Unigram or BPE.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingDependencyError: If sentencepiece or protobuf is missing.
        UnsupportedTokenizerError: If the file is no sentencepiece model, or holds something that a
            ``tokenizer.json`` cannot express.
    """
    proto = read_proto(path)
    _refuse_inexpressible(proto, path)
    backend = Tokenizer(_MODELS[ModelType(proto.trainer_spec.model_type)](proto, path))
    _set_pipeline(backend, proto)
    _add_symbols(backend, proto)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **_named_tokens(proto))


def _refuse_inexpressible(proto: Any, path: str | Path) -> None:
    """Raise for what a ``tokenizer.json`` cannot say."""
    spec, normalizer = proto.trainer_spec, proto.normalizer_spec
    repeated = [piece for piece, count in Counter(item.piece for item in proto.pieces).items() if count > 1]
    unknown = sum(item.type == PieceType.UNKNOWN for item in proto.pieces)
    unused = any(item.type == PieceType.UNUSED for item in proto.pieces)
    is_bpe = spec.model_type == ModelType.BPE
    reasons = {
        f"its model type is {spec.model_type} (word or character)": spec.model_type not in _MODELS,
        "it marks the ends of words instead of their starts (treat_whitespace_as_suffix)": (
            spec.treat_whitespace_as_suffix
        ),
        "it keeps spaces as they are (escape_whitespaces is off)": not normalizer.escape_whitespaces,
        "it has a denormalizer": bool(proto.denormalizer_spec.precompiled_charsmap),
        f"it has {unknown} unknown pieces instead of one": unknown != 1,
        f"it has the piece {repeated[:1]} more than once": bool(repeated),
        "it has unused pieces, which BPE cuts up again after merging": is_bpe and unused,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedTokenizerError(
                f"{path} cannot be expressed as a tokenizer.json: {reason}. Only Unigram and BPE models with marks at "
                "word starts can."
            )


def _unknown_id(proto: Any) -> int:
    return next(index for index, item in enumerate(proto.pieces) if item.type == PieceType.UNKNOWN)


def _unigram(proto: Any, path: str | Path) -> models.Unigram:
    """Return the model; pieces that no text leads to get a score at which they never win."""
    scores = {item.piece: item.score for item in proto.pieces if item.type in _OWN_TEXT}
    silent = silent_score([item.piece for item in proto.pieces if item.type not in _OWN_TEXT], scores)
    pieces = [(item.piece, item.score if item.type in _OWN_TEXT else silent) for item in proto.pieces]
    return models.Unigram(pieces, unk_id=_unknown_id(proto), byte_fallback=proto.trainer_spec.byte_fallback)


def _bpe(proto: Any, path: str | Path) -> models.BPE:
    """Return the model; each piece gets a merge for every way to cut it in two, in the order of the scores."""
    vocab = {item.piece: index for index, item in enumerate(proto.pieces)}
    normal = [(index, item) for index, item in enumerate(proto.pieces) if item.type == PieceType.NORMAL]
    symbols = {item.piece for _, item in normal}
    made = sorted((-item.score, index, item.piece) for index, item in normal if len(item.piece) > 1)
    for _, _, piece in made:
        missing = next((char for char in piece if char not in symbols), None)
        if missing is not None:
            raise UnsupportedTokenizerError(
                f"{path} cannot be expressed as a tokenizer.json: its piece {piece!r} holds {missing!r}, which is no "
                "piece itself. Train the model with the character in required_chars."
            )
    ties = len(made) - len({score for score, _, _ in made})
    if ties:
        warnings.warn(
            f"{path}: {ties} pieces of this BPE share their score with another one. Sentencepiece then merges from "
            "left to right, here the lower id goes first: some texts are cut otherwise.",
            VocabExtendWarning,
            stacklevel=4,
        )
    return models.BPE(
        vocab=vocab,
        merges=all_splits((piece for _, _, piece in made), symbols),
        unk_token=proto.pieces[_unknown_id(proto)].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )


_MODELS: dict[int, Callable[[Any, str | Path], models.Model]] = {ModelType.UNIGRAM: _unigram, ModelType.BPE: _bpe}


def _set_pipeline(backend: Tokenizer, proto: Any) -> None:
    """Set normalizer, pre-tokenizer and decoder.

    Between user-defined symbols a normalizer sees each stretch of text for itself: what belongs to the start of the
    whole text must then be left to the pre-tokenizer, which knows where a stretch lies.
    """
    spec = proto.normalizer_spec
    stretches = any(item.type == PieceType.USER_DEFINED for item in proto.pieces)
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
        if not stretches:
            steps.append(normalizers.Replace(Regex(r"\A | \z"), ""))
    if spec.add_dummy_prefix and not stretches:
        steps.append(normalizers.Prepend(MARK))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", MARK)])
    splits = not any(MARK in item.piece[1:] for item in proto.pieces if item.type == PieceType.NORMAL)
    if stretches:
        scheme = "first" if spec.add_dummy_prefix else "never"
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme=scheme, split=splits)
    elif splits:
        # No piece reaches over a space, so that words can be cut apart first: the same tokens, faster.
        backend.pre_tokenizer = pre_tokenizers.Split(MARK, "merged_with_next")
    fallback = [decoders.ByteFallback()] if proto.trainer_spec.byte_fallback else []
    ends = [decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace(MARK, " "), *fallback, decoders.Fuse(), *ends])


def _add_symbols(backend: Tokenizer, proto: Any) -> None:
    """Declare control and user-defined symbols, at the ids that they have."""
    controls = [item.piece for item in proto.pieces if item.type in (PieceType.CONTROL, PieceType.UNKNOWN)]
    defined = [item.piece for item in proto.pieces if item.type == PieceType.USER_DEFINED]
    backend.add_special_tokens([AddedToken(piece, normalized=False) for piece in controls])
    # A symbol with a mark can only be found where spaces have become marks, which the normalizer does.
    backend.add_tokens([AddedToken(piece, normalized=MARK in piece) for piece in defined])


def _named_tokens(proto: Any) -> dict[str, str]:
    """Return the roles of the control symbols that are in the file."""
    spec = proto.trainer_spec
    present = {item.piece for item in proto.pieces if item.type in (PieceType.CONTROL, PieceType.UNKNOWN)}
    roles = {"bos_token": spec.bos_piece, "eos_token": spec.eos_piece, "pad_token": spec.pad_piece}
    roles["unk_token"] = proto.pieces[_unknown_id(proto)].piece
    return {role: piece for role, piece in roles.items() if piece in present}


__all__ = ["load_sentencepiece", "save_sentencepiece"]
