"""fastText models read from their files, against the library that wrote them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hf_vocab_extend.errors import InvalidTableError, MissingDependencyError, VocabExtendError
from hf_vocab_extend.resources.fasttext_file import ngram_codes, open_fasttext
from hf_vocab_extend.resources.word_vectors import read_word_vectors

from .factories import swahili

fasttext = pytest.importorskip("fasttext")

OTHER = [
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0918\u0930 \u0918\u0930 \u4e2d \u4e2d\u56fd \u00e9 \U0001f600 a ab"
] * 5
ABSENT = [
    "zzz",
    "nanana",
    "\u4e2d\u4e2d",
    "\u0928\u092e\u0938\u094d",
    "</s>",
    "new york",
    "x",
    "na",
    "\U0001f600\u00e9",
]


def text(folder: Path) -> str:
    path = folder / "t.txt"
    path.write_text("\n".join(swahili(120) + OTHER), encoding="utf-8")
    return str(path)


def train(folder: Path, **options):
    # fewer buckets than that, or fewer threads without any, start at what the memory held
    given = {"dim": 8, "minCount": 2, "epoch": 1, "bucket": 2_100_000, "thread": 10, "verbose": 0, **options}
    return fasttext.train_unsupervised(text(folder), **given)


@pytest.mark.parametrize(("least", "most"), [(3, 6), (1, 3), (2, 2), (0, 0)])
def test_vectors_are_those_of_the_library_to_the_bit(least: int, most: int, tmp_path) -> None:
    model = train(tmp_path, minn=least, maxn=most, wordNgrams=2)  # else there are no buckets without n-grams
    model.save_model(str(tmp_path / "m.bin"))
    space = read_word_vectors(tmp_path / "m.bin")
    words, counts = model.get_words(include_freq=True)
    place = words.index("</s>")
    assert list(space.words) == words[:place] + words[place + 1 :]
    assert space.frequencies.tolist() == np.delete(counts, place).tolist()
    assert space.counted
    expected = np.stack([model.get_word_vector(word) for word in space.words])
    np.testing.assert_array_equal(space.take(np.arange(len(space))), expected)
    np.testing.assert_array_equal(space.take(np.asarray([9, 3])), expected[[9, 3]])
    np.testing.assert_array_equal(space.compose(ABSENT), np.stack([model.get_word_vector(word) for word in ABSENT]))
    assert not space.compose(["", ""]).any()
    assert isinstance(open_fasttext(tmp_path / "m.bin").matrix, np.memmap)


def test_blocks_of_strings_do_not_change_vectors(tmp_path, monkeypatch) -> None:
    train(tmp_path, minn=2, maxn=5).save_model(str(tmp_path / "m.bin"))
    space = read_word_vectors(tmp_path / "m.bin")
    whole = space.take(np.arange(len(space)))
    monkeypatch.setattr("hf_vocab_extend.resources.fasttext_file._ROWS_PER_BLOCK", 30)
    np.testing.assert_array_equal(space.take(np.arange(len(space))), whole)


@pytest.mark.parametrize(("least", "most"), [(3, 6), (1, 2), (1, 1), (4, 4)])
def test_ngrams_against_a_loop_over_characters(least: int, most: int) -> None:
    words = ["<na>", "", "<\u00e9>", "<\u4e2d\u56fda>", "<nyumba>", "<\U0001f600>", ""]
    expected = []
    for owner, word in enumerate(words):
        for start in range(len(word)):
            for length in range(least, most + 1):
                at_edge = start == 0 or start + length == len(word)
                if start + length > len(word) or (length == 1 and at_edge):
                    continue
                code = 2166136261
                for byte in word[start : start + length].encode():
                    code = ((code ^ ((byte - 256) % 2**32 if byte > 127 else byte)) * 16777619) % 2**32
                expected.append((owner, code))
    owners, codes = ngram_codes([word.encode() for word in words], least, most)
    assert list(zip(owners.tolist(), codes.tolist(), strict=True)) == expected


def test_a_classifier_has_words_and_labels(tmp_path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("\n".join(f"__label__{n % 2} {line}" for n, line in enumerate(swahili(60))), encoding="utf-8")
    model = fasttext.train_supervised(
        str(path), dim=8, minCount=2, epoch=1, bucket=2_100_000, maxn=3, minn=2, verbose=0
    )
    model.save_model(str(tmp_path / "m.bin"))
    space = read_word_vectors(tmp_path / "m.bin")
    assert "__label__0" not in list(space.words)
    np.testing.assert_array_equal(space.take(np.arange(1))[0], model.get_word_vector(space.words[0]))
    np.testing.assert_array_equal(space.compose(["zzz"])[0], model.get_word_vector("zzz"))


def test_no_library_is_needed_but_for_quantised_models(tmp_path, monkeypatch) -> None:
    path = tmp_path / "t.txt"
    path.write_text("\n".join(f"__label__{n % 2} {line}" for n, line in enumerate(swahili(300))), encoding="utf-8")
    model = fasttext.train_supervised(str(path), dim=8, minCount=1, epoch=1, verbose=0, thread=10)
    model.save_model(str(tmp_path / "m.bin"))
    model.quantize(input=str(path), cutoff=0, qnorm=False)
    model.save_model(str(tmp_path / "m.ftz"))
    quantised = read_word_vectors(tmp_path / "m.ftz")
    np.testing.assert_array_equal(quantised.take(np.arange(2))[1], model.get_word_vector(quantised.words[1]))
    monkeypatch.setitem(sys.modules, "fasttext", None)
    assert len(read_word_vectors(tmp_path / "m.bin")) == len(quantised)
    with pytest.raises(MissingDependencyError, match="fasttext"):
        read_word_vectors(tmp_path / "m.ftz")


def test_broken_models_are_refused(tmp_path) -> None:
    train(tmp_path, minn=0, maxn=0).save_model(str(tmp_path / "m.bin"))
    whole = (tmp_path / "m.bin").read_bytes()
    cut = tmp_path / "cut.bin"
    for size in [8, 90, 100, 300, len(whole) // 3, len(whole) // 2, len(whole) * 3 // 4, len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(InvalidTableError, match=rf"'cut\.bin' has {size} bytes; .*cut short"):
            read_word_vectors(cut)
    cut.write_bytes(whole[:64] + b"\xff\xff\xff\x7f" + whole[68:])  # more entries than fit
    with pytest.raises(InvalidTableError, match="cut short"):
        read_word_vectors(cut)


def test_words_with_broken_bytes_are_left_out(tmp_path) -> None:
    model = train(tmp_path, minn=2, maxn=3)
    model.save_model(str(tmp_path / "m.bin"))
    raw = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(raw.replace(b"\0na\0"[1:], b"\xff\xfe\0", 1))
    words = list(read_word_vectors(tmp_path / "m.bin").words)
    assert len(words) == len(model.words) - 2
    assert "na" not in words


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_whatever_is_wrong_with_a_model_the_error_is_one_of_ours(tmp_path) -> None:
    train(tmp_path, minn=0, maxn=0, dim=2, minCount=30).save_model(str(tmp_path / "m.bin"))
    whole, rng, refused = (tmp_path / "m.bin").read_bytes(), np.random.default_rng(0), 0
    for step in range(200):
        harmed = bytearray(whole)
        at = 4 + int(rng.integers(min(300, len(whole) - 4) if step % 2 else len(whole) - 4))
        if step % 3:
            harmed[at] = int(rng.integers(256))
        else:
            del harmed[at : at + 1 + step]
        (tmp_path / "f.bin").write_bytes(bytes(harmed))
        try:
            space = read_word_vectors(tmp_path / "f.bin")
            space.take(np.arange(len(space)))
        except (VocabExtendError, MissingDependencyError):
            refused += 1
    assert refused > 50
