"""Parallel text as units: against a naive reading by offsets, over every tokenizer family and several scripts."""

from __future__ import annotations

import copy
import unicodedata
from collections import Counter
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from hf_vocab_extend.errors import CorpusError, InvalidOptionError
from hf_vocab_extend.resources.alignment import bitext as bitext_module
from hf_vocab_extend.resources.alignment.bitext import Bitext, read_bitext
from hf_vocab_extend.resources.alignment.ragged import offsets_of
from hf_vocab_extend.resources.alignment.units import UnitTable
from hf_vocab_extend.resources.alignment.words import WordFinder

from .factories import TOKENIZERS, sample_pairs, tokenizer

HINDI = "नमस्ते दुनिया, यह एक छोटा वाक्य है। क्या आप ठीक हैं? हाँ, मैं ठीक हूँ! हिन्दी में लिखना अच्छा लगता है।"
ARABIC = "السلام عليكم، كيف حالك؟ كُتِبَ الكِتابُ في العام ١٩٩٩. شكرًا لكم جميعًا."
MIXED = "It's the well-known re-test (2021): 3.14%, cafe\u0301, naïve “quotes”, end.\nCOVID-19 isn't over!"
TEXTS = [
    HINDI,
    ARABIC,
    MIXED,
    "Habari gani, rafiki? Ng'ombe wanakula majani; watu 1,000 wapo.",
    "a",
    "  spaced   out  ",
]
LINES = [*TEXTS, *(pair[side] for pair in sample_pairs()[:150] for side in (0, 1))]


