"""Corpora of every kind give the same lines, and bad ones one clear error."""

from __future__ import annotations

import bz2
import csv
import gc
import gzip
import hashlib
import io
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from hf_vocab_extend.errors import CorpusError, MissingDependencyError
from hf_vocab_extend.resources import corpus as corpus_module
from hf_vocab_extend.resources.corpus import Corpus, open_corpus
from hf_vocab_extend.resources.parallel import open_pairs

LINES = ['Watoto wanasoma "vitabu", leo.', "  mstari wenye nafasi", "हिन्दी में एक पंक्ति", "emoji 🙂 na ’alama’"]
OTHER = "column that is not wanted"


def _text() -> bytes:
    return ("\n".join([LINES[0], "", *LINES[1:], "   "]) + "\n").encode()


def _crlf_with_bom() -> bytes:
    return b"\xef\xbb\xbf" + "\r\n".join(LINES).encode()


def _jsonl() -> bytes:
    records = [{"id": 1, "text": LINES[0]}, {"text": None}, *({"text": line} for line in LINES[1:])]
    return "\n".join(json.dumps(record) for record in records).encode()


def _jsonl_strings() -> bytes:
    return "\n\n".join(json.dumps(line, ensure_ascii=False) for line in LINES).encode()


def _csv() -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["id", "text"], ["0", "\n".join(LINES[:2])], *([str(n), LINES[n]] for n in (2, 3))])
    return buffer.getvalue().encode()


def _tsv() -> bytes:
    return "\n".join(["text\tother", *(f"{line}\t{OTHER}" for line in LINES)]).encode()


def _parquet() -> bytes:
    buffer = io.BytesIO()
    datasets.Dataset.from_dict({"text": LINES, "other": [OTHER] * len(LINES)}).to_parquet(buffer)
    return buffer.getvalue()


FILES = {
    "a.txt": _text,
    "b.txt": _crlf_with_bom,
    "no_suffix": _text,
    "dialect.sw": _text,
    "c.jsonl": _jsonl,
    "d.ndjson": _jsonl_strings,
    "e.csv": _csv,
    "f.tsv": _tsv,
    "g.parquet": _parquet,
}
COMPRESSIONS = {"": lambda data: data, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_lines_and_fingerprint(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / (name + suffix)
    path.write_bytes(COMPRESSIONS[suffix](FILES[name]()))
    corpus = open_corpus(str(path))
    assert list(corpus) == LINES
    assert list(corpus) == LINES  # a second reading
    assert corpus.fingerprint() == hashlib.sha256(("\n".join(LINES) + "\n").encode()).hexdigest()
    assert open_corpus(corpus) is corpus


def test_a_folder_is_read_in_sorted_order_without_hidden_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, text in {"b.txt": "pili", "a.txt": "kwanza", "sub/c.jsonl": '{"text": "tatu"}'}.items():
        (tmp_path / name).write_text(text + "\n")
    for name in ("README.md", ".hidden.txt", "config.json"):
        (tmp_path / name).write_text(OTHER)
    assert list(open_corpus(tmp_path)) == ["kwanza", "pili", "tatu"]


class _Twice:
    """An iterable that can be read again."""

    def __iter__(self) -> Iterator[str]:
        return iter(LINES)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LINES,
        lambda: tuple(LINES),
        lambda: _Twice(),
        lambda: iter(LINES),
        lambda: (line for line in LINES),
        lambda: ["\n".join(LINES)],
        lambda: [{"text": line, "other": OTHER} for line in LINES],
        lambda: datasets.Dataset.from_dict({"text": LINES, "other": [OTHER] * len(LINES)}),
        lambda: datasets.Dataset.from_dict({"only": LINES}).to_iterable_dataset(),
    ],
    ids=["list", "tuple", "class", "iterator", "generator", "joined", "dicts", "dataset", "streamed"],
)
def test_objects_in_memory_can_be_read_twice(make: Any) -> None:
    corpus = open_corpus(make())
    assert list(corpus) == LINES
    assert list(corpus) == LINES
    assert corpus.fingerprint() == open_corpus(LINES).fingerprint()


