"""What becomes of prompts, rows and sequences that are odd or wrong."""

from __future__ import annotations

import pytest
import torch

from hf_vocab_extend import LanguageHeads
from hf_vocab_extend.errors import InvalidOptionError

from .language_models import EN_SIZE, SW_SIZE, english_and_swahili, heads, random_ids


@pytest.fixture(scope="module")
def llama() -> LanguageHeads:
    return english_and_swahili()


@pytest.mark.parametrize("prompts", [3, None, b"watu", {"en": "one"}, [None], [3], ("en", "one"), ["sw", "watu"]])
def test_what_is_neither_text_nor_segments(llama: LanguageHeads, prompts: object) -> None:
    with pytest.raises(InvalidOptionError, match="prompts is|A prompt is"):
        llama.encode(prompts)


@pytest.mark.parametrize("prompts", ["", [("en", "")], ["one", ""]])
def test_a_prompt_without_ids(llama: LanguageHeads, prompts: object) -> None:
    with pytest.raises(InvalidOptionError, match="gives no ids"):
        llama.encode(prompts, special_tokens=False)
    assert llama.encode([("en", ""), ("sw", "watu")], special_tokens=False)["input_ids"].dtype == torch.long


def test_an_unknown_padding_side(llama: LanguageHeads) -> None:
    with pytest.raises(InvalidOptionError, match="padding_side is 'top'"):
        llama.encode("one", padding_side="top")


def test_padding_without_languages_is_of_the_input_language() -> None:
    both = heads("llama")
    both.tokenizers["sw"].pad_token, both.tokenizers["en"].pad_token = "sw40", "en90"
    for active, pad in (("sw", 40), ("en", 90)):
        both.set_language(input=active, output="en" if active == "sw" else "sw")
        batch = both.collate([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])
        assert batch["input_ids"].tolist() == [[5, 6, 7], [pad, pad, 8]]
        assert both(**batch).logits.shape[:2] == (2, 3)


def test_columns_of_rows_are_padded_with_their_ids(llama: LanguageHeads) -> None:
    rows = [
        {"input_ids": [5, 6, 7], "token_type_ids": [0, 1, 1], "weight": 0.5, "labels": [4]},
        {"weight": 1.5, "input_ids": torch.tensor([8]), "labels": [3, 2], "token_type_ids": [1]},
    ]
    batch = llama.collate(rows, padding_side="right")
    assert batch["token_type_ids"].tolist() == [[0, 1, 1], [1, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[4, -100], [3, 2]]
    assert batch["weight"].tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input_ids": [5]}, {"input_ids": [6], "labels": [6]}], "same columns"),
        ([{"input_ids": [5], "labels": [6]}, {"input_ids": [6]}], "same columns"),
        ([{"input_ids": [5, 6], "language_ids": [1]}], "one for each id"),
        ([{"input_ids": [5], "other": [1, 2]}, {"input_ids": [5], "other": [1]}], "cannot be stacked"),
        ([{"input_ids": [5], "text": "watu"}], "Remove the column"),
        ([{"labels": [5]}], "no one-dimensional input_ids"),
    ],
)
def test_rows_that_make_no_batch(llama: LanguageHeads, rows: list, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        llama.collate(rows)


def test_what_a_decoder_wrote_holds_no_prompt() -> None:
    both = heads("bart")
    both.set_language(input="en", output="sw")
    prompt, written = random_ids(EN_SIZE, 1), random_ids(SW_SIZE - 5, 2, (2, 4))
    given = {"language_ids": torch.zeros_like(prompt), "attention_mask": torch.zeros_like(prompt)}
    assert both.decode(written, **given) == [[("sw", both.tokenizers["sw"].decode(row))] for row in written]


@pytest.mark.parametrize(
    ("shape", "language_ids", "message"),
    [
        ((3,), None, "sequences has the shape"),
        ((2, 3), torch.zeros(2, 4, dtype=torch.long), "language_ids has the shape"),
        ((2, 3), torch.zeros(3, dtype=torch.long), "language_ids has the shape"),
        ((3, 3), torch.zeros(2, 3, dtype=torch.long), "language_ids has the shape"),
        ((2, 3), torch.full((2, 3), 2), "language_ids holds 2"),
        ((2, 3), torch.full((2, 3), -1), "language_ids holds -1"),
    ],
)
def test_what_cannot_be_decoded(
    llama: LanguageHeads, shape: tuple[int, ...], language_ids: torch.Tensor | None, message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        llama.decode(torch.full(shape, 7), language_ids)


def test_rows_stay_on_the_cpu_and_prompts_go_to_the_model() -> None:
    both = heads("llama").to("meta")
    assert both.collate([{"input_ids": [5, 6]}])["input_ids"].device.type == "cpu"
    assert both.encode("en5 en6")["input_ids"].device.type == "meta"
