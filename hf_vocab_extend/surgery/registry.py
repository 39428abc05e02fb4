"""The names that transformers gives to vocabulary-sized tensors and fields: all that is known by name, in one place.

Whether a tensor is vocabulary-sized is measured (see :mod:`.probe`); these tables only say what its part is.
"""

from __future__ import annotations

import re

VOCABULARY_FIELDS = (
    "vocab_size",
    "vocab_size_per_layer_input",
    "decoder_vocab_size",
    "src_vocab_size",
    "tgt_vocab_size",
)
"""Config fields that count rows of a text vocabulary."""

SECOND_VOCABULARY_FIELDS = frozenset({"decoder_vocab_size", "src_vocab_size", "tgt_vocab_size"})
"""Fields that count another vocabulary than ``vocab_size`` when encoder and decoder do not share one."""

OTHER_MODALITY = re.compile(r"audio|vision|speech|codec|acoustic|image|video|depth|talker|qformer|vq_")
"""Names of nested configs and modules whose vocabulary is not the tokenizer's."""

ROLES_BY_NAME = (
    (re.compile(r"(^|\.)predictions\.dense\.weight$"), "head_part"),  # MobileBERT's head is two matrices side by side
    (re.compile(r"(^|\.)(embed_tokens_per_layer|value_embeddings)\.weight$"), "per_layer"),
    (re.compile(r"(^|\.)final_logits_bias$"), "logits_bias"),
    (
        re.compile(
            r"(^|\.)(lm_head|lm_loss|predictions|generator_predictions|pred_layer|mlm|cls|head)(\.\w+)?\.bias$"
        ),
        "bias",
    ),
    (re.compile(r"(^|\.)(decoder|vocab_projector|embed_out|proj|output_projection|vocab)\.bias$"), "bias"),
    (
        re.compile(
            r"(^|\.)(shared|wte|tokens_embed|word_embeddings?|embed_tokens|tok_embeddings|token_embeddings?|embed_in|"
            r"word_emb|embeddings|embedding|text_embedding)\.weight$"
        ),
        "input",
    ),
    (
        re.compile(
            r"(^|\.)(lm_head|decoder|vocab_projector|embed_out|output_projection|generator_lm_head|lm_loss|"
            r"pred_layer\.proj|out_lm)\.weight$"
        ),
        "head",
    ),
)
"""Dotted name to the part that a tensor plays, first match wins."""

LAYER_STACK = re.compile(r"(^|\.)(?!\w*(head|emb))\w+\.\d+\.")
"""A tensor inside a numbered stack of layers: never indexed by tokens, but for hash routers, which the probe finds."""

NOT_VOCABULARY = re.compile(
    r"norm|(^|\.)ln_|position|token_type|segment|lang_embed|pooler|transform\.|classifier|qa_outputs|score|"
    r"wpe\.|embed_positions|pos_emb|project_(in|out)|hidden_mapping|relative|rotary|inv_freq",
    re.IGNORECASE,
)
"""Names of tensors that are never indexed by tokens, for models that cannot be probed."""

_TWO_VOCABULARIES = "it holds several vocabularies behind one input table; extend its encoder or decoder on its own"
REFUSED_TYPES = {
    "encoder-decoder": _TWO_VOCABULARIES,
    "speech-encoder-decoder": _TWO_VOCABULARIES,
    "musicgen": _TWO_VOCABULARIES,
    "musicgen_melody": _TWO_VOCABULARIES,
    "moshi": _TWO_VOCABULARIES,
    "gemma3n": "its code reads every id from a fixed one on as audio, so text tokens cannot be added; extend its text "
    "model (Gemma3nForCausalLM) on its own",
    **{
        f"{name}{part}": "its code pools at the highest id of a text, which an added token would be"
        for name in ("owlvit", "owlv2", "metaclip_2")
        for part in ("", "_text_model")
    },
    "cpmant": "its code finds prompt rows by counting from the vocabulary size, so rows cannot be added",
}
"""Model types whose code gives ids a meaning that no table shows, with the reason for the message."""

LEGACY_EOS = 2
LEGACY_EOS_TYPES = frozenset(
    f"{name}{part}" for name in ("clip", "xclip", "clipseg", "groupvit") for part in ("", "_text_model")
)
"""Model types that, where their config says ``eos_token_id=2``, pool at the highest id of a text instead of at eos."""

FLAG_IS_ARITHMETIC = frozenset({"umt5"})
"""Model types whose forward pass reads ``tie_word_embeddings`` as a scale: the flag must stay as it was loaded."""

COUNT_ATTRIBUTES = ("vocab_size", "n_words", "vocab_size_per_layer_input", "n_vocab")
"""Attributes of modules that repeat a row count."""

PADDING_IS_FIXED = frozenset({"mpnet"})
"""Model types that count positions from a padding id written into their code."""