def test_text_column_chooses_the_column(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("id\ten\tsw\n1\twater\tmaji\n")
    assert list(open_corpus(path, text_column="sw")) == ["maji"]
    dataset = datasets.Dataset.from_dict({"en": ["water"], "sw": ["maji"]})
    assert list(open_corpus(dataset, text_column="sw")) == ["maji"]


def test_batches_hold_all_lines_in_order() -> None:
    corpus = open_corpus([f"mstari {n}" for n in range(7)])
    assert [len(batch) for batch in corpus.batches(3)] == [3, 3, 1]
    assert [line for batch in corpus.batches(3) for line in batch] == list(corpus)


@pytest.mark.parametrize("text_column", [None, "text"])
def test_standard_input_is_kept_in_a_file_that_goes_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text_column: str | None
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = _text() if text_column is None else _jsonl()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    corpus = open_corpus("-", text_column=text_column)
    assert list(corpus) == LINES == list(corpus)
    assert len(list(tmp_path.iterdir())) == 1
    corpus.close()
    assert list(tmp_path.iterdir()) == []


def test_the_spool_goes_with_the_object_and_after_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    corpus = open_corpus(iter(LINES))
    assert len(list(tmp_path.iterdir())) == 1
    del corpus
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CorpusError, match="Item 1 of the corpus holds a int"):
        open_corpus(item for item in ["maji", 7])
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_reading_holds_little_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(b"maji ni uhai\n" * 100)
    lines = iter(open_corpus(path))
    next(lines)
    with path.open("ab") as file:  # what is appended after the first line was read is seen: it was not read ahead
        file.write(b"mwisho\n" * 200_000)
    assert sum(1 for _ in lines) == 99 + 200_000


BAD_FILES = {
    "latin1": ("a.txt", "maji\nmañana ya leo\n".encode("latin-1"), r"line 2, byte 7 is 0xf1.*iconv"),
    "latin1-after-bom": ("a.txt", b"\xef\xbb\xbfma\xf1", r"line 1, byte 5 is 0xf1"),
    "utf16": ("a.txt", "maji".encode("utf-16"), r"is UTF-16, not UTF-8.*iconv -f UTF-16"),
    "utf16-no-bom": ("a.txt", "maji ni uhai".encode("utf-16-le"), r"is UTF-16LE, not UTF-8"),
    "utf16-be-no-bom": ("a.txt", "maji ni uhai".encode("utf-16-be"), r"is UTF-16BE, not UTF-8"),
    "utf32": ("a.txt", "maji".encode("utf-32"), r"is UTF-32, not UTF-8"),
    "binary": ("a.txt", b"maji\nab\0c", r"line 2 holds a zero byte \(byte 7\)"),
    "empty": ("a.txt", b"", r"is empty"),
    "blank": ("a.txt", b"\n  \n\t\n", r"is empty"),
    "gzip-cut": ("a.txt.gz", gzip.compress(_text() * 200)[:-20], r"cannot be read past byte"),
    "gzip-latin1": ("a.txt.gz", gzip.compress("ñ".encode("latin-1")), r"line 1, byte 0 is 0xf1"),
    "jsonl-column": ("a.jsonl", b'{"body": "maji", "id": 3}\n', r"line 1, has no column 'text'. .*'body', 'id'"),
    "jsonl-broken": ("a.jsonl", b'{"text": "maji"}\n{"text": \n', r"line 2, is not JSON"),
    "jsonl-type": ("a.jsonl", b'{"text": 5}\n', r"line 1, holds a int"),
    "jsonl-surrogate": ("a.jsonl", b'{"text": "\\ud800"}\n', r"surrogate"),
    "csv-column": ("a.csv", b"id,body\n1,maji\n", r"no column 'text'. Its columns: 'id', 'body'"),
    "tsv-short": ("a.tsv", b"id\ttext\n1\tmaji\n2\n", r"row 3, has 1 columns"),
    "csv-empty": ("a.csv", b"", r"is empty"),
    "parquet": ("a.parquet", b"PAR1 not really", r"cannot be read as Parquet"),
    "json": ("a.json", b'[{"text": "maji"}]', r"JSON lines"),
    "zip": ("a.zip", b"PK\x03\x04", r"unpack it"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_one_clear_error_at_once(tmp_path: Path, case: str) -> None:
    name, data, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        open_corpus(tmp_path / name)


def test_a_parquet_file_lists_its_columns(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"sw": LINES, "en": LINES}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="no column 'swahili'. Its columns: 'sw', 'en'"):
        open_corpus(tmp_path / "a.parquet", text_column="swahili")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hakuna/faili.txt", "no file or folder 'hakuna/faili.txt'"),
        (Path("hakuna"), "no file or folder 'hakuna'"),
        ("Watoto wanasoma vitabu", r"looks like text, not like a path.*Pass a list"),
        ("Watoto\nwanasoma", "looks like text"),
        ("Watoto/wanasoma vitabu vingi. " * 200, "looks like text"),
        ("Habari. Watoto wanasoma", "looks like text"),
        ([], "is empty"),
        (iter([]), "is empty"),
        ([None, " "], "is empty"),
        (b"maji", "of type bytes"),
        (7, "of type int"),
        ({"train": LINES}, "keys 'train'. Choose one"),
        (datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": LINES})), "keys 'train'"),
        (datasets.Dataset.from_dict({"a": LINES, "b": LINES}), "no column 'text'. Its columns: 'a', 'b'"),
        (datasets.Dataset.from_dict({"text": []}), "is empty"),
        (["maji", 7], "Item 1 of the corpus holds a int"),
        (["\ud83d"], "surrogate"),
    ],
    ids=lambda value: repr(value).split(" at ")[0][:30].encode("ascii", "replace").decode(),
)
def test_bad_values_are_one_clear_error(value: Any, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(open_corpus(value))


def test_an_empty_folder_says_which_files_count(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(CorpusError, match=r"no corpus file \(.txt, "):
        open_corpus(tmp_path)


def test_a_fault_far_into_a_file_is_raised_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "CHECKED_CHARS", 50)
    (tmp_path / "a.txt").write_bytes(b"maji ni uhai\n" * 100 + b"\xff\n")
    corpus = open_corpus(tmp_path / "a.txt")
    with pytest.raises(CorpusError, match="line 101, byte 1300 is 0xff"):
        list(corpus)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("owner/data", ("owner/data", None, "train")),
        ("owner/data:swh", ("owner/data", "swh", "train")),
        ("owner/data:swh@test[:10%]", ("owner/data", "swh", "test[:10%]")),
    ],
)
def test_a_hub_name_is_streamed(monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple) -> None:
    seen = []

    def load_dataset(path: str, config: str | None, *, split: str, streaming: bool) -> Any:
        seen.append((path, config, split))
        assert streaming
        return datasets.Dataset.from_dict({"text": LINES}).to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(open_corpus(name)) == LINES
    assert seen == [arguments]


