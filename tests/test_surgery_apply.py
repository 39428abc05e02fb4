"""Rows land where the plan says in every table of every architecture, or nothing changes at all."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_vocab_extend.errors import (
    InvalidOptionError,
    InvalidTableError,
    TokenizerMismatchError,
)
from hf_vocab_extend.plan import VocabPlan
from hf_vocab_extend.surgery.apply import apply_rows
from hf_vocab_extend.surgery.journal import Journal
from hf_vocab_extend.surgery.sites import Site, Sites, find_sites

from .models import ALWAYS_TIED, NESTED, SPECS, build, logits
from .plans import extend_plan, permutation, replace_plan
from .test_surgery_sites import CASES, V

IDS = torch.tensor([[5, 9, 33, 7, 61, 12, 80, 14], [6, 6, 18, 90, 21, 5, 9, 43]])
SEPARATE_ROWS = ("mllama", "gemma3n_text")


pytestmark = pytest.mark.usefixtures("one_thread")


def _new_rows(table: torch.Tensor, site: Site) -> torch.Tensor:
    """Rows that tell from which table they were computed."""
    return table[-10:].float() * 0.5 + table.float().mean(0)


def _pad_row(table: torch.Tensor, site: Site) -> torch.Tensor:
    return table.float().mean(0)


def _apply(model: PreTrainedModel, plan: VocabPlan, **options: int) -> list[dict]:
    def rows(table: torch.Tensor, site: Site) -> torch.Tensor:
        return _new_rows(table, site)[: len(plan.new_ids)]

    return apply_rows(model, find_sites(model, plan.n_source), plan, rows, pad_row=_pad_row, **options)


def _snapshot(model: PreTrainedModel) -> dict:
    """Everything that surgery may touch, copied."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    sizes = ("num_embeddings", "out_features", "in_features", "padding_idx", "vocab_size", "n_words")
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "objects": {name: id(tensor) for name, tensor in tensors.items()},
        "storages": {name: tensor.data_ptr() for name, tensor in tensors.items()},
        "gradients": {name: tensor.requires_grad for name, tensor in tensors.items()},
        "modules": {name: id(module) for name, module in model.named_modules()},
        "sizes": {
            (name, size): getattr(module, size, None) for name, module in model.named_modules() for size in sizes
        },
        "config": copy.deepcopy(model.config.to_dict()),
        "sub_configs": [
            copy.deepcopy(module.config.to_dict()) for module in model.modules() if hasattr(module, "config")
        ],
        "generation": copy.deepcopy(getattr(model, "generation_config", model.config).to_dict()),
        "ties": dict(model.all_tied_weights_keys),
    }


def _assert_unchanged(model: PreTrainedModel, before: dict) -> None:
    after = _snapshot(model)
    for name, tensor in before.pop("tensors").items():
        assert torch.equal(after["tensors"][name], tensor), name
    after.pop("tensors")
    assert after == before


def _tables(model: PreTrainedModel, n_ids: int, sites: Sites | None = None) -> dict[str, torch.Tensor]:
    """Every vocabulary-sized table by name, one entry per alias, rows first."""
    return {
        alias.name: alias.tensor.detach().movedim(site.axis, 0).clone()
        for site in sites or find_sites(model, n_ids)
        for alias in site.aliases
    }


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_the_same_vocabulary_leaves_the_same_model(name, tied):
    model = build(name, V, tied)
    before = _snapshot(model)
    _apply(model, extend_plan(V, V))
    if not tied and name in ALWAYS_TIED - {"umt5"}:  # the flag now says what the storage says
        assert model.config.tie_word_embeddings is False
        model.config.tie_word_embeddings = True
        before["ties"] = dict(model.all_tied_weights_keys)
    _assert_unchanged(model, before)


