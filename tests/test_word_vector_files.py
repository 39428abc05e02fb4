"""Large and binary files of word vectors: parsed once, mapped afterwards, refused where they are broken."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from hf_vocab_extend.errors import InvalidTableError, VocabExtendError, VocabExtendWarning
from hf_vocab_extend.resources import word_vector_files, word_vector_tables
from hf_vocab_extend.resources.cache import cache_folder
from hf_vocab_extend.resources.packed_words import PackedWords
from hf_vocab_extend.resources.word_vectors import read_word_vectors

WORDS = ["the", "\u0928\u092e\u0938\u094d\u0924\u0947", "a\u00a0b", "x", "nyumba"]


def vectors(n: int = len(WORDS), dim: int = 6, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def binary(words: list[str], matrix: np.ndarray, end: bytes = b"\n", promised: int | None = None) -> bytes:
    head = f"{promised or len(words)} {matrix.shape[1]}\n".encode()
    rows = zip(words, matrix, strict=True)
    return head + b"".join(word.encode() + b" " + row.astype("<f4").tobytes() + end for word, row in rows)


def text(words: list[str], matrix: np.ndarray, between: str = " ", header: bool = True) -> str:
    rows = [between.join([word, *(repr(float(x)) for x in row)]) for word, row in zip(words, matrix, strict=True)]
    return "\n".join(([f"{len(words)} {matrix.shape[1]}"] if header else []) + rows) + "\n"


def same(space, words: list[str], matrix: np.ndarray) -> None:
    assert list(space.words) == words
    assert space.dim == matrix.shape[1]
    np.testing.assert_array_equal(space.take(np.arange(len(words))), matrix)
    np.testing.assert_array_equal(space.take(np.asarray([len(words) - 1, 0])), matrix[[-1, 0]])
    assert not space.counted
    assert np.all(np.diff(space.frequencies) < 0)


@pytest.fixture(params=["memory", "cache"])
def kept(request, monkeypatch) -> str:
    """Whether tables are parsed into memory or into the cache."""
    if request.param == "cache":
        monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    return request.param


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("name", ["v.bin", "v.bin.gz"])
def test_binary_files_are_read_exactly(name: str, end: bytes, kept: str, tmp_path) -> None:
    raw = binary(WORDS, vectors(), end)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    for _ in range(2):
        same(read_word_vectors(tmp_path / name), WORDS, vectors())
        same(read_word_vectors(tmp_path / name, limit=3), WORDS[:3], vectors()[:3])


def test_binary_files_of_many_blocks_and_narrow_vectors(kept: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("hf_vocab_extend.resources.word_vector_binary._BYTES_PER_BLOCK", 700)
    words = [f"w{'x' * (index % 40)}{index}" for index in range(500)]
    for dim in (1, 7, 200):
        matrix = vectors(500, dim)
        (tmp_path / f"{dim}.bin").write_bytes(binary(words, matrix))
        same(read_word_vectors(tmp_path / f"{dim}.bin"), words, matrix)
    (tmp_path / "zero.bin").write_bytes(binary(WORDS, np.zeros((5, 3), np.float32)))
    same(read_word_vectors(tmp_path / "zero.bin"), WORDS, np.zeros((5, 3), np.float32))


@pytest.mark.parametrize("between", ["\t", "  "])
@pytest.mark.parametrize("header", [True, False])
def test_text_may_stand_between_tabs_or_more_spaces(between: str, header: bool, kept: str, tmp_path) -> None:
    (tmp_path / "v.txt").write_text(text(WORDS, vectors(), between, header), encoding="utf-8")
    same(read_word_vectors(tmp_path / "v.txt"), WORDS, vectors())


@pytest.mark.parametrize("header", [True, False])
def test_a_byte_order_mark_is_no_part_of_a_word(header: bool, tmp_path) -> None:
    (tmp_path / "v.txt").write_text("\ufeff" + text(WORDS, vectors(), header=header), encoding="utf-8")
    same(read_word_vectors(tmp_path / "v.txt"), WORDS, vectors())


def test_numbers_that_move_from_line_to_line_are_seen(tmp_path) -> None:
    rows = text(WORDS, vectors()).split("\n")
    moved = rows[2].rsplit(" ", 1)
    rows[2], rows[3] = moved[0], rows[3] + " " + moved[1]  # the same number of numbers in all
    (tmp_path / "v.vec").write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(InvalidTableError, match=r"line 3, .* 6 numbers"):
        read_word_vectors(tmp_path / "v.vec")


def test_a_table_is_parsed_once_and_mapped_afterwards(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    path = tmp_path / "v.vec"
    path.write_text(text(WORDS, vectors()), encoding="utf-8")
    parse, calls = word_vector_files.text_blocks, []
    monkeypatch.setattr(word_vector_files, "text_blocks", lambda *given: calls.append(1) or parse(*given))
    first, second = read_word_vectors(path), read_word_vectors(path)
    assert len(calls) == 1
    same(second, WORDS, vectors())
    assert first.vectors.base is not None
    assert isinstance(second.words, PackedWords)
    assert not second.vectors.flags.writeable
    same(read_word_vectors(path, limit=2), WORDS[:2], vectors()[:2])
    assert len(calls) == 1
    same(read_word_vectors(path, cache=False), WORDS, vectors())
    assert len(calls) == 2
    path.write_text(text(WORDS[::-1], vectors()), encoding="utf-8")  # the same size
    os.utime(path, ns=(1, 1))
    same(read_word_vectors(path), WORDS[::-1], vectors())
    assert len(calls) == 3


def test_a_file_changed_in_its_middle_is_parsed_anew_whatever_its_time_says(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    monkeypatch.setattr(word_vector_tables, "_SAMPLE", 9)
    path, other = tmp_path / "v.vec", [*WORDS[:3], "z", WORDS[4]]
    path.write_text(text(WORDS, vectors()), encoding="utf-8")
    os.utime(path, ns=(1, 1))
    same(read_word_vectors(path), WORDS, vectors())
    time.sleep(0.02)  # file systems tell times by ticks
    path.write_text(text(other, vectors()), encoding="utf-8")
    os.utime(path, ns=(1, 1))
    same(read_word_vectors(path), other, vectors())


def test_a_cached_table_is_a_safetensors_file_and_is_made_anew_when_damaged(tmp_path, monkeypatch, caplog) -> None:
    from safetensors.numpy import load_file

    monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    monkeypatch.setenv("HF_VOCAB_EXTEND_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "v.vec"
    path.write_text(text(WORDS, vectors()), encoding="utf-8")
    read_word_vectors(path)
    (table,) = (cache_folder() / "vectors").iterdir()
    stored = load_file(table)
    np.testing.assert_array_equal(stored["vectors"], vectors())
    assert stored["words"].tobytes().decode() == "".join(WORDS)
    whole = table.read_bytes()
    for damaged in (whole[:-3], whole[:100], b"", whole[:8] + b"{" + whole[9:20] + b"x" + whole[21:]):
        table.write_bytes(damaged)
        with caplog.at_level("WARNING"):
            same(read_word_vectors(path), WORDS, vectors())
        assert "is made anew" in caplog.text
        assert table.read_bytes() == whole
        caplog.clear()


def test_where_the_cache_cannot_be_written_the_file_is_read_all_the_same(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_VOCAB_EXTEND_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "v.bin.gz").write_bytes(gzip.compress(binary(WORDS, vectors())))
    with caplog.at_level("WARNING"):
        same(read_word_vectors(tmp_path / "v.bin.gz"), WORDS, vectors())
    assert "cannot be written" in caplog.text


def test_a_failed_reading_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    monkeypatch.setenv("HF_VOCAB_EXTEND_CACHE", str(tmp_path / "cache"))
    (tmp_path / "v.vec").write_text(text(WORDS, vectors())[:-40], encoding="utf-8")
    (tmp_path / "n.vec").write_text(text(WORDS, np.full((5, 2), np.nan)), encoding="utf-8")
    for name in ("v.vec", "n.vec"):
        with pytest.raises(InvalidTableError):
            read_word_vectors(tmp_path / name)
    assert list((cache_folder() / "vectors").iterdir()) == []


def test_repeated_and_broken_words_are_left_out(kept: str, tmp_path) -> None:
    matrix = vectors(6)
    words = ["a", "b", "a", "c", "b", "d"]
    for name, raw in (("v.vec", text(words, matrix).encode()), ("v.bin", binary(words, matrix))):
        (tmp_path / name).write_bytes(raw)
        for _ in range(2):
            with pytest.warns(VocabExtendWarning, match=r"2 words of 'v\.\w+' occur more than once, .*'a', 'b'"):
                same(read_word_vectors(tmp_path / name), ["a", "b", "c", "d"], matrix[[0, 1, 3, 5]])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            same(read_word_vectors(tmp_path / name, limit=2), ["a", "b"], matrix[:2])
        (tmp_path / name).write_bytes(raw.replace(b"d ", b"\xff "))
        with pytest.warns(VocabExtendWarning):
            same(read_word_vectors(tmp_path / name), ["a", "b", "c"], matrix[[0, 1, 3]])


GOOD = binary(WORDS, vectors())
BAD = {
    "cut in a vector": (GOOD[:-5], rf"ends at byte {len(GOOD) - 5}, within word 5 of the 5 .*cut short"),
    "cut in a word": (GOOD[:-30], r"ends at byte \d+, within word 5"),
    "one word less": (binary(WORDS, vectors(), promised=6), r"within word 6 of the 6"),
    "not a number": (binary(WORDS, np.full((5, 6), np.nan, np.float32)), r"5 words of 'v\.bin' hold NaN"),
    "another width": (binary(WORDS * 9, vectors(45)).replace(b"45 6\n", b"45 5\n"), r"no word at byte .* not 5 dim"),
    "a width beyond memory": (GOOD.replace(b"5 6\n", b"5 99999999999999\n"), r"ends at byte \d+, within word 1"),
    "no further word": (GOOD[:40] + b"\xff" * 9000, r"has no word at byte \d+, after \d of the 5"),
    "compressed text cut": (gzip.compress(text(WORDS * 99, vectors(495)).encode())[:3000], r"past line \d+"),
    "compressed and cut": (gzip.compress(binary(WORDS * 99, vectors(495)))[:5000], r"past (byte|line) \d+"),
    "pickle": (pickle.dumps({"a": 1}), r"is a pickle, .*save_word2vec_format"),
    "array": (b"\x93NUMPY\x01\x00", r"a single NumPy array"),
    "compressed model": (gzip.compress(struct.pack("<i", 793712314) + b"\0" * 90), r"a compressed fastText model"),
}


@pytest.mark.parametrize("name", BAD)
def test_broken_binary_files_are_refused_with_the_place(name: str, tmp_path) -> None:
    raw, message = BAD[name]
    (tmp_path / "v.bin").write_bytes(raw)
    with pytest.raises(InvalidTableError, match=message):
        read_word_vectors(tmp_path / "v.bin")


def test_files_longer_than_their_first_line_says_are_told(tmp_path) -> None:
    (tmp_path / "v.vec").write_text(text(WORDS, vectors()).replace("5 6\n", "3 6\n", 1), encoding="utf-8")
    with pytest.warns(VocabExtendWarning, match=r"has 5 words; its first line promises 3\. All are read"):
        same(read_word_vectors(tmp_path / "v.vec"), WORDS, vectors())
    (tmp_path / "v.bin").write_bytes(binary(WORDS, vectors(), promised=5) + b"more" * 5)
    with pytest.warns(VocabExtendWarning, match=r"goes on for 20 bytes after the 5 words"):
        same(read_word_vectors(tmp_path / "v.bin"), WORDS, vectors())


@pytest.mark.parametrize("make", [binary, lambda *given: text(*given).encode()], ids=["binary", "text"])
def test_a_limit_leaves_the_same_words_whatever_was_read_before(make, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(word_vector_tables, "CACHED_FROM", 0)
    path = tmp_path / "v"
    path.write_bytes(make(WORDS, vectors()).replace("\u0928".encode(), b"\xff\xfe\xff"))
    left, rows = [WORDS[place] for place in (0, 2, 3, 4)], vectors()[[0, 2, 3, 4]]
    same(read_word_vectors(path, limit=3), left[:2], rows[:2])
    for _ in range(2):
        same(read_word_vectors(path), left, rows)
        same(read_word_vectors(path, limit=3), left[:2], rows[:2])
        same(read_word_vectors(path, limit=4), left[:3], rows[:3])


def test_frequencies_that_are_no_numbers_are_named(tmp_path) -> None:
    given = {"words": np.asarray(WORDS), "vectors": vectors()}
    np.savez(tmp_path / "a.npz", **given, frequencies=np.asarray(["often"] * 5))
    with pytest.raises(InvalidTableError, match="frequencies of 'a.npz' are of the type <U5"):
        read_word_vectors(tmp_path / "a.npz")


def test_npz_vectors_are_mapped_unless_compressed(tmp_path) -> None:
    matrix = vectors().astype(np.float16)
    given = {"words": np.asarray(WORDS), "vectors": matrix, "languages": np.asarray(["eng", "hin", "", "eng", "swa"])}
    np.savez(tmp_path / "a.npz", **given, bounds=np.asarray([3, 3, 0, 1, 2]), frequencies=np.arange(5))
    np.savez_compressed(tmp_path / "b.npz", **given)
    np.savez(tmp_path / "c.npz", words=np.asarray(WORDS), vectors=np.asfortranarray(vectors()))
    one, two, three = (read_word_vectors(tmp_path / f"{name}.npz") for name in "abc")
    assert isinstance(one.vectors, np.memmap)
    assert not isinstance(two.vectors, np.memmap)
    for space in (one, two):
        assert list(space.words) == WORDS
        assert space.languages.tolist() == given["languages"].tolist()
        np.testing.assert_array_equal(space.take(np.arange(5)), matrix.astype(np.float32))
    assert one.bounds.tolist() == [3, 3, 0, 1, 2]
    assert (one.counted, one.frequencies.tolist()) == (True, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(three.take(np.arange(5)), vectors())
    np.savez(tmp_path / "g.npz", words=np.asarray([word.encode() for word in WORDS]), vectors=vectors())
    assert list(read_word_vectors(tmp_path / "g.npz").words) == WORDS
    matrix[2, 1] = np.inf
    np.savez(tmp_path / "d.npz", words=np.asarray(WORDS), vectors=matrix)
    with pytest.raises(InvalidTableError, match=r"1 words of 'd\.npz' hold NaN"):
        read_word_vectors(tmp_path / "d.npz").take(np.arange(5))
    np.savez(tmp_path / "e.npz", **given, bounds=np.asarray([3, 3, 0, 1, 4]))
    with pytest.raises(InvalidTableError, match="0, 1, 2 or 3"):
        read_word_vectors(tmp_path / "e.npz")
    np.savez(tmp_path / "f.npz", **{**given, "languages": np.asarray(["eng"])})
    with pytest.raises(InvalidTableError, match=r"languages of 'f\.npz' have the shape \(1,\)"):
        read_word_vectors(tmp_path / "f.npz")


MEASURE = """
import sys
from pathlib import Path
from hf_vocab_extend.resources.word_vectors import read_word_vectors
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the process that started this one
before = peak()
space = read_word_vectors(Path(sys.argv[1]))
print(len(space), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("name", ["v.vec", "v.bin", "v.bin.gz"])
def test_no_more_than_words_and_a_block_is_held(name: str, tmp_path: Path) -> None:
    words, matrix = [f"w{index}" for index in range(60_000)], vectors(60_000, 200).round(1)  # 46 MiB
    raw = text(words, matrix).encode() if name == "v.vec" else binary(words, matrix)
    (tmp_path / name).write_bytes(gzip.compress(raw, 1) if name.endswith("gz") else raw)
    found = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / name)], capture_output=True, text=True, check=True, timeout=300
    ).stdout.split()
    assert int(found[0]) == 60_000
    assert int(found[1]) < 38 << 10


