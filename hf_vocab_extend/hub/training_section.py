"""What a card says of training: the run, its stages, its curves, and what must be known of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import InvalidOptionError
from ..evaluation.curves import curves_table
from ..origin import LEARNED_ON, origin_of
from ..report import RETENTION, UNTOUCHED

_LABELS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "tokens": ("tokens", lambda value: f"{value:,}"),
    "bytes": ("bytes of text", lambda value: f"{value:,}"),
    "steps": ("optimizer steps", lambda value: f"{value:,}"),
    "epochs": ("epochs", lambda value: f"{value:.3g}"),
    "batch_size": ("sequences per step", lambda value: f"{value:,}"),
    "block_size": ("tokens per sequence", lambda value: f"{value:,}"),
    "objective": ("objective", str),
    "text": ("text", lambda value: _counted(value)),
    "replay": ("source-language text", lambda value: _counted(value)),
    "learning_rate": ("learning rate", lambda value: f"{value:.3g}"),
    "schedule": ("schedule", str),
    "optimizer": ("optimizer", str),
    "weight_decay": ("weight decay", lambda value: f"{value:.3g}"),
    "cost": ("cost", lambda value: _cost(value)),
    "precision": ("precision", str),
    "replay_share": ("source-language text in the training text, by bytes", lambda value: f"{100 * value:.1f} %"),
    "hours": ("time, measuring left out", lambda value: f"{value:.2f} h" if value >= 0.1 else f"{3600 * value:.0f} s"),
    "device": ("device", str),
    "processes": ("processes", str),
    "seed": ("seed", str),
}
"""In the order of the card; other keys follow by name."""
_ELSEWHERE = frozenset({"stages", "history", "texts", "planned_steps", LEARNED_ON})


def run_rows(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return label and value of what a run was."""
    rows = [
        (label, _shown(form, training[key])) for key, (label, form) in _LABELS.items() if training.get(key) is not None
    ]
    others = sorted(set(training) - set(_LABELS) - _ELSEWHERE)
    return rows + [(key.replace("_", " "), _plain(training[key])) for key in others if training[key] is not None]


def _counted(value: Any) -> str:
    """Return counts with what is counted: ``{"lines": 2960}`` as "2,960 lines"."""
    if not isinstance(value, Mapping):
        return _plain(value)
    return ", ".join(
        f"{_plain(item)} {str(key).replace('_', ' ')}" if isinstance(item, int) else f"{key}: {_plain(item)}"
        for key, item in value.items()
    )


def _plain(value: Any) -> str:
    """Return any value as a reader wants it: no brackets, thousands separators."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(key).replace('_', ' ')}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cost(value: Any) -> str:
    """Return a cost with units; what is no cost of ours as it is."""
    from ..adaptation.cost import Cost

    try:
        return str(Cost.from_dict(value))
    except (InvalidOptionError, TypeError, ValueError):
        return _plain(value)


def _shown(form: Callable[[Any], str], value: Any) -> str:
    """Return a value in its form; as it is where the user has written something else there."""
    return str(value) if isinstance(value, str) else form(value)


def stage_rows(training: Mapping[str, Any]) -> list[tuple[str, int, int | None, int | None]]:
    """Return name, first step, last step and number of trained values of each stage."""
    stages = list(training.get("stages") or ())
    ends = [*(stage["begin"] for stage in stages[1:]), training.get("steps")][: len(stages)]
    return [
        (stage["stage"], stage["begin"] + 1, end, stage.get("trained"))
        for stage, end in zip(stages, ends, strict=True)
    ]


def measures_table(training: Mapping[str, Any]) -> str:
    """Return the measures of a run as a Markdown table; empty without two of them."""
    history = training.get("history") or ()
    return curves_table(history) if len(history) > 1 else ""


def text_rows(
    training: Mapping[str, Any], evaluations: Iterable[Mapping[str, Any]]
) -> list[tuple[str, str, int, int]]:
    """Return name, language, documents and bytes of each text whose evaluation is that of the training."""
    told = {(item["dataset"], item.get("before"), item["value"]) for item in evaluations}
    return [
        (name, "source" if text.get("source") else "new", text["documents"], text["bytes"])
        for name, text in (training.get("texts") or {}).items()
        if (values := _values(training, name)) and (name, values[0], values[-1]) in told
    ]


def _values(training: Mapping[str, Any], name: str) -> list[float]:
    """Return the bits per byte of a text in the course of a run."""
    key = f"bits_per_byte_{name}"
    return [entry[key] for entry in training.get("history") or () if key in entry]


def before_notes(training: Mapping[str, Any], evaluations: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say of which model the column "before" is, for each kind of row that is not of the training itself."""
    evaluations = list(evaluations)
    told = {name for name, *_ in text_rows(training, evaluations)}
    groups: dict[str | None, list[str]] = {}
    for item in evaluations:
        if item.get("before") is not None and not (item["dataset"] in told and _of_training(training, item)):
            groups.setdefault(item.get("before_model"), []).append(item["dataset"])
    order = sorted(groups, key=lambda model: (model != UNTOUCHED, model is None, model or ""))
    return [f'For {", ".join(dict.fromkeys(groups[model]))}, "before" is {_called(model)}.' for model in order]


