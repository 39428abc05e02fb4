"""What one extension did: plain data, saved as ``vocab_extension.json``. Everything that a card says comes from it."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidOptionError, VocabExtendWarning

FORMAT_VERSION = 1
REPORT_FILE = "vocab_extension.json"

COPIED = ("same", "exact", "byte", "special", "fuzzy")
"""Kinds of rows that are a source row."""
ESTIMATED = ("method", "predicted", "override", "fallback")
"""Kinds of rows that were computed from source rows or by the method."""
RANDOM = ("random",)
PADDING = ("hole",)

SIZES = ("source_tokens", "target_tokens", "source_rows", "target_rows", "new_tokens")
RETENTION = "retention of the source language"
"""Task of evaluations on text of the source language."""
UNTOUCHED = "untouched"
"""``before_model`` of an evaluation whose ``before`` is that of the base model."""
EVALUATION_KEYS = ("task", "dataset", "metric", "value")
"""Keys that every evaluation has; ``before`` (the value of the model before its extension) and others may follow."""


@dataclass(frozen=True)
class ExtensionReport:
    """Record of one extension.

    Attributes:
        version: Version of this package.
        base_model: Name of the model that was extended, None if unknown.
        base_revision: Its commit on the Hub, None if unknown.
        source_tokenizer: Name of its tokenizer.
        target_tokenizer: Name of the new tokenizer.
        mode: ``extend`` or ``replace``.
        method: Name of the initialisation method.
        method_reason: Why it was taken.
        method_config: Its options.
        fallback: Method for tokens that ``method`` did not cover.
        seed: Seed of all randomness.
        languages: Language codes of the new tokens.
        sizes: ``source_tokens``, ``target_tokens``, ``source_rows``, ``target_rows``, ``new_tokens``.
        counts_by_kind: Number of target ids of each kind of row.
        coverage: Share of each kind in the corpus, by token frequency; None without a corpus.
        tables: Name, role and shape of each changed table.
        tied: Whether the head shares the input table.
        fertility_before: Fertility of the source tokenizer on the corpus; None without a corpus.
        fertility_after: Fertility of the new tokenizer on the corpus; None without a corpus.
        seconds_by_step: Seconds of each step.
        versions: Versions of the packages that shape the result.
        notes: What a reader should know.
        factorized_rank: Rank of the factorised table; None for a dense one.
        training: What was trained afterwards; None for nothing.
        evaluations: Results, each with ``task``, ``dataset``, ``metric``, ``value`` and perhaps ``before``.
        distillations: Refinements of the new rows alone, in their order; ``counts_by_kind`` says how rows started.
    """

    version: str
    base_model: str | None
    base_revision: str | None
    source_tokenizer: str | None
    target_tokenizer: str | None
    mode: str
    method: str
    method_reason: str
    method_config: dict[str, Any]
    fallback: str
    seed: int
    languages: tuple[str, ...]
    sizes: dict[str, int]
    counts_by_kind: dict[str, int]
    coverage: dict[str, float] | None
    tables: tuple[dict[str, Any], ...]
    tied: bool
    fertility_before: dict[str, Any] | None
    fertility_after: dict[str, Any] | None
    seconds_by_step: dict[str, float]
    versions: dict[str, str]
    notes: tuple[str, ...]
    factorized_rank: int | None = None
    training: dict[str, Any] | None = None
    evaluations: tuple[dict[str, Any], ...] = ()
    distillations: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Take copies as plain JSON data and check their types.

        Raises:
            InvalidOptionError: It names the field.
        """
        for field in dataclasses.fields(self):
            value = _plain(getattr(self, field.name), field.name)
            if isinstance(value, list):
                value = tuple(value)
            if not _CHECKS[str(field.type)](value):
                raise InvalidOptionError(
                    f"The report's field '{field.name}' must be {field.type}; got {value!r:.80}. "
                    "Give it that type, or correct the file that it was read from."
                )
            object.__setattr__(self, field.name, value)
        lacking = [name for name in SIZES if name not in self.sizes]
        if lacking:
            raise InvalidOptionError(f"The report's field 'sizes' lacks {', '.join(lacking)}. Give all of {SIZES}.")
        for evaluation in self.evaluations:
            _check_evaluation(evaluation)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        data = {name: getattr(self, name) for name in _FIELDS}
        return {"format_version": FORMAT_VERSION} | json.loads(json.dumps(data))

    def to_json(self) -> str:
        """Return indented JSON that ends with a line break; :meth:`from_json` reads it back equal."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ExtensionReport:
        """Build a report from plain data.

        Keys of a newer version are dropped with one warning.

        Raises:
            InvalidOptionError: If a field is missing or has another type; the message names it.
        """
        required = [item.name for item in dataclasses.fields(cls) if item.default is dataclasses.MISSING]
        missing = [name for name in required if name not in data]
        if missing:
            raise InvalidOptionError(
                f"The report lacks {', '.join(repr(name) for name in missing)}. It was cut short, or another program "
                f"wrote it; save the extension again to get a whole {REPORT_FILE}."
            )
        unknown = sorted(set(data) - set(_FIELDS) - {"format_version"})
        if unknown:
            warnings.warn(
                f"The report has fields of another version, which are ignored: {', '.join(unknown)}.",
                VocabExtendWarning,
                stacklevel=2,
            )
        return cls(**{name: data[name] for name in _FIELDS if name in data})

    @classmethod
    def from_json(cls, text: str) -> ExtensionReport:
        """Read what :meth:`to_json` wrote.

        Raises:
            InvalidOptionError: If the text is no JSON object, or a field is missing or has another type.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidOptionError(
                f"The report is not JSON ({error.msg} in line {error.lineno}). Save the extension again."
            ) from error
        if not isinstance(data, dict):
            raise InvalidOptionError(f"The report must be a JSON object; got a {type(data).__name__}.")
        return cls.from_dict(data)

    def with_evaluations(self, evaluations: Iterable[Mapping[str, Any]]) -> ExtensionReport:
        """Return a copy with more evaluations; one of the same task, dataset and metric takes the old one's place.

        Args:
            evaluations: Each with ``task``, ``dataset``, ``metric``, ``value`` and perhaps ``before``, the value of
                another model, and ``before_model``, which one: ``"untouched"`` for the base model, or a name.

        Raises:
            InvalidOptionError: If a key is missing or the value is not a finite number.
        """
        merged: dict[tuple[str, ...], Mapping[str, Any]] = {}
        for evaluation in (*self.evaluations, *evaluations):
            _check_evaluation(evaluation)
            merged[tuple(evaluation[key] for key in EVALUATION_KEYS[:3])] = evaluation
        return dataclasses.replace(self, evaluations=tuple(dict(item) for item in merged.values()))

    def with_training(self, training: Mapping[str, Any]) -> ExtensionReport:
        """Return a copy that says what was trained after the extension."""
        return dataclasses.replace(self, training=dict(training))

    def with_distillation(self, distillation: Mapping[str, Any]) -> ExtensionReport:
        """Return a copy that says how new rows were refined, beside what it says of that already."""
        return dataclasses.replace(self, distillations=(*self.distillations, dict(distillation)))

    def count(self, kinds: Iterable[str]) -> int:
        """Number of target ids whose row is of one of these kinds."""
        return sum(self.counts_by_kind.get(kind, 0) for kind in kinds)

    def __str__(self) -> str:
        """About fifteen lines: sizes, what was copied, estimated and random, fertility, seconds, notes."""
        return "\n".join(f"{label + ':':<12} {text}" for label, text in _summary(self))


