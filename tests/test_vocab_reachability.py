"""Dead tokens are found, live ones are not called dead."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models

from hf_vocab_extend.errors import CorpusError, InvalidOptionError, UnsupportedTokenizerError
from hf_vocab_extend.vocab.backend import read_json, rebuild
from hf_vocab_extend.vocab.canonical import TokenKind, canonicalise
from hf_vocab_extend.vocab.reachability import unreachable_ids

from .factories import TOKENIZERS, english, tokenizer


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_a_text_shows_is_never_called_dead(name: str) -> None:
    tok = tokenizer(name)
    lines = english(600)
    seen = {index for row in tok.backend_tokenizer.encode_batch_fast(lines) for index in row.ids}
    # A piece of the test's Unigram tokenizers can win only across the borders of its own text.
    assert len(seen & set(unreachable_ids(tok))) <= (1 if name in ("xlmr", "t5") else 0)
    assert not seen & set(unreachable_ids(tok, corpus=lines))


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen"])
def test_trained_bpe_has_no_dead_tokens(name: str) -> None:
    assert unreachable_ids(tokenizer(name)) == []


def test_merges_of_another_order_leave_dead_tokens() -> None:
    data = read_json(tokenizer("gpt2"))
    data["model"]["vocab"]["\u0120zqzq"] = 700
    grown = rebuild(tokenizer("gpt2"), data)
    assert unreachable_ids(grown) == [700]
    assert unreachable_ids(grown, [5, 700]) == [700]
    assert unreachable_ids(grown, [5]) == []


def test_ignore_merges_makes_a_whole_word_reachable() -> None:
    data = read_json(tokenizer("llama3"))
    top = max(canonicalise(tokenizer("llama3")).tokens.index(token["content"]) for token in data["added_tokens"])
    for token in data["added_tokens"]:
        data["model"]["vocab"][token["content"]] = token["id"]
    data["model"]["vocab"] |= {"\u0120zqzq": top + 1, "zq\u0120zq": top + 2}
    assert unreachable_ids(rebuild(tokenizer("llama3"), data)) == [top + 2]


def test_a_piece_that_never_wins_is_dead() -> None:
    data = read_json(tokenizer("t5"))
    vocab = data["model"]["vocab"]
    start = len(vocab)
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < start]
    vocab += [["\u2581thevirus", -500.0], ["\u2581virusthe", -1.0]]
    assert unreachable_ids(rebuild(tokenizer("t5"), data), [start, start + 1]) == [start]


def test_upper_case_is_dead_under_a_lower_casing_normalizer() -> None:
    data = read_json(tokenizer("bert-uncased"))
    data["model"]["vocab"] |= {"Virus": 508, "##Virus": 509, "virus": 510, "##virus": 511, "don't": 512}
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] < 508]
    assert unreachable_ids(rebuild(tokenizer("bert-uncased"), data), range(508, 513)) == [508, 509, 512]


def test_unused_names_are_dead_and_control_tokens_are_not() -> None:
    tok = tokenizer("bert-cased")
    dead = unreachable_ids(tok)
    kinds = canonicalise(tok).kinds
    assert {kinds[index] for index in dead} == {TokenKind.UNUSED}
    assert not set(tok.all_special_ids) & set(dead)


def test_holes_and_partial_bytes() -> None:
    data = read_json(tokenizer("gpt2"))
    data["model"]["vocab"]["\u0120abcabc"] = 702
    grown = rebuild(tokenizer("gpt2"), data)
    assert unreachable_ids(grown, [700, 701]) == [700, 701]
    assert 700 not in unreachable_ids(grown)
    partial = grown.convert_tokens_to_ids("\u00e2")
    assert partial not in unreachable_ids(grown)
    assert partial in unreachable_ids(grown, corpus=["plain"])
    assert partial not in unreachable_ids(grown, corpus=["\u20ac"])


def test_truncation_stays_and_plays_no_part() -> None:
    tok = TOKENIZERS["gpt2"]()
    tok.backend_tokenizer.enable_truncation(1)
    assert unreachable_ids(tok) == []
    assert tok.backend_tokenizer.truncation["max_length"] == 1


def test_bad_input() -> None:
    with pytest.raises(InvalidOptionError, match="no id 700"):
        unreachable_ids(tokenizer("gpt2"), [1, 700])
    with pytest.raises(InvalidOptionError, match="no id -2"):
        unreachable_ids(tokenizer("gpt2"), [-2])
    with pytest.raises(CorpusError):
        unreachable_ids(tokenizer("gpt2"), corpus=[])
    with pytest.raises(UnsupportedTokenizerError):
        unreachable_ids(object())


def test_answer_agrees_with_a_search_by_hand() -> None:
    """Every token that the plain model joins from its own string is found, and no other."""
    tok = tokenizer("gpt2")
    model = json.loads(tok.backend_tokenizer.to_str())["model"]
    half = [tuple(pair) for pair in model["merges"][::2]]
    kept = {left + right for left, right in half}
    alphabet = [token for token in model["vocab"] if len(token) == 1]
    vocab = {token: index for index, token in enumerate([*alphabet, *sorted(kept)])}
    merges = [(left, right) for left, right in half if left in vocab and right in vocab]
    data = read_json(tok)
    data["added_tokens"] = []
    data["model"] |= {"vocab": vocab, "merges": [list(pair) for pair in merges]}
    plain = models.BPE(vocab=vocab, merges=merges)
    alone = [index for token, index in vocab.items() if [piece.id for piece in plain.tokenize(token)] != [index]]
    cut = PreTrained(data)
    assert set(unreachable_ids(cut)) == set(alone) != set()


def PreTrained(data: dict):  # noqa: N802
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(data)))
