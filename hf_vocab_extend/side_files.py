"""Files beside a model that do not depend on its vocabulary: modules of sentence-transformers, processors, terms."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

_TOP_LEVEL = ("sentence_bert_config.json", "config_sentence_transformers.json")
_OF_A_MODULE = ("config.json", "model.safetensors", "pytorch_model.bin")
_OF_ANY_MODEL = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "NOTICE.txt",
    "USE_POLICY.md",
)
"""Of processors for images and sound, and the terms that a copy must carry."""


def side_files(model_name: str, *, local_only: bool = False) -> dict[str, Path]:
    """Return the files of a saved model that do not depend on its vocabulary and that a copy should carry.

    ``save_pretrained`` of an extension takes along those that it finds on this machine; what else is to travel is
    named with ``extra_files=``.

    Args:
        model_name: A folder or a name on the Hub, as given to ``from_pretrained``.
        local_only: Look in the folder, or the local cache of the Hub, only.

    Returns:
        Path inside the model's folder to the file.
    """
    names = list(_OF_ANY_MODEL)
    modules = _find(model_name, "modules.json", local_only)
    if modules is not None:
        entries = json.loads(modules.read_text("utf-8"))
        folders = [str(PurePosixPath(module.get("path") or ".")) for module in entries]
        names += ["modules.json", *_TOP_LEVEL]
        names += [f"{folder}/{name}" for folder in folders if folder != "." for name in _OF_A_MODULE]
    found = {name: _find(model_name, name, local_only) for name in names}
    return {name: path for name, path in found.items() if path is not None}


def _find(model_name: str, file: str, local_only: bool) -> Path | None:
    """Return a file of a model, from its folder, the cache or the Hub; None if the model has no such file."""
    from transformers.utils import cached_file

    folder = Path(model_name)
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    path = cached_file(
        model_name,
        file,
        local_files_only=local_only,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Path(path)
