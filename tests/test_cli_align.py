"""``hf-vocab-extend align`` and the options that take pairs: from files to counts, and from counts to a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from hf_vocab_extend import extend_tokenizer
from hf_vocab_extend.cli.main import main
from hf_vocab_extend.resources.alignment.counts import UnitCounts

from .factories import sample_pairs, swahili, tokenizer

PAIRS = sample_pairs()[:400]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder, a grown tokenizer, and the same pairs in four forms."""
    root = tmp_path_factory.mktemp("align")
    own = tokenizer("bert-uncased")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    BertModel(BertConfig(vocab_size=len(own), **shape)).save_pretrained(root / "model")
    own.save_pretrained(root / "model")
    extend_tokenizer(own, swahili(400), 100).save_pretrained(root / "grown")
    lines = [f"{source}\t{target}" for source, target in PAIRS]
    (root / "pairs.tsv").write_text("\n".join(lines))
    (root / "named.tsv").write_text("\n".join(["id\ten\tsw", *(f"{n}\t{line}" for n, line in enumerate(lines))]))
    (root / "text.en").write_text("\n".join(source for source, _ in PAIRS))
    (root / "text.sw").write_text("\n".join(target for _, target in PAIRS))
    for number, part in enumerate((lines[:200], lines[200:])):
        (root / f"part{number}.tsv").write_text("\n".join(part))
    (root / "words.tsv").write_text("book\tkitabu\nvirus\tkirusi\n")
    return root


def run(capsys: pytest.CaptureFixture[str], *argv: Any) -> tuple[int, str, str]:
    code = main([str(item) for item in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


FORMS = {
    "tsv": ["--parallel", "pairs.tsv"],
    "named columns": ["--parallel", "named.tsv", "--pair-columns", "en", "sw"],
    "two files": ["--parallel", "text.en", "--parallel-target", "text.sw"],
}


def test_the_same_pairs_in_every_form_give_the_same_counts(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = []
    for number, (name, options) in enumerate(FORMS.items()):
        output = tmp_path / f"{number}.safetensors"
        argv = ["align", "model", "grown", output, *options, "--aligner", "ibm1", "--no-cache", "--format", "json"]
        code, out, err = run(capsys, *argv)
        assert code == 0, (name, err)
        answer = json.loads(out)
        assert answer["pairs"] == len(PAIRS)
        assert answer["info"]["aligner"] == "ibm1"
        assert answer["examples"]
        counts = UnitCounts.load(output)
        assert counts.n_pairs == len(PAIRS)
        found.append(counts.counts)
    assert all((other == found[0]).all() for other in found[1:])


def test_counts_of_two_machines_add_up_and_extend_a_model(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    parts = [tmp_path / f"part{number}.safetensors" for number in (0, 1)]
    for number, part in enumerate(parts):
        code, _, err = run(capsys, "align", "model", "grown", part, "--parallel", f"part{number}.tsv")
        assert code == 0, err
    both = tmp_path / "both.safetensors"
    code, out, err = run(capsys, "align", "model", "grown", both, "--add", parts[0], "--add", parts[1])
    assert code == 0, err
    assert "400" in out
    total = sum(float(UnitCounts.load(part).counts.sum()) for part in parts)
    assert float(UnitCounts.load(both).counts.sum()) == pytest.approx(total)

    code, out, err = run(capsys, "extend", "model", "grown", tmp_path / "out", "--parallel", both, "--format", "json")
    assert code == 0, err
    report = json.loads(out)["report"]
    assert report["method"] == "trans_tokenization"
    assert report["counts_by_kind"]["method"] > 50


@pytest.mark.filterwarnings("always::hf_vocab_extend.errors.VocabExtendWarning")
def test_a_dictionary_alone_is_enough(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    options = ["--method", "trans_tokenization", "--dictionary", "words.tsv", "--format", "json"]
    code, out, err = run(capsys, "extend", "model", "grown", tmp_path / "out", *options)
    assert code == 0, err
    assert "cover 1 of 100 new" in err  # little, and it says so
    assert json.loads(out)["report"]["method"] == "trans_tokenization"


BAD = {
    "nothing to count": ([], "nothing to count"),
    "no such file": (["--parallel", "absent.tsv"], "absent.tsv"),
    "no such counts": (["--parallel", "absent.safetensors"], "absent.safetensors"),
    "no target side": (["--parallel", "text.en", "--parallel-target", "absent.sw"], "absent.sw"),
    "columns alone": (["--pair-columns", "en", "sw"], "--parallel"),
    "no such column": (["--parallel", "named.tsv", "--pair-columns", "en", "de"], "de"),
    "one column": (["--parallel", "text.en"], "1 column"),
    "no such aligner": (["--parallel", "pairs.tsv", "--aligner", "none"], "no aligner"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_no_file(
    name: str, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    options, expected = BAD[name]
    code, out, err = run(capsys, "align", "model", "grown", tmp_path / "counts.safetensors", *options)
    assert (code, out) == (1, "")
    assert expected in err
    assert err.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("output", ["counts.txt", "absent/counts.safetensors", "there.safetensors"])
def test_where_the_counts_go_is_checked_first(
    output: str, capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "there.safetensors").write_text("something")
    code, _, err = run(capsys, "align", "model", "grown", tmp_path / output, "--parallel", "absent")
    assert code == 1
    assert output in err
    assert (tmp_path / "there.safetensors").read_text() == "something"
