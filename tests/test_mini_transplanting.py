"""Learned tables in full models and task models, one language after the other; what does not fit is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertModel, PreTrainedModel

from hf_vocab_extend import VocabExtension, extend_tokenizer, extend_vocabulary
from hf_vocab_extend.adaptation.mini_model.record import read_record, table_hashes, write_record
from hf_vocab_extend.adaptation.mini_model.transplanting import transplant_embeddings
from hf_vocab_extend.adaptation.tables import vocabulary_tables
from hf_vocab_extend.errors import (
    BaseModelMismatchError,
    InvalidOptionError,
    MissingResourceError,
    OutputFolderError,
    TokenizerMismatchError,
    UnsupportedModelError,
    VocabExtendWarning,
)
from hf_vocab_extend.modeling.settings import read_settings

from . import factories
from .mini_learning import (
    assert_same_state,
    full_model,
    learn,
    mini_of,
    no_drawings,
    source_tokenizer,
    state_of,
    swahili_tokenizer,
    task_model,
)
from .models import logits

__all__ = ["no_drawings"]
pytestmark = pytest.mark.usefixtures("one_thread", "no_drawings")


def moved(extension: VocabExtension, seed: int = 0) -> VocabExtension:
    """The extension with other values in every table, as if they had been learned."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for table in vocabulary_tables(extension.model):
            table.parameter.copy_(torch.randn(table.parameter.shape, generator=generator))
    return extension


def learned_on(model: PreTrainedModel, name: str, new: object = None, seed: int = 0, **options: object):
    """A table on a mini-model of a model, made without a training."""
    new = swahili_tokenizer() if new is None else new
    mini = mini_of(model)
    options = {"mode": "replace", **options}
    return moved(extend_vocabulary(mini, new, "normal", tokenizer=source_tokenizer(name), **options), seed)


def by_role(model: PreTrainedModel) -> dict[frozenset[str], torch.Tensor]:
    """The tables of a model by the parts that they play."""
    return {table.roles: table.parameter.detach() for table in vocabulary_tables(model)}


def changed_names(now: dict[str, torch.Tensor], then: dict[str, torch.Tensor]) -> set[str]:
    """Names whose bits or shapes differ."""
    return {name for name in then if now[name].shape != then[name].shape or not torch.equal(now[name], then[name])}


SLOW = pytest.mark.slow
CASES = [
    ("bert", True, "bert-cased"),
    ("xlm_roberta", True, "bert-cased"),  # padding moves from 1 to 0, and positions with it
    ("llama", False, "xlmr"),
    pytest.param("xlm_roberta", True, "xlmr", marks=SLOW),
    pytest.param("distilbert", False, "xlmr", marks=SLOW),
    pytest.param("modernbert", True, "bert-uncased", marks=SLOW),
    pytest.param("gpt2", True, "gpt2", marks=SLOW),
    pytest.param("llama", True, "gpt2", marks=SLOW),
]


@pytest.mark.parametrize(("name", "tied", "family"), CASES)
def test_into_the_language_model(name: str, tied: bool, family: str) -> None:
    """As if the full model had been extended itself, with the rows copied over by hand."""
    full = full_model(name, tied=tied)
    new, own = swahili_tokenizer(family), source_tokenizer(name)
    reference = extend_vocabulary(copy.deepcopy(full), new, "mean", tokenizer=own, mode="replace")
    learned = learned_on(full, name, new)
    rows = by_role(learned.model)
    with torch.no_grad():
        for table in vocabulary_tables(reference.model):
            table.parameter.copy_(rows[table.roles])
    parameters = {key: id(item) for key, item in full.named_parameters()}
    flags = {key: item.requires_grad for key, item in full.named_parameters()}
    before = state_of(full)
    result = transplant_embeddings(learned, full)
    assert result.model is full
    assert {key: id(item) for key, item in full.named_parameters()} == parameters
    assert {key: item.requires_grad for key, item in full.named_parameters()} == flags
    assert_same_state(state_of(full), state_of(reference.model))
    own_tables = by_role(full)
    assert own_tables.keys() == rows.keys()
    for role, table in rows.items():
        assert torch.equal(own_tables[role], table)
        assert own_tables[role].data_ptr() != table.data_ptr()
    body = {key for key in before if before[key].shape[:1] != (len(own),) and "position" not in key}
    assert not body & changed_names(state_of(full), before)
    assert read_settings(full) == read_settings(reference.model)
    ids = torch.tensor([[5, 9, 300, 17, 8], [7, 6, 5, 40, 41]])
    assert torch.equal(logits(full, ids), logits(reference.model, ids))
    assert result.tokenizer is new
    assert result.mapping is learned.mapping
    wanted, told = reference.model.config.to_dict(), full.config.to_dict()
    assert {key: value for key, value in told.items() if key != "mini_model"} == wanted


