"""Views of word spaces and the filters by language, rank and frequency."""

from __future__ import annotations

import numpy as np
import pytest

from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError
from hf_vocab_extend.resources.packed_words import PackedWords, number_labels, repeated_places
from hf_vocab_extend.resources.word_filters import filter_words
from hf_vocab_extend.resources.word_vectors import WordVectors

WORDS = ["the", "nyumba", "house", "the", "\u0918\u0930", "maji", "", "a b"]
LANGUAGES = np.asarray(["eng", "swa", "eng", "fra", "hin", "swa", "", "eng"])
COUNTS = np.asarray([50.0, 3.0, 70.0, 8.0, 1.0, 9.0, 2.0, 4.0])
VECTORS = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)


def space(**changes) -> WordVectors:
    given = {"frequencies": COUNTS, "languages": LANGUAGES, "bounds": np.arange(8, dtype=np.uint8) % 4, **changes}
    return WordVectors(given.pop("words", WORDS), VECTORS, name="'space'", **given)


def packed() -> PackedWords:
    return PackedWords.of(word.encode() for word in WORDS)


def test_packed_words_are_a_sequence_of_strings() -> None:
    words = packed()
    assert len(words) == 8
    assert list(words) == WORDS
    assert list(reversed(words)) == WORDS[::-1]
    assert [words[place] for place in range(-8, 8)] == WORDS + WORDS
    assert list(words[2:7:2]) == WORDS[2:7:2]
    assert (words.index("house"), "maji" in words, "absent" in words) == (2, True, False)
    assert list(words.select(np.asarray([5, 0]))) == ["maji", "the"]
    assert list(PackedWords.of([])) == []
    with pytest.raises(IndexError):
        words[8]


def test_packed_words_that_lie_far_apart_are_read_one_by_one() -> None:
    text = np.frombuffer(b"ab" + b"-" * 200_000 + b"cde", np.uint8)
    assert list(PackedWords(text, np.asarray([200_002, 0]), np.asarray([200_005, 2]))) == ["cde", "ab"]


@pytest.mark.parametrize("words", [WORDS, packed()], ids=["list", "packed"])
def test_a_view_has_what_its_words_had(words) -> None:
    places = np.asarray([6, 2, 3])
    whole = space(words=words)
    one = whole.select(places)
    assert list(one.words) == [WORDS[place] for place in places]
    assert (len(one), one.dim, one.name) == (3, 3, "'space'")
    for name, values in (("frequencies", COUNTS), ("languages", LANGUAGES), ("bounds", whole.bounds)):
        assert getattr(one, name).tolist() == values[places].tolist()
    np.testing.assert_array_equal(one.take(np.arange(3)), VECTORS[places])
    two = one.select(np.asarray([2, 0]))
    np.testing.assert_array_equal(two.take(np.asarray([1, 0])), VECTORS[[6, 3]])
    assert two.places(["the", "house"]).tolist() == [0, -1]
    assert whole.places(["the"]).tolist() == [0]
    assert len(whole.select(np.asarray([], np.int64))) == 0
    bare = whole.select(np.arange(8))
    assert space(frequencies=None, languages=None, bounds=None).select(places).languages is None
    assert list(bare.words) == WORDS
    with pytest.raises(IndexError, match="Places 0 to 8 of 8 words"):
        whole.select(np.asarray([0, 8]))


def test_only_the_rows_that_are_asked_for_are_read() -> None:
    read: list[int] = []

    class Rows:
        shape = (8, 3)

        def __getitem__(self, places: np.ndarray) -> np.ndarray:
            read.extend(places.tolist())
            return VECTORS[places]

    lazy = WordVectors(WORDS, Rows(), languages=LANGUAGES)
    part = filter_words(lazy, languages="swa")
    assert read == []
    part.take(np.asarray([1]))
    assert read == [5]


def kept(**filters) -> list[int]:
    found = filter_words(space(), **filters)
    return [int(np.flatnonzero((VECTORS == row).all(1))[0]) for row in found.take(np.arange(len(found)))]


def test_filters_keep_the_words_that_pass_all_of_them() -> None:
    assert kept(languages=["swa", "hin"]) == [1, 4, 5]
    assert kept(languages="") == [6]
    assert kept(max_words=1) == [2, 3, 4, 5, 6]
    assert kept(max_words=2, languages=["eng"]) == [0, 2]
    assert kept(min_frequency=8) == [0, 2, 3, 5]
    assert kept(min_frequency=4, max_words=1, languages=["eng", "swa", "hin"]) == [2, 5]
    whole = space()
    assert filter_words(whole) is whole
    assert filter_words(whole, max_words=3, min_frequency=0) is whole


def test_without_frequencies_the_first_words_are_kept_and_without_languages_all_are_one() -> None:
    first = filter_words(space(frequencies=None), max_words=1)
    assert first.bounds.tolist() == [0, 1, 3, 0, 2]
    assert list(filter_words(space(languages=None), max_words=2).words) == ["the", "house"]
    assert list(filter_words(space(languages=None, frequencies=None), max_words=2).words) == WORDS[:2]


def test_filters_that_cannot_be_applied_are_refused_with_what_there_is() -> None:
    with pytest.raises(InvalidOptionError, match=r"words of 'en' are .*It has 5: '', 'eng', 'fra', .*Is 'eng' meant"):
        filter_words(space(), languages=["en", "swa"])
    with pytest.raises(InvalidOptionError, match="nothing tells the language"):
        filter_words(space(languages=None), languages=["eng"])
    with pytest.raises(InvalidOptionError, match="languages is empty"):
        filter_words(space(), languages=[])
    for bad in ({"max_words": 0}, {"min_frequency": -1.0}, {"min_frequency": float("nan")}):
        with pytest.raises(InvalidOptionError, match="It must"):
            filter_words(space(), **bad)
    for change in ({"frequencies": None}, {"counted": False}):
        with pytest.raises(InvalidOptionError, match="does not tell how often"):
            filter_words(space(**change), min_frequency=2)
    with pytest.raises(
        InvalidTableError, match=r"None of the 8 words of 'space' .*most frequent word occurs 70 times"
    ):
        filter_words(space(), min_frequency=71)


@pytest.mark.parametrize(
    "labels",
    [["eng", "", "swa", "eng", "a"], ["x" * 8, "x" * 7, "y"], ["x" * 9, "x"], ["\u00e9", "e", "\u00e9"], [""], []],
)
def test_labels_are_numbered_in_their_order(labels: list[str]) -> None:
    names, numbers = number_labels(np.asarray(labels, np.str_))
    assert names == sorted(set(labels))
    assert [names[number] for number in numbers.tolist()] == labels


def test_words_are_repeated_within_their_group_only() -> None:
    words = ["a", "b", "a", "c", "b", "a", ""]
    assert repeated_places(words).tolist() == [2, 4, 5]
    assert repeated_places(words, np.asarray([0, 0, 1, 0, 0, 0, 0])).tolist() == [4, 5]
    assert repeated_places(PackedWords.of([b"a"])).tolist() == []
    assert repeated_places([]).tolist() == []
