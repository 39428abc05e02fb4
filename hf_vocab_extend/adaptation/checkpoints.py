"""What goes beside the weights: tokenizer, report, mapping and card with each checkpoint, curves at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from .._logging import get_logger
from ..evaluation.curves import CURVES_FILE, bits_names, write_curves
from ..report import ExtensionReport
from ..result import write_vocabulary
from ..saving import CARD_FILE, is_replaced_by_a_save
from .host import shadow
from .tables import plain_model

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from ..result import VocabExtension
    from .measures import MeasuresPart

logger = get_logger(__name__)

TASK, RETENTION = "language modelling", "retention of the source language"
"""Tasks of the evaluations that training adds to a report."""
METRIC = "bits per byte"
DRIFT_NOTE = (
    "Training went on at step {step} from a checkpoint without the start of the rows: from there on, drift and cosine "
    "of rows compare with that step, not with the rows before training."
)
_TOKENIZER_FILES = ("tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "added_tokens.json")


class CheckpointPart(TrainerCallback):
    """Writes with each checkpoint what makes it a model of its own, and at the end the final card.

    Into ``checkpoint-N``: the tokenizer in the form that reloads as it is, ``vocab_extension.json`` with the training
    so far, ``vocab_mapping.safetensors`` and README.md. At the end the same into ``output_dir``, with the curves as
    ``training_curves.png`` where matplotlib is installed; text of the user's own in a README.md there is kept. The
    extension's report is replaced by the one with training and evaluations, so that ``extension.save_pretrained`` and
    ``push_to_hub`` say the same. Only the main process writes.

    Attributes:
        extension: The extension; it may be set later, before training.
    """

    def __init__(
        self,
        extension: VocabExtension | None = None,
        measures: MeasuresPart | None = None,
        *,
        stages: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
        replay_share: float | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """Set up; nothing is read or written before training.

        Args:
            extension: The extension.
            measures: Part that measures; it must be called before this one. None for no measures.
            stages: Gives the stages that have begun, each with ``stage`` (name) and ``begin`` (optimizer step).
            replay_share: Share of source-language text in the training text, by bytes, for the report.
            card: Arguments of :func:`~hf_vocab_extend.hub.card.render_card`, for example ``language``.
        """
        self.extension = extension
        self._measures = measures
        self._stages = stages
        self._replay_share = replay_share
        self._card = dict(card or {})
        self._began = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to count the time, and make the card once, so that what is wrong is said before training.

        Raises:
            InvalidOptionError: If an option of the card is unknown, or README.md has front matter that is no YAML.
        """
        assert self.extension is not None
        self._began = time.perf_counter()
        if state.is_world_process_zero:
            _card(args, self.extension, Path(str(args.output_dir)), self._card)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write beside a checkpoint's weights."""
        assert self.extension is not None
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self._write(args, folder, self._report(args, state, kwargs))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put training and evaluations into the report, and write the final card."""
        assert self.extension is not None
        self.extension.report = self._report(args, state, kwargs)
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            write_curves(self.extension.report.training, folder)
            self._write(args, folder, self.extension.report)

    def follow_saves(self, trainer: Any | None) -> None:
        """Let ``trainer.save_model``, also after training, write the same beside the weights.

        It writes the tokenizer in the form of its own class, over ours, and nothing of the extension.
        """
        if trainer is not None and getattr(trainer.save_model, "follower", None) is not self:
            shadow(trainer, "save_model", lambda save: self._following(trainer, save))

    def _following(self, trainer: Any, save: Callable[..., None]) -> Callable[..., None]:
        """Return a function that saves as the Trainer does, then writes beside the weights."""

        def save_model(output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
            save(output_dir, *args, **kwargs)
            folder = Path(str(output_dir or trainer.args.output_dir))
            internal = kwargs.get("_internal_call", any(args))  # followed by on_save or by a push
            if internal or not trainer.is_world_process_zero() or not folder.is_dir():
                return
            assert self.extension is not None
            report, state = self.extension.report, trainer.state
            if (report.training or {}).get("steps") != state.global_step:
                report = self._report(trainer.args, state, {"model": trainer.model})
            self._write(trainer.args, folder, report)

        save_model.follower = self  # type: ignore[attr-defined]
        return save_model

    def _report(self, args: TrainingArguments, state: TrainerState, kwargs: dict[str, Any]) -> ExtensionReport:
        """Return the extension's report with the training so far."""
        assert self.extension is not None
        history = self._measures.history if self._measures is not None else []
        seconds = self._measures.seconds if self._measures is not None else time.perf_counter() - self._began
        training = {
            **_run(args, state, kwargs),
            "hours": seconds / 3600,
            "stages": [dict(stage) for stage in self._stages()] if self._stages is not None else [],
        }
        if self._replay_share is not None:
            training["replay_share"] = float(self._replay_share)
        if self._measures is not None:
            training["texts"] = self._measures.described()
            training["history"] = [dict(entry) for entry in history]
        if history:
            training |= {"tokens": history[-1]["trained_tokens"], "bytes": history[-1]["trained_bytes"]}
        report = self.extension.report
        if self._measures is not None and self._measures.drift_since:
            training["drift_since_step"] = self._measures.drift_since
            note = DRIFT_NOTE.format(step=self._measures.drift_since)
            report = replace(report, notes=tuple(dict.fromkeys((*report.notes, note))))
        report = report.with_training(training)
        return report.with_evaluations(training_evaluations(training))

    def _write(self, args: TrainingArguments, folder: Path, report: ExtensionReport) -> None:
        """Write all files; a disk that is full ends no training."""
        assert self.extension is not None
        extension = type(self.extension)(
            self.extension.model, self.extension.tokenizer, self.extension.mapping, report
        )
        try:
            write_companions(extension, folder)
            write_card(args, extension, folder, **self._card)
        except OSError as error:
            logger.warning("Tokenizer, report and card could not be written to %s: %s", folder.name, error)


