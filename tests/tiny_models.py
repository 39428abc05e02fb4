"""Tiny real models for the tokenizers of the factories."""

from __future__ import annotations

import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from .factories import tokenizer
from .stub_extension import make_bert

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 24, "num_attention_heads": 2}


def special_ids(own: PreTrainedTokenizerFast) -> dict[str, int | None]:
    return {f"{role}_token_id": getattr(own, f"{role}_token_id") for role in ("bos", "eos", "pad")}


def n_rows(own: PreTrainedTokenizerFast) -> int:
    return max(own.get_vocab().values()) + 1


def make_llama(own: PreTrainedTokenizerFast, tied: bool = False) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=n_rows(own),
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=tied,
        **SMALL,
        **special_ids(own),
    )
    return LlamaForCausalLM(config).eval()


def make_t5(own: PreTrainedTokenizerFast) -> T5ForConditionalGeneration:
    options = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(vocab_size=n_rows(own), **options, **special_ids(own))).eval()


def make_marian(own: PreTrainedTokenizerFast) -> MarianMTModel:
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1) | dict.fromkeys(
        ("encoder_attention_heads", "decoder_attention_heads"), 2
    )
    config = MarianConfig(
        vocab_size=n_rows(own),
        d_model=16,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        decoder_start_token_id=own.pad_token_id,
        forced_eos_token_id=own.eos_token_id,
        **sizes,
        **special_ids(own),
    )
    model = MarianMTModel(config).eval()
    torch.nn.init.normal_(model.final_logits_bias)
    return model


MODELS = {
    "bert": (lambda: (make_bert(), tokenizer("bert-uncased")), AutoModelForMaskedLM),
    "bert without head": (lambda: (BertModel(make_bert().config).eval(), tokenizer("bert-uncased")), AutoModel),
    "llama": (lambda: (make_llama(tokenizer("llama3")), tokenizer("llama3")), AutoModelForCausalLM),
    "llama tied": (lambda: (make_llama(tokenizer("llama2"), tied=True), tokenizer("llama2")), AutoModelForCausalLM),
    "t5": (lambda: (make_t5(tokenizer("t5")), tokenizer("t5")), AutoModelForSeq2SeqLM),
    "marian": (lambda: (make_marian(tokenizer("xlmr")), tokenizer("xlmr")), AutoModelForSeq2SeqLM),
}
