"""What a training costs: FLOPs, seconds, memory, tokens; added up over runs, resumed ones included."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from .._logging import get_logger
from ..errors import InvalidOptionError, UnsupportedModelError
from ..modeling.reading import IGNORED
from .flops import FlopProfile, Flops, flop_profile
from .host import Guard, running_trainer, shadow
from .peak_memory import PeakMemory
from .tables import unwrapped

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

logger = get_logger(__name__)

COST_FILE = "training_cost.json"
"""Written beside a checkpoint."""
_METHOD = "get_batch_samples"
"""The method of the Trainer through which the batches of a step go, in the process that trains."""

_FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP")
_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")
_MEMORY = {"cuda": "device memory", "resident": "resident", "resident_ever": "resident at most ever"}
"""Kinds of memory in words."""


@dataclass(frozen=True)
class Cost:
    """What training has cost; costs of several runs add up.

    Attributes:
        flops: Floating point operations of all processes, see :mod:`~hf_vocab_extend.adaptation.flops`; None if they
            cannot be counted.
        seconds: Wall seconds of training, without ``apart_seconds``.
        peak_bytes: The most memory that a process has used; None if the system does not tell. Of two costs, the
            greater.
        tokens: Positions in all batches, padding included, of all processes.
        steps: Optimizer steps.
        labelled_tokens: Positions with a label among them.
        apart_seconds: Wall seconds of evaluations, measures, checkpoints, and counting FLOPs.
        memory: What ``peak_bytes`` is: ``"cuda"`` (allocated by torch on a device), ``"resident"`` (of the process
            during training, all that it holds) or ``"resident_ever"`` (since the process began, where the system
            cannot begin anew); ``"mixed"`` of costs that differ.
        processes: How many have trained; figures of all are those of one times their number, as each takes batches of
            the same size.
        flops_by_part: ``flops`` by part of the model.
    """

    flops: int | None = 0
    seconds: float = 0.0
    peak_bytes: int | None = None
    tokens: int = 0
    steps: int = 0
    labelled_tokens: int = 0
    apart_seconds: float = 0.0
    memory: str | None = None
    processes: int = 1
    flops_by_part: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of both."""
        if not isinstance(other, Cost):
            return NotImplemented
        known = self.flops is not None and other.flops is not None
        peaks = [cost.peak_bytes for cost in (self, other) if cost.peak_bytes is not None]
        kinds = {cost.memory for cost in (self, other)} - {None}
        parts = {
            part: self.flops_by_part.get(part, 0) + other.flops_by_part.get(part, 0)
            for part in dict.fromkeys([*self.flops_by_part, *other.flops_by_part])
        }
        return Cost(
            flops=(self.flops or 0) + (other.flops or 0) if known else None,
            seconds=self.seconds + other.seconds,
            peak_bytes=max(peaks, default=None),
            tokens=self.tokens + other.tokens,
            steps=self.steps + other.steps,
            labelled_tokens=self.labelled_tokens + other.labelled_tokens,
            apart_seconds=self.apart_seconds + other.apart_seconds,
            memory="mixed" if len(kinds) > 1 else next(iter(kinds), None),
            processes=max(self.processes, other.processes),
            flops_by_part=parts if known else {},
        )

    def __radd__(self, other: Any) -> Cost:
        """Return this cost for ``sum()``, which begins with 0."""
        return self if other == 0 else NotImplemented

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"flops_by_part": dict(self.flops_by_part)}

    def __str__(self) -> str:
        """One line: "12.3 TFLOP, 204 s, 1.3 GiB resident, 0.614 M tokens in 300 steps"."""
        where = _MEMORY.get(self.memory or "", "memory")
        tokens = f"{_digits(self.tokens / 1e6)} M" if self.tokens >= 100_000 else f"{self.tokens:,}"
        told = [
            "FLOPs not known" if self.flops is None else _in_units(self.flops, 1000, _FLOPS),
            _duration(self.seconds),
            "" if self.peak_bytes is None else f"{_in_units(self.peak_bytes, 1024, _BYTES)} {where}",
            f"{tokens} tokens in {self.steps:,} {'step' if self.steps == 1 else 'steps'}",
        ]
        return ", ".join(filter(None, told)) + (f" on {self.processes} processes" if self.processes > 1 else "")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Cost:
        """Return what :meth:`to_dict` gave as data.

        Raises:
            InvalidOptionError: If there is a field that costs do not have.
        """
        unknown = sorted(set(data) - set(cls.__dataclass_fields__))
        if unknown:
            raise InvalidOptionError(f"'{unknown[0]}' is no field of a cost. Give what Cost.to_dict returned.")
        return cls(**data)