def test_a_hub_name_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: Any, **options: Any) -> Any:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(
        CorpusError, match="'a/b' is no file or folder here, and no dataset.*doesn't exist on the Hub$"
    ):
        open_corpus("a/b")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(_parquet())
    with pytest.raises(MissingDependencyError, match=r"hf_vocab_extend\[data\]"):
        open_corpus(tmp_path / "a.parquet")


PAIRS = [("water", "maji"), ("fire", "moto")]


def test_pairs_from_every_place_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("water\tmaji\n\nfire\tmoto\nblank\t \n")
    (tmp_path / "header.tsv").write_text("id\tsw\ten\n1\tmaji\twater\n2\tmoto\tfire\n")
    (tmp_path / "en.txt").write_text("water\n\nfire\n")
    (tmp_path / "sw.txt").write_text("maji\n\nmoto\n")
    opened = [
        open_pairs(PAIRS),
        open_pairs(iter(PAIRS)),
        open_pairs(str(tmp_path / "p.tsv")),
        open_pairs(tmp_path / "header.tsv", columns=("en", "sw")),
        open_pairs((tmp_path / "en.txt", tmp_path / "sw.txt")),
    ]
    for pairs in opened:
        assert list(pairs) == PAIRS == list(pairs)
    assert len({pairs.fingerprint() for pairs in opened}) == 1
    assert open_pairs([("water", "moto")]).fingerprint() != opened[0].fingerprint()


