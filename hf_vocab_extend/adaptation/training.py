"""Continued pretraining on plain text in one call: data, Trainer, callback and the trained model put together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from .._logging import get_logger
from .._optional import require
from ..describing import extension_lines, model_text, short_repr
from ..errors import InvalidOptionError, MissingResourceError
from ..result import VocabExtension
from ..saving import save_model
from .mini_model.record import read_record
from .objectives import choose_objective
from .option_checks import check_names, given_options
from .resuming import checkpoint_to_resume
from .rows import new_row_ids
from .selection import ParameterMap
from .stages import as_stages
from .training_data import DataOptions, TrainingData, check_trains, make_training_data
from .training_options import TrainingOptions

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from ..resources.corpus import CorpusLike

logger = get_logger(__name__)

LONGEST_BLOCK = 512
"""Default length of blocks, if the model reads as much."""


class Passes(TrainerCallback):
    """Tells data which pass it is: accelerate does so in one process, but not where a seeded sampler is sharded."""

    def __init__(self, data: Any) -> None:
        """Take what has ``set_epoch``."""
        self._data = data

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say the number of the pass, from 0; a resumed run begins in the middle of one."""
        self._data.set_epoch(int((state.epoch or 0) + 1e-6))


@dataclass(repr=False)
class TrainingRun:
    """A training that is over.

    Attributes:
        model: The trained transformers model, adapters merged.
        tokenizer: Its tokenizer.
        extension: The extension with the trained model and the report of the training; None for a model that was
            not extended.
        metrics: What the Trainer measured at the end: losses, seconds.
        measures: What was measured on the way, see :class:`~hf_vocab_extend.adaptation.measures.MeasuresPart`.
        is_main: Whether this process is the one that writes.
        steps: How many optimizer steps the model is trained for, those before an interruption included.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    extension: VocabExtension | None
    metrics: dict[str, Any]
    measures: list[dict[str, Any]]
    is_main: bool
    steps: int = 0

    def __repr__(self) -> str:
        """Up to six lines: the model, what was done to its vocabulary, steps, losses."""
        extension = [model_text(self.model)] if self.extension is None else extension_lines(self.extension)
        names = {"train_loss": "loss in training", "eval_loss": "loss on held-out text"}
        losses = [f"{label} {self.metrics[key]:.4f}" for key, label in names.items() if key in self.metrics]
        steps = f"{self.steps:,} {'step' if self.steps == 1 else 'steps'}, measured {len(self.measures)} times"
        return short_repr(self, [*extension, steps, ", ".join(losses)])

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *, overwrite: bool = False, **options: Any
    ) -> None:
        """Write a folder that plain ``from_pretrained`` loads, complete or not at all; in the main process only.

        Args:
            save_directory: Where to write.
            overwrite: Write into a folder that is not empty.
            options: More options of :meth:`VocabExtension.save_pretrained`, for an extension.

        Raises:
            OutputFolderError: If the folder cannot be written to.
            VerificationError: If it does not load back equal.
        """
        if not self.is_main:
            return
        if self.extension is not None:
            self.extension.save_pretrained(save_directory, overwrite=overwrite, **options)
            return
        save_model(self.model, self.tokenizer, save_directory, overwrite=overwrite)


def train_language_model(
    model: PreTrainedModel | VocabExtension,
    texts: CorpusLike,
    work_folder: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    replay: CorpusLike | None = None,
    evaluation: CorpusLike | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **changes: Any,
) -> TrainingRun:
    """Train a model further on plain text, with the Trainer and :class:`VocabExtensionCallback`.

    Runs as it is under ``torchrun`` and ``accelerate launch``; call :meth:`TrainingRun.save_pretrained` in every
    process, the main one writes.

    Args:
        model: What ``extend_vocabulary`` returned, or a model; the extension of one is looked for where it was loaded
            from. It is trained in place.
        texts: Text of the new language: anything that
            :func:`~hf_vocab_extend.resources.corpus.open_corpus` reads; each line is a document.
        work_folder: Where checkpoints go.
        options: How to train.
        tokenizer: The tokenizer of a model that is not extended.
        replay: Text of the source language, of which ``replay_share`` is mixed in.
        evaluation: Text to measure on; by default lines of ``texts`` are held out.
        callbacks: More callbacks for the Trainer.
        changes: Options that differ from ``options``.

    Returns:
        The trained model with all that belongs to it.

    Raises:
        InvalidOptionError: If an option is out of range, or stages are asked of a model that is not extended.
        CorpusError: If a text is missing, empty or too short.
        UnsupportedModelError: If the model's class is not trained on plain text.
        OutputFolderError: If the work folder holds checkpoints and ``resume`` is not set, or none of them is complete.

    Example:
        >>> run = train_language_model(extension, "sw.txt", "work", replay="en.txt", stages="embeddings_first")
        >>> run.save_pretrained("out")
    """
    check_names(TrainingOptions, changes, "train_language_model")
    chosen = replace(given_options(options, TrainingOptions(), "train_language_model"), **changes)
    plain, extension = _with_extension(model, tokenizer)
    tokenizer = tokenizer if extension is None else extension.tokenizer
    if tokenizer is None:
        raise InvalidOptionError("The tokenizer of the model is not known. Give it with tokenizer=.")
    if extension is None and chosen.stages is not None:
        raise InvalidOptionError(
            "Stages train new rows and tables of an extended model, and none of vocab_extension.json lies beside this "
            "one. Extend it first (hf-vocab-extend extend), or leave stages out."
        )
    require("accelerate", "train")
    if chosen.lora is not None:
        require("peft", "peft")
    elif extension is not None:
        ParameterMap(plain, new_row_ids(extension)).check(as_stages(chosen.stages))
    checkpoint = checkpoint_to_resume(Path(work_folder), chosen.resume)
    objective = choose_objective(plain, chosen.objective)
    if chosen.documents_apart and objective != "causal":
        raise InvalidOptionError(f"documents_apart is for causal models, and this one is trained as '{objective}'.")
    size = chosen.block_size or _block_size(plain, tokenizer)
    data = _data(chosen, objective, size, tokenizer, texts, replay, evaluation)
    if extension is None:
        _say_what_is_missing(plain)
    callback = _callback(chosen, objective, extension, data, replay is not None)
    trained, adapter = _with_lora(plain, extension, chosen, objective)
    ours: list[Any] = [] if callback is None else [callback]
    ours.append(Passes(data.train))
    with _traces_removed(plain, trained):
        trainer = _trainer(trained, tokenizer, data, chosen, size, Path(work_folder), [*ours, *callbacks])
        _check_merges(trainer, adapter)
        output = trainer.train(resume_from_checkpoint=checkpoint)
        metrics = dict(output.metrics) | (trainer.evaluate() if data.evaluation is not None else {})
        finished = _finished(trainer, plain, adapter, Path(work_folder))
    if finished is not plain and hasattr(plain.config, "use_cache"):  # loaded from what the Trainer wrote
        finished.config.use_cache = plain.config.use_cache
    plain = finished
    measures = list(getattr(callback, "measures", []) or [])
    if extension is not None:
        extension.model = plain
        extension.report = extension.report.with_training(
            {**(extension.report.training or {}), **_facts(chosen, objective, size, data, trainer)}
        )
    return TrainingRun(
        plain, tokenizer, extension, metrics, measures, trainer.is_world_process_zero(), trainer.state.global_step
    )


def n_devices(options: TrainingOptions) -> int:
    """Return on how many devices a batch of ``batch_size`` is: one a process, else all that this one process sees."""
    import torch

    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"] or 1)
    return 1 if options.training_arguments.get("use_cpu") else max(1, torch.cuda.device_count())


def _with_extension(
    model: PreTrainedModel | VocabExtension, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, VocabExtension | None]:
    """Return a model, and its extension if there is one."""
    from .locate import locate_extension

    if isinstance(model, VocabExtension):
        return model.model, model
    try:
        return model, locate_extension(model, tokenizer)
    except MissingResourceError:
        return model, None


def _block_size(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the default length of blocks: 512, or what the model reads."""
    from ..evaluation.scoring import longest_input

    return min(LONGEST_BLOCK, longest_input(model, tokenizer) or LONGEST_BLOCK)


