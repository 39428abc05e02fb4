"""What is measured while an extended model trains: bits per byte, drift of rows, share of new tokens."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback

from .._logging import get_logger
from ..errors import InvalidOptionError, UnsupportedModelError, VocabExtendWarning
from ..evaluation.bits_per_byte import BitsPerByte, bits_per_byte, model_kind
from .batches import BatchCounter
from .drift import RowDrift
from .host import running_trainer
from .rows import new_row_ids
from .shards import is_dtensor
from .tables import plain_model

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from ..result import VocabExtension

logger = get_logger(__name__)

PREFIX = "eval_"
"""Of all names that are logged: loggers show them beside the Trainer's own evaluation."""
STATE_FILE = "vocab_measures.safetensors"
"""Written beside a checkpoint."""
Texts = Mapping[str, Sequence[str]] | Sequence[str]
_SUMS = ("bits", "bytes", "tokens", "texts", "new_tokens", "new_bits")


class MeasuresPart(TrainerCallback):
    """Measures a model at the start, at each evaluation of the Trainer, and at the end of training.

    What is measured (names as logged, each after ``eval_``):

    - ``bits_per_byte_NAME`` of each text, see :func:`~hf_vocab_extend.evaluation.bits_per_byte.bits_per_byte`; and
      ``new_token_bits_NAME``, ``old_token_bits_NAME``: the loss on new and on other tokens, in bits per token.
    - ``drift_new_TABLE``, ``drift_old_TABLE``: how far rows are from their start, |now - start| / |start| (Frobenius
      norms), ``cosine_new_TABLE``, ``cosine_old_TABLE``: mean cosine with their start; ``norm_new_TABLE``,
      ``norm_old_TABLE``: mean length of a row. TABLE is ``tied``, ``input`` or ``head``. They are taken on at most
      ``rows`` rows each, drawn with a seed, so that no second table is kept.
    - ``trained_tokens`` and ``trained_bytes`` so far (all processes; of text, without padding and special tokens in
      the bytes), and ``new_token_share``: share of new tokens in the batches since the last measure.

    All go to the Trainer's own loggers and into ``metrics`` of the evaluation, so that
    ``metric_for_best_model="eval_bits_per_byte_target"`` works. The model is measured without its wrappers, in
    evaluation mode, without a draw from a global generator: training goes on as if nothing had been measured. Under
    DistributedDataParallel each process measures its share of the texts; under FSDP2 all processes measure all.

    Attributes:
        extension: The extension; it may be set later, before training.
        texts: Texts by name.
        source_names: Which of them are of the source language: their bits per byte tell what is retained.
        history: One dictionary per measure: ``step``, ``seconds`` of training (measuring left out), and the names
            above without ``eval_``.
        drift_since: Optimizer step from which drift is measured: 0, unless a checkpoint lacked the rows' start.
    """

    def __init__(
        self,
        extension: VocabExtension | None = None,
        texts: Texts | None = None,
        *,
        source_texts: Texts | None = None,
        every: int | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        passes: int | None = None,
        rows: int = 2048,
        seed: int = 0,
    ) -> None:
        """Set up; nothing is read before training.

        Args:
            extension: The extension.
            texts: Held-out documents of the new language, by name; documents without a name are ``target``.
            source_texts: Held-out documents of the source language, by name; without a name they are ``source``.
            every: Measure every so many optimizer steps, too; by default at the Trainer's evaluations only.
            batch_size: Windows per forward pass.
            max_length: Window in tokens.
            passes: Groups of words that are measured in masked models; 1 is cheap, None measures all.
            rows: Rows of each kind and table whose drift is followed.
            seed: Seed of their choice, and of the masks.

        Raises:
            InvalidOptionError: If a name is in both, a text is no list, or ``every`` or ``rows`` is not positive.
        """
        if (every is not None and every < 1) or rows < 1:
            raise InvalidOptionError(f"every is {every} and rows is {rows}. Give numbers from 1 on.")
        target, source = _named(texts, "target"), _named(source_texts, "source")
        if twice := sorted(set(target) & set(source)):
            raise InvalidOptionError(f"'{twice[0]}' names a text in texts and in source_texts. Give two names.")
        self.extension = extension
        self.texts: dict[str, Sequence[str]] = target | source
        self.source_names = tuple(source)
        self.history: list[dict[str, Any]] = []
        self.drift_since = 0
        self._every = every
        self._options = {"batch_size": batch_size, "max_length": max_length, "passes": passes, "seed": seed}
        self._rows, self._seed = rows, seed
        self._drift: RowDrift | None = None
        self._counter: BatchCounter | None = None
        self._began = self._paused = 0.0

    @property
    def counter(self) -> BatchCounter | None:
        """Tokens and bytes of the batches so far; None before training."""
        return self._counter

    @property
    def seconds(self) -> float:
        """Seconds of training so far, measuring left out."""
        return time.perf_counter() - self._began - self._paused

    def described(self) -> dict[str, dict[str, Any]]:
        """Return of each text how many documents and bytes it has, and whether it is of the source language."""
        return {
            name: {
                "documents": sum(map(bool, texts)),
                "bytes": sum(len(text.encode("utf-8")) for text in texts),
                "source": name in self.source_names,
            }
            for name, texts in self.texts.items()
        }

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the rows, begin to count, and measure the start.

        Raises:
            InvalidOptionError: If there is no extension.
        """
        if self.extension is None:
            raise InvalidOptionError("What is new is not known: set the part's extension before training.")
        model = plain_model(kwargs["model"])
        new_ids = new_row_ids(self.extension)
        self.history, self.drift_since = [], 0
        self._drift = RowDrift(kwargs["model"], self.extension.mapping, new_ids, self._rows, self._seed)
        self._counter = BatchCounter(self.extension.tokenizer, new_ids, model)
        self._counter.attach(running_trainer())
        self._began, self._paused = time.perf_counter(), 0.0
        if state.global_step:
            self._go_on(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", state)
        else:
            self._measure(state, kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure every so many steps, and after the last one, while loggers are still open."""
        if state.global_step >= state.max_steps or (self._every and state.global_step % self._every == 0):
            self._measure(state, kwargs["model"])

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure, and put the measures beside those of the Trainer."""
        found = self._measure(state, kwargs["model"])
        metrics = kwargs.get("metrics")
        if metrics is not None:
            metrics.update({PREFIX + name: value for name, value in found.items() if name not in _OWN})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write beside a checkpoint what is needed to go on measuring from it: the history and the rows' start."""
        assert self._drift is not None
        assert self._counter is not None
        totals = self._counter.totals(keep=True)
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            known = {"history": self.history, "seconds": self.seconds, "drift_since": self.drift_since, **totals}
            save_file(self._drift.state_dict(), folder / STATE_FILE, {"measures": json.dumps(known)})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure what training has led to, also if it is the best checkpoint that was loaded back."""
        loaded = args.load_best_model_at_end and state.best_model_checkpoint is not None
        self._measure(state, kwargs["model"], again=loaded)
        self.end()

    def end(self) -> None:
        """Stop to count; what was measured stays."""
        if self._counter is not None:
            self._counter.detach()

    def _go_on(self, folder: Path, state: TrainerState) -> None:
        """Go on from a checkpoint; without our file there, from the Trainer's own log."""
        assert self._drift is not None
        assert self._counter is not None
        try:
            with safe_open(folder / STATE_FILE, "pt") as file:
                known = json.loads(file.metadata()["measures"])
                self._drift.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            logger.warning(
                "%s is not in %s: drift of rows is measured from here on, and what was trained since the last "
                "measure before it is not counted.",
                STATE_FILE,
                folder.name,
            )
            known = {"history": _logged(state), "drift_since": state.global_step}
            last = known["history"][-1] if known["history"] else {}
            known |= {name: last.get(name, 0) for name in ("seconds", "trained_tokens", "trained_bytes")}
        self.history = known["history"]
        self.drift_since = known.get("drift_since", 0)
        self._began -= known["seconds"]
        self._counter.go_on_from(known["trained_tokens"], known["trained_bytes"])

    def _measure(self, state: TrainerState, model: Any, *, again: bool = False) -> dict[str, Any]:
        """Measure once per step, log it, and return it."""
        if not again and self.history and self.history[-1]["step"] == state.global_step:
            return self.history[-1]
        assert self._drift is not None
        assert self._counter is not None
        begun = time.perf_counter()
        found: dict[str, Any] = {"step": state.global_step, "seconds": begun - self._began - self._paused}
        found |= self._counter.totals()
        found |= self._bits(model)
        found |= self._drift.measure()
        if again:
            found["best_checkpoint"] = True
        self.history.append(found)
        trainer = running_trainer()
        if trainer is not None and not again:
            due = trainer.control.should_log
            trainer.log({PREFIX + name: value for name, value in found.items() if name not in _OWN})
            trainer.control.should_log = due  # log() takes it back, and the Trainer's own loss of this step with it
        self._paused += time.perf_counter() - begun
        return found

    def _bits(self, model: Any) -> dict[str, float]:
        """Return bits per byte, and bits per new and per other token, of each text."""
        plain = plain_model(model)
        try:
            model_kind(plain)
        except UnsupportedModelError as error:
            if len(self.history) == 0 and self.texts:
                logger.warning("Bits per byte are not measured: %s", error)
            return {}
        found: dict[str, float] = {}
        for name, texts in self.texts.items():
            sums = self._sums(plain, texts)
            found[f"bits_per_byte_{name}"] = sums["bits"] / sums["bytes"]
            old_tokens = sums["tokens"] - sums["new_tokens"]
            if sums["new_tokens"]:
                found[f"new_token_bits_{name}"] = sums["new_bits"] / sums["new_tokens"]
            if old_tokens:
                found[f"old_token_bits_{name}"] = (sums["bits"] - sums["new_bits"]) / old_tokens
        return found

    def _sums(self, model: Any, texts: Sequence[str]) -> dict[str, float]:
        """Measure a text; its parts in each process where every process has the whole model."""
        assert self.extension is not None
        rank, world = _rank_and_world()
        alone = world == 1 or any(is_dtensor(parameter) for parameter in model.parameters())
        part = list(texts) if alone else list(texts)[rank::world]
        sums = dict.fromkeys(_SUMS, 0.0)
        if any(part) or alone:
            with warnings.catch_warnings():
                if self.history:  # said once, at the start
                    warnings.simplefilter("ignore", VocabExtendWarning)
                new_ids = new_row_ids(self.extension)
                measured = bits_per_byte(model, self.extension.tokenizer, part, new_ids=new_ids, **self._options)  # type: ignore[arg-type]
            sums = _sums_of(measured)
        if alone:
            return sums
        gathered: list[Any] = [None] * world
        torch.distributed.all_gather_object(gathered, sums)
        return {name: sum(each[name] for each in gathered) for name in _SUMS}


