"""Tasks with labels, trained with token embeddings frozen: what moves, what is learned, and what other tables read."""

from __future__ import annotations

import copy
import gc
import logging
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    TrainerCallback,
)

from hf_vocab_extend import factorize_embeddings
from hf_vocab_extend.adaptation.mini_model.learning import learn_embeddings
from hf_vocab_extend.adaptation.mini_model.random_state import random_state_kept
from hf_vocab_extend.adaptation.mini_model.task_building import make_task_model
from hf_vocab_extend.adaptation.mini_model.task_kinds import KINDS
from hf_vocab_extend.adaptation.mini_model.tasks import TaskModel, TaskOptions, train_classifier, train_tagger
from hf_vocab_extend.errors import (
    BaseModelMismatchError,
    InvalidOptionError,
    InvalidTableError,
    OutputFolderError,
    TokenizerMismatchError,
    UnsupportedModelError,
    UnsupportedTokenizerError,
    VerificationError,
)

from .factories import english, swahili, tokenizer
from .models import build
from .tiny_models import n_rows, special_ids

pytestmark = pytest.mark.usefixtures("one_thread")

LINES = english(24)
MIDDLE = sorted(map(len, LINES))[12]
TOPICS = [("short" if len(line) < MIDDLE else "long", line) for line in LINES]
TAGGED = [(line.split(), ["big" if len(word) > 4 else "small" for word in line.split()]) for line in LINES]
OWN = {"bert": "bert-uncased", "modernbert": "bert-uncased", "roberta": "xlmr", "gpt2": "gpt2", "llama": "llama3"}
OTHER = {"bert": "xlmr", "roberta": "bert-uncased", "gpt2": "t5"}
TRAIN = {"classification": (train_classifier, TOPICS), "tagging": (train_tagger, TAGGED)}
POSITIONS = {"bert": "embeddings.position_embeddings", "roberta": "embeddings.position_embeddings", "gpt2": "wpe"}
CPU = {"use_cpu": True, "disable_tqdm": True}


@pytest.fixture(autouse=True)
def _quick_collection() -> Iterator[None]:
    """The Trainer collects garbage at each run, which takes longer than a few steps."""
    gc.freeze()
    yield
    gc.unfreeze()


def primary(name: str) -> tuple[PreTrainedModel, Any]:
    own = tokenizer(OWN[name])
    sizes = {"n_positions": 200} if name == "gpt2" else {"max_position_embeddings": 200}
    return build(name, n_rows(own), **sizes, **special_ids(own)), own


def trained(
    name: str, task: str, folder: Path, examples: Any = None, **options: Any
) -> tuple[TaskModel, PreTrainedModel]:
    model, own = primary(name)
    train, known = TRAIN[task]
    given = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 8, "weight_decay": 0.1, "training_arguments": CPU}
    return train(model, own, known if examples is None else examples, folder, **(given | options)), model


@cache
def once(name: str, task: str) -> tuple[TaskModel, PreTrainedModel]:
    """The same for all tests; copy it before changing it."""
    with tempfile.TemporaryDirectory() as folder:
        return trained(name, task, Path(folder))


@cache
def learned_on(name: str) -> Any:
    """A table of another language, learned for one step; not to be changed."""
    model, own = primary(name)
    arguments = {"steps": 1, "block_size": 32, "held_out": 0, "training_arguments": CPU}
    with tempfile.TemporaryDirectory() as folder:
        return learn_embeddings(
            model,
            tokenizer(OTHER[name]),
            swahili(40),
            folder,
            method="normal",
            tokenizer=own,
            fallback="normal",
            **arguments,
        )


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "resid_pdrop"):
        setattr(model.config, name, 0.0)
    for name in ("embd_pdrop", "attn_pdrop", "summary_first_dropout"):
        setattr(model.config, name, 0.0)
    return model


def word_places(own: Any, words: list[str]) -> list[int]:
    """Where each word begins, from the tokenizer's own table of characters, byte-level spaces passed over."""
    encoded, starts, end = own(" ".join(words)), [], 0
    for word in words:
        starts.append(encoded.char_to_token(end))
        end += len(word) + 1
    return starts


