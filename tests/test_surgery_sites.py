"""The scanner finds all that is indexed by tokens, nothing else, and refuses what it cannot place."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import FSMTConfig, FSMTForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from hf_vocab_extend.errors import InvalidTableError, TokenizerMismatchError, UnsupportedModelError
from hf_vocab_extend.surgery.config_tree import all_configs, text_configs
from hf_vocab_extend.surgery.sites import Sites, find_sites

from .models import ALWAYS_TIED, BODIES, NESTED, SPECS, build

V = 97  # prime, and the size of nothing else in the tiny models
CASES = [(name, tied) for name in [*SPECS, *NESTED] for tied in (True, False) if tied or name not in BODIES]
NEVER_TIED = {"rembert", "mllama"}


pytestmark = pytest.mark.usefixtures("one_thread")


def _names(sites: Sites) -> set[str]:
    return {alias.name for site in sites for alias in site.aliases}


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_every_vocabulary_sized_tensor_is_found_and_nothing_else(name, tied):
    model = build(name, V, tied)
    sites = find_sites(model, V)
    lengths = {V, V + 8, V - 5} if name in ("mllama", "gemma3n_text") else {V}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    assert _names(sites) == {key for key, tensor in tensors if lengths & set(tensor.shape)}
    assert sites.input.tensor is model.get_input_embeddings().weight
    assert sites.n_rows == model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_ties_are_judged_by_storage(name, tied):
    model = build(name, V, tied)
    sites = find_sites(model, V)
    head = model.get_output_embeddings()
    if head is None:
        assert not sites.tied
        return
    same = head.weight.data_ptr() in {
        module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)
    }
    assert sites.tied == same == (tied and name not in NEVER_TIED)
    assert sites.head is not None
    assert head.weight.data_ptr() in {alias.tensor.data_ptr() for alias in sites.head.aliases}


@pytest.mark.parametrize("name", sorted(ALWAYS_TIED))
def test_the_flag_of_the_t5_family_is_not_believed(name):
    model = build(name, V, tied=False)
    assert model.config.tie_word_embeddings
    assert not find_sites(model, V).tied


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "opt", "t5", "bart", "albert"])
def test_equal_sizes_by_coincidence_are_told_apart(name):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "max_position_embeddings": 32}
    by_type = {
        "gpt2": {"n_embd": 32, "n_positions": 32, "n_inner": 32},
        "t5": {"d_model": 32, "d_ff": 32},
        "bart": {"d_model": 32, "encoder_ffn_dim": 32, "max_position_embeddings": 32},
        "opt": {**sizes, "ffn_dim": 32, "word_embed_proj_dim": 32},
        "albert": {**sizes, "embedding_size": 32},
    }
    options = by_type.get(name, sizes)
    for tied in (True, False):
        expected = _names(find_sites(build(name, V, tied, **options), V))
        assert _names(find_sites(build(name, 32, tied, **options), 32)) == expected


class _Unprobeable(LlamaForCausalLM):
    """Its constructor needs values, as custom code may."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        float(self.lm_head.weight.detach().sum())


def _llama(cls: type[LlamaForCausalLM] = LlamaForCausalLM, **options: object) -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return cls(LlamaConfig(**{"vocab_size": V, **sizes, **options}))


@pytest.mark.parametrize("sizes", [{}, {"intermediate_size": V}])
def test_a_model_that_cannot_be_probed_is_judged_by_name(sizes):
    sites = find_sites(_llama(_Unprobeable, **sizes), V)
    assert _names(sites) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert not sites.tied


class _HashRouter(LlamaForCausalLM):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model.layers[0].mlp.register_buffer("tid2eid", torch.zeros(config.vocab_size, 2, dtype=torch.long))


class _Unknown(LlamaForCausalLM):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.token_weights = nn.Parameter(torch.ones(config.vocab_size))


class _UnknownUnprobeable(_Unprobeable):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.token_weights = nn.Parameter(torch.ones(config.vocab_size))


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (_HashRouter, "model.layers.0.mlp.tid2eid"),
        (_Unknown, "token_weights"),
        (_UnknownUnprobeable, "token_weights"),
    ],
)
def test_an_unknown_tensor_is_refused_by_name(cls, name):
    with pytest.raises(UnsupportedModelError, match=name):
        find_sites(_llama(cls), V)


