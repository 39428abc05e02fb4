"""Which words hold which tokens, against a word-by-word search; means over it; the cache."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError
from hf_vocab_extend.resources import piece_incidence as module
from hf_vocab_extend.resources.piece_incidence import VARIANTS, Incidence, piece_incidence
from hf_vocab_extend.resources.word_vectors import BEGINS, ENDS, WordVectors, make_word_vectors
from hf_vocab_extend.vocab.canonical import TokenKind, canonicalise

from .factories import english, swahili, tokenizer

DIM = 5
WORDS = sorted({word for line in (*english(60), *swahili(60)) for word in line.split()})[::2]


def make_space(words: list[str] = WORDS, **more) -> WordVectors:
    vectors = np.random.default_rng(4).standard_normal((len(words), DIM)).astype(np.float32)
    return dataclasses.replace(make_word_vectors(words, vectors), **more)


def naive_forms(word: str, variants: str, mark: int | None) -> list[str]:
    """The surface forms as they are described, written down once more."""
    upper = word[0].upper() + word[1:]
    if variants == "one":
        return [word] if mark is not None and not mark & BEGINS else [" " + word]
    if variants == "two":
        return [word, " " + word]
    if variants == "four":
        return [word, " " + word, upper, " " + upper]
    if mark is not None and mark & BEGINS:
        return [" " + word, " " + word, upper]
    return [word, " " + word, " " + upper]


def naive_counts(space: WordVectors, own, vocab, variants: str) -> dict[int, Counter[int]]:
    """For each token, in how many forms of which words it occurs."""
    found: dict[int, Counter[int]] = {}
    for place, word in enumerate(space.words):
        for form in naive_forms(word, variants, None if space.bounds is None else int(space.bounds[place])):
            for index in set(own(form, add_special_tokens=False)["input_ids"]):
                if vocab.kinds[index] in (TokenKind.NORMAL, TokenKind.BYTE):
                    found.setdefault(index, Counter())[place] += 1
    return found


def as_counts(incidence: Incidence) -> dict[int, Counter[int]]:
    return {
        piece: Counter(
            dict(zip(incidence.words[start:stop].tolist(), incidence.counts[start:stop].tolist(), strict=True))
        )
        for piece, (start, stop) in enumerate(zip(incidence.offsets[:-1], incidence.offsets[1:], strict=True))
        if start < stop
    }


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("variants", sorted(VARIANTS))
@pytest.mark.parametrize("name", ["gpt2", "llama2", "gemma", "xlmr", "t5", "bert-uncased", "bert-cased", "clip"])
def test_entries_are_those_of_a_search_word_by_word(name: str, variants: str, marked: bool, monkeypatch) -> None:
    monkeypatch.setattr(module, "_WORDS_PER_BLOCK", 90)
    bounds = np.random.default_rng(1).integers(0, 4, len(WORDS)).astype(np.uint8) if marked else None
    space, own, vocab = make_space(bounds=bounds), tokenizer(name), canonicalise(tokenizer(name))
    incidence = piece_incidence(space, own, vocab, variants=variants)
    expected = naive_counts(space, own, vocab, variants)
    assert len(expected) > 100
    assert as_counts(incidence) == expected
    assert np.array_equal(np.flatnonzero(incidence.covered), sorted(expected))
    assert (incidence.offsets.dtype, incidence.words.dtype, incidence.counts.dtype) == (np.int64, np.int32, np.uint8)
    assert incidence.n_pieces == len(vocab)
    assert incidence.n_words == len(space)
    assert incidence.counts.max() == min(len(naive_forms("a", variants, None)), 4)
    for piece in np.flatnonzero(incidence.covered):
        assert np.all(np.diff(incidence.words[incidence.offsets[piece] : incidence.offsets[piece + 1]]) > 0)


@pytest.mark.parametrize("use_counts", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("floats", [7, 100, 1 << 25])
def test_means_are_those_of_a_dense_product(floats: int, weighted: bool, use_counts: bool, monkeypatch) -> None:
    space, own, vocab = make_space(), tokenizer("gpt2"), canonicalise(tokenizer("gpt2"))
    incidence = piece_incidence(space, own, vocab)
    monkeypatch.setattr(module, "_FLOATS_PER_BLOCK", floats)
    weights = np.random.default_rng(2).integers(0, 3, len(space)).astype(np.float64) if weighted else None
    found = incidence.mean(space, weights, use_counts)
    matrix = np.zeros((len(vocab), len(space)))
    for piece, words in as_counts(incidence).items():
        for word, count in words.items():
            matrix[piece, word] = (count if use_counts else 1) * (1 if weights is None else weights[word])
    totals = matrix.sum(1, keepdims=True)
    expected = matrix @ space.take(np.arange(len(space))).astype(np.float64) / np.maximum(totals, 1e-300)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not found[totals[:, 0] == 0].any()
    assert found.dtype == np.float32
    plain = np.asarray(space.vectors)
    assert np.array_equal(found, incidence.mean(plain, weights, use_counts))
    pieces = np.asarray([7, 300, 7, 0, len(vocab) - 1])
    assert np.allclose(incidence.select(pieces).mean(space, weights, use_counts), found[pieces], atol=1e-7)


def test_means_depend_neither_on_blocks_nor_on_threads(monkeypatch) -> None:
    space, own, vocab = make_space(), tokenizer("xlmr"), canonicalise(tokenizer("xlmr"))
    incidence = piece_incidence(space, own, vocab)
    whole = incidence.mean(space)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert np.array_equal(whole, incidence.mean(space))
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(module, "_FLOATS_PER_BLOCK", 300)
    np.testing.assert_allclose(incidence.mean(space), whole, atol=1e-7)


def test_a_spelling_of_two_languages_is_two_words() -> None:
    vectors = np.asarray([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]], np.float32)
    space = WordVectors(["people", "people", "watu"], vectors, languages=np.asarray(["eng", "tpi", "swh"]))
    own, vocab = tokenizer("gpt2"), canonicalise(tokenizer("gpt2"))
    incidence = piece_incidence(space, own, vocab, variants="one")
    (index,) = own(" people", add_special_tokens=False)["input_ids"]
    assert as_counts(incidence)[index] == Counter({0: 1, 1: 1})
    np.testing.assert_allclose(incidence.mean(space)[index], [0.5, 0.5])


def test_truncation_and_padding_cut_nothing_and_stay_as_they_were() -> None:
    own = tokenizer("bert-uncased")
    expected = piece_incidence(make_space(), own, canonicalise(own))
    backend = own.backend_tokenizer
    try:
        backend.enable_truncation(1)
        backend.enable_padding(length=9)
        found = piece_incidence(make_space(), own, canonicalise(own))
        assert backend.truncation["max_length"] == 1
        assert backend.padding["length"] == 9
    finally:
        backend.no_truncation()
        backend.no_padding()
    assert as_counts(found) == as_counts(expected)


def test_forms_that_differ_in_a_space_are_cut_once_where_it_falls_away(monkeypatch) -> None:
    cut, seen = module._entries, {}
    for name in ("xlmr", "t5", "bert-cased", "gpt2", "llama2", "gemma"):

        def watched(texts, *rest, name=name):
            seen[name] = texts
            return cut(texts, *rest)

        monkeypatch.setattr(module, "_entries", watched)
        piece_incidence(make_space(), tokenizer(name), canonicalise(tokenizer(name)))
    spaced = {name for name, texts in seen.items() if any(text.startswith(" ") for text in texts)}
    assert spaced == {"gpt2", "llama2", "gemma"}


def test_the_first_words_alone_are_cut_if_so_asked() -> None:
    space, own, vocab = make_space(), tokenizer("gpt2"), canonicalise(tokenizer("gpt2"))
    part = piece_incidence(space, own, vocab, n_words=50)
    assert as_counts(part) == as_counts(piece_incidence(make_space(WORDS[:50]), own, vocab))
    assert part.n_words == 50
    with pytest.raises(InvalidTableError, match="looked for in 50 words, and there are 49 vectors"):
        part.mean(np.ones((49, 2), np.float32))
    with pytest.raises(InvalidTableError, match="and 3 weights"):
        part.mean(space, np.ones(3))


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A cache of this test's own that keeps what few words gave; a list of what was cut."""
    monkeypatch.setenv("HF_VOCAB_EXTEND_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "_WORDS_WORTH_KEEPING", 10)
    cuts, cut = [], module._cut
    monkeypatch.setattr(module, "_cut", lambda *given: cuts.append(given) or cut(*given))
    return tmp_path, cuts


def test_what_was_cut_once_is_taken_from_the_cache(kept) -> None:
    folder, cuts = kept
    own, vocab = tokenizer("gpt2"), canonicalise(tokenizer("gpt2"))
    first = piece_incidence(make_space(), own, vocab)
    again = piece_incidence(make_space(), own, vocab)
    assert len(cuts) == 1
    for name in ("offsets", "words", "counts"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert getattr(first, name).dtype == getattr(again, name).dtype
    piece_incidence(make_space(), own, vocab, cache=False)
    assert len(cuts) == 2
    piece_incidence(make_space(WORDS[:5]), own, vocab)
    assert len(list(folder.rglob("*.safetensors"))) == 1
    (file,) = folder.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])  # cut short
    assert as_counts(piece_incidence(make_space(), own, vocab)) == as_counts(first)
    assert len(cuts) == 4


