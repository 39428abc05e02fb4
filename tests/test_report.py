"""The report: what goes in comes out, and what does not belong is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hf_vocab_extend.errors import InvalidOptionError, VocabExtendWarning
from hf_vocab_extend.report import ExtensionReport
from hf_vocab_extend.scrub import public_model_id, without_private

from .stub_extension import FIELDS, make_report

EVALUATION = {"task": "retrieval", "dataset": "TICO-19", "metric": "R@1", "value": 0.5, "before": 0.25}


def test_json_gives_the_same_report_back() -> None:
    report = make_report(evaluations=(EVALUATION,), training={"steps": 10, "lr": 1e-4}, factorized_rank=8)
    again = ExtensionReport.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()


@pytest.mark.parametrize("field", ["coverage", "fertility_before", "fertility_after", "base_model", "base_revision"])
def test_optional_fields_may_be_none(field: str) -> None:
    report = make_report(**{field: None})
    assert getattr(ExtensionReport.from_json(report.to_json()), field) is None
    assert str(report)


def test_numpy_numbers_and_tuples_become_plain() -> None:
    report = make_report(
        seed=np.int64(3),
        coverage={"same": np.float32(0.5)},
        sizes={name: np.int32(size) for name, size in FIELDS["sizes"].items()},
    )
    assert type(report.seed) is int
    assert type(report.coverage["same"]) is float
    assert report.tables[0]["shape"] == [500, 16]
    assert ExtensionReport.from_json(report.to_json()) == report


def test_a_report_does_not_change_with_what_it_was_made_from() -> None:
    counts = {"same": 3}
    report = make_report(counts_by_kind=counts)
    counts["same"] = 99
    assert report.counts_by_kind == {"same": 3}


WRONG = {
    "version": 1,
    "base_model": 3,
    "mode": None,
    "method_config": [],
    "seed": "7",
    "languages": "sw",
    "sizes": {"source_tokens": 1},
    "counts_by_kind": {"same": 1.5},
    "coverage": {"same": "much"},
    "tables": ["a"],
    "tied": 1,
    "fertility_before": "low",
    "seconds_by_step": {"plan": None},
    "versions": {"torch": 2},
    "notes": (1,),
    "factorized_rank": True,
    "training": [],
    "evaluations": ({"task": "retrieval"},),
}


@pytest.mark.parametrize("field", WRONG)
def test_a_wrong_type_is_refused_by_name(field: str) -> None:
    data = make_report().to_dict() | {field: WRONG[field]}
    with pytest.raises(InvalidOptionError, match=field.removesuffix("s")):
        ExtensionReport.from_dict(data)


@pytest.mark.parametrize("field", [name for name in FIELDS])
def test_a_missing_field_is_named(field: str) -> None:
    data = make_report().to_dict()
    del data[field]
    with pytest.raises(InvalidOptionError, match=f"lacks '{field}'"):
        ExtensionReport.from_dict(data)


def test_unknown_fields_warn_once_and_are_dropped() -> None:
    data = make_report().to_dict() | {"zeta": 1, "alpha": 2}
    with pytest.warns(VocabExtendWarning, match="alpha, zeta") as caught:
        report = ExtensionReport.from_dict(data)
    assert len(caught) == 1
    assert report == make_report()


@pytest.mark.parametrize("text", ["", "{", "[1]", '"x"', "null"])
def test_no_report(text: str) -> None:
    with pytest.raises(InvalidOptionError, match="report"):
        ExtensionReport.from_json(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1: 2}])
def test_values_that_json_cannot_carry(value: object) -> None:
    with pytest.raises(InvalidOptionError, match="training"):
        make_report().with_training({"loss": value})


def test_copies_leave_the_original() -> None:
    report = make_report()
    trained = report.with_training({"steps": 5})
    evaluated = trained.with_evaluations([EVALUATION])
    assert (report.training, report.evaluations) == (None, ())
    assert evaluated.training == {"steps": 5}
    assert evaluated.evaluations == (EVALUATION,)


def test_a_second_evaluation_of_the_same_thing_replaces_the_first() -> None:
    other = EVALUATION | {"metric": "MRR"}
    report = make_report().with_evaluations([EVALUATION, other]).with_evaluations([EVALUATION | {"value": 0.75}])
    assert [(item["metric"], item["value"]) for item in report.evaluations] == [("R@1", 0.75), ("MRR", 0.5)]


@pytest.mark.parametrize(
    "change",
    [{"value": "high"}, {"value": None}, {"value": True}, {"value": float("nan")}, {"before": "x"}, {"task": ""}],
)
def test_bad_evaluations(change: dict) -> None:
    with pytest.raises(InvalidOptionError, match="evaluation"):
        make_report().with_evaluations([EVALUATION | change])


def test_summary_tells_copied_estimated_and_random_apart() -> None:
    text = str(make_report(evaluations=(EVALUATION,)))
    lines = dict(line.split(":", 1) for line in text.splitlines())
    assert lines["copied"].strip().startswith("480 rows")
    assert lines["estimated"].strip() == "19 rows (method 17, fallback 2)"
    assert lines["random"].strip().startswith("1 rows")
    assert "3.25 -> 1.5" in lines["fertility"]
    assert "1.8" in lines["seconds"]
    assert "0.25 -> 0.5" in lines["evaluation"]
    assert "random" in lines["note"]
    assert 10 <= len(text.splitlines()) <= 16


PRIVATE = {
    "/home/someone/data/corpus.txt": "corpus.txt",
    "read /mnt/x/y.vec and C:\\Users\\me\\z.bin": "read y.vec and z.bin",
    "~/data/a.txt": "a.txt",
    "file:///srv/a/b": "b",
    "https://example.org/a/b.html": "https://example.org/a/b.html",
    "tokens/word and and/or": "tokens/word and and/or",
    "org/model": "org/model",
    "hf_" + "A1" * 12: "hf_***",
}


@pytest.mark.parametrize("text", PRIVATE)
def test_paths_and_tokens_are_cut(text: str) -> None:
    assert without_private({"a": [text]}) == {"a": [PRIVATE[text]]}


IDS = {
    "org/model": "org/model",
    "gpt2": "gpt2",
    "/home/me/models/my-model": "my-model",
    "/home/me/my model": None,
    "/home/x/.cache/huggingface/hub/models--org--some.model/snapshots/abc": "org/some.model",
    "": None,
    "../x": None,
    "a/b/c": None,
}


@pytest.mark.parametrize("name", IDS)
def test_public_names(name: str) -> None:
    assert public_model_id(name) == IDS[name]


def test_plain_json() -> None:
    data = json.loads(make_report().to_json())
    assert data["format_version"] == 1
    assert data["languages"] == ["sw"]
