"""Tasks with labels in the source language, to be read in another one after a swap of tables.

Steps 3 and 4 of mini-model adaptation (Marchisio et al. 2023, arXiv 2212.10503): the primary model is fine-tuned with
its token embeddings frozen, so that any table that was learned for it still fits, and a table of another language
then takes their place: zero-shot transfer. Only tables of tokens are frozen; positions, norms and layers train.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from ..._optional import require
from ...errors import InvalidOptionError, InvalidTableError
from ..option_checks import given_options
from .given import check_model_given
from .options import changed_options
from .random_state import random_state_kept
from .task_building import check_tables_kept, make_task_model
from .task_kinds import KINDS, Encoded, TaskKind
from .task_models import TaskModel, longest, some_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

    from ...evaluation.tagging import Tagged
    from ...evaluation.topics import Labelled


@dataclass(frozen=True)
class TaskOptions:
    """How a task is trained.

    Attributes:
        epochs: Passes over the examples.
        learning_rate: Highest learning rate; small models take 1e-4 and more.
        warmup: Share of the steps over which the rate rises; it then falls linearly to 0.
        weight_decay: Weight decay of AdamW; frozen tables have none.
        batch_size: Examples on a device at once.
        max_length: Longer inputs are cut to so many tokens; by default 256, or what the model reads.
        bf16: Compute in bfloat16.
        seed: Seed of all randomness: the new head, order, dropout.
        training_arguments: More arguments of ``TrainingArguments``.
    """

    epochs: float = 5.0
    learning_rate: float = 5e-5
    warmup: float = 0.1
    weight_decay: float = 0.01
    batch_size: int = 32
    max_length: int | None = None
    bf16: bool = False
    seed: int = 0
    training_arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            InvalidOptionError: It names the option.
        """
        for name in ("epochs", "learning_rate", "batch_size", "max_length"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InvalidOptionError(f"{name} is {value}. Give a number above 0.")
        if not 0 <= self.warmup <= 1 or self.weight_decay < 0:
            raise InvalidOptionError(
                f"warmup is {self.warmup} and weight_decay is {self.weight_decay}. Give a share of the steps, and a "
                "number of at least 0."
            )


def train_classifier(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Labelled,
    work_folder: str | os.PathLike[str],
    options: TaskOptions | None = None,
    *,
    validation: Labelled | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **changes: Any,
) -> TaskModel:
    """Fine-tune a model to label texts, its token embeddings frozen (Marchisio et al. 2023, arXiv 2212.10503).

    The model itself stays as it is: a task model with a body of its own is made, with a new head on top.

    Args:
        model: A language model or a body of one, with an architecture that transformers classifies texts with.
        tokenizer: Its tokenizer.
        examples: Label and text of each document, at least two labels; see
            :func:`~hf_vocab_extend.evaluation.readers.read_labelled`.
        work_folder: The Trainer's folder; no checkpoints are written.
        options: How to train.
        validation: Examples to measure on after each epoch; the weights of the most accurate epoch are kept, the
            first of several. Without them the last epoch's are.
        callbacks: More callbacks for the Trainer.
        changes: Options that differ from ``options``.

    Returns:
        The task model, in evaluation mode.

    Raises:
        InvalidTableError: If an example is no pair of label and text, or its text is empty.
        InvalidOptionError: If there are fewer than two labels, or an option is unknown or out of range.
        TokenizerMismatchError: If the tokenizer has more ids than the model rows.
        UnsupportedTokenizerError: If the tokenizer has no token to pad with.
        UnsupportedModelError: If transformers has no classifier of this architecture.
        VerificationError: If a frozen table moved.

    Example:
        >>> topics = train_classifier(model, tokenizer, read_labelled("topics.en.tsv"), "work", epochs=10)
        >>> topics.with_embeddings(learned).evaluate(read_labelled("topics.sw.tsv"))
    """
    chosen = changed_options(given_options(options, TaskOptions(), "train_classifier"), changes, "train_classifier")
    return _train(KINDS["classification"], model, tokenizer, examples, work_folder, chosen, validation, callbacks)


def train_tagger(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Tagged,
    work_folder: str | os.PathLike[str],
    options: TaskOptions | None = None,
    *,
    validation: Tagged | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **changes: Any,
) -> TaskModel:
    """Fine-tune a model to tag words, its token embeddings frozen (Marchisio et al. 2023, arXiv 2212.10503).

    A word is read at its first token, the convention of XTREME (Hu et al. 2020, arXiv 2003.11080); in a causal model
    it has not read the rest of the word. Words are put together with single spaces, as
    :func:`~hf_vocab_extend.evaluation.tagging.tag_transfer` does. Words that are cut off or have no token teach
    nothing.

    Args:
        model: A language model or a body of one, with an architecture that transformers tags words with.
        tokenizer: Its tokenizer, one that gives offsets.
        examples: Words and tags of each sentence; see :func:`~hf_vocab_extend.evaluation.readers.read_tagged`.
        work_folder: The Trainer's folder; no checkpoints are written.
        options: How to train.
        validation: As for :func:`train_classifier`.
        callbacks: More callbacks for the Trainer.
        changes: Options that differ from ``options``.

    Returns:
        The task model, in evaluation mode.

    Raises:
        InvalidTableError: If an example is no pair of words and as many tags, or has no words.
        InvalidOptionError: If there are fewer than two tags, or an option is unknown or out of range.
        TokenizerMismatchError: If the tokenizer has more ids than the model rows.
        UnsupportedTokenizerError: If the tokenizer gives no offsets or has no token to pad with.
        UnsupportedModelError: If transformers has no tagger of this architecture.
        VerificationError: If a frozen table moved.
    """
    chosen = changed_options(given_options(options, TaskOptions(), "train_tagger"), changes, "train_tagger")
    return _train(KINDS["tagging"], model, tokenizer, examples, work_folder, chosen, validation, callbacks)


def _train(
    kind: TaskKind,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Any],
    work_folder: str | os.PathLike[str],
    options: TaskOptions,
    validation: Sequence[Any] | None,
    callbacks: Sequence[TrainerCallback],
) -> TaskModel:
    """Train a task of any kind."""
    require("accelerate", "train")
    check_model_given(model, loader="AutoModel.from_pretrained(...)")
    examples = kind.listed(examples)
    inputs, labels = kind.split(examples)
    names = _label_names(kind, inputs, labels)
    if validation is not None:
        validation = kind.listed(validation)
        kind.split(validation)
    read = kind.encode(tokenizer, inputs, longest(model, tokenizer, options.max_length))
    ids = {name: index for index, name in enumerate(names)}
    data = [(one, [ids[label] for label in own]) for one, own in zip(read, labels, strict=True) if one.places]
    if not data:
        raise InvalidTableError(f"None of {len(inputs)} examples has a {kind.unit} with a token to learn from.")
    with random_state_kept(options.seed):
        task = TaskModel(make_task_model(model, tokenizer, kind, names), tokenizer, names, kind.name)
        best = None if validation is None else _BestEpoch(task, validation, options)
        ours = [] if best is None else [best]
        used_cache = getattr(task.model.config, "use_cache", None)  # the Trainer switches it off, and leaves it so
        trainer = _trainer(task, data, Path(work_folder), options, [*ours, *callbacks])
        output = trainer.train()
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
        if used_cache is not None:
            task.model.config.use_cache = used_cache
    if best is not None:
        best.restore()
        task.metrics["validation"] = best.history
    task.metrics |= {
        "loss": output.training_loss,
        "seconds": output.metrics["train_runtime"],
        "steps": trainer.state.global_step,
    }
    check_tables_kept(task.model, model)
    task.model.eval()
    return task


