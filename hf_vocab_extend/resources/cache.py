"""What is costly to make and small to keep: arrays in safetensors files, named by the content that they come from."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from .._logging import get_logger
from ..errors import OutputFolderError

logger = get_logger(__name__)

ENVIRONMENT = "HF_VOCAB_EXTEND_CACHE"


def cache_folder() -> Path:
    """Return the folder of cached files: `$HF_VOCAB_EXTEND_CACHE`, else `$HF_HOME/hf_vocab_extend`.

    `$HF_HOME` is `~/.cache/huggingface` unless set. The folder need not exist.
    """
    own = os.environ.get(ENVIRONMENT, "").strip()
    if own:
        return Path(own).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    home = os.environ.get("HF_HOME", "").strip() or os.path.join(cache, "huggingface")
    return Path(home).expanduser() / "hf_vocab_extend"


def content_key(**parts: Any) -> str:
    """Return a hexadecimal key of JSON-safe values; the same values give the same key on every machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def load(kind: str, key: str) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
    """Return the arrays and the metadata stored under a key, or None.

    A file that cannot be read (cut off, of another format) counts as absent: it will be written anew.

    Args:
        kind: Sub-folder, for example ``"fasttext"``.
        key: What :func:`content_key` gave.
    """
    path = cache_folder() / kind / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except (SafetensorError, OSError) as error:
        logger.warning("The cached file %s cannot be read (%s); it is made anew.", path.name, error)
        return None


def store(kind: str, key: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """Write arrays under a key: to a temporary file first, then by rename, so that no half file is ever read.

    Args:
        kind: Sub-folder, for example ``"fasttext"``.
        key: What :func:`content_key` gave.
        arrays: Arrays by name.
        metadata: Strings by name.

    Returns:
        Where it lies now.

    Raises:
        OutputFolderError: If the folder cannot be written.
    """
    folder = cache_folder() / kind
    path = folder / f"{key}.safetensors"
    temporary = folder / f".{key[:16]}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        save_file(contiguous, temporary, metadata=dict(metadata or {}))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputFolderError(
            f"The cache folder {folder} cannot be written ({error}). "
            f"Set {ENVIRONMENT} to a folder with free space, or switch the cache off."
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()
    return path


def keep(kind: str, key: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Store what is at hand already, as :func:`store` does; where that fails a warning says so, and no more.

    Args:
        kind: Sub-folder, for example ``"fasttext"``.
        key: What :func:`content_key` gave.
        arrays: Arrays by name.
        metadata: Strings by name.
    """
    try:
        store(kind, key, arrays, metadata)
    except OutputFolderError as error:  # only the next call will be slower
        logger.warning("%s", error)
