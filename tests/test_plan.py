"""Plans: what stays, what is copied, what is new."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_vocab_extend.errors import InvalidOptionError, TokenizerMismatchError, UnsupportedTokenizerError
from hf_vocab_extend.plan import EXAMPLES, MatchKind, VocabPlan, build_plan, is_grown_from
from hf_vocab_extend.vocab.canonical import TokenKind

from .factories import MARK, TOKENIZERS, swahili, tokenizer
from .test_vocab_canonical import _Slow, byte_bpe, marked_bpe, wrap

SOME = ("gpt2", "llama2", "xlmr", "bert-uncased", "clip")
LITERAL = ("kitabu", "habari yako", "<|mtumiaji|>")


def with_added(name: str, contents: tuple[str, ...] = LITERAL) -> PreTrainedTokenizerFast:
    """A copy of a tokenizer with tokens added behind its own; the last is a control token."""
    own = tokenizer(name)
    backend = Tokenizer.from_str(own.backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(content, normalized=False) for content in contents[:-1]])
    backend.add_special_tokens([AddedToken(contents[-1], normalized=False)])
    names = {role: value for role, value in own.special_tokens_map.items() if isinstance(value, str)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def without_specials(plan: VocabPlan) -> dict[str, int]:
    return {kind: count for kind, count in plan.counts().items() if kind != "special"}


def holey(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE(ids, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    return wrap(backend)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_extending_by_nothing_keeps_every_row(name):
    plan = build_plan(tokenizer(name), tokenizer(name))
    assert plan.counts() == {"same": plan.n_target}
    assert (plan.source_ids == np.arange(plan.n_source)).all()
    assert len(plan.new_ids) == 0


@pytest.mark.parametrize("name", TOKENIZERS)
def test_replacing_by_itself_copies_every_row(name):
    plan = build_plan(tokenizer(name), tokenizer(name), "replace")
    assert (plan.source_ids == np.arange(plan.n_source)).all()
    assert set(plan.counts()) <= {"exact", "byte", "special"}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_extending(name):
    source, target = tokenizer(name), with_added(name)
    assert is_grown_from(source, target)
    assert not is_grown_from(target, source)
    plan = build_plan(source, target)
    added = {target.convert_tokens_to_ids(content) for content in LITERAL}
    assert (plan.n_source, plan.n_target) == (len(plan.source), len(plan.source) + len(LITERAL))
    assert (plan.kinds[: plan.n_source] == MatchKind.SAME).all()
    assert (plan.source_ids[: plan.n_source] == np.arange(plan.n_source)).all()
    assert set(plan.new_ids.tolist()) == added
    assert (plan.source_ids[plan.new_ids] == -1).all()
    assert plan.copied_ids.tolist() == list(range(plan.n_source))
    assert plan.target.kinds[target.convert_tokens_to_ids("<|mtumiaji|>")] == TokenKind.SPECIAL


@pytest.mark.parametrize(("name", "content", "twin"), [("gpt2", " the", "Ġthe"), ("llama2", " the", f"{MARK}the")])
def test_an_added_token_that_the_source_spells_otherwise_is_copied(name, content, twin):
    source, target = tokenizer(name), with_added(name, (content, "<|x|>"))
    plan = build_plan(source, target)
    index = target.convert_tokens_to_ids(content)
    assert plan.kinds[index] == MatchKind.EXACT
    assert plan.source.tokens[plan.source_ids[index]] == twin
    assert plan.new_ids.tolist() == [target.convert_tokens_to_ids("<|x|>")]


def test_a_new_special_token_that_takes_over_a_role_is_copied():
    source = tokenizer("gpt2")
    target = with_added("gpt2", ("<end>",))
    target.eos_token = "<end>"
    plan = build_plan(source, target)
    index = target.convert_tokens_to_ids("<end>")
    assert (plan.kinds[index], plan.source_ids[index]) == (MatchKind.SPECIAL, source.eos_token_id)
    freed = build_plan(source, target, roles={"eos": None})
    assert (freed.kinds[index], freed.source_ids[index]) == (MatchKind.NEW, -1)


def test_holes_in_mode_extend():
    """A hole stays what it is unless the target fills it."""
    source, target = holey({"a": 0, "Ġb": 4}), holey({"a": 0, "x": 2, "Ġb": 4, "y": 6})
    plan = build_plan(source, target)
    names = [MatchKind(kind).name for kind in plan.kinds.tolist()]
    assert names == ["SAME", "SAME", "NEW", "SAME", "SAME", "HOLE", "NEW"]
    assert plan.source_ids.tolist() == [0, 1, -1, 3, 4, -1, -1]
    assert (plan.n_source, plan.n_target) == (5, 7)
    assert plan.new_ids.tolist() == [2, 6]


def test_holes_in_mode_replace():
    source, target = holey({"a": 0, "Ġb": 4}), holey({"Ġb": 1, "z": 3})
    plan = build_plan(source, target, "replace")
    assert [MatchKind(kind).name for kind in plan.kinds.tolist()] == ["HOLE", "EXACT", "HOLE", "NEW"]
    assert plan.source_ids.tolist() == [-1, 4, -1, -1]
    alone = build_plan(source, source, "replace")
    assert alone.source_ids.tolist() == [0, 1, 2, 3, 4]
    assert alone.counts() == {"same": 3, "exact": 1, "byte": 1}


@pytest.mark.parametrize("fuzzy", [False, True])
@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(SOME, 2)))
def test_replacing_across_families(one, other, fuzzy):
    plan = build_plan(tokenizer(one), tokenizer(other), "replace", fuzzy=fuzzy)
    assert plan.source_ids.dtype == np.int64
    assert plan.kinds.dtype == np.uint8
    assert plan.source_ids.shape == plan.kinds.shape == (plan.n_target,)
    assert plan.source_ids.max() < plan.n_source
    uncovered = np.isin(plan.kinds, (MatchKind.NEW, MatchKind.HOLE))
    assert (uncovered == (plan.source_ids < 0)).all()
    assert sorted([*plan.new_ids, *plan.copied_ids]) == list(range(plan.n_target))
    assert not (plan.kinds == MatchKind.SAME).any()
    assert fuzzy or not (plan.kinds == MatchKind.FUZZY).any()
    assert (plan.kinds == MatchKind.EXACT).sum() > 200


@pytest.mark.parametrize("name", TOKENIZERS)
def test_another_vocabulary_of_the_same_family_is_no_growth(name):
    other = TOKENIZERS[name](lines=swahili(200))
    assert not is_grown_from(tokenizer(name), other)
    with pytest.raises(TokenizerMismatchError, match="has not grown from the source: .* has id .* merge_tokenizers"):
        build_plan(tokenizer(name), other)


def test_the_message_names_the_first_token_that_moved():
    source, target = wrap(byte_bpe(["a", "b", "c"])), wrap(byte_bpe(["a", "c", "b", "d"]))
    with pytest.raises(TokenizerMismatchError, match="'b' has id 1 in the source and 2 in the target"):
        build_plan(source, target)
    with pytest.raises(TokenizerMismatchError, match="'b' has id 1 in the source and none in the target"):
        build_plan(source, wrap(byte_bpe(["a", "x"])))


def test_the_same_strings_in_another_family_are_not_the_same_text():
    """``Ġa`` of a marked BPE is two letters; only the bytes count in mode ``replace``."""
    source, target = wrap(byte_bpe(["Ġa", "b"])), wrap(marked_bpe(["Ġa", "b"]))
    assert not is_grown_from(source, target)
    with pytest.raises(TokenizerMismatchError, match="source is byte-level BPE, the target sentencepiece BPE"):
        build_plan(source, target)
    assert without_specials(build_plan(source, target, "replace")) == {"new": 1, "exact": 1}


@pytest.mark.parametrize("mode", ["merge", "", None])
def test_unknown_mode(mode):
    with pytest.raises(InvalidOptionError, match="Choose 'extend'"):
        build_plan(tokenizer("gpt2"), tokenizer("gpt2"), mode)


@pytest.mark.parametrize("slow_first", [True, False])
def test_a_tokenizer_without_a_file_behind_it(slow_first):
    pair = (_Slow(), tokenizer("gpt2"))
    source, target = pair if slow_first else pair[::-1]
    for mode in ("extend", "replace"):
        with pytest.raises(UnsupportedTokenizerError, match=r"no tokenizer\.json"):
            build_plan(source, target, mode)
    with pytest.raises(UnsupportedTokenizerError, match=r"no tokenizer\.json"):
        is_grown_from(source, target)


def test_summary():
    plan = build_plan(tokenizer("bert-cased"), tokenizer("xlmr"), "replace", fuzzy=True)
    summary = plan.summary()
    assert json.loads(json.dumps(summary))["mode"] == "replace"
    assert summary["source"] == {"family": "WordPiece", "ids": 508, "tokens": 508, "unused": 3, "holes": 0}
    assert summary["target"]["family"] == "Unigram"
    kinds = summary["kinds"]
    assert {name: part["count"] for name, part in kinds.items()} == plan.counts()
    assert sum(part["share"] for part in kinds.values()) == pytest.approx(1.0)
    for name, part in kinds.items():
        assert len(part["examples"]) == min(EXAMPLES, part["count"])
        for target_token, source_token in part["examples"]:
            index = plan.target.tokens.index(target_token)
            assert MatchKind(int(plan.kinds[index])).name.lower() == name
            there = plan.source_ids[index]
            assert source_token == (plan.source.tokens[there] if there >= 0 else None)


def test_summary_counts_holes():
    summary = build_plan(holey({"a": 0, "Ġb": 4}), holey({"b": 3}), "replace").summary()
    assert (summary["source"]["tokens"], summary["source"]["holes"], summary["source"]["ids"]) == (2, 3, 5)
    assert summary["kinds"]["hole"] == {"count": 3, "share": 0.75, "examples": [(None, None)] * 3}