def write_companions(extension: VocabExtension, folder: Path) -> None:
    """Write tokenizer, report and mapping of an extension into a folder that holds, or will hold, its weights.

    Tokenizer files of another form, which some loaders would read first, are removed.
    """
    before = {path.name for path in folder.iterdir()}
    for name in before.intersection(_TOKENIZER_FILES):
        if is_replaced_by_a_save(name):
            (folder / name).unlink()
    write_vocabulary(extension, folder)


def write_card(trainer_or_args: Any, extension: VocabExtension, folder: Path, **options: Any) -> None:
    """Write our card into a folder; text of the user's own in its README.md stays.

    Args:
        trainer_or_args: A Trainer or its arguments: they name the repository on the Hub, if there is one.
        extension: The extension, with the report that the card tells.
        folder: The folder; ``config.json`` need not be there yet.
        options: More arguments of :func:`~hf_vocab_extend.hub.card.render_card`.
    """
    (folder / CARD_FILE).write_bytes(_card(trainer_or_args, extension, folder, options).encode("utf-8"))


def _card(trainer_or_args: Any, extension: VocabExtension, folder: Path, options: Mapping[str, Any]) -> str:
    """Return our card for a folder, see :func:`write_card`."""
    from ..hub.card import render_card

    args = getattr(trainer_or_args, "args", trainer_or_args)
    name = getattr(args, "hub_model_id", None) or Path(str(args.output_dir)).resolve().name
    path = folder.resolve()
    found = extension._card_options(path, None, None)
    found |= {"model_name": name.rpartition("/")[2], "load_name": name if "/" in name else path.name}
    model = plain_model(extension.model)
    found |= {"model_type": model.config.model_type, "architecture": type(model).__name__}
    if (folder / "adapter_config.json").is_file():
        found |= {"library_name": "peft", "load_name": None}
    found["curves"] = (folder / CURVES_FILE).is_file()
    return render_card(extension.report, **(found | dict(options)))


def training_evaluations(training: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return bits per byte before and after training as evaluations of a report.

    ``before`` is the model when training began, with its new vocabulary.
    """
    history, texts = training.get("history") or [], training.get("texts") or {}
    found = []
    for name in bits_names(history):
        values = [entry[f"bits_per_byte_{name}"] for entry in history if f"bits_per_byte_{name}" in entry]
        task = RETENTION if texts.get(name, {}).get("source") else TASK
        found.append({"task": task, "dataset": name, "metric": METRIC, "value": values[-1], "before": values[0]})
    return found


def _run(args: TrainingArguments, state: TrainerState, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what a run was, as plain data."""
    model = plain_model(kwargs["model"])
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    mixed = "bf16" if args.bf16 else "fp16" if args.fp16 else ""
    stored = str(model.dtype).removeprefix("torch.")
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type
    schedule = getattr(args.lr_scheduler_type, "value", str(args.lr_scheduler_type))
    return {
        "steps": state.global_step,
        "planned_steps": state.max_steps,
        "epochs": float(state.epoch or 0),
        "batch_size": batch,
        "processes": args.world_size,
        "learning_rate": float(args.learning_rate),
        "schedule": schedule,
        "weight_decay": float(args.weight_decay),
        "optimizer": getattr(args.optim, "value", str(args.optim)),
        "precision": f"{mixed} over {stored}" if mixed else stored,
        "seed": args.seed,
        "device": device,
    }


__all__ = ["CheckpointPart", "training_evaluations", "write_card", "write_companions"]
