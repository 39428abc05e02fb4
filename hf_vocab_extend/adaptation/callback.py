"""One callback for the user's own Trainer: staged training of an extended model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ..result import VocabExtension
from .host import Guard, running_trainer
from .launchers import prepare_launch
from .locate import check_rows, locate_extension
from .rows import new_row_ids
from .stage_part import StagePart
from .stages import Stages, as_stages
from .tables import plain_model

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments


class VocabExtensionCallback(TrainerCallback):
    """Trains an extended model in stages, on ``Trainer``, ``Seq2SeqTrainer`` or a Trainer built on them.

    All parameters enter the optimizer; a stage sets ``requires_grad`` and holds the rows of tables that do not train
    bitwise. The optimizer's state of what begins or stops to train is cleared when a stage begins. When training ends,
    by an exception too, ``requires_grad`` and hooks are as before.

    Example:
        >>> callback = VocabExtensionCallback(extension, stages="embeddings_first")
        >>> Trainer(model=extension.model, args=args, train_dataset=data, callbacks=[callback]).train()

    Attributes:
        extension: The extension; before training it may be None.
        stages: The stages.
        history: The stages that have begun in the present or last run.
    """

    def __init__(
        self, extension: VocabExtension | str | os.PathLike[str] | None = None, *, stages: Stages | None = None
    ) -> None:
        """Set up the callback; nothing is read or changed before training.

        Args:
            extension: What ``extend_vocabulary`` returned, or the folder or Hub name of a saved extension. By default
                it is found where the model was loaded from.
            stages: Name of a preset (:data:`~hf_vocab_extend.adaptation.stages.PRESETS`), one or more
                :class:`~hf_vocab_extend.adaptation.stages.Stage`, or mappings of their fields. By default everything
                trains from the first step on.

        Raises:
            InvalidOptionError: If a stage is wrong.
        """
        self._given = extension
        self.extension = extension if isinstance(extension, VocabExtension) else None
        self._stage_part = StagePart(as_stages(stages))
        self._parts: tuple[TrainerCallback, ...] = (self._stage_part,)
        self._guard: Guard | None = None

    @property
    def stages(self) -> tuple[Any, ...]:
        """The stages."""
        return self._stage_part.stages

    @property
    def history(self) -> list[dict[str, Any]]:
        """The stages that have begun: ``stage``, ``begin`` (optimizer step), ``trained`` (number of values)."""
        return self._stage_part.history

    def find_extension(self, model: nn.Module, tokenizer: Any) -> VocabExtension:
        """Return the extension that was given, or that lies where the model was loaded from, and check its rows.

        Raises:
            MissingResourceError: If there is none.
            TokenizerMismatchError: If the rows of the model are not those of the report.
        """
        base = plain_model(model)
        if self.extension is None:
            folder = None if self._given is None else os.fspath(self._given)  # type: ignore[arg-type]
            self.extension = locate_extension(base, _tokenizer_of(tokenizer), folder)
        check_rows(base, self.extension)
        return self.extension

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set what a launcher must know before it wraps the model."""
        if any("all" not in stage.train for stage in self.stages):
            prepare_launch(args, running_trainer())

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check everything, then go to the stage in which the run is.

        Raises:
            MissingResourceError: If the extension is not given and not found.
            TokenizerMismatchError: If the model is not that of the extension.
            InvalidOptionError: If the stages do not fit the run, the model or the optimizer.
        """
        self.restore()
        extension = self.find_extension(kwargs["model"], kwargs.get("processing_class"))
        try:
            self._stage_part.begin(args, state, new_row_ids(extension), kwargs)
            self._guard = Guard(running_trainer(), self.restore)
            self._call("on_train_begin", self._parts[1:], args, state, control, kwargs)
        except BaseException:
            self.restore()
            raise

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was but for its values."""
        try:
            self._call("on_train_end", self._parts, args, state, control, kwargs)
        finally:
            self.restore()

    def restore(self) -> None:
        """Give ``requires_grad``, hooks, rates and arguments back as they were before training; values stay.

        It is called at the end of training, also by an exception.
        """
        if self._guard is not None:
            self._guard.release()
            self._guard = None
        self._stage_part.end()

    def _call(
        self,
        event: str,
        parts: tuple[TrainerCallback, ...],
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        kwargs: dict[str, Any],
    ) -> None:
        """Tell the parts of an event."""
        for part in parts:
            getattr(part, event)(args, state, control, **kwargs)


def _forwarded(event: str) -> Any:
    """Return a method that tells the parts of an event while a run is on."""

    def method(
        self: VocabExtensionCallback,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self._stage_part.run is not None:
            self._call(event, self._parts, args, state, control, kwargs)

    method.__name__ = event
    method.__doc__ = "Tell the parts, while a run is on."
    return method


for _event in (
    "on_epoch_begin",
    "on_epoch_end",
    "on_step_begin",
    "on_pre_optimizer_step",
    "on_optimizer_step",
    "on_substep_end",
    "on_step_end",
    "on_evaluate",
    "on_predict",
    "on_save",
    "on_log",
    "on_prediction_step",
):
    setattr(VocabExtensionCallback, _event, _forwarded(_event))


def _tokenizer_of(processing: Any) -> Any:
    """Return the tokenizer of a processor, or what was given."""
    return getattr(processing, "tokenizer", processing)


__all__ = ["VocabExtensionCallback"]
