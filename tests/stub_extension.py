"""An extension made by hand, so that saving, cards and pushes are tested apart from the methods."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_vocab_extend.mapping import RowKind, TokenMapping
from hf_vocab_extend.methods.mixture import Mixture
from hf_vocab_extend.report import ExtensionReport
from hf_vocab_extend.result import VocabExtension

from .factories import tokenizer

FIELDS: dict[str, Any] = {
    "version": "0.1.0",
    "base_model": "org/base-model",
    "base_revision": "0123456789abcdef",
    "source_tokenizer": "org/base-model",
    "target_tokenizer": None,
    "mode": "extend",
    "method": "subword",
    "method_reason": "asked for",
    "method_config": {"pooling": "mean"},
    "fallback": "subword",
    "seed": 7,
    "languages": ("sw",),
    "sizes": {
        "source_tokens": 480,
        "target_tokens": 500,
        "source_rows": 480,
        "target_rows": 500,
        "new_tokens": 20,
    },
    "counts_by_kind": {"same": 480, "method": 17, "fallback": 2, "random": 1},
    "coverage": {"same": 0.75, "method": 0.25},
    "tables": ({"name": "bert.embeddings.word_embeddings.weight", "role": "input", "shape": (500, 16)},),
    "tied": True,
    "fertility_before": {"tokens_per_word": 3.25, "words": 1200, "lines": 100, "round_trip_rate": 0.5},
    "fertility_after": {"tokens_per_word": 1.5, "words": 1200, "lines": 100, "round_trip_rate": 0.5},
    "seconds_by_step": {"plan": 0.25, "method": 1.5},
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "notes": ("1 rows are random: nothing covered their tokens.",),
}


def make_report(**changes: Any) -> ExtensionReport:
    """A report with every field filled."""
    return ExtensionReport(**(copy.deepcopy(FIELDS) | changes))


def make_bert(name: str = "bert-uncased", **options: Any) -> BertForMaskedLM:
    """A tiny BERT for a tokenizer of the factories."""
    torch.manual_seed(3)
    own = tokenizer(name)
    config = BertConfig(
        vocab_size=max(own.get_vocab().values()) + 1,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=24,
        num_attention_heads=2,
        pad_token_id=own.pad_token_id,
        **options,
    )
    return BertForMaskedLM(config).eval()


def make_mapping(own: PreTrainedTokenizerBase) -> TokenMapping:
    """A mapping in which each token is its own source."""
    n_tokens = max(own.get_vocab().values()) + 1
    names = own.convert_ids_to_tokens(list(range(n_tokens)))
    kinds = np.full(n_tokens, RowKind.SAME, np.uint8)
    return TokenMapping(names, names, kinds, Mixture.from_lists([[] for _ in names], n_source=n_tokens))


def make_extension(
    model: PreTrainedModel | None = None, own: PreTrainedTokenizerBase | None = None, **changes: Any
) -> VocabExtension:
    """An extension with a tiny BERT, unless another model and tokenizer are given."""
    own = own if own is not None else tokenizer("bert-uncased")
    model = model if model is not None else make_bert()
    return VocabExtension(model, own, make_mapping(own), make_report(**changes))


def saved_with(model: PreTrainedModel, own: PreTrainedTokenizerFast, folder: Path, **options: Any) -> VocabExtension:
    """Save a model and its tokenizer; returns what was saved."""
    extension = make_extension(model, own)
    extension.save_pretrained(folder, **options)
    return extension