_OWN = ("step", "best_checkpoint")
"""Entries of the history that are not logged: the Trainer has them."""


def _logged(state: TrainerState) -> list[dict[str, Any]]:
    """Return the measures in a Trainer's log, as entries of the history."""
    found = []
    for entry in state.log_history:
        if PREFIX + "trained_tokens" in entry:
            own = {name.removeprefix(PREFIX): value for name, value in entry.items() if name.startswith(PREFIX)}
            found.append({"step": entry["step"], **own})
    return found


def _sums_of(measured: BitsPerByte) -> dict[str, float]:
    """Return the sums of a measure, which add up over parts of a text."""
    return {name: float(getattr(measured, name)) for name in _SUMS}


def _rank_and_world() -> tuple[int, int]:
    """Return the number of this process and of all of them."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _named(texts: Texts | None, name: str) -> dict[str, Sequence[str]]:
    """Return texts by name.

    Raises:
        InvalidOptionError: If one is a single string, empty, or holds something else than strings.
    """
    if texts is None:
        return {}
    named = dict(texts) if isinstance(texts, Mapping) else {name: texts}
    for key, documents in named.items():
        if isinstance(documents, str) or not all(isinstance(text, str) for text in documents) or not any(documents):
            raise InvalidOptionError(
                f"The text '{key}' must be a list of documents, each a string, and not all empty; got "
                f"{type(documents).__name__}."
            )
    return {key: list(documents) for key, documents in named.items()}


__all__ = ["MeasuresPart"]
