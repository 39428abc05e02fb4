"""Special tokens by role."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from hf_vocab_extend.errors import InvalidOptionError
from hf_vocab_extend.vocab.special_tokens import is_unused_name, match_roles, special_roles

from .factories import TOKENIZERS, tokenizer
from .test_vocab_matching import specials

ROLE_CASES = {
    ("bert-cased", "xlmr"): {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]", "<unk>": "[UNK]", "<mask>": "[MASK]"},
    ("xlmr", "bert-cased"): {
        "[CLS]": "<s>",
        "[SEP]": "</s>",
        "[PAD]": "<pad>",
        "[UNK]": "<unk>",
        "[MASK]": "<mask>",
    },
    ("gpt2", "llama2"): {"<s>": "<|endoftext|>", "</s>": "<|endoftext|>"},
    ("llama2", "gpt2"): {"<|endoftext|>": "</s>"},
    ("bert-uncased", "llama2"): {"<s>": "[CLS]", "</s>": "[SEP]", "<unk>": "[UNK]"},
    ("llama2", "bert-uncased"): {"[CLS]": "<s>", "[SEP]": "</s>", "[UNK]": "<unk>"},
    ("llama3", "qwen"): {"<|im_end|>": "<|end_of_text|>"},
    ("qwen", "llama3"): {"<|end_of_text|>": "<|im_end|>", "<|eot_id|>": "<|im_end|>"},
    ("t5", "gemma"): {"<unk>": "<unk>", "</s>": "</s>", "<pad>": "<pad>"},
    ("clip", "t5"): {"</s>": "<|endoftext|>"},
    ("t5", "clip"): {"<|endoftext|>": "</s>"},
}


@pytest.mark.parametrize("pair", ROLE_CASES, ids="-".join)
def test_roles_across_families(pair):
    source, target = tokenizer(pair[0]), tokenizer(pair[1])
    named = match_roles(source, target)
    pairs = {target.convert_ids_to_tokens(here): source.convert_ids_to_tokens(there) for here, there in named.items()}
    assert pairs == ROLE_CASES[pair]


def roles_by_name(source: PreTrainedTokenizerFast, target: PreTrainedTokenizerFast, overrides=None) -> dict[str, str]:
    return {
        target.convert_ids_to_tokens(here): source.convert_ids_to_tokens(there)
        for here, there in match_roles(source, target, overrides).items()
    }


def test_special_roles_by_name_and_by_spelling():
    own = specials(["<|im_start|>", "<|im_end|>", "<pad>", "</s>"], eos_token="<|im_end|>")
    ids = {name: own.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>", "<pad>")}
    assert special_roles(own) == {
        "eos": ids["<|im_end|>"],
        "pad": ids["<pad>"],
        "turn_start": ids["<|im_start|>"],
        "turn_end": ids["<|im_end|>"],
    }


def test_chat_markers_by_role():
    source = specials(["<|im_start|>", "<|im_end|>", "<|endoftext|>"], eos_token="<|endoftext|>")
    target = specials(["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>"])
    assert roles_by_name(source, target) == {
        "<|start_header_id|>": "<|im_start|>",
        "<|eot_id|>": "<|im_end|>",
        "<|end_of_text|>": "<|endoftext|>",
    }


def test_other_control_tokens_by_spelling():
    source = specials(["eng_Latn", "<extra_id_0>", "<image>"])
    target = specials(["<extra_id_0>", "swh_Latn", "eng_Latn", "<IMAGE>"])
    assert roles_by_name(source, target) == {"eng_Latn": "eng_Latn", "<extra_id_0>": "<extra_id_0>"}


def test_role_goes_before_a_spelling_of_another_role():
    source = specials(["<s>", "<x>"], bos_token="<s>", pad_token="<x>")
    target = specials(["<s>", "<x>"], pad_token="<s>", bos_token="<x>")
    assert roles_by_name(source, target) == {"<s>": "<x>", "<x>": "<s>"}


def test_padding_that_is_the_end_token():
    """A target padding token is no copy of a source end token that merely pads; the reverse is the end token."""
    lent = specials(["<e>"], eos_token="<e>", pad_token="<e>")
    own = specials(["<end>", "<fill>"], eos_token="<end>", pad_token="<fill>")
    assert roles_by_name(lent, own) == {"<end>": "<e>"}
    assert roles_by_name(own, lent) == {"<e>": "<end>"}
    assert roles_by_name(lent, lent) == {"<e>": "<e>"}


def test_stand_ins_only_where_nothing_is_better():
    bert = specials(["[CLS]", "[SEP]"], cls_token="[CLS]", sep_token="[SEP]")
    both = specials(["<b>", "<e>", "<c>", "<z>"], bos_token="<b>", eos_token="<e>", cls_token="<c>", sep_token="<z>")
    assert roles_by_name(bert, both) == {"<c>": "[CLS]", "<z>": "[SEP]"}
    assert roles_by_name(both, bert) == {"[CLS]": "<c>", "[SEP]": "<z>"}
    only_bos = specials(["<b>", "<e>"], bos_token="<b>", eos_token="<e>")
    assert roles_by_name(only_bos, bert) == {"[CLS]": "<b>", "[SEP]": "<e>"}
    assert roles_by_name(bert, only_bos) == {"<b>": "[CLS]", "<e>": "[SEP]"}


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        ({"pad": "eos"}, {"<pad>": "[SEP]"}),
        ({"<pad>": "[MASK]"}, {"<pad>": "[MASK]"}),
        ({"mask": None}, {"<mask>": None}),
        ({0: 5}, {"<s>": "[CLS]"}),
        ({"<s>": "the"}, {"<s>": "the"}),
    ],
    ids=["role", "token", "none", "id", "text"],
)
def test_overrides(overrides, changed):
    overrides = {key: "sep" if value == "eos" else value for key, value in overrides.items()}
    before = roles_by_name(tokenizer("bert-cased"), tokenizer("xlmr"))
    after = roles_by_name(tokenizer("bert-cased"), tokenizer("xlmr"), overrides)
    expected = {name: value for name, value in (before | changed).items() if value is not None}
    assert after == expected


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"padd": "pad"}, "target tokenizer has no role and no token 'padd'. Did you mean 'pad'"),
        ({"pad": "[PADD]"}, r"source tokenizer .* Did you mean '\[PAD\]'"),
        ({99999: 0}, "no token with id 99999"),
    ],
)
def test_overrides_that_name_nothing(overrides, words):
    with pytest.raises(InvalidOptionError, match=words):
        match_roles(tokenizer("bert-cased"), tokenizer("xlmr"), overrides)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_roles_agree_with_the_tokenizer(name):
    own, roles = tokenizer(name), special_roles(tokenizer(name))
    for role in ("bos", "eos", "pad", "unk", "mask", "cls", "sep"):
        declared = getattr(own, f"{role}_token_id")
        if declared is not None:
            assert roles[role] == declared
    assert not any(is_unused_name(own.convert_ids_to_tokens(index)) for index in roles.values())
