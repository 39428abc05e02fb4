"""One callback for the user's own Trainer: staged training of an extended model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from .._logging import get_logger
from ..errors import InvalidOptionError
from ..result import VocabExtension
from .checkpoints import CheckpointPart
from .host import Guard, running_trainer
from .launchers import prepare_launch
from .locate import check_rows, locate_extension
from .measures import MeasuresPart, Texts
from .publishing import PublishPart, push_trained
from .rows import new_row_ids
from .stage_part import StagePart
from .stages import Stages, as_stages
from .tables import plain_model

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = get_logger(__name__)


class VocabExtensionCallback(TrainerCallback):
    """Trains an extended model in stages, on ``Trainer``, ``Seq2SeqTrainer`` or a Trainer built on them.

    All parameters enter the optimizer; a stage sets ``requires_grad`` and holds the rows of tables that do not train
    bitwise. When a stage begins, the optimizer's state of a parameter of which other entries train than before is
    cleared. When training ends, by an exception too, ``requires_grad`` and hooks are as before.

    Example:
        >>> callback = VocabExtensionCallback(extension, stages="embeddings_first")
        >>> Trainer(model=extension.model, args=args, train_dataset=data, callbacks=[callback]).train()

    Attributes:
        extension: The extension, with the model that the Trainer trains; before training it may be None.
        stages: The stages.
        history: The stages that have begun in the present or last run.
    """

    def __init__(
        self,
        extension: VocabExtension | str | os.PathLike[str] | None = None,
        *,
        stages: Stages | None = None,
        texts: Texts | None = None,
        source_texts: Texts | None = None,
        measures: bool | Mapping[str, Any] = True,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """Set up the callback; nothing is read or changed before training.

        Args:
            extension: What ``extend_vocabulary`` returned, or the folder or Hub name of a saved extension. By default
                it is found where the model was loaded from.
            stages: Name of a preset (:data:`~hf_vocab_extend.adaptation.stages.PRESETS`), one or more
                :class:`~hf_vocab_extend.adaptation.stages.Stage`, or mappings of their fields. By default everything
                trains from the first step on.
            texts: Held-out documents of the new language, a list or lists by name: their bits per byte are measured
                at the start, at each evaluation, and at the end.
            source_texts: The same of the source language, for what it retains.
            measures: False to measure nothing; or more options of
                :class:`~hf_vocab_extend.adaptation.measures.MeasuresPart`, such as ``{"every": 100}``.
            card: Arguments of :func:`~hf_vocab_extend.hub.card.render_card` for the cards that are written with each
                checkpoint and at the end, for example ``{"license": "mit"}``.

        Raises:
            InvalidOptionError: If the extension is something else, or a stage, a text or an option is wrong.
        """
        if extension is not None and not isinstance(extension, VocabExtension | str | os.PathLike):
            raise InvalidOptionError(
                f"extension is a {type(extension).__name__}. Give what extend_vocabulary returned, or the folder or "
                "Hub name of a saved extension; of LanguageHeads, the extension of the language that trains, and "
                "heads.model to the Trainer."
            )
        self._given = extension
        self.extension = extension if isinstance(extension, VocabExtension) else None
        self._stage_part = StagePart(as_stages(stages))
        self._measures = _measures_part(texts, source_texts, measures)
        self._checkpoints = CheckpointPart(
            self.extension, self._measures, stages=lambda: self._stage_part.history, card=card
        )
        parts = (self._stage_part, self._measures, self._checkpoints)
        self._parts: list[Any] = [part for part in parts if part is not None]
        self._publish = PublishPart(self.extension)
        self._guard: Guard | None = None

    @property
    def stages(self) -> tuple[Any, ...]:
        """The stages."""
        return self._stage_part.stages

    @property
    def history(self) -> list[dict[str, Any]]:
        """The stages that have begun: ``stage``, ``begin`` (optimizer step), ``trained`` (number of values)."""
        return self._stage_part.history

    @property
    def measures(self) -> list[dict[str, Any]]:
        """What was measured in the present or last run: ``step``, ``bits_per_byte_NAME`` and others."""
        return [] if self._measures is None else self._measures.history

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
        if self.extension.model is not base:
            logger.info("The Trainer's model is not extension.model: the trained extension is callback.extension.")
            self.extension = replace(self.extension, model=base)
        return self.extension

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set what a launcher must know before it wraps the model; keep the Hub's token out of the Trainer's files."""
        self._publish.on_init_end(args, state, control, **kwargs)
        prepare_launch(args, running_trainer(), freezes=any("all" not in stage.train for stage in self.stages))

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
            if self._measures is not None:
                self._measures.extension = extension
            self._checkpoints.extension = extension
            self._checkpoints.follow_saves(running_trainer())
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

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put tokenizer, report, mapping and our card where the Trainer pushes from, before or after training, too."""
        self._publish.extension = self.extension
        self._publish.checkpoints = self._checkpoints if self._stage_part.run is not None else None
        self._publish.on_push_begin(args, state, control, **kwargs)

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Save, verify and push the trained model in one commit, without the Trainer's own push.

        Args:
            repo_id: ``user/name`` or ``name``.
            options: Options of :meth:`VocabExtension.push_to_hub`, such as ``private=True``.

        Raises:
            MissingResourceError: If no extension is known, because none was given and training has not begun.
            HubError: If the Hub refuses; the message says what to do.
        """
        return push_trained(self.extension, repo_id, options)

    def restore(self) -> None:
        """Give ``requires_grad``, hooks, rates and arguments back as they were before training; values stay.

        It is called at the end of training, also by an exception.
        """
        if self._guard is not None:
            self._guard.release()
            self._guard = None
        for part in (self._measures, self._stage_part):
            if part is not None:
                part.end()

    def _call(
        self,
        event: str,
        parts: Iterable[TrainerCallback],
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


def _measures_part(
    texts: Texts | None, source_texts: Texts | None, options: bool | Mapping[str, Any]
) -> MeasuresPart | None:
    """Return the part that measures, None if nothing is to be measured.

    Raises:
        InvalidOptionError: If there are texts and nothing to do with them, or an option is unknown.
    """
    if options is False:
        if texts is None and source_texts is None:
            return None
        raise InvalidOptionError("There are texts, and measures=False. Leave one of them out.")
    try:
        return MeasuresPart(None, texts, source_texts=source_texts, **({} if options is True else dict(options)))
    except TypeError as error:
        raise InvalidOptionError(f"measures={options!r} cannot be used ({error}). Give options by name.") from error


def _tokenizer_of(processing: Any) -> Any:
    """Return the tokenizer of a processor, or what was given."""
    return getattr(processing, "tokenizer", processing)


__all__ = ["VocabExtensionCallback"]
