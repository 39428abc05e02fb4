"""Tiny real models of many architectures, with random biases, so that a row in the wrong place shows."""

from __future__ import annotations

import torch
import transformers
from transformers import PreTrainedModel

_ENCODER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
_DECODER = {**_ENCODER, "num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
_GPT = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 40, "bos_token_id": 1, "eos_token_id": 2}
_MOE = {**_DECODER, "num_local_experts": 2, "num_experts_per_tok": 1}
_BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_T5 = {
    "d_model": 16,
    "d_ff": 24,
    "d_kv": 8,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_ROBERTA = {**_ENCODER, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_DISTIL = {
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 1,
    "n_heads": 2,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}

Spec = tuple[str, str, dict]
ENCODERS: dict[str, Spec] = {
    "bert": ("BertForMaskedLM", "BertConfig", _ENCODER),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", _ROBERTA),
    "xlm_roberta": ("XLMRobertaForMaskedLM", "XLMRobertaConfig", _ROBERTA),
    "camembert": ("CamembertForMaskedLM", "CamembertConfig", _ROBERTA),
    "distilbert": ("DistilBertForMaskedLM", "DistilBertConfig", _DISTIL),
    "albert": ("AlbertForMaskedLM", "AlbertConfig", {**_ENCODER, "embedding_size": 12}),
    "electra": ("ElectraForMaskedLM", "ElectraConfig", {**_ENCODER, "embedding_size": 12}),
    "deberta_v2": ("DebertaV2ForMaskedLM", "DebertaV2Config", _ENCODER),
    "modernbert": ("ModernBertForMaskedLM", "ModernBertConfig", {**_ENCODER, "global_attn_every_n_layers": 1}),
    "mpnet": ("MPNetForMaskedLM", "MPNetConfig", {**_ENCODER, "pad_token_id": 1}),
    "mobilebert": (
        "MobileBertForMaskedLM",
        "MobileBertConfig",
        {**_ENCODER, "embedding_size": 12, "intra_bottleneck_size": 16, "true_hidden_size": 16},
    ),
    "rembert": (
        "RemBertForMaskedLM",
        "RemBertConfig",
        {**_ENCODER, "input_embedding_size": 12, "output_embedding_size": 20},
    ),
    "esm": ("EsmForMaskedLM", "EsmConfig", {**_ENCODER, "pad_token_id": 1, "mask_token_id": 3}),
    "funnel": (
        "FunnelForMaskedLM",
        "FunnelConfig",
        {"block_sizes": [1], "num_decoder_layers": 1, "d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 24},
    ),
    "xlnet": ("XLNetLMHeadModel", "XLNetConfig", {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 24}),
    "xlm": (
        "XLMWithLMHeadModel",
        "XLMConfig",
        {"emb_dim": 16, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 40},
    ),
    "bert_body": ("BertModel", "BertConfig", _ENCODER),
    "mpnet_body": ("MPNetModel", "MPNetConfig", {**_ENCODER, "pad_token_id": 1}),
    "xlm_roberta_body": ("XLMRobertaModel", "XLMRobertaConfig", _ROBERTA),
}
"""Name to model class, config class and options of models that read text and write nothing."""

DECODERS: dict[str, tuple[str, str, dict]] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]},
    ),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", {**_GPT, "rotary_dim": 4}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _ENCODER),
    "gpt_bigcode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", _GPT),
    "codegen": ("CodeGenForCausalLM", "CodeGenConfig", {**_GPT, "n_embd": 32, "n_head": 4, "rotary_dim": 4}),
    "opt": ("OPTForCausalLM", "OPTConfig", {**_ENCODER, "ffn_dim": 24, "word_embed_proj_dim": 12, "pad_token_id": 1}),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"hidden_size": 16, "n_layer": 1, "n_head": 2}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER),
    "mistral": ("MistralForCausalLM", "MistralConfig", _DECODER),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _MOE),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _DECODER),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _DECODER),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _DECODER),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _DECODER),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _DECODER),
    "phi": ("PhiForCausalLM", "PhiConfig", _DECODER),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _DECODER),
    "falcon": ("FalconForCausalLM", "FalconConfig", _ENCODER),
    "mpt": ("MptForCausalLM", "MptConfig", {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 40}),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", _DECODER),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _DECODER),
    "cohere": ("CohereForCausalLM", "CohereConfig", _DECODER),
    "granite": ("GraniteForCausalLM", "GraniteConfig", _DECODER),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", _DECODER),
    "xglm": ("XGLMForCausalLM", "XGLMConfig", {"d_model": 16, "ffn_dim": 24, "num_layers": 1, "attention_heads": 2}),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", _DECODER),
    "nemotron": ("NemotronForCausalLM", "NemotronConfig", _DECODER),
    "mamba": ("MambaForCausalLM", "MambaConfig", {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}),
}
"""Name to model class, config class and options of models that continue text."""

