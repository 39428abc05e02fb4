"""The invariants of the design, over tokenizer family x method x tied or untied x mode."""

from __future__ import annotations

import copy
import functools
import itertools
import random

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

from hf_vocab_extend import extend_tokenizer, extend_vocabulary
from hf_vocab_extend.mapping import RowKind
from hf_vocab_extend.methods.focus import FocusConfig
from hf_vocab_extend.methods.hyperofa import HyperOfaConfig
from hf_vocab_extend.vocab.backend import read_json, rebuild

from .factories import TOKENIZERS, english, sample_pairs, swahili, tokenizer

WIDTH = 16
NEW_TOKENS = 60
_SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 1, "intermediate_size": 24, "num_attention_heads": 2}


def _ids(name: str) -> dict[str, int]:
    """Special ids of a tokenizer as a config has them."""
    own = tokenizer(name)
    roles = {"bos": own.bos_token_id, "eos": own.eos_token_id, "pad": own.pad_token_id}
    return {f"{role}_token_id": value for role, value in roles.items() if value is not None}


def _llama(config_class, model_class, **extra):
    def build(name: str, tied: bool, n_rows: int) -> PreTrainedModel:
        options = {**_SMALL, "num_key_value_heads": 1, "head_dim": 8, **extra, **_ids(name)}
        return model_class(config_class(vocab_size=n_rows, tie_word_embeddings=tied, **options))

    return build


def _bert(config_class, model_class):
    def build(name: str, tied: bool, n_rows: int) -> PreTrainedModel:
        return model_class(config_class(vocab_size=n_rows, tie_word_embeddings=tied, **_SMALL, **_ids(name)))

    return build


def _gpt2(name: str, tied: bool, n_rows: int) -> PreTrainedModel:
    config = GPT2Config(vocab_size=n_rows, n_embd=WIDTH, n_layer=1, n_head=2, tie_word_embeddings=tied, **_ids(name))
    return GPT2LMHeadModel(config)


def _t5(name: str, tied: bool, n_rows: int) -> PreTrainedModel:
    options = {"d_model": WIDTH, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=n_rows, tie_word_embeddings=tied, **options, **_ids(name)))
    if not tied:  # T5's config forces the flag; real untied checkpoints load with a head of their own
        model.lm_head.weight = torch.nn.Parameter(torch.randn(n_rows, WIDTH))
    return model


def _clip(name: str, tied: bool, n_rows: int) -> PreTrainedModel:
    return CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=n_rows, projection_dim=8, **_SMALL, **_ids(name)))


BUILDERS = {
    "gpt2": _gpt2,
    "llama3": _llama(LlamaConfig, LlamaForCausalLM),
    "qwen": _llama(Qwen2Config, Qwen2ForCausalLM),
    "llama2": _llama(LlamaConfig, LlamaForCausalLM),
    "gemma": _llama(Gemma2Config, Gemma2ForCausalLM),
    "xlmr": _bert(XLMRobertaConfig, XLMRobertaForMaskedLM),
    "t5": _t5,
    "bert-uncased": _bert(BertConfig, BertForMaskedLM),
    "bert-cased": _bert(BertConfig, BertForMaskedLM),
    "clip": _clip,
}
METHODS = ("mean", "normal", "subword", "focus", "wechsel", "ofa", "hyperofa", "trans_tokenization")
FAMILIES = tuple(TOKENIZERS)


def make_model(name: str, tied: bool, padding: int = 0) -> PreTrainedModel:
    """A tiny model for a tokenizer of the factories; its biases are not zero, so that a lost one shows."""
    torch.manual_seed(7)
    n_rows = max(tokenizer(name).get_vocab().values()) + 1 + padding
    model = BUILDERS[name](name, tied, n_rows).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and len(parameter) == n_rows:
                parameter.copy_(torch.randn(n_rows))
    return model


@functools.cache
def grown(name: str):
    """The tokenizer of a family after Swahili was added."""
    return extend_tokenizer(tokenizer(name), swahili(), NEW_TOKENS)


@functools.cache
def replacement(name: str):
    """A tokenizer of the same family for Swahili alone."""
    return TOKENIZERS[name](lines=swahili())


def _random_vectors(names: list[str]) -> tuple[list[str], np.ndarray]:
    return names, torch.randn(len(names), 8, generator=torch.Generator().manual_seed(3)).numpy()


def _words(target) -> dict:
    return {"word_vectors": _random_vectors(sorted({*" ".join((*english(), *swahili())).split()}))}


