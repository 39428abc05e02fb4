"""Readers of word vectors against what was written, the rotation of Procrustes, and files that are broken."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import CorpusError, InvalidOptionError, InvalidTableError, VocabExtendWarning
from hf_vocab_extend.resources.alignment import UnitCounts, Units
from hf_vocab_extend.resources.corpus import open_corpus
from hf_vocab_extend.resources.fasttext import FastTextOptions
from hf_vocab_extend.resources.piece_vectors import PieceOptions, piece_texts, piece_vectors
from hf_vocab_extend.resources.procrustes import case_variants, find_correspondences, procrustes
from hf_vocab_extend.resources.word_pairs import translation_pairs
from hf_vocab_extend.resources.word_training import train_word_vectors
from hf_vocab_extend.resources.word_vectors import make_word_vectors, read_word_vectors, split_sides
from hf_vocab_extend.vocab.canonical import TokenKind, canonicalise

from .factories import swahili, tokenizer

WORDS = ["the", "Haus", "\u0928\u092e\u0938\u094d\u0924\u0947", "a\u00a0b", "x"]
DIM = 4


def vectors(n: int = len(WORDS), dim: int = DIM, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def lines(words: list[str], matrix: np.ndarray, header: bool = True, end: str = "") -> str:
    rows = [f"{word} {' '.join(repr(float(x)) for x in row)}{end}" for word, row in zip(words, matrix, strict=True)]
    return "\n".join(([f"{len(words)} {matrix.shape[1]}"] if header else []) + rows) + "\n"


def write(path: Path, text: str | bytes) -> Path:
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def same(space, words: list[str], matrix: np.ndarray) -> None:
    assert list(space.words) == words
    assert space.dim == matrix.shape[1]
    np.testing.assert_array_equal(space.take(np.arange(len(words))), matrix)
    assert space.places([words[-1], "absent", words[0]]).tolist() == [len(words) - 1, -1, 0]


@pytest.mark.parametrize("end", ["", " ", " \r"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("name", ["v.vec", "v.txt", "v.vec.gz"])
def test_text_files_are_read_exactly(name: str, header: bool, end: str, tmp_path) -> None:
    path = write(tmp_path / name, lines(WORDS, vectors(), header, end))
    space = read_word_vectors(path)
    same(space, WORDS, vectors())
    assert np.all(np.diff(space.frequencies) < 0)
    same(read_word_vectors(str(path), limit=3), WORDS[:3], vectors()[:3])


def test_words_with_spaces_and_broken_bytes(tmp_path) -> None:
    words = ["the", ". . .", "at name", "y"]
    same(read_word_vectors(write(tmp_path / "a.txt", lines(words, vectors(4), header=False))), words, vectors(4))
    raw = lines(["the", "qqq", "y"], vectors(3)).encode().replace(b"qqq", b"\xff\xfe")
    same(read_word_vectors(write(tmp_path / "b.vec", raw)), ["the", "y"], vectors(3)[[0, 2]])


def test_many_blocks_are_one_file(tmp_path) -> None:
    words = [f"w{index}" for index in range(4500)]
    same(read_word_vectors(write(tmp_path / "v.vec", lines(words, vectors(4500)))), words, vectors(4500))


def test_objects_and_npz(tmp_path) -> None:
    matrix = vectors()
    np.savez(tmp_path / "v.npz", words=np.asarray(WORDS), vectors=matrix, frequencies=np.arange(5))
    read = read_word_vectors(tmp_path / "v.npz")
    assert read.frequencies.tolist() == [0, 1, 2, 3, 4]

    class Keyed:
        index_to_key, vectors, expandos = WORDS, matrix, {"count": np.arange(5)}

    given = [
        tmp_path / "v.npz",
        dict(zip(WORDS, matrix, strict=True)),
        dict(zip(WORDS, matrix.tolist(), strict=True)),
        (WORDS, matrix),
        (np.asarray(WORDS), torch.from_numpy(matrix)),
        Keyed(),
        read,
    ]
    for one in given:
        same(read_word_vectors(one), WORDS, matrix)


def test_a_repeated_word_keeps_its_first_vector(tmp_path) -> None:
    path = write(tmp_path / "v.vec", lines(["a", "b", "a"], vectors(3)))
    with pytest.warns(VocabExtendWarning, match=r"1 words of 'v\.vec' occur more than once, for example 'a'"):
        same(read_word_vectors(path), ["a", "b"], vectors(3)[:2])


def cut_line(text: str) -> str:
    return text[: text.rindex(" ")]


GOOD = lines(WORDS, vectors())
BAD_FILES = {
    "cut within a line": (cut_line(GOOD), r"line 6, is b'x.*4 numbers"),
    "cut between lines": ("\n".join(GOOD.split("\n")[:4]) + "\n", r"ends after line 4 with 3 words.*promises 5"),
    "another dimension": (GOOD.replace("the ", "the 1.0 ", 1), r"line 2, is b'the"),
    "no number": (re.sub(r"Haus \S+", "Haus 0.1x", GOOD), r"line 3, is b'Haus"),
    "a number too many": (GOOD.strip() + " 1.0\n", r"line 6"),
    "nan": (re.sub(r"Haus \S+", "Haus nan", GOOD), r"1 words of 'v\.vec' hold NaN or infinite values.*'Haus'"),
    "infinite": (re.sub(r"Haus \S+", "Haus inf", GOOD), r"NaN or infinite"),
    "empty": ("", r"line 1"),
    "words alone": ("house\nwater\n", r"line 1"),
    "only a header": ("0 4\n", r"holds no word vector"),
    "zero dimensions": ("5 0\n", r"0 dimensions"),
    "binary": (b"\x00\x01\x02\x03 \x00", r"line 1"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_broken_text_files_are_refused_with_the_place(name: str, tmp_path) -> None:
    text, message = BAD_FILES[name]
    with pytest.raises(InvalidTableError, match=message):
        read_word_vectors(write(tmp_path / "v.vec", text))


def test_other_broken_files_are_refused(tmp_path) -> None:
    whole = gzip.compress(lines([f"w{i}" for i in range(9000)], vectors(9000)).encode())
    (tmp_path / "cut.vec.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidTableError, match=r"cannot be read past line \d{4}"):
        read_word_vectors(tmp_path / "cut.vec.gz")
    with pytest.raises(InvalidTableError, match="There is no file"):
        read_word_vectors(tmp_path / "absent.vec")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(InvalidTableError, match="has the arrays a"):
        read_word_vectors(tmp_path / "other.npz")
    np.savez(tmp_path / "objects.npz", words=np.asarray(["a"], object), vectors=np.ones((1, 2)))
    with pytest.raises(InvalidTableError, match="array of strings"):
        read_word_vectors(tmp_path / "objects.npz")
    pytest.importorskip("fasttext")
    (tmp_path / "cut.bin").write_bytes((793712314).to_bytes(4, "little") + b"\0" * 4)
    with pytest.raises(InvalidTableError, match=r"'cut\.bin' has 8 bytes.*cut short"):
        read_word_vectors(tmp_path / "cut.bin")


BAD_OBJECTS = {
    "lengths differ": {"a": np.ones(3), "b": np.ones(4)},
    "nothing": {},
    "wrong count": (["a", "b"], np.ones((3, 2))),
    "one dimension": (["a", "b"], np.ones(2)),
    "strings": (["a"], np.asarray([["x", "y"]])),
    "nan": {"a": [1.0, np.nan]},
    "a number": 3,
    "numbers for words": {1: [1.0, 2.0]},
    "bytes for words": {b"a": [1.0, 2.0]},
}


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_objects_that_do_not_fit_are_refused(name: str) -> None:
    with pytest.raises(InvalidTableError):
        read_word_vectors(BAD_OBJECTS[name])


def test_two_spaces_are_told_from_one(tmp_path) -> None:
    one, other = {"a": [1.0]}, {"b": [2.0]}
    assert split_sides((one, other)) == (one, other)
    assert split_sides({"target": other, "source": one}) == (one, other)
    assert split_sides(("a.vec", None)) == ("a.vec", None)
    matrices = (["a"], np.ones((1, 2))), (["b"], np.ones((1, 2)))
    assert split_sides(matrices) == matrices
    for single in (one, matrices[0], "a.vec", str(tmp_path), {"source": [1.0], "target": [2.0], "x": [1.0]}):
        assert split_sides(single) is None


def test_case_variants_meet_three_by_three() -> None:
    assert case_variants("new York") == ("new York", "new york", "New York")
    source = make_word_vectors(["dog", "Dog", "NATO", "nato"], vectors(4))
    target = make_word_vectors(["Hund", "hund", "nato"], vectors(3))
    pairs = [("dog", "Hund"), ("NATO", "NATO"), ("dog", "Hund"), ("absent", "Hund")]
    expected: dict[tuple[int, int], int] = {}
    for left, right in pairs:
        for one in (left, left.lower(), left.title()):
            for two in (right, right.lower(), right.title()):
                if one in source.words and two in target.words:
                    key = source.words.index(one), target.words.index(two)
                    expected[key] = expected.get(key, 0) + 1
    found = find_correspondences(source, target, pairs)
    assert dict(zip(zip(found.source.tolist(), found.target.tolist(), strict=True), found.weights, strict=True)) == (
        expected
    )
    assert (found.n_pairs, found.n_found) == (4, 3)


@pytest.mark.parametrize(("left", "right"), [(6, 6), (8, 5), (5, 8)])
def test_procrustes_finds_the_rotation(left: int, right: int) -> None:
    words = [f"w{index}" for index in range(40)]
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((max(left, right),) * 2))
    rotation = basis[:left, :right]
    given = vectors(40, min(left, right))
    if left <= right:  # the smaller space lies within the larger one
        one, two = given, given @ rotation
    else:
        one, two = given @ rotation.T, given
    source, target = make_word_vectors(words, one), make_word_vectors(words, two.astype(np.float32))
    found = find_correspondences(source, target, [(word, word) for word in words])
    map_ = procrustes(source, target, found)
    np.testing.assert_allclose(one @ map_, two, atol=1e-5)
    square = map_.T @ map_ if left >= right else map_ @ map_.T
    np.testing.assert_allclose(square, np.eye(min(left, right)), atol=1e-12)


def test_pairs_that_are_in_no_space_are_an_error_with_numbers_and_a_cause() -> None:
    source = make_word_vectors(["dog", "cat"], vectors(2))
    target = make_word_vectors(["Hund", "Katze"], vectors(2))
    with pytest.raises(InvalidTableError, match=r"Of the 2 pairs .* 0 of the source words.*2 and 2: .*swapped"):
        find_correspondences(source, target, [("Hund", "dog"), ("Katze", "cat")])
    with pytest.raises(InvalidTableError, match=r"knows 1 of the source words, .* 0 of the target words.*first pair"):
        find_correspondences(source, target, [("dog", "chien")])
    with pytest.raises(InvalidTableError, match="no pair of words to align"):
        find_correspondences(source, target, [])
    zero = make_word_vectors(["dog"], np.zeros((1, DIM), np.float32))
    with pytest.raises(InvalidTableError, match="all zero"):
        procrustes(zero, target, find_correspondences(zero, target, [("dog", "Hund")]))


def corpus_words(name: str) -> list[str]:
    words = {word for line in swahili(150) for word in line.split() if word.isalpha()}
    return sorted(words)[:400]


@pytest.mark.parametrize("weighting", ["frequency", "equal"])
@pytest.mark.parametrize("name", ["gpt2", "llama2", "xlmr", "bert-uncased", "clip"])
def test_vectors_of_pieces_are_means_of_the_words_that_hold_them(name: str, weighting: str) -> None:
    own, vocab = tokenizer(name), canonicalise(tokenizer(name))
    words = corpus_words(name)
    counts = np.random.default_rng(2).integers(1, 90, len(words))
    space = make_word_vectors(words, vectors(len(words)), frequencies=counts)
    found = piece_vectors(space, own, vocab, PieceOptions("words", weighting))
    sums, totals = np.zeros((len(vocab), DIM)), np.zeros(len(vocab))
    for place, word in enumerate(words):
        for text in (word, " " + word):
            for index in set(own(text, add_special_tokens=False)["input_ids"]):
                weight = counts[place] if weighting == "frequency" else 1
                sums[index] += weight * vectors(len(words))[place]
                totals[index] += weight
    plain = np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE)) & (totals > 0)
    assert plain.sum() > 100
    np.testing.assert_allclose(found[plain], sums[plain] / totals[plain, None], atol=1e-6)
    assert not found[~plain].any()
    first = piece_vectors(space, own, vocab, PieceOptions("words", weighting, max_words=50))
    part = make_word_vectors(words[:50], vectors(len(words))[:50], frequencies=counts[:50])
    assert np.array_equal(first, piece_vectors(part, own, vocab, PieceOptions("words", weighting)))


def test_texts_of_pieces_leave_out_what_is_no_text() -> None:
    for name in ("gpt2", "llama2", "bert-uncased"):
        vocab = canonicalise(tokenizer(name))
        texts = piece_texts(vocab)
        assert all(not text for text, kind in zip(texts, vocab.kinds, strict=True) if kind == TokenKind.SPECIAL)
        assert all("\ufffd" not in text and text == text.strip() for text in texts)
        assert any(texts)
    assert "##" not in "".join(piece_texts(canonicalise(tokenizer("bert-uncased"))))


OPTIONS = FastTextOptions(dim=8, epochs=2, min_count=2, min_ngram=3, max_ngram=4, buckets=1000)


def test_trained_spaces_have_words_frequencies_and_ngrams() -> None:
    pytest.importorskip("fasttext")
    corpus = open_corpus(["Maji MAJI maji ya kunywa, ya moto.", *swahili(100)])
    texts = ["", "maji", "kunywani", "\u0e01"]
    uncased = train_word_vectors(tokenizer("bert-uncased"), corpus, texts, OPTIONS)
    cased = train_word_vectors(tokenizer("bert-cased"), corpus, texts, OPTIONS)
    assert uncased.places(["maji", ","]).min() >= 0
    assert uncased.places(["Maji", "MAJI"]).max() == -1
    assert cased.places(["ya", ","]).min() >= 0
    counts = np.zeros(len(uncased))
    from tokenizers.pre_tokenizers import BertPreTokenizer

    for line in corpus:
        for word, _ in BertPreTokenizer().pre_tokenize_str(line.lower()):
            place = uncased.places([word])[0]
            if place >= 0:
                counts[place] += 1
    assert np.array_equal(uncased.frequencies, counts)
    assert counts.min() >= 2
    composed = uncased.compose(texts)
    assert composed.any(1).tolist() == [False, True, True, False]
    np.testing.assert_allclose(composed[1], uncased.take(uncased.places(["maji"]))[0], atol=1e-6)
    again = train_word_vectors(tokenizer("bert-uncased"), corpus, texts, OPTIONS)
    fresh = train_word_vectors(tokenizer("bert-uncased"), corpus, texts, OPTIONS, use_cache=False)
    for other in (again, fresh):
        assert list(other.words) == list(uncased.words)
        assert np.array_equal(other.vectors, uncased.vectors)
        assert np.array_equal(other.compose(texts), composed)


def test_a_fasttext_file_gives_words_and_ngrams(tmp_path) -> None:
    fasttext = pytest.importorskip("fasttext")
    (tmp_path / "t.txt").write_text("\n".join(swahili(100)), encoding="utf-8")
    model = fasttext.train_unsupervised(
        str(tmp_path / "t.txt"), dim=8, minCount=2, epoch=1, bucket=2_100_000, minn=3, maxn=4, thread=1, verbose=0
    )
    model.save_model(str(tmp_path / "m.bin"))
    whole = (tmp_path / "m.bin").read_bytes()
    for share in (0.001, 0.5, 0.99):
        (tmp_path / "cut.bin").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InvalidTableError, match="cut short"):
            read_word_vectors(tmp_path / "cut.bin")
    for space in (read_word_vectors(tmp_path / "m.bin"), read_word_vectors(model)):
        words, counts = model.get_words(include_freq=True)
        assert list(space.words) == [word for word in words if word != "</s>"]
        assert space.frequencies.tolist() == [n for word, n in zip(words, counts, strict=True) if word != "</s>"]
        np.testing.assert_array_equal(space.take(space.places(["na"]))[0], model.get_word_vector("na"))
        np.testing.assert_array_equal(space.compose(["nanana"])[0], model.get_word_vector("nanana"))
        vocab = canonicalise(tokenizer("gpt2"))
        found = piece_vectors(space, tokenizer("gpt2"), vocab, PieceOptions("ngrams"))
        place = vocab.tokens.index("\u0120the")
        np.testing.assert_array_equal(found[place], model.get_word_vector("the"))


def test_ngrams_need_a_space_that_has_them_and_text_that_is_enough() -> None:
    space, vocab = make_word_vectors(WORDS, vectors()), canonicalise(tokenizer("gpt2"))
    with pytest.raises(InvalidOptionError, match="has no n-grams"):
        piece_vectors(space, tokenizer("gpt2"), vocab, PieceOptions("ngrams"))
    pytest.importorskip("fasttext")
    with pytest.raises(CorpusError, match=r"No word occurs 2 times .* it has 3 words"):
        train_word_vectors(tokenizer("gpt2"), open_corpus(["habari ya leo"]), [], OPTIONS)


def test_words_that_are_each_others_most_frequent_translation_are_pairs() -> None:
    own = tokenizer("bert-uncased"), tokenizer("gpt2")
    vocabs = [canonicalise(tokenizer_) for tokenizer_ in own]
    links = {
        ("health", "afya"): (5.0, 4.0),
        ("health", "watu"): (1.0, 2.0),
        ("people", "watu"): (9.0, 9.0),
        ("people", "afya"): (2.0, 0.0),
        ("days", "siku"): (1.0, 1.0),
        ("the", "watu"): (3.0, 8.0),
    }
    sides = [list(dict.fromkeys(pair[side] for pair in links)) for side in (0, 1)]
    units = []
    for side, words in enumerate(sides):
        ids = [own[side](("", " ")[side] + word, add_special_tokens=False)["input_ids"] for word in words]
        offsets = np.cumsum([0, *map(len, ids)])
        units.append(Units(offsets, np.asarray(sum(ids, []), np.int32), np.ones(len(ids), np.int64)))
    order = sorted(links, key=lambda pair: (sides[0].index(pair[0]), sides[1].index(pair[1])))
    counts = UnitCounts(
        *units,
        np.asarray([sides[0].index(pair[0]) for pair in order], np.int32),
        np.asarray([sides[1].index(pair[1]) for pair in order], np.int32),
        np.asarray([links[pair][0] for pair in order]),
        np.asarray([links[pair][1] for pair in order]),
        n_pairs=10,
        source_vocab="",
        target_vocab="",
    )
    assert translation_pairs(counts, *vocabs) == [("people", "watu"), ("health", "afya")]
    assert translation_pairs(counts, *vocabs, min_count=1)[2:] == [("days", "siku")]
    assert translation_pairs(counts, *vocabs, min_count=5) == [("people", "watu")]