class CostMeter(TrainerCallback):
    """Measures what a training with any Trainer costs.

    Batches are counted where the Trainer takes them, as they are: padding, short last ones, gradient accumulation.
    FLOPs are those of :func:`~hf_vocab_extend.adaptation.flops.training_flops` for each, with what was trained in that
    step (stages), measured anew only when that changes. A model that cannot be counted is trained all the same: then
    ``flops`` is None and a warning says why. A resumed run goes on from what was counted at its checkpoint.

    With several processes, each counts its own batches; what :attr:`cost` says of FLOPs and tokens is that times the
    number of processes. Peak memory is that of this process.

    Example:
        >>> meter = CostMeter()
        >>> Trainer(model=model, args=args, train_dataset=data, callbacks=[meter]).train()
        >>> meter.cost.flops, meter.cost.seconds
    """

    def __init__(self) -> None:
        """Set up; nothing is measured before training."""
        self._clock = _Clock()
        self._memory: PeakMemory | None = None
        self._end()
        self._begin(Cost(), 1)

    @property
    def cost(self) -> Cost:
        """What training has cost so far, runs before a resumption included."""
        times, flops = self._processes, Flops()
        tokens = labelled = 0
        for key, batches in self._seen.items():
            n_labels = int(batches.labelled)
            labelled += n_labels
            tokens += sum(rows * length * count for (rows, length), count in batches.shapes.items())
            if key in self._profiles:
                flops += self._profiles[key].of_batches(batches.shapes, n_labels)
        known = self._why_not is None
        peak = self._memory.peak() if self._memory is not None else None
        return self._before + Cost(
            flops=flops.total * times if known else None,
            seconds=self._clock.training,
            peak_bytes=peak,
            tokens=tokens * times,
            steps=self._steps,
            labelled_tokens=labelled * times,
            apart_seconds=self._clock.apart,
            memory=None if self._memory is None or peak is None else self._memory.kind,
            processes=times,
            flops_by_part={part: value * times for part, value in flops.by_part.items()} if known else {},
        )

    @property
    def why_not_counted(self) -> str | None:
        """Why FLOPs are not counted; None if they are."""
        return self._why_not

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to count, from what the checkpoint says that training goes on from."""
        self._end()
        before = _read(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}") if state.global_step else Cost()
        self._begin(before, args.world_size)
        self._memory = PeakMemory(next(kwargs["model"].parameters()).device)
        trainer = running_trainer()
        if trainer is None or not hasattr(trainer, _METHOD):
            self._give_up("the callback is not called by a Trainer whose batches can be seen.")
            return
        self._undo = [shadow(trainer, _METHOD, self._watched), Guard(trainer, self._end).release]

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock, before the first batch is read."""
        self._clock.start()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the time since the last step: reading batches, or what is apart from training."""
        self._clock.begin_step()

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the step, while what was trained in it is still set so."""
        self._clock.end_step()
        self._count(kwargs["model"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the step of a Trainer that tells of no optimizer steps."""
        if self._waiting:
            self.on_optimizer_step(args, state, control, **kwargs)
        self._steps += 1

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the time of an evaluation apart."""
        self._clock.set_apart()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the time of measures apart that are made without an evaluation of the Trainer."""
        if any(name.startswith("eval_") for name in kwargs.get("logs") or ()):
            self._clock.set_apart()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Set the time of saving apart, and write beside the checkpoint what has been counted."""
        self._clock.set_apart()
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            (folder / COST_FILE).write_text(json.dumps(self.cost.to_dict(), indent=2), "utf-8")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop to count; the cost stays."""
        self._end()

    def _begin(self, before: Cost, n_processes: int) -> None:
        """Begin at a cost."""
        self._before, self._processes, self._steps = before, n_processes, 0
        self._seen: dict[tuple[bool, ...], _Batches] = {}
        self._profiles: dict[tuple[bool, ...], FlopProfile] = {}
        self._waiting: list[tuple[int, int, Any]] = []
        self._why_not: str | None = None
        self._clock = _Clock()

    def _end(self) -> None:
        """Let go of the Trainer."""
        self._clock.stop()
        if self._memory is not None:
            self._memory.stop()
        undo: list[Callable[[], None]] = getattr(self, "_undo", [])
        while undo:
            undo.pop()()
        self._undo = undo

    def _give_up(self, reason: str) -> None:
        """Count no FLOPs any more."""
        self._why_not = reason
        logger.warning("The FLOPs of this training are not known: %s", reason)

    def _watched(self, take: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that takes the batches of a step and notes their sizes."""

        def taken(*args: Any, **kwargs: Any) -> Any:
            found = take(*args, **kwargs)
            for batch in found[0]:
                ids = batch.get("input_ids") if hasattr(batch, "get") else None
                if isinstance(ids, torch.Tensor) and ids.ndim == 2:
                    self._waiting.append((*ids.shape, _n_labelled(ids, batch.get("labels"))))
                elif self._why_not is None:
                    self._give_up("batches have no input_ids (sequences, positions).")
            return found

        return taken

    def _count(self, model: Any) -> None:
        """Count the batches of a step, and measure the model if something else than before is trained."""
        key = tuple(parameter.requires_grad for parameter in unwrapped(model).parameters())
        batches = self._seen.setdefault(key, _Batches())
        length = max((length for _, length, _ in self._waiting), default=0)
        for rows, length_of_one, labelled in self._waiting:
            shape = (rows, length_of_one)
            batches.shapes[shape] = batches.shapes.get(shape, 0) + 1
            batches.labelled = batches.labelled + labelled
        self._waiting = []
        if length and key not in self._profiles and self._why_not is None:
            try:
                self._profiles[key] = flop_profile(model, length=length)
            except UnsupportedModelError as error:
                self._give_up(str(error))
            self._clock.set_apart()


@dataclass
class _Batches:
    """Batches of steps in which the same was trained: how many of each shape, and their labels, on their device."""

    shapes: dict[tuple[int, int], int] = field(default_factory=dict)
    labelled: Any = 0


class _Clock:
    """Tells time of training from time between steps in which something else was done."""

    def __init__(self) -> None:
        self.training = self.apart = 0.0
        self._mark: float | None = None
        self._is_apart = False

    def start(self) -> None:
        """Start, if it has not."""
        if self._mark is None:
            self._mark = time.perf_counter()

    def begin_step(self) -> None:
        """Count the time since the last step."""
        if self._is_apart:
            self.apart += self._lap()
        else:
            self.training += self._lap()
        self._is_apart = False

    def end_step(self) -> None:
        """Count the time of a step."""
        self.training += self._lap()

    def set_apart(self) -> None:
        """Count the time between this step and the next as apart from training."""
        self._is_apart = True

    def stop(self) -> None:
        """Stop after the last step: what came after it is apart."""
        if self._mark is not None:
            self.apart += self._lap()
        self._mark = None

    def _lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._mark = self._mark, time.perf_counter()
        return 0.0 if before is None else self._mark - before


def _digits(value: float) -> str:
    """Return a number with three significant digits, integers in full."""
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def _in_units(value: float, base: int, units: Sequence[str]) -> str:
    """Return an amount in the largest unit of which it holds one."""
    place = 0
    while round(value, 1) >= base and place < len(units) - 1:
        value, place = value / base, place + 1
    return f"{_digits(value)} {units[place]}"


def _duration(seconds: float) -> str:
    """Return seconds as such up to ten minutes, then as minutes, then as hours."""
    if seconds < 600:
        return f"{_digits(seconds)} s"
    return f"{_digits(seconds / 60)} min" if seconds < 7200 else f"{_digits(seconds / 3600)} h"


def _n_labelled(ids: torch.Tensor, labels: Any) -> Any:
    """Return how many positions have a label, as a tensor on their device; all without labels."""
    if labels is None:
        return ids.numel()
    if not isinstance(labels, torch.Tensor) or labels.shape != ids.shape:
        return 0
    return (labels != IGNORED).sum().detach()


def _read(folder: Path) -> Cost:
    """Return the cost that lies beside a checkpoint."""
    try:
        return Cost.from_dict(json.loads((folder / COST_FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        logger.warning("%s is not in %s: what training cost before is not known.", COST_FILE, folder.name)
        return Cost()


__all__ = ["COST_FILE", "Cost", "CostMeter"]
