"""WECHSEL against a naive row-by-row computation, what aligns two spaces, and what it does with bad input."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_vocab_extend import extend_vocabulary
from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, MissingResourceError, VocabExtendWarning
from hf_vocab_extend.mapping import RowKind
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.wechsel import Wechsel, WechselConfig
from hf_vocab_extend.plan import MatchKind, build_plan
from hf_vocab_extend.resources import piece_incidence, word_vector_tables
from hf_vocab_extend.resources.corpus import open_corpus
from hf_vocab_extend.resources.word_vectors import make_word_vectors
from hf_vocab_extend.vocab.canonical import TokenKind

from .factories import english, sample_pairs, swahili, tokenizer
from .test_invariants import make_model, replacement
from .test_methods import make_context, make_table

DIM = 6
QUICK = {"dim": 12, "epochs": 2, "min_count": 2}


def words_of(lines: list[str]) -> list[str]:
    return sorted({word for line in lines for word in line.replace(",", " ").replace(".", " ").split()})


SOURCE_WORDS, TARGET_WORDS = words_of(english(300)), words_of(swahili(300))


def space(words: list[str], seed: int, dim: int = DIM):
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((len(words), dim)).astype(np.float32)
    return make_word_vectors(words, vectors, frequencies=random.integers(1, 50, len(words)))


def pairs_of(n: int = 60) -> list[tuple[str, str]]:
    random = np.random.default_rng(9)
    left, right = (random.choice(words, n) for words in (SOURCE_WORDS, TARGET_WORDS))
    return [(str(one), str(two).upper() if n % 7 == 0 else str(two)) for one, two in zip(left, right, strict=True)]


def naive_pieces(space_, tokenizer_, n_tokens: int) -> np.ndarray:
    """Frequency-weighted means of the words that contain a token, float64, shape `(n_tokens, dim)`."""
    sums, totals = np.zeros((n_tokens, space_.dim)), np.zeros(n_tokens)
    matrix = space_.take(np.arange(len(space_))).astype(np.float64)
    for place, word in enumerate(space_.words):
        for text in (word, " " + word):
            for index in set(tokenizer_(text, add_special_tokens=False)["input_ids"]):
                sums[index] += space_.frequencies[place] * matrix[place]
                totals[index] += space_.frequencies[place]
    return sums / np.maximum(totals, 1)[:, None]


def naive_rotation(source, target, pairs) -> np.ndarray:
    rows = []
    for left, right in pairs:
        for one in (left, left.lower(), left.title()):
            for two in (right, right.lower(), right.title()):
                if one in source.words and two in target.words:
                    rows.append((source.words.index(one), target.words.index(two)))
    places = np.asarray(rows)
    one, two = source.take(places[:, 0]), target.take(places[:, 1])
    left, _, right = np.linalg.svd(one.astype(np.float64).T @ two.astype(np.float64))
    return left @ right


@pytest.mark.parametrize("shape", ["two spaces", "one space"])
@pytest.mark.parametrize(("k", "temperature"), [(10, 0.1), (1, 0.1), (3, 1.0)])
@pytest.mark.parametrize(("left", "right"), [("gpt2", "bert-cased"), ("xlmr", "llama2"), ("bert-uncased", "gpt2")])
def test_rows_are_softmax_mixtures_of_the_nearest_source_tokens(
    left: str, right: str, k: int, temperature: float, shape: str
) -> None:
    source, target, pairs = space(SOURCE_WORDS, 1), space(TARGET_WORDS, 2), pairs_of()
    given = {"word_vectors": (source, target), "dictionary": pairs}
    if shape == "one space":
        source = target = space(sorted({*SOURCE_WORDS, *TARGET_WORDS}), 3)
        given = {"word_vectors": source}
    context = make_context(left, right, resources=Resources(**given))
    plan = context.plan
    mixture = Wechsel(WechselConfig(k=k, temperature=temperature)).fit(context)
    table = make_table(context)
    rows = mixture.rows(table)

    pool = naive_pieces(source, context.source_tokenizer, plan.n_source)
    if shape == "two spaces":
        pool = pool @ naive_rotation(source, target, pairs)
    plain = np.isin(plan.source.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    ids = np.flatnonzero(pool.any(1) & plain & context.trained[: plan.n_source])
    assert len(ids) > 100
    pool = pool[ids] / np.linalg.norm(pool[ids], axis=1, keepdims=True)
    queries = naive_pieces(target, context.target_tokenizer, plan.n_target)[plan.new_ids]
    queries[~np.isin(plan.target.kinds[plan.new_ids], (TokenKind.NORMAL, TokenKind.BYTE))] = 0
    assert np.array_equal(mixture.covered, queries.any(1))
    assert mixture.covered.sum() > 80
    for row, query in enumerate(queries):
        if not query.any():
            assert not rows[row].any()
            continue
        cosines = pool @ query / np.linalg.norm(query)
        nearest = np.argsort(-cosines, kind="stable")[:k]
        weights = np.exp(cosines[nearest] / temperature)
        weights /= weights.sum()
        assert np.array_equal(np.sort(ids[nearest]), np.sort([index for index, _ in mixture.row(row)]))
        expected = torch.from_numpy(weights) @ table[torch.from_numpy(ids[nearest])].double()
        torch.testing.assert_close(rows[row].double(), expected, atol=2e-5, rtol=2e-5)
        found = dict(mixture.row(row))
        np.testing.assert_allclose([found[index] for index in ids[nearest]], weights, atol=1e-6)


def test_special_and_untrained_rows_never_get_weight() -> None:
    context = make_context(resources=Resources(word_vectors=space([*SOURCE_WORDS, "<|endoftext|>"], 1)))
    mixture = Wechsel(WechselConfig(k=2000)).fit(context)
    used = np.unique(mixture.columns)
    assert len(used) > 100
    assert context.trained[used].all()
    assert np.isin(context.plan.source.kinds[used], (TokenKind.NORMAL, TokenKind.BYTE)).all()


def test_a_turned_space_is_turned_back() -> None:
    words = sorted({*SOURCE_WORDS, *TARGET_WORDS})
    one = space(words, 5)
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))
    turned = make_word_vectors(words, (one.take(np.arange(len(words))) @ basis).astype(np.float32),
                               frequencies=one.frequencies)  # fmt: skip
    expected = Wechsel().fit(make_context(resources=Resources(word_vectors=one)))
    ways = {
        "auto": {"dictionary": [(word, word) for word in words[::3]]},
        "identical": {},
        "dictionary": {"dictionary": [(word, word) for word in words[::3]]},
    }
    for align, more in ways.items():
        resources = Resources(word_vectors={"target": turned, "source": one}, **more)
        found = Wechsel(WechselConfig(align=align)).fit(make_context(resources=resources))
        assert np.array_equal(found.columns, expected.columns)
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)
    resources = Resources(word_vectors=(one, one), dictionary=[])
    found = Wechsel(WechselConfig(align="none")).fit(make_context(resources=resources))
    assert np.array_equal(found.weights, expected.weights)


def test_two_spaces_of_different_dimensions_meet_in_the_smaller_one() -> None:
    words = sorted({*SOURCE_WORDS, *TARGET_WORDS})
    one = space(words, 5)
    wide = make_word_vectors(words, np.pad(one.take(np.arange(len(words))), ((0, 0), (0, 3)))[:, ::-1].copy(),
                             frequencies=one.frequencies)  # fmt: skip
    expected = Wechsel().fit(make_context(resources=Resources(word_vectors=one)))
    for sides in ((one, wide), (wide, one)):
        found = Wechsel(WechselConfig(align="identical")).fit(make_context(resources=Resources(word_vectors=sides)))
        assert np.array_equal(found.columns, expected.columns)
        np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)
        with pytest.raises(InvalidTableError, match="not one space"):
            Wechsel(WechselConfig(align="none")).fit(make_context(resources=Resources(word_vectors=sides)))


PAIRS = [("water", "maji"), ("health", "afya"), ("disease", "ugonjwa"), ("people", "watu"), ("and", "na"),
         ("virus", "virusi"), ("of", "ya"), ("days", "siku"), ("children", "watoto"), ("doctor", "daktari"),
         ("person", "mtu"), ("in", "katika"), ("symptoms", "dalili"), ("fever", "homa"),
         (",", ","), (".", "."), ("(", "("), ("to", "kwa"), ("the", "ya")]  # fmt: skip


def trained(**more):
    return make_context(resources=Resources(**more))


def test_spaces_are_trained_on_both_sides_of_parallel_text_alike_at_every_run() -> None:
    pytest.importorskip("fasttext")
    pairs = list(sample_pairs()[:800])
    config = WechselConfig(**QUICK, align="dictionary")
    first = Wechsel(config).fit(trained(parallel=pairs, dictionary=PAIRS))
    uncached = Wechsel(dataclasses.replace(config, cache=False)).fit(trained(parallel=pairs, dictionary=PAIRS))
    sides = open_corpus([pair[0] for pair in pairs]), open_corpus([pair[1] for pair in pairs])
    as_text = Wechsel(config).fit(trained(word_vectors=sides, dictionary=PAIRS))
    mixed = Wechsel(config).fit(trained(word_vectors=(sides[0], None), corpus=sides[1], dictionary=PAIRS))
    for other in (uncached, as_text, mixed):
        assert np.array_equal(first.columns, other.columns)
        assert np.array_equal(first.weights, other.weights)
    assert first.covered.mean() > 0.8
    other_text = Wechsel(config).fit(trained(parallel=pairs, corpus=open_corpus(swahili(300)), dictionary=PAIRS))
    assert not np.array_equal(first.columns, other_text.columns)


def test_parallel_text_stands_in_for_a_dictionary_and_joins_it() -> None:
    pytest.importorskip("fasttext")
    pairs = list(sample_pairs()[:800])
    with_text, joined, alone = (
        Wechsel(WechselConfig(**QUICK, align=align)).fit(trained(parallel=pairs, **more))
        for align, more in (("parallel", {}), ("auto", {"dictionary": PAIRS}), ("dictionary", {"dictionary": PAIRS}))
    )
    once = trained(parallel=iter(pairs))  # can be read once only
    Wechsel().check_resources(once.resources)
    by_itself = Wechsel(WechselConfig(**QUICK)).fit(once)
    assert np.array_equal(by_itself.columns, with_text.columns)
    assert np.array_equal(by_itself.weights, with_text.weights)
    for other in (joined, alone):
        assert not np.array_equal(other.columns, with_text.columns)
    assert not np.array_equal(joined.columns, alone.columns)


@pytest.mark.parametrize("shared", ["copy", "estimate"])
def test_shared_spellings_are_copied_or_estimated_in_mode_replace(shared: str) -> None:
    source, target = tokenizer("gpt2"), replacement("gpt2")
    model = make_model("gpt2", tied=True)
    old = model.get_input_embeddings().weight.detach().clone()
    both = space(sorted({*SOURCE_WORDS, *TARGET_WORDS}), 3)
    extension = extend_vocabulary(
        model, target, WechselConfig(shared=shared), tokenizer=source, mode="replace", word_vectors=both
    )
    kinds = extension.mapping.kinds
    place = int(Wechsel(WechselConfig(shared="estimate")).reestimates(build_plan(source, target, "replace"))[0])
    digit, comma = (target.get_vocab()[token] for token in ("1", ","))
    assert kinds[place] == (RowKind.EXACT if shared == "copy" else RowKind.METHOD)
    assert {int(kinds[digit]), int(kinds[comma])} <= {int(RowKind.EXACT), int(RowKind.BYTE)}
    new = extension.model.get_input_embeddings().weight
    assert torch.equal(new[comma], old[source.get_vocab()[","]])
    assert (kinds[target.eos_token_id]) == RowKind.SPECIAL
    method = int((kinds == RowKind.METHOD).sum())
    assert method > 150


def test_only_lettered_copies_are_asked_for() -> None:
    plan = make_context("gpt2", "bert-cased").plan
    assert len(Wechsel().reestimates(plan)) == 0
    wanted = Wechsel(WechselConfig(shared="estimate")).reestimates(plan)
    assert len(wanted) > 20
    assert np.isin(plan.kinds[wanted], (MatchKind.EXACT, MatchKind.FUZZY)).all()
    assert all(any(map(str.isalpha, plan.target.text(index))) for index in wanted.tolist())


def test_too_few_pairs_are_a_warning_with_numbers() -> None:
    resources = Resources(word_vectors=(space(SOURCE_WORDS, 1), space(TARGET_WORDS, 2)), dictionary=pairs_of(3))
    with pytest.warns(VocabExtendWarning, match=r"Only \d of the 3 pairs .* fewer than the 6 dimensions"):
        Wechsel().fit(make_context(resources=resources))


MISSING = {
    "nothing": ({}, {}, r"needs word_vectors= or parallel="),
    "a dictionary alone": ({"dictionary": PAIRS}, {}, "needs"),
    "no source": ({"word_vectors": (None, {"a": [1.0]}), "corpus": ["a"]}, {}, "no source word vectors and no source"),
    "no target": ({"word_vectors": ({"a": [1.0]}, None)}, {}, "no target word vectors and no target text"),
    "no dictionary": (
        {"word_vectors": ({"a": [1.0]}, {"b": [1.0]})},
        {"align": "dictionary"},
        "align is 'dictionary'",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named_before_any_work(name: str) -> None:
    resources, options, message = MISSING[name]
    with pytest.raises(MissingResourceError, match=message):
        Wechsel(WechselConfig(**options)).check_resources(Resources(**resources))


def test_a_dictionary_beside_one_space_is_not_used_and_said_so() -> None:
    one = {"word_vectors": space(SOURCE_WORDS, 1)}
    with pytest.warns(VocabExtendWarning, match="one space"):
        Wechsel().check_resources(Resources(**one, dictionary=PAIRS))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Wechsel().check_resources(Resources(**one))


def test_vectors_of_another_language_are_an_error() -> None:
    with pytest.raises(InvalidTableError, match="None of the .* source tokens has a vector"):
        Wechsel().fit(make_context("bert-cased", resources=Resources(word_vectors={"\u4e2d": [1.0, 2.0]})))
    spaces = {"\u4e2d": [1.0, 2.0]}, {"maji": [1.0, 2.0]}
    with pytest.raises(InvalidTableError, match=r"Of the 19 pairs .* 0 of the source words, .* 1 of the target words"):
        Wechsel().fit(trained(word_vectors=spaces, dictionary=PAIRS))


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"align": "magic"},
        {"pieces": "letters"},
        {"weighting": "rank"},
        {"shared": "blend"},
        {"max_words": 0},
        {"dim": 0},
        {"epochs": 0},
        {"threads": 0},
        {"min_ngram": 6},
    ],
)
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        WechselConfig(**options)


@pytest.mark.parametrize("shape", ["a folder", "one file"])
def test_the_first_words_are_those_of_each_language(shape: str, tmp_path) -> None:
    words = {"eng": SOURCE_WORDS[-400:], "swa": TARGET_WORDS[-400:]}
    rows = {code: space(own, 4).take(np.arange(len(own))) for code, own in words.items()}
    prefix = "" if shape == "a folder" else "{}:"

    def write(count: int) -> Path:
        folder = tmp_path / str(count)
        folder.mkdir()
        for code, own in words.items():
            lines = [
                " ".join([prefix.format(code) + word, *map(str, row.tolist())])
                for word, row in zip(own[:count], rows[code], strict=False)
            ]
            (folder / f"{code}.vec").write_text("\n".join([*lines, ""]), encoding="utf-8")
        if shape == "a folder":
            return folder
        (folder / "all.vec").write_text(
            "".join((folder / f"{code}.vec").read_text("utf-8") for code in words), "utf-8"
        )
        return folder / "all.vec"

    def fit(path: Path, **options):
        return Wechsel(WechselConfig(**options)).fit(make_context(resources=Resources(word_vectors=path)))

    found, expected = fit(write(400), max_words=90), fit(write(90))
    assert np.array_equal(found.columns, expected.columns)
    assert np.array_equal(found.weights, expected.weights)


def test_a_dictionary_may_be_a_mapping() -> None:
    pairs = dict(pairs_of())
    given = {"word_vectors": (space(SOURCE_WORDS, 1), space(TARGET_WORDS, 2))}
    mixtures = [
        Wechsel().fit(make_context(resources=Resources(**given, dictionary=one))) for one in (pairs, [*pairs.items()])
    ]
    assert np.array_equal(mixtures[0].weights, mixtures[1].weights)


def test_nothing_is_kept_without_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_VOCAB_EXTEND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    monkeypatch.setattr(piece_incidence, "_WORDS_WORTH_KEEPING", 1)
    for name, own in (("source", SOURCE_WORDS), ("target", TARGET_WORDS)):
        rows = space(own, 4).take(np.arange(len(own)))
        lines = [" ".join([word, *map(str, row.tolist())]) for word, row in zip(own, rows, strict=True)]
        (tmp_path / f"{name}.vec").write_text("\n".join(lines), encoding="utf-8")
    sides = tmp_path / "source.vec", tmp_path / "target.vec"
    given = Resources(word_vectors=sides, parallel=list(sample_pairs()[:60]))
    Wechsel(WechselConfig(cache=False)).fit(make_context(resources=given))
    assert not (tmp_path / "cache").exists()
    Wechsel().fit(make_context(resources=given))
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_options_survive_json() -> None:
    config = WechselConfig(k=3, align="none", max_words=7)
    assert WechselConfig.from_dict(config.to_dict()) == config
