"""OFA against a naive row-by-row computation and against the published one, and what it does with bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hf_vocab_extend import extend_vocabulary
from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, MissingResourceError, VocabExtendWarning
from hf_vocab_extend.mapping import RowKind
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.ofa import Ofa, OfaConfig
from hf_vocab_extend.plan import build_plan
from hf_vocab_extend.resources.coverage import likely_cause
from hf_vocab_extend.resources.word_vectors import WordVectors, make_word_vectors
from hf_vocab_extend.vocab.canonical import TokenKind, canonicalise

from .factories import english, swahili, tokenizer
from .test_invariants import make_model, replacement
from .test_methods import make_context, make_table

DIM = 6
WORDS = sorted({word.strip(",.()") for line in (*english(300), *swahili(300)) for word in line.split()} - {""})


def make_space(seed: int = 3, words: list[str] = WORDS, **more) -> WordVectors:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((len(words), DIM)).astype(np.float32)
    space = make_word_vectors(words, vectors, frequencies=random.integers(1, 50, len(words)))
    return dataclasses.replace(space, **more)


def fit(config: OfaConfig | None = None, left: str = "gpt2", right: str = "bert-cased", space=None):
    context = make_context(left, right, resources=Resources(word_vectors=make_space() if space is None else space))
    return Ofa(config).fit(context), context


def capital(word: str) -> str:
    return word[0].upper() + word[1:]


FORMS = {
    "one": lambda word: [" " + word],
    "two": lambda word: [word, " " + word],
    "four": lambda word: [word, " " + word, capital(word), " " + capital(word)],
    "published": lambda word: [word, " " + word, " " + capital(word)],
}


def naive_pieces(space: WordVectors, own, kinds: np.ndarray, config: OfaConfig) -> np.ndarray:
    """Means of a list per token that a word joins once for each of its forms, or once; float64, `(n_tokens, dim)`."""
    lists: list[list[tuple[float, np.ndarray]]] = [[] for _ in kinds]
    for place, word in enumerate(space.words):
        weight = float(space.frequencies[place]) if config.weighting != "equal" else 1.0
        forms = [set(own(form, add_special_tokens=False)["input_ids"]) for form in FORMS[config.variants](word)]
        found = [index for form in forms for index in form]
        for index in found if config.counts else set(found):
            if kinds[index] in (TokenKind.NORMAL, TokenKind.BYTE):
                lists[index].append((weight, np.asarray(space.vectors[place], np.float64)))
    means = np.zeros((len(kinds), space.dim))
    for index, entries in enumerate(lists):
        if entries:
            means[index] = sum(weight * vector for weight, vector in entries) / sum(weight for weight, _ in entries)
    return means


def naive_rows(context, space: WordVectors, table: torch.Tensor, config: OfaConfig) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the new tokens, float64, and which of them there are."""
    plan = context.plan
    left = naive_pieces(space, context.source_tokenizer, plan.source.kinds, config)
    right = naive_pieces(space, context.target_tokenizer, plan.target.kinds, config)[plan.new_ids]
    pool = np.flatnonzero(left.any(1) & context.trained[: plan.n_source])
    units = left[pool] / np.linalg.norm(left[pool], axis=1, keepdims=True)
    rows = np.zeros((len(right), table.shape[1]))
    for place, query in enumerate(right):
        if query.any():
            cosines = units @ query / np.linalg.norm(query)
            nearest = np.argsort(-np.round(cosines, 10), kind="stable")[: config.k]
            weights = np.exp(cosines[nearest] / config.temperature)
            rows[place] = weights / weights.sum() @ table[torch.from_numpy(pool[nearest])].double().numpy()
    return rows, right.any(1)


CONFIGS = {
    "defaults": OfaConfig(),
    "published": OfaConfig.package(),
    "one neighbour": OfaConfig(k=1, variants="one"),
    "frequencies, each word once": OfaConfig(weighting="frequency", counts=False, variants="two", temperature=1.0),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("left", "right"), [("gpt2", "bert-cased"), ("xlmr", "llama2"), ("bert-uncased", "gpt2")])
