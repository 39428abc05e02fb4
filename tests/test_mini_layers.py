"""Where layers are and what runs after them, against a parameter-by-parameter trial; what a record remembers."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from transformers import LlamaForCausalLM

from hf_vocab_extend.adaptation.mini_model.layers import find_layer_stack, set_layer_count
from hf_vocab_extend.adaptation.mini_model.record import MiniRecord, read_record, table_hashes, write_record
from hf_vocab_extend.adaptation.tables import vocabulary_tables
from hf_vocab_extend.errors import UnsupportedModelError
from hf_vocab_extend.surgery.factorize import factorize_embeddings

from .mini_models import deep, seen_states
from .models import build

STACKS = {
    "bert": ("bert.encoder.layer", "num_hidden_layers", ("cls.predictions.transform",)),
    "xlm_roberta": ("roberta.encoder.layer", "num_hidden_layers", ("lm_head.dense", "lm_head.layer_norm")),
    "distilbert": ("distilbert.transformer.layer", "n_layers", ("vocab_transform", "vocab_layer_norm")),
    "modernbert": ("model.layers", "num_hidden_layers", ("model.final_norm", "head")),
    "gpt2": ("transformer.h", "n_layer", ("transformer.ln_f",)),
    "gemma2": ("model.layers", "num_hidden_layers", ("model.norm",)),
    "opt": (
        "model.decoder.layers",
        "num_hidden_layers",
        ("model.decoder.project_out", "model.decoder.final_layer_norm"),
    ),
    "xlnet": ("transformer.layer", "n_layer", ()),
    "bert_body": ("encoder.layer", "num_hidden_layers", ()),
}
IDS = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(1))


def last_states_and_logits(model, layers):
    seen = seen_states(model, layers, IDS)
    return seen.states[-1], seen.output.logits


@pytest.mark.parametrize("name", STACKS)
def test_the_list_the_field_and_what_follows_are_found(name):
    model = deep(name, 3)
    stack = find_layer_stack(model)
    assert (stack.path, stack.count_field, stack.after) == STACKS[name]
    assert stack.modules is model.get_submodule(stack.path)
    assert stack.n_layers == 3


@pytest.mark.parametrize(("name", "tied"), [("modernbert", True), ("opt", False), ("electra", False)])
def test_what_follows_is_what_moves_the_logits_and_not_the_last_states(name, tied):
    model = deep(name, 1, tied=tied)
    stack = find_layer_stack(model)
    tables = {id(table.parameter) for table in vocabulary_tables(model)}
    states, before = last_states_and_logits(model, stack.modules)
    expected = set()
    for path, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        parameter.data = kept + 0.5 * torch.randn(kept.shape, generator=torch.Generator().manual_seed(2))
        moved_states, moved = last_states_and_logits(model, stack.modules)
        parameter.data = kept
        if torch.equal(moved_states, states) and not torch.equal(moved, before) and id(parameter) not in tables:
            expected.add(path)
    inside = {path for path, _ in model.named_parameters() if path.startswith(tuple(f"{at}." for at in stack.after))}
    assert inside == expected
    assert expected


@pytest.mark.parametrize("name", ["modernbert", "gpt2", "gemma3", "xlm_roberta"])
def test_a_model_without_data_has_the_same_stack(name):
    model = deep(name)
    with torch.device("meta"):
        twin = type(model)(copy.deepcopy(model.config))
        found = find_layer_stack(twin)
    stack = find_layer_stack(model)
    assert (found.path, found.count_field, found.after) == (stack.path, stack.count_field, stack.after)


def test_looking_changes_nothing():
    model = deep("bert").train()
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 3 == 0)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    fields, values = model.config.to_dict(), {name: item.clone() for name, item in model.state_dict().items()}
    generator = torch.get_rng_state()
    with torch.no_grad():
        find_layer_stack(model)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(module.training for module in model.modules())
    assert model.config.to_dict() == fields
    assert all(torch.equal(item, values[name]) for name, item in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("albert", "uses one layer many times"),
        ("t5", "an encoder's and a decoder's"),
        ("bart", "an encoder's and a decoder's"),
        ("t5gemma", "an encoder's and a decoder's"),
        ("xlm", "lie in 4 lists"),
        ("funnel", "states no number of layers"),
        ("mllama", r"ran in the order \[0\]"),
    ],
)
def test_a_model_whose_layers_cannot_be_cut_is_refused_with_the_reason(name, reason):
    with pytest.raises(UnsupportedModelError, match=reason):
        find_layer_stack(build(name))


def test_layers_that_share_weights_are_refused():
    model = deep("llama", 3)
    model.model.layers[2].mlp = model.model.layers[0].mlp
    with pytest.raises(UnsupportedModelError, match="Layers 0 and 2 of LlamaForCausalLM"):
        find_layer_stack(model)


def test_other_objects_are_refused():
    with pytest.raises(UnsupportedModelError, match="not a transformers model"):
        find_layer_stack(torch.nn.Linear(2, 2))
    model = deep("llama")
    model.config.quantization_config = {"quant_method": "bitsandbytes"}
    with pytest.raises(UnsupportedModelError, match="quantised"):
        find_layer_stack(model)


def test_a_class_that_its_config_does_not_build_is_refused():
    class NeedsMore(LlamaForCausalLM):
        def __init__(self, config, extra):
            super().__init__(config)
            self.extra = extra

    model = NeedsMore(deep("llama").config, 1)
    with pytest.raises(UnsupportedModelError, match="cannot be built from its config"):
        find_layer_stack(model)


def test_lists_of_one_entry_a_layer_follow_the_count_and_others_stay():
    config = deep("gemma3", 7).config
    types = list(config.layer_types)
    config.eos_token_id = list(range(7))
    set_layer_count(config, 3)
    assert (config.num_hidden_layers, config.layer_types, len(config.eos_token_id)) == (3, types[:3], 7)
    set_layer_count(config, 5)
    assert config.layer_types == [*types[:3], types[2], types[2]]


def test_hashes_tell_tables_apart_and_ignore_the_precision():
    model = deep("bert", 1, tied=False)
    hashes = table_hashes(model)
    assert set(hashes) == {"input", "head", "bias"}
    assert table_hashes(copy.deepcopy(model).to(torch.bfloat16)) == hashes
    with torch.no_grad():
        model.get_output_embeddings().weight[-1, -1] += 0.1
        model.bert.encoder.layer[0].output.dense.weight += 1
    changed = table_hashes(model)
    assert [role for role in hashes if hashes[role] != changed[role]] == ["head"]


def test_both_factors_of_a_table_are_hashed():
    model = deep("llama", 1)
    factorize_embeddings(model, 4)
    before = table_hashes(model)
    with torch.no_grad():
        model.get_input_embeddings().projection[0, 0] += 1
    assert table_hashes(model)["input"] != before["input"]


def test_a_record_is_plain_data_and_reads_back():
    model = deep("gpt2", 1)
    assert read_record(model) is None
    record = MiniRecord.of(model, "post", 1, 0)
    model.config.mini_model = {"other": 1}
    assert read_record(model) is None
    write_record(model, record)
    assert json.loads(json.dumps(model.config.mini_model))["other"] == 1
    assert read_record(model) == record
    assert (record.source_vocab_size, record.width, record.primary) == (97, 16, None)
    del model.config.mini_model["width"]
    with pytest.raises(UnsupportedModelError, match="lacks width"):
        read_record(model)


def test_a_model_without_data_has_no_hashes():
    with torch.device("meta"):
        model = deep("gpt2", 1)
    with pytest.raises(UnsupportedModelError, match="meta device"):
        table_hashes(model)
