"""Files that sentence-transformers keeps beside a model: pooling and the order of modules."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

_TOP_LEVEL = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
_OF_A_MODULE = ("config.json", "model.safetensors", "pytorch_model.bin")


def side_files(model_name: str) -> dict[str, Path]:
    """Return the files of a sentence-transformers model that do not depend on its vocabulary.

    Pass them to ``save_pretrained(..., extra_files=...)``: the extended model stays a sentence-transformers one.

    Args:
        model_name: A folder or a name on the Hub, as given to ``from_pretrained``.

    Returns:
        Path inside the model's folder to the file; empty if the model is no sentence-transformers model.
    """
    modules = _find(model_name, "modules.json")
    if modules is None:
        return {}
    folders = [str(PurePosixPath(module.get("path") or ".")) for module in json.loads(modules.read_text("utf-8"))]
    names = [*_TOP_LEVEL, *(f"{folder}/{name}" for folder in folders if folder != "." for name in _OF_A_MODULE)]
    found = {name: _find(model_name, name) for name in names}
    return {name: path for name, path in found.items() if path is not None}


def _find(model_name: str, file: str) -> Path | None:
    """Return a file of a model, from its folder, the cache or the Hub; None if the model has no such file."""
    from transformers.utils import cached_file

    path = cached_file(
        model_name,
        file,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if path is None else Path(path)
