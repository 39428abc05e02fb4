"""Stages of training: what trains, for how long, at which share of the learning rate; and the recipes of papers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import InvalidOptionError

ITEMS = {
    "new_rows": "rows of new tokens, in every table",
    "new_input_rows": "rows of new tokens in the input tables",
    "new_head_rows": "rows of new tokens in the head and its bias",
    "embeddings": "the input tables; where the head shares them, the head too",
    "head": "the head and its bias over the vocabulary; where it shares the input table, that too",
    "first_layers": "the first k layers of each stack, as 'first_layers:2'",
    "last_layers": "the last k layers of each stack, as 'last_layers:2'",
    "body": "everything that is no table of tokens",
    "all": "everything",
}
"""What a stage can train, by name."""
PATTERN = "re:"
"""What stands before a regular expression, searched in the names of parameters."""
_LAYERS = ("first_layers", "last_layers")
_LENGTHS = ("length", "steps", "tokens")
DEFAULT_WARMUP = 0.03
"""Share of a later stage over which its learning rate rises: 75 of 2,500 steps in arXiv 2408.04303."""


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        train: What trains: names of :data:`ITEMS`, or ``re:`` and a regular expression that is searched in the names
            of parameters. All else stays bitwise as it is.
        length: Its share of all steps of the run, in (0, 1].
        steps: Its number of optimizer steps, instead of ``length``.
        tokens: Its number of input tokens without padding, over all processes, instead of ``length``. The last stage
            may have no length at all: it takes the rest.
        learning_rate: Factor on the learning rate that the Trainer's schedule gives; or one factor for each group of
            :func:`~hf_vocab_extend.adaptation.learning_rates.parameter_groups`, for example
            ``{"tables": 1, "body": 0.1}``.
        warmup: Over which part of the stage the learning rate rises to its value: a share of the stage, or a number of
            steps. None is 3 % for every stage but the first, whose warm-up is the Trainer's own.
        name: Its name in the report; by default what it trains.

    Raises:
        InvalidOptionError: If a name is unknown or a number lies outside its range.
    """

    train: tuple[str, ...] = ("all",)
    length: float | None = None
    steps: int | None = None
    tokens: int | None = None
    learning_rate: float | Mapping[str, float] = 1.0
    warmup: float | int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        train = (self.train,) if isinstance(self.train, str) else tuple(self.train)
        object.__setattr__(self, "train", train)
        if not train:
            raise InvalidOptionError("A stage trains nothing. Give train=, for example ('new_rows',).")
        for item in train:
            check_item(item)
        if self.name is None:
            object.__setattr__(self, "name", " + ".join(train))
        given = [name for name in _LENGTHS if getattr(self, name) is not None]
        if len(given) > 1:
            raise InvalidOptionError(f"The stage '{self.name}' has {' and '.join(given)}. Give one of them.")
        self._check_numbers()

    def _check_numbers(self) -> None:
        """Raise unless every number lies in its range."""
        for name in ("steps", "tokens"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidOptionError(f"The stage '{self.name}' has {name}={value!r}. Give a whole number above 0.")
        if self.length is not None and not (_is_number(self.length) and 0 < self.length <= 1):
            raise InvalidOptionError(
                f"The stage '{self.name}' has length={self.length!r}. Give a share of the run above 0 and up to 1, or "
                "a number of steps as steps=."
            )
        rates = self.learning_rate.values() if isinstance(self.learning_rate, Mapping) else (self.learning_rate,)
        if not all(_is_number(rate) and rate >= 0 for rate in rates):
            raise InvalidOptionError(
                f"The stage '{self.name}' has learning_rate={self.learning_rate!r}. It is a factor on the Trainer's "
                "rate: give a number of at least 0, or one for each group."
            )
        if self.warmup is None:
            return
        if not _is_number(self.warmup) or self.warmup < 0 or (isinstance(self.warmup, float) and self.warmup > 1):
            raise InvalidOptionError(
                f"The stage '{self.name}' has warmup={self.warmup!r}. Give a share of the stage (0.0 to 1.0) or a "
                "whole number of steps."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, without what was left out."""
        data = {key: value for key, value in asdict(self).items() if value is not None}
        return data | {"train": list(self.train)}


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_item(item: str) -> None:
    """Raise unless a name says what to train.

    Raises:
        InvalidOptionError: The message lists the names.
    """
    import re

    if isinstance(item, str) and item.startswith(PATTERN):
        try:
            re.compile(item.removeprefix(PATTERN))
        except re.error as error:
            raise InvalidOptionError(f"'{item}' is no regular expression ({error}).") from error
        return
    name, _, number = str(item).partition(":")
    if name in _LAYERS and number.isascii() and number.isdigit() and int(number) > 0:
        return
    if name in _LAYERS:
        raise InvalidOptionError(f"'{item}' does not say how many layers. Write for example '{name}:2'.")
    if name not in ITEMS or number:
        raise InvalidOptionError(
            f"'{item}' is nothing that a stage can train. Known: {', '.join(ITEMS)}; or 're:' and a regular "
            "expression for names of parameters."
        )


@dataclass(frozen=True)
class Preset:
    """A recipe by name, with where it is from."""

    stages: tuple[Stage, ...]
    source: str


_TABLES = ("embeddings", "head")
_OUTER = (*_TABLES, "first_layers:2", "last_layers:2")
_EEVE = (
    ("new_input_rows",),
    ("new_head_rows",),
    ("new_input_rows", "new_head_rows"),
    ("head",),
    ("new_input_rows", "head"),
    ("all",),
    ("body",),
)

PRESETS = {
    "new_rows": Preset((Stage(("new_rows",)),), "only the rows of new tokens, for the whole run"),
    "embeddings": Preset(
        (Stage(_TABLES),),
        "tables only under a frozen body, for the whole run: Artetxe et al. 2020 (arXiv 1910.11856)",
    ),
    "embeddings_first": Preset(
        (Stage(_TABLES, length=0.2), Stage()),
        "FOCUS, Dobler & de Melo 2023 (arXiv 2305.14481): tables alone for the first 20 % of the steps",
    ),
    "token_rows_then_all": Preset((Stage(("new_rows",), length=0.2), Stage()), "new rows alone for 20 %, then all"),
    "trans_tokenization": Preset(
        (Stage(_TABLES, length=2500 / 6500), Stage(_OUTER, warmup=75 / 4000)),
        "Remy et al. 2024 (arXiv 2408.04303), Tatar: 2,500 steps of the tables, 4,000 with two layers at each end",
    ),
    "2x2ls": Preset(
        (Stage(_OUTER),),
        "Yamaguchi et al. 2024 (arXiv 2406.11477): the tables and two layers at each end, for the whole run",
    ),
    "eeve": Preset(
        (*(Stage(train, length=1 / 7) for train in _EEVE[:-1]), Stage(_EEVE[-1])),
        "EEVE, Kim et al. 2024 (arXiv 2402.14714): its seven stages; equal lengths are ours",
    ),
    "gradual": Preset(
        (Stage(("new_rows",), length=0.1), Stage(_TABLES, length=0.15), Stage(_OUTER, length=0.25), Stage()),
        "new rows, then tables, then two layers at each end too, then all; lengths are ours",
    ),
}
"""Recipes by name."""

Stages = str | Stage | Mapping[str, Any] | Iterable[Stage | Mapping[str, Any]]


def as_stages(stages: Stages | None) -> tuple[Stage, ...]:
    """Return stages from a preset's name, one stage, several, or plain data as in a config file.

    Args:
        stages: None for one stage that trains everything.

    Raises:
        InvalidOptionError: If a name is unknown, a number lies outside its range, or a stage that is not the last
            has no length.
    """
    if stages is None:
        return (Stage(),)
    if isinstance(stages, str):
        if stages not in PRESETS:
            raise InvalidOptionError(f"There is no preset of stages '{stages}'. Known: {', '.join(PRESETS)}.")
        return PRESETS[stages].stages
    items = [stages] if isinstance(stages, Stage | Mapping) else list(stages)
    found = tuple(item if isinstance(item, Stage) else _from_data(item) for item in items)
    if not found:
        raise InvalidOptionError("There are no stages. Give at least one, or stages=None to train everything.")
    for number, stage in enumerate(found[:-1], 1):
        if all(getattr(stage, name) is None for name in _LENGTHS):
            raise InvalidOptionError(
                f"Stage {number} of {len(found)} ('{stage.name}') has no length. Only the last stage takes the rest; "
                "give the others length=, steps= or tokens=."
            )
    return found


def _from_data(data: Any) -> Stage:
    """Return a stage from a mapping of its fields."""
    known = [item.name for item in fields(Stage)]
    if not isinstance(data, Mapping):
        raise InvalidOptionError(f"A stage must be a Stage or a mapping of its fields; got a {type(data).__name__}.")
    unknown = [str(key) for key in data if key not in known]
    if unknown:
        raise InvalidOptionError(f"A stage has no {', '.join(unknown)}. Its fields: {', '.join(known)}.")
    return Stage(**data)


class Schedule:
    """Which stage is at which step of one run.

    Attributes:
        stages: The stages.
        max_steps: Steps of the run.
        begins: First step of each stage that has begun.
    """

    def __init__(self, stages: Sequence[Stage], max_steps: int) -> None:
        """Lay the stages over a run.

        Args:
            stages: The stages.
            max_steps: Steps of the run.

        Raises:
            InvalidOptionError: If they are shorter or longer than the run, or one of them has no step.
        """
        self.stages = tuple(stages)
        self.max_steps = max_steps
        self._exact = [0.0]
        self._tokens = [0]
        _check_lengths(self.stages, max_steps)

    @property
    def begins(self) -> list[int]:
        """First step of each stage that has begun."""
        return [round(value) for value in self._exact]

    @property
    def index(self) -> int:
        """Number of the present stage, from 0."""
        return len(self._exact) - 1

    @property
    def stage(self) -> Stage:
        """The present stage."""
        return self.stages[self.index]

    def advance(self, step: int, tokens: int) -> bool:
        """Go to the next stage if the present one is over.

        Args:
            step: Optimizer steps done.
            tokens: Input tokens seen.

        Returns:
            Whether a stage has begun. Call again until it is False.
        """
        if self.index + 1 == len(self.stages):
            return False
        stage, begin = self.stage, self._exact[-1]
        if stage.tokens is not None:
            over, end = tokens - self._tokens[-1] >= stage.tokens, float(step)
        else:
            end = begin + _n_steps(stage, self.max_steps)
            over = step >= round(end)
        if over:
            self._exact.append(end)
            self._tokens.append(tokens)
        return over

    def warmup(self, step: int, tokens: int) -> float:
        """Return the factor on the learning rate by which the present stage warms up, in (0, 1]."""
        amount = self.stage.warmup
        if amount is None:
            amount = DEFAULT_WARMUP if self.index else 0
        done = step - self.begins[-1]
        if isinstance(amount, int):
            return min(1.0, (done + 1) / (amount + 1))
        if self.stage.tokens is not None:
            seen = tokens - self._tokens[-1]
            return min(1.0, max(seen, 1) / max(amount * self.stage.tokens, 1))
        length = _n_steps(self.stage, self.max_steps) if self.index + 1 < len(self.stages) else None
        length = self.max_steps - self.begins[-1] if length is None else length
        return min(1.0, (done + 1) / (math.floor(amount * length) + 1))

    def state(self) -> dict[str, Any]:
        """Return plain data from which :meth:`restore` goes on."""
        return {"exact": list(self._exact), "tokens": list(self._tokens)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` gave; stages that have begun stay where they began."""
        n_begun = min(len(state["exact"]), len(self.stages))
        self._exact, self._tokens = list(state["exact"])[:n_begun], list(state["tokens"])[:n_begun]


def _n_steps(stage: Stage, max_steps: int) -> float:
    """Return the length of a stage in steps, not rounded; 0 for one without."""
    if stage.steps is not None:
        return stage.steps
    return (stage.length or 0.0) * max_steps


def _check_lengths(stages: Sequence[Stage], max_steps: int) -> None:
    """Raise unless the stages fill a run, each with a step at least.

    Raises:
        InvalidOptionError: It says which and by how much.
    """
    end, by_tokens = 0.0, False
    for number, stage in enumerate(stages, 1):
        begin, open_end = end, all(getattr(stage, name) is None for name in _LENGTHS)
        by_tokens |= stage.tokens is not None
        end = max_steps if open_end else begin + _n_steps(stage, max_steps)
        if stage.tokens is None and round(end) <= round(begin):
            share = f" (length={stage.length})" if stage.length is not None else ""
            raise InvalidOptionError(
                f"Stage {number} ('{stage.name}'){share} has no step: it would begin at step {round(begin)} of a run "
                f"of {max_steps}. Train for more steps, or make this stage longer or an earlier one shorter."
            )
    if round(end) > max_steps:
        raise InvalidOptionError(
            f"The stages need {round(end)} steps and the run has {max_steps}. Shorten a stage, train for more steps, "
            "or give lengths as shares of the run (length=)."
        )
    if round(end) < max_steps and not by_tokens:
        raise InvalidOptionError(
            f"The stages cover {round(end)} of the {max_steps} steps of the run. Leave the length of the last stage "
            "out: it then takes the rest."
        )


__all__ = ["ITEMS", "PRESETS", "Preset", "Schedule", "Stage", "Stages", "as_stages", "check_item"]
