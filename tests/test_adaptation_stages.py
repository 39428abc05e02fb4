"""Stages without a Trainer: what may be asked for, how they lie over a run, and what their names mean in a model."""

from __future__ import annotations

import math

import pytest
import torch

from hf_vocab_extend import Stage, factorize_embeddings, parameter_groups
from hf_vocab_extend.adaptation.selection import ParameterMap
from hf_vocab_extend.adaptation.stages import ITEMS, PRESETS, Schedule, as_stages
from hf_vocab_extend.errors import InvalidOptionError, UnsupportedModelError

from .adapting import N_NEW, NEW, V
from .models import SPECS, build

NEW_IDS = torch.tensor(NEW)


def begins(stages: object, max_steps: int, tokens_per_step: int = 0) -> list[int]:
    """The steps at which stages begin, found by walking the run."""
    schedule = Schedule(as_stages(stages), max_steps)
    for step in range(max_steps):
        while schedule.advance(step, step * tokens_per_step):
            pass
    return schedule.begins


@pytest.mark.parametrize(
    ("stages", "max_steps", "expected"),
    [
        (None, 10, [0]),
        ("embeddings_first", 10, [0, 2]),
        ([Stage("new_rows", length=0.5), Stage("all", length=0.5)], 7, [0, 4]),
        ([Stage("new_rows", steps=3), Stage("embeddings", length=0.3), Stage()], 10, [0, 3, 6]),
        ([Stage("body", length=1 / 3), Stage("head", length=1 / 3), Stage("all", length=1 / 3)], 100, [0, 33, 67]),
        ([{"train": ["new_rows"], "steps": 2}, {"train": "all"}], 5, [0, 2]),
        ("eeve", 70, [0, 10, 20, 30, 40, 50, 60]),
    ],
)
def test_stages_fill_a_run(stages: object, max_steps: int, expected: list[int]) -> None:
    assert begins(stages, max_steps) == expected


def test_a_stage_by_tokens_ends_at_the_step_that_reaches_them() -> None:
    stages = [Stage("new_rows", tokens=250), Stage("embeddings", steps=2), Stage()]
    assert begins(stages, 20, tokens_per_step=100) == [0, 3, 5]
    assert begins(stages, 20, tokens_per_step=1) == [0]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_a_source_and_fill_runs_of_any_length(name: str) -> None:
    assert PRESETS[name].source
    stages = as_stages(name)
    assert len(begins(name, 100)) == len(stages)
    assert as_stages([stage.to_dict() for stage in stages]) == stages


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"train": ()}, "trains nothing"),
        ({"train": "embedings"}, "embedings"),
        ({"train": "first_layers"}, "first_layers:2"),
        ({"train": "last_layers:0"}, "last_layers:2"),
        ({"train": "body:2"}, "body:2"),
        ({"train": "re:("}, "regular expression"),
        ({"length": 0}, "length=0"),
        ({"length": 1.5}, "length=1.5"),
        ({"length": math.nan}, "length=nan"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"tokens": -1}, "tokens=-1"),
        ({"length": 0.5, "steps": 3}, "length and steps"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"learning_rate": {"body": "x"}}, "learning_rate"),
        ({"warmup": 1.5}, "warmup=1.5"),
        ({"warmup": -1}, "warmup=-1"),
    ],
)
def test_a_wrong_stage_is_refused_in_one_line(options: dict, word: str) -> None:
    with pytest.raises(InvalidOptionError, match="[.]$") as caught:
        Stage(**options)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("stages", "max_steps", "word"),
    [
        ("swallow", 10, "embeddings_first"),
        ([], 10, "no stages"),
        ([{"trains": "all"}], 10, "trains"),
        ([3], 10, "int"),
        ([Stage("new_rows"), Stage()], 10, "Stage 1 of 2"),
        ([Stage("new_rows", steps=3), Stage(steps=8)], 10, "need 11 steps and the run has 10"),
        ([Stage("new_rows", steps=3), Stage(steps=5)], 10, "cover 8 of the 10"),
        ([Stage("new_rows", length=0.01), Stage()], 10, "no step"),
        ([Stage("new_rows", steps=10), Stage()], 10, "Stage 2"),
        ([Stage("new_rows", length=0.7), Stage("all", length=0.7)], 10, "need 14 steps"),
    ],
)
def test_stages_that_do_not_fit_are_refused(stages: object, max_steps: int, word: str) -> None:
    with pytest.raises(InvalidOptionError, match=word):
        Schedule(as_stages(stages), max_steps)


