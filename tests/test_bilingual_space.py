"""Spaces of words from parallel text and dictionaries, against naive computations; what bad input leads to."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import CorpusError, InvalidOptionError, MissingResourceError
from hf_vocab_extend.resources import bilingual_space as module
from hf_vocab_extend.resources.alignment import align_pairs
from hf_vocab_extend.resources.bilingual_space import BilingualOptions, bilingual_space
from hf_vocab_extend.resources.cooccurrence import SparseRows, association, left_factors
from hf_vocab_extend.resources.word_vectors import WordVectors

from .factories import sample_pairs, tokenizer

SPELL = {"bert-uncased": str.lower, "bert-cased": str, "gpt2": str}


def words_of(text: str, spell) -> list[str]:
    """Runs of letters and digits; every other character but spaces stands alone."""
    words, joins = [], False
    for char in spell(text):
        if char.isspace():
            joins = False
        elif char.isalnum():
            words[-1:] = [words[-1] + char] if joins else [*words[-1:], char]
            joins = True
        else:
            words, joins = [*words, char], False
    return words


def rows_of(space: WordVectors) -> dict[str, np.ndarray]:
    matrix = space.take(np.arange(len(space)))
    return dict(zip(space.words, matrix, strict=True))


PAIRS = [(left, right) for left, right in sample_pairs()[:60] if left.isascii() and right.isascii()]


def naive_association(pairs, min_count: int) -> tuple[list[tuple[int, str]], np.ndarray]:
    """Rows of length 1: what each word of either side, told by side and text, has to do with each pair."""
    cut = [{(side, word) for side in (0, 1) for word in words_of(pair[side], SPELL["bert-uncased"])} for pair in pairs]
    counts = Counter(word for words in cut for word in words)
    kept = sorted(word for word, count in counts.items() if count >= min_count)
    sizes = [len(words & set(kept)) for words in cut]
    matrix = np.zeros((len(kept), len(pairs)))
    for row, word in enumerate(kept):
        for column, words in enumerate(cut):
            if word in words:
                matrix[row, column] = max(np.log(sum(sizes) / (counts[word] * sizes[column])), 1e-6)
    return kept, matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_words_by_pairs_equal_a_full_decomposition() -> None:
    own = tokenizer("bert-uncased")
    assert len(PAIRS) > 20
    options = BilingualOptions("pairs", dim=len(PAIRS), min_count=2)
    spaces = [rows_of(space) for space in bilingual_space(PAIRS, own, own, options)]
    kept, matrix = naive_association(PAIRS, 2)
    assert {(side, word) for side in (0, 1) for word in spaces[side]} == set(kept)
    vectors = np.stack([spaces[side][word] for side, word in kept])
    assert np.allclose(vectors @ vectors.T, matrix @ matrix.T, atol=1e-4)  # the rows of the matrix, turned
    few = bilingual_space(PAIRS, own, own, BilingualOptions("pairs", dim=7))
    assert [space.dim for space in few] == [7, 7]


def test_fewer_dimensions_hold_the_largest_singular_values() -> None:
    random = np.random.default_rng(0)
    spectrum = np.diag(0.7 ** np.arange(30))
    dense = np.linalg.qr(random.standard_normal((80, 30)))[0] @ spectrum @ random.standard_normal((30, 40)) / 6
    rows, columns = np.nonzero(dense)
    matrix = SparseRows.of(rows, columns, dense[rows, columns], dense.shape)
    found = left_factors(matrix, 8).double().numpy()
    left, values, _ = np.linalg.svd(dense)
    expected = left[:, :8] * values[:8]
    assert np.allclose(found @ found.T, expected @ expected.T, atol=1e-5)
    assert left_factors(matrix, 99).shape == (80, 40)
    other = torch.from_numpy(random.standard_normal((40, 3)).astype(np.float32))
    torch.testing.assert_close(matrix @ other, torch.from_numpy(dense).float() @ other, atol=1e-5, rtol=1e-5)
    assert np.array_equal((matrix.transposed() @ torch.eye(80)).numpy(), dense.T.astype(np.float32))


def test_rare_rows_are_left_out_of_an_association() -> None:
    kept, matrix = association(np.asarray([2, 0, 2, 3]), np.asarray([1, 1, 0, 0]), (5, 2), min_count=2)
    assert kept.tolist() == [2]
    assert matrix.shape == (1, 2)


@pytest.mark.parametrize("names", [("bert-uncased", "bert-cased"), ("gpt2", "bert-uncased")])
def test_words_and_counts_are_those_of_the_text(names: tuple[str, str]) -> None:
    spaces = bilingual_space(PAIRS, *map(tokenizer, names), BilingualOptions("pairs", dim=5, min_count=1))
    for side, (name, space) in enumerate(zip(names, spaces, strict=True)):
        counts = Counter(word for pair in PAIRS for word in words_of(pair[side], SPELL[name]))
        assert dict(zip(space.words, space.frequencies.tolist(), strict=True)) == counts
        assert np.array_equal(space.frequencies, np.sort(space.frequencies)[::-1])


@pytest.mark.parametrize("dictionary", [None, [("water", "zebra"), ("moon", "mwezi"), ("good day", "habari")]])
def test_a_target_word_lies_where_its_translations_are(dictionary) -> None:
    own, pairs = tokenizer("bert-uncased"), list(sample_pairs()[:300])
    source, target = map(rows_of, bilingual_space(pairs, own, own, BilingualOptions(dim=32), dictionary=dictionary))
    counts = align_pairs(pairs, own, own, unit="word")
    links: Counter[tuple[str, str]] = Counter()
    for left, right, count in zip(counts.source_index, counts.target_index, counts.counts, strict=True):
        texts = [
            b"".join(own.decode([piece]).removeprefix("##").encode() for piece in unit).decode()
            for unit in (
                counts.source.pieces[counts.source.offsets[left] : counts.source.offsets[left + 1]],
                counts.target.pieces[counts.target.offsets[right] : counts.target.offsets[right + 1]],
            )
        ]
        links[texts[0], texts[1]] += count
    for left, right in (dictionary or [])[:2]:
        links[left, right] += 1
    lengths = [np.linalg.norm(row) for row in (*source.values(), *target.values())]
    assert np.allclose(lengths, 1, atol=1e-5)
    assert ("zebra" in target) == ("moon" in source) == (dictionary is not None)
    assert set(target) == {right for _, right in links}
    assert len(target) > 200
    for word, row in target.items():
        mean = sum(count * source[left].astype(np.float64) for (left, right), count in links.items() if right == word)
        assert np.allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_a_source_word_is_itself_before_it_is_like_others() -> None:
    own, pairs = tokenizer("bert-uncased"), list(sample_pairs()[:300])
    source, _ = bilingual_space(pairs, own, own, BilingualOptions(dim=400))
    matrix = source.take(np.arange(len(source)))
    described, _ = bilingual_space(pairs, own, own, BilingualOptions("pairs", dim=200))
    places = source.places(described.words)
    assert (places >= 0).all()
    share = module._SIGNATURE**2
    left = described.take(np.arange(len(described)))
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    expected = (1 - share) * left @ left.T + share * np.eye(len(left))
    assert np.abs(matrix[places] @ matrix[places].T - expected).max() < share * 0.5
    assert np.abs(matrix[places] @ matrix[places].T - expected).mean() < share * 0.08


def test_a_dictionary_suffices() -> None:
    own = tokenizer("bert-uncased")
    entries = [("water", "maji"), ("waters", "maji"), ("health", "afya"), ("to be well", "afya")]
    source, target = bilingual_space(None, own, own, dictionary=entries)
    assert set(source.words) == {"water", "waters", "health"}
    assert set(target.words) == {"maji", "afya"}
    cosines = (
        source.take(source.places(["water", "waters", "health"])) @ target.take(target.places(["maji", "afya"])).T
    )
    assert np.allclose(cosines, [[0.71, 0], [0.71, 0], [0, 1]], atol=0.2)
    as_mapping = bilingual_space(None, own, own, dictionary=dict(entries))
    assert np.array_equal(as_mapping[1].vectors, target.vectors)


@pytest.mark.parametrize("build", ["aligned", "pairs"])
def test_the_same_bits_from_the_cache_without_it_and_with_other_threads(
    build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, pairs, options = tokenizer("bert-uncased"), list(sample_pairs()[:150]), BilingualOptions(build, dim=20)
    made = []
    build_space = module._build
    monkeypatch.setattr(module, "_build", lambda *given: made.append(1) or build_space(*given))
    first = bilingual_space(pairs, own, own, options)
    again = bilingual_space(iter(pairs), own, own, options)
    assert len(made) == 1
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        fresh = bilingual_space(pairs, own, own, options, use_cache=False)
    finally:
        torch.set_num_threads(before)
    for other in (again, fresh):
        for left, right in zip(first, other, strict=True):
            assert list(left.words) == list(right.words)
            assert np.array_equal(left.frequencies, right.frequencies)
            assert np.array_equal(left.vectors, right.vectors)
    for change in ({"seed": 1}, {"dictionary": [("water", "maji")] if build == "aligned" else None, "seed": 2}):
        bilingual_space(pairs, own, own, options, **change)
    bilingual_space(pairs[1:], own, own, options)
    bilingual_space(pairs, own, tokenizer("bert-cased"), options)
    assert len(made) == 6


def test_a_cached_file_that_lacks_something_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    own, pairs = tokenizer("bert-uncased"), list(sample_pairs()[:40])
    first = bilingual_space(pairs, own, own, BilingualOptions("pairs", dim=4))
    monkeypatch.setattr(module.cache, "load", lambda kind, key: ({"source_words": np.zeros(1, np.uint8)}, {}))
    again = bilingual_space(pairs, own, own, BilingualOptions("pairs", dim=4))
    assert np.array_equal(first[0].vectors, again[0].vectors)


BAD = {
    "build": ({"options": BilingualOptions("magic")}, InvalidOptionError, "build is 'magic'"),
    "dim": ({"options": BilingualOptions(dim=0)}, InvalidOptionError, "dim is 0"),
    "min_count": ({"options": BilingualOptions(min_count=0)}, InvalidOptionError, "min_count 0"),
    "rare": (
        {"options": BilingualOptions(min_count=999)},
        CorpusError,
        r"No source word occurs in 999 pairs .* in \d",
    ),
    "nothing": ({"pairs": None}, MissingResourceError, "no parallel text"),
    "no text": (
        {"pairs": None, "dictionary": [("a", "b")], "options": BilingualOptions("pairs")},
        MissingResourceError,
        "kind 'pairs'",
    ),
    "phrases": ({"pairs": None, "dictionary": [("a b", "c d")]}, CorpusError, "Every entry of the dictionary"),
    "blank": ({"pairs": [("", "")]}, CorpusError, "empty"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    given, error, message = BAD[name]
    own = tokenizer("bert-uncased")
    given = {"pairs": PAIRS} | given
    with pytest.raises(error, match=message):
        bilingual_space(given.pop("pairs"), own, own, given.pop("options", None), **given)


def test_scripts_without_spaces_have_a_word_for_each_token() -> None:
    own = tokenizer("gpt2")
    pairs = [("the dog", "\u3042\u304b"), ("a dog", "\u3042")] * 2
    _, target = bilingual_space(pairs, own, own, BilingualOptions("pairs", dim=4))
    assert all(len(word) <= 1 for word in target.words)