def _called(model: str | None) -> str:
    """Return how a note speaks of a model of which an evaluation has the value before."""
    if model is None:
        return "a model that was not recorded"
    return "the untouched base model" if model == UNTOUCHED else f"the model `{model}`"


def _of_training(training: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Whether an evaluation is what training measured of a text at its beginning and its end."""
    values = _values(training, item["dataset"])
    return bool(values) and (values[0], values[-1]) == (item.get("before"), item["value"])


def retention_limits(training: Mapping[str, Any] | None, evaluations: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what a model lost or won on source-language text, against the untouched model first where that is known.

    The measures of a training come last: they are against the model with its new vocabulary.
    """
    training = training or {}
    origin = origin_of(training)
    compared = [
        item
        for item in evaluations
        if item["task"] == RETENTION and item.get("before") is not None and not _of_training(training, item)
    ]
    compared.sort(key=lambda item: item.get("before_model") != UNTOUCHED)
    limits = []
    for item in compared:
        model = item.get("before_model")
        start = f"{item['before']:.3f}" + (f" ({_called(model)})" if model else "")
        limits.append(_retention(item["dataset"], item["metric"], start, item["before"], item["value"]))
    for name in (name for name, text in (training.get("texts") or {}).items() if text.get("source")):
        values = _values(training, name)
        if len(values) > 1:
            where = f" in training of {origin.which}" if origin else " in training"
            limits.append(_retention(name, "bits per byte", f"{values[0]:.3f}", values[0], values[-1], where))
    return limits


def training_limits(training: Mapping[str, Any] | None, evaluations: Iterable[Mapping[str, Any]] = ()) -> list[str]:
    """Return what a reader must know of a run: how short it was, what it cost the source language."""
    retention = retention_limits(training, evaluations)
    if not training:
        return retention
    limits = []
    steps, planned = training.get("steps"), training.get("planned_steps")
    if isinstance(training.get("tokens"), int):
        origin = origin_of(training)
        tokens = f"{training['tokens']:,} tokens"
        limits.append(
            f"The token table was learned on {tokens}, through the body of {origin.which}."
            if origin
            else f"The model was trained on {tokens} after its vocabulary changed."
        )
    if isinstance(steps, int) and isinstance(planned, int) and 0 < steps < planned:
        limits.append(f"Training stands at step {steps:,} of {planned:,}.")
    texts = training.get("texts") or {}
    if texts and not retention and not any(text.get("source") for text in texts.values()):
        limits.append("What training cost the source language was not measured.")
    return limits + retention


def _retention(name: str, metric: str, start: str, before: float, after: float, where: str = "") -> str:
    """Say what became of the source language; only of bits per byte is it known which direction is better."""
    numbers = f"On source-language text ('{name}') {metric} went from {start} to {after:.3f}{where}"
    if metric != "bits per byte" or before <= 0:
        return f"{numbers}."
    change = 100 * (after / before - 1)
    if change >= 0.05:
        verdict = f"{change:.1f} % worse"
    else:
        verdict = f"{-change:.1f} % better" if change <= -0.05 else "nothing was lost"
    return f"{numbers}: {verdict}."


__all__ = [
    "before_notes",
    "measures_table",
    "retention_limits",
    "run_rows",
    "stage_rows",
    "text_rows",
    "training_limits",
]