def test_bad_pairs_are_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "three.tsv").write_text("1\twater\tmaji\n")
    (tmp_path / "one.txt").write_text("water\n")
    (tmp_path / "two.txt").write_text("maji\nmoto\n")
    (tmp_path / "empty.tsv").write_text("\n")
    cases: list[tuple[Any, str]] = [
        (tmp_path / "three.tsv", "line 1, has 3 columns, not 2"),
        (
            (tmp_path / "one.txt", tmp_path / "two.txt"),
            "one.txt. has 1 lines and .two.txt. 2: line 2 of .two.txt. has no partner",
        ),
        (tmp_path / "empty.tsv", "no pair with text"),
        (tmp_path / "missing.tsv", "There is no file"),
        ([("water",)], "Item 0 of the pairs"),
        ([], "no pair with text"),
        (5, "of type int"),
    ]
    for value, message in cases:
        with pytest.raises(CorpusError, match=message):
            list(open_pairs(value))


def test_every_pair_can_be_read_and_blank_ones_are_counted(tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text("water\tmaji\n\nfire\tmoto\nblank\t \n")
    pairs = open_pairs(tmp_path / "p.tsv")
    assert pairs.n_blank is None
    assert list(pairs.all()) == [("water", "maji"), ("", ""), ("fire", "moto"), ("blank", "")]
    assert list(pairs) == PAIRS
    assert pairs.n_blank == 2


def test_pairs_from_a_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    flat = {"en": ["water", "fire", None], "sw": ["maji", "moto", "x"]}
    nested = {"id": [0, 1], "translation": [{"en": left, "sw": right} for left, right in PAIRS]}
    extra = {**flat, "score": [1, 2, 3]}
    plain = datasets.Dataset.from_dict(flat)
    given = [
        open_pairs(plain),
        open_pairs(plain.to_iterable_dataset()),
        open_pairs(datasets.Dataset.from_dict(extra), columns=("en", "sw")),
        open_pairs(datasets.Dataset.from_dict(nested)),
        open_pairs(datasets.Dataset.from_dict(nested).to_iterable_dataset(), columns=("en", "sw")),
    ]
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, config, split, streaming: given_by_name[name, config, split]
    )
    given_by_name = {("me/pairs", "en-sw", "dev"): plain.to_iterable_dataset()}
    given.append(open_pairs("me/pairs:en-sw@dev"))
    for pairs in given:
        assert list(pairs) == PAIRS == list(pairs)
    assert list(open_pairs(plain, columns=("sw", "en"))) == [(right, left) for left, right in PAIRS]
    assert len({pairs.fingerprint() for pairs in given}) == 1
    for value, columns, message in [
        (datasets.Dataset.from_dict(extra), None, "columns 'en', 'sw', 'score'. Name the source"),
        (plain, ("en", "fi"), "columns 'en', 'sw', not 'en', 'fi'"),
        (datasets.Dataset.from_dict(nested), ("en", "fi"), "languages in its column 'translation' 'en', 'sw', not"),
        (datasets.DatasetDict(train=plain), None, "keys 'train'"),
        (datasets.Dataset.from_dict({"en": [], "sw": []}), None, "no row"),
        (datasets.Dataset.from_dict({"en": [1], "sw": [2]}), None, "Item 0 of the pairs"),
    ]:
        with pytest.raises(CorpusError, match=message):
            list(open_pairs(value, columns=columns))


@pytest.mark.parametrize("lines", [(3, 5), (5, 3), (0, 2)])
def test_files_of_unequal_length_say_where(lines: tuple[int, int], tmp_path: Path) -> None:
    paths = tmp_path / "corpus.en", tmp_path / "corpus.sw"  # the names of the Moses tools
    for path, count in zip(paths, lines, strict=True):
        path.write_text("text\n" * count)
    longer = paths[lines[1] > lines[0]].name
    message = rf"'corpus.en' has {lines[0]} lines and 'corpus.sw' {lines[1]}: line {min(lines) + 1} of '{longer}'"
    with pytest.raises(CorpusError, match=message):
        list(open_pairs(paths))


def test_two_strings_are_two_files(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("water\n")
    with pytest.raises(CorpusError, match="There is no file 'maji'"):
        open_pairs([str(tmp_path / "en"), "maji"])


def test_a_corpus_shows_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("maji")
    assert repr(open_corpus(tmp_path / "a.txt")) == f"Corpus('{tmp_path / 'a.txt'}')"
    assert isinstance(open_corpus(["maji"]), Corpus)