def test_rows_are_those_of_a_naive_computation(left: str, right: str, config: OfaConfig) -> None:
    space = make_space()
    mixture, context = fit(config, left, right, space)
    table = make_table(context)
    table[torch.from_numpy(context.trained)] /= 10  # of the size of real rows
    expected, covered = naive_rows(context, space, table, config)
    assert np.array_equal(mixture.covered, covered)
    assert covered.sum() > 80
    np.testing.assert_allclose(mixture.rows(table).numpy(), expected, atol=1e-6, rtol=1e-6)


def test_words_are_weighed_by_frequencies_that_were_counted_only() -> None:
    counted, guessed = make_space(), make_space(counted=False)
    weights = {
        (name, space.counted): fit(OfaConfig(weighting=name), space=space)[0].weights
        for name in ("counted", "frequency", "equal")
        for space in (counted, guessed)
    }
    assert np.array_equal(weights["counted", True], weights["frequency", True])
    assert np.array_equal(weights["counted", False], weights["equal", False])
    assert np.array_equal(weights["frequency", False], weights["frequency", True])
    assert not np.array_equal(weights["frequency", True], weights["equal", True])


def test_rows_of_a_factor_give_the_rows_of_its_table() -> None:
    mixture, context = fit()
    factor, projection = make_table(context, 5, seed=6).clamp(-9, 9), torch.randn(5, 11)
    table = factor @ projection
    torch.testing.assert_close(mixture.rows(factor) @ projection, mixture.rows(table), atol=1e-4, rtol=1e-4)


def test_only_trained_plain_tokens_with_a_vector_are_neighbours() -> None:
    words = [*WORDS[::9], "<|endoftext|>"]
    mixture, context = fit(OfaConfig(k=2000), space=make_space(words=words))
    used = np.unique(mixture.columns)
    assert len(used) > 100
    assert context.trained[used].all()
    assert np.isin(context.plan.source.kinds[used], (TokenKind.NORMAL, TokenKind.BYTE)).all()
    vectors = naive_pieces(make_space(words=words), context.source_tokenizer, context.plan.source.kinds, OfaConfig())
    assert vectors[used].any(1).all()
    assert not vectors.any(1).all()
    sizes = np.diff(mixture.offsets)[mixture.covered]
    assert (sizes == len(used)).all()


