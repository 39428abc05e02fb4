"""Trans-tokenization against naive pure-Python computations, option by option."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import InvalidTableError
from hf_vocab_extend.methods import distribution, mapped_pieces, spelling, uncovered
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.distribution import (
    DIRECTIONS,
    DISTRIBUTIONS,
    choose_links,
    distribute,
)
from hf_vocab_extend.methods.spelling import has_letters, is_literal, number_entries
from hf_vocab_extend.methods.subword import Subword
from hf_vocab_extend.methods.trans_tokenization import TransTokenization, TransTokenizationConfig
from hf_vocab_extend.vocab.canonical import TokenKind

from .factories import tokenizer
from .test_methods import make_context, make_table, target
from .trans_tokenization_naive import (
    freed,
    given,
    make_counts,
    naive_distribute,
    naive_links,
    naive_parts,
    naive_rows,
    same_rows,
)

pytestmark = pytest.mark.filterwarnings("ignore:The .* pairs cover")  # the made-up counts are few; see its own test
FAMILY_PAIRS = [("gpt2", "bert-cased"), ("bert-cased", "bert-cased"), ("llama2", "xlmr"), ("clip", "gemma")]


# ---------------------------------------------------------------------------------------------------- the pieces


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("how", DISTRIBUTIONS)
def test_distribution_is_the_naive_one(how: str, whole: bool, monkeypatch) -> None:
    context, links = given(whole=whole, n=300)
    counts, plan = context.resources.parallel, context.plan
    expected = naive_distribute(naive_links(links, "sum", 0, 0), how)
    for block in (1 << 22, 7):  # the size of the blocks must not matter
        monkeypatch.setattr(distribution, "_BLOCK", block)
        dealt = distribute(counts, how, n_target=plan.n_target, n_source=plan.n_source)
        rows: dict = defaultdict(dict)
        for row, column, value in zip(dealt.rows, dealt.columns, dealt.counts, strict=True):
            rows[int(row)][int(column)] = value
        assert set(rows) == set(expected)
        for row, entries in expected.items():
            assert rows[row] == pytest.approx(entries, abs=1e-9)


@pytest.mark.parametrize("how", ["in_order", "all_to_all", "both"])
def test_every_token_of_a_word_gets_its_whole_count(how: str) -> None:
    source, to = tokenizer("gpt2"), target("bert-cased")
    counts = make_counts({((300, 301, 302), (20, 21)): (6.0, 1.5)}, source, to)
    dealt = distribute(counts, how, n_target=500, n_source=700)
    assert dealt.mass[[20, 21]] == pytest.approx([7.5, 7.5])
    assert dealt.mass.sum() == pytest.approx(15.0)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("min_count", "min_share"), [(0, 0), (5, 0), (0, 0.2), (4, 0.3)])
def test_links_that_count(direction: str, min_count: float, min_share: float) -> None:
    context, links = given(n=400)
    counts = context.resources.parallel
    found = choose_links(counts, direction, min_count, min_share)
    words = [
        [tuple(units.pieces[units.offsets[index] : units.offsets[index + 1]].tolist()) for index in chosen]
        for units, chosen in ((counts.source, found.source_index), (counts.target, found.target_index))
    ]
    expected = naive_links(links, direction, min_count, min_share)
    assert 0 < len(expected) <= len(links)
    assert dict(zip(zip(*words, strict=True), found.counts.tolist(), strict=True)) == pytest.approx(expected)


def test_a_piece_outside_the_vocabulary_is_refused() -> None:
    counts = make_counts({((3,), (4,)): (1.0, 0.0)}, tokenizer("gpt2"), target("bert-cased"))
    with pytest.raises(InvalidTableError, match="target id 4"):
        distribute(counts, "in_order", n_target=4, n_source=10)


@pytest.mark.parametrize("seed", range(30))
def test_related_pieces_are_the_naive_ones(seed: int) -> None:
    draw = random.Random(seed)
    letters = "ab" if seed % 2 else "abc"
    words = sorted({"".join(draw.choices(letters, k=draw.randint(1, 7))) for _ in range(draw.randint(0, 70))})
    draw.shuffle(words)
    n = draw.randint(0, len(words))
    queries, pieces = ([word.encode() for word in part] for part in (words[:n], words[n:]))
    inner = np.asarray([draw.random() < 0.7 for _ in pieces], bool)
    for mask in (None, inner):
        read = mapped_pieces.Strings.from_bytes
        found = mapped_pieces.mapped_pieces(read(queries), read(pieces), mask)
        allowed = set(range(len(pieces))) if mask is None else set(np.flatnonzero(mask).tolist())
        expected = sorted(
            (row, piece)
            for row, query in enumerate(queries)
            for piece in naive_parts(tuple(query), {i: tuple(p) for i, p in enumerate(pieces)}, allowed)
        )
        assert list(zip(found.query.tolist(), found.piece.tolist(), strict=True)) == expected


def test_token_classes() -> None:
    context = make_context("gpt2", "gpt2")
    vocab = context.plan.target
    ids = np.arange(len(vocab))
    texts = [vocab.text(index) or "" for index in ids]
    normal = vocab.kinds == TokenKind.NORMAL
    letters = np.asarray([any(char.isalpha() for char in text) for text in texts]) & normal
    assert np.array_equal(has_letters(vocab, ids), letters)
    literal = is_literal(vocab, ids)
    assert literal.sum() > 10
    assert not (literal & letters).any()
    assert all(texts[index].isascii() for index in np.flatnonzero(literal))


@pytest.fixture
def few_numbers(monkeypatch) -> list[str]:
    """The numbers that are one token are small ones and years: these are enough, and quick."""
    assert len(spelling._NUMBERS) == 9999 + 99
    chosen = spelling._NUMBERS[:130] + spelling._NUMBERS[1990:2030] + spelling._NUMBERS[-99:]
    monkeypatch.setattr(spelling, "_NUMBERS", chosen)
    return chosen


@pytest.mark.parametrize(("source", "to"), FAMILY_PAIRS)
def test_number_entries_are_the_naive_ones(source: str, to: str, few_numbers: list[str]) -> None:
    there, here = tokenizer(source), target(to)
    expected = []
    for number in few_numbers:
        first = there.convert_tokens_to_ids(there.tokenize(number))[0]
        if number in here.get_vocab():
            expected.append((here.get_vocab()[number], there.get_vocab().get(number, first)))
        for text in (number, " " + number):
            if len(here.tokenize(text)) == 1:
                cut = there.convert_tokens_to_ids(there.tokenize(text))
                expected.append((here.convert_tokens_to_ids(here.tokenize(text))[0], cut[0]))
    assert sorted(zip(*(part.tolist() for part in number_entries(there, here)), strict=True)) == sorted(expected)


# ----------------------------------------------------------------------------------------------------- the method

OPTIONS = [
    {},
    {"distribution": "both", "direction": "minimum"},
    {"distribution": "all_to_all", "min_count": 3.0, "min_share": 0.1},
    {"power": 1.7, "min_weight": 0.05, "source_discount": 0.0},
    {"shared": "candidate", "smoothing": 2.0, "uncovered": "none"},
    {"shared": "none", "uncovered": "token", "start_boost": 1.0},
    {"shared": "copy", "start_boost": 5.0},
    {"shared_prior": 0.5, "direction": "geometric"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())) or "default")
@pytest.mark.parametrize(("source", "to"), FAMILY_PAIRS)
def test_rows_are_the_naive_ones(source: str, to: str, options: dict) -> None:
    config = TransTokenizationConfig(literal=False, **options)
    method = TransTokenization(config)
    context, links = given(source, to)
    context = freed(context, method)
    mixture = method.fit(context)
    expected = naive_rows(context, links, config)
    assert sum(map(bool, expected)) > 40
    same_rows(mixture, expected)
    sums = np.bincount(np.repeat(np.arange(mixture.n_rows), np.diff(mixture.offsets)), mixture.weights)
    assert sums[mixture.covered[: len(sums)]] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.usefixtures("few_numbers")
@pytest.mark.parametrize(("source", "to"), FAMILY_PAIRS)
def test_options_of_the_package_count_in_whole_numbers(source: str, to: str) -> None:
    config = TransTokenizationConfig.package()
    method = TransTokenization(config)
    context, links = given(source, to, whole=True, n=300)
    context = freed(context, method)
    expected = naive_rows(context, links, config)
    same_rows(method.fit(context), expected)


def test_the_size_of_blocks_and_the_order_of_the_counts_do_not_matter(monkeypatch) -> None:
    method = TransTokenization()
    context, links = given()
    context = freed(context, method)
    first = method.fit(context)
    monkeypatch.setattr(uncovered, "_BLOCK", 5)
    monkeypatch.setattr(distribution, "_BLOCK", 5)
    pairs = list(links.items())
    random.Random(4).shuffle(pairs)
    shuffled = make_counts(dict(pairs), context.source_tokenizer, context.target_tokenizer)
    second = method.fit(dataclasses.replace(context, resources=Resources(parallel=shuffled)))
    assert np.array_equal(first.columns, second.columns)
    assert np.array_equal(first.offsets, second.offsets)
    np.testing.assert_allclose(first.weights, second.weights, rtol=1e-6)


def test_special_and_untrained_source_tokens_get_no_weight() -> None:
    context = make_context("bert-cased", "gpt2")
    plan = context.plan
    special = int(np.flatnonzero(plan.source.kinds == TokenKind.SPECIAL)[0])
    untrained = int(np.flatnonzero(~context.trained)[0])
    token = int(next(index for index in plan.new_ids if has_letters(plan.target, np.asarray([index]))[0]))
    links = {((special,), (token,)): (9.0, 0.0), ((untrained,), (token,)): (9.0, 0.0), ((60,), (token,)): (1.0, 0.0)}
    context, _ = given("bert-cased", "gpt2", links)
    mixture = TransTokenization(TransTokenizationConfig(min_share=0.0, uncovered="none", literal=False)).fit(context)
    row = int(np.flatnonzero(plan.new_ids == token)[0])
    assert mixture.row(row) == [(60, 1.0)]
    assert mixture.covered.sum() == 1


def test_rare_tokens_lean_on_their_own_source_tokens() -> None:
    context, links = given()
    config = TransTokenizationConfig(literal=False, match_norms=False)
    plain = TransTokenization(config).fit(context)
    mixed = TransTokenization(dataclasses.replace(config, blend=3.0)).fit(context)
    own = Subword().fit(context)
    counts = naive_distribute(naive_links(links, "sum", 0, 0.02), "in_order")
    table = make_table(context)
    plain_rows, own_rows, rows = (part.rows(table).double() for part in (plain, own, mixed))
    checked = 0
    for place, token in enumerate(context.plan.new_ids.tolist()):
        mass = sum(value for source, value in counts.get(token, {}).items() if context.trained[source])
        trust = mass / (mass + 3.0) if mass and own.covered[place] else 1.0
        checked += trust < 1
        expected = trust * plain_rows[place] + (1 - trust) * own_rows[place]
        torch.testing.assert_close(rows[place], expected, atol=1e-4, rtol=1e-4)
    assert checked > 30


def test_new_tokens_of_digits_and_signs_are_spelled() -> None:
    context = make_context("llama2", "gpt2")
    plan = context.plan
    literal = plan.new_ids[is_literal(plan.target, plan.new_ids)]
    assert len(literal) >= 2
    links = {((300,), (int(token),)): (50.0, 50.0) for token in plan.new_ids}
    context, _ = given("llama2", "gpt2", links)
    mixture, own = TransTokenization().fit(context), Subword().fit(context)
    translated = TransTokenization(TransTokenizationConfig(literal=False)).fit(context)
    for place, token in enumerate(plan.new_ids.tolist()):
        spelled = token in literal and own.covered[place]
        assert mixture.row(place) == (own.row(place) if spelled else [(300, 1.0)])
        assert translated.row(place) == [(300, 1.0)]
