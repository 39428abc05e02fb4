"""Tiny models with a second vocabulary beside their own, made by hand, so that language heads are tested alone."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_vocab_extend import LanguageHeads
from hf_vocab_extend.result import VocabExtension

from . import factories
from .models import build
from .stub_extension import make_report
from .tiny_models import make_llama

EN_SIZE, SW_SIZE = 97, 61


def word_tokenizer(size: int, prefix: str, ids: dict[str, int | None] | None = None) -> PreTrainedTokenizerFast:
    """Words ``prefix0``, ``prefix1``, ...: the id is the number; unk is the last, others can be given."""
    wanted = {role: value for role, value in (ids or {}).items() if isinstance(value, int) and 0 <= value < size}
    names = {number: f"{prefix}{number}" for number in range(size)}
    names |= {value: f"<{prefix}-{role}>" for role, value in wanted.items()}
    vocab = {name: number for number, name in names.items()}
    backend = Tokenizer(models.WordPiece(vocab, unk_token=names[size - 1]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {f"{role}_token": names[value] for role, value in wanted.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=names[size - 1], **named)


def special_ids(model: PreTrainedModel) -> dict[str, int | None]:
    """Special ids that the model's config states."""
    config = model.config if model.config.is_encoder_decoder else model.config.get_text_config()
    found = {role: getattr(config, f"{role}_token_id", None) for role in ("pad", "bos", "eos")}
    return {role: value[0] if isinstance(value, list) else value for role, value in found.items()}


def pair(name: str, tied: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerFast, VocabExtension]:
    """A model with its tokenizer, and the same body with another vocabulary, whose rows are random.

    Args:
        name: A name that :func:`tests.models.build` knows.
        tied: Whether the head shares the input table, in both.
    """
    base, other = build(name, EN_SIZE, tied), build(name, SW_SIZE, tied)
    own, theirs = base.state_dict(), other.state_dict()
    body = {key: own[key].clone() for key in own if own[key].shape == theirs[key].shape}
    other.load_state_dict(body, strict=False)
    tokenizer = word_tokenizer(EN_SIZE, "en", special_ids(base))
    new_tokenizer = word_tokenizer(SW_SIZE, "sw", special_ids(other))
    extension = VocabExtension(model=other, tokenizer=new_tokenizer, mapping=None, report=make_report())
    return base, tokenizer, extension


def heads(name: str, tied: bool = True) -> LanguageHeads:
    """Language heads ``en`` and ``sw`` on a tiny model; ``en`` is active."""
    base, tokenizer, extension = pair(name, tied)
    result = LanguageHeads.from_model(base, tokenizer)
    result.add_language("sw", extension)
    return result


def output_of(model: torch.nn.Module, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Logits of a model, or the last hidden state of one without a head."""
    inputs = {"attention_mask": torch.ones_like(ids)} | inputs
    if model.config.is_encoder_decoder:
        inputs.setdefault("decoder_input_ids", ids)
    with torch.no_grad():
        output = model(input_ids=ids, **inputs)
    return output.logits if "logits" in output else output.last_hidden_state


def random_ids(size: int, seed: int, shape: tuple[int, int] = (2, 7)) -> torch.Tensor:
    """Ids of ordinary tokens."""
    return torch.randint(5, size, shape, generator=torch.Generator().manual_seed(seed))


def english_and_swahili() -> LanguageHeads:
    """English by a Llama 3 tokenizer (bos before the text), Swahili by an XLM-R one (bos before, eos after)."""
    tokenizer = factories.tokenizer("llama3")
    torch.manual_seed(0)
    both = LanguageHeads.from_model(make_llama(tokenizer), tokenizer)
    both.add_language("sw", factories.xlmr_like(400, factories.swahili()), "subword")
    both.set_language(input="en", output="sw")
    return both