def _examples_per_step(options: TrainingOptions) -> int:
    """Return how many examples an optimizer step takes, on all devices."""
    return options.batch_size * options.gradient_accumulation * n_devices(options)


def _steps(options: TrainingOptions, size: int, n_examples: int | None) -> int:
    """Return the number of optimizer steps."""
    per_step = _examples_per_step(options)
    if options.steps is not None:
        return options.steps
    if options.tokens is not None:
        return max(1, math.ceil(options.tokens / (per_step * size)))
    assert n_examples is not None
    return max(1, math.ceil(math.ceil(n_examples / per_step) * (options.epochs or 1)))


def _data(
    options: TrainingOptions,
    objective: str,
    size: int,
    tokenizer: PreTrainedTokenizerBase,
    texts: CorpusLike,
    replay: CorpusLike | None,
    evaluation: CorpusLike | None,
) -> TrainingData:
    """Return the data of a training."""
    how = DataOptions(
        objective=objective,
        block_size=size,
        pack=options.pack,
        positions=options.documents_apart,
        streaming=options.streaming,
        shuffle_buffer=options.shuffle_buffer,
        replay_share=options.replay_share,
        held_out=options.held_out,
        seed=options.seed,
    )
    limited = options.steps is not None or options.tokens is not None
    examples = _steps(options, size, None) * _examples_per_step(options) if limited else None
    data = make_training_data(
        tokenizer,
        texts,
        how,
        replay=replay,
        evaluation=evaluation,
        passes=options.epochs or 1,
        examples=examples,
    )
    check_trains(data)
    return data


def _say_what_is_missing(model: PreTrainedModel) -> None:
    """Warn that a model that is not extended gets no card; mini-models get none either, and are measured otherwise."""
    if read_record(model) is None:
        logger.warning(
            "The model is not an extended one (no vocab_extension.json lies beside it): no card and no report are "
            "written, and bits per byte are not measured."
        )