@torch.no_grad()
def naive_logits(task: TaskModel, one: Any) -> torch.Tensor:
    """Logits `(units, k)` of one input alone, without padding."""
    text = one if task.task == "classification" else " ".join(one)
    logits = task.model(input_ids=torch.tensor([task.tokenizer(text)["input_ids"]])).logits[0]
    return logits.unsqueeze(0) if task.task == "classification" else logits[word_places(task.tokenizer, one)]


def units(task: str) -> list[tuple[Any, list[str]]]:
    """Each input and the labels of its units."""
    return [(text, [label]) for label, text in TOPICS] if task == "classification" else TAGGED


@pytest.mark.parametrize("task", TRAIN)
@pytest.mark.parametrize("name", OWN)
def test_tables_stay_bitwise_under_decay_and_all_else_trains(name: str, task: str) -> None:
    result, model = once(name, task)
    body, own = model.base_model, result.model.base_model
    table = result.model.get_input_embeddings().weight
    assert torch.equal(table, body.get_input_embeddings().weight)
    assert not table.requires_grad
    assert table.data_ptr() != body.get_input_embeddings().weight.data_ptr()
    before = dict(body.named_parameters())
    still = [key for key, now in own.named_parameters() if key in before and torch.equal(now, before[key])]
    assert still == [key for key, now in own.named_parameters() if now is table]
    if name in POSITIONS:
        assert not torch.equal(
            own.get_parameter(f"{POSITIONS[name]}.weight"), body.get_parameter(f"{POSITIONS[name]}.weight")
        )
    assert not any(module.training for module in result.model.modules())
    assert result.metrics["steps"] == 6


