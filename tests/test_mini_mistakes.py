"""What a new user of mini-models gets wrong is told at once, with what to do instead."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, Trainer, TrainingArguments

from hf_vocab_extend.adaptation.mini_model.building import build_mini_model
from hf_vocab_extend.adaptation.mini_model.given import check_tokenizer_of
from hf_vocab_extend.adaptation.mini_model.joint import MiniJointModel
from hf_vocab_extend.adaptation.mini_model.learning import learn_embeddings
from hf_vocab_extend.adaptation.mini_model.post_training import MiniModelCallback, train_mini_model
from hf_vocab_extend.adaptation.mini_model.tasks import TaskModel, train_classifier, train_tagger
from hf_vocab_extend.adaptation.mini_model.transplanting import check_transplant, transplant_embeddings
from hf_vocab_extend.adaptation.option_checks import SAME
from hf_vocab_extend.adaptation.training import train_language_model
from hf_vocab_extend.adaptation.training_options import TrainingOptions
from hf_vocab_extend.cli.main import main
from hf_vocab_extend.cli.training import summary
from hf_vocab_extend.errors import (
    InvalidOptionError,
    InvalidTableError,
    MissingResourceError,
    TokenizerMismatchError,
    UnsupportedModelError,
    VocabExtendWarning,
)

from .factories import english
from .mini_learning import full_model, learn, mini_of, no_drawings, source_tokenizer, swahili_tokenizer, task_model
from .models import build

__all__ = ["no_drawings"]

pytestmark = pytest.mark.usefixtures("no_drawings")

QUIET = {"use_cpu": True, "disable_tqdm": True, "logging_strategy": "no"}
EXAMPLES = [("up", "the sun rises"), ("down", "the sun sets")]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Namespace:
    """A full model, a mini-model of it, and a table that was learned on that."""
    model = full_model().eval()
    mini = mini_of(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_vocab_extend.adaptation.checkpoints.write_curves", lambda *args: None)
        table = learn(mini, tmp_path_factory.mktemp("work"), "bert")
    return Namespace(model=model, mini=mini, table=table)


def test_the_losses_of_an_imitation_are_told_apart() -> None:
    trained = Namespace(metrics={"train_loss": 1.79, "eval_loss": 6.19}, measures=[], steps=3)
    assert summary(trained)[1:] == ["loss in training: 1.7900", "loss on held-out text: 6.1900"]
    assert summary(trained, imitated=True)[1:] == [
        "distance from the full model in training: 1.7900",
        "loss on held-out text: 6.1900",
    ]


def test_a_mini_model_takes_no_table(learned: Namespace) -> None:
    minis = [learned.mini, MiniJointModel.from_model(full_model(), 1).cut()]
    for mini in minis:
        before = {name: value.clone() for name, value in mini.state_dict().items()}
        with pytest.raises(InvalidOptionError, match=r"This is the mini-model\. Give the model that it was cut from"):
            transplant_embeddings(learned.table, mini)
        with pytest.raises(InvalidOptionError, match="This is the mini-model"):
            check_transplant(learned.mini, mini)
        after = mini.state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_tokenizer_with_too_few_ids_is_told(tmp_path: Path) -> None:
    own, other = source_tokenizer("bert"), swahili_tokenizer("bert-uncased", 200)
    model = full_model()
    model.resize_token_embeddings(len(other) + 129)
    mini = build_mini_model(model, 1, 1)
    options: dict[str, Any] = {"steps": 1, "held_out": 0, "block_size": 16, "training_arguments": QUIET}
    told = f"{len(other)} ids and the model {len(other) + 129} rows"
    with pytest.raises(VocabExtendWarning, match=told):  # a warning is an error in tests
        train_mini_model(mini, english(40), tmp_path / "a", tokenizer=other, **options)
    with pytest.raises(VocabExtendWarning, match=told):
        learn(mini, tmp_path / "b", "bert", tokenizer=other)
    with pytest.warns(VocabExtendWarning, match=told) as found:
        check_tokenizer_of(mini, other, stacklevel=1)
    assert found[0].filename == __file__
    model.resize_token_embeddings(len(other) + 128)  # as padding may be
    check_tokenizer_of(model, other, stacklevel=1)
    model.resize_token_embeddings(len(own) - 1)
    with pytest.raises(TokenizerMismatchError, match=f"{len(own)} ids and the model {len(own) - 1} rows"):
        train_mini_model(build_mini_model(model, 1, 1), english(40), tmp_path / "d", tokenizer=own, **options)


def test_the_models_own_tokenizer_is_no_new_one(learned: Namespace, tmp_path: Path) -> None:
    with pytest.raises(VocabExtendWarning, match="same vocabulary as that of the model"):
        learn(learned.mini, tmp_path, "bert", source_tokenizer("bert"))


@pytest.mark.parametrize("measured", [False, True])
def test_a_callback_without_texts_says_that_nothing_is_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, measured: bool
) -> None:
    model, own = full_model(), source_tokenizer("bert")
    texts = english(4) if measured else None
    callback = MiniModelCallback(model, texts=texts, tokenizer=own)
    data = [dict(own(text, max_length=16, truncation=True)) for text in english(4)]
    for example in data:
        example["labels"] = example["input_ids"]
    args = TrainingArguments(str(tmp_path), max_steps=1, per_device_train_batch_size=1, report_to="none", **QUIET)
    with caplog.at_level(logging.WARNING, "hf_vocab_extend"):
        Trainer(build_mini_model(model, 1, 1), args, train_dataset=data, callbacks=[callback]).train()
    assert ("give model= and texts=" in caplog.text) is not measured
    assert (callback.alignment is not None) is measured


def test_arguments_of_the_trainer_are_no_options(learned: Namespace, tmp_path: Path) -> None:
    wrong: Any = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    own, text = source_tokenizer("bert"), english(40)
    calls: list[tuple[str, Any]] = [
        ("TrainingOptions", lambda **more: train_mini_model(learned.mini, text, tmp_path, tokenizer=own, **more)),
        (
            "TrainingOptions",
            lambda **more: learn_embeddings(learned.mini, swahili_tokenizer(), text, tmp_path, **more),
        ),
        ("TrainingOptions", lambda **more: train_language_model(learned.model, text, tmp_path, tokenizer=own, **more)),
        ("TaskOptions", lambda **more: train_classifier(learned.model, own, EXAMPLES, tmp_path, **more)),
        ("TaskOptions", lambda **more: train_tagger(learned.model, own, [], tmp_path, **more)),
    ]
    for kind, call in calls:
        with pytest.raises(InvalidOptionError, match=f"are a TrainingArguments. Give {kind}, or keywords"):
            call(options=wrong)
        with pytest.raises(InvalidOptionError, match="no such option: num_train_epochs. Give epochs for"):
            call(num_train_epochs=1)
        with pytest.raises(InvalidOptionError, match="Give learning_rate for learning_rat; see"):
            call(learning_rat=1)
    for name, meant in SAME.items():
        with pytest.raises(InvalidOptionError, match=f"Give {meant} for {name}; see TrainingOptions"):
            calls[0][1](**{name: 1})
    with pytest.raises(InvalidOptionError, match=r"no such option: max_steps\. See TaskOptions"):
        calls[3][1](max_steps=1)  # a task has none
    assert set(SAME.values()) <= set(vars(TrainingOptions()))


def test_names_are_no_models(learned: Namespace, tmp_path: Path) -> None:
    name: Any = "bert-base-uncased"
    own = source_tokenizer("bert")
    for call in (
        lambda: transplant_embeddings(learned.table, name),
        lambda: MiniJointModel.from_model(name, 1),
        lambda: build_mini_model(name),
        lambda: train_mini_model(name, [], tmp_path),
        lambda: learn_embeddings(name, own, english(4), tmp_path),
        lambda: train_classifier(name, own, EXAMPLES, tmp_path),
    ):
        with pytest.raises(InvalidOptionError, match=r"is the name 'bert-base-uncased'\. Load it first: AutoModel"):
            call()
    wrong: Any = TaskModel(learned.model, own, ("a", "b"), "classification")
    with pytest.raises(InvalidOptionError, match="model is a TaskModel. Give a loaded model"):
        transplant_embeddings(learned.table, wrong)


def test_a_joint_model_that_shall_predict_is_put_into_evaluation_mode() -> None:
    joint = MiniJointModel.from_model(full_model(), 1).train()
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(InvalidOptionError, match=r"Call joint\.eval\(\) to predict"):
        joint(input_ids=ids)
    assert joint.eval()(input_ids=ids).loss is None


@pytest.mark.parametrize("name", ["t5", "mbart"])
def test_an_encoder_with_a_decoder_learns_no_table(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="is an encoder with a decoder"):
        learn(build(name, 400, True), tmp_path, "bert")


def test_a_folder_without_a_learned_table(learned: Namespace, tmp_path: Path, capsys: Any) -> None:
    learned.mini.save_pretrained(tmp_path / "mini")
    full_model().save_pretrained(tmp_path / "full")
    source_tokenizer("bert").save_pretrained(tmp_path / "mini")
    with pytest.raises(MissingResourceError, match=r"'mini' holds no table of .* Run learn_embeddings on what"):
        transplant_embeddings(tmp_path / "mini", learned.model)
    argv = ["transplant", tmp_path / "mini", "--into", tmp_path / "full", "--out", tmp_path / "out"]
    assert main([str(item) for item in argv]) != 0
    told = capsys.readouterr().err
    assert "Run hf-vocab-extend learn on what it holds first" in told
    assert "extension=" not in told


def test_a_full_model_that_took_a_table_gives_none(
    learned: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_vocab_extend.result.write_curves", lambda *args: None)
    model = full_model()
    transplant_embeddings(learned.table, model).save_pretrained(tmp_path / "full-sw")
    task = TaskModel(task_model(full_model()), source_tokenizer("bert"), ("a", "b"), "classification")
    with pytest.raises(MissingResourceError, match="Give what learn_embeddings returned or saved"):
        task.with_embeddings(tmp_path / "full-sw")


def test_a_mini_model_without_a_head_is_told_when_it_is_built() -> None:
    model = AutoModel.from_config(full_model().config)
    with pytest.warns(VocabExtendWarning, match="AutoModelForMaskedLM or AutoModelForCausalLM") as told:
        build_mini_model(model, 1, 1)
    assert told[0].filename == __file__


def test_examples_are_pairs(learned: Namespace, tmp_path: Path) -> None:
    own = source_tokenizer("bert")
    wrong: Any = [{"label": "up", "text": "the sun rises"}]
    with pytest.raises(InvalidTableError, match=r"dict with label, text\. Give \(label, text\) pairs, not dicts"):
        train_classifier(learned.model, own, wrong, tmp_path)
    with pytest.raises(InvalidTableError, match=r"Give \(words, tags\) pairs, not dicts"):
        train_tagger(learned.model, own, wrong, tmp_path)
    task = TaskModel(task_model(full_model()), own, ("down", "up"), "classification")
    for path in ("topics.tsv", Path("topics.tsv")):
        given: Any = path
        for call in (
            lambda given=given: train_classifier(learned.model, own, given, tmp_path),
            lambda given=given: train_classifier(learned.model, own, EXAMPLES, tmp_path, validation=given),
            lambda given=given: task.evaluate(given),
        ):
            with pytest.raises(InvalidTableError, match=r"the name 'topics\.tsv'\. Read them first: read_labelled"):
                call()
        with pytest.raises(InvalidTableError, match="Read them first: read_tagged"):
            train_tagger(learned.model, own, given, tmp_path)
