"""Spaces of several languages: prefixes of keys, marks of word edges, folders and mappings."""

from __future__ import annotations

import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest

from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, VocabExtendWarning
from hf_vocab_extend.resources.language_files import language_files
from hf_vocab_extend.resources.word_filters import filter_words
from hf_vocab_extend.resources.word_vectors import make_word_vectors, read_word_vectors, split_sides


def vectors(n: int, dim: int = 4, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def write(path: Path, words: list[str], matrix: np.ndarray) -> np.ndarray:
    rows = [f"{word} {' '.join(repr(float(x)) for x in row)}" for word, row in zip(words, matrix, strict=True)]
    raw = "\n".join([f"{len(words)} {matrix.shape[1]}", *rows, ""]).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return matrix


def entries(space) -> list[tuple[str, str]]:
    return list(zip(space.languages.tolist(), space.words, strict=True))


KEYS = [
    "eng:house",
    "swa:nyumba",
    "eng:ya",
    "swa:ya",
    "hin:\u0918\u0930",
    "zho_Hant:\u5c4b",
    "plain",
    "eng:a:b",
    "12:30",
]
PARSED = [
    ("eng", "house"),
    ("swa", "nyumba"),
    ("eng", "ya"),
    ("swa", "ya"),
    ("hin", "\u0918\u0930"),
    ("zho_Hant", "\u5c4b"),
    ("", "plain"),
    ("eng", "a:b"),
    ("", "12:30"),
]


@pytest.mark.parametrize("how", ["file", "binary-like pair", "mapping"])
def test_prefixes_tell_languages_however_the_space_is_given(how: str, tmp_path) -> None:
    matrix = write(tmp_path / "v.vec", KEYS, vectors(len(KEYS)))
    given = {
        "file": tmp_path / "v.vec",
        "binary-like pair": (KEYS, matrix),
        "mapping": dict(zip(KEYS, matrix, strict=True)),
    }[how]
    space = read_word_vectors(given)
    assert entries(space) == PARSED
    assert space.bounds is None
    np.testing.assert_array_equal(space.take(np.arange(len(space))), matrix)
    assert list(filter_words(space, languages="swa").words) == ["nyumba", "ya"]
    english = read_word_vectors(given, default_language="eng")
    assert [code or "eng" for code, _ in PARSED] == english.languages.tolist()
    assert list(read_word_vectors(given, keys="plain").words) == KEYS
    assert read_word_vectors(given, keys="plain").languages is None


def test_frequencies_of_ranked_keys_fall_within_each_language(tmp_path) -> None:
    write(tmp_path / "v.vec", KEYS, vectors(len(KEYS)))
    space = read_word_vectors(tmp_path / "v.vec")
    seen: dict[str, int] = {}
    for code, frequency in zip(space.languages.tolist(), space.frequencies.tolist(), strict=True):
        assert frequency == pytest.approx(1 / (seen.get(code, 0) + 3.7))
        seen[code] = seen.get(code, 0) + 1
    counted = make_word_vectors(KEYS, vectors(len(KEYS)), frequencies=np.arange(len(KEYS)))
    assert read_word_vectors({"eng": counted}).frequencies.tolist() == list(range(len(KEYS)))


def test_plain_spaces_stay_plain() -> None:
    for words in (["house", "http://a", "12:30", "a:", "re:x"], [":", "::", ":a", "$5", "$"], ["abcd:e"] * 1 + ["x"]):
        space = read_word_vectors((words, vectors(len(words))))
        assert list(space.words) == words
        assert space.languages is None
        known = read_word_vectors((words, vectors(len(words))), default_language="eng")
        assert (list(known.words), set(known.languages.tolist())) == (words, {"eng"})


def test_marks_tell_where_words_begin_and_end() -> None:
    keys = [
        "eng:$house$",
        "eng:$hous",
        "eng:ouse$",
        "eng:ous",
        "eng:$of$the$",
        "swa:$ya$",
        "swa:ya",
        "$ya$",
        "eng:a$b",
    ]
    space = read_word_vectors((keys, vectors(9)))
    assert list(space.words) == ["house", "hous", "ouse", "ous", "of the", "ya", "ya", "ya", "a b"]
    assert space.bounds.tolist() == [3, 1, 2, 0, 3, 3, 0, 3, 0]
    assert space.languages.tolist() == ["eng"] * 5 + ["swa"] * 2 + ["", "eng"]
    few = read_word_vectors(([f"eng:w{index}" for index in range(40)] + ["eng:$5"], vectors(41)))
    assert (few.words[40], few.bounds) == ("$5", None)


def test_keys_without_a_word_and_repeated_ones_are_left_out(caplog) -> None:
    keys = ["eng:$a$", "eng:$", "eng:", "eng:$b$", "eng:$a$b$", "swa:$a b$", "eng:$a b$", "$b$"]
    with (
        caplog.at_level("INFO"),
        pytest.warns(VocabExtendWarning, match=r"2 words of .* once in a language, .*'eng:\$a b\$', '\$b\$'"),
    ):
        space = read_word_vectors((keys, vectors(8)), default_language="eng")
    assert entries(space) == [("eng", "a"), ("eng", "b"), ("eng", "a b"), ("swa", "a b")]
    np.testing.assert_array_equal(space.take(np.arange(4)), vectors(8)[[0, 3, 4, 5]])
    assert "2 keys without a word are left out" in caplog.text


def test_keys_of_conceptnet() -> None:
    keys = ["/c/en/house", "/c/sw/nyumba", "/c/en/new_york", "/c/en/", "other"]
    space = read_word_vectors((keys, vectors(5)))
    assert entries(space) == [("en", "house"), ("sw", "nyumba"), ("en", "new york"), ("", "other")]
    np.testing.assert_array_equal(space.take(np.asarray([3])), vectors(5)[[4]])


def test_keys_that_are_asked_for_and_not_there_are_refused() -> None:
    pair = (["house", "water"], vectors(2))
    for keys in ("colon", "conceptnet"):
        with pytest.raises(InvalidTableError, match=f"keys is '{keys}', and none of the 2 keys .* first is 'house'"):
            read_word_vectors(pair, keys=keys)
    with pytest.raises(InvalidOptionError, match="keys is 'iso'. Choose one of: auto, plain, colon, conceptnet"):
        read_word_vectors(pair, keys="iso")
    mixed = (["eng:house", "a", "b", "c"], vectors(4))
    assert read_word_vectors(mixed).languages is None
    assert read_word_vectors(mixed, keys="colon").languages.tolist() == ["eng", "", "", ""]


def folder(path: Path) -> list[tuple[str, str]]:
    write(path / "eng.vec", ["house", "ya"], vectors(2, seed=2))
    write(path / "swa.vec.gz", ["ya", "nyumba"], vectors(2, seed=3))
    np.savez(path / "cc.hi.300.npz", words=np.asarray(["\u0918\u0930"]), vectors=vectors(1, seed=4))
    (path / "README.txt").write_text("x")
    (path / "notes.md").write_text("x")
    (path / ".hidden.vec").write_text("x")
    (path / "sub.vec").mkdir()
    return [("hi", "\u0918\u0930"), ("eng", "house"), ("eng", "ya"), ("swa", "ya"), ("swa", "nyumba")]


def test_a_folder_is_one_space_of_the_languages_of_its_files(tmp_path) -> None:
    expected = folder(tmp_path)
    assert split_sides(str(tmp_path)) is None
    matrix = np.concatenate([vectors(1, seed=4), vectors(2, seed=2), vectors(2, seed=3)])
    for given in (tmp_path, str(tmp_path)):
        space = read_word_vectors(given)
        assert entries(space) == expected
        np.testing.assert_array_equal(space.take(np.arange(5)), matrix)
        np.testing.assert_array_equal(space.take(np.asarray([4, 0, 1, 4])), matrix[[4, 0, 1, 4]])
    assert entries(read_word_vectors(tmp_path, limit=1)) == [expected[0], expected[1], expected[3]]
    part = filter_words(space, languages=["swa"], max_words=1)
    assert entries(part) == [("swa", "ya")]
    np.testing.assert_array_equal(part.take(np.arange(1)), matrix[[3]])


def test_a_mapping_of_languages_takes_files_spaces_and_objects(tmp_path) -> None:
    folder(tmp_path)
    ready = make_word_vectors(["maji"], vectors(1), frequencies=np.asarray([6.0]))

    class Keyed:
        index_to_key, vectors = ["eau"], vectors(1)

    given = {
        "eng": tmp_path / "eng.vec",
        "swa": ready,
        "deu": {"haus": vectors(1)[0]},
        "fra": Keyed(),
        "ita": (["casa"], vectors(1)),
    }
    space = read_word_vectors(given)
    assert entries(space) == [
        ("eng", "house"),
        ("eng", "ya"),
        ("swa", "maji"),
        ("deu", "haus"),
        ("fra", "eau"),
        ("ita", "casa"),
    ]
    assert not space.counted
    sums = [space.frequencies[space.languages == code].sum() for code in given]
    np.testing.assert_allclose(sums, 1)
    counted = read_word_vectors({"a": ready, "b": ready})
    assert (counted.counted, counted.frequencies.tolist()) == (True, [6.0, 6.0])


def test_files_with_prefixes_of_their_own_may_share_a_language(tmp_path) -> None:
    write(tmp_path / "one.vec", ["eng:a", "swa:b"], vectors(2))
    write(tmp_path / "two.vec", ["eng:a", "hin:c"], vectors(2, seed=5))
    with pytest.warns(VocabExtendWarning, match=r"1 words of the folder .* occur more than once, for example 'a'"):
        space = read_word_vectors(tmp_path)
    assert entries(space) == [("eng", "a"), ("swa", "b"), ("hin", "c")]


def test_marks_in_some_files_only(tmp_path) -> None:
    write(tmp_path / "eng.vec", ["house"], vectors(1))
    write(tmp_path / "swa.vec", ["swa:$nyumba$", "swa:nyu"], vectors(2))
    assert read_word_vectors(tmp_path).bounds.tolist() == [3, 3, 0]


def test_folders_and_mappings_that_do_not_fit_are_refused(tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InvalidTableError, match="has no file of word vectors; it has no file"):
        read_word_vectors(empty)
    (empty / "data.parquet").write_text("x")
    with pytest.raises(InvalidTableError, match=r"it has data\.parquet.*named by their language.*eng\.vec"):
        read_word_vectors(empty)
    twice = tmp_path / "twice"
    twice.mkdir()
    for name in ("eng.vec", "eng.txt"):
        write(twice / name, ["a"], vectors(1))
    with pytest.raises(InvalidTableError, match=r"two files of the language 'eng', 'eng\.txt' and 'eng\.vec'"):
        read_word_vectors(twice)
    (twice / "eng.txt").unlink()
    write(twice / "swa.vec", ["b"], vectors(1, 3))
    (twice / "zul.vec").write_text("damaged, and never come to")
    with pytest.raises(InvalidTableError, match=r"'eng\.vec' has 4, 'swa\.vec' 3\. .*aligned"):
        read_word_vectors(twice)
    (twice / "zul.vec").unlink()
    (twice / "swa.vec").write_text("2 4\nb 1 2 3 4\n")
    with pytest.raises(InvalidTableError, match=r"'swa\.vec' ends after line 2"):
        read_word_vectors(twice)
    with pytest.raises(InvalidTableError, match="There is no file"):
        read_word_vectors({"eng": "absent.vec"})
    with pytest.raises(InvalidTableError, match=r"maps 'b' to a ndarray, and others to files"):
        read_word_vectors({"a": twice / "eng.vec", "b": vectors(1)[0]})
    with pytest.raises(InvalidTableError, match="gives two spaces, 'source' and 'target'"):
        read_word_vectors({"source": twice / "eng.vec", "target": twice / "eng.vec"})
    with pytest.raises(InvalidTableError, match="default_language is 'eng', and the folder"):
        read_word_vectors(tmp_path / "twice", default_language="eng")


def test_a_fasttext_model_of_each_language(tmp_path) -> None:
    fasttext = pytest.importorskip("fasttext")
    from .factories import swahili

    (tmp_path / "t.txt").write_text("\n".join(swahili(60)), encoding="utf-8")
    options = {"dim": 8, "minCount": 2, "epoch": 1, "bucket": 2_100_000, "minn": 3, "maxn": 4, "thread": 1}
    for attempt in range(3):  # fastText itself has stopped once with "Encountered NaN", on a machine under load
        with contextlib.suppress(RuntimeError) if attempt < 2 else contextlib.nullcontext():
            model = fasttext.train_unsupervised(str(tmp_path / "t.txt"), verbose=0, **options)
            break
    space = read_word_vectors({"swa": model, "eng": (["house"], vectors(1, 8))})
    place = int(space.places(["na"])[0])
    np.testing.assert_array_equal(space.take(np.asarray([place]))[0], model.get_word_vector("na"))
    np.testing.assert_array_equal(space.take(np.asarray([len(space) - 1])), vectors(1, 8))


def test_mapped_files_give_the_same_token_vectors_as_arrays(tmp_path, monkeypatch) -> None:
    from hf_vocab_extend.resources import word_vector_tables
    from hf_vocab_extend.resources.piece_incidence import piece_incidence
    from hf_vocab_extend.vocab.canonical import canonicalise

    from .factories import swahili, tokenizer

    monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    words = sorted({word for line in swahili(50) for word in line.split() if word.isalpha()})
    matrix = vectors(len(words), 5)
    (tmp_path / "files").mkdir()
    for code, part in (("eng", slice(0, 90)), ("swa", slice(90, None))):
        write(tmp_path / "files" / f"{code}.vec", words[part], matrix[part])
    spaces = [read_word_vectors(tmp_path / "files"), make_word_vectors(words, matrix)]
    own = tokenizer("gpt2")
    means = [piece_incidence(space, own, canonicalise(own)).mean(space) for space in spaces]
    np.testing.assert_array_equal(means[0], means[1])
    part = filter_words(spaces[0], languages="swa")
    found = piece_incidence(part, own, canonicalise(own)).mean(part)
    alone = make_word_vectors(words[90:], matrix[90:])
    np.testing.assert_array_equal(found, piece_incidence(alone, own, canonicalise(own)).mean(alone))
    assert found.any()


def test_words_that_cannot_be_encoded_do_no_harm() -> None:
    words = ["house", "half a pair: \ud800"]
    assert list(read_word_vectors((words, vectors(2))).words) == words
    assert list(read_word_vectors((["eng:a", "eng:\ud800"], vectors(2))).words) == ["a", "?"]


def test_words_of_a_space_are_keys_if_they_are_said_to_be() -> None:
    space = make_word_vectors(["eng:house", "swa:nyumba"], vectors(2))
    assert read_word_vectors(space) is space
    assert entries(read_word_vectors(space, keys="colon")) == [("eng", "house"), ("swa", "nyumba")]
    plain = make_word_vectors(["house"], vectors(1))
    assert entries(read_word_vectors(plain, default_language="eng")) == [("eng", "house")]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("wiki.multi.en.vec", "en"),
        ("wiki.sw.align.vec", "sw"),
        ("wiki.zh_yue.vec", "zh_yue"),
        ("cc.zh-Hans.300.bin", "zh-Hans"),
        ("swh.txt.xz", "swh"),
        ("wiki.simple.vec", "wiki.simple"),
    ],
)
def test_languages_are_told_by_the_names_that_files_are_published_under(name: str, code: str, tmp_path) -> None:
    (tmp_path / name).write_text("x")
    assert list(language_files(tmp_path)) == [code]
