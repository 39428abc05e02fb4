"""The command ``eval``: several measures at once, before and after, written into the folder."""

from __future__ import annotations

import json
import shutil

import pytest

from hf_vocab_extend import extend_tokenizer, extend_vocabulary
from hf_vocab_extend.cli import evaluate
from hf_vocab_extend.cli.main import main
from hf_vocab_extend.report import REPORT_FILE, ExtensionReport

from .factories import english, sample_pairs, swahili, tokenizer
from .stub_extension import make_bert


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model, its extension, and test data."""
    root = tmp_path_factory.mktemp("eval")
    own = tokenizer("bert-uncased")
    make_bert().save_pretrained(root / "base")
    own.save_pretrained(root / "base")
    grown = extend_tokenizer(own, swahili(100), num_new_tokens=30)
    extension = extend_vocabulary(make_bert(), grown, method="mean", tokenizer=own)
    extension.save_pretrained(root / "extended", verify=False)
    (root / "text.txt").write_text("\n".join(swahili(5)), "utf-8")
    (root / "pairs.tsv").write_text("".join(f"{one}\t{other}\n" for one, other in sample_pairs()[:8]), "utf-8")
    lines = [f"{label}\t{text}\n" for text in english(12) for label in ("a" if len(text) > 60 else "b",)]
    (root / "topic.tsv").write_text("a\tsome long text\nb\tshort\n" + "".join(lines), "utf-8")
    line = json.dumps({"tokens": ["the", "virus"], "upos": ["DET", "NOUN"]})
    (root / "tags.jsonl").write_text(line + "\n" + line + "\n", "utf-8")
    return root


def call(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.filterwarnings("ignore::hf_vocab_extend.errors.VocabExtendWarning")
def test_all_measures_before_and_after_are_recorded(folders, capsys):
    readme = folders / "extended" / "README.md"
    readme.write_bytes(readme.read_bytes() + b"\nMy own words.\n")
    code, out, err = call(
        capsys,
        *("eval", folders / "extended", "--bits-per-byte", folders / "text.txt"),
        *("--retrieval", folders / "pairs.tsv", "--topic", folders / "topic.tsv", folders / "topic.tsv"),
        *("--tags", folders / "tags.jsonl", folders / "tags.jsonl"),
        *("--before", folders / "base", "--record", "--format", "json"),
    )
    assert code == 0, err
    results = json.loads(out)["evaluations"]
    assert [result["metric"] for result in results] == [
        *("bits per byte", "R@1 target to source", "R@1 source to target", "MRR"),
        *("accuracy", "macro F1", "accuracy", "macro F1"),
    ]
    assert all("before" in result for result in results)
    assert {result["dataset"] for result in results} == {"text", "pairs", "topic", "tags"}
    report = ExtensionReport.from_json((folders / "extended" / REPORT_FILE).read_text("utf-8"))
    assert [dict(item) for item in report.evaluations] == results
    card = readme.read_text("utf-8")
    assert "My own words." in card
    assert "| language modelling | text | bits per byte |" in card
    assert "model-index" in card


def test_a_table_is_shown(folders, capsys):
    code, out, _ = call(capsys, "eval", folders / "base", "--bits-per-byte", folders / "text.txt", "--limit", "2")
    assert code == 0
    assert out.splitlines()[0].split() == ["task", "data", "metric", "value"]
    assert "text (first 2)" in out


def test_what_cannot_be_measured_is_said_before_any_work(folders, capsys):
    for arguments, message in (
        ((folders / "base",), "nothing to measure"),
        ((folders / "base", "--topic", folders / "topic.tsv"), "one file"),
        ((folders / "base", "--bits-per-byte", folders / "text.txt", "--record"), "--record needs a folder"),
        ((folders / "base", "--bits-per-byte", folders / "text.txt", "--limit", "0"), "--limit is 0"),
        ((folders / "base", "--retrieval", folders / "none.tsv"), "cannot be read"),
    ):
        code, _, err = call(capsys, "eval", *arguments)
        assert code == 1
        assert message in err


def test_a_wrong_name_or_a_broken_card_shows_before_any_work(folders, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "load_model", lambda *args, **options: pytest.fail("a model was loaded"))
    text = ("--bits-per-byte", folders / "text.txt")
    code, _, err = call(capsys, "eval", folders / "extended", *text, "--before", folders / "no-such-model")
    assert (code, "No tokenizer could be loaded" in err) == (1, True)
    copied = shutil.copytree(folders / "extended", tmp_path / "copy")
    (copied / "README.md").write_text("---\na: [\n---\n", "utf-8")
    report = (copied / REPORT_FILE).read_bytes()
    code, _, err = call(capsys, "eval", copied, *text, "--record")
    assert (code, "front matter" in err) == (1, True)
    assert (copied / REPORT_FILE).read_bytes() == report


def test_source_text_is_retention_and_before_has_a_name(folders, capsys, tmp_path):
    copied = shutil.copytree(folders / "extended", tmp_path / "copy")
    text = ("--source-bits-per-byte", folders / "text.txt")
    code, out, err = call(capsys, "eval", copied, *text, "--before", folders / "base", "--record", "--format", "json")
    assert code == 0, err
    [result] = json.loads(out)["evaluations"]
    assert (result["task"], result["before_model"]) == ("retention of the source language", "untouched")
    card = (copied / "README.md").read_text("utf-8")
    assert "'text') bits per byte went from" in card.split("## Limits")[1]
    assert '"before" is the untouched base model.' in card
    code, out, _ = call(capsys, "eval", copied, *text, "--before", folders / "extended", "--format", "json")
    assert (code, json.loads(out)["evaluations"][0]["before_model"]) == (0, "extended")