def file_kinds(folder: Path) -> dict[str, bytes]:
    matrix = vectors(60)
    words = [f"{word}{index}" for index, word in enumerate(["the", "\u0928\u092e", "x", "eng:$a$"] * 15)]
    np.savez(folder / "a.npz", words=np.asarray(words), vectors=matrix, languages=np.asarray(["eng"] * 60))
    np.savez_compressed(folder / "b.npz", words=np.asarray(words), vectors=matrix)
    kinds = {"text": text(words, matrix).encode(), "binary": binary(words, matrix)}
    kinds |= {f"{name}.gz": gzip.compress(raw) for name, raw in kinds.items()}
    return kinds | {name: (folder / f"{name}.npz").read_bytes() for name in "ab"}


def harmed(raw: bytes, rng: np.random.Generator) -> bytes:
    """Cut a file short, change three of its bytes, or take some out."""
    at, kind = int(rng.integers(len(raw))), rng.integers(3)
    if kind == 0:
        return raw[:at]
    if kind == 1:
        return raw[:at] + raw[at + int(rng.integers(1, 30)) :]
    changed = bytearray(raw)
    for place in rng.integers(len(raw), size=3).tolist():
        changed[place] = int(rng.integers(256))
    return bytes(changed)


@pytest.mark.filterwarnings("ignore::hf_vocab_extend.errors.VocabExtendWarning")
def test_whatever_is_wrong_with_a_file_the_error_is_one_of_ours(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for name, raw in file_kinds(tmp_path).items():
        refused = 0
        for _ in range(60):
            (tmp_path / "f").write_bytes(harmed(raw, rng))
            try:
                space = read_word_vectors(tmp_path / "f")
                assert np.isfinite(space.take(np.arange(len(space)))).all()
                assert len(list(space.words)) == len(space)
            except VocabExtendError:
                refused += 1
        assert refused > 20, name
