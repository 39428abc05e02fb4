"""Every id field moves to the new vocabulary, and none is left stale."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_vocab_extend.errors import TokenizerMismatchError
from hf_vocab_extend.surgery.token_ids import IdMap, remap_token_ids

from .models import build
from .plans import extend_plan, replace_plan

V = 97
SHIFT = 10
TARGET = V + SHIFT


def _tokenizer(n: int = TARGET, **roles: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `n` tokens ``u0``, ``u1``, ... with the given special ids."""
    backend = Tokenizer(models.WordLevel({f"u{index}": index for index in range(n)}, unk_token="u0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{k}_token": f"u{v}" for k, v in roles.items()})


def _shifted(drop: tuple[int, ...] = ()) -> object:
    """A plan in which source id `i` becomes `i + 10`, but for some that vanish."""
    source_ids = [-1] * SHIFT + [-1 if index in drop else index for index in range(V)]
    return replace_plan(source_ids, V)


SHIFTED = [
    ("eos_token_id", 2, 12),
    ("eos_token_id", [2, 30, 2], [12, 40]),
    ("pad_token_id", 0, 10),
    ("bos_token_id", 1, 11),
    ("decoder_start_token_id", 5, 15),
    ("forced_bos_token_id", 6, 16),
    ("forced_eos_token_id", [2, 7], [12, 17]),
    ("suppress_tokens", [3, 4], [13, 14]),
    ("begin_suppress_tokens", [3, -1], [13, -1]),
    ("bad_words_ids", [[3], [4, 5]], [[13], [14, 15]]),
    ("force_words_ids", [[[3], [4, 5]], [[6]]], [[[13], [14, 15]], [[16]]]),
    ("sequence_bias", {(3, 4): -1.5, (5,): 2.0}, {(13, 14): -1.5, (15,): 2.0}),
    ("sequence_bias", [[[3, 4], -1.5], [[5], 2.0]], [[[13, 14], -1.5], [[15], 2.0]]),
    ("forced_decoder_ids", [[1, 50], [2, None]], [[1, 60], [2, None]]),
    ("lang_to_id", {"<|en|>": 50, "<|sw|>": 51}, {"<|en|>": 60, "<|sw|>": 61}),
    ("eos_token_id", None, None),
]


@pytest.mark.parametrize(("name", "old", "new"), SHIFTED)
def test_fields_of_the_generation_config_move(name, old, new):
    model = build("llama", V)
    setattr(model.generation_config, name, copy.deepcopy(old))
    notes = remap_token_ids(model, _shifted(), _tokenizer())
    assert getattr(model.generation_config, name) == new
    assert notes == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("eos_token_id", [2, 30], [12, 40]),
        ("image_token_id", 33, 43),
        ("image_token_index", -200, -200),
        ("video_token_ids", [33, 34], [43, 44]),
        ("boi_token_index", 35, 45),
        ("num_image_tokens", 35, 35),
        ("max_position_embeddings", 40, 40),
    ],
)
def test_fields_of_the_config_move_and_others_do_not(name, old, new):
    model = build("llama", V)
    setattr(model.config, name, old)
    remap_token_ids(model, _shifted(), _tokenizer())
    assert getattr(model.config, name) == new


def test_nested_configs_and_copies_of_them_move():
    model = build("gemma3_multimodal", V)
    remap_token_ids(model, _shifted(), _tokenizer())
    assert model.config.image_token_id == 14
    assert model.config.text_config.pad_token_id == 10
    assert model.config.text_config.eos_token_id == 12
    model = build("t5", V)
    assert model.decoder.config is not model.config
    remap_token_ids(model, _shifted(), _tokenizer())
    assert (model.config.eos_token_id, model.decoder.config.eos_token_id) == (11, 11)
    assert model.decoder.config.pad_token_id == model.encoder.config.pad_token_id == 10


def test_ids_over_another_vocabulary_stay():
    model = build("gemma3_multimodal", V)
    other = model.config.vision_config
    other.vocab_size, other.pad_token_id = 31, 3
    remap_token_ids(model, _shifted(), _tokenizer())
    assert other.pad_token_id == 3


def test_ids_that_modules_keep_move():
    model = build("xlm", V)
    assert model.transformer.config.pad_index == 2
    remap_token_ids(model, _shifted(), _tokenizer())
    assert model.config.pad_index == 12