@pytest.mark.parametrize(("name", "tied"), [case for case in CASES if case[0] not in SEPARATE_ROWS])
def test_permuted_ids_permute_rows_and_logits(name, tied):
    model = build(name, V, tied)
    old_logits, old_tables = logits(model, IDS), _tables(model, V)
    source_ids = permutation(V)
    place = np.argsort(source_ids)
    _apply(model, replace_plan(source_ids, V))
    for key, table in _tables(model, V).items():
        assert torch.equal(table, old_tables[key][source_ids]), key
    new_logits = logits(model, torch.from_numpy(place)[IDS])
    expected = old_logits[..., source_ids] if old_logits.shape[-1] == V else old_logits
    torch.testing.assert_close(new_logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_extension_keeps_old_rows_and_survives_a_reload(name, tied, tmp_path):
    model = build(name, V, tied)
    sites = find_sites(model, V)
    n_source, was_tied = sites.n_rows, sites.tied
    old_logits, old_tables = logits(model, IDS), _tables(model, V, sites)
    described = _apply(model, extend_plan(n_source, n_source + 10))
    tables = _tables(model, n_source + 10)
    for key, table in tables.items():
        assert torch.equal(table[: len(old_tables[key])], old_tables[key]), key
        assert table.shape[0] >= n_source + 10
        assert table.flatten(1)[len(old_tables[key]) :].any(dim=1).all() if table.ndim > 1 else True
    assert {item["name"] for item in described} <= set(tables)
    new_logits = logits(model, IDS)
    torch.testing.assert_close(new_logits[..., : old_logits.shape[-1]], old_logits, atol=1e-5, rtol=1e-5)
    _assert_reloads_equal(model, tmp_path, was_tied, n_source + 10)


def _assert_reloads_equal(model: PreTrainedModel, folder: Path, tied: bool, n_ids: int) -> None:
    model.save_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not info["mismatched_keys"]
    assert not info["unexpected_keys"]
    ids = IDS % n_ids
    torch.testing.assert_close(logits(loaded.eval(), ids), logits(model, ids), atol=0, rtol=0)
    sites, here = find_sites(loaded, n_ids), find_sites(model, n_ids)
    assert sites.tied == tied == here.tied
    assert len(sites) == len(here)
    new_ids = torch.tensor([[n_ids - 1, 5, n_ids - 4]])
    torch.testing.assert_close(logits(loaded, new_ids), logits(model, new_ids), atol=0, rtol=0)


@pytest.mark.parametrize("name", ["llama", "phi", "bert", "bart", "t5", "gptj"])
def test_head_rows_come_from_the_head(name):
    model = build(name, V, tied=False)
    before = {site.name: site.table().clone() for site in find_sites(model, V)}
    _apply(model, extend_plan(V, V + 10))
    for site in find_sites(model, V + 10):
        expected = before[site.name][-10:] * 0.5 + before[site.name].mean(0)
        torch.testing.assert_close(site.table()[V:], expected)
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert not torch.allclose(head[V:], table[V:])


@pytest.mark.parametrize("name", [*SPECS, *NESTED])
def test_modules_and_parameters_stay_the_same_objects(name):
    model = build(name, V)
    model.requires_grad_(False)
    calls = []
    for module in {id(alias.module): alias.module for alias in find_sites(model, V).input.aliases}.values():
        module.register_forward_hook(lambda *arguments: calls.append(1))
    before = _snapshot(model)
    n_source = find_sites(model, V).n_rows
    _apply(model, extend_plan(n_source, n_source + 3))
    after = _snapshot(model)
    assert after["objects"] == before["objects"]
    assert after["modules"] == before["modules"]
    assert after["gradients"] == before["gradients"]
    logits(model, IDS)
    assert calls


@pytest.mark.parametrize("name", [*SPECS, *NESTED])
def test_sizes_are_told_to_modules_and_configs(name):
    model = build(name, V, tied=False)
    n_source = find_sites(model, V).n_rows
    _apply(model, extend_plan(n_source, n_source + 10))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            assert module.num_embeddings == module.weight.shape[0]
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
        assert getattr(module, "vocab_size", None) not in (V, n_source)
        config = getattr(module, "config", None)
        assert getattr(config, "vocab_size", None) not in (V, n_source)
    assert model.config.get_text_config().vocab_size == n_source + 10


def test_nested_configs_of_t5gemma_follow():
    model = build("t5gemma", V)
    _apply(model, extend_plan(V, V + 10))
    config = model.config
    assert config.vocab_size == config.encoder.vocab_size == config.decoder.vocab_size == V + 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["gemma2", "t5", "bert"])
def test_types_are_kept_and_cast_once(name, dtype):
    model = build(name, V, tied=False).to(dtype)
    before = {site.name: site.table().clone() for site in find_sites(model, V)}
    _apply(model, extend_plan(V, V + 10))
    for site in find_sites(model, V + 10):
        table = site.table()
        assert table.dtype == dtype
        assert torch.equal(table[:V], before[site.name])
        assert torch.equal(table[V:], _new_rows(before[site.name], site).to(dtype))


def test_a_row_that_overflows_its_type_is_refused():
    model = build("llama", V).half()
    before = _snapshot(model)
    with pytest.raises(InvalidTableError, match=r"embed_tokens.*computed rows.*1 rows \(97\)"):
        apply_rows(
            model,
            find_sites(model, V),
            extend_plan(V, V + 1),
            lambda table, site: torch.full((1, table.shape[1]), 1e6),
            pad_row=_pad_row,
        )
    _assert_unchanged(model, before)


