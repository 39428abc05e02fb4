"""What lies in checkpoints and at the end of training: tokenizer, report, mapping, card, curves."""

from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_vocab_extend.adaptation.checkpoints import CheckpointPart, write_card
from hf_vocab_extend.adaptation.measures import MeasuresPart
from hf_vocab_extend.errors import InvalidOptionError, MissingDependencyError
from hf_vocab_extend.evaluation import curves
from hf_vocab_extend.evaluation.curves import CURVES_FILE, curves_table, plot_curves, write_curves
from hf_vocab_extend.hub.card import render_card, split_front_matter
from hf_vocab_extend.report import REPORT_FILE, ExtensionReport

from .factories import english, swahili
from .stub_extension import make_report
from .test_adaptation_measures import make_run

STAGES = [{"stage": "new_rows", "begin": 0, "trained": 800}, {"stage": "all", "begin": 2, "trained": 4000}]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\nMy own words.\n", "utf-8")
    measures = MeasuresPart(texts={"sw": swahili(5)}, source_texts=english(5))
    part = CheckpointPart(None, measures, stages=lambda: STAGES, replay_share=0.1, card={"language": "sw"})
    extension, trainer, *_ = make_run(folder, measures, callbacks=[part], save_strategy="steps", save_steps=2)
    part.extension = extension
    trainer.train()
    return folder, extension, trainer, measures


