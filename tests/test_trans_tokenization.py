"""Trans-tokenization against naive pure-Python computations, its options, and what it does with bad input."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import random
from collections import defaultdict

import numpy as np
import pytest
import torch

from hf_vocab_extend import errors, extend_vocabulary
from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, MissingResourceError, VocabExtendWarning
from hf_vocab_extend.mapping import RowKind
from hf_vocab_extend.methods import distribution, mapped_pieces, resolve_method, spelling, uncovered
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.distribution import (
    DIRECTIONS,
    DISTRIBUTIONS,
    PieceCounts,
    choose_links,
    distribute,
)
from hf_vocab_extend.methods.spelling import has_letters, is_literal, number_entries
from hf_vocab_extend.methods.subword import Subword
from hf_vocab_extend.methods.trans_tokenization import TransTokenization, TransTokenizationConfig
from hf_vocab_extend.plan import MatchKind
from hf_vocab_extend.prepare import free_reestimated
from hf_vocab_extend.resources.alignment.counts import UnitCounts, Units, sum_links, vocab_fingerprint
from hf_vocab_extend.vocab.canonical import TokenKind

from .factories import sample_pairs, tokenizer
from .test_invariants import grown, make_model
from .test_methods import make_context, make_table, target

pytestmark = pytest.mark.filterwarnings("ignore:The .* pairs cover")  # the made-up counts are few; see its own test
FAMILY_PAIRS = [("gpt2", "bert-cased"), ("bert-cased", "bert-cased"), ("llama2", "xlmr"), ("clip", "gemma")]


def make_units(words: list[tuple[int, ...]]) -> Units:
    offsets = np.cumsum([0] + [len(word) for word in words]).astype(np.int64)
    pieces = np.asarray([piece for word in words for piece in word], np.int32)
    return Units(offsets, pieces, np.asarray([1 + sum(word) % 9 for word in words], np.int64))


def make_counts(links: dict, source, target_tokenizer) -> UnitCounts:
    """Counts from ``{(source pieces, target pieces): (forward, backward)}``."""
    sides = [list(dict.fromkeys(pair[side] for pair in links)) for side in (0, 1)]
    index = [{word: place for place, word in enumerate(side)} for side in sides]
    source_index = np.asarray([index[0][pair[0]] for pair in links])
    target_index = np.asarray([index[1][pair[1]] for pair in links])
    values = np.asarray(list(links.values()), np.float64).reshape(-1, 2)
    summed = sum_links(source_index, target_index, values[:, 0], values[:, 1])
    prints = vocab_fingerprint(source), vocab_fingerprint(target_tokenizer)
    return UnitCounts(make_units(sides[0]), make_units(sides[1]), *summed, 100, *prints)


def text_ids(vocab) -> list[int]:
    return [index for index in range(len(vocab)) if vocab.kinds[index] in (TokenKind.NORMAL, TokenKind.BYTE)]


def random_links(context, n: int = 150, seed: int = 0, whole: bool = False) -> dict:
    """Links between made-up words of up to four tokens."""
    draw = random.Random(seed)
    sides = [text_ids(context.plan.source), text_ids(context.plan.target)]
    words = [[tuple(draw.choices(ids, k=draw.randint(1, 4))) for _ in range(60)] for ids in sides]
    links = {}
    for _ in range(n):
        pair = draw.choice(words[0]), draw.choice(words[1])
        links[pair] = (draw.randint(0, 60), 0) if whole else (draw.random() * 9, draw.random() * 9)
    return links


@functools.cache
def base_context(source: str, to: str):
    return make_context(source, to)


def given(source: str = "gpt2", to: str = "bert-cased", links: dict | None = None, **more):
    """A context in mode replace, with the tokens freed that the method asks for, and counts as its text."""
    context = base_context(source, to)
    links = random_links(context, **more) if links is None else links
    counts = make_counts(links, context.source_tokenizer, context.target_tokenizer)
    return dataclasses.replace(context, resources=Resources(parallel=counts)), links


def freed(context, method):
    plan, shared = free_reestimated(context.plan, method)
    return dataclasses.replace(context, plan=plan, shared=shared)


# ---------------------------------------------------------------------------------------------- naive computations


def naive_links(links: dict, direction: str, min_count: float, min_share: float) -> dict:
    combine = {
        "sum": lambda pair: pair[0] + pair[1],
        "forward": lambda pair: pair[0],
        "backward": lambda pair: pair[1],
        "minimum": min,
        "geometric": lambda pair: math.sqrt(pair[0] * pair[1]),
    }[direction]
    values = {words: combine(pair) for words, pair in links.items()}
    mass: dict = defaultdict(float)
    for (_, word), value in values.items():
        mass[word] += value
    return {
        words: value
        for words, value in values.items()
        if value > 0 and value >= min_count and value >= min_share * mass[words[1]]
    }


def stretched(left: tuple, right: tuple) -> list[tuple]:
    size = math.lcm(len(left), len(right))
    return list(
        zip(
            [item for item in left for _ in range(size // len(left))],
            [item for item in right for _ in range(size // len(right))],
            strict=True,
        )
    )


def naive_distribute(links: dict, how: str) -> dict:
    """Counts by target token and source token."""
    found: dict = defaultdict(lambda: defaultdict(float))
    for (source, word), value in links.items():
        in_order, crossed = stretched(source, word), [(left, right) for right in word for left in source]
        steps = max(1, len(source) // math.gcd(len(source), len(word)))
        if how == "package":
            if len(source) == len(word) == 1:
                found[word[0]][source[0]] += int(value)
                continue
            half = max(1, int(value) // 2)
            for left, right in crossed:
                found[right][left] += max(1, half // len(source))
            for left, right in in_order:
                found[right][left] += max(1, half // steps)
            continue
        shares = {"in_order": (0, 1), "all_to_all": (1, 0), "both": (0.5, 0.5)}[how]
        for share, pairs, parts in ((shares[0], crossed, len(source)), (shares[1], in_order, steps)):
            for left, right in pairs if share else ():
                found[right][left] += share * value / parts
    return found


@functools.cache
def naive_strings(vocab, spelling: str) -> dict[int, tuple]:
    """Tokens as tuples of symbols."""
    if spelling == "token":
        return {index: tuple(token.encode()) for index, token in enumerate(vocab.tokens) if token is not None}
    marks = {index: (["^"] if vocab.starts_word[index] == 1 else []) for index in range(len(vocab))}
    return {
        index: tuple(marks[index] + list(vocab.raw[index]) + (["$"] if vocab.ends_word[index] == 1 else []))
        for index in range(len(vocab))
    }


def contains(outer: tuple, inner: tuple) -> bool:
    return any(outer[start : start + len(inner)] == inner for start in range(len(outer) - len(inner) + 1))


def naive_parts(query: tuple, pieces: dict[int, tuple], inner: set[int]) -> set[int]:
    """Pieces that begin with the query, and those inside it that no other piece inside it contains."""
    inside = {index for index in inner if contains(query, pieces[index])}
    outermost = {
        index
        for index in inside
        if not any(contains(pieces[other], pieces[index]) for other in inside if pieces[other] != pieces[index])
    }
    return outermost | {index for index, piece in pieces.items() if piece[: len(query)] == query}


def naive_alike(context) -> dict[int, int]:
    """Source token of each target token that both vocabularies spell alike."""
    plan = context.plan
    shared = [] if context.shared is None else context.shared.tolist()
    alike = {token: source for token, source in zip(plan.new_ids.tolist(), shared, strict=False) if source >= 0}
    for token in text_ids(plan.target):
        if plan.kinds[token] in (MatchKind.EXACT, MatchKind.BYTE):
            alike[token] = int(plan.source_ids[token])
    return alike


def naive_counts(context, links: dict, config: TransTokenizationConfig) -> tuple[dict, set[int]]:
    """Counts of tokens with what their spelling adds, and the tokens that the links cover."""
    plan = context.plan
    chosen = naive_links(links, config.direction, config.min_count, config.min_share)
    found = {}
    for token, row in naive_distribute(chosen, config.distribution).items():
        if kept := {source: value for source, value in row.items() if context.trained[source]}:
            found[token] = kept
    frequency: dict[int, int] = defaultdict(int)
    for word in {pair[0] for pair in links}:
        for source in word:
            frequency[source] += 1 + sum(word) % 9
    for token, row in found.items():
        discounted = {source: value / frequency[source] ** config.source_discount for source, value in row.items()}
        scale = sum(row.values()) / sum(discounted.values())
        found[token] = {source: value * scale for source, value in discounted.items()}
    known = set(found)
    prior = {"blend": config.shared_prior, "none": 0.0}.get(config.shared, config.smoothing)
    for token, source in naive_alike(context).items():
        if not context.trained[source]:
            continue
        if config.shared in ("blend", "copy") and not has_letters(plan.target, np.asarray([token]))[0]:
            found[token] = {source: 1.0}
        elif prior > 0:
            row = found.setdefault(token, {})
            row[source] = row.get(source, 0) + prior
    numbers = number_entries(context.source_tokenizer, context.target_tokenizer) if config.numbers else ([], [])
    for token, source in zip(*numbers, strict=True):
        if plan.source.kinds[source] in (0, 2) and plan.target.kinds[token] in (0, 2) and context.trained[source]:
            row = found.setdefault(int(token), {})
            row[int(source)] = row.get(int(source), 0) + 1
    return found, known


def naive_sharpened(row: dict[int, float], config: TransTokenizationConfig) -> dict[int, float]:
    total = sum(row.values())
    powered = {source: (value / total) ** config.power for source, value in row.items()}
    total = sum(powered.values())
    powered = {source: value / total for source, value in powered.items()}
    largest = max(powered.values())
    return {source: value for source, value in powered.items() if value >= config.min_weight or value == largest}


def naive_related(context, token: int, found: dict, config: TransTokenizationConfig) -> dict[int, float]:
    vocab = context.plan.target
    strings = naive_strings(vocab, config.uncovered)
    covered = {piece: strings[piece] for piece in found}
    # what does not begin with the token's first bytes or share any of its symbols cannot matter
    covered = {
        piece: text
        for piece, text in covered.items()
        if text[0] == strings[token][0] or set(text) <= set(strings[token])
    }
    whole = {piece for piece in covered if vocab.kinds[piece] == 0 and vocab.text(piece) is not None}
    row: dict[int, float] = defaultdict(float)
    for piece in naive_parts(strings[token], covered, set(covered) if config.uncovered == "token" else whole):
        total = sum(found[piece].values())
        for source, value in found[piece].items():
            there = context.plan.source
            starts = there.starts_word[source] == 1 or (there.kinds[source] == 0 and not there.raw[source].strip(b" "))
            boost = config.start_boost if starts else 1
            in_whole = max(1, int(1000 * boost * value) // int(total)) if total >= 1 else 0
            row[source] += in_whole if config.distribution == "package" else value * boost / total
    return row


def naive_rows(context, links: dict, config: TransTokenizationConfig) -> list[dict[int, float]]:
    """Weights of the new tokens, by source id, as the options say; without ``blend`` and ``literal``."""
    plan, alike = context.plan, naive_alike(context)
    found, known = naive_counts(context, links, config)
    rows = []
    for token in plan.new_ids.tolist():
        row: dict[int, float] = {}
        if token in found and (token in known or token not in alike):
            row = naive_sharpened(found[token], config)
        elif token not in found and token not in alike and config.uncovered != "none":
            if plan.target.kinds[token] == TokenKind.NORMAL:
                row = naive_related(context, token, found, config)
        total = sum(row.values())
        rows.append({source: value / total for source, value in row.items()})
    return rows


def same_rows(mixture, expected: list[dict[int, float]], atol: float = 1e-6) -> None:
    assert mixture.n_rows == len(expected)
    for index, row in enumerate(expected):
        found = dict(mixture.row(index))
        assert set(found) == set(row), index
        for source, value in row.items():
            assert abs(found[source] - value) < atol, (index, source)


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