@pytest.mark.parametrize("name", ["llama", "bart", "bert", "umt5"])
@pytest.mark.parametrize("tied", [True, False])
def test_padded_tables_keep_their_rows(name, tied):
    """97 rows for 80 tokens: 6 new tokens claim the first padding rows, the other 11 stay as they are."""
    model = build(name, V, tied)
    old = _tables(model, 80)
    _apply(model, extend_plan(80, 86))
    for key, table in _tables(model, 86).items():
        assert table.shape[0] == V
        assert torch.equal(table[:80], old[key][:80])
        assert torch.equal(table[86:], old[key][86:])
        assert not torch.equal(table[80:86], old[key][80:86])
    assert model.config.vocab_size == V


@pytest.mark.parametrize("name", ["marian", "bart", "llama", "bert", "mobilebert"])
@pytest.mark.parametrize("mode", ["extend", "replace"])
def test_rows_are_rounded_up_everywhere(name, mode, tmp_path):
    model = build(name, V)
    expected = {site.name: site.table().float().mean(0) for site in find_sites(model, V)}
    plan = extend_plan(V, V + 3) if mode == "extend" else replace_plan([*range(60), -1, -1], V)
    _apply(model, plan, pad_to_multiple_of=64)
    rows = 128 if mode == "extend" else 64
    for site in find_sites(model, plan.n_target):
        assert site.n_rows == rows
        padding = site.table()[plan.n_target :]
        torch.testing.assert_close(padding, expected[site.name].expand_as(padding))
    _assert_reloads_equal(model, tmp_path, True, rows)


def test_replacement_fills_holes_with_the_padding_row():
    model = build("phi", V, tied=False)
    old = {site.name: site.table().clone() for site in find_sites(model, V)}
    plan = replace_plan([10, 11, -1, 12, -1, 13], V, holes=[2])
    _apply(model, plan)
    for site in find_sites(model, 6):
        table, before = site.table(), old[site.name]
        assert torch.equal(table[[0, 1, 3, 5]], before[[10, 11, 12, 13]])
        torch.testing.assert_close(table[2], before.mean(0))
        torch.testing.assert_close(table[4], before[-10] * 0.5 + before.mean(0))


def test_a_source_row_that_a_shorter_head_lacks_is_padded():
    """Mllama's table has eight rows more than its head: an id among those has nothing to copy in the head."""
    model = build("mllama", V, tied=False)
    head_mean = model.lm_head.weight.detach().mean(0)
    row = model.get_input_embeddings().weight[V + 2].detach().clone()
    _apply(model, replace_plan([V + 2, *range(50)], V + 8))
    assert torch.equal(model.get_input_embeddings().weight[0], row)
    torch.testing.assert_close(model.lm_head.weight[0], head_mean)


@pytest.mark.parametrize(
    ("options", "n_ids", "error"),
    [({"pad_to_multiple_of": 0}, V, InvalidOptionError), ({}, V + 1, TokenizerMismatchError)],
)
def test_bad_arguments_change_nothing(options, n_ids, error):
    model = build("llama", V)
    before, sites = _snapshot(model), find_sites(model, V)
    with pytest.raises(error):
        apply_rows(model, sites, extend_plan(n_ids, n_ids + 2), _new_rows, pad_row=_pad_row, **options)
    _assert_unchanged(model, before)


@pytest.mark.parametrize("rows", [torch.zeros(3, 16), torch.zeros(2, 15), torch.full((2, 16), float("nan"))])
def test_bad_rows_change_nothing(rows):
    model = build("llama", V)
    before = _snapshot(model)
    with pytest.raises(InvalidTableError, match="embed_tokens"):
        apply_rows(model, find_sites(model, V), extend_plan(V, V + 2), lambda table, site: rows, pad_row=_pad_row)
    _assert_unchanged(model, before)


class _Failing:
    """A callable that fails at its n-th call."""

    def __init__(self, function: object, at: int) -> None:
        self.function, self.left = function, at

    def __call__(self, *arguments: object) -> object:
        self.left -= 1
        if self.left < 0:
            raise MemoryError("injected")
        return self.function(*arguments)


@pytest.mark.parametrize("name", ["bart", "llama", "xlm_roberta"])
@pytest.mark.parametrize("which", ["rows", "pad"])
def test_a_failing_callback_changes_nothing(name, which):
    model = build(name, V, tied=False)
    before = _snapshot(model)
    plan = extend_plan(V, V + 10)
    rows = _Failing(_new_rows, at=1 if which == "rows" else 99)
    pad = _Failing(_pad_row, at=1 if which == "pad" else 99)
    with pytest.raises(MemoryError):
        apply_rows(model, find_sites(model, V), plan, rows, pad_row=pad, pad_to_multiple_of=64)
    _assert_unchanged(model, before)