def test_other_words_marks_forms_and_tokenizers_are_cut_anew(kept) -> None:
    _, cuts = kept
    gpt2, bert = ((tokenizer(name), canonicalise(tokenizer(name))) for name in ("gpt2", "bert-cased"))
    ones = np.ones(len(WORDS), np.uint8)
    kinds = gpt2[1].kinds.copy()
    kinds[gpt2[0].get_vocab()["e"]] = TokenKind.SPECIAL
    calls = [
        lambda: piece_incidence(make_space(), *gpt2),
        lambda: piece_incidence(make_space([*WORDS[:-1], "zzz"]), *gpt2),
        lambda: piece_incidence(make_space(WORDS[:-1]), *gpt2),
        lambda: piece_incidence(make_space(bounds=ones * BEGINS), *gpt2),
        lambda: piece_incidence(make_space(bounds=ones * ENDS), *gpt2),
        lambda: piece_incidence(make_space(), *gpt2, variants="two"),
        lambda: piece_incidence(make_space(), *bert),
        lambda: piece_incidence(make_space(), gpt2[0], dataclasses.replace(gpt2[1], kinds=kinds)),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert len(cuts) == number
    for call in calls:
        call()
    assert len(cuts) == len(calls)


def test_bad_input_is_named() -> None:
    own, vocab = tokenizer("gpt2"), canonicalise(tokenizer("gpt2"))
    with pytest.raises(InvalidOptionError, match=r"variants is 'five'.*four, one, published, two"):
        piece_incidence(make_space(), own, vocab, variants="five")
    broken = WordVectors(["people", "water"], np.asarray([[1.0], [np.nan]], np.float32), name="these")
    incidence = piece_incidence(broken, own, vocab)
    with pytest.raises(InvalidTableError, match="1 words of these hold NaN .* 'water'"):
        incidence.mean(broken)


def test_lone_surrogates_are_cut_as_question_marks() -> None:
    own, vocab = tokenizer("gpt2"), canonicalise(tokenizer("gpt2"))
    found = piece_incidence(make_space(["the", "w\ud800ter"]), own, vocab)
    assert as_counts(found) == as_counts(piece_incidence(make_space(["the", "w?ter"]), own, vocab))