ARGUMENTS = {
    "focus": lambda target: {"method": FocusConfig(), "token_vectors": _random_vectors(sorted(target.get_vocab()))},
    "wechsel": _words,
    "ofa": _words,
    "hyperofa": lambda target: {"method": HyperOfaConfig(network="none"), **_words(target)},
    "trans_tokenization": lambda target: {"parallel": sample_pairs()[:150]},
}
"""What a method needs, small: ready vectors and few pairs keep the grid quick."""


def method_arguments(method: str, target) -> dict:
    """The arguments of a method, by its name."""
    return {"method": method, **ARGUMENTS.get(method, lambda target: {})(target)}


def run(name: str, method: str, tied: bool, mode: str, padding: int = 0, **more):
    """Extend a fresh model; also return an untouched copy of it."""
    model = make_model(name, tied, padding)
    before = copy.deepcopy(model)
    target = grown(name) if mode == "extend" else replacement(name)
    arguments = {**method_arguments(method, target), **more}
    return before, extend_vocabulary(model, target, tokenizer=tokenizer(name), mode=mode, **arguments), target


def head_is_tied(model: PreTrainedModel) -> bool | None:
    """Whether the head shares its storage with the input table; None without a head."""
    head = model.get_output_embeddings()
    if head is None:
        return None
    return head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def forward(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits, or the pooled output of a model without a head."""
    arguments = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        output = model(input_ids=ids, **arguments)
    return output.logits if hasattr(output, "logits") else output.text_embeds


GRID = [
    pytest.param(*case, id="-".join(map(str, case)))
    for case in itertools.product(FAMILIES, METHODS, ("tied", "untied"), ("extend", "replace"))
    if not (case[0] == "clip" and case[2] == "untied")  # a text tower has no head to tie
]


@pytest.mark.parametrize(("name", "method", "tie", "mode"), GRID)
def test_every_combination(name: str, method: str, tie: str, mode: str) -> None:
    before, extension, target = run(name, method, tie == "tied", mode)
    model, mapping = extension.model, extension.mapping
    n_source = before.get_input_embeddings().weight.shape[0]
    n_target = max(target.get_vocab().values()) + 1

    assert head_is_tied(model) == head_is_tied(before)
    table = model.get_input_embeddings().weight
    assert table.shape == (n_target, WIDTH)
    assert model.config.get_text_config().vocab_size == n_target
    tables = [table] if head_is_tied(model) is not False else [table, model.get_output_embeddings().weight]
    for rows in tables:
        assert torch.isfinite(rows).all()
        zero = (rows == 0).all(1)
        assert int(zero.sum()) <= int((before.get_input_embeddings().weight == 0).all(1).sum())
    assert (mapping.kinds != RowKind.NEW).all()
    assert sum(extension.report.counts_by_kind.values()) == n_target

    if mode == "extend":
        source_table = before.get_input_embeddings().weight
        assert torch.equal(table[:n_source], source_table)
        ids = torch.arange(3, 11)[None]
        torch.testing.assert_close(forward(model, ids)[..., :n_source], forward(before, ids), atol=1e-5, rtol=1e-4)
        assert (mapping.kinds[:n_source] == RowKind.SAME).all()
    else:
        copied = np.flatnonzero(np.isin(mapping.kinds, (RowKind.EXACT, RowKind.BYTE, RowKind.SPECIAL)))
        assert len(copied) > 50
        source_ids = [mapping.mixture.row(int(index))[0][0] for index in copied]
        assert torch.equal(table[copied], before.get_input_embeddings().weight[source_ids])


@pytest.mark.parametrize("mode", ["extend", "replace"])
@pytest.mark.parametrize("tie", ["tied", "untied"])
@pytest.mark.parametrize("name", FAMILIES)
def test_same_tokenizer_leaves_the_model_bitwise_the_same(name: str, tie: str, mode: str) -> None:
    model = make_model(name, tie == "tied")
    before = copy.deepcopy(model.state_dict())
    extension = extend_vocabulary(model, tokenizer(name), "subword", tokenizer=tokenizer(name), mode=mode)
    after = extension.model.state_dict()
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert torch.equal(value, after[key]), key
    assert extension.report.sizes["new_tokens"] == 0


def permuted(name: str):
    """The tokenizer of a WordPiece or BPE family with its ids in another order; also new id of each old id."""
    data = read_json(tokenizer(name))
    vocab = data["model"]["vocab"]
    order = list(range(len(vocab)))
    random.Random(5).shuffle(order)
    moved = {index: order[place] for place, index in enumerate(sorted(vocab.values()))}
    data["model"]["vocab"] = {token: moved[index] for token, index in vocab.items()}
    for added in data["added_tokens"]:
        added["id"] = moved.get(added["id"], added["id"])
    for special in (data["post_processor"] or {}).get("special_tokens", {}).values():
        special["ids"] = [moved.get(index, index) for index in special["ids"]]
    return rebuild(tokenizer(name), data), moved


@pytest.mark.parametrize("tie", ["tied", "untied"])
@pytest.mark.parametrize("name", ["gpt2", "bert-uncased", "bert-cased", "llama2"])
def test_permuted_ids_permute_rows_and_biases(name: str, tie: str) -> None:
    target, moved = permuted(name)
    model = make_model(name, tie == "tied")
    before = copy.deepcopy(model)
    extend_vocabulary(model, target, "mean", tokenizer=tokenizer(name), mode="replace")
    text = swahili(3)[0][:60]
    old, new = (torch.tensor([own(text, truncation=False)["input_ids"]]) for own in (tokenizer(name), target))
    n_rows = before.config.vocab_size
    order = torch.tensor([moved.get(index, index) for index in range(n_rows)])
    torch.testing.assert_close(forward(model, new)[..., order], forward(before, old), atol=1e-5, rtol=1e-4)
    for role in ("bos", "eos", "pad"):
        assert getattr(model.config, f"{role}_token_id") == getattr(target, f"{role}_token_id")


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_gives_the_same_bytes(method: str) -> None:
    _, first, target = run("bert-uncased", method, False, "extend")
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the point is that the global state does not matter
    random.seed(99)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, second, _ = run("bert-uncased", method, False, "extend")
    finally:
        torch.set_num_threads(threads)
    for key, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[key]), key


def test_another_seed_gives_other_random_rows() -> None:
    _, first, _ = run("gpt2", "normal", True, "extend", seed=0)
    _, second, _ = run("gpt2", "normal", True, "extend", seed=1)
    new = slice(len(tokenizer("gpt2")), None)
    tables = [extension.model.get_input_embeddings().weight[new] for extension in (first, second)]
    assert not torch.allclose(*tables)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "llama2"])
def test_padding_rows_stay_and_are_used_first(name: str, method: str) -> None:
    before, extension, target = run(name, method, False, "extend", padding=NEW_TOKENS + 7)
    n_ids = max(target.get_vocab().values()) + 1
    for own in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(before, own)().weight, getattr(extension.model, own)().weight
        assert new.shape == old.shape
        assert torch.equal(new[n_ids:], old[n_ids:])
        assert torch.equal(new[: len(tokenizer(name))], old[: len(tokenizer(name))])


@pytest.mark.parametrize("tie", ["tied", "untied"])
@pytest.mark.parametrize("mode", ["extend", "replace"])
@pytest.mark.parametrize("name", ["gpt2", "t5", "bert-uncased", "xlmr", "llama2"])
def test_saved_and_loaded_it_is_the_same_model(name: str, mode: str, tie: str, tmp_path) -> None:
    _, extension, _ = run(name, "subword", tie == "tied", mode)
    extension.model.save_pretrained(tmp_path)
    loaded = type(extension.model).from_pretrained(tmp_path).eval()
    assert head_is_tied(loaded) == head_is_tied(extension.model) == (tie == "tied")
    ids = torch.arange(3, 11)[None]
    assert torch.equal(forward(loaded, ids), forward(extension.model, ids))


def test_special_tokens_follow_their_role_and_bytes_their_value() -> None:
    source, target = tokenizer("llama2"), tokenizer("gpt2")
    model = make_model("llama2", tied=False)
    before = copy.deepcopy(model)
    extension = extend_vocabulary(model, target, "subword", tokenizer=source, mode="replace")
    old, new = before.get_input_embeddings().weight, extension.model.get_input_embeddings().weight
    assert torch.equal(new[target.eos_token_id], old[source.eos_token_id])
    byte = target.convert_tokens_to_ids("\u0122")  # how a byte-level vocabulary spells byte 0x80
    assert extension.mapping.explain(byte).sources == (("<0x80>", 1.0),)
    assert torch.equal(new[byte], old[source.convert_tokens_to_ids("<0x80>")])
    assert extension.model.config.eos_token_id == target.eos_token_id


def test_explain_names_sources_and_weights() -> None:
    _, extension, target = run("bert-uncased", "subword", True, "extend")
    token = target.convert_ids_to_tokens(len(target) - 1)
    explanation = extension.mapping.explain(token)
    assert explanation.kind is RowKind.METHOD
    assert sum(weight for _, weight in explanation.sources) == pytest.approx(1.0)
    table = extension.model.get_input_embeddings().weight
    expected = sum(
        weight * table[tokenizer("bert-uncased").convert_tokens_to_ids(source)]
        for source, weight in explanation.sources
    )
    torch.testing.assert_close(table[len(target) - 1], expected)
    assert token in str(explanation)