@pytest.mark.parametrize(
    ("name", "old", "roles", "new"),
    [
        ("eos_token_id", 2, {"eos": 5}, 5),
        ("eos_token_id", [2, 30], {"eos": 5}, [5, 40]),
        ("eos_token_id", [2, 30], {}, [40]),
        ("eos_token_id", 2, {}, None),
        ("eos_token_id", [2], {}, None),
        ("pad_token_id", 2, {"pad": 3}, 3),
        ("suppress_tokens", [2, 30], {"eos": 5}, [40]),
        ("bad_words_ids", [[2, 30], [31]], {}, [[41]]),
        ("bad_words_ids", [[2]], {}, None),
        ("sequence_bias", {(2,): 1.0, (30,): 2.0}, {}, {(40,): 2.0}),
        ("forced_decoder_ids", [[1, 2], [2, 30]], {}, [[2, 40]]),
        ("lang_to_id", {"a": 2, "b": 30}, {}, {"b": 40}),
    ],
)
def test_an_id_whose_token_vanished_takes_its_role_or_goes_and_is_reported(name, old, roles, new):
    model = build("llama", V)
    model.config.eos_token_id = None
    model.generation_config.eos_token_id = None
    setattr(model.generation_config, name, old)
    notes = remap_token_ids(model, _shifted(drop=(2,)), _tokenizer(**roles))
    assert getattr(model.generation_config, name) == new
    assert any(f"generation_config.{name}" in note and "'t2'" in note for note in notes)


def test_a_vanished_decoder_start_takes_the_role_that_its_id_had():
    model = build("t5", V)  # pad and decoder start are 0
    notes = remap_token_ids(model, _shifted(drop=(0,)), _tokenizer(pad=4, eos=5))
    assert model.config.decoder_start_token_id == 4
    assert model.generation_config.decoder_start_token_id == 4
    assert any("decoder_start_token_id was 0" in note and "set to 4" in note for note in notes)


def test_an_id_beyond_the_source_vocabulary_does_not_stay():
    model = build("llama", V)
    model.config.image_token_id = 96
    plan = replace_plan([-1] * SHIFT + list(range(90)), 90)
    notes = remap_token_ids(model, plan, _tokenizer(100))
    assert model.config.image_token_id is None
    assert any("image_token_id was 96" in note for note in notes)


def test_one_source_token_with_several_targets_is_told_apart_by_role():
    """GPT-2 ends and begins with one token; the new tokenizer has three."""
    model = build("llama", V)
    for name in ("bos", "eos", "pad"):
        setattr(model.config, f"{name}_token_id", 9)
        setattr(model.generation_config, f"{name}_token_id", 9)
    plan = replace_plan([9, 9, 9, *range(10, V)], V, specials=[0, 1, 2])
    remap_token_ids(model, plan, _tokenizer(len(plan.kinds), bos=0, eos=1, pad=2))
    for holder in (model.config, model.generation_config):
        assert (holder.bos_token_id, holder.eos_token_id, holder.pad_token_id) == (0, 1, 2)


def test_the_map_prefers_special_matches_then_low_ids():
    ids = IdMap(replace_plan([7, 7, 7, 8], V, specials=[2]))
    assert [ids.find(index) for index in (7, 8, 9, -1)] == [2, 3, None, -1]


def test_extension_moves_nothing():
    model = build("bart", V)
    model.generation_config.bad_words_ids = [[3, 4]]
    before = [copy.deepcopy(holder.to_dict()) for holder in (model.config, model.generation_config)]
    assert remap_token_ids(model, extend_plan(V, TARGET), _tokenizer(eos=50, pad=51)) == []
    assert [holder.to_dict() for holder in (model.config, model.generation_config)] == before


def test_extension_reports_an_id_that_a_new_token_claims():
    model = build("llama", V)
    model.config.image_token_id = 92
    notes = remap_token_ids(model, extend_plan(90, 95), _tokenizer(95))
    assert len(notes) == 1
    assert "image_token_id is 92" in notes[0]
    assert model.config.image_token_id == 92


def test_a_tokenizer_of_another_plan_is_refused():
    model = build("llama", V)
    before = model.config.to_dict()
    with pytest.raises(TokenizerMismatchError, match="lie outside"):
        remap_token_ids(model, replace_plan(np.arange(20), V), _tokenizer(60, eos=50))
    assert model.config.to_dict() == before


def test_generation_stops_at_the_moved_id():
    """With the old id left beside the new one, generation would stop at an ordinary word."""
    model = build("gpt2", V)
    model.generation_config.eos_token_id = [2, 3]
    remap_token_ids(model, _shifted(drop=(3,)), _tokenizer(eos=12))
    assert model.generation_config.eos_token_id == [12]


def test_a_saved_config_has_the_new_ids(tmp_path):
    model = build("bart", V)
    remap_token_ids(model, _shifted(), _tokenizer(bos=10, pad=11, eos=12))
    model.config.vocab_size = V
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for holder in (loaded.config, loaded.generation_config):
        assert (holder.bos_token_id, holder.pad_token_id, holder.eos_token_id) == (10, 11, 12)
        assert holder.decoder_start_token_id == 12
