"""Counts of translations: merged, scaled, saved; made by an aligner, in one process or several, and cached."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hf_vocab_extend.errors import (
    AlignmentError,
    CorpusError,
    InvalidOptionError,
    OutputFolderError,
    TokenizerMismatchError,
    VocabExtendWarning,
)
from hf_vocab_extend.resources.alignment import AlignerOptions, UnitCounts, align_pairs, read_counts, run, shards
from hf_vocab_extend.resources.alignment.aligners import align
from hf_vocab_extend.resources.alignment.bitext import read_bitext
from hf_vocab_extend.resources.alignment.counts import sum_links, sum_parts, vocab_fingerprint
from hf_vocab_extend.resources.alignment.order import cost

from .factories import TOKENIZERS, gpt2_like, llama2_like, sample_pairs, swahili, tokenizer

IBM1 = AlignerOptions(aligner="ibm1", iterations=2, show_progress=False)
PAIRS = list(sample_pairs()[:60])


def as_dict(counts: UnitCounts) -> dict[tuple[tuple[int, ...], tuple[int, ...]], tuple[float, float]]:
    """Counts by the pieces of both units, one by one."""
    sides = [
        [tuple(row.tolist()) for row in np.split(units.pieces, units.offsets[1:-1])]
        for units in (counts.source, counts.target)
    ]
    return {
        (sides[0][source], sides[1][target]): (forward, backward)
        for source, target, forward, backward in zip(
            counts.source_index.tolist(),
            counts.target_index.tolist(),
            counts.forward.tolist(),
            counts.backward.tolist(),
            strict=True,
        )
    }


def counted(pairs: Any, **options: Any) -> UnitCounts:
    options = {"unit": "word", "show_progress": False, **options}
    return align_pairs(pairs, tokenizer("gpt2"), swahili_tokenizer(), IBM1, **options)


def swahili_tokenizer() -> Any:
    if "sw" not in _MADE:
        _MADE["sw"] = llama2_like(lines=swahili())
    return _MADE["sw"]


_MADE: dict[str, Any] = {}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("unit", ["word", "token"])
def test_counts_are_those_of_the_aligner(name: str, unit: str) -> None:
    source, target = tokenizer(name), swahili_tokenizer()
    counts = align_pairs(PAIRS, source, target, IBM1, unit=unit, use_cache=False, show_progress=False)
    bitext = read_bitext(PAIRS, source, target, unit=unit, show_progress=False)
    links = align(bitext, IBM1)
    assert counts.n_pairs == len(bitext) == 60
    assert np.array_equal(counts.source_index, links.source_index)
    assert np.allclose(counts.counts, links.forward + links.backward, rtol=1e-6)
    assert np.array_equal(counts.target.pieces, bitext.target.pieces)
    counts.check_tokenizers(source, target)
    assert (counts.info["aligner"], counts.info["unit"]) == ("ibm1", unit)


def test_counts_of_shards_add_up_to_a_dictionary_of_sums() -> None:
    first, second = counted(PAIRS[:40], use_cache=False), counted(PAIRS[40:], use_cache=False)
    total = first + second
    expected: dict[Any, Any] = as_dict(first)
    for key, (forward, backward) in as_dict(second).items():
        before = expected.get(key, (0.0, 0.0))
        expected[key] = (before[0] + forward, before[1] + backward)
    found = as_dict(total)
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[key], expected[key], rtol=1e-12) for key in expected)
    assert total.n_pairs == 60
    whole = read_bitext(PAIRS, tokenizer("gpt2"), swahili_tokenizer(), unit="word", show_progress=False)
    assert np.array_equal(total.source.pieces, whole.source.pieces)
    assert np.array_equal(total.source.frequency, whole.source.frequency)
    assert total.info["n_source_tokens"] == whole.info["n_source_tokens"]
    keys = total.source_index.astype(np.int64) * len(total.target) + total.target_index
    assert (np.diff(keys) > 0).all()


def test_scaled_counts() -> None:
    counts = counted(PAIRS)
    assert np.array_equal(counts.scaled(0.25).counts, counts.counts * 0.25)
    for weight in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidOptionError, match="weight"):
            counts.scaled(weight)


def test_saved_counts_come_back(tmp_path: Path) -> None:
    counts = counted(PAIRS)
    path = counts.save(tmp_path / "new" / "en-sw.safetensors")
    loaded = UnitCounts.load(path)
    for name, array in counts.arrays().items():
        assert np.array_equal(array, loaded.arrays()[name])
        assert array.dtype == loaded.arrays()[name].dtype
    assert (loaded.info, loaded.n_pairs) == (counts.info, counts.n_pairs)
    assert [item.name for item in path.parent.iterdir()] == ["en-sw.safetensors"]
    through = read_counts(str(path), tokenizer("gpt2"), swahili_tokenizer())
    assert as_dict(through) == as_dict(counts)


def test_counts_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputFolderError, match="cannot be written"):
        counted(PAIRS).save(tmp_path / "file" / "counts.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputFolderError, match="cannot be written"):
        counted(PAIRS).save(tmp_path / "folder")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "newer", "outside"])
def test_files_that_hold_no_counts(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "counts.safetensors"
    counts = counted(PAIRS)
    messages = {
        "missing": "cannot be read",
        "cut": "cannot be read",
        "foreign": "without translation counts",
        "newer": "format 99; this version reads format 1",
        "outside": "do not fit together",
    }
    if damage == "foreign":
        save_file({"a": np.ones(1)}, path)
    elif damage == "newer":
        counts.save(path)
        save_file(counts.arrays(), path, {"format": counts.metadata()["format"], "counts": '{"version": 99}'})
    elif damage == "outside":
        save_file(counts.arrays() | {"source_index": counts.source_index + 10_000}, path, counts.metadata())
    elif damage == "cut":
        counts.save(path)
        path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(AlignmentError, match=messages[damage]):
        UnitCounts.load(path)


def test_counts_of_other_tokenizers_are_refused() -> None:
    counts = counted(PAIRS)
    with pytest.raises(TokenizerMismatchError, match="another source tokenizer"):
        read_counts(counts, tokenizer("qwen"), swahili_tokenizer())
    with pytest.raises(TokenizerMismatchError, match="another target tokenizer"):
        read_counts(counts, tokenizer("gpt2"), tokenizer("gpt2"))
    other = align_pairs(PAIRS, tokenizer("gpt2"), tokenizer("gpt2"), IBM1, show_progress=False)
    with pytest.raises(TokenizerMismatchError, match="different target vocabularies"):
        counts + other
    assert read_counts(counts, tokenizer("gpt2"), swahili_tokenizer()) is counts


def test_a_vocabulary_has_the_fingerprint_of_its_content() -> None:
    assert vocab_fingerprint(tokenizer("gpt2")) == vocab_fingerprint(gpt2_like())
    grown = gpt2_like()
    grown.add_tokens(["maji"])
    assert vocab_fingerprint(grown) != vocab_fingerprint(tokenizer("gpt2"))


def test_the_second_call_takes_the_counts_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_VOCAB_EXTEND_CACHE", str(tmp_path))
    calls = Counter()
    real = run.align_in_processes

    def spy(*args: Any) -> Any:
        calls["align"] += 1
        return real(*args)

    monkeypatch.setattr(run, "align_in_processes", spy)
    first = counted(PAIRS)
    assert as_dict(counted(iter(PAIRS))) == as_dict(first)
    assert calls["align"] == 1
    counted(PAIRS, unit="token")
    counted(PAIRS[:-1])
    align_pairs(PAIRS, tokenizer("gpt2"), swahili_tokenizer(), dataclasses.replace(IBM1, iterations=3), unit="word")
    assert calls["align"] == 4
    align_pairs(PAIRS, tokenizer("gpt2"), swahili_tokenizer(), dataclasses.replace(IBM1, threads=1), unit="word")
    assert calls["align"] == 4
    uncased = gpt2_like()
    from tokenizers import normalizers

    uncased.backend_tokenizer.normalizer = normalizers.Lowercase()
    align_pairs(PAIRS, uncased, swahili_tokenizer(), IBM1, unit="word")
    assert calls["align"] == 5
    counted(PAIRS, use_cache=False)
    assert calls["align"] == 6


def test_a_cache_that_cannot_be_written_costs_a_warning_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_VOCAB_EXTEND_CACHE", str(tmp_path / "file"))
    with pytest.warns(VocabExtendWarning, match="made but not cached"):
        assert len(counted(PAIRS)) > 0


def test_processes_count_shards_and_add_them() -> None:
    several = counted(PAIRS, processes=2, use_cache=False)
    bitext = read_bitext(PAIRS, tokenizer("gpt2"), swahili_tokenizer(), unit="word", show_progress=False)
    parts = [align(bitext.take(np.arange(shard, 60, 2)), IBM1) for shard in range(2)]
    links = sum_parts([(part.source_index, part.target_index, part.forward, part.backward) for part in parts])
    assert np.array_equal(several.source_index, links[0])
    assert np.array_equal(several.target_index, links[1])
    assert np.allclose(several.forward, links[2], rtol=1e-5)
    assert np.allclose(several.backward, links[3], rtol=1e-5)
    assert several.info["processes"] == 2


def test_more_processes_than_pairs() -> None:
    assert counted(PAIRS[:1], processes=4, use_cache=False).n_pairs == 1


def test_a_process_that_fails_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_WORKER", "import sys; sys.exit('the disk is on fire')")
    with pytest.raises(AlignmentError, match="Process 1 of 2 ended with status 1.*the disk is on fire"):
        counted(PAIRS, processes=2, use_cache=False)


def test_sums_of_no_links() -> None:
    assert [len(array) for array in sum_parts([])] == [0, 0, 0, 0]
    none = sum_links(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0), np.empty(0))
    assert [array.dtype for array in none] == [np.int32, np.int32, np.float64, np.float64]


def test_swapped_languages_are_warned_about_with_the_figures() -> None:
    swapped = [(target, source) for source, target in PAIRS]
    with pytest.warns(VocabExtendWarning, match=r"look swapped: .* \d\.\d\d tokens per character on the source texts"):
        counted(swapped)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counted(PAIRS)
        align_pairs(swapped, tokenizer("gpt2"), tokenizer("gpt2"), IBM1, show_progress=False)


@pytest.mark.parametrize("name", ["bert-cased", "gpt2", "xlmr"])
def test_the_cost_of_a_text_is_counted_token_by_token(name: str) -> None:
    cutter, texts = tokenizer(name), ["the water", "नमस्ते दुनिया the", "a-b"]
    spent = 0
    for text in texts:
        encoding = cutter.backend_tokenizer.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            spent += end - start if token == cutter.unk_token_id else 1
    assert cost(cutter, texts) == pytest.approx(spent / sum(map(len, texts)))


def test_a_side_that_is_mostly_unknown_is_warned_about() -> None:
    pairs = [("नमस्ते दुनिया fire", "moto"), ("यह वाक्य water", "maji")]
    with pytest.warns(VocabExtendWarning, match=r"4 of 10 tokens \(40%\) on the source side"):
        align_pairs(pairs, tokenizer("bert-cased"), swahili_tokenizer(), IBM1, show_progress=False)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"processes": 0}, InvalidOptionError, "processes is 0"),
        ({"unit": "phrase"}, InvalidOptionError, "no unit 'phrase'"),
        ({"options": AlignerOptions(aligner="giza")}, InvalidOptionError, "no aligner 'giza'"),
        ({"pairs": []}, CorpusError, "empty"),
        ({"pairs": {"sw": PAIRS}}, CorpusError, "keys 'sw'"),
    ],
)
def test_bad_input_is_one_error_before_any_work(
    options: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "read_bitext", lambda *_, **__: pytest.fail("work was done"))
    options = {"pairs": PAIRS, "options": IBM1, **options}
    with pytest.raises(error, match=message):
        align_pairs(options.pop("pairs"), tokenizer("gpt2"), swahili_tokenizer(), options.pop("options"), **options)
