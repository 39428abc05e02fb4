"""The protobuf inside a sentencepiece ``.model``: reading, and the names of its fields."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

from .._optional import require
from ..errors import UnsupportedTokenizerError

MARK = "\u2581"


class ModelType(IntEnum):
    """``trainer_spec.model_type``."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


class PieceType(IntEnum):
    """``pieces[i].type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def new_proto() -> Any:
    """Return an empty ``ModelProto``.

    Raises:
        MissingDependencyError: If sentencepiece or protobuf is missing.
    """
    require("google.protobuf", "sentencepiece")
    return require("sentencepiece.sentencepiece_model_pb2", "sentencepiece").ModelProto()


def read_proto(path: str | Path) -> Any:
    """Return the ``ModelProto`` in a file.

    Raises:
        FileNotFoundError: If there is no such file.
        MissingDependencyError: If sentencepiece or protobuf is missing.
        UnsupportedTokenizerError: If the file is no sentencepiece model.
    """
    proto = new_proto()
    raw = Path(path).read_bytes()
    decode_error = require("google.protobuf.message", "sentencepiece").DecodeError
    try:
        proto.ParseFromString(raw)
    except decode_error as error:
        raise UnsupportedTokenizerError(f"{path} is no sentencepiece model ({error}). Pass a .model file.") from error
    if not proto.pieces:
        raise UnsupportedTokenizerError(
            f"{path} holds no pieces ({len(raw)} bytes): it is no sentencepiece model. Pass a .model file."
        )
    return proto


__all__ = ["MARK", "ModelType", "PieceType", "new_proto", "read_proto"]
