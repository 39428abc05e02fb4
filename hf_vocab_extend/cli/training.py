"""Options of training on plain text, shared by the commands that train; where checkpoints go, and what was done."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import OutputFolderError
from .common import option_adder

TRAINING_OPTIONS = (
    "objective",
    "block_size",
    "pack",
    "documents_apart",
    "streaming",
    "shuffle_buffer",
    "held_out",
    "steps",
    "epochs",
    "tokens",
    "learning_rate",
    "warmup",
    "weight_decay",
    "batch_size",
    "gradient_accumulation",
    "bf16",
    "gradient_checkpointing",
    "evaluations",
    "resume",
    "seed",
    "logger",
)


def _number(text: str) -> int:
    """Read a whole number, also as 2e9."""
    value = float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def add_training_options(
    parser: ArgumentParser, *, output: str, changed: tuple[str, str] | None = None
) -> Callable[..., None]:
    """Add how a model is trained on text; return what adds more options of that.

    Args:
        parser: Where to add.
        output: How the argument of the output folder is shown.
        changed: Module and name of a constant with other defaults.
    """
    add = option_adder(parser, "adaptation.training_options", "TrainingOptions", changed)
    add("--held-out", "lines held out of each corpus to measure on", type=int, metavar="N")
    add("--config", "options in a YAML, TOML or JSON file; those of the command line win", metavar="FILE")
    add("--objective", "what is predicted", choices=("auto", "causal", "masked", "span"))
    add("--block-size", "tokens in an example (default: 512, or what the model reads)", type=int, metavar="N")
    add("--no-packing", "one document to an example", action="store_false", dest="pack")
    add("--documents-apart", "keep attention inside documents (causal models)", action="store_true")
    add("--streaming", "read while training; needs --steps or --tokens", action="store_true")
    add("--shuffle-buffer", "examples to shuffle among when streaming", type=int, metavar="N")
    add("--steps", "optimizer steps", type=int, metavar="N")
    add("--epochs", "passes over the text (default: 1)", type=float, metavar="N")
    add("--tokens", "tokens to train on, for example 2e9", type=_number, metavar="N")
    add("--learning-rate", "highest learning rate", type=float, metavar="R")
    add("--warmup", "share of the steps over which it rises", type=float, metavar="S")
    add("--weight-decay", "weight decay of AdamW", type=float, metavar="W")
    add("--batch-size", "examples on a device at once", type=int, metavar="N")
    add("--gradient-accumulation", "batches to an optimizer step", type=int, metavar="N")
    add("--bf16", "compute in bfloat16", action="store_true")
    add("--gradient-checkpointing", "compute activations again to save memory", action="store_true")
    add("--evaluations", "how often to measure and to save a checkpoint", type=int, metavar="N")
    add("--seed", "seed of all randomness", type=int, metavar="N")
    add("--logger", "where to log", choices=("none", "tensorboard", "wandb"))
    add("--work-folder", f"where checkpoints go (default: {output}.work, removed at the end)", metavar="DIR")
    add("--resume", "go on from the last checkpoint in the work folder", action="store_true")
    return add


def work_folder(args: Namespace, output: Path) -> Path:
    """Return where checkpoints go. The default folder is removed at the end, so nothing else may lie there.

    Raises:
        OutputFolderError: If something else does.
    """
    if hasattr(args, "work_folder"):
        return Path(args.work_folder)
    work = Path(f"{output}.work")
    if work.is_dir() and any(work.iterdir()) and not any(work.glob("checkpoint-*")):
        raise OutputFolderError(
            f"'{work.name}' holds files and no checkpoint, and this folder is removed when the training is over. Move "
            "them away, or say with --work-folder where checkpoints go."
        )
    return work


@contextmanager
def kept_for_resuming(args: Namespace, output: Path) -> Iterator[Path]:
    """Give the work folder, and remove the default one at the end: after an error only if it holds no checkpoint.

    Raises:
        OutputFolderError: If something else lies there.
    """
    work = work_folder(args, output)
    done = False
    try:
        yield work
        done = True
    finally:
        if not hasattr(args, "work_folder") and (done or not any(work.glob("checkpoint-*"))):
            shutil.rmtree(work, ignore_errors=True)


def summary(trained: Any, cost: Any = None, *, imitated: bool = False) -> list[str]:
    """Return what a reader wants to know of a training: steps, tokens, cost, losses, and bits per byte by text.

    Args:
        trained: The training.
        cost: What it has cost, if that was measured.
        imitated: Whether the loss in training was a distance from another model, and no loss on text.
    """
    metrics = trained.metrics
    first, last = (trained.measures[0], trained.measures[-1]) if trained.measures else ({}, {})
    seconds = last.get("seconds", metrics.get("train_runtime"))
    shown = (
        ("steps", trained.steps, ",d"),
        ("tokens", last.get("trained_tokens") if cost is None else cost.tokens, ",d"),
        ("seconds", seconds if cost is None else cost.seconds, ",.1f"),
        *(_of_cost(cost) if cost is not None else ()),
        (f"{'distance from the full model' if imitated else 'loss'} in training", metrics.get("train_loss"), ".4f"),
        ("loss on held-out text", metrics.get("eval_loss"), ".4f"),
    )
    lines = [f"{label}: {value:{form}}" for label, value, form in shown if value is not None]
    prefix = "bits per byte "
    for name in last:
        label = name.replace("_", " ")
        if label.startswith(prefix) and name in first:
            lines.append(f"bits per byte of {label.removeprefix(prefix)}: {first[name]:.4f} -> {last[name]:.4f}")
    return lines


def _of_cost(cost: Any) -> tuple[tuple[str, Any, str], ...]:
    """Return operations and memory, None where they are not known."""
    where = {"cuda": "device memory", "mixed": "memory"}.get(cost.memory, "memory of the process")
    mebibytes = None if cost.peak_bytes is None else cost.peak_bytes / 2**20
    return (("floating-point operations", cost.flops, ".3e"), (f"most {where} (MiB)", mebibytes, ",.0f"))
