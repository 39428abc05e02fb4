"""Run in a process of its own: load the factorised folders of a test in one of three ways, and say what came of it.

    python -m tests.factorized_loading FOLDER trust|package|neither ANSWER.json

With ``trust`` and ``neither`` the package is hidden. Each folder holds ``job.json``: the ids to read, and the Auto
classes to load it with. The answer is a file of JSON: folder and class to the numbers or to the error.
"""

from __future__ import annotations

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

TRUST, PACKAGE = "trust", "package"
HIDDEN = "hf_vocab_extend"


class _Hide(MetaPathFinder):
    """Makes the package look as if it were not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] == HIDDEN:
            raise ModuleNotFoundError(f"No module named '{fullname}'", name=fullname)


def _load(folder: Path, auto: str, options: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers

    try:
        loader = getattr(transformers, auto)
        model, told = loader.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    ids = torch.tensor(json.loads((folder / "job.json").read_text())["ids"])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})
    with torch.no_grad():
        output = model(**inputs)
        model.save_pretrained(folder / f"again-{auto}")
        written = json.loads((folder / f"again-{auto}" / "config.json").read_text())["model_type"]
        merged = model.merge_factorized()
        merged.save_pretrained(folder / f"merged-{auto}")
        plain = merged(**inputs)
    return {
        "class": type(model).__name__,
        "module": type(merged).__module__,
        "first": output[0].flatten()[:500].tolist(),
        "merged": plain[0].flatten()[:500].tolist(),
        "missing": sorted(told["missing_keys"]),
        "unexpected": sorted(told["unexpected_keys"]),
        "written": written,
    }


def main(root: str, way: str, answer: str) -> None:
    if way == PACKAGE:
        import hf_vocab_extend

        assert hf_vocab_extend.__version__
        assert "transformers" not in sys.modules
    else:
        sys.meta_path.insert(0, _Hide())
    options = {"trust_remote_code": True} if way == TRUST else {}
    found = {}
    for folder in sorted(path for path in Path(root).iterdir() if (path / "job.json").is_file()):
        for auto in json.loads((folder / "job.json").read_text())["classes"]:
            found[f"{folder.name} {auto}"] = _load(folder, auto, options)
    Path(answer).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