def trained(name: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows pieces of all the scripts."""
    return TOKENIZERS[name](n=900, lines=[*TEXTS] * 30 + LINES)


def is_word_char(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNM" or char in "\u200c\u200d"


def joined(text: str, left: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether two neighbouring tokens with these spans are of one word."""
    if right[0] < left[1]:  # parts of one character
        return True
    if right[0] > left[1] or text[right[0]].isspace():
        return False
    first = text[right[0]]
    return unicodedata.category(first)[0] == "M" or (is_word_char(first) and is_word_char(text[left[1] - 1]))


def naive_units(cutter: PreTrainedTokenizerFast, text: str) -> list[tuple[int, ...]]:
    """Words by the characters of the text and the offsets of the tokens, one token after another."""
    encoding = cutter.backend_tokenizer.encode(text, add_special_tokens=False)
    units: list[list[int]] = []
    before: tuple[int, int] | None = None
    for token, span in zip(encoding.ids, encoding.offsets, strict=True):
        if not text[span[0] : span[1]].strip() or cutter.convert_ids_to_tokens(token) == "\u2581":
            before = None
            continue
        if before is None or not joined(text, before, span):
            units.append([])
        before = span
        if token != cutter.unk_token_id or cutter.unk_token_id == cutter.eos_token_id:
            units[-1].append(token)
    return [tuple(unit) for unit in units if unit]


def units_of(bitext: Bitext, side: str, pair: int) -> list[tuple[int, ...]]:
    units, ids, offsets = (getattr(bitext, name) for name in (side, f"{side}_ids", f"{side}_offsets"))
    return [
        tuple(units.pieces[units.offsets[unit] : units.offsets[unit + 1]].tolist())
        for unit in ids[offsets[pair] : offsets[pair + 1]]
    ]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_words_are_those_of_the_text(name: str, known: bool) -> None:
    cutter = trained(name) if known else tokenizer(name)
    # CLIP's pre-tokenizer cuts at every mark and digit, and its tokens then do not tell where the real end is.
    texts = [
        text for text in LINES if name != "clip" or not any(unicodedata.category(char)[0] in "MN" for char in text)
    ]
    texts = [text for text in texts if naive_units(cutter, text.strip())]
    bitext = read_bitext(
        [(text, "one two") for text in texts], cutter, tokenizer("gpt2"), unit="word", show_progress=False
    )
    assert len(bitext) == len(texts) > 100
    for pair, text in enumerate(texts):
        assert units_of(bitext, "source", pair) == naive_units(cutter, text.strip()), text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_units_are_unique_and_counted(name: str) -> None:
    pairs = sample_pairs()[:100]
    for unit in ("word", "token"):
        bitext = read_bitext(pairs, tokenizer(name), tokenizer("gpt2"), unit=unit, show_progress=False)
        seen = Counter(unit for pair in range(len(bitext)) for unit in units_of(bitext, "source", pair))
        pieces = np.split(bitext.source.pieces, bitext.source.offsets[1:-1])
        assert (
            dict(zip((tuple(row.tolist()) for row in pieces), bitext.source.frequency.tolist(), strict=True)) == seen
        )
        assert len(bitext.source) == len(seen)
        assert bitext.source.lengths.min() > 0
        assert (bitext.source_ids.dtype, bitext.source.pieces.dtype) == (np.int32, np.int32)
    assert bitext.source.lengths.max() == 1


@pytest.mark.parametrize("name", ["gpt2", "xlmr", "llama2", "bert-cased"])
@pytest.mark.parametrize("text", ["ภาษาไทยง่ายมาก", "日本語は難しい。", "我喜欢学习中文"])
def test_scripts_without_spaces_are_aligned_by_token(name: str, text: str) -> None:
    cutter = TOKENIZERS[name](n=600, lines=[text[place : place + 2] for place in range(len(text))] * 9)
    bitext = read_bitext([(text, "one")], cutter, tokenizer("gpt2"), unit="word", show_progress=False)
    encoding = cutter.backend_tokenizer.encode(text, add_special_tokens=False)
    spans = [
        span for span, name in zip(encoding.offsets, encoding.tokens, strict=True) if name != "\u2581"
    ]  # that token has the span of the character after it
    begun = [
        right
        for left, right in zip([(0, 0), *spans], spans, strict=False)
        if right[0] >= left[1] and unicodedata.category(text[right[0]])[0] != "M"
    ]
    assert len(units_of(bitext, "source", 0)) == len(begun) > 1


def test_the_same_word_with_and_without_a_space_is_two_units_only_where_its_ids_differ() -> None:
    pairs = [("water", "maji"), ("the water", "maji")]
    gpt2 = read_bitext(pairs, tokenizer("gpt2"), tokenizer("gpt2"), unit="word", show_progress=False)
    bert = read_bitext(pairs, tokenizer("bert-uncased"), tokenizer("gpt2"), unit="word", show_progress=False)
    assert units_of(gpt2, "source", 0)[0] != units_of(gpt2, "source", 1)[-1]
    assert units_of(bert, "source", 0)[0] == units_of(bert, "source", 1)[-1]


def test_control_tokens_in_the_text_are_no_units() -> None:
    cutter = tokenizer("xlmr")
    bitext = read_bitext(
        [("the</s>fire <mask> is", "a b")], cutter, tokenizer("gpt2"), unit="word", show_progress=False
    )
    pieces = {piece for unit in units_of(bitext, "source", 0) for piece in unit}
    assert not pieces & set(cutter.all_special_ids)
    expected = naive_units(cutter, "the") + naive_units(cutter, "fire") + naive_units(cutter, "is")
    assert len(units_of(bitext, "source", 0)) == len(expected)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_size_of_a_batch_changes_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = list(sample_pairs()[:100])
    whole = read_bitext(pairs, tokenizer("gpt2"), tokenizer("llama2"), unit="word", show_progress=False)
    monkeypatch.setattr(bitext_module, "BATCH_PAIRS", size)
    batched = read_bitext(iter(pairs), tokenizer("gpt2"), tokenizer("llama2"), unit="word", show_progress=False)
    for name in ("source_ids", "source_offsets", "target_ids", "target_offsets"):
        assert np.array_equal(getattr(whole, name), getattr(batched, name))
    for side in ("source", "target"):
        for name in ("offsets", "pieces", "frequency"):
            assert np.array_equal(getattr(getattr(whole, side), name), getattr(getattr(batched, side), name))
    assert whole.info == batched.info


def test_pairs_with_an_empty_side_are_skipped_and_counted() -> None:
    pairs = [("water", "maji"), ("", "moto"), ("fire", " \t"), ("\u200b", "x"), ("fire", "moto")]
    bitext = read_bitext(pairs, tokenizer("gpt2"), tokenizer("gpt2"), unit="word", show_progress=False)
    assert len(bitext) == 2
    assert (bitext.info["n_blank_pairs"], bitext.info["n_skipped_pairs"]) == (2, 1)
    alone = read_bitext([pairs[0], pairs[4]], tokenizer("gpt2"), tokenizer("gpt2"), unit="word", show_progress=False)
    assert np.array_equal(bitext.source.pieces, alone.source.pieces)


def test_truncation_and_padding_of_a_tokenizer_are_ignored_and_kept() -> None:
    cutter = copy.deepcopy(tokenizer("gpt2"))
    cutter.backend_tokenizer.enable_truncation(4)
    cutter.backend_tokenizer.enable_padding(length=9)
    pairs = sample_pairs()[:20]
    cut = read_bitext(pairs, cutter, cutter, unit="word", show_progress=False)
    whole = read_bitext(pairs, tokenizer("gpt2"), tokenizer("gpt2"), unit="word", show_progress=False)
    assert np.array_equal(cut.source_ids, whole.source_ids)
    assert cutter.backend_tokenizer.truncation["max_length"] == 4
    assert cutter.backend_tokenizer.padding["length"] == 9


def test_unknown_tokens_are_counted() -> None:
    bitext = read_bitext(
        [("water नमस्ते fire", "x")], tokenizer("bert-cased"), tokenizer("gpt2"), unit="word", show_progress=False
    )
    assert bitext.info["n_source_unknown"] == 1
    assert bitext.info["n_source_tokens"] == sum(map(len, units_of(bitext, "source", 0))) + 1


def test_taken_pairs_keep_their_units() -> None:
    bitext = read_bitext(
        sample_pairs()[:30], tokenizer("gpt2"), tokenizer("bert-cased"), unit="word", show_progress=False
    )
    rows = np.asarray([4, 2, 29])
    taken = bitext.take(rows)
    for place, row in enumerate(rows):
        assert units_of(taken, "target", place) == units_of(bitext, "target", row)
    assert taken.source.frequency.sum() == len(taken.source_ids)


@pytest.mark.parametrize(
    ("pairs", "unit", "error", "message"),
    [
        ([("a", "b")], "phrase", InvalidOptionError, "no unit 'phrase'"),
        ([("नमस्ते", "नमस्ते")], "word", CorpusError, "None of the 1 pairs .* 1 of 1 source tokens"),
        ([("", "a")], "word", CorpusError, "1 with a blank side"),
    ],
)
def test_bad_input(pairs: Any, unit: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_bitext(pairs, tokenizer("bert-cased"), tokenizer("bert-cased"), unit=unit, show_progress=False)


def random_units(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    offsets = offsets_of(generator.integers(1, 5, n))
    return generator.integers(0, 4, offsets[-1]), offsets


@pytest.mark.parametrize("hashes_meet", [False, True])
def test_a_unit_table_numbers_like_a_dictionary(hashes_meet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if hashes_meet:  # the first two seeds give bad hashes, so all must be hashed anew, twice
        good = UnitTable._hash

        def bad(self: UnitTable, pieces: np.ndarray, offsets: np.ndarray) -> np.ndarray:
            return (
                good(self, pieces, offsets) % np.uint64((40, 3)[self._seed])
                if self._seed < 2
                else good(self, pieces, offsets)
            )

        monkeypatch.setattr(UnitTable, "_hash", bad)
    table, known = UnitTable(), {}
    generator = np.random.default_rng(3)
    for n in (0, 1, 40, 300):
        pieces, offsets = random_units(generator, n)
        rows = [tuple(pieces[offsets[row] : offsets[row + 1]].tolist()) for row in range(n)]
        assert table.add(pieces, offsets).tolist() == [known.setdefault(row, len(known)) for row in rows]
    assert table._seed == (2 if hashes_meet else 0)
    units = table.units(np.ones(len(table), np.int64))
    assert [tuple(row.tolist()) for row in np.split(units.pieces, units.offsets[1:-1])] == list(known)


def test_bytes_that_are_no_text_join_their_neighbours() -> None:
    finder = WordFinder(tokenizer("gpt2"))
    lone = tokenizer("gpt2").convert_tokens_to_ids("\u0122")  # the byte 0x80, without a first byte
    ids = np.asarray([tokenizer("gpt2").convert_tokens_to_ids("a"), lone, lone])
    assert finder.find(ids, np.asarray([0, 3]))[0].tolist() == [True, False, False]
    assert finder.find(ids, np.asarray([0, 0, 1, 3]))[0].tolist() == [True, True, False]