def test_matched_rows_have_the_mean_length_of_their_sources() -> None:
    plain, context = fit()
    matched, _ = fit(OfaConfig(match_norms=True))
    table = make_table(context)
    rows, longer = plain.rows(table), matched.rows(table)
    covered = torch.from_numpy(plain.covered)
    lengths = plain.rows(table.norm(dim=1, keepdim=True))[:, 0]
    torch.testing.assert_close(longer.norm(dim=1)[covered], lengths[covered], rtol=1e-4, atol=1e-4)
    cosines = torch.nn.functional.cosine_similarity(rows[covered], longer[covered])
    torch.testing.assert_close(cosines, torch.ones_like(cosines), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shared", ["copy", "estimate"])
def test_shared_spellings_are_copied_or_estimated_in_mode_replace(shared: str) -> None:
    source, target = tokenizer("gpt2"), replacement("gpt2")
    extension = extend_vocabulary(
        make_model("gpt2", tied=True),
        target,
        OfaConfig(shared=shared),
        tokenizer=source,
        mode="replace",
        word_vectors=make_space(),
    )
    kinds = extension.mapping.kinds
    plan = build_plan(source, target, "replace")
    assert len(Ofa().reestimates(plan)) == 0
    lettered = Ofa(OfaConfig(shared="estimate")).reestimates(plan)
    assert len(lettered) > 50
    assert all(any(map(str.isalpha, target.decode([index]))) for index in lettered.tolist())
    estimated = float((kinds[lettered] == RowKind.METHOD).mean())
    assert estimated == 0 if shared == "copy" else estimated > 0.8
    assert kinds[target.get_vocab()["1"]] != RowKind.METHOD
    assert kinds[target.eos_token_id] == RowKind.SPECIAL
    assert any("mixtures of" in note and "OFA" in note for note in extension.report.notes)


def test_marks_of_word_edges_decide_how_words_are_cut() -> None:
    words = [word for word in WORDS if word.isalpha() and word.islower()]
    whole = np.full(len(words), 3, np.uint8)
    inside = np.zeros(len(words), np.uint8)
    one = OfaConfig(variants="one")
    plain, _ = fit(one, right="xlmr", space=make_space(words=words))
    marked, _ = fit(one, right="xlmr", space=make_space(words=words, bounds=whole))
    within, _ = fit(one, right="xlmr", space=make_space(words=words, bounds=inside))
    assert np.array_equal(plain.columns, marked.columns)
    assert not np.array_equal(plain.columns, within.columns)


MISSES = {
    "script": (["\u0434\u043e\u043c", "\u0432\u043e\u0434\u0430"], "Cyrillic letters .* Latin"),
    "prefix": (["eng:\u4e2d\u56fd", "swh:\u65e5\u672c", "eng:\u5927\u5b66"], "code of their language"),
    "marks": (["$\u4e2d$", "$\u65e5$", "$\u5927"], r"mark '\$' of a word's edge"),
    "other": (["\u3008\u3009", "\u300a\u300b"], "another language or spelling"),
}


@pytest.mark.parametrize("case", MISSES)
def test_words_that_hold_few_tokens_or_none_are_named_with_numbers_and_a_cause(case: str) -> None:
    words, cause = MISSES[case]
    latin = case == "prefix"  # the codes themselves are cut into some tokens
    start = r"Only \d+ of the \d+ new" if latin else r"None of the \d+ trained source"
    with pytest.raises(
        VocabExtendWarning if latin else InvalidTableError,
        match=rf"{start} tokens occur in the {len(words)} words of my vectors.* {cause}",
    ):
        fit(left="bert-cased", right="bert-cased", space=make_space(words=words, name="my vectors"))


def test_few_covered_tokens_are_a_warning_with_numbers() -> None:
    space = {word: [1.0, float(place)] for place, word in enumerate(["the", "virus", "people"])}
    with pytest.warns(
        VocabExtendWarning, match=r"Only \d+ of the 369 new tokens occur in the 3 words of word_vectors"
    ):
        fit(space=space)


def test_capital_words_for_lower_case_tokens_are_named() -> None:
    vocab = canonicalise(tokenizer("bert-uncased"))
    assert "capital letters" in likely_cause(WordVectors(["HOUSE", "WATER"], np.ones((2, 1))), vocab)
    assert "capital letters" not in likely_cause(WordVectors(["house", "water", "Paris"], np.ones((3, 1))), vocab)


def test_a_vector_that_is_no_number_is_named() -> None:
    vectors = np.ones((len(WORDS), 2), np.float32)
    vectors[7] = np.nan
    with pytest.raises(InvalidTableError, match="NaN"):
        fit(space=WordVectors(WORDS, vectors))


def test_without_words_nothing_begins() -> None:
    with pytest.raises(MissingResourceError, match="'ofa' needs"):
        Ofa().check_resources(Resources())


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"variants": "all"}, {"weighting": "rank"},
     {"shared": "blend"}],
)  # fmt: skip
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        OfaConfig(**options)


def test_options_survive_json_and_the_published_ones_can_be_changed() -> None:
    config = OfaConfig.package(k=3)
    assert OfaConfig.from_dict(config.to_dict()) == config
    assert (config.k, config.temperature, config.variants, config.weighting) == (3, 0.1, "published", "equal")


def test_replacing_a_tokenizer_by_itself_estimates_nothing() -> None:
    plan = build_plan(tokenizer("gpt2"), tokenizer("gpt2"), "replace")
    assert len(Ofa(OfaConfig(shared="estimate")).reestimates(plan)) == 0
