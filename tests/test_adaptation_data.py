"""Texts into blocks and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_vocab_extend.adaptation.collators import (
    IGNORED,
    MaskedCollator,
    SpanCollator,
    make_collator,
    sentinel_ids,
)
from hf_vocab_extend.adaptation.data import DRAW, PackedDataset, StreamedBlocks, packed_blocks
from hf_vocab_extend.adaptation.objectives import choose_objective
from hf_vocab_extend.adaptation.word_units import WordUnits
from hf_vocab_extend.errors import CorpusError, InvalidOptionError, UnsupportedModelError, UnsupportedTokenizerError

from .factories import TOKENIZERS, english, swahili, tokenizer
from .models import build

MASKED = ["xlmr", "bert-uncased", "bert-cased"]


def flat(blocks):
    return [index for block in blocks for index in block["input_ids"]]


def with_mask(name):
    """A tokenizer of any family with a mask token."""
    changed = TOKENIZERS[name]()
    if changed.mask_token is None:
        changed.add_special_tokens({"mask_token": "<mask>"})
    return changed


@pytest.mark.parametrize("name", TOKENIZERS)
def test_causal_blocks_lose_nothing(name):
    tok, texts = tokenizer(name), english(40)
    end = [] if tok.eos_token_id is None else [tok.eos_token_id]
    naive = []
    for text in texts:
        ids = tok(text)["input_ids"]
        naive += ids if ids[-1:] == end else ids + end
    kept = list(packed_blocks(tok, texts, 24, last="keep"))
    assert flat(kept) == naive
    assert {len(block["input_ids"]) for block in kept[:-1]} == {24}
    dropped = list(packed_blocks(tok, iter(texts), 24))
    assert flat(dropped) == naive[: len(naive) // 24 * 24]


@pytest.mark.parametrize("name", MASKED)
def test_masked_blocks_are_wrapped_in_specials(name):
    tok, texts = tokenizer(name), english(40)
    blocks = list(packed_blocks(tok, texts, 20, objective="masked", last="keep"))
    assert all(block["input_ids"][0] == tok.cls_token_id for block in blocks)
    assert all(block["input_ids"][-1] == tok.sep_token_id for block in blocks)
    inner = [index for block in blocks for index in block["input_ids"][1:-1]]
    naive = [
        index for text in texts for index in [*tok(text, add_special_tokens=False)["input_ids"], tok.sep_token_id]
    ]
    assert inner == naive


def test_unpacked_blocks_hold_one_document():
    tok = tokenizer("xlmr")
    blocks = list(packed_blocks(tok, english(10), 16, objective="masked", last="keep", pack=False))
    assert sum(block["input_ids"].count(tok.sep_token_id) == 1 for block in blocks) < len(blocks)
    starts = [tok(text, add_special_tokens=False)["input_ids"][:5] for text in english(10)]
    assert sum(block["input_ids"][1:6] in starts for block in blocks) >= 10


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_positions_keep_attention_inside_documents(name):
    tok = tokenizer("llama3")
    model = build(name, len(tok) + 10)
    model.config.use_cache = False
    data = PackedDataset(packed_blocks(tok, english(60), 32, positions=True))
    batch = make_collator("causal", tok)([data[0], data[1]])
    assert "attention_mask" not in batch
    for row, places in enumerate(batch["position_ids"].tolist()):
        start = len(places) - 1 - places[::-1].index(0)
        assert start > 0
        assert batch["labels"][row, start] == IGNORED
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[row, start:]
        alone = model(input_ids=batch["input_ids"][row : row + 1, start:]).logits[0]
        assert torch.allclose(packed, alone, atol=1e-5)


def test_causal_labels_are_inputs_without_padding():
    tok = tokenizer("gpt2")
    batch = make_collator("causal", tok)([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])
    assert batch["labels"].tolist() == [[5, 6, 7], [8, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert make_collator("causal", tok, pad_to_multiple_of=8)([[5, 6]])["input_ids"].shape == (1, 8)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_are_those_between_spaces(name):
    tok = tokenizer(name)
    line = "about the cough and fever then also chest pain"
    ids = np.array(tok(line, add_special_tokens=False)["input_ids"])
    words = WordUnits(tok)(ids)
    pieces = [tok.decode(ids[words == word].tolist()).strip() for word in range(words.max() + 1)]
    assert pieces == line.split()


def test_words_apart_from_punctuation_and_in_scripts_without_spaces():
    tok = tokenizer("gpt2")
    ids = np.array(tok("covid-19, outbreak")["input_ids"])
    words = WordUnits(tok)(ids)
    assert [tok.decode(ids[words == word].tolist()) for word in range(words.max() + 1)] == [
        "covid",
        "-",
        "19",
        ",",
        " outbreak",
    ]
    han = TOKENIZERS["xlmr"](lines=["世界 和平 世界和平", *english(200)])
    ids = np.array(han("世界和平", add_special_tokens=False)["input_ids"])
    words = WordUnits(han)(ids)
    assert len(set(words[words >= 0].tolist())) >= (words >= 0).sum() - 1


@pytest.mark.parametrize("name", TOKENIZERS)
def test_masks_cover_whole_words_and_no_specials(name):
    tok = with_mask(name)
    collator = MaskedCollator(tok, seed=3)
    data = PackedDataset(packed_blocks(tok, english(200), 48, objective="masked"))
    batch = collator([data[index] for index in range(len(data))])
    ids = torch.tensor([data[index]["input_ids"] for index in range(len(data))])
    chosen = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][chosen], ids[chosen])
    assert torch.equal(batch["input_ids"][~chosen], ids[~chosen])
    special = torch.tensor(sorted(np.flatnonzero(collator.units.special)))
    assert not torch.isin(ids[chosen], special).any()
    for row, picked in zip(ids.numpy(), chosen.numpy(), strict=True):
        words = collator.units(row)
        assert picked.any()
        for word in set(words[picked]):
            assert picked[words == word].all()
    share = chosen.sum() / (~torch.isin(ids, special)).sum()
    assert 0.12 < share < 0.18
    now = batch["input_ids"][chosen]
    masked, kept = (now == tok.mask_token_id).float().mean(), (now == ids[chosen]).float().mean()
    assert 0.72 < masked < 0.88
    assert 0.05 < kept < 0.16
    assert not torch.isin(now[now != tok.mask_token_id], special).any()


def test_masks_depend_on_seed_and_place_only():
    tok = tokenizer("xlmr")
    data = PackedDataset(packed_blocks(tok, english(80), 32, objective="masked"))
    together = MaskedCollator(tok, seed=1)([data[index] for index in range(6)])
    later = MaskedCollator(tok, seed=1)
    later([data[9]])
    assert torch.equal(later([data[4], data[5]])["input_ids"], together["input_ids"][4:])
    assert not torch.equal(MaskedCollator(tok, seed=2)([data[4]])["labels"], together["labels"][4:5])
    data.set_epoch(1)
    assert not torch.equal(later([data[4]])["labels"], together["labels"][4:5])


@pytest.mark.parametrize(("share", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 1.0)])
def test_spans_add_up_and_can_be_put_back(share, mean):
    tok = tokenizer("t5")
    collator = SpanCollator(tok, share=share, mean_length=mean)
    sentinels = set(sentinel_ids(tok))
    for size in (2, 3, 10, 48):
        length = collator.text_length(size + 2)
        data = PackedDataset(packed_blocks(tok, english(60), max(length, 2), objective="span"))
        for index in range(min(len(data), 20)):
            ids = np.array(data[index]["input_ids"])
            inputs, labels = collator.corrupt(ids, np.random.default_rng(index))
            spans = [value for value in inputs if value in sentinels]
            assert spans == [value for value in labels if value in sentinels] == sentinel_ids(tok)[: len(spans)]
            assert len(inputs) + len(labels) == len(ids) + 2 * len(spans) + 2
            assert len(inputs) <= size + 2
            assert _put_back(inputs[:-1], labels[:-1], sentinels) == ids.tolist()
            assert inputs[-1] == labels[-1] == tok.eos_token_id


def _put_back(inputs, labels, sentinels):
    """Fill the spans of the labels into the inputs."""
    spans: dict[int, list[int]] = {}
    for value in labels.tolist():
        if value in sentinels:
            current = spans.setdefault(value, [])
        else:
            current.append(value)
    return [piece for value in inputs.tolist() for piece in (spans[value] if value in sentinels else [value])]


def test_span_share_is_the_one_asked_for():
    tok = TOKENIZERS["t5"]()
    tok.add_special_tokens({"extra_special_tokens": [f"<extra_id_{n}>" for n in range(4, 100)]})
    collator = SpanCollator(tok)
    assert collator.text_length(512) == 568  # the lengths of the T5 paper's own setting: 512 inputs, 114 labels
    inputs, labels = collator.corrupt(np.arange(10, 578), np.random.default_rng(0))
    assert (len(inputs), len(labels)) == (512, 114)


def test_span_batches_train_a_model():
    tok = tokenizer("t5")
    data = PackedDataset(packed_blocks(tok, english(60), 20, objective="span"))
    batch = make_collator("span", tok)([data[0], data[1]])
    assert torch.isfinite(build("t5", len(tok) + 3)(**batch).loss)


def test_streamed_equals_memory():
    tok, texts = tokenizer("xlmr"), english(100)
    memory = PackedDataset(packed_blocks(tok, texts, 32, objective="masked"))
    stream = StreamedBlocks(lambda: packed_blocks(tok, texts, 32, objective="masked"))
    assert list(stream) == [memory[index] for index in range(len(memory))]
    shuffled = StreamedBlocks(stream._make_blocks, shuffle_buffer=16, seed=5)
    once = list(shuffled)
    assert once != list(stream)
    assert sorted(once, key=lambda example: example[DRAW]) == list(stream)
    assert list(shuffled) == once
    shuffled.set_epoch(1)
    assert [example["input_ids"] for example in shuffled] != [example["input_ids"] for example in once]


def test_workers_share_the_stream():
    tok, texts = tokenizer("gpt2"), english(60)
    stream = StreamedBlocks(lambda: packed_blocks(tok, texts, 32))
    loader = DataLoader(stream, batch_size=None, num_workers=2, timeout=300)  # a worker that hangs is an error
    found = sorted(example["draw"] for example in loader)
    assert found == [example["draw"] for example in stream]
    assert len(set(found)) == len(found) > 2


def test_memory_holds_short_blocks_and_ends():
    tok = tokenizer("gpt2")
    data = PackedDataset(packed_blocks(tok, english(20), 64, last="keep"))
    assert data.n_tokens == sum(len(data[index]["input_ids"]) for index in range(len(data)))
    assert data[-1]["input_ids"] == data[len(data) - 1]["input_ids"]
    assert len(list(data)) == len(data)


@pytest.mark.parametrize(
    ("name", "objective"),
    [("bert", "masked"), ("modernbert", "masked"), ("llama", "causal"), ("gpt2", "causal"), ("t5", "span")],
)
def test_objective_follows_the_class(name, objective):
    assert choose_objective(build(name)) == objective
    other = "causal" if objective != "causal" else "masked"
    with pytest.raises(InvalidOptionError, match="is not trained"):
        choose_objective(build(name), other)


def test_objective_mistakes():
    with pytest.raises(UnsupportedModelError, match="no head"):
        choose_objective(build("bert_body"))
    with pytest.raises(InvalidOptionError, match="no objective"):
        choose_objective(build("bert"), "mlm")
    with pytest.raises(InvalidOptionError, match="no objective"):
        make_collator("mlm", tokenizer("bert-cased"))


@pytest.mark.parametrize(
    "options",
    [
        {"block_size": 1},
        {"block_size": 16, "objective": "next"},
        {"block_size": 16, "last": "pad"},
        {"block_size": 16, "objective": "masked", "positions": True},
    ],
)
def test_bad_block_options(options):
    with pytest.raises(InvalidOptionError):
        packed_blocks(tokenizer("xlmr"), english(5), **options)


def test_bad_collators_and_data():
    with pytest.raises(UnsupportedTokenizerError, match="mask token"):
        MaskedCollator(tokenizer("gpt2"))
    with pytest.raises(UnsupportedTokenizerError, match="sentinels"):
        SpanCollator(tokenizer("xlmr"))
    for options in ({"share": 0.0}, {"mask_share": 0.9, "random_share": 0.2}):
        with pytest.raises(InvalidOptionError):
            MaskedCollator(tokenizer("xlmr"), **options)
    with pytest.raises(InvalidOptionError):
        SpanCollator(tokenizer("t5"), mean_length=0.5)
    with pytest.raises(CorpusError, match="does not fill"):
        PackedDataset(packed_blocks(tokenizer("gpt2"), swahili(1), 4096))