def test_by_hand_without_the_package() -> None:
    """Resized by transformers, then rows and bias copied: the same outputs."""
    full = full_model("bert")
    learned = learned_on(full, "bert", swahili_tokenizer("bert-uncased"))
    by_hand = copy.deepcopy(full)
    n_new = learned.model.config.vocab_size
    by_hand.resize_token_embeddings(n_new, mean_resizing=False)
    with torch.no_grad():
        by_hand.bert.embeddings.word_embeddings.weight.copy_(learned.model.bert.embeddings.word_embeddings.weight)
        by_hand.cls.predictions.decoder.bias.copy_(learned.model.cls.predictions.bias)
    transplant_embeddings(learned, full)
    ids = torch.tensor([[5, 9, 300, 17, 8]])
    assert torch.equal(logits(full, ids), logits(by_hand, ids))
    assert full.get_output_embeddings().weight is full.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("name", "tied", "task"),
    [
        ("bert", True, "tagging"),
        ("llama", False, "classification"),
        *(
            pytest.param(name, tied, task, marks=SLOW)
            for name, tied in (("gpt2", True), ("llama", True), ("xlm_roberta", True), ("distilbert", False))
            for task in ("classification", "tagging")
        ),
    ],
)
def test_into_a_task_model(name: str, tied: bool, task: str) -> None:
    full = full_model(name, tied=tied, **({"pad_token_id": 1} if name in ("llama", "gpt2") else {}))
    model = task_model(full, task)
    learned = learned_on(full, name, swahili_tokenizer("bert-cased"))
    before = state_of(model)
    result = transplant_embeddings(learned, model)
    after = state_of(model)
    table = model.get_input_embeddings().weight
    assert torch.equal(table, learned.model.get_input_embeddings().weight)
    inputs = {key for key in before if before[key].shape == full.get_input_embeddings().weight.shape}
    positions = {key for key in before if "position" in key} if name == "xlm_roberta" else set()
    assert changed_names(after, before) <= inputs | positions | {"roberta.embeddings.token_type_ids"}
    assert model.config.vocab_size == len(table)
    assert [item["role"] for item in result.report.tables] == ["input"]
    ids = torch.tensor([[5, 9, 300, 17, 8]])
    assert torch.isfinite(logits(model, ids)).all()