SEQ2SEQ: dict[str, tuple[str, str, dict]] = {
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config", _T5),
    "umt5": ("UMT5ForConditionalGeneration", "UMT5Config", _T5),
    "longt5": ("LongT5ForConditionalGeneration", "LongT5Config", {**_T5, "local_radius": 3}),
    "bart": ("BartForConditionalGeneration", "BartConfig", _BART),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", _BART),
    "m2m_100": ("M2M100ForConditionalGeneration", "M2M100Config", _BART),
    "marian": ("MarianMTModel", "MarianConfig", {**_BART, "decoder_start_token_id": 1}),
    "pegasus": ("PegasusForConditionalGeneration", "PegasusConfig", {**_BART, "pad_token_id": 0}),
    "led": (
        "LEDForConditionalGeneration",
        "LEDConfig",
        {
            **{name: value for name, value in _BART.items() if name != "max_position_embeddings"},
            "max_encoder_position_embeddings": 40,
            "max_decoder_position_embeddings": 40,
            "attention_window": [4],
        },
    ),
    "blenderbot": ("BlenderbotForConditionalGeneration", "BlenderbotConfig", _BART),
    "plbart": ("PLBartForConditionalGeneration", "PLBartConfig", _BART),
}
"""Name to model class, config class and options of models with an encoder and a decoder."""

SPECS = {**ENCODERS, **DECODERS, **SEQ2SEQ}


def _gemma3_multimodal(vocab_size: int, tied: bool) -> transformers.PretrainedConfig:
    text = {**_DECODER, "vocab_size": vocab_size}
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.Gemma3Config(
        text_config=text,
        vision_config={**vision, "image_size": 8, "patch_size": 4},
        mm_tokens_per_image=4,
        image_token_id=4,
        tie_word_embeddings=tied,
    )


def _gemma3n_text(vocab_size: int, tied: bool) -> transformers.PretrainedConfig:
    return transformers.Gemma3nTextConfig(
        **{**_DECODER, "num_hidden_layers": 2, "intermediate_size": [24, 24]},
        vocab_size=vocab_size,
        vocab_size_per_layer_input=vocab_size - 5,
        hidden_size_per_layer_input=4,
        num_kv_shared_layers=0,
        laurel_rank=4,
        layer_types=["full_attention", "sliding_attention"],
        activation_sparsity_pattern=[0.0, 0.0],
        tie_word_embeddings=tied,
    )


def _mllama(vocab_size: int, tied: bool) -> transformers.PretrainedConfig:
    options = {**_DECODER, "num_hidden_layers": 2, "cross_attention_layers": [1], "vocab_size": vocab_size}
    return transformers.models.mllama.configuration_mllama.MllamaTextConfig(**options, tie_word_embeddings=tied)


def _t5gemma(vocab_size: int, tied: bool) -> transformers.PretrainedConfig:
    part = {**_DECODER, "vocab_size": vocab_size, "layer_types": ["full_attention"]}
    return transformers.T5GemmaConfig(encoder=dict(part), decoder=dict(part), tie_word_embeddings=tied)


NESTED = {
    "gemma3_multimodal": ("Gemma3ForConditionalGeneration", _gemma3_multimodal),
    "gemma3n_text": ("Gemma3nForCausalLM", _gemma3n_text),
    "mllama": ("MllamaForCausalLM", _mllama),
    "t5gemma": ("T5GemmaForConditionalGeneration", _t5gemma),
}
"""Models with nested configs, with tables of several lengths, or both: name to class and config builder."""

BODIES = frozenset({"bert_body", "mpnet_body", "xlm_roberta_body"})
"""Models without a head: tied or not does not apply."""
ALWAYS_TIED = frozenset({"t5", "mt5", "umt5", "longt5"})
"""Models whose config forces the tie flag to True; an untied head is put in by hand."""


def build(name: str, vocab_size: int = 97, tied: bool = True, **options: object) -> PreTrainedModel:
    """Build a model in evaluation mode, the same at every call.

    Args:
        name: One of ``SPECS`` or ``NESTED``.
        vocab_size: Rows of its tables.
        tied: Whether the head shares the input table.
        **options: More options of the config class, for those of ``SPECS``.
    """
    if name in NESTED:
        class_name, make_config = NESTED[name]
        config = make_config(vocab_size, tied)
    else:
        class_name, config_name, fixed = SPECS[name]
        options = {"vocab_size": vocab_size, "tie_word_embeddings": tied, **fixed, **options}
        config = getattr(transformers, config_name)(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, class_name)(config)
        if not tied and name in ALWAYS_TIED:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        _randomise(model, vocab_size)
    return model.eval()


def _randomise(model: PreTrainedModel, vocab_size: int) -> None:
    """Give every bias over the vocabulary values of its own, and every table rows that differ."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point() and tensor.shape[-1:] == (vocab_size,) and "bias" in name:
                tensor.normal_()
            elif tensor.ndim == 2 and tensor.shape[0] == vocab_size and tensor.is_floating_point():
                tensor.normal_(std=0.5)


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of a batch, or the last hidden state of a model without a head."""
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        output = model(**inputs)
    return output.logits if "logits" in output else output.last_hidden_state
