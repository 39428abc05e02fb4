"""FOCUS against a naive row-by-row computation, and what it does with what is missing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import CorpusError, InvalidOptionError, InvalidTableError
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.focus import Focus, FocusConfig
from hf_vocab_extend.plan import MatchKind
from hf_vocab_extend.vocab.canonical import TokenKind

from .factories import swahili
from .test_methods import make_context, make_table
from .test_neighbours import dense_sparsemax

QUICK = {"dim": 16, "buckets": 2000, "min_count": 3}


def given_vectors(context, share: float = 0.9, dim: int = 8, seed: int = 3) -> dict[str, np.ndarray]:
    """Vectors of most target tokens; one new token has a zero vector."""
    random = np.random.default_rng(seed)
    vectors = {
        token: random.standard_normal(dim).astype(np.float32)
        for token in context.plan.target.tokens
        if token is not None and random.random() < share
    }
    new = [context.plan.target.tokens[index] for index in context.plan.new_ids]
    vectors[next(token for token in new if token in vectors)][:] = 0
    return vectors


def context_with(vectors, **more):
    return make_context(resources=Resources(token_vectors=vectors), **more)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
@pytest.mark.parametrize("k", [None, 3])
def test_rows_are_sparsemax_mixtures_of_shared_tokens(k: int | None, temperature: float) -> None:
    context = make_context()
    vectors = given_vectors(context)
    context = context_with(vectors)
    plan = context.plan
    mixture = Focus(FocusConfig(k=k, temperature=temperature)).fit(context)
    table = make_table(context)
    rows = mixture.rows(table)

    anchors = [
        index
        for index in plan.copied_ids
        if plan.target.tokens[index] in vectors
        and plan.target.kinds[index] in (TokenKind.NORMAL, TokenKind.BYTE)
        and context.trained[plan.source_ids[index]]
    ]
    assert len(anchors) > 30
    pool = np.stack([vectors[plan.target.tokens[index]] for index in anchors]).astype(np.float64)
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    covered = 0
    for row, index in enumerate(plan.new_ids):
        vector = vectors.get(plan.target.tokens[index])
        if vector is None or not vector.any():
            assert not mixture.covered[row]
            assert not rows[row].any()
            continue
        covered += 1
        weights = dense_sparsemax(pool @ (vector / np.linalg.norm(vector)).astype(np.float64), temperature, k)
        expected = torch.from_numpy(weights) @ table[plan.source_ids[anchors]].double()
        torch.testing.assert_close(rows[row].double(), expected, atol=1e-5, rtol=1e-5)
    assert covered == mixture.covered.sum() > 100


def test_pool_of_text_leaves_bytes_out() -> None:
    base = make_context("llama2", "gpt2")
    vectors = given_vectors(base, share=1.0)
    contexts = [make_context("llama2", "gpt2", resources=Resources(token_vectors=vectors)) for _ in range(2)]
    plan = contexts[0].plan
    by_byte = plan.source_ids[plan.kinds == MatchKind.BYTE]
    whole = np.unique(Focus().fit(contexts[0]).columns)
    text = np.unique(Focus(FocusConfig(pool="text")).fit(contexts[1]).columns)
    assert set(whole) & set(by_byte)
    assert not set(text) & set(by_byte)
    assert set(text) < set(whole)


def test_special_and_untrained_rows_never_get_weight() -> None:
    base = make_context()
    vectors = given_vectors(base, share=1.0)
    context = context_with(vectors)
    mixture = Focus(FocusConfig(temperature=100.0)).fit(context)
    used = np.unique(mixture.columns)
    assert len(used) > 30
    assert context.trained[used].all()
    assert np.isin(context.plan.source.kinds[used], (TokenKind.NORMAL, TokenKind.BYTE)).all()


def test_vectors_as_matrix_and_as_mapping_are_the_same() -> None:
    vectors = given_vectors(make_context())
    tokens = list(vectors)[::-1]
    matrix = np.stack([vectors[token] for token in tokens])
    first = Focus().fit(context_with(vectors))
    for second in (
        (tokens, matrix),
        (tokens, torch.from_numpy(matrix)),
        ([*tokens, "absent"], np.vstack([matrix, matrix[:1]])),
    ):
        found = Focus().fit(context_with(second))
        assert np.array_equal(found.columns, first.columns)
        assert np.array_equal(found.weights, first.weights)


BAD_VECTORS = {
    "no common token": {"absent": np.ones(3)},
    "nothing": {},
    "different lengths": {"a": np.ones(3), "b": np.ones(4)},
    "wrong count": (["a", "b"], np.ones((3, 2))),
    "not a matrix": (["a", "b"], np.ones(2)),
    "strings": (["a"], np.asarray([["x", "y"]])),
    "a list": [1, 2],
    "nan": {"a": np.asarray([1.0, np.nan])},
}


@pytest.mark.parametrize("name", BAD_VECTORS)
def test_vectors_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(InvalidTableError):
        Focus().fit(context_with(BAD_VECTORS[name]))


def test_no_shared_token_with_a_vector_is_an_error() -> None:
    context = make_context()
    new = {context.plan.target.tokens[index]: np.ones(4, np.float32) for index in context.plan.new_ids}
    with pytest.raises(InvalidTableError, match="nothing to mix from"):
        Focus().fit(context_with(new))


def test_trained_on_a_corpus_it_covers_frequent_tokens_alike_at_every_run() -> None:
    config = FocusConfig(**QUICK)
    first = Focus(config).fit(make_context(resources=Resources(corpus=swahili())))
    uncached = Focus(dataclasses.replace(config, cache=False)).fit(make_context(resources=Resources(corpus=swahili())))
    cached = Focus(config).fit(make_context(resources=Resources(corpus=swahili())))
    for other in (uncached, cached):
        assert np.array_equal(first.columns, other.columns)
        assert np.array_equal(first.weights, other.weights)
    context = make_context()
    counts = np.zeros(context.plan.n_target, np.int64)
    for ids in context.target_tokenizer(swahili(), add_special_tokens=False)["input_ids"]:
        np.add.at(counts, ids, 1)
    assert np.array_equal(first.covered, counts[context.plan.new_ids] >= QUICK["min_count"])
    another = Focus(config).fit(make_context(seed=1, resources=Resources(corpus=swahili())))
    assert not np.array_equal(first.weights, another.weights)


def test_a_corpus_that_is_too_small_is_an_error_with_numbers() -> None:
    context = make_context(resources=Resources(corpus=["habari ya leo"]))
    with pytest.raises(CorpusError, match=r"No token occurs 10 times .* most frequent one occurs"):
        Focus(FocusConfig(cache=False)).fit(context)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"k": 0},
        {"pool": "all"},
        {"dim": 0},
        {"epochs": 0},
        {"min_count": 0},
        {"threads": 0},
        {"min_ngram": 4, "max_ngram": 3},
        {"min_ngram": 0},
    ],
)
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        FocusConfig(**options)
