"""Trans-tokenization in use: several texts, dictionaries, the one call, bad input."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from hf_vocab_extend import errors, extend_vocabulary
from hf_vocab_extend.errors import InvalidOptionError, MissingResourceError, VocabExtendWarning
from hf_vocab_extend.mapping import RowKind
from hf_vocab_extend.methods import resolve_method
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.distribution import (
    PieceCounts,
)
from hf_vocab_extend.methods.spelling import has_letters
from hf_vocab_extend.methods.trans_tokenization import TransTokenization, TransTokenizationConfig
from hf_vocab_extend.plan import MatchKind
from hf_vocab_extend.vocab.canonical import TokenKind

from .factories import sample_pairs, tokenizer
from .test_invariants import grown, make_model
from .test_methods import make_context, target
from .trans_tokenization_naive import given, make_counts

pytestmark = pytest.mark.filterwarnings("ignore:The .* pairs cover")  # the made-up counts are few; see its own test


# ------------------------------------------------------------------------------------- several texts, dictionaries


def two_texts():
    source, to = tokenizer("gpt2"), target("bert-cased")
    plan = make_context().plan
    ids = plan.new_ids[plan.target.kinds[plan.new_ids] == TokenKind.NORMAL][:2].tolist()
    first = make_counts({((300,), (ids[0],)): (80.0, 20.0), ((301,), (ids[1],)): (4.0, 0.0)}, source, to)
    second = make_counts({((302,), (ids[0],)): (1.0, 0.0)}, source, to)
    context = dataclasses.replace(make_context(), resources=Resources(parallel={"en": first, "fr": second}))
    return context, [int(np.flatnonzero(context.plan.new_ids == index)[0]) for index in ids]


@pytest.mark.parametrize(
    ("mix", "weights", "expected"),
    [
        ("mean", None, {300: 0.5, 302: 0.5}),
        ("mean", {"fr": 3.0}, {300: 0.25, 302: 0.75}),
        ("counts", None, {300: 100 / 101, 302: 1 / 101}),
        ("counts", {"en": 0.1, "fr": 10.0}, {300: 0.5, 302: 0.5}),
    ],
)
def test_several_texts_are_mixed_by_weight(mix: str, weights: dict | None, expected: dict) -> None:
    context, (both, one) = two_texts()
    config = TransTokenizationConfig(source_mix=mix, source_weights=weights, uncovered="none", literal=False)
    config = dataclasses.replace(config, source_discount=0.0)
    mixture = TransTokenization(config).fit(context)
    assert dict(mixture.row(both)) == pytest.approx(expected, abs=1e-6)
    assert mixture.row(one) == [(301, 1.0)]
    assert mixture.covered.sum() == 2


def test_weights_of_texts_that_are_not_there_are_refused_before_any_work() -> None:
    method = TransTokenization(TransTokenizationConfig(source_weights={"de": 2.0}))
    with pytest.raises(InvalidOptionError, match=r"'de'; the parallel texts are 'en', 'fr'"):
        method.check_resources(two_texts()[0].resources)
    with pytest.raises(InvalidOptionError, match="empty mapping"):
        TransTokenization().check_resources(Resources(parallel={}))


def test_a_dictionary_alone_and_beside_text() -> None:
    entries = [("water", "maji"), ("people", "watu"), ("the water", "maji")]
    context = make_context(resources=Resources(dictionary=entries))
    config = TransTokenizationConfig(uncovered="none", literal=False, dictionary_weight=4.0, min_count=5.0)
    config = dataclasses.replace(config, source_discount=0.0)
    with pytest.warns(VocabExtendWarning, match="cover"):
        alone = TransTokenization(config).fit(context)
    assert 0 < alone.covered.sum() < 15
    place = int(np.flatnonzero(alone.covered)[0])
    token = int(context.plan.new_ids[place])
    text = make_counts({((300,), (token,)): (8.0, 0.0)}, context.source_tokenizer, context.target_tokenizer)
    both = dataclasses.replace(context, resources=Resources(parallel=text, dictionary=entries))
    with pytest.warns(VocabExtendWarning, match="cover"):
        mixed = dict(TransTokenization(config).fit(both).row(place))
    assert mixed[300] > 0
    assert set(mixed) == {300} | set(dict(alone.row(place)))
    dictionary_share = sum(weight for source, weight in mixed.items() if source != 300)
    n_entries = round(8 * dictionary_share / (1 - dictionary_share) / 4)
    assert n_entries >= 1
    assert mixed[300] == pytest.approx(8 / (8 + 4 * n_entries), abs=1e-6)


# ---------------------------------------------------------------------------------------------- through the one call


def words_of(own, text: str) -> tuple[int, ...]:
    return tuple(own(text, add_special_tokens=False)["input_ids"])


def alike_tokens(name: str, n: int) -> list[int]:
    """Target ids of words that both vocabularies spell alike."""
    context = make_context(name, name)
    plan = context.plan
    ids = np.flatnonzero((plan.kinds == MatchKind.EXACT) & (plan.target.kinds == TokenKind.NORMAL))
    ids = ids[has_letters(plan.target, ids)]
    return [int(index) for index in ids if context.trained[plan.source_ids[index]]][:n]


@pytest.mark.parametrize("shared", ["blend", "candidate", "none", "copy"])
def test_mode_replace_translates_false_friends_and_copies_the_rest(shared: str) -> None:
    name = "bert-uncased"
    source, to = tokenizer(name), target(name)
    plan = make_context(name, name).plan
    friend, rare, unseen = alike_tokens(name, 3)
    other = 300
    digit = to.get_vocab()["2"]
    assert plan.source_ids[digit] >= 0
    counts = make_counts(
        {((other,), (friend,)): (900.0, 100.0), ((other,), (rare,)): (1.0, 0.0), ((other,), (digit,)): (99.0, 0.0)},
        source,
        to,
    )
    model = make_model(name, True)
    old = model.get_input_embeddings().weight.detach().clone()
    with pytest.warns(VocabExtendWarning, match=r"cover \d+ of \d+ new tokens"):
        extension = extend_vocabulary(
            model,
            to,
            TransTokenizationConfig(shared=shared, source_discount=0.0, match_norms=False),
            tokenizer=source,
            mode="replace",
            parallel=counts,
        )
    table = extension.model.get_input_embeddings().weight
    prior = {"blend": 30.0, "candidate": 1.0, "none": 0.0, "copy": math.inf}[shared]
    for token, count in ((friend, 1000.0), (rare, 1.0)):
        own = old[plan.source_ids[token]]
        share = 0.0 if prior == math.inf else count / (count + prior)
        torch.testing.assert_close(table[token], share * old[other] + (1 - share) * own)
    assert torch.equal(table[unseen], old[plan.source_ids[unseen]])
    kinds = extension.mapping.kinds
    assert kinds[unseen] == RowKind.EXACT
    assert kinds[friend] == (RowKind.EXACT if shared == "copy" else RowKind.METHOD)
    copied = torch.equal(table[digit], old[plan.source_ids[digit]])
    assert copied == (shared in ("blend", "copy"))


def test_a_tokenizer_replaced_by_itself_changes_no_row() -> None:
    name = "bert-uncased"
    model = make_model(name, True)
    old = {key: value.clone() for key, value in model.state_dict().items()}
    counts = make_counts({((300,), (301,)): (900.0, 0.0)}, tokenizer(name), tokenizer(name))
    extension = extend_vocabulary(
        model, tokenizer(name), "trans_tokenization", tokenizer=tokenizer(name), mode="replace", parallel=counts
    )
    assert all(torch.equal(value, old[key]) for key, value in extension.model.state_dict().items())


@pytest.mark.parametrize("name", ["gpt2", "llama2", "xlmr", "bert-uncased"])
def test_mode_extend_keeps_old_rows_and_covers_new_ones_from_text(name: str) -> None:
    pairs = list(sample_pairs()[:200])
    tables = []
    for order in (pairs, pairs):
        model = make_model(name, False)
        before = model.get_input_embeddings().weight.detach().clone()
        extension = extend_vocabulary(
            model,
            grown(name),
            TransTokenizationConfig(aligner="ibm1", iterations=3, cache=False),
            tokenizer=tokenizer(name),
            parallel=order,
        )
        tables.append(extension.model.get_input_embeddings().weight.detach())
        assert torch.equal(tables[-1][: len(before)], before)
    assert torch.equal(*tables)
    assert extension.report.counts_by_kind["method"] > 0.8 * extension.report.sizes["new_tokens"]
    assert "random" not in extension.report.counts_by_kind
    json.dumps(extension.report.method_config)


def test_mode_replace_from_text_mixes_source_rows() -> None:
    name = "bert-cased"
    model = make_model(name, True)
    extension = extend_vocabulary(
        model,
        target(name),
        TransTokenizationConfig(aligner="ibm1", iterations=3, cache=False),
        tokenizer=tokenizer(name),
        mode="replace",
        parallel=list(sample_pairs()[:200]),
    )
    sums = np.add.reduceat(extension.mapping.mixture.weights, extension.mapping.mixture.offsets[:-1])
    has_row = extension.mapping.mixture.covered
    assert sums[has_row] == pytest.approx(1.0, abs=1e-5)
    assert extension.report.method == "trans_tokenization"


# ------------------------------------------------------------------------------------------------------- bad input


def test_without_pairs_it_says_what_is_needed() -> None:
    with pytest.raises(MissingResourceError, match=r"parallel= or dictionary="):
        TransTokenization().check_resources(Resources(corpus=["a"]))


def test_counts_of_other_tokenizers_are_refused() -> None:
    counts = make_counts({((3,), (4,)): (1.0, 0.0)}, tokenizer("xlmr"), target("bert-cased"))
    with pytest.raises(errors.TokenizerMismatchError):
        TransTokenization().fit(dataclasses.replace(make_context(), resources=Resources(parallel=counts)))


def test_low_coverage_is_told_with_numbers() -> None:
    token = int(make_context().plan.new_ids[-1])
    context, _ = given(links={((300, 301), (token,)): (3.0, 0.0)})
    n_new = int((context.plan.target.kinds[context.plan.new_ids] == TokenKind.NORMAL).sum())
    with pytest.warns(VocabExtendWarning, match=rf"cover 1 of {n_new} new tokens .* of the occurrences"):
        TransTokenization().fit(context)


@pytest.mark.parametrize(
    "options",
    [
        {"aligner": "giza"},
        {"unit": "sentence"},
        {"direction": "both"},
        {"distribution": "diagonal"},
        {"shared": "yes"},
        {"uncovered": "copy"},
        {"source_mix": "max"},
        {"iterations": 0},
        {"min_count": -1.0},
        {"min_share": 1.0},
        {"min_weight": -0.1},
        {"power": 0.0},
        {"power": float("nan")},
        {"blend": -1.0},
        {"smoothing": float("inf")},
        {"shared_prior": -2.0},
        {"start_boost": 0.0},
        {"dictionary_weight": 0.0},
        {"source_weights": {"en": 0.0}},
        {"processes": 0},
        {"source_discount": -0.1},
    ],
)
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        TransTokenizationConfig(**options)


def test_config_round_trip_and_registration() -> None:
    config = TransTokenizationConfig(source_weights={"en": 2.0}, blend=1.0)
    again = TransTokenizationConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert resolve_method("trans_tokenization").name == "trans_tokenization"
    assert resolve_method(config).config is config


def test_piece_counts_add_up_and_drop_what_is_not_positive() -> None:
    counts = PieceCounts.from_entries(
        np.asarray([1, 0, 1, 2]), np.asarray([2, 1, 2, 0]), np.asarray([1.0, 2.0, 3.0, 0.0]), n_target=3, n_source=3
    )
    assert counts.rows.tolist() == [0, 1]
    assert counts.columns.tolist() == [1, 2]
    assert counts.counts.tolist() == [2.0, 4.0]
    assert counts.shares().counts.tolist() == [1.0, 1.0]


def test_entropy_tells_how_sure_the_counts_are() -> None:
    counts = PieceCounts.from_entries(
        np.asarray([0, 1, 1, 1]), np.asarray([2, 0, 1, 2]), np.asarray([7.0, 2.0, 1.0, 1.0]), n_target=3, n_source=3
    )
    expected = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert counts.entropy.tolist() == pytest.approx([0.0, expected, 0.0])
