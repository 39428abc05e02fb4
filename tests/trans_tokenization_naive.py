"""Made-up counts, and trans-tokenization computed naively in pure Python."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections import defaultdict

import numpy as np

from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.spelling import has_letters, number_entries
from hf_vocab_extend.methods.trans_tokenization import TransTokenizationConfig
from hf_vocab_extend.plan import MatchKind
from hf_vocab_extend.prepare import free_reestimated
from hf_vocab_extend.resources.alignment.counts import UnitCounts, Units, sum_links, vocab_fingerprint
from hf_vocab_extend.vocab.canonical import TokenKind

from .test_methods import make_context


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
