"""Train the new layers of a mini-model on source-language text, with any Trainer or in one call (MiniPost).

Step 1b of Marchisio et al. 2023 (arXiv 2212.10503): embeddings and bottom layers are the full model's and stay as
they are, so that what stands above them learns to read the full model's states.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import TrainerCallback

from ..._logging import get_logger
from ...describing import model_text, short_repr
from ...errors import BaseModelMismatchError, InvalidOptionError, VerificationError
from ...evaluation.bits_per_byte import bits_per_byte
from ...evaluation.scoring import modes_kept
from ...origin import Origin
from ...prepare import find_source_tokenizer
from ..cost import Cost, CostMeter
from ..host import Guard, running_trainer
from ..objectives import choose_objective
from ..option_checks import given_options
from ..replay import hold_out
from ..tables import plain_model
from ..training import TrainingRun, train_language_model
from .alignment import Alignment, check_alignment
from .given import check_model_given, check_tokenizer_of
from .imitation import Imitation
from .learning import DEFAULTS, head_at_labels
from .options import changed_training
from .random_state import random_state_kept
from .record import read_record, warn_if_bottom_moved
from .trained_part import Apart, digest, same_values, trained_parameters

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from ...resources.corpus import CorpusLike
    from ..training_options import TrainingOptions

logger = get_logger(__name__)

PREFIX = "eval_"
"""Of the names that are logged, as the Trainer's own."""