@pytest.mark.parametrize("name", ["t5", "bart", "xlm_roberta", "t5gemma"])
@pytest.mark.parametrize("method", ["set_data", "set_attribute"])
def test_a_failure_at_any_write_is_taken_back(name, method, monkeypatch):
    """Fail at the first write, the second, and so on until a run goes through."""
    original = getattr(Journal, method)
    source_ids = np.roll(np.arange(V), 2)
    for at in range(200):
        model = build(name, V, tied=False)
        before = _snapshot(model)
        failing = _Failing(original, at)
        monkeypatch.setattr(Journal, method, lambda *arguments, failing=failing: failing(*arguments))
        try:
            _apply(model, replace_plan([*source_ids, -1], V))
        except MemoryError:
            _assert_unchanged(model, before)
            continue
        assert at >= 2
        assert model.get_input_embeddings().num_embeddings == V + 1
        return
    pytest.fail("no run went through")


def test_writes_are_taken_back_in_reverse_order():
    tensor, owner, journal = torch.zeros(2), nn.Module(), Journal()
    for value in (1, 2):
        journal.set_data(tensor, torch.full((value,), float(value)))
        journal.set_attribute(owner, "size", value)
    assert torch.equal(tensor, torch.full((2,), 2.0))
    journal.undo()
    assert torch.equal(tensor, torch.zeros(2))
    assert not hasattr(owner, "size")


def test_gradients_of_the_old_shape_are_dropped_and_training_goes_on():
    model = build("llama", V)
    model(input_ids=IDS).logits.sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    _apply(model, extend_plan(V, V + 10))
    weight = model.get_input_embeddings().weight
    assert weight.grad is None
    before = weight.detach().clone()
    model(input_ids=torch.tensor([[V + 1, V + 2]]), labels=torch.tensor([[V + 1, V + 2]])).loss.backward()
    optimizer.step()
    assert not torch.equal(weight[V:], before[V:])


@pytest.mark.parametrize("name", ["t5", "mt5", "longt5", "llama"])
def test_an_untied_head_survives_the_next_resize(name, tmp_path):
    """With the flag left at True, transformers would tie, and destroy, the head at the next resize."""
    model = build(name, V, tied=True)
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    assert model.config.tie_word_embeddings
    _apply(model, extend_plan(V, V + 10))
    assert model.config.tie_word_embeddings is False
    head = model.lm_head.weight.detach().clone()
    _assert_reloads_equal(model, tmp_path, False, V + 10)
    model.resize_token_embeddings(V + 20, mean_resizing=False)
    assert torch.equal(model.lm_head.weight[: V + 10], head)


@pytest.mark.parametrize("name", ["bert", "bart", "umt5"])
def test_an_untied_head_beside_other_ties_reloads(name, tmp_path):
    """Here the flag also ties a bias or the encoder, or scales the output: it must stay, and the head too."""
    model = build(name, V, tied=True)
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(torch.randn_like(head.weight))
    before = logits(model, IDS)
    _apply(model, extend_plan(V, V + 10))
    torch.testing.assert_close(logits(model, IDS)[..., :V], before, atol=1e-5, rtol=1e-5)
    _assert_reloads_equal(model, tmp_path, False, V + 10)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])
def test_a_head_tied_by_hand_stays_tied(name, tmp_path):
    model = build(name, V, tied=False)
    model.lm_head.weight = model.get_input_embeddings().weight
    _apply(model, extend_plan(V, V + 10))
    assert model.config.tie_word_embeddings is True
    assert model.lm_head.weight is model.get_input_embeddings().weight
    _assert_reloads_equal(model, tmp_path, True, V + 10)


def test_one_storage_under_two_parameters_stays_one():
    model = build("llama", V, tied=False)
    model.lm_head.weight = nn.Parameter(model.get_input_embeddings().weight.data)
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    _apply(model, extend_plan(V, V + 10))
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    assert model.lm_head.weight.shape[0] == V + 10


def test_the_description_is_plain_data():
    import json

    described = _apply(build("bart", V), extend_plan(V, V + 3))
    assert json.loads(json.dumps(described)) == described
    roles = {item["role"]: item for item in described}
    assert roles["input"]["shape"] == [V + 3, 16]
    assert "lm_head.weight" in roles["input"]["aliases"]
    assert roles["logits_bias"]["shape"] == [1, V + 3]