def test_extend_into_a_task_model() -> None:
    full = full_model("bert")
    old = source_tokenizer("bert")
    grown = extend_tokenizer(old, factories.swahili(), 60)
    extension = extend_vocabulary(mini_of(full), grown, "subword", tokenizer=old, mode="extend")
    model, n_old = task_model(full), full.config.vocab_size
    before = state_of(model)
    transplant_embeddings(extension, model)
    assert changed_names(state_of(model), before) == {"bert.embeddings.word_embeddings.weight"}
    table = model.get_input_embeddings().weight
    assert torch.equal(table[:n_old], before["bert.embeddings.word_embeddings.weight"])
    assert torch.equal(table, extension.model.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("name", "saved"),
    [("xlm_roberta", False), pytest.param("xlm_roberta", True, marks=SLOW), pytest.param("llama", False, marks=SLOW)],
)
def test_one_language_after_the_other(name: str, saved: bool, tmp_path: Path) -> None:
    """The second language leaves what it would have left without the first."""
    full, direct = full_model(name), full_model(name)
    first = learned_on(full_model(name), name, swahili_tokenizer("bert-cased"), seed=1)
    second = learned_on(full_model(name), name, swahili_tokenizer("xlmr", 450), seed=2)
    source = table_hashes(full)
    settings = read_settings(full)
    result = transplant_embeddings(first, full)
    assert full.config.eos_token_id in (first.tokenizer.eos_token_id, first.tokenizer.sep_token_id)
    if saved:
        result.save_pretrained(tmp_path / "sw")
        full = type(full).from_pretrained(tmp_path / "sw")
    transplant_embeddings(second, full)
    transplant_embeddings(second, direct)
    unread = {"roberta.embeddings.position_embeddings.weight"}  # its rows before the first position
    assert_same_state(state_of(full), state_of(direct), unread if name == "xlm_roberta" else set())
    if name == "xlm_roberta":
        left, right = (model.base_model.embeddings.position_embeddings.weight for model in (full, direct))
        start = full.config.pad_token_id + 1
        assert torch.equal(left[start:], right[start:])
    if name == "llama":
        assert full.generation_config.to_dict() == direct.generation_config.to_dict()
    assert read_settings(full) == read_settings(direct)
    assert read_settings(full) != settings
    plugged = full.config.mini_model["plugged"]
    assert plugged["source_tables"] == source
    assert plugged == direct.config.mini_model["plugged"]
    json.dumps(plugged)
    third = transplant_embeddings(first, full)
    assert torch.equal(full.get_input_embeddings().weight, third.model.get_input_embeddings().weight)
    assert torch.equal(full.get_input_embeddings().weight, first.model.get_input_embeddings().weight)


def test_a_mini_model_cut_after_a_table_came() -> None:
    full = full_model("bert")
    transplant_embeddings(learned_on(full_model("bert"), "bert", swahili_tokenizer("bert-cased"), seed=1), full)
    mini = mini_of(full)
    later = extend_vocabulary(
        mini, swahili_tokenizer("xlmr"), "mean", tokenizer=swahili_tokenizer("bert-cased"), mode="replace"
    )
    transplant_embeddings(later, full)
    assert torch.equal(full.get_input_embeddings().weight, mini.get_input_embeddings().weight)
    assert full.config.mini_model["plugged"]["source_vocab_size"] == len(swahili_tokenizer("bert-cased"))


def test_from_a_training_and_from_its_folder(tmp_path: Path) -> None:
    full = full_model("bert")
    learned = learn(mini_of(full), tmp_path / "work", "bert", languages="sw")
    learned.save_pretrained(tmp_path / "out")
    classifier = task_model(full)
    models = [copy.deepcopy(full), copy.deepcopy(full)]
    one = transplant_embeddings(learned, models[0])
    two = transplant_embeddings(tmp_path / "out", models[1])
    transplant_embeddings(str(tmp_path / "out"), classifier)
    assert_same_state(state_of(models[0]), state_of(models[1]))
    assert torch.equal(classifier.get_input_embeddings().weight, learned.model.get_input_embeddings().weight)
    assert one.tokenizer.get_vocab() == two.tokenizer.get_vocab()
    assert one.report.training["cost"] == learned.cost.to_dict()
    assert any("a mini-model of 2 layers (1 of the full model's)" in note for note in one.report.notes)
    assert one.report.evaluations == ()
    one.save_pretrained(tmp_path / "full")
    again = type(full).from_pretrained(tmp_path / "full")
    assert_same_state(state_of(again), state_of(models[0]))
    assert learned.extension.report.base_model == one.report.base_model


def test_half_precision() -> None:
    """A model loaded in bfloat16 has the tables of the cut, and takes rounded rows."""
    learned = learned_on(full_model("bert"), "bert")
    full = full_model("bert").to(torch.bfloat16)
    transplant_embeddings(learned, full)
    table = full.get_input_embeddings().weight
    assert table.dtype is torch.bfloat16
    assert torch.equal(table, learned.model.get_input_embeddings().weight.to(torch.bfloat16))