def test_the_rate_warms_up_at_each_stage_but_the_first() -> None:
    schedule = Schedule(as_stages([Stage("new_rows", steps=100), Stage("all", warmup=3)]), 200)
    assert schedule.warmup(0, 0) == 1
    schedule.advance(100, 0)
    assert [schedule.warmup(step, 0) for step in range(100, 105)] == [0.25, 0.5, 0.75, 1, 1]
    default = Schedule(as_stages([Stage("new_rows", steps=100), Stage()]), 200)
    default.advance(100, 0)
    assert [default.warmup(step, 0) for step in range(100, 104)] == [0.25, 0.5, 0.75, 1]
    shares = Schedule(as_stages([Stage("all", warmup=0.5)]), 8)
    assert [shares.warmup(step, 0) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1, 1]
    tokens = Schedule(as_stages([Stage("new_rows", tokens=1000, warmup=0.1), Stage()]), 50)
    assert [tokens.warmup(step, step * 40) for step in range(4)] == [0.01, 0.4, 0.8, 1]


def test_a_schedule_goes_on_from_its_state() -> None:
    stages = as_stages([Stage("new_rows", tokens=250), Stage("embeddings", length=0.25), Stage()])
    one, two = Schedule(stages, 20), Schedule(stages, 20)
    for step in range(5):
        one.advance(step, step * 100)
    two.restore(one.state())
    for schedule in (one, two):
        for step in range(5, 20):
            schedule.advance(step, step * 100)
    assert one.begins == two.begins == [0, 3, 8]


def _shares(name: str, tied: bool, items: tuple[str, ...]) -> tuple[set[str], dict[str, list[int]]]:
    """Names of parameters that train as a whole, and rows of those that train in part."""
    known = ParameterMap(build(name, V, tied), NEW_IDS)
    found = known.select(items)
    names = {id(item): key for key, item in known.parameters.items()}
    return {names[key] for key in found.whole}, {names[key]: rows.tolist() for key, rows in found.rows.items()}


INPUT = {"bert": "bert.embeddings.word_embeddings.weight", "llama": "model.embed_tokens.weight", "t5": "shared.weight"}
HEAD = {"bert": "cls.predictions.decoder.weight", "llama": "lm_head.weight", "t5": "lm_head.weight"}


@pytest.mark.parametrize("name", INPUT)
@pytest.mark.parametrize("tied", [True, False])
def test_items_mean_the_right_parameters(name: str, tied: bool) -> None:
    rows = list(NEW)
    bias = {"cls.predictions.bias": rows} if name == "bert" else {}
    if name == "bert" and not tied:
        bias["cls.predictions.decoder.bias"] = rows
    head = {INPUT[name] if tied else HEAD[name]: rows}
    assert _shares(name, tied, ("new_input_rows",)) == (set(), {INPUT[name]: rows})
    assert _shares(name, tied, ("new_head_rows",)) == (set(), head | bias)
    assert _shares(name, tied, ("new_rows",)) == (set(), {INPUT[name]: rows} | head | bias)
    assert _shares(name, tied, ("head",))[0] == {*head, *bias}
    assert _shares(name, tied, ("embeddings", "head"))[0] == {INPUT[name], *head, *bias}
    assert _shares(name, tied, ("embeddings", "new_rows")) == ({INPUT[name]}, ({} if tied else head) | bias)
    everything = {key for key, _ in build(name, V, tied).named_parameters()}
    assert _shares(name, tied, ("all",))[0] == everything
    assert _shares(name, tied, ("body",))[0] == everything - {INPUT[name], *head, *bias}