def _callback(
    options: TrainingOptions, objective: str, extension: VocabExtension | None, data: TrainingData, replayed: bool
) -> Any:
    """Return the callback of an extended model."""
    if extension is None:
        return None
    from .callback import VocabExtensionCallback

    target, source = (data.held_out.get(name) for name in ("target", "source"))
    return VocabExtensionCallback(
        extension,
        stages=options.stages,
        texts={"target": target} if target else None,
        source_texts={"source": source} if source else None,
        measures=objective != "span",
    )


def _with_lora(
    model: PreTrainedModel, extension: VocabExtension | None, options: TrainingOptions, objective: str
) -> tuple[Any, Any]:
    """Return the model to train, and the model of peft if there is one."""
    if options.lora is None:
        return model, None
    peft = require("peft", "peft")
    from .adapters import lora_arguments

    tables = options.lora_tables if extension is not None else "none"
    arguments = lora_arguments(extension or model, tables=tables, r=options.lora)
    kinds = {"causal": "CAUSAL_LM", "span": "SEQ_2_SEQ_LM"}
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=kinds.get(objective), **arguments))
    return adapted, adapted


def _trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainingData,
    options: TrainingOptions,
    size: int,
    folder: Path,
    callbacks: list[Any],
) -> Trainer:
    """Return the Trainer."""
    import torch
    from transformers import TrainingArguments

    from .trainer import VocabExtensionTrainer

    steps = _steps(options, size, None if options.streaming else len(data.train))
    every = max(1, steps // options.evaluations) if options.evaluations else steps
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": math.ceil(options.warmup * steps),
        "weight_decay": options.weight_decay,
        "per_device_train_batch_size": options.batch_size,
        "per_device_eval_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.gradient_accumulation,
        "bf16": options.bf16,
        "seed": options.seed,
        "data_seed": options.seed,
        "report_to": options.logger,
        # Losses of masked models ignore the count over processes by which the Trainer would correct them.
        "average_tokens_across_devices": choose_objective(model, options.objective) == "causal",
        "remove_unused_columns": False,  # examples say which draw of the collator is theirs
        "label_names": ["labels"],
        "dataloader_pin_memory": not options.training_arguments.get("use_cpu") and torch.cuda.is_available(),
        "eval_strategy": "steps" if options.evaluations and data.evaluation is not None else "no",
        "eval_steps": every,
        "save_steps": every,
        "save_total_limit": 2,
        "logging_steps": max(1, steps // 100),
    }
    if options.gradient_checkpointing:  # transformers 5.2x has given it another name
        names = {item.name for item in fields(TrainingArguments)}
        name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
        arguments[name] = True
    return VocabExtensionTrainer(
        model=model,
        args=TrainingArguments(**(arguments | dict(options.training_arguments))),
        data_collator=data.collator,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def _check_merges(trainer: Trainer, adapter: Any) -> None:
    """Raise before training if an adapter could not be merged after it.

    Raises:
        InvalidOptionError: The message names the remedy.
    """
    if adapter is not None and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise InvalidOptionError(
            "LoRA is merged when training ends, which needs every weight in each process. Launch without FSDP and "
            "DeepSpeed (plain torchrun), or leave lora out."
        )


@contextmanager
def _traces_removed(model: PreTrainedModel, trained: Any) -> Iterator[None]:
    """Give a model back what the Trainer changes and leaves so, when training is interrupted too.

    Args:
        model: The model.
        trained: The same, or with adapters.
    """
    from accelerate.utils import extract_model_from_parallel

    used_cache = getattr(model.config, "use_cache", None)
    try:
        yield
    finally:
        extract_model_from_parallel(trained, keep_fp32_wrapper=False)  # its forward stays in bf16 otherwise
        if used_cache is not None:
            model.config.use_cache = used_cache


def _finished(trainer: Trainer, model: PreTrainedModel, adapter: Any, folder: Path) -> PreTrainedModel:
    """Return the trained model, whole and without adapters."""
    if trainer.is_fsdp_enabled:  # else the Trainer saves no weights where checkpoints are sharded
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    sharded = any(hasattr(parameter, "placements") for parameter in model.parameters())
    if sharded or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        whole = folder / "whole"
        trainer.save_model(str(whole))
        trainer.accelerator.wait_for_everyone()
        return type(model).from_pretrained(whole)
    if adapter is not None:
        return adapter.merge_and_unload()
    return model


def _facts(
    options: TrainingOptions, objective: str, size: int, data: TrainingData, trainer: Trainer
) -> dict[str, Any]:
    """Return what the report says of the training beside what the callback has written."""
    facts: dict[str, Any] = {"objective": objective, "block_size": size, "steps": trainer.state.global_step}
    if "source" in data.held_out:
        facts["replay_share"] = options.replay_share
    if options.lora is not None:
        facts |= {"lora_rank": options.lora, "lora_tables": options.lora_tables}
    if data.facts:
        facts["text"] = data.facts
    return facts


__all__ = ["Passes", "TrainingRun", "n_devices", "train_language_model"]