class MiniModelCallback(TrainerCallback):
    """Trains the new layers of a mini-model and nothing else, on any Trainer of transformers.

    Give it to the Trainer when that is made, so that its optimizer holds what trains and no more. When training ends,
    by an exception too, ``requires_grad`` is as it was before.

    Example:
        >>> mini = build_mini_model(model)
        >>> callback = MiniModelCallback(model, texts=held_out, tokenizer=tokenizer)
        >>> Trainer(model=mini, args=args, train_dataset=data, callbacks=[callback]).train()
        >>> callback.alignment.gap

    Attributes:
        alignments: What was measured in the present or last run: ``step``, ``bits_per_byte_mini``,
            ``bits_per_byte_full`` and ``alignment_gap``, their difference.
        alignment: The last of these measures, whole; None before the first, and always without ``texts``.
    """

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        *,
        texts: Sequence[str] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        imitate: bool = False,
        **options: Any,
    ) -> None:
        """Set up; nothing is read or changed yet.

        Args:
            model: The full model: the mini-model must be cut from it, and is measured against it.
            texts: Held-out documents in the source language: how well both models predict them is measured at each
                evaluation of the Trainer and at the end of training, and logged. Nothing is measured without them.
            tokenizer: Their tokenizer; by default the Trainer's.
            imitate: Train the new layers to give what the full model gives, instead of the Trainer's own loss; see
                :class:`~.imitation.Imitation`.
            options: Options of :func:`~.alignment.check_alignment`, such as ``passes=1``.

        Raises:
            InvalidOptionError: If there are texts and no model, or no text among them, or no model to imitate.
        """
        if imitate and model is None:
            raise InvalidOptionError("There is no full model to imitate. Give model=.")
        if texts is not None and (model is None or isinstance(texts, str) or not any(texts)):
            raise InvalidOptionError(
                "Texts are a list of documents, on which the mini-model is measured against the full one. Give both "
                "texts= and model=."
            )
        self._model, self._tokenizer, self._options = model, tokenizer, options
        self._imitate = imitate
        self._imitation: Imitation | None = None
        self._texts = None if texts is None else list(texts)
        self.alignments: list[dict[str, float]] = []
        self.alignment: Alignment | None = None
        self._flags: dict[nn.Parameter, bool] = {}
        self._digests: dict[str, str] = {}
        self._apart = Apart({})
        self._guard: Guard | None = None

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set what trains, before the Trainer makes its optimizer.

        Raises:
            UnsupportedModelError: If the model is no mini-model.
            InvalidOptionError: If nothing of it trains.
            BaseModelMismatchError: If its tables are not those of the cut, or it was cut from another model.
        """
        mini = plain_model(kwargs["model"])
        trained = trained_parameters(mini)
        self._check_pair(mini, set(trained))
        self._set_flags(mini, trained)
        self._apart.back()
        self._apart = Apart({name: item for name, item in mini.named_parameters() if name not in trained})

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set what trains, and remember all else.

        Raises:
            UnsupportedModelError: If the model is no mini-model.
            InvalidOptionError: If nothing of it trains, the optimizer holds more, or weights are sharded.
            BaseModelMismatchError: If its tables are not those of the cut, or it was cut from another model.
        """
        trainer = running_trainer()
        if getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False):
            raise InvalidOptionError(
                "That nothing shared moves is checked on whole weights. Launch without FSDP and DeepSpeed (plain "
                "torchrun)."
            )
        self._apart.check_back()
        mini = plain_model(kwargs["model"])
        trained = trained_parameters(mini)
        self._check_pair(mini, set(trained))
        try:
            self._set_flags(mini, trained)
            self._check_optimizer(kwargs.get("optimizer"), mini)
            self._guard = Guard(trainer, self.restore)
            self._digests = {name: digest(item) for name, item in mini.named_parameters() if not item.requires_grad}
            self.alignments, self.alignment = [], None
            if self._imitate and self._model is not None:
                device: Any = next(mini.parameters()).device
                self._model.to(device)
                self._imitation = Imitation(mini, self._model)
        except BaseException:
            self.restore()
            raise

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure, and put the measures beside those of the Trainer, while a run is on."""
        if self._digests:
            found = self._measure(state, kwargs)
            if kwargs.get("metrics") is not None:
                kwargs["metrics"].update(found)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that nothing shared moved, and measure.

        Raises:
            VerificationError: If a parameter that does not train has moved; the message names it.
        """
        try:
            mini = plain_model(kwargs["model"])
            now = dict(mini.named_parameters())
            moved = [name for name, then in self._digests.items() if digest(now[name]) != then]
            if moved:
                raise VerificationError(
                    f"{len(moved)} parameters that the mini-model shares with the full model moved ({moved[0]}, ...): "
                    "rows learned on it would not fit. Leave out callbacks that write weights, and cut it again."
                )
            self._measure(state, kwargs, again=bool(args.load_best_model_at_end))
            if self._texts is None and state.is_world_process_zero:
                logger.warning("How well the mini-model fits the full one is not measured: give model= and texts=.")
        finally:
            self.restore()

    def restore(self) -> None:
        """Give ``requires_grad`` back as it was; values stay. Called at the end of training, also by an error."""
        if self._imitation is not None:
            self._imitation.remove()
            self._imitation = None
        if self._guard is not None:
            self._guard.release()
            self._guard = None
        self._apart.back()
        for parameter, flag in self._flags.items():
            parameter.requires_grad_(flag)
        self._flags, self._digests = {}, {}

    def _set_flags(self, mini: PreTrainedModel, trained: dict[str, nn.Parameter]) -> None:
        """Set what trains; what was set at the first call is what comes back."""
        for name, parameter in mini.named_parameters():
            self._flags.setdefault(parameter, parameter.requires_grad)
            parameter.requires_grad_(name in trained)

    def _check_pair(self, mini: PreTrainedModel, trained: set[str]) -> None:
        """Raise if the mini-model was not cut from the full model.

        Raises:
            BaseModelMismatchError: The message names the first parameter that differs.
        """
        if self._model is None:
            return
        full = dict(self._model.named_parameters())
        shared = {name: item for name, item in mini.named_parameters() if name not in trained}
        different = [name for name, item in shared.items() if name not in full or not same_values(item, full[name])]
        if different:
            raise BaseModelMismatchError(
                f"{len(different)} of {len(shared)} parameters that the mini-model should share with this "
                f"{type(self._model).__name__} differ ({different[0]}, ...). Give the model that it was cut from, as "
                "it was then."
            )

    def _check_optimizer(self, optimizer: Any, mini: PreTrainedModel) -> None:
        """Raise if an optimizer holds what does not train: decay and moments would count it in.

        Raises:
            InvalidOptionError: The message names one.
        """
        held = {id(item) for group in getattr(optimizer, "param_groups", ()) for item in group["params"]}
        shared = [name for name, item in mini.named_parameters() if id(item) in held and not item.requires_grad]
        if shared:
            raise InvalidOptionError(
                f"The optimizer holds {len(shared)} parameters that the mini-model shares with the full model "
                f"({shared[0]}, ...). Give the callback to the Trainer when you make it (callbacks=[...]), or an "
                "optimizer over what has requires_grad."
            )

    def _measure(self, state: TrainerState, kwargs: dict[str, Any], *, again: bool = False) -> dict[str, float]:
        """Measure once per step, log it, and return it under the names in the log."""
        if self._texts is None or self._model is None:
            return {}
        if again or not self.alignments or self.alignments[-1]["step"] != state.global_step:
            self._align(plain_model(kwargs["model"]), self._tokenizer or kwargs.get("processing_class"))
            assert self.alignment is not None
            found = {
                "bits_per_byte_mini": self.alignment.mini.bits_per_byte,
                "bits_per_byte_full": self.alignment.full.bits_per_byte,
                "alignment_gap": self.alignment.gap,
            }
            self.alignments.append({"step": state.global_step, **found})
            trainer = running_trainer()
            if trainer is not None:
                due = trainer.control.should_log
                trainer.log({PREFIX + name: value for name, value in found.items()})
                trainer.control.should_log = due  # log() takes it back
        return {PREFIX + name: value for name, value in self.alignments[-1].items() if name != "step"}

    def _align(self, mini: PreTrainedModel, tokenizer: Any) -> None:
        """Measure the mini-model, and the full one the first time.

        Raises:
            InvalidOptionError: If no tokenizer is known.
        """
        assert self._texts is not None
        assert self._model is not None
        if tokenizer is None:
            raise InvalidOptionError("The tokenizer of the texts is not known. Give MiniModelCallback tokenizer=.")
        if self.alignment is None:
            self.alignment = check_alignment(mini, self._model, tokenizer, self._texts, **self._options)
        else:
            own = bits_per_byte(mini, tokenizer, self._texts, **self._options)
            self.alignment = replace(self.alignment, mini=own)


