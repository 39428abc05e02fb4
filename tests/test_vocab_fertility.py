"""Fertility against counts by hand, and what each figure leaves out."""

from __future__ import annotations

import gzip
import math

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_vocab_extend.errors import CorpusError, InvalidOptionError, UnsupportedTokenizerError
from hf_vocab_extend.vocab.fertility import compare_fertility, measure_fertility

from .factories import TOKENIZERS, english, swahili, tokenizer

LINES = [*english(40), *swahili(40)]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_counts_against_one_line_at_a_time(name: str) -> None:
    tok = tokenizer(name)
    rows = [tok.backend_tokenizer.encode(line, add_special_tokens=False).ids for line in LINES]
    tokens, words = sum(map(len, rows)), sum(len(line.split()) for line in LINES)
    n_bytes = sum(len(line.encode()) for line in LINES)
    used = sorted({index for row in rows for index in row})
    new_ids = used[::3] + [index for index in range(len(tok)) if index not in used][:5]
    result = measure_fertility(tok, LINES, new_ids=new_ids)
    assert (result.lines, result.words, result.bytes, result.tokens) == (len(LINES), words, n_bytes, tokens)
    assert result.tokens_per_word == tokens / words
    assert result.bytes_per_token == pytest.approx(1 / result.tokens_per_byte)
    assert result.tokens_per_character == tokens / sum(map(len, LINES))
    assert result.new_tokens_used == len(used[::3])
    assert result.new_token_rate == sum(index in new_ids for row in rows for index in row) / tokens
    unknown = sum(index == tok.unk_token_id for row in rows for index in row)
    assert result.unknown_rate == unknown / tokens


@pytest.mark.parametrize("name", TOKENIZERS)
def test_known_text_comes_back(name: str) -> None:
    assert measure_fertility(tokenizer(name), english(60)).round_trip_rate == 1.0


@pytest.mark.parametrize("name", ["xlmr", "t5", "bert-cased", "bert-uncased"])
def test_unknown_characters_are_counted_and_do_not_come_back(name: str) -> None:
    result = measure_fertility(tokenizer(name), ["the \u0539\u0578\u0582\u0574 virus", "the virus"])
    assert result.unknown_rate > 0
    assert result.round_trip_rate == 0.5


@pytest.mark.parametrize("name", ["gpt2", "llama2", "gemma", "clip"])
def test_byte_tokens_are_counted(name: str) -> None:
    assert measure_fertility(tokenizer(name), ["\u0539\u0578\u0582\u0574"]).byte_fallback_rate > 0.8
    assert measure_fertility(tokenizer(name), ["the"]).byte_fallback_rate == 0
    assert measure_fertility(tokenizer(name), ["\u0539\u0578\u0582\u0574"]).round_trip_rate == 1.0


def test_spaces_that_a_decoder_puts_by_rule_are_not_compared() -> None:
    tok = tokenizer("bert-cased")
    line = "the virus, the patient's care, and the health."
    assert tok.backend_tokenizer.decode(tok(line, add_special_tokens=False)["input_ids"]) != line
    assert measure_fertility(tok, [line]).round_trip_rate == 1.0


def test_the_floor_is_what_the_pre_tokenizer_cuts() -> None:
    words = ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u092e\u0947\u0902"]
    gpt2 = tokenizer("gpt2")
    pieces = sum(len(gpt2.backend_tokenizer.pre_tokenizer.pre_tokenize_str(word)) for word in words)
    result = measure_fertility(gpt2, [" ".join(words)])
    assert result.pre_tokens_per_word == pieces / 2 > 2
    assert result.tokens_per_word >= result.pre_tokens_per_word
    assert measure_fertility(tokenizer("xlmr"), [" ".join(words)]).pre_tokens_per_word == 1.0


def test_templates_truncation_and_padding_play_no_part() -> None:
    tok = TOKENIZERS["bert-cased"]()
    plain = measure_fertility(tok, LINES)
    tok.backend_tokenizer.enable_truncation(4)
    tok.backend_tokenizer.enable_padding(length=300)
    assert measure_fertility(tok, LINES) == plain
    assert tok.backend_tokenizer.truncation["max_length"] == 4
    assert tok.backend_tokenizer.padding["length"] == 300


def test_no_warning_about_long_lines(caplog: pytest.LogCaptureFixture) -> None:
    result = measure_fertility(tokenizer("clip"), [" ".join(english(40))])
    assert result.tokens > tokenizer("clip").model_max_length
    assert not caplog.records


def test_files_are_read_and_batches_do_not_matter(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(LINES))
    whole = measure_fertility(tokenizer("gpt2"), path)
    monkeypatch.setattr("hf_vocab_extend.vocab.fertility.BATCH_LINES", 7)
    assert measure_fertility(tokenizer("gpt2"), iter(LINES)) == whole
    assert "seconds" not in whole.to_dict()
    assert whole.to_dict()["tokens"] == whole.tokens


def test_table_shows_both_sides() -> None:
    before = measure_fertility(tokenizer("gpt2"), LINES)
    after = measure_fertility(tokenizer("llama2"), LINES, new_ids=[300, 301])
    table = compare_fertility(before, after, ("gpt2", "llama2"))
    rows = {row[:26].strip(): row[26:].split() for row in table.splitlines()}
    assert rows["tokens per word"] == [f"{before.tokens_per_word:.3f}", f"{after.tokens_per_word:.3f}"]
    assert rows["new tokens used"] == ["-", str(after.new_tokens_used)]
    assert len({len(row) for row in table.splitlines()}) == 1


def test_bad_input() -> None:
    tok = tokenizer("gpt2")
    with pytest.raises(CorpusError):
        measure_fertility(tok, [])
    with pytest.raises(InvalidOptionError, match="0 to 699"):
        measure_fertility(tok, LINES, new_ids=[3, 700])
    with pytest.raises(InvalidOptionError, match="-1"):
        measure_fertility(tok, LINES, new_ids=[-1])
    one, other = measure_fertility(tok, LINES), measure_fertility(tok, LINES[1:])
    with pytest.raises(InvalidOptionError, match="same corpus"):
        compare_fertility(one, other)


def test_a_tokenizer_that_drops_everything_is_refused() -> None:
    backend = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Split("x", "removed")
    tok = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    with pytest.raises(CorpusError, match="nothing to measure"):
        measure_fertility(tok, ["xxx"])


def test_a_tokenizer_of_no_known_family_is_refused() -> None:
    backend = Tokenizer(models.WordLevel(vocab={"a": 0}, unk_token="a"))
    with pytest.raises(UnsupportedTokenizerError):
        measure_fertility(PreTrainedTokenizerFast(tokenizer_object=backend), ["a"])


def test_figures_are_finite() -> None:
    result = measure_fertility(tokenizer("t5"), LINES)
    assert all(math.isfinite(value) for value in result.to_dict().values() if value is not None)
