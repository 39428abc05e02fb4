"""Distillation from parallel text: what moves, what decides, and bad input."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from hf_vocab_extend import bits_per_byte, distill_parallel
from hf_vocab_extend.adaptation.distillation import lessons
from hf_vocab_extend.adaptation.distillation import parallel as module
from hf_vocab_extend.adaptation.rows import new_row_ids
from hf_vocab_extend.cli.main import main
from hf_vocab_extend.errors import (
    BaseModelMismatchError,
    CorpusError,
    InvalidOptionError,
    TokenizerMismatchError,
    VocabExtendWarning,
)
from hf_vocab_extend.evaluation.retrieval import embed_sentences

from .distilling import MODES, PAIRS, assert_same, extended, frozen_state
from .stub_extension import make_bert

CORPORA = {"one": PAIRS[:80], "two": PAIRS[80:120]}
DEV = {"one": PAIRS[120:135], "two": PAIRS[135:150]}
FEW = {"steps": 8, "batch_size": 8, "dev_pairs": DEV, "learning_rate": 2e-2}


def distilled(mode: str = "extend", case: str = "bert", **options):
    extension, base, own = extended(case, mode)
    return distill_parallel(extension, base, own, CORPORA, **FEW | options), base, own


@pytest.mark.parametrize(("case", "mode"), MODES)
def test_new_rows_move_and_nothing_else(case: str, mode: str) -> None:
    extension, base, own = extended(case, mode)
    before, old_base = frozen_state(extension), copy.deepcopy(base.state_dict())
    distill_parallel(extension, base, own, CORPORA, **FEW | {"tolerance": 1.0})
    assert_same(before, frozen_state(extension))
    assert_same(old_base, base.state_dict())
    said = extension.report.distillations[-1]
    assert said["method"] == "parallel"
    assert said["rows"] == (int(extension.mapping.distilled.sum()) if said["kept_step"] else 0)
    assert set(said["held_out_before"]) == {"one", "two"}


def test_sentences_come_nearer_to_their_translations() -> None:
    start, base, own = extended("bert without head")
    sources, targets = zip(*PAIRS[:80], strict=True)
    wanted = embed_sentences(base, own, sources)
    before = (embed_sentences(start.model, start.tokenizer, targets) * wanted).sum(1).mean()
    options = FEW | {"steps": 16, "tolerance": 1.0, "dev_pairs": CORPORA, "evaluate_every": 8}
    distill_parallel(start, base, own, CORPORA, **options)
    after = (embed_sentences(start.model, start.tokenizer, targets) * wanted).sum(1).mean()
    said = start.report.distillations[-1]
    assert said["kept_step"] > 0
    assert sum(said["held_out_after"].values()) > sum(said["held_out_before"].values())
    assert after > before


@pytest.mark.parametrize("case", ["llama", "llama tied"])
def test_a_causal_model_predicts_the_target_side_better(case: str) -> None:
    extension, base, own = extended(case)
    texts = [target for _, target in DEV["two"]]
    plain = {"max_length": 256, "end_token": False}
    before = bits_per_byte(extension.model, extension.tokenizer, texts, **plain).bits_per_byte
    distill_parallel(
        extension, base, own, CORPORA, **FEW | {"steps": 12, "dev_pairs": {"two": DEV["two"]}, "max_length": 250}
    )
    after = bits_per_byte(extension.model, extension.tokenizer, texts, **plain).bits_per_byte
    said = extension.report.distillations[-1]
    assert said["held_out_before"]["two"] == pytest.approx(-before, rel=0.02)
    assert said["held_out_after"]["two"] == pytest.approx(-after, rel=0.02)
    assert after < before


def test_the_target_side_begins_behind_its_translation() -> None:
    extension, base, own = extended("llama")
    found = module._as_ids({"one": PAIRS[:20]}, teacher=own, student=extension.tokenizer, max_length=500)
    for pair, (source, target) in zip(found, PAIRS, strict=False):
        assert extension.tokenizer.decode(pair.both[pair.start :]) == target
        assert extension.tokenizer.decode(pair.both[1 : pair.start]).rstrip("\n") == source
        assert pair.size == len(target.encode())


def test_what_the_guard_forbids_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([{"one": 0.5, "two": 0.5}] + [{"one": 0.9, "two": 0.4}] * 9)
    monkeypatch.setattr(lessons, "translation_scores", lambda *args: next(scores))
    extension, base, own = extended("bert")
    before = {name: tensor.clone() for name, tensor in extension.model.state_dict().items()}
    distill_parallel(extension, base, own, CORPORA, **FEW)
    assert_same(before, dict(extension.model.state_dict()))
    assert extension.report.distillations[-1]["kept_step"] == 0
    assert extension.mapping.distilled is None


def test_the_same_seed_gives_the_same_rows() -> None:
    rows = [
        distilled(seed=seed, tolerance=1.0, dev_pairs=CORPORA)[0].model.get_input_embeddings().weight.detach()
        for seed in (1, 1, 2)
    ]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_without_held_out_pairs_some_are_set_aside_and_one_corpus_is_balanced_by_its_words() -> None:
    extension, base, own = extended("bert")
    distill_parallel(extension, base, own, PAIRS, **FEW | {"dev_pairs": None})
    said = extension.report.distillations[-1]
    assert said["held_out_pairs"] == 10
    assert said["pairs"] <= len(PAIRS) - 10


def test_an_interrupt_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    extension, base, own = extended("bert")
    before = {name: tensor.clone() for name, tensor in extension.model.state_dict().items()}
    report = extension.report

    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lessons, "translation_loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        distill_parallel(extension, base, own, CORPORA, **FEW)
    assert_same(before, dict(extension.model.state_dict()))
    assert extension.report is report
    assert not any(item._forward_hooks for item in extension.model.modules())


def test_a_loss_that_is_not_finite_keeps_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    extension, base, own = extended("bert")
    before = {name: tensor.clone() for name, tensor in extension.model.state_dict().items()}
    monkeypatch.setattr(lessons, "translation_loss", lambda found, *args, **options: found.sum() * torch.nan)
    with pytest.warns(VocabExtendWarning, match="loss of step 1 is nan"):
        distill_parallel(extension, base, own, CORPORA, **FEW)
    assert_same(before, dict(extension.model.state_dict()))


def test_bad_input_is_refused_with_the_remedy() -> None:
    extension, base, own = extended("bert")
    before = {name: tensor.clone() for name, tensor in extension.model.state_dict().items()}

    def refused(error: type[Exception], match: str, *args: object, **options: object) -> None:
        with pytest.raises(error, match=match):
            distill_parallel(extension, *args, **FEW | options)
        assert_same(before, dict(extension.model.state_dict()))
        assert extension.report.distillations == ()

    refused(CorpusError, "empty", base, own, [])
    refused(CorpusError, "There are no pairs", base, own, {})
    refused(CorpusError, "too few to hold", base, own, PAIRS[:5], dev_pairs=None)
    refused(CorpusError, "No new token", base, own, [("a dog", "+ + +")] * 3)
    refused(TokenizerMismatchError, "source model", base, extension.tokenizer, CORPORA)
    refused(BaseModelMismatchError, "width 32", _wider(), own, CORPORA)
    refused(InvalidOptionError, "temperature is 0", base, own, CORPORA, temperature=0.0)
    refused(InvalidOptionError, "balance is nan", base, own, CORPORA, balance=float("nan"))
    refused(InvalidOptionError, "steps is 0", base, own, CORPORA, steps=0)
    refused(InvalidOptionError, "layer -9", base, own, CORPORA, target_layer=-9)


def _wider():
    """A model of another width."""
    model = make_bert()
    model.config.hidden_size = 32
    return model


def test_memory_of_what_is_trained_is_that_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    extension, base, own = extended("bert")
    made = []
    original = module.run_steps

    def spy(rows, *args, **options):
        made.append([tuple(item.shape) for item in rows.parameters()])
        return original(rows, *args, **options)

    monkeypatch.setattr(module, "run_steps", spy)
    distill_parallel(extension, base, own, CORPORA, **FEW)
    assert made == [[(len(new_row_ids(extension)), 16)]]


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extension, base, own = extended("bert")
    base.save_pretrained(tmp_path / "base")
    own.save_pretrained(tmp_path / "base")
    extension.save_pretrained(tmp_path / "in", verify=False)
    for name, items in CORPORA.items():
        lines = ["\t".join(" ".join(text.split()) for text in pair) for pair in items]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines), "utf-8")
    (tmp_path / "text.txt").write_text("\n".join(target for _, target in PAIRS), "utf-8")
    arguments = ["distill", tmp_path / "in", tmp_path / "out", "--teacher", tmp_path / "base", "--steps", "3"]
    arguments += ["--parallel", f"one={tmp_path / 'one.tsv'}", "--parallel", tmp_path / "two.tsv"]
    arguments += ["--corpus", tmp_path / "text.txt", "--no-verify", "--format", "json"]
    assert main([str(item) for item in arguments]) == 0
    report = json.loads(capsys.readouterr().out)["report"]
    assert [item["method"] for item in report["distillations"]] == ["tokens", "parallel"]
    assert report["distillations"][1]["corpora"] == "one, two"
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert main(["distill", str(tmp_path / "in"), str(tmp_path / "no")]) == 1
    assert "nothing to learn from" in capsys.readouterr().err
    text = ["--corpus", str(tmp_path / "text.txt")]
    assert main(["distill", str(tmp_path / "in"), str(tmp_path / "no"), *text, "--temperature", "1"]) == 1
    assert "--temperature goes with --parallel" in capsys.readouterr().err
    assert new_row_ids(extension).numel() == 60
