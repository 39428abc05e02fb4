"""From which checkpoint a training goes on: the newest that is complete."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .._logging import get_logger
from ..errors import OutputFolderError

logger = get_logger(__name__)

STATE = "trainer_state.json"
"""What the Trainer writes last into a checkpoint."""
_NAME = re.compile(r"checkpoint-(\d+)")
_SINGLE = re.compile(r"(model|adapter_model)\.safetensors|(pytorch_model|adapter_model)\.bin")
_INDEX = re.compile(r"(model\.safetensors|pytorch_model\.bin)\.index\.json")
_SHARDED = re.compile(r"pytorch_model_fsdp.*|global_step\d+")


def checkpoint_to_resume(folder: Path, resume: bool) -> str | None:
    """Return the checkpoint to go on from: the newest complete one of a work folder, None if there is none at all.

    Args:
        folder: The work folder; it need not exist.
        resume: Whether to go on from one.

    Raises:
        OutputFolderError: If there is one and the user did not ask to resume, or none of them is complete.
    """
    found = _checkpoints(folder)
    if not resume:
        if found:
            raise OutputFolderError(
                f"'{folder.name}' holds {found[0].name} of an earlier run. Set resume (--resume) to go on from it, or "
                "remove it."
            )
        return None
    if not found:
        logger.warning("'%s' holds no checkpoint to resume from: the training begins anew.", folder.name)
        return None
    passed_over: list[str] = []
    for checkpoint in found:
        missing = _missing(checkpoint)
        if missing is None:
            for line in passed_over:
                logger.warning("%s: passed over, the training goes on from %s.", line, checkpoint.name)
            return str(checkpoint)
        passed_over.append(f"{checkpoint.name} is not complete ({missing})")
    raise OutputFolderError(
        f"'{folder.name}' holds no complete checkpoint: {'; '.join(passed_over)}. Remove the folder to train anew."
    )


def _checkpoints(folder: Path) -> list[Path]:
    """Return the folders of checkpoints, newest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True) if path.is_dir()]


def _missing(checkpoint: Path) -> str | None:
    """Say what a checkpoint lacks to be resumed from; None if it is complete."""
    try:
        json.loads((checkpoint / STATE).read_text("utf-8"))
    except FileNotFoundError:
        return f"{STATE} is missing"
    except (OSError, ValueError):
        return f"{STATE} cannot be read"
    names = {path.name for path in checkpoint.iterdir()}
    indexes = [name for name in names if _INDEX.fullmatch(name)]
    weights = {name for name in names if _SINGLE.fullmatch(name)}
    try:
        for name in indexes:
            weights |= set(json.loads((checkpoint / name).read_text("utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError):
        return f"{indexes[0]} cannot be read"
    if not weights and not any(_SHARDED.fullmatch(name) for name in names):
        return "its weights are missing"
    return next((f"{name} {fault}" for name in sorted(weights) if (fault := _fault(checkpoint / name))), None)


def _fault(file: Path) -> str | None:
    """Say what is wrong with a file of weights; of safetensors the header tells how long the file is."""
    if not file.is_file():
        return "is missing"
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                return None
        return None if file.stat().st_size else "is empty"
    except (OSError, SafetensorError):
        return "is cut short"


__all__ = ["checkpoint_to_resume"]
