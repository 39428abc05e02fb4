"""Carries the stages out: what trains, the optimizer's state of what begins to, the learning rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from .._logging import get_logger
from .freezing import RowKeeper
from .host import running_trainer
from .launchers import check_launch
from .learning_rates import StageRates
from .selection import ParameterMap, Selection
from .stages import Schedule, Stage
from .tables import plain_model

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = get_logger(__name__)
STATE_KEY = "hf_vocab_extend"
"""Entry of ``trainer_state.json`` that holds where the stages are."""


class _Freezer:
    """Lets parameters, and rows of tables, of one model train or not; knows how to leave the model as it was."""

    def __init__(self, model: nn.Module, known: ParameterMap, optimizer: Any) -> None:
        self._model = model
        self._known = known
        self._optimizer = optimizer
        self._required = {name: item.requires_grad for name, item in known.parameters.items()}
        self._keeper = RowKeeper({})
        self._input_gradients = False

    def apply(self, now: Selection, before: Selection | None) -> None:
        """Let a selection train; what begins or stops to do so gets a clean state of the optimizer.

        Args:
            now: What trains.
            before: What trained until now, None at the beginning of a run.
        """
        self._keeper.check()
        self._keeper.release()
        entries = {}
        for name, parameter in self._known.parameters.items():
            part = now.part(parameter)
            parameter.requires_grad_(part is not False)
            if part is False:
                parameter.grad = None
            if isinstance(part, torch.Tensor):
                entries[name] = (parameter, part, self._known.axis(parameter))
            if before is not None and not now.same_part(before, parameter):
                self._optimizer.state.pop(parameter, None)
        self._keeper = RowKeeper(entries)
        self._keeper.hold()
        self._let_inputs_have_gradients(self._needs_input_gradients(now))

    def restore_rows(self) -> None:
        """Write the frozen rows back, after a step."""
        self._keeper.restore()

    def check(self) -> None:
        """Raise if a frozen row has moved.

        Raises:
            VerificationError: The message names the parameters.
        """
        self._keeper.check()

    def release(self) -> None:
        """Leave ``requires_grad`` and hooks as they were."""
        self._keeper.release()
        self._let_inputs_have_gradients(False)
        for name, parameter in self._known.parameters.items():
            parameter.requires_grad_(self._required[name])

    def _needs_input_gradients(self, now: Selection) -> bool:
        """Whether checkpointed layers train over inputs without gradients, which some kinds of checkpointing lose."""
        if not any(getattr(module, "gradient_checkpointing", False) for module in self._model.modules()):
            return False
        training = [item for item in self._known.parameters.values() if now.part(item) is not False]
        tables = sum(self._known.is_input(item) for item in training)
        return not tables and any(self._known.table_of(item) is None for item in training)

    def _let_inputs_have_gradients(self, wanted: bool) -> None:
        """Set or remove the hook of transformers that lets embeddings have a gradient; the user's own stays."""
        if wanted == self._input_gradients:
            return
        model = plain_model(self._model)
        if wanted and getattr(model, "_require_grads_hooks", None):
            return
        (model.enable_input_require_grads if wanted else model.disable_input_require_grads)()
        self._input_gradients = wanted