def _label_names(kind: TaskKind, inputs: Sequence[Any], labels: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the labels of a training, sorted.

    Raises:
        InvalidTableError: If an input is empty.
        InvalidOptionError: If they are fewer than two, or as many as the examples.
    """
    for number, own in enumerate(inputs):
        if not "".join(own).strip():
            raise InvalidTableError(f"Example {number} has no text to learn from. Leave it out.")
    names = tuple(sorted({label for own in labels for label in own}))
    if len(names) < 2:
        raise InvalidOptionError(
            f"The labels of {len(inputs)} examples are {some_of(names) or 'none'}, and a task needs two. Give "
            "examples of at least two labels."
        )
    if not kind.per_token and len(names) == len(inputs) > 10:
        raise InvalidOptionError(
            f"Each of {len(inputs)} examples has a label of its own ({some_of(names)}). Give pairs of label and text, "
            "the label first."
        )
    return names


def _trainer(
    task: TaskModel,
    data: list[tuple[Encoded, list[int]]],
    folder: Path,
    options: TaskOptions,
    callbacks: list[TrainerCallback],
) -> Trainer:
    """Return the Trainer; it is given no tokenizer, for it would move the special ids of the config."""
    from transformers import Trainer, TrainingArguments

    given = dict(options.training_arguments)
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": options.epochs,
        "learning_rate": options.learning_rate,
        "lr_scheduler_type": "linear",
        "weight_decay": options.weight_decay,
        "per_device_train_batch_size": options.batch_size,
        "bf16": options.bf16,
        "seed": options.seed,
        "data_seed": options.seed,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 50,
        "remove_unused_columns": False,  # examples are no columns
        "label_names": ["labels"],
        "dataloader_pin_memory": not given.get("use_cpu") and torch.cuda.is_available(),
    }
    settings = TrainingArguments(**(arguments | given))
    if "warmup_steps" not in given:
        per_step = settings.train_batch_size * settings.gradient_accumulation_steps * settings.world_size
        steps = math.ceil(math.ceil(len(data) / per_step) * options.epochs)
        settings.warmup_steps = math.ceil(options.warmup * steps)
    return Trainer(
        model=task.model, args=settings, data_collator=_collator(task), train_dataset=data, callbacks=callbacks
    )


def _collator(task: TaskModel) -> Callable[[list[tuple[Encoded, list[int]]]], dict[str, torch.Tensor]]:
    """Return what makes a batch of examples."""
    kind, pad_id = KINDS[task.task], task.model.config.get_text_config().pad_token_id

    def collate(examples: list[tuple[Encoded, list[int]]]) -> dict[str, torch.Tensor]:
        read, known = [one for one, _ in examples], [own for _, own in examples]
        return kind.batch(read, pad_id, torch.device("cpu")) | {"labels": kind.labels(read, known)}

    return collate


class _BestEpoch(TrainerCallback):
    """Measures after each epoch and keeps the weights of the best one."""

    def __init__(self, task: TaskModel, validation: Sequence[Any], options: TaskOptions) -> None:
        """Take the task, the examples, and how to read them."""
        self._task, self._validation, self._options = task, validation, options
        self._kept: dict[str, torch.Tensor] = {}
        self.history: list[dict[str, float]] = []

    @torch.no_grad()
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure."""
        options = self._options
        scores = self._task.evaluate(
            self._validation, batch_size=options.batch_size, max_length=options.max_length
        ) | {"epoch": round(float(state.epoch), 4)}
        best = max((earlier["accuracy"] for earlier in self.history), default=-1.0)
        self.history.append(scores)
        if scores["accuracy"] > best:
            trained = {name: item for name, item in self._task.model.named_parameters() if item.requires_grad}
            self._kept = {name: item.detach().to("cpu", copy=True) for name, item in trained.items()}

    @torch.no_grad()
    def restore(self) -> None:
        """Write the best weights back."""
        for name, values in self._kept.items():
            self._task.model.get_parameter(name).copy_(values)


__all__ = ["TaskModel", "TaskOptions", "train_classifier", "train_tagger"]
