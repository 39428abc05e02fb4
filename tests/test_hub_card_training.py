"""What the card says of a training, and its title when the model gets another name."""

from __future__ import annotations

import dataclasses

import pytest

from hf_vocab_extend import render_card
from hf_vocab_extend.adaptation.cost import Cost
from hf_vocab_extend.hub.card import split_front_matter
from hf_vocab_extend.origin import CITATION, LEARNED_ON, Origin

from .stub_extension import make_report

TYPES = {"model_type": "bert", "architecture": "BertForMaskedLM"}


def test_a_training_is_shown_readably() -> None:
    training = {
        "text": {"bytes": 424387, "lines": 2960},
        "block_size": 1024,
        "objective": "causal",
        "own_thing": {"a_b": [1000, 2], "c": True},
    }
    tables = ({"name": "t", "role": "input", "shape": (2500, 96)},)
    lines = render_card(make_report(training=training, tables=tables)).splitlines()
    for row in (
        "| text | 424,387 bytes, 2,960 lines |",
        "| tokens per sequence | 1,024 |",
        "| own thing | a b: 1,000, 2, c: yes |",
        "| `t` | input | 2,500 x 96 |",
    ):
        assert row in lines


@pytest.mark.parametrize("title", ["trained", "My model"])
def test_a_title_of_ours_follows_the_name_and_one_of_the_users_stays(title: str) -> None:
    card = render_card(make_report(), model_name="trained", load_name="trained", **TYPES)
    card = card.replace("# trained\n", f"# {title}\n")
    pushed = render_card(make_report(), model_name="llama-sw", load_name="me/llama-sw", existing=card, **TYPES)
    heads = [line for line in pushed.splitlines() if line.startswith("# ")]
    assert heads == ["# llama-sw" if title == "trained" else "# My model"]


MINI = Origin("post", layers=4, shared_layers=2, full_model="org/full")
HISTORY = [{"step": 0, "bits_per_byte_sw": 2.0}, {"step": 9, "bits_per_byte_sw": 1.0}]


def mini_card(origin: Origin = MINI, **options: object) -> str:
    training = {"tokens": 640, "history": HISTORY, "frozen": "all but the tables", LEARNED_ON: origin.to_dict()}
    report = make_report(training=training, base_model=None, method="focus")
    return render_card(report, load_name="me/table-sw", curves=True, **TYPES, **options)


def test_the_card_of_a_table_says_that_it_is_one_and_where_it_goes() -> None:
    card = mini_card()
    for text in (
        "a token table for sw, learned on a mini-model of 4 layers (2 of the full model's), cut from [org/full]",
        '`transplant_embeddings("me/table-sw", model)`',
        "`hf-vocab-extend transplant me/table-sw --into org/full --out FOLDER`",
        'full = AutoModelForMaskedLM.from_pretrained("org/full")',
        'extension = transplant_embeddings("me/table-sw", full)',
        "then the token table alone was trained.",
        "of the mini-model](training_curves.png)",
        CITATION,
    ):
        assert text in card, text
    assert "learned on |" not in card
    front = split_front_matter(card)[0]
    assert (front["base_model"], "mini-model" in front["tags"]) == ("org/full", True)
    assert card.count("```bibtex") == 2, "that of the method stays"


def test_the_code_of_a_table_is_python_and_its_name_is_followed() -> None:
    card = mini_card(model_name="table-sw")
    compile(card.split("```python\n")[1].split("```")[0], "card", "exec")
    again = render_card(make_report(), model_name="other", load_name="other", existing=card, **TYPES)
    assert "\n# other\n" in again


@pytest.mark.parametrize("mini", [True, False])
def test_the_card_of_a_transplant_says_that_the_training_was_not_its_own(mini: bool) -> None:
    origin = dataclasses.replace(MINI, transplanted=True) if mini else Origin(transplanted=True)
    card, which = mini_card(origin), "the mini-model" if mini else "another language model"
    assert f"learned on {origin} and put into this model, whose body is untouched." in card
    assert "the model was trained" not in card
    assert "The model was trained" not in card
    assert f"All of this is of {which} that the table was learned on" in card
    assert f"learned on 640 tokens, through the body of {which}." in card
    assert (CITATION in card) is ("of the mini-model](training_curves.png)" in card) is mini
    assert 'model = AutoModelForMaskedLM.from_pretrained("me/table-sw")' in card
    assert "mini-model" not in split_front_matter(card)[0]["tags"]


def test_a_later_training_of_the_full_model_is_its_own() -> None:
    card = render_card(make_report(training={"tokens": 640}), config={"mini_model": {"plugged": {}}}, **TYPES)
    assert "and the model was trained afterwards." in card
    assert "mini-model" not in card


def test_the_config_tells_a_mini_model_whose_report_does_not() -> None:
    config = {"mini_model": {"kind": "joint", "bottom_layers": 1, "new_layers": 0, "primary": None}}
    card = render_card(make_report(), config=config, load_name="t", **TYPES)
    assert "a token table for sw, made on a mini-model of 1 layer (1 of the full model's), cut from that." in card
    assert "--into MODEL" in card
    assert "mini-model" not in render_card(make_report(), config={"mini_model": {"kind": "full"}}, **TYPES)


def test_the_cost_is_told_with_units() -> None:
    cost = Cost(2_500_000, 4.0, 3 * 2**20, 640, 9, memory="resident", flops_by_part={"body": 7})
    rows = render_card(make_report(training={"cost": cost.to_dict()})).splitlines()
    assert "| cost | 2.5 MFLOP, 4 s, 3 MiB resident, 640 tokens in 9 steps |" in rows
    for own in ({"euros": 5}, "none"):
        assert "| cost | " in render_card(make_report(training={"cost": own}))
