"""Input that once was taken for something else: scores for counts, splits for languages, records for lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from hf_vocab_extend import extend_tokenizer, extend_vocabulary
from hf_vocab_extend.errors import (
    AlignmentError,
    CorpusError,
    InvalidOptionError,
    MissingDependencyError,
    VocabExtendWarning,
)
from hf_vocab_extend.methods.base import Resources
from hf_vocab_extend.methods.trans_tokenization import TransTokenizationConfig
from hf_vocab_extend.methods.translations import named_sources
from hf_vocab_extend.resources.alignment import AlignerOptions, align_pairs, read_counts
from hf_vocab_extend.resources.alignment import aligners as aligners_module
from hf_vocab_extend.resources.alignment.pharaoh import PharaohAlignment
from hf_vocab_extend.resources.parallel import open_pairs

from .factories import sample_pairs, swahili, tokenizer

PAIRS = list(sample_pairs()[:40])
TOKENIZERS = tokenizer("bert-uncased"), tokenizer("xlmr")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def test_sentences_with_a_score_are_no_counts(tmp_path: Path) -> None:
    path = tmp_path / "mined.tsv"
    path.write_text("\n".join(f"{source}\t{target}\t0.85" for source, target in PAIRS))
    with pytest.raises(AlignmentError, match="sentences with a score"):
        read_counts(str(path), *TOKENIZERS)


def test_splits_of_a_data_set_are_no_languages() -> None:
    datasets = pytest.importorskip("datasets")
    rows = {"en": [pair[0] for pair in PAIRS], "sw": [pair[1] for pair in PAIRS]}
    splits = datasets.DatasetDict({name: datasets.Dataset.from_dict(rows) for name in ("train", "test")})
    assert list(named_sources(Resources(parallel=splits))) == ["parallel"]
    with pytest.raises(CorpusError, match="train"):
        read_counts(splits, *TOKENIZERS)


def test_two_files_of_records_are_refused(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": "one"}))
    with pytest.raises(CorpusError, match="jsonl"):
        list(open_pairs((tmp_path / "a.jsonl", tmp_path / "b.jsonl")))


def test_pairs_that_are_too_long_are_told_also_from_the_cache() -> None:
    options = AlignerOptions(aligner="ibm1", max_length=30, show_progress=False)
    lengths = [
        len(tokenizer.tokenize(text)) for pair in PAIRS for tokenizer, text in zip(TOKENIZERS, pair, strict=True)
    ]
    assert min(max(pair) for pair in zip(lengths[::2], lengths[1::2], strict=True)) < 30
    for _ in range(2):
        with pytest.warns(VocabExtendWarning, match=r"\d+ of 40 pairs have a side of more than 30 units"):
            counts = align_pairs(PAIRS, *TOKENIZERS, options)
    assert 0 < counts.info["n_long_pairs"] < 40
    with pytest.raises(AlignmentError, match="links no unit of the 40 pairs"):
        align_pairs(PAIRS, *TOKENIZERS, AlignerOptions(max_length=1), use_cache=False)


def test_an_aligner_that_is_missing_is_said_before_the_text_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(options: AlignerOptions) -> None:
        raise MissingDependencyError("no eflomal")

    monkeypatch.setitem(aligners_module.CHECKS, "eflomal", missing)
    for processes in (1, 2):
        with pytest.raises(MissingDependencyError, match="no eflomal"):
            align_pairs(PAIRS, *TOKENIZERS, AlignerOptions(aligner="eflomal"), processes=processes, use_cache=False)
    with pytest.raises(InvalidOptionError, match="nowhere"):
        align_pairs(PAIRS, *TOKENIZERS, AlignerOptions(device="nowhere"), use_cache=False)


@pytest.mark.parametrize("line", ["99999999999999999999-0", 7])
def test_a_link_that_is_none(line: object) -> None:
    links = [line, *["0-0"] * (len(PAIRS) - 1)]
    with pytest.raises(AlignmentError, match="line 1"):
        read_counts(PharaohAlignment(PAIRS, links), *TOKENIZERS)


@pytest.mark.parametrize("power", [1.0, 3000.0])
def test_no_power_loses_a_row(power: float) -> None:
    own = tokenizer("bert-uncased")
    grown = extend_tokenizer(own, swahili(300), 60)
    model = BertModel(BertConfig(vocab_size=len(own), **SMALL))
    method = TransTokenizationConfig(power=power, cache=False)
    extension = extend_vocabulary(model, grown, method, tokenizer=own, parallel=PAIRS)
    assert "random" not in extension.report.counts_by_kind
    mixture = extension.mapping.mixture.select(np.arange(len(own), len(grown)))
    sums = np.add.reduceat(mixture.weights, mixture.offsets[:-1])
    assert mixture.covered.all()
    assert np.allclose(sums, 1, atol=1e-5)
    assert any("pairs cover" in note for note in extension.report.notes)


def test_an_explanation_says_that_the_sum_was_scaled() -> None:
    own = tokenizer("bert-uncased")
    grown = extend_tokenizer(own, swahili(300), 60)
    model = BertModel(BertConfig(vocab_size=len(own), **SMALL))
    extension = extend_vocabulary(model, grown, "trans_tokenization", tokenizer=own, parallel=PAIRS)
    table, found = model.get_input_embeddings().weight, 0
    for token_id in range(len(own), len(grown)):
        explained = extension.mapping.explain(token_id)
        if len(explained.sources) < 2:
            continue
        rows = [(weight, table[own.convert_tokens_to_ids(token)]) for token, weight in explained.sources]
        total = sum(weight * row for weight, row in rows)
        length = sum(weight * row.norm() for weight, row in rows)
        if explained.norm_matched:
            found += 1
            assert "scaled to their mean length" in str(explained)
            assert torch.allclose(table[token_id], total / total.norm() * length, atol=1e-5)
    assert found


def test_a_base_folder_that_is_gone_costs_nothing_but_its_side_files(tmp_path: Path) -> None:
    own = tokenizer("bert-uncased")
    BertModel(BertConfig(vocab_size=len(own), **SMALL)).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "modules.json").write_text("[{")
    model = BertModel.from_pretrained(tmp_path / "base")
    extension = extend_vocabulary(model, extend_tokenizer(own, swahili(100), 10), "subword", tokenizer=own)
    extension.save_pretrained(tmp_path / "damaged", verify=False)
    assert not (tmp_path / "damaged" / "modules.json").exists()
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    extension.save_pretrained(tmp_path / "out", verify=False)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == len(own) + 10