_FIELDS = tuple(item.name for item in dataclasses.fields(ExtensionReport))


def _is_dict(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    """Return a check for a dictionary of strings to values of a type."""
    return lambda value: (
        isinstance(value, dict)
        and all(
            isinstance(item, kind) and not (isinstance(item, bool) and kind is not object) for item in value.values()
        )
    )


def _is_tuple(kind: type) -> Callable[[Any], bool]:
    """Return a check for a tuple of values of a type."""
    return lambda value: isinstance(value, tuple) and all(isinstance(item, kind) for item in value)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Return a check that also takes None."""
    return lambda value: value is None or check(value)


def _is_int(value: Any) -> bool:
    """Whether a value is an integer; booleans are none."""
    return isinstance(value, int) and not isinstance(value, bool)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "str | None": lambda value: value is None or isinstance(value, str),
    "int": _is_int,
    "int | None": _or_none(_is_int),
    "bool": lambda value: isinstance(value, bool),
    "dict[str, Any]": _is_dict(object),
    "dict[str, Any] | None": _or_none(_is_dict(object)),
    "dict[str, int]": _is_dict(int),
    "dict[str, float]": _is_dict((int, float)),
    "dict[str, float] | None": _or_none(_is_dict((int, float))),
    "dict[str, str]": _is_dict(str),
    "tuple[str, ...]": _is_tuple(str),
    "tuple[dict[str, Any], ...]": _is_tuple(dict),
}
"""The check of each annotation that a field has."""


def _plain(value: Any, field: str) -> Any:
    """Return a copy as plain data: lists for tuples, Python numbers for NumPy's, so that JSON gives it back equal.

    Raises:
        InvalidOptionError: If a number is not finite, a key is no string, or JSON has no such value.
    """
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise InvalidOptionError(f"The report's field '{field}' holds {value}. Give a finite number or leave it out.")
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, field) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, field) for item in value]
    raise InvalidOptionError(
        f"The report's field '{field}' holds a {type(value).__name__}, which JSON cannot carry. "
        "Give strings, numbers, lists or dictionaries with string keys."
    )


def _check_evaluation(evaluation: Mapping[str, Any]) -> None:
    """Raise unless an evaluation has its keys, and finite numbers.

    Raises:
        InvalidOptionError: It names the key.
    """
    missing = [key for key in EVALUATION_KEYS if key not in evaluation]
    if missing:
        raise InvalidOptionError(
            f"An evaluation lacks {', '.join(repr(key) for key in missing)}. It needs: {', '.join(EVALUATION_KEYS)}."
        )
    for key in EVALUATION_KEYS[:3]:
        if not isinstance(evaluation[key], str) or not evaluation[key]:
            raise InvalidOptionError(f"An evaluation has the {key} {evaluation[key]!r}. Give a name.")
    if not isinstance(evaluation.get("before_model"), str | None):
        raise InvalidOptionError(
            f"An evaluation has the before_model {evaluation['before_model']!r}. Give a name, or leave it out."
        )
    for key in ("value", "before"):
        number = _plain(evaluation.get(key), "evaluations")
        if isinstance(number, bool) or not isinstance(number, int | float | None if key == "before" else int | float):
            raise InvalidOptionError(
                f"The evaluation of {evaluation['task']!r} has the {key} {number!r}. Give a number."
            )


def _summary(report: ExtensionReport) -> list[tuple[str, str]]:
    """Return the labelled lines of the text summary."""
    sizes = report.sizes
    languages = f" for {', '.join(report.languages)}" if report.languages else ""
    head = head_text(report)
    options = ", ".join(f"{name}={value}" for name, value in report.method_config.items())
    lines = [
        ("model", f"{report.base_model or 'unnamed'}, mode {report.mode}{languages}"),
        ("method", f"{report.method} ({report.method_reason}), fallback {report.fallback}, seed {report.seed}"),
        ("options", options or "defaults"),
        ("tokens", f"{sizes['source_tokens']:,} -> {sizes['target_tokens']:,}, {sizes['new_tokens']:,} of them new"),
        ("rows", f"{sizes['source_rows']:,} -> {sizes['target_rows']:,}" + (f"; the head {head}" if head else "")),
        ("copied", _kinds(report, COPIED)),
        ("estimated", _kinds(report, ESTIMATED)),
        ("random", _kinds(report, RANDOM)),
        ("padding", _kinds(report, PADDING)),
        ("tables", ", ".join(f"{table.get('name')} {_shape(table)}" for table in report.tables) or "none"),
    ]
    if report.fertility_before and report.fertility_after:
        before, after = (item.get("tokens_per_word") for item in (report.fertility_before, report.fertility_after))
        lines.append(("fertility", f"{_number(before)} -> {_number(after)} tokens per word on the corpus"))
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in report.seconds_by_step.items())
    lines.append(("seconds", f"{sum(report.seconds_by_step.values()):.1f} ({steps})" if steps else "not measured"))
    for item in report.evaluations:
        before = f"{_number(item['before'])} -> " if item.get("before") is not None else ""
        lines.append(
            ("evaluation", f"{item['task']}, {item['dataset']}, {item['metric']}: {before}{_number(item['value'])}")
        )
    for item in report.distillations:
        known = (f"{key.replace('_', ' ')} {item[key]}" for key in ("rows", "steps", "kept_step") if key in item)
        lines.append(("distilled", f"{item.get('method', 'rows')}: {', '.join(known)}"))
    return lines + [("note", note) for note in report.notes]


def head_text(report: ExtensionReport) -> str | None:
    """Say how the head goes with the input table; None for a model without a head over the vocabulary."""
    if report.tied:
        return "shares the input table"
    return "has a table of its own" if any(table.get("role") == "head" for table in report.tables) else None


def _kinds(report: ExtensionReport, kinds: tuple[str, ...]) -> str:
    """Return a total, and its parts by kind if there is more than one."""
    parts = [(kind, report.counts_by_kind[kind]) for kind in kinds if report.counts_by_kind.get(kind)]
    detail = ", ".join(f"{kind} {count:,}" for kind, count in parts)
    return f"{report.count(kinds):,} rows" + (f" ({detail})" if detail else "")


def _shape(table: Mapping[str, Any]) -> str:
    """Return a shape as `rows x width`."""
    return " x ".join(f"{size:,}" for size in table.get("shape", ()))


def _number(value: float | None) -> str:
    """Return a number with four significant digits."""
    return "unknown" if value is None else f"{value:.4g}"
