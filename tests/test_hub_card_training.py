"""What the card says of a training, and its title when the model gets another name."""

from __future__ import annotations

import pytest

from hf_vocab_extend import render_card

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