@dataclass(repr=False)
class MiniTraining:
    """A mini-model that is trained.

    Attributes:
        run: The training; ``run.model`` is the mini-model.
        alignment: How well it predicts held-out source text, against the full model; None if there was none to
            measure.
        cost: Floating-point operations, seconds and peak memory.
        alignments: The measures on the way, see :class:`MiniModelCallback`.
    """

    run: TrainingRun
    alignment: Alignment | None
    cost: Cost
    alignments: list[dict[str, float]] = field(default_factory=list)

    def __repr__(self) -> str:
        """Three or four lines: the model, its record, bits per byte against the full model, and the cost."""
        record, told = read_record(self.model), []
        if self.alignment is not None:
            own, full = self.alignment.mini.bits_per_byte, self.alignment.full.bits_per_byte
            told.append(f"bits per byte of source text: {own:.4f}, {full:.4f} with the full model")
        origin = "" if record is None else str(Origin.of_record(record.to_dict()))
        return short_repr(self, [model_text(self.model), origin, *told, f"cost: {self.cost}"])

    @property
    def model(self) -> PreTrainedModel:
        """The mini-model."""
        return self.run.model

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write a folder that plain ``from_pretrained`` loads; in the main process only.

        Args:
            save_directory: Where to write.
            options: Options of :meth:`TrainingRun.save_pretrained`, such as ``overwrite=True``.

        Raises:
            OutputFolderError: If the folder cannot be written to.
            VerificationError: If it does not load back equal.
        """
        self.run.save_pretrained(save_directory, **options)


def train_mini_model(
    mini: PreTrainedModel,
    corpus: CorpusLike,
    work_folder: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    *,
    model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    texts: Sequence[str] | None = None,
    imitate: bool | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **changes: Any,
) -> MiniTraining:
    """Train the new layers of a mini-model on source-language text; it is trained in place.

    With the full model at hand the new layers learn to give what it gives (:class:`~.imitation.Imitation`): tables
    that are learned on such a mini-model fit the full one better. With ``imitate=False`` they learn to predict the
    text, as in Marchisio et al. 2023. Masked models compute logits at masked positions only. What the mini-model
    shares with the full model stays bitwise as it is, which is checked. Bottom layers that are not those of the cut
    any more are told in a warning.

    Args:
        mini: What :func:`~.building.build_mini_model` gave.
        corpus: Text in the source language: anything that
            :func:`~hf_vocab_extend.resources.corpus.open_corpus` reads.
        work_folder: Where the Trainer writes; checkpoints only with ``evaluations``.
        options: How to train; by default a learning rate of 7e-4 and no evaluations on the way.
        model: The full model, to imitate and to measure against.
        tokenizer: Its tokenizer; by default that of ``config._name_or_path``.
        texts: Documents in the source language to measure on; by default ``held_out`` lines of the corpus.
        imitate: Whether to imitate the full model; by default if ``model`` is given. The Trainer's losses are then
            distances from it.
        callbacks: More callbacks for the Trainer.
        changes: Options that differ from ``options``.

    Returns:
        The run, with alignment (if ``model`` is given) and cost, the full model's forward passes included.

    Raises:
        InvalidOptionError: If an option is out of range, says what trains, or nothing of the model trains.
        UnsupportedModelError: If the model is no mini-model.
        BaseModelMismatchError: If it was cut from another model, or its tables are not those of the cut.
        TokenizerMismatchError: If the tokenizer has more ids than the model rows.
        VerificationError: If something shared moved.
        VocabExtendError: As of :func:`~hf_vocab_extend.adaptation.training.train_language_model`.

    Example:
        >>> mini = build_mini_model(model)
        >>> trained = train_mini_model(mini, "en.txt", "work", model=model, tokenizer=tokenizer, steps=50_000)
        >>> trained.alignment.gap
    """
    given = given_options(options, DEFAULTS, "train_mini_model")
    chosen = changed_training(given, changes, "train_mini_model", "the new layers")
    check_model_given(mini, "mini")
    trained_parameters(mini)
    record = read_record(mini)
    assert record is not None
    warn_if_bottom_moved(mini, record, stacklevel=2)
    tokenizer = find_source_tokenizer(mini, tokenizer)
    check_tokenizer_of(mini, tokenizer, stacklevel=2)
    evaluation = None
    if texts is None and model is not None and chosen.held_out:
        evaluation, corpus = hold_out(corpus, chosen.held_out, seed=chosen.seed)
        texts = evaluation
    imitate = model is not None if imitate is None else imitate
    callback = MiniModelCallback(
        model, texts=texts if model is not None else None, tokenizer=tokenizer, imitate=imitate
    )
    meter = CostMeter()
    objective = choose_objective(mini, chosen.objective)
    with random_state_kept(), _as_it_was(mini, callback), head_at_labels(mini, objective):
        run = train_language_model(
            mini,
            corpus,
            work_folder,
            chosen,
            tokenizer=tokenizer,
            evaluation=evaluation,
            callbacks=[callback, meter, *callbacks],
        )
    return MiniTraining(run, callback.alignment, meter.cost, callback.alignments)


@contextmanager
def _as_it_was(mini: PreTrainedModel, callback: MiniModelCallback) -> Iterator[None]:
    """Give flags and modes of a mini-model back; meanwhile it has no name by which files of its primary are found."""
    name = mini.config._name_or_path
    with modes_kept(mini):
        try:
            mini.config._name_or_path = ""  # an extension that lies beside the full model is not this one's
            yield
        finally:
            mini.config._name_or_path = name
            callback.restore()


__all__ = ["MiniModelCallback", "MiniTraining", "train_mini_model"]
