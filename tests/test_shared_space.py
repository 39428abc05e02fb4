"""The space of OFA and HyperOFA from every kind of resource, and what is missing for it."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest

from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, MissingResourceError, VocabExtendWarning
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.ofa import OfaConfig
from hf_vocab_extend.methods.shared_space import SharedSpace, SpaceConfig, check_space, shared_space
from hf_vocab_extend.resources.bilingual_space import BilingualOptions, bilingual_space
from hf_vocab_extend.resources.corpus import open_corpus
from hf_vocab_extend.resources.word_vectors import WordVectors, make_word_vectors

from .factories import english, sample_pairs, swahili
from .test_methods import make_context

DIM = 6


def space(words: list[str], seed: int = 0, **more) -> WordVectors:
    vectors = np.random.default_rng(seed).standard_normal((len(words), DIM)).astype(np.float32)
    return make_word_vectors(words, vectors, **more)


def find(options: dict | None = None, **resources) -> SharedSpace:
    config, given = SpaceConfig(**(options or {})), Resources(**resources)
    check_space(given, config)
    return shared_space(make_context(resources=given), config)


def matrix(one: WordVectors) -> np.ndarray:
    return one.take(np.arange(len(one)))


def test_one_space_serves_both_sides() -> None:
    one = space(["water", "maji", "moon"])
    found = find(word_vectors=one)
    assert found.source is found.target is one


def test_languages_are_told_apart_on_each_side() -> None:
    words = ["house", "a", "nyumba", "a", "haus"]
    languages = ["eng", "eng", "swa", "swa", "deu"]
    keyed = {f"{code}:{word}": [float(n), 1.0] for n, (code, word) in enumerate(zip(languages, words, strict=True))}
    found = find({"source_languages": "eng", "target_languages": ["swa", "deu"]}, word_vectors=keyed)
    assert list(found.source.words) == ["house", "a"]
    assert list(found.target.words) == ["nyumba", "a", "haus"]
    assert matrix(found.target)[:, 0].tolist() == [2, 3, 4]
    both = find({"source_languages": ("eng", "swa"), "target_languages": ("eng", "swa")}, word_vectors=keyed)
    assert both.source is both.target
    assert len(both.source) == 4
    few = find({"words_per_language": 1}, word_vectors=keyed)
    assert list(few.source.words) == ["house", "nyumba", "haus"]
    with pytest.raises(InvalidOptionError, match="'fra'"):
        find({"target_languages": ["fra"]}, word_vectors=keyed)
    plain = find({"keys": "plain"}, word_vectors=keyed)
    assert "eng:house" in plain.source.words


def test_a_limit_of_words_is_one_of_each_language_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.vec"
    path.write_text("4 1\neng:house 1\neng:moon 2\nswa:nyumba 3\nswa:mwezi 4\n", encoding="utf-8")
    found = find({"words_per_language": 1, "target_languages": "swa"}, word_vectors=path)
    assert list(found.source.words) == ["house", "nyumba"]
    assert list(found.target.words) == ["nyumba"]
    plain = find({"words_per_language": 1, "keys": "plain"}, word_vectors=path)
    assert list(plain.source.words) == ["eng:house"]


def test_words_are_filtered_by_their_counts() -> None:
    one = space(["a", "b", "c"], frequencies=np.asarray([5, 1, 3]))
    assert list(find({"min_frequency": 3}, word_vectors=one).target.words) == ["a", "c"]
    assert list(find({"words_per_language": 2}, word_vectors=one).target.words) == ["a", "c"]


WORDS = sorted({word for line in (*english(40), *swahili(40)) for word in line.split()})


@pytest.mark.parametrize(
    ("options", "more"),
    [({}, {}), ({"align": "identical"}, {}), ({}, {"dictionary": [(word, word) for word in WORDS[::2]]})],
)
def test_the_source_side_of_two_spaces_is_turned_into_the_target_side(options: dict, more: dict) -> None:
    one = space(WORDS)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((DIM, DIM)))[0]
    other = make_word_vectors(WORDS, (matrix(one) @ turn).astype(np.float32))
    found = find(options, word_vectors=(one, other), **more)
    assert found.target is other
    assert np.allclose(matrix(found.source), matrix(other), atol=1e-5)
    part = found.source.select(np.asarray([3, 1]))
    assert np.array_equal(matrix(part), matrix(found.source)[[3, 1]])


def test_two_spaces_that_are_one_already_stay_as_they_are() -> None:
    sides = space(["water"]), space(["maji"], 1)
    found = find({"align": "none"}, word_vectors={"source": sides[0], "target": sides[1]})
    assert (found.source, found.target) == sides
    wide = make_word_vectors(["maji"], np.ones((1, DIM + 1), np.float32))
    with pytest.raises(InvalidTableError, match="not one space"):
        find({"align": "none"}, word_vectors=(sides[0], wide))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dim": 16}, BilingualOptions("aligned", 16)),
        ({"build": "pairs", "dim": 9, "min_count": 3}, BilingualOptions("pairs", 9, 3)),
    ],
)
def test_parallel_text_alone_becomes_a_space(options: dict, expected: BilingualOptions) -> None:
    pairs = list(sample_pairs()[:120])
    context = make_context(resources=Resources(parallel=iter(pairs)))
    found = shared_space(context, SpaceConfig(**options))
    tokenizers = context.source_tokenizer, context.target_tokenizer
    for one, other in zip((found.source, found.target), bilingual_space(pairs, *tokenizers, expected), strict=True):
        assert list(one.words) == list(other.words)
        assert np.array_equal(matrix(one), matrix(other))
    frequent = find({**options, "min_frequency": 5, "words_per_language": 20}, parallel=pairs)
    assert len(frequent.source) == len(frequent.target) == 20
    assert frequent.source.frequencies.min() >= 5


def test_a_dictionary_joins_parallel_text_or_stands_alone() -> None:
    pairs, words = list(sample_pairs()[:120]), [("zebra", "punda"), ("moon", "mwezi")]
    joined = find({"dim": 16}, parallel=pairs, dictionary=words)
    assert {"zebra", "moon"} <= set(joined.source.words)
    assert {"punda", "mwezi"} <= set(joined.target.words)
    assert len(joined.source) > 100
    alone = find({"dim": 64}, dictionary=words)
    assert np.allclose(matrix(alone.source), matrix(alone.target), atol=1e-6)
    with pytest.warns(VocabExtendWarning, match="'pairs' makes no use of a dictionary"):
        find({"build": "pairs", "dim": 4}, parallel=pairs, dictionary=words)


def test_languages_choose_among_those_of_word_vectors_alone() -> None:
    with pytest.warns(VocabExtendWarning, match="source_languages .* leave them out"):
        check_space(Resources(parallel=[("a", "b")]), SpaceConfig(target_languages="swa"))


FREQUENT = ("na", "ya", "wa", "kwa", "za", "ni", "katika", "la", "cha")


def test_vectors_are_trained_where_fasttext_is_asked_for_or_a_side_is_missing() -> None:
    pytest.importorskip("fasttext")
    pairs, quick = list(sample_pairs()[:400]), {"dim": 8, "epochs": 1, "min_count": 2}
    trained = find({"build": "fasttext", **quick}, parallel=pairs)
    assert trained.source.dim == trained.target.dim == 8
    texts = open_corpus([pair[0] for pair in pairs]), open_corpus([pair[1] for pair in pairs])
    given = find(quick, word_vectors=texts, parallel=pairs)
    assert np.array_equal(matrix(given.source), matrix(trained.source))
    assert np.array_equal(matrix(given.target), matrix(trained.target))
    half = find(
        quick, word_vectors=(trained.target, None), corpus=texts[1], dictionary=[(word, word) for word in FREQUENT]
    )
    assert np.array_equal(matrix(half.target), matrix(trained.target))


MISSING = {
    "nothing": ({}, {}, r"'aligned' is built from. Bring word_vectors= or parallel= or dictionary="),
    "no text": ({"build": "pairs"}, {"dictionary": [("a", "b")]}, "Bring word_vectors= or parallel=.$"),
    "no text to train on": ({"build": "fasttext"}, {"dictionary": [("a", "b")]}, "no source text"),
    "no target": ({}, {"word_vectors": ({"a": [1.0]}, None)}, "no target text"),
    "no dictionary": (
        {"align": "dictionary"},
        {"word_vectors": ({"a": [1.0]}, {"b": [1.0]})},
        "align is 'dictionary'",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_what_is_missing_is_named_before_any_work(name: str) -> None:
    options, resources, message = MISSING[name]
    with pytest.raises(MissingResourceError, match=message):
        check_space(Resources(**resources), SpaceConfig(**options))


def test_a_dictionary_beside_one_space_is_not_used_and_said_so() -> None:
    with pytest.warns(VocabExtendWarning, match="one space"):
        check_space(Resources(word_vectors=space(["a"]), dictionary=[("a", "b")]), SpaceConfig())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_space(Resources(parallel=[("a", "b")], dictionary=[("a", "b")]), SpaceConfig())


@pytest.mark.parametrize(
    "options",
    [
        {"build": "magic"},
        {"align": "magic"},
        {"keys": "magic"},
        {"source_languages": []},
        {"target_languages": ()},
        {"words_per_language": 0},
        {"min_frequency": -1},
        {"dim": 0},
        {"min_count": 0},
        {"epochs": 0},
        {"min_ngram": 9},
    ],
)
def test_options_are_checked(options: dict) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        SpaceConfig(**options)


def test_options_survive_json_and_belong_to_methods() -> None:
    import json

    config = OfaConfig(source_languages=["eng"], target_languages="swa", words_per_language=7, build="pairs")
    read = json.loads(json.dumps(config.to_dict()))
    assert OfaConfig.from_dict(read) == config
    assert config.target_languages == ("swa",)
    assert {item.name for item in dataclasses.fields(SpaceConfig)} <= set(read)