@pytest.mark.parametrize("name", SPECS)
def test_every_architecture_has_new_rows_a_body_and_layers(name: str) -> None:
    model = build(name, V)
    known = ParameterMap(model, NEW_IDS)
    for item in ("new_rows", "body"):
        found = known.select((item,))
        assert found.rows if item == "new_rows" else found.whole
    tables = known.select(("embeddings", "head")).whole
    assert tables | known.select(("body",)).whole == known.trainable
    assert not tables & known.select(("body",)).whole
    n_layers = len(known.select(("first_layers:1",)).whole)
    assert 0 < n_layers <= len(known.select(("body",)).whole)


@pytest.mark.parametrize(("name", "stacks"), [("llama", ["model.layers"]), ("t5", ["encoder.block", "decoder.block"])])
def test_outer_layers_are_those_of_each_stack(name: str, stacks: list[str]) -> None:
    sizes = {"num_hidden_layers": 5} if name == "llama" else {"num_layers": 5, "num_decoder_layers": 5}
    model = build(name, V, **sizes)
    known = ParameterMap(model, NEW_IDS)
    found = known.select(("first_layers:2", "last_layers:1")).whole
    expected = {
        id(item)
        for key, item in model.named_parameters()
        if any(key.startswith(f"{stack}.{number}.") for stack in stacks for number in (0, 1, 4))
    }
    assert found == expected


def test_patterns_find_parameters_under_any_of_their_names() -> None:
    known = ParameterMap(build("llama", V), NEW_IDS)
    assert known.select(("re:^lm_head",)).whole == known.select(("embeddings",)).whole
    assert known.count(known.select(("re:norm",))) == 3 * 16
    with pytest.raises(InvalidOptionError, match="fits no parameter"):
        known.select(("re:nothing",))


def test_a_stage_without_parameters_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="no such parameter"):
        ParameterMap(build("bert_body", V), NEW_IDS).check([Stage("head")])
    with pytest.raises(InvalidOptionError, match="no new rows"):
        ParameterMap(build("bert", V), NEW_IDS[:0]).check([Stage("new_rows")])
    frozen = build("bert", V)
    frozen.bert.requires_grad_(False)
    with pytest.raises(InvalidOptionError, match="requires_grad=False"):
        ParameterMap(frozen, NEW_IDS).check([Stage("first_layers:1")])
    with pytest.raises(UnsupportedModelError, match="Linear"):
        ParameterMap(torch.nn.Linear(2, 2), NEW_IDS)


@pytest.mark.parametrize("tied", [True, False])
def test_factorised_tables_train_with_their_second_factor(tied: bool) -> None:
    model = factorize_embeddings(build("llama", V, tied), 7)
    known = ParameterMap(model, NEW_IDS)
    tables = [key for key in known.parameters if "embed_tokens" in key or "lm_head" in key]
    assert len(tables) == (2 if tied else 4)
    assert known.select(("embeddings", "head")).whole == {id(known.parameters[key]) for key in tables}
    assert known.count(known.select(("new_rows",))) == N_NEW * 7 * (1 if tied else 2)
    assert not any(known.table_of(known.parameters[key]) is None for key in tables)


def test_groups_divide_tables_head_and_body() -> None:
    model = build("bert", V, tied=False)
    groups = parameter_groups(model, 1e-3, factors={"tables": 2, "body": 0.5}, weight_decay=0.1, table_weight_decay=0)
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"tables": 2e-3, "head": 1e-3, "body": 5e-4}
    assert {group["weight_decay"] for group in groups if group["name"] != "body"} == {0}
    taken = [id(item) for group in groups for item in group["params"]]
    assert sorted(taken) == sorted(id(item) for item in model.parameters())
    factorised = parameter_groups(factorize_embeddings(build("bert", V), 7), 1e-3, factors={"tables": 2})
    assert len({group["lr"] for group in factorised if group["name"] == "tables"}) == 2
    with pytest.raises(InvalidOptionError, match="tables, head, body"):
        parameter_groups(model, 1e-3, factors={"embeddings": 1})
    with pytest.raises(InvalidOptionError, match="lr is -1"):
        parameter_groups(model, -1)


def test_the_names_of_a_stage_are_those_that_are_told() -> None:
    for item in ITEMS:
        Stage(f"{item}:2" if "layers" in item else item)