def test_a_failure_in_the_middle_takes_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    full = full_model("xlm_roberta")
    transplant_embeddings(learned_on(full_model("xlm_roberta"), "xlm_roberta", swahili_tokenizer("bert-cased")), full)
    second = learned_on(full_model("xlm_roberta"), "xlm_roberta", seed=2)
    before, settings, config = state_of(full), read_settings(full), full.config.to_dict()
    monkeypatch.setattr("hf_vocab_extend.adaptation.mini_model.transplanting.write_plugged", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        transplant_embeddings(second, full)
    assert_same_state(state_of(full), before)
    assert read_settings(full) == settings
    assert full.config.to_dict() == config


def test_a_failure_in_the_report_takes_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    full, learned = full_model("bert"), donor()
    before, config = state_of(full), full.config.to_dict()
    monkeypatch.setattr("hf_vocab_extend.adaptation.mini_model.transplanting.hub_name", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        transplant_embeddings(learned, full)
    assert_same_state(state_of(full), before)
    assert full.config.to_dict() == config


def test_bottom_layers_of_a_language_model_that_moved_are_told() -> None:
    """Those of a task model move while it is fine-tuned, which nothing is said of."""
    full = full_model("bert")
    with torch.no_grad():
        full.bert.encoder.layer[2].output.dense.bias[0] += 1  # above what the mini-model shares
    transplant_embeddings(donor(), copy.deepcopy(full))
    with torch.no_grad():
        full.bert.encoder.layer[0].output.dense.bias[0] += 1
    transplant_embeddings(donor(), task_model(full))
    with pytest.warns(VocabExtendWarning, match="The 1 bottom layers of the model") as told:
        transplant_embeddings(donor(), full)
    assert told[0].filename == __file__
    assert torch.equal(full.get_input_embeddings().weight, donor().model.get_input_embeddings().weight)


def test_rounding_to_float16_is_named() -> None:
    with pytest.raises(BaseModelMismatchError, match="load it in float32 or bfloat16"):
        transplant_embeddings(donor(), full_model("bert").to(torch.float16))
    with pytest.raises(BaseModelMismatchError) as raised:
        transplant_embeddings(donor(), _with_a_row_moved())
    assert "float16" not in str(raised.value)


@cache
def donor() -> VocabExtension:
    """A table on a mini-model of the tiny BERT."""
    return learned_on(full_model("bert"), "bert")


def _with_a_row_moved() -> PreTrainedModel:
    model = full_model("bert")
    with torch.no_grad():
        model.get_input_embeddings().weight[[3, 7, 11]] += 0.5
    return model


def _after_training_its_table() -> PreTrainedModel:
    model = full_model("bert")
    transplant_embeddings(donor(), model)
    with torch.no_grad():
        model.get_input_embeddings().weight[3] += 1
    return model


def _with_a_table_of_another_source() -> PreTrainedModel:
    model = full_model("bert")
    with torch.no_grad():
        model.get_input_embeddings().weight[3] += 1
    transplant_embeddings(learned_on(copy.deepcopy(model), "bert"), model)
    return model


def _body_of_a_mini() -> VocabExtension:
    mini = mini_of(full_model("bert"))
    body = BertModel(mini.config).eval()
    return extend_vocabulary(body, swahili_tokenizer(), "mean", tokenizer=source_tokenizer("bert"), mode="replace")


def _without_record() -> VocabExtension:
    model = full_model("bert")
    return extend_vocabulary(model, swahili_tokenizer(), "mean", tokenizer=source_tokenizer("bert"), mode="replace")


def _longer() -> PreTrainedModel:
    model = full_model("bert")
    model.resize_token_embeddings(model.config.vocab_size + 3, mean_resizing=False)
    return model


def _factorised() -> PreTrainedModel:
    own = source_tokenizer("bert")
    return extend_vocabulary(full_model("bert"), own, "mean", tokenizer=own, mode="replace", factorize=4).model


BAD = {
    "moved": (donor, _with_a_row_moved, BaseModelMismatchError, r"\(input\) are not those .* was cut with\. Freeze"),
    "trained after": (donor, _after_training_its_table, BaseModelMismatchError, r"\(input\) moved after it took"),
    "other source": (donor, _with_a_table_of_another_source, BaseModelMismatchError, "cut from other tables"),
    "wider": (donor, lambda: full_model("bert", hidden_size=32), BaseModelMismatchError, "the width 16, .* 32"),
    "longer": (donor, _longer, TokenizerMismatchError, r"508 rows .* with 505|rows for its tokens"),
    "untied": (donor, lambda: full_model("bert", tied=False), UnsupportedModelError, "has a head beside"),
    "no head": (_body_of_a_mini, lambda: full_model("bert"), UnsupportedModelError, "no such table"),
    "no record": (_without_record, lambda: full_model("bert"), MissingResourceError, "allow_moved=True"),
    "factorised": (donor, _factorised, UnsupportedModelError, "factorised"),
    "a number": (lambda: 3, lambda: full_model("bert"), InvalidOptionError, "mini is a int"),
    "no folder": (lambda: "./nowhere", lambda: full_model("bert"), OutputFolderError, "no folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_changes_nothing(case: str) -> None:
    make_mini, make_model, error, said = BAD[case]
    mini, model = make_mini(), make_model()
    before, settings, config = state_of(model), read_settings(model), model.config.to_dict()
    with pytest.raises(error, match=said):
        transplant_embeddings(mini, model)
    assert_same_state(state_of(model), before)
    assert read_settings(model) == settings
    assert model.config.to_dict() == config


def test_not_into_itself() -> None:
    with pytest.raises(InvalidOptionError, match="Give the full model"):
        transplant_embeddings(donor(), donor().model)


def test_how_far_tables_moved_is_said_where_it_is_known(tmp_path: Path) -> None:
    full = full_model("bert")
    learned = learn(mini_of(copy.deepcopy(full)), tmp_path, "bert")
    said = r"3 of \d+ rows of 'bert.embeddings.word_embeddings.weight' differ, by 0\.5\d* at most"
    with pytest.raises(BaseModelMismatchError, match=said):
        transplant_embeddings(learned, _with_a_row_moved())
    old = source_tokenizer("bert")
    grown = extend_tokenizer(old, factories.swahili(), 30)
    extension = extend_vocabulary(mini_of(full), grown, "mean", tokenizer=old, mode="extend")
    with pytest.raises(BaseModelMismatchError, match=said):
        transplant_embeddings(extension, _with_a_row_moved())


@pytest.mark.parametrize("make", [_with_a_row_moved, _after_training_its_table, _with_a_table_of_another_source])
def test_moved_tables_can_be_replaced_all_the_same(make) -> None:
    model = make()
    with pytest.warns(VocabExtendWarning, match="check the outputs"):
        transplant_embeddings(donor(), model, allow_moved=True)
    assert torch.equal(model.get_input_embeddings().weight, donor().model.get_input_embeddings().weight)


def test_without_a_record_on_request() -> None:
    model, extension = full_model("bert"), _without_record()
    transplant_embeddings(extension, model, allow_moved=True)
    assert_same_state(state_of(model), state_of(extension.model))


def test_shared_storage_moves_with_the_model_but_the_record_does_not() -> None:
    """A mini-model shares its tables with the full one; that one trained on is found out all the same."""
    full = full_model("bert")
    mini = mini_of(full)
    record = read_record(mini)
    with torch.no_grad():
        full.get_input_embeddings().weight[4] += 1
    assert torch.equal(mini.get_input_embeddings().weight, full.get_input_embeddings().weight)
    own = source_tokenizer("bert")
    extension = extend_vocabulary(mini, swahili_tokenizer(), "mean", tokenizer=own, mode="replace")
    assert read_record(extension.model) == record
    with pytest.raises(BaseModelMismatchError, match="not those"):
        transplant_embeddings(extension, full)


def test_entries_of_the_config_beside_it_stay() -> None:
    full = full_model("bert")
    record = dataclasses.replace(read_record(mini_of(full)), kind="full")
    write_record(full, record)
    transplant_embeddings(learned_on(full_model("bert"), "bert"), full)
    assert read_record(full) == record
    assert "plugged" in full.config.mini_model


def test_remembers_after_a_task_model_is_saved(tmp_path: Path) -> None:
    full = full_model("bert")
    model = task_model(full)
    first = learned_on(full_model("bert"), "bert", swahili_tokenizer("bert-cased"), seed=1)
    transplant_embeddings(first, model).save_pretrained(tmp_path / "out")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    second = learned_on(full_model("bert"), "bert", seed=2)
    transplant_embeddings(second, again)
    assert torch.equal(again.get_input_embeddings().weight, second.model.get_input_embeddings().weight)
