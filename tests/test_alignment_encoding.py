"""Texts put together from the tokens of their words equal texts tokenised whole."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, pre_tokenizers

from hf_vocab_extend.resources.alignment import encoding
from hf_vocab_extend.resources.alignment.encoding import TextEncoder, cuts_at_spaces, encode
from hf_vocab_extend.vocab.canonical import canonicalise

from .factories import TOKENIZERS, llama2_like, sample_pairs, tokenizer

ODD = [
    "the  two   spaces",
    "tab\tinside and\nline end",
    "no\u00a0break \u3000wide",
    "नमस्ते दुनिया 你好 世界 🙂🙂 ﬁne",
    "a",
    "",
    " ",
    " lead and trail ",
    "[UNK] <unk> unknown[UNK]s",
    "</s> text <mask> more <|endoftext|> end",
    "the the the",
    "1,000.50 it's (x) -- ... ´ acute",
    "soft\u00adhyphen zero\u200bwidth \u0301mark",
]
TEXTS = [*ODD, *(pair[side] for pair in sample_pairs()[:300] for side in (0, 1))]


def assert_equal(encoder: TextEncoder, cutter: Any, texts: list[str]) -> None:
    found, offsets = encoder.encode(texts)
    expected, expected_offsets = encode(cutter.backend_tokenizer, texts)
    assert np.array_equal(offsets, expected_offsets)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_put_together_are_the_text(name: str) -> None:
    cutter = tokenizer(name)
    encoder = TextEncoder(cutter, canonicalise(cutter))
    for start in range(0, len(TEXTS), 50):
        assert_equal(encoder, cutter, TEXTS[start : start + 50])
    assert encoder._by_word
    assert encoder._safe.mean() > 0.9


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_are_tokenised_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cutter = tokenizer(name)
    encoder = TextEncoder(cutter, canonicalise(cutter))
    texts = [text for text in TEXTS if text not in ODD]
    encoder.encode(texts)
    monkeypatch.setattr(encoding, "_encode_slots", lambda *_: pytest.fail("a word was tokenised again"))
    whole = encode(cutter.backend_tokenizer, texts[::-1])
    monkeypatch.setattr(encoding, "encode", lambda *_: pytest.fail("a text was tokenised whole"))
    assert np.array_equal(encoder.encode(texts[::-1])[0], whole[0])


@pytest.mark.parametrize("name", ["gpt2", "llama2", "xlmr", "bert-cased"])
def test_added_tokens_in_the_text(name: str) -> None:
    cutter = copy.deepcopy(tokenizer(name))
    cutter.add_tokens(
        ["virus", AddedToken("health", single_word=True, lstrip=True), AddedToken("people", rstrip=True)]
    )
    encoder = TextEncoder(cutter, canonicalise(cutter))
    assert_equal(encoder, cutter, TEXTS)
    assert encoder._by_word
    cutter.add_tokens(["the virus"])
    assert not cuts_at_spaces(cutter.backend_tokenizer, canonicalise(cutter))


def test_few_words_are_kept_and_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_WORDS", 40)
    cutter = tokenizer("gpt2")
    encoder = TextEncoder(cutter, canonicalise(cutter))
    for start in range(0, 100, 10):
        assert_equal(encoder, cutter, TEXTS[start : start + 10])
    assert len(encoder._numbers) < 400


def test_a_vocabulary_that_reaches_over_spaces_is_read_whole() -> None:
    cutter = llama2_like(n=500, lines=["x"])
    data = cutter.backend_tokenizer
    grown = type(data).from_str(data.to_str().replace('"<0x41>"', '"of\u2581the"'))
    cutter = copy.deepcopy(cutter)
    cutter._tokenizer = grown
    assert not cuts_at_spaces(grown, canonicalise(cutter))


@pytest.mark.parametrize(
    "part",
    [
        pre_tokenizers.Split(Regex("(?<=a) b"), "isolated"),
        pre_tokenizers.Split(Regex("a(?= b)"), "isolated"),
        pre_tokenizers.FixedLength(5),
    ],
    ids=["back", "ahead", "fixed"],
)
def test_a_pipeline_that_looks_around_is_read_whole(part: Any) -> None:
    cutter = copy.deepcopy(tokenizer("bert-cased"))
    cutter.backend_tokenizer.pre_tokenizer = part
    assert not cuts_at_spaces(cutter.backend_tokenizer, canonicalise(cutter))
    assert_equal(TextEncoder(cutter, canonicalise(cutter)), cutter, TEXTS)


def test_a_difference_on_the_first_texts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cutter = copy.deepcopy(tokenizer("gpt2"))  # an unknown look-ahead: a word is cut otherwise before "is"
    split = pre_tokenizers.Split(Regex(r"\w(?!\w* is)| ?\w+| ?[^\w\s]+|\s+"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cutter.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    encoder = TextEncoder(cutter, canonicalise(cutter))
    assert encoder._by_word
    assert_equal(encoder, cutter, TEXTS)
    assert not encoder._by_word
