"""Mini-models: what is shared and what is not, against layers cut by hand; saved, extended, trained; bad input."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from hf_vocab_extend import bits_per_byte, extend_vocabulary
from hf_vocab_extend.adaptation.mini_model.alignment import check_alignment
from hf_vocab_extend.adaptation.mini_model.building import build_mini_model, check_same_states
from hf_vocab_extend.adaptation.mini_model.layers import find_layer_stack, set_layer_count
from hf_vocab_extend.adaptation.mini_model.record import bottom_moved, read_record, table_hashes
from hf_vocab_extend.errors import BaseModelMismatchError, InvalidOptionError, UnsupportedModelError
from hf_vocab_extend.prepare import ROWS_IN_USE
from hf_vocab_extend.surgery.factorize import factorize_embeddings

from .factories import bert_uncased_like, english, llama3_like, swahili, tokenizer, xlmr_like
from .mini_models import computed_in_bfloat16, deep, seen_states
from .models import build, logits

MODELS = [
    ("bert", True),
    ("roberta", False),
    ("xlm_roberta", True),
    ("distilbert", True),
    ("electra", True),
    ("deberta_v2", False),
    ("modernbert", True),
    ("llama", False),
    ("gpt2", True),
    ("qwen2", True),
    ("gemma2", True),
    ("gemma3", False),
    ("xlnet", True),
    pytest.param("bert_body", True, marks=pytest.mark.filterwarnings("ignore:A BertModel has no head")),
]
IDS = torch.randint(5, 90, (2, 7), generator=torch.Generator().manual_seed(1))


def values_of(model):
    return {name: item.detach().clone() for name, item in model.state_dict().items()}


def same_values(model, before):
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(item, before[name]) for name, item in now.items())


def cut_by_hand(model, n_layers):
    """A copy of the model whose list has only its first layers."""
    cut = copy.deepcopy(model)
    path = find_layer_stack(model).path
    above, _, name = path.rpartition(".")
    set_layer_count(cut.config, n_layers)
    setattr(cut.get_submodule(above), name, cut.get_submodule(path)[:n_layers])
    if hasattr(cut.get_submodule(above), "n_layers"):
        cut.get_submodule(above).n_layers = n_layers
    return cut


@pytest.mark.parametrize(("name", "tied"), MODELS)
def test_the_bottom_is_shared_and_the_top_is_its_own(name, tied, tmp_path):
    model = deep(name, tied=tied)
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 0)
    flags = {path: parameter.requires_grad for path, parameter in model.named_parameters()}
    stack, before, fields = find_layer_stack(model), values_of(model), model.config.to_dict()

    mini = build_mini_model(model, 2, 1)

    assert type(mini) is type(model)
    assert {path: parameter.requires_grad for path, parameter in model.named_parameters()} == flags
    assert same_values(model, before)
    assert model.config.to_dict() == fields
    sources = dict(model.named_parameters(remove_duplicate=False))
    for path, parameter in mini.named_parameters(remove_duplicate=False):
        is_new = path.startswith(f"{stack.path}.2.")
        is_after = path.startswith(tuple(f"{part}." for part in stack.after))
        assert parameter is not sources[path]
        assert (parameter.data_ptr() == sources[path].data_ptr()) is not (is_new or is_after), path
        assert parameter.requires_grad is (is_new or is_after), path
        assert is_new or torch.equal(parameter, sources[path]), path
    own, full = mini.get_submodule(stack.path), seen_states(model, stack.modules, IDS)
    cut = seen_states(mini, own, IDS)
    assert len(own) == 3
    assert all(torch.equal(left, right) for left, right in zip(cut.states[:2], full.states[:2], strict=True))
    assert not torch.equal(cut.states[2], full.states[2])

    mini.save_pretrained(tmp_path)
    again = type(mini).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, IDS), logits(mini, IDS))
    assert read_record(again) == read_record(mini)
    assert (read_record(mini).kind, read_record(mini).bottom_layers, read_record(mini).new_layers) == ("post", 2, 1)
    assert table_hashes(again) == read_record(mini).source_tables == table_hashes(model)


@pytest.mark.parametrize("name", ["bert", "gpt2", "gemma3"])
def test_bottom_layers_are_known_again_and_moved_ones_found_out(name, tmp_path):
    model = deep(name)
    mini = build_mini_model(model, 2, 1)
    record, layers = read_record(mini), find_layer_stack(model).modules
    mini.save_pretrained(tmp_path)
    for dtype in (torch.float32, torch.bfloat16):
        again = type(mini).from_pretrained(tmp_path, dtype=dtype)
        assert not bottom_moved(again, read_record(again))
    assert not bottom_moved(copy.deepcopy(model).to(torch.bfloat16), record)
    last = [next(layers[index].parameters()) for index in (2, 1)]
    with torch.no_grad():
        last[0].flatten()[-1] += 1
        next(mini.get_submodule(record.layers_path)[2].parameters()).add_(1)
        model.get_input_embeddings().weight[3] += 1
    assert not bottom_moved(model, record)
    assert not bottom_moved(mini, record)
    with torch.no_grad():
        last[1].flatten()[-1] += 1
    assert bottom_moved(model, record)
    assert bottom_moved(mini, record)  # one storage
    assert not bottom_moved(mini, dataclasses.replace(record, layers_path=None, bottom_hash=None))
    for field in ("layers_path", "bottom_hash"):  # a record of before
        del mini.config.mini_model[field]
    assert read_record(mini).bottom_hash is None


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert", "gpt2", "gemma3"])
def test_without_new_layers_it_is_the_model_cut_by_hand(name):
    model = deep(name)
    expected = logits(cut_by_hand(model, 2), IDS)
    assert torch.equal(logits(build_mini_model(model, 2, 0), IDS), expected)
    assert torch.equal(logits(build_mini_model(model, 4, 0), IDS), logits(model, IDS))


def test_a_model_that_a_trainer_computed_in_bfloat16_is_cut_in_its_own_type():
    model = deep("llama")
    plain = build_mini_model(model, 2, 1)
    computed_in_bfloat16(model)
    before = vars(model)["forward"]
    mini = build_mini_model(model, 2, 1)
    assert vars(model)["forward"] is before, "the wrapper is the caller's: it stays"
    ids = torch.arange(5, 13)[None]
    assert torch.equal(logits(mini, ids), logits(plain, ids))


def test_new_layers_begin_as_the_class_begins_by_the_seed_alone():
    model = deep("gpt2", 3, n_embd=64)
    state = torch.get_rng_state()
    one = build_mini_model(model, 1, 2, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    other, third = build_mini_model(model, 1, 2, seed=5), build_mini_model(model, 1, 2, seed=6)
    assert same_values(other, values_of(one))
    layer, rival = one.transformer.h[1], third.transformer.h[1]
    assert not torch.equal(layer.mlp.c_fc.weight, rival.mlp.c_fc.weight)
    assert not torch.equal(layer.mlp.c_fc.weight, one.transformer.h[2].mlp.c_fc.weight)
    assert layer.mlp.c_fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.mlp.c_proj.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)  # GPT-2 scales by the depth
    assert (layer.ln_1.weight == 1).all()
    assert (layer.mlp.c_fc.bias == 0).all()


def test_layers_of_several_kinds_keep_their_places(tmp_path):
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    model = deep("gemma3", 5, layer_types=kinds, sliding_window=3)
    mini = build_mini_model(model, 2, 2)
    assert mini.config.layer_types == kinds[:4]
    assert [layer.self_attn.is_sliding for layer in mini.model.layers] == [True, False, True, False]
    mini.save_pretrained(tmp_path)
    assert torch.equal(logits(type(mini).from_pretrained(tmp_path).eval(), IDS), logits(mini, IDS))


def test_only_the_text_layers_of_a_model_that_sees_are_cut(tmp_path):
    config = build("gemma3_multimodal").config
    set_layer_count(config, 3)
    model = type(build("gemma3_multimodal"))(config).eval()
    mini = build_mini_model(model, 1, 1)
    assert (mini.config.text_config.num_hidden_layers, mini.config.vision_config.num_hidden_layers) == (2, 1)
    trained = {name for name, parameter in mini.named_parameters() if parameter.requires_grad}
    assert all(name.startswith(("model.language_model.layers.1.", "model.language_model.norm.")) for name in trained)
    mini.save_pretrained(tmp_path)
    assert torch.equal(logits(type(mini).from_pretrained(tmp_path).eval(), IDS), logits(mini, IDS))


@pytest.mark.parametrize(("name", "tied"), [("bert", True), ("llama", False)])
def test_factorised_tables_are_shared_with_both_factors(name, tied, tmp_path):
    model = deep(name, tied=tied)
    factorize_embeddings(model, 6)
    mini = build_mini_model(model, 2, 1)
    table, source = mini.get_input_embeddings(), model.get_input_embeddings()
    for attribute in ("weight", "projection"):
        assert getattr(table, attribute).data_ptr() == getattr(source, attribute).data_ptr()
        assert not getattr(table, attribute).requires_grad
    mini.save_pretrained(tmp_path)
    assert torch.equal(logits(type(mini).from_pretrained(tmp_path).eval(), IDS), logits(mini, IDS))


def test_mode_precision_and_what_no_tensor_holds_are_kept():
    model = deep("llama").to(torch.bfloat16).train()
    model.generation_config.max_new_tokens = 17
    setattr(model, ROWS_IN_USE, 90)
    model.config.mini_model = {"plugged": {"of": "another"}}
    mini = build_mini_model(model, 2, 1)
    assert mini.training
    assert {parameter.dtype for parameter in mini.parameters()} == {torch.bfloat16}
    assert mini.generation_config.max_new_tokens == 17
    assert mini.generation_config is not model.generation_config
    assert getattr(mini, ROWS_IN_USE) == 90
    assert "plugged" not in mini.config.mini_model
    assert model.config.mini_model == {"plugged": {"of": "another"}}


EXTENDED = {
    "bert": (lambda: tokenizer("bert-uncased"), lambda: bert_uncased_like(200, swahili(80))),
    "xlm_roberta": (lambda: tokenizer("xlmr"), lambda: xlmr_like(200, swahili(80))),
    "llama": (lambda: tokenizer("llama3"), lambda: llama3_like(400, swahili(80))),
}


@pytest.mark.parametrize(("name", "mode"), [*((name, "replace") for name in EXTENDED), ("llama", "extend")])
def test_another_vocabulary_leaves_the_full_model_as_it_was(name, mode):
    own, new = (make() for make in EXTENDED[name])
    ids = {f"{role}_token_id": getattr(own, f"{role}_token_id") for role in ("pad", "bos", "eos")}
    model = deep(name, 3, vocab_size=len(own), **ids)
    before, fields, expected = values_of(model), model.config.to_dict(), logits(model, IDS)
    mini = build_mini_model(model, 1, 1)
    result = extend_vocabulary(mini, new, "subword", tokenizer=own, mode=mode)
    rows = result.model.get_input_embeddings().weight
    assert len(rows) != len(model.get_input_embeddings().weight)
    assert rows.data_ptr() != model.get_input_embeddings().weight.data_ptr()
    assert same_values(model, before)
    assert model.config.to_dict() == fields
    assert torch.equal(logits(model, IDS), expected)
    assert read_record(result.model).source_tables == table_hashes(model)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_training_it_moves_nothing_that_is_shared(name):
    model = deep(name, 3)
    before = values_of(model)
    mini = build_mini_model(model, 1, 1).train()
    start = values_of(mini)
    optimizer = torch.optim.AdamW(mini.parameters(), lr=1e-2, weight_decay=0.1)
    mini(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert same_values(model, before)
    moved = {path for path, item in mini.named_parameters() if not torch.equal(item, start[path])}
    assert moved == {path for path, item in mini.named_parameters() if item.requires_grad}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"num_layers": -1}, "num_layers is -1"),
        ({"num_layers": 2.0}, "num_layers is 2.0"),
        ({"num_layers": True}, "num_layers is True"),
        ({"num_layers": 1, "new_layers": -1}, "new_layers is -1"),
        ({"num_layers": 1, "new_layers": 1, "seed": -3}, "seed is -3"),
        ({"num_layers": 5, "new_layers": 0}, "the model has 4"),
        ({}, "make 6 layers, and the model has 4"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        build_mini_model(deep("gpt2"), **options)


def test_a_model_without_data_is_refused():
    with torch.device("meta"):
        model = type(deep("gpt2"))(deep("gpt2").config)
    with pytest.raises(UnsupportedModelError, match="meta device"):
        build_mini_model(model, 1, 1)


def test_tensors_that_follow_the_number_of_layers_are_refused():
    with pytest.raises(UnsupportedModelError, match=r"contact_head.regression.weight \(1, 6\) \(here \(1, 8\)\)"):
        build_mini_model(deep("esm"), 2, 1)
    with pytest.raises(UnsupportedModelError, match="embed_tokens_per_layer"):
        build_mini_model(build("gemma3n_text"), 1, 0)


class DepthConfig(LlamaConfig):
    """States the number of layers a second time."""

    model_type = "depth"
    depth: int = 4

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.depth != self.num_hidden_layers:
            raise ValueError(f"depth is {self.depth}")


class Scaled(LlamaForCausalLM):
    """Its first layer depends on how many there are."""

    def __init__(self, config):
        super().__init__(config)
        self.model.layers[0].input_layernorm.variance_epsilon = 1.0 / config.num_hidden_layers


def of_class(kind, config):
    return kind(config).eval()


def test_a_config_that_is_not_read_back_is_refused():
    fields = {key: value for key, value in deep("llama").config.to_dict().items() if key != "model_type"}
    with pytest.raises(UnsupportedModelError, match=r"not read back as it is saved \(depth is 4\)"):
        build_mini_model(of_class(LlamaForCausalLM, DepthConfig(**fields, depth=4)), 2, 1)


def test_layers_that_depend_on_their_number_are_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"After layer 1 of 2 the states of the cut Scaled differ .* up to"
    ):
        build_mini_model(of_class(Scaled, deep("llama").config), 2, 1)


def test_a_class_that_leaves_a_weight_without_value_is_refused(monkeypatch):
    model, whole = deep("llama"), LlamaModel._init_weights

    def without_norms(self, module):
        if "RMSNorm" not in type(module).__name__:
            whole(self, module)

    monkeypatch.setattr(LlamaModel, "_init_weights", without_norms)
    with pytest.raises(UnsupportedModelError, match=r"does not say how 0.input_layernorm.weight, .*\(2 of its"):
        build_mini_model(model, 2, 1)


def test_states_are_compared_layer_by_layer():
    model = deep("llama")
    mini = build_mini_model(model, 2, 1)
    weight = mini.model.layers[1].mlp.down_proj.weight
    weight.data = weight.data.clone()
    check_same_states(model, model.model.layers, mini, mini.model.layers, 2)
    weight.data[0] += 1e-3
    check_same_states(model, model.model.layers, mini, mini.model.layers, 1)
    with pytest.raises(UnsupportedModelError, match="After layer 2 of 2"):
        check_same_states(model, model.model.layers, mini, mini.model.layers, 2)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_alignment_is_the_difference_of_two_measures(name):
    own, texts = EXTENDED[name][0](), english(4)
    model = deep(name, 3, vocab_size=len(own))
    mini = build_mini_model(model, 1, 1)
    found = check_alignment(mini, model, own, texts, max_length=32)
    parts = [bits_per_byte(each, own, texts, max_length=32).bits_per_byte for each in (mini, model)]
    assert (found.mini.bits_per_byte, found.full.bits_per_byte) == tuple(parts)
    assert found.gap == parts[0] - parts[1]
    assert found.to_dict()["ratio"] == parts[0] / parts[1]
    whole = check_alignment(build_mini_model(model, 3, 0), model, own, texts, max_length=32)
    assert whole.gap == 0


def test_alignment_wants_a_mini_model_and_its_own_model(tmp_path):
    own = tokenizer("llama3")
    model = deep("llama", 2, vocab_size=len(own))
    mini = build_mini_model(model, 1, 1)
    mini.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert check_alignment(loaded, model, own, english(1)).gap == check_alignment(mini, model, own, english(1)).gap
    with pytest.raises(UnsupportedModelError, match="names no full model"):
        check_alignment(model, mini, own, english(1))
    with pytest.raises(BaseModelMismatchError, match="a LlamaForCausalLM and the other a GPT2LMHeadModel"):
        check_alignment(mini, deep("gpt2", 2), own, english(1))
    with torch.no_grad():
        model.get_input_embeddings().weight[0, 0] += 1
    with pytest.raises(BaseModelMismatchError, match="differ \\(input\\)"):
        check_alignment(loaded, model, own, english(1))