class StageRun:
    """The stages over one run of a Trainer, from ``on_train_begin`` to its end."""

    def __init__(
        self, stages: Sequence[Stage], args: TrainingArguments, state: TrainerState, known: ParameterMap, kwargs: Any
    ) -> None:
        """Check that the stages fit; nothing is changed.

        Raises:
            InvalidOptionError: If they do not fit the length of the run, the model or the optimizer.
        """
        self.stages = tuple(stages)
        self.schedule = Schedule(stages, state.max_steps)
        self.history: list[dict[str, Any]] = []
        self._args = args
        self._known = known
        self._rates = StageRates(kwargs["optimizer"], kwargs["lr_scheduler"])
        known.check(stages)
        self._selections = selections = [known.select(stage.train) for stage in stages]
        self._launcher = check_launch(
            args,
            running_trainer(),
            freezes=any(known.freezes(selection) for selection in selections),
            widens=all(now.covers(before) for before, now in pairwise(selections)),
        )
        self._model, self._optimizer = kwargs["model"], kwargs["optimizer"]
        self._rates.check({name for stage in stages for name in _groups(stage)})
        self._freezer = _Freezer(kwargs["model"], known, kwargs["optimizer"])
        self._counted = args.include_num_input_tokens_seen

    def begin(self, state: TrainerState) -> None:
        """Go to the stage in which the run is, at its beginning or after a resume."""
        if any(stage.tokens for stage in self.stages) and str(self._counted) == "no":
            self._args.include_num_input_tokens_seen = "non_padding"
        callbacks: Any = state.stateful_callbacks
        saved = callbacks.get(STATE_KEY) if state.global_step else None
        if saved:
            self._restore(saved)
        elif state.global_step:
            while self.schedule.advance(state.global_step, state.num_input_tokens_seen):
                pass
        self._apply(self._selection(), None)
        self._note(state)

    def step_begin(self, state: TrainerState) -> None:
        """Begin the next stage if it is time, and set the learning rate of this step."""
        before = self._selection()
        while self.schedule.advance(state.global_step, state.num_input_tokens_seen):
            now = self._selection()
            self._apply(now, before)
            if self._args.torch_compile:
                torch.compiler.reset()  # else seven stages make more graphs than are kept
            before = now
            self._note(state)
        warmup = self.schedule.warmup(state.global_step, state.num_input_tokens_seen)
        self._rates.scale(self.schedule.stage.learning_rate, warmup)

    def stepped(self) -> None:
        """Write frozen rows back, and let the schedule see its own rates."""
        self._freezer.restore_rows()
        self._rates.report()

    def step_end(self) -> None:
        """Give schedules that act at evaluations only their own rates, too."""
        self._rates.put_back()

    def check(self) -> None:
        """Raise if a frozen row has moved in the present stage.

        Raises:
            VerificationError: The message names the parameters.
        """
        self._freezer.check()

    def end(self) -> None:
        """Leave the model, its hooks, the rates and the arguments as they were before the run."""
        self._rates.put_back()
        self._freezer.release()
        self._args.include_num_input_tokens_seen = self._counted

    def _apply(self, now: Selection, before: Selection | None) -> None:
        """Let a selection train, and give the launcher what it needs for it."""
        self._freezer.apply(now, before)
        if self._launcher.begin_stage is not None:
            self._launcher.begin_stage(self._model, self._optimizer, self._known.freezes(now))

    def _selection(self) -> Selection:
        """Return what the present stage trains."""
        return self._selections[self.schedule.index]

    def _restore(self, saved: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was."""
        if saved["stages"] != self._plain_stages():
            logger.warning("The stages are not those of the checkpoint; what is left of the run follows the new ones.")
        self.schedule.restore(saved["schedule"])
        self.history.extend(saved["history"][:-1])

    def _plain_stages(self) -> list[dict[str, Any]]:
        """Return the stages as plain data."""
        return [stage.to_dict() for stage in self.stages]

    def _note(self, state: TrainerState) -> None:
        """Write where the stages are into what the Trainer saves with each checkpoint."""
        stage, begin = self.schedule.stage, self.schedule.begins[-1]
        trained = self._known.count(self._selection())
        self.history.append({"stage": stage.name, "begin": begin, "trained": trained})
        logger.info("Stage '%s' from step %d: %d values train", stage.name, begin, trained)
        callbacks: Any = state.stateful_callbacks
        callbacks[STATE_KEY] = {
            "stages": self._plain_stages(),
            "schedule": self.schedule.state(),
            "history": [dict(entry) for entry in self.history],
        }


class StagePart(TrainerCallback):
    """Stages on a Trainer. Between runs the model is as it was given.

    Attributes:
        stages: The stages.
        run: The present run, None between runs.
        history: One entry for each stage that has begun in the present or last run: ``stage``, ``begin`` (optimizer
            step), ``trained`` (number of values that train).
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self.run: StageRun | None = None
        self.history: list[dict[str, Any]] = []

    def begin(self, args: TrainingArguments, state: TrainerState, new_ids: torch.Tensor, kwargs: Any) -> None:
        """Check the stages, then go to the one in which the run is.

        Args:
            args: The Trainer's arguments.
            state: The Trainer's state.
            new_ids: Ids of the new tokens, shape `(n_new,)`.
            kwargs: What the Trainer gives callbacks: ``model``, ``optimizer``, ``lr_scheduler``.

        Raises:
            InvalidOptionError: If the stages do not fit; nothing is changed then.
        """
        known = ParameterMap(kwargs["model"], new_ids)
        self.run = StageRun(self.stages, args, state, known, kwargs)
        self.history = self.run.history
        self.run.begin(state)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin the next stage if it is time, and set the learning rate of this step."""
        if self.run is not None:
            self.run.step_begin(state)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Write frozen rows back."""
        if self.run is not None:
            self.run.stepped()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the learning rates back."""
        if self.run is not None:
            self.run.step_end()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Check the frozen rows, unless the best model, perhaps of an earlier stage, has just been loaded."""
        if self.run is not None and not args.load_best_model_at_end:
            self.run.check()

    def end(self) -> None:
        """Leave everything but the values as it was before the run; does nothing between runs."""
        run, self.run = self.run, None
        if run is not None:
            run.end()


def _groups(stage: Stage) -> list[str]:
    """Names of the groups for which a stage has rates of their own."""
    return list(stage.learning_rate) if isinstance(stage.learning_rate, Mapping) else []


__all__ = ["STATE_KEY", "StagePart", "StageRun"]
