"""A tokenizer taken apart and put together again is the same tokenizer."""

from __future__ import annotations

import copy

import pytest
from tokenizers import AddedToken
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from hf_vocab_extend.errors import UnsupportedTokenizerError
from hf_vocab_extend.vocab.backend import read_json, rebuild

from .factories import TOKENIZERS, english, swahili, tokenizer

FAMILIES = sorted(TOKENIZERS)
TEXTS = [*english()[:20], *swahili()[:20], "", "a  b\n\tc", "naïve 日本 🙂 12"]
CARRIED = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "chat_template",
    "special_tokens_map",
    "all_special_ids",
)


def state(target: PreTrainedTokenizerFast) -> dict:
    return {name: copy.deepcopy(getattr(target, name)) for name in CARRIED}


def changed(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer with everything set that could get lost."""
    made = TOKENIZERS[name]()
    made.padding_side, made.truncation_side, made.model_max_length = "left", "left", 77
    made.chat_template = "{{ messages[0]['content'] }}"
    made.model_input_names = ["input_ids"]
    made.add_special_tokens({"extra_special_tokens": ["<|extra|>"]})
    made.add_tokens([AddedToken("Umoja", lstrip=True, single_word=True)])
    made.backend_tokenizer.enable_truncation(50)
    made.backend_tokenizer.enable_padding(pad_id=0, length=60)
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_data_give_the_same_tokenizer(name: str) -> None:
    source = changed(name)
    again = rebuild(source, read_json(source))
    assert again is not source
    assert read_json(again) == read_json(source)
    assert state(again) == state(source)
    assert again.model_input_names == ["input_ids"]
    assert again.extra_special_tokens == source.extra_special_tokens == ["<|extra|>"]
    assert again(TEXTS)["input_ids"] == source(TEXTS)["input_ids"]
    assert again.get_vocab() == source.get_vocab()


@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_rebuilt_survives_saving(name: str, tmp_path) -> None:
    again = rebuild(changed(name), read_json(changed(name)))
    again.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert loaded(TEXTS)["input_ids"] == again(TEXTS)["input_ids"]
    assert state(loaded) == state(again)


def test_named_tokens_that_were_taken_back_or_are_the_models_own_are_kept_so() -> None:
    source = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZERS["gemma"]().backend_tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        model_specific_special_tokens={"image_token": "<unused1>"},
    )
    source.pad_token = None
    again = rebuild(source, read_json(source))
    assert again.pad_token is None
    assert again.image_token == "<unused1>"
    assert again.special_tokens_map == source.special_tokens_map
    assert again.all_special_ids == source.all_special_ids


def test_data_belong_to_the_caller() -> None:
    source = tokenizer("gpt2")
    before = source.get_vocab()
    data = read_json(source)
    data["model"]["vocab"].clear()
    data["added_tokens"].clear()
    assert source.get_vocab() == before
    assert read_json(source)["added_tokens"]


def test_other_data_give_another_tokenizer_and_leave_the_first_alone() -> None:
    source = tokenizer("bert-uncased")
    before = read_json(source)
    data = read_json(source)
    data["model"]["vocab"]["zzqq"] = len(source)
    other = rebuild(source, data)
    other.chat_template = "x"
    assert other.tokenize("zzqq") == ["zzqq"] != source.tokenize("zzqq")
    assert read_json(source) == before
    assert source.chat_template is None


@pytest.mark.parametrize("work", [read_json, lambda target: rebuild(target, read_json(target))])
def test_without_tokenizer_json_it_says_so(work) -> None:
    with pytest.raises(UnsupportedTokenizerError, match="ByT5Tokenizer has no tokenizer.json"):
        work(ByT5Tokenizer())