@pytest.mark.parametrize("task", TRAIN)
@pytest.mark.parametrize("name", OWN)
def test_the_model_given_stays_bitwise_and_the_generators_too(name: str, task: str, tmp_path: Path) -> None:
    model, own = primary(name)
    before, config = copy.deepcopy(model.state_dict()), model.config.to_dict()
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state())  # noqa: NPY002
    train, known = TRAIN[task]
    train(model, own, known, tmp_path, epochs=1, batch_size=16, training_arguments=CPU)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert model.config.to_dict() == config
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), states[2])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", TRAIN)
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_the_loss_of_a_step_is_the_mean_cross_entropy_of_all_units(name: str, task: str, tmp_path: Path) -> None:
    model, own = primary(name)
    without_dropout(model)
    train, known = TRAIN[task]
    options = {"epochs": 1, "batch_size": len(known), "seed": 5, "training_arguments": CPU}
    result = train(model, own, known, tmp_path, **options)
    with random_state_kept(5):
        start = make_task_model(model, own, KINDS[task], result.labels).eval()
    begun = TaskModel(start, own, result.labels, task)
    losses = []
    for one, labels in units(task):
        for row, label in zip(naive_logits(begun, one), labels, strict=True):
            losses.append(float(torch.logsumexp(row, 0) - row[result.labels.index(label)]))
    assert result.metrics["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("task", TRAIN)
@pytest.mark.parametrize("name", OWN)
def test_predictions_are_those_of_each_input_alone(name: str, task: str) -> None:
    result, _ = once(name, task)
    inputs = [one for one, _ in units(task)]
    expected = [[result.labels[best] for best in naive_logits(result, one).argmax(-1)] for one in inputs]
    predicted: Any = result.predict(inputs, batch_size=5)
    assert predicted == ([own[0] for own in expected] if task == "classification" else expected)
    right = [best == label for own, (_, labels) in zip(expected, units(task), strict=True) for best, label in zip(own, labels, strict=True)]  # fmt: skip # noqa: E501
    scores = result.evaluate(TRAIN[task][1], batch_size=3)
    assert scores["accuracy"] == pytest.approx(sum(right) / len(right))
    assert scores["count"] == len(right)
    assert scores["unread"] == 0


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    results = []
    for seed, disturbance in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(disturbance)
        results.append(trained("bert", "tagging", tmp_path, seed=seed)[0].model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
    assert not torch.equal(results[0]["classifier.weight"], results[2]["classifier.weight"])


def test_a_label_that_a_word_tells_is_learned(tmp_path: Path) -> None:
    model, own = primary("bert")
    data = [
        ("yes" if number % 2 else "no", f"the {'virus' if number % 2 else 'water'} {number}") for number in range(32)
    ]
    options = {"epochs": 30, "learning_rate": 1e-2, "batch_size": 16, "training_arguments": CPU}
    result = train_classifier(model, own, data, tmp_path, **options)
    assert result.evaluate([("yes", "a virus 7 7"), ("no", "a water 7 7")])["accuracy"] == 1.0


def test_what_a_masked_head_and_a_classifier_share_is_taken_over() -> None:
    model, own = primary("modernbert")
    task = make_task_model(model, own, KINDS["classification"], ("a", "b"))
    assert torch.equal(task.head.dense.weight, model.head.dense.weight)
    assert torch.equal(task.head.norm.weight, model.head.norm.weight)
    assert task.head.dense.weight.data_ptr() != model.head.dense.weight.data_ptr()


def test_a_pooler_that_taggers_have_not_is_left_out() -> None:
    model, own = primary("bert")
    body = BertModel(model.config).eval()
    assert body.pooler is not None
    task = make_task_model(body, own, KINDS["tagging"], ("a", "b")).eval()
    ids = torch.tensor([[5, 9, 17, 8]])
    with torch.no_grad():
        assert torch.equal(task.bert(input_ids=ids)[0], body(input_ids=ids)[0])
    body.another = torch.nn.Linear(2, 2)
    with pytest.raises(UnsupportedModelError, match=r"no place for another\.weight"):
        make_task_model(body, own, KINDS["tagging"], ("a", "b"))


def test_without_validation_nothing_is_picked_and_with_it_the_first_best_epoch(tmp_path: Path) -> None:
    options = {"epochs": 3, "learning_rate": 0.3}
    plain, _ = trained("bert", "tagging", tmp_path, **options)
    picked, _ = trained("bert", "tagging", tmp_path, validation=TAGGED, **options)
    history = picked.metrics["validation"]
    accuracies = [entry["accuracy"] for entry in history]
    assert "validation" not in plain.metrics
    assert [entry["epoch"] for entry in history] == [1.0, 2.0, 3.0]
    assert len(set(accuracies)) > 1
    assert picked.evaluate(TAGGED)["accuracy"] == max(accuracies)
    assert plain.evaluate(TAGGED)["accuracy"] == accuracies[-1]  # measuring draws nothing


@pytest.mark.parametrize("task", TRAIN)
def test_save_and_load(task: str, tmp_path: Path) -> None:
    result, _ = once("bert", task)
    result.save_pretrained(tmp_path / "out")
    loaded = TaskModel.from_pretrained(tmp_path / "out")
    assert (loaded.labels, loaded.task) == (result.labels, task)
    one = units(task)[0][0]
    now = loaded.model.state_dict()
    assert all(torch.equal(value, now[key]) for key, value in result.model.state_dict().items())
    assert loaded.model.config._attn_implementation == result.model.config._attn_implementation
    torch.testing.assert_close(naive_logits(loaded, one), naive_logits(result, one))
    assert loaded.predict([one]) == result.predict([one])
    with pytest.raises(OutputFolderError, match="not empty"):
        result.save_pretrained(tmp_path / "out")
    if task == "classification":
        plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
        assert plain.config.id2label == {0: "long", 1: "short"}


def test_a_folder_of_a_language_model_is_no_task_model(tmp_path: Path) -> None:
    model, own = primary("bert")
    model.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM is no task model"):
        TaskModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("task", TRAIN)
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2"])
def test_a_table_of_another_language_is_read_by_the_same_body(name: str, task: str, tmp_path: Path) -> None:
    result, learned, text = once(name, task)[0], learned_on(name), swahili(3)
    inputs = text if task == "classification" else [line.split() for line in text]
    before, config = copy.deepcopy(result.model.state_dict()), result.model.config.to_dict()
    swapped = result.with_embeddings(learned)
    assert all(torch.equal(value, before[key]) for key, value in result.model.state_dict().items())
    assert result.model.config.to_dict() == config
    assert swapped.tokenizer is learned.tokenizer
    assert swapped.labels == result.labels
    now, then = dict(swapped.model.named_parameters()), dict(result.model.named_parameters())
    shared = {key for key in now if now[key].data_ptr() == then[key].data_ptr()}
    table = next(key for key, item in now.items() if item is swapped.model.get_input_embeddings().weight)
    assert torch.equal(now[table], learned.model.get_input_embeddings().weight)
    moved = {key for key in now if "position" in key} if name == "roberta" else set()  # they count from the padding id
    assert set(now) - shared == {table} | moved
    assert swapped.model.config.pad_token_id == swapped.tokenizer.pad_token_id
    expected = naive_swap(result, learned, inputs)
    for one, logits in zip(inputs, expected, strict=True):
        torch.testing.assert_close(naive_logits(swapped, one), logits, rtol=0, atol=1e-6)
    best: Any = swapped.predict(inputs)
    found = [[label] for label in best] if task == "classification" else best
    assert found == [[result.labels[index] for index in logits.argmax(-1)] for logits in expected]
    swapped.save_pretrained(tmp_path / "out")
    assert TaskModel.from_pretrained(tmp_path / "out").predict(inputs) == best


@torch.no_grad()
def naive_swap(result: TaskModel, learned: Any, inputs: list[Any]) -> list[torch.Tensor]:
    """Logits of the task model for embeddings that are looked up by hand in the learned table."""
    table = learned.model.get_input_embeddings().weight
    found = []
    for one in inputs:
        text = one if result.task == "classification" else " ".join(one)
        ids = learned.tokenizer(text)["input_ids"]
        logits = result.model(inputs_embeds=table[ids].unsqueeze(0)).logits[0]
        if result.task == "classification":
            found.append(logits.unsqueeze(0))
        else:
            found.append(logits[word_places(learned.tokenizer, one)])
    return found


def test_a_task_model_whose_table_moved_takes_no_other() -> None:
    result, learned = copy.deepcopy(once("bert", "classification")[0]), learned_on("bert")
    with torch.no_grad():
        result.model.get_input_embeddings().weight[7] += 0.5
    before = copy.deepcopy(result.model.state_dict())
    with pytest.raises(BaseModelMismatchError, match="1 of"):
        result.with_embeddings(learned)
    assert all(torch.equal(value, before[key]) for key, value in result.model.state_dict().items())


class Meddler(TrainerCallback):
    """Writes to a frozen table."""

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write two of its rows."""
        kwargs["model"].get_input_embeddings().weight[[3, 5], 1] += 1.0


def test_a_table_that_moves_in_training_is_told(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match=r"2 of \d+ rows of the frozen table"):
        trained("bert", "classification", tmp_path, callbacks=[Meddler()])


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_empty_text_is_read_and_never_learned(name: str, tmp_path: Path) -> None:
    topics, tagger = once(name, "classification")[0], once(name, "tagging")[0]
    assert len(topics.predict(["", LINES[0], " "])) == 3
    assert topics.predict(["", LINES[0]])[1:] == topics.predict([LINES[0]])
    assert topics.predict([]) == []
    with pytest.raises(InvalidTableError, match="Example 24 has no text"):
        trained(name, "classification", tmp_path, [*TOPICS, ("long", " ")])
    assert tagger.predict([[], ["virus", ""]])[0] == []
    assert tagger.predict([["virus", ""]])[0][1] is None


def test_words_that_are_cut_off_count_as_wrong() -> None:
    result, _ = once("bert", "tagging")
    words, tags = next(one for one in TAGGED if len(one[0]) > 10)
    whole, cut = result.predict([words])[0], result.predict([words], max_length=8)[0]
    n_read = len(cut) - cut.count(None)
    assert None not in whole
    assert 0 < n_read < len(words)
    assert None not in cut[:n_read]
    scores = result.evaluate([(words, tags)], max_length=8)
    assert scores["unread"] == len(words) - n_read
    assert scores["accuracy"] == sum(one == other for one, other in zip(cut, tags, strict=True)) / len(words)


def test_unknown_labels_count_as_wrong_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    result, _ = once("bert", "classification")
    best = result.predict(LINES[:3])
    examples = [(best[0], LINES[0]), (best[1], LINES[1]), ("sports", LINES[2])]
    with caplog.at_level(logging.WARNING):
        scores = result.evaluate(examples)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert "1 of 3 labels are unknown" in caplog.text
    with pytest.raises(InvalidOptionError, match="knows none of the labels \\('Long'\\); its own are 'long', 'short'"):
        result.evaluate([("Long", LINES[0])])
    with pytest.raises(InvalidTableError, match="0 are expected"):
        result.evaluate([])


Bad = tuple[str, Any, dict[str, Any], type[Exception], str]
BAD: dict[str, Bad] = {
    "one label": (
        "classification",
        [("a", "x"), ("a", "y")],
        {},
        InvalidOptionError,
        "2 examples are 'a', and a task needs two",
    ),
    "one tag": ("tagging", [(["x", "y"], ["a", "a"])], {}, InvalidOptionError, "1 examples are 'a'"),
    "nothing": ("classification", [], {}, InvalidOptionError, "0 examples are none"),
    "lengths": (
        "tagging",
        [(["x", "y"], ["a", "b"]), (["x"], ["a", "b"])],
        {},
        InvalidTableError,
        "Example 1 has 1 w",
    ),
    "text for words": ("tagging", [("x y", ["a", "b"])], {}, InvalidTableError, "Example 0 is"),
    "words for text": ("classification", [(["x"], ["a"])], {}, InvalidTableError, "Give a pair of label and text"),
    "no words": ("tagging", [(["x", "y"], ["a", "b"]), ([], [])], {}, InvalidTableError, "Example 1 has no text"),
    "text first": ("classification", [(text, label) for label, text in TOPICS], {}, InvalidOptionError, "label first"),
    "epochs": ("classification", TOPICS, {"epochs": 0}, InvalidOptionError, "epochs is 0"),
    "typo": ("classification", TOPICS, {"typo": 1}, InvalidOptionError, "train_classifier has no such option: typo"),
    "typo of tags": ("tagging", TAGGED, {"typo": 1}, InvalidOptionError, "train_tagger has no such option: typo"),
    "warmup": ("classification", TOPICS, {"warmup": 2.0}, InvalidOptionError, "warmup is 2.0"),
    "validation": ("tagging", TAGGED, {"validation": [(["x"], [])]}, InvalidTableError, "1 words and 0 tags"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_examples_and_options(case: str, tmp_path: Path) -> None:
    task, examples, options, kind, message = BAD[case]
    with pytest.raises(kind, match=message):
        trained("bert", task, tmp_path, examples, **options)


def _factorized() -> tuple[PreTrainedModel, Any]:
    model, own = primary("bert")
    return factorize_embeddings(model, 4) or model, own


def _short() -> tuple[PreTrainedModel, Any]:
    return build("bert", 97), tokenizer("bert-uncased")


def _no_padding() -> tuple[PreTrainedModel, Any]:
    own = copy.deepcopy(tokenizer("llama3"))
    own.eos_token = own.pad_token = None
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=n_rows(own), pad_token_id=None, **sizes)), own


def _no_classifier() -> tuple[PreTrainedModel, Any]:
    own = tokenizer("bert-uncased")
    return build("codegen", n_rows(own)), own


MODELS: dict[str, tuple[Callable[[], tuple[PreTrainedModel, Any]], type[Exception], str]] = {
    "factorised": (_factorized, UnsupportedModelError, "merge_factorized"),
    "short table": (_short, TokenizerMismatchError, "input table 97 rows"),
    "no padding": (_no_padding, UnsupportedTokenizerError, "pad_token"),
    "no classifier": (_no_classifier, UnsupportedModelError, "type 'codegen'"),
}


@pytest.mark.parametrize("case", MODELS)
def test_models_without_a_way(case: str, tmp_path: Path) -> None:
    make, kind, message = MODELS[case]
    model, own = make()
    with pytest.raises(kind, match=message):
        train_classifier(model, own, TOPICS, tmp_path, training_arguments=CPU)


def test_options_differ_by_keyword(tmp_path: Path) -> None:
    model, own = primary("bert")
    options = TaskOptions(epochs=2, batch_size=12, training_arguments=CPU)
    result = train_classifier(model, own, TOPICS, tmp_path, options, epochs=1)
    assert result.metrics["steps"] == 2