def test_a_checkpoint_is_a_model_of_its_own(run):
    folder, extension, *_ = run
    checkpoint = folder / "checkpoint-2"
    loaded = AutoTokenizer.from_pretrained(checkpoint)
    assert loaded(swahili(3))["input_ids"] == extension.tokenizer(swahili(3))["input_ids"]
    settings = json.loads((checkpoint / "tokenizer_config.json").read_text("utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert AutoModelForCausalLM.from_pretrained(checkpoint).config.vocab_size == len(loaded)
    report = ExtensionReport.from_json((checkpoint / REPORT_FILE).read_text("utf-8"))
    assert (report.training["steps"], report.training["planned_steps"]) == (2, 4)
    assert (checkpoint / "vocab_mapping.safetensors").is_file()
    assert "Training stands at step 2 of 4." in (checkpoint / "README.md").read_text("utf-8")


def test_the_report_tells_the_training(run):
    folder, extension, trainer, measures = run
    training = extension.report.training
    assert training == ExtensionReport.from_json((folder / REPORT_FILE).read_text("utf-8")).training
    assert training["steps"] == 4
    assert training["tokens"] == measures.history[-1]["trained_tokens"]
    assert training["batch_size"] == 3
    assert training["precision"] == "float32"
    assert training["replay_share"] == 0.1
    assert len(training["history"]) == 3
    found = {item["dataset"]: item for item in extension.report.evaluations}
    assert found["sw"]["before"] == measures.history[0]["bits_per_byte_sw"]
    assert found["sw"]["value"] == measures.history[-1]["bits_per_byte_sw"]
    assert found["source"]["task"] == "retention of the source language"


def test_drift_that_begins_at_a_resume_is_said(run, monkeypatch):
    _, extension, trainer, measures = run
    assert "drift_since_step" not in extension.report.training
    monkeypatch.setattr(measures, "drift_since", 2)
    part = CheckpointPart(extension, measures)
    report = part._report(trainer.args, trainer.state, {"model": trainer.model})
    assert report.training["drift_since_step"] == 2
    assert "went on at step 2" in report.notes[-1]
    assert "compare with that step" in render_card(report, model_name="m")


def test_the_final_card_tells_the_training_and_keeps_the_users_prose(run):
    folder, _, _, measures = run
    card = (folder / "README.md").read_text("utf-8")
    front, _ = split_front_matter(card)
    assert front["license"] == "mit"
    assert front["language"] == ["sw"]
    values = [result["metrics"][0]["value"] for result in front["model-index"][0]["results"]]
    assert values[0] == pytest.approx(measures.history[-1]["bits_per_byte_sw"], abs=1e-6)
    for text in (
        "My own words.",
        "| new_rows | 1 | 2 | 800 |",
        "| all | 3 | 4 | 4,000 |",
        "| source-language text in the training text, by bytes | 10.0 % |",
        "unchanged when training began",
        f"trained on {measures.history[-1]['trained_tokens']:,} tokens",
        "On source-language text ('source') bits per byte went from",
        "| step | tokens | bits per byte, sw |",
    ):
        assert text in card
    assert "not trained" not in card
    assert (CURVES_FILE in card) == (folder / CURVES_FILE).is_file()


def test_a_save_of_the_extension_says_the_same(run, tmp_path):
    _, extension, *_ = run
    extension.save_pretrained(tmp_path / "saved", verify=False)
    card = (tmp_path / "saved" / "README.md").read_text("utf-8")
    assert "## Training" in card
    assert (CURVES_FILE in card) == (tmp_path / "saved" / CURVES_FILE).is_file()


def test_the_card_can_be_written_anywhere(run, tmp_path):
    _, extension, trainer, _ = run
    write_card(trainer, extension, tmp_path, tags=["mine"])
    card = (tmp_path / "README.md").read_text("utf-8")
    assert "- mine" in card
    assert CURVES_FILE not in card


def test_other_processes_write_nothing(tmp_path):
    measures = MeasuresPart(texts=swahili(2))
    part = CheckpointPart(None, measures)
    extension, trainer, *_ = make_run(tmp_path, measures, max_steps=2, save_strategy="steps", save_steps=2)
    part.extension = extension
    measures.on_train_begin(trainer.args, trainer.state, trainer.control, model=extension.model)
    trainer.state.is_world_process_zero = False
    (tmp_path / "checkpoint-0").mkdir()
    part.on_save(trainer.args, trainer.state, trainer.control, model=extension.model)
    part.on_train_end(trainer.args, trainer.state, trainer.control, model=extension.model)
    assert not list((tmp_path / "checkpoint-0").iterdir())
    assert not (tmp_path / "README.md").exists()
    assert extension.report.training["steps"] == 0


HISTORY = [
    {"step": step, "trained_tokens": 1000 * step, "bits_per_byte_sw": 3 - step / 100, "drift_new_tied": step / 100}
    for step in range(0, 100, 2)
]


def test_a_long_history_is_a_short_table():
    lines = curves_table(HISTORY).splitlines()
    assert len(lines) == 14
    assert lines[0] == "| step | tokens | bits per byte, sw | drift of new rows |"
    assert lines[2] == "| 0 | 0 | 3.0000 | 0.0000 |"
    assert lines[-1].startswith("| 98 | 98,000 | 2.0200 |")


def test_curves_are_drawn_where_matplotlib_is(tmp_path):
    pytest.importorskip("matplotlib")
    plot_curves(HISTORY, tmp_path / "one.png", stages=STAGES, source_names=["sw"])
    plot_curves(HISTORY, tmp_path / "two.png", stages=STAGES, source_names=["sw"])
    data = (tmp_path / "one.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert data == (tmp_path / "two.png").read_bytes()
    assert not write_curves(None, tmp_path)
    assert write_curves({"history": HISTORY}, tmp_path)
    with pytest.raises(InvalidOptionError, match="two measures"):
        plot_curves(HISTORY[:1], tmp_path / "three.png")


def test_without_matplotlib_the_numbers_stay(tmp_path, monkeypatch):
    def missing(*args, **kwargs):
        raise MissingDependencyError("no matplotlib")

    monkeypatch.setattr(curves, "require", missing)
    assert not write_curves({"history": HISTORY}, tmp_path)
    card = render_card(make_report(training={"steps": 98, "history": HISTORY}))
    assert "drift of new rows" in card
    assert CURVES_FILE not in card


def test_training_that_a_user_described_freely_is_shown():
    card = render_card(make_report(training={"tokens": "2B", "notes of mine": [1, 2]}))
    assert "| tokens | 2B |" in card
    assert "| notes of mine | 1, 2 |" in card
