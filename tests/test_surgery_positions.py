"""The padding id moves in a replacement: tables, modules and positions that count from it move along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import UnsupportedModelError

from .models import build
from .plans import replace_plan
from .test_surgery_apply import _apply, _assert_unchanged, _snapshot
from .test_surgery_sites import V


@pytest.mark.parametrize("name", ["llama", "xlm_roberta", "bart", "gemma"])
def test_the_padding_index_follows_in_a_replacement(name):
    model = build(name, V)
    old = model.get_input_embeddings().padding_idx
    source_ids = np.roll(np.arange(V), 3)  # every id moves up by three
    _apply(model, replace_plan(source_ids, V))
    moved = None if old is None else old + 3
    assert model.get_input_embeddings().padding_idx == moved
    embeddings = [module for module in model.modules() if hasattr(module, "embed_positions")]
    assert all(getattr(module, "padding_idx", moved) == moved for module in embeddings)


@pytest.mark.parametrize("name", ["roberta", "xlm_roberta_body", "camembert"])
@pytest.mark.parametrize("shift", [-1, 4])
def test_positions_that_count_from_the_padding_id_follow_it(name, shift, tmp_path):
    model = build(name, V)
    ids = torch.tensor([[0, 9, 33, 7, 61, 12, 2, 1, 1]])  # bos ... eos pad pad
    mask = (ids != 1).long()
    with torch.no_grad():
        old = model(input_ids=ids, attention_mask=mask)[0]
    source_ids = np.roll(np.arange(V), shift)
    place = torch.from_numpy(np.argsort(source_ids))
    _apply(model, replace_plan(source_ids, V))
    model.config.pad_token_id = 1 + shift
    model.save_pretrained(tmp_path)
    for candidate in (model, type(model).from_pretrained(tmp_path).eval()):
        with torch.no_grad():
            new = candidate(input_ids=place[ids], attention_mask=mask)[0]
        expected = old[..., source_ids] if old.shape[-1] == V else old
        torch.testing.assert_close(new[:, :7], expected[:, :7], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "source_ids"),
    [
        ("mpnet", np.roll(np.arange(V), 3)),  # its code has the padding id written in
        ("roberta", np.delete(np.arange(V), 1)),  # the padding token is gone
        ("m2m_100", np.roll(np.arange(V), 3)),  # positions are computed
    ],
)
def test_positions_that_cannot_follow_are_refused(name, source_ids):
    model = build(name, V)
    before = _snapshot(model)
    with pytest.raises(UnsupportedModelError, match="count from the padding id 1"):
        _apply(model, replace_plan(source_ids, V))
    _assert_unchanged(model, before)


def test_the_longest_input_still_fits_after_a_shift(tmp_path):
    """40 positions hold 38 tokens beside padding id 1, and as many beside padding id 5."""
    model = build("roberta", V)
    ids = torch.arange(38)[None] + 20
    with torch.no_grad():
        old = model(input_ids=ids).logits
    source_ids = np.roll(np.arange(V), 4)
    place = torch.from_numpy(np.argsort(source_ids))
    _apply(model, replace_plan(source_ids, V))
    assert model.config.max_position_embeddings == 44
    with torch.no_grad():
        new = model(input_ids=place[ids]).logits
    torch.testing.assert_close(new, old[..., source_ids], atol=1e-5, rtol=1e-5)