def test_more_tokens_than_rows_names_both_numbers():
    with pytest.raises(TokenizerMismatchError, match=r"more tokens than the model has rows.*99.*97"):
        find_sites(_llama(), 100)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("name", "tensor", "rows"),
    [("llama", "model.embed_tokens.weight", r"2 rows \(3, 11\)"), ("phi", "lm_head.bias", r"2 rows \(3, 11\)")],
)
def test_values_that_are_no_numbers_are_refused_with_their_rows(name, tensor, rows, value):
    model = build(name, V, tied=False)
    model.get_parameter(tensor).data[[3, 11]] = value
    with pytest.raises(InvalidTableError, match=f"{tensor}.*{rows}"):
        find_sites(model, V)


def _on_meta(model: LlamaForCausalLM) -> object:
    return model.to("meta")


def _quantiser(model: LlamaForCausalLM) -> object:
    model.hf_quantizer = object()
    return model


def _quantised_config(model: LlamaForCausalLM) -> object:
    model.config.quantization_config = {"quant_method": "gptq"}
    return model


def _int8(model: LlamaForCausalLM) -> object:
    weight = model.model.embed_tokens.weight.detach()
    model.model.embed_tokens.weight = nn.Parameter(weight.to(torch.int8), requires_grad=False)
    return model


def _float8(model: LlamaForCausalLM) -> object:
    weight = model.lm_head.weight.detach()
    model.lm_head.weight = nn.Parameter(weight.to(torch.float8_e4m3fn), requires_grad=False)
    return model


def _zero3(model: LlamaForCausalLM) -> object:
    model.model.embed_tokens.weight.ds_shape = (V, 16)
    return model


class DTensor(torch.Tensor):
    """Stands for torch's class of the same name, which needs a process group."""


def _dtensor(model: LlamaForCausalLM) -> object:
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().as_subclass(DTensor))
    return model


def _adapter(model: LlamaForCausalLM) -> object:
    model._hf_peft_config_loaded = True
    return model


def _parametrised(model: LlamaForCausalLM) -> object:
    nn.utils.parametrizations.weight_norm(model.model.embed_tokens)
    return model


def _no_transformer(model: LlamaForCausalLM) -> object:
    return nn.Sequential(model)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_on_meta, "meta device.*Load the model on the CPU"),
        (_quantiser, "quantised.*quantise the result"),
        (_quantised_config, "quantised"),
        (_int8, "embed_tokens.*int8"),
        (_float8, "lm_head.*float8"),
        (_zero3, "embed_tokens.*one process"),
        (_dtensor, "lm_head.*DTensor.*one process"),
        (_adapter, "adapter"),
        (_parametrised, "without a plain weight"),
        (_no_transformer, "Sequential is not a transformers model"),
    ],
)
def test_tables_that_are_not_plain_are_refused_with_a_remedy(spoil, message):
    with pytest.raises(UnsupportedModelError, match=message):
        find_sites(spoil(_llama()), V)


def test_two_vocabularies_are_refused():
    shape = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    model = FSMTForConditionalGeneration(FSMTConfig(src_vocab_size=V, tgt_vocab_size=V + 4, **shape, **heads))
    with pytest.raises(UnsupportedModelError, match="vocab_size"):
        find_sites(model, V)


def test_marian_with_separate_vocabularies_is_refused():
    with pytest.raises(UnsupportedModelError, match="decoder_vocab_size"):
        find_sites(build("marian", V, tied=False, share_encoder_decoder_embeddings=False), V)


def test_scanning_changes_neither_the_model_nor_the_random_state():
    model = build("t5", V)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, state = model.config.to_dict(), torch.random.get_rng_state()
    find_sites(model, V)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == config
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_equal_count_of_another_modality_is_not_taken_for_the_vocabulary():
    model = build("gemma3_multimodal", V)
    model.config.vision_config.vocab_size = V
    configs = text_configs(all_configs(model), V)
    assert any(config is model.config.text_config for config in configs)
    assert not any(config is model.config.vision_config for config in configs)
