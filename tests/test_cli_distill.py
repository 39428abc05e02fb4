"""The command ``distill``: its answer tells what was done, its errors name flags."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hf_vocab_extend.cli import distill
from hf_vocab_extend.cli.main import main

from .distilling import PAIRS, extended


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An extension without a named base, its base, and pairs."""
    root = tmp_path_factory.mktemp("distill")
    extension, base, own = extended("bert")
    base.save_pretrained(root / "base")
    own.save_pretrained(root / "base")
    extension.report = replace(extension.report, base_model=None)
    extension.save_pretrained(root / "in", verify=False)
    lines = ["\t".join(" ".join(text.split()) for text in pair) for pair in PAIRS]
    (root / "all.tsv").write_text("\n".join(lines), "utf-8")
    (root / "few.tsv").write_text("\n".join(lines[:3]), "utf-8")
    (root / "wide.tsv").write_text("a\tb\tc\none\ttwo\tthree\n", "utf-8")
    return root


def call(capsys, *arguments):
    code = main(["distill", *(str(argument) for argument in arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_answer_is_what_the_distillation_did(folder, capsys):
    options = ("--parallel", f"one={folder / 'all.tsv'}", "--teacher", folder / "base", "--steps", "3", "--no-verify")
    code, out, err = call(capsys, folder / "in", folder / "out", *options)
    assert code == 0, err
    for text in (
        "steps: 3, kept: ",
        "held-out scores",
        "    one: ",
        " -> ",
        "seconds: ",
        f"Saved to {folder / 'out'}",
    ):
        assert text in out
    assert "method:" not in out


def test_errors_name_flags(folder, capsys, monkeypatch):
    few = ("--parallel", folder / "few.tsv")
    code, _, err = call(capsys, folder / "in", folder / "no", *few, "--teacher", folder / "base")
    assert (code, "held-out pairs with --dev" in err, "dev_pairs" in err) == (1, True, False)
    monkeypatch.setattr(distill, "load_model", lambda *args, **options: pytest.fail("a model was loaded"))
    for arguments, wanted in (
        ((folder / "in", folder / "no", *few), "names no base model. Give the untouched model with --teacher"),
        ((folder / "base", folder / "no", *few), "Give the FOLDER that extend has saved"),
        ((folder / "in", folder / "no", "--parallel", folder / "wide.tsv"), "--pair-columns SOURCE TARGET"),
        ((folder / "in", folder / "base", *few), "give --overwrite"),
    ):
        code, _, err = call(capsys, *arguments)
        assert (code, wanted in err) == (1, True), err
        assert "=" not in err
