"""Verification: a saved folder that does not load back equal is named and removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Regex, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from hf_vocab_extend import saving, verify
from hf_vocab_extend.errors import VerificationError
from hf_vocab_extend.vocab.backend import read_json, rebuild

from .factories import TOKENIZERS, tokenizer
from .mini_models import computed_in_bfloat16
from .stub_extension import make_bert, make_extension, saved_with
from .tiny_models import SMALL, make_llama, n_rows, special_ids

BESIDE = ("gpt2", "llama", "qwen2", "gemma", "roberta", "bert", "xlm-roberta", "t5", "mistral", "opt", "qwen3")


ALL_PAIRS = [
    pytest.param(model_type, name, id=f"{name} beside {model_type}") for model_type in BESIDE for name in TOKENIZERS
]


@pytest.mark.parametrize(("model_type", "name"), ALL_PAIRS)
def test_tokenizers_reload_beside_any_config_or_the_error_says_so(model_type: str, name: str, tmp_path: Path) -> None:
    own = tokenizer(name)
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    saving.save_tokenizer(own, tmp_path)
    if model_type == "qwen2" and name != "qwen":
        with pytest.raises(VerificationError, match=r"tokenizer\.json.*'qwen2'.*PreTrainedTokenizerFast"):
            verify.verify_tokenizer(tmp_path, own)
        return
    verify.verify_tokenizer(tmp_path, own)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    lines = list(verify.TEXTS)
    assert loaded(lines)["input_ids"] == own(lines)["input_ids"]
    assert loaded.get_vocab() == own.get_vocab()


def test_qwen2_with_another_regex_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    data = read_json(tokenizer("qwen"))
    data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"[\p{L}\p{M}]+|\p{N}|[^\p{L}\p{M}\p{N}]+"
    own = rebuild(tokenizer("qwen"), data)
    config = Qwen2Config(vocab_size=n_rows(own), num_key_value_heads=1, **SMALL, **special_ids(own))
    with pytest.raises(VerificationError, match="'pre_tokenizer'.*verify=False"):
        saved_with(Qwen2ForCausalLM(config), own, tmp_path / "out")
    assert os.listdir(tmp_path) == []
    saved_with(Qwen2ForCausalLM(config), own, tmp_path / "out", verify=False)
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def _break_vocabulary(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocab = data["model"]["vocab"]
    (first, a), (second, b) = sorted(vocab.items(), key=lambda item: item[1])[-2:]
    vocab[first], vocab[second] = b, a
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")


def _break_pipeline(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    data["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")


def _break_json(file: str, **changes) -> object:
    def change(folder: Path) -> None:
        data = json.loads((folder / file).read_text("utf-8"))
        (folder / file).write_text(json.dumps(data | changes), "utf-8")

    return change


def _break_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"][5] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _drop_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["cls.predictions.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


BROKEN = {
    "vocabulary": (_break_vocabulary, r"tokenizer\.json.*another vocabulary.*has id"),
    "pipeline": (_break_pipeline, r"tokenizer\.json.*'normalizer' differs"),
    "side": (_break_json("tokenizer_config.json", padding_side="left"), r"tokenizer_config\.json: padding_side"),
    "length": (_break_json("tokenizer_config.json", model_max_length=9), r"tokenizer_config\.json: model_max_length"),
    "mask": (_break_json("tokenizer_config.json", mask_token="[PAD]"), r"tokenizer_config\.json: mask_token"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json does not load"),
    "weights": (_break_weights, r"model\.safetensors: bert\.embeddings\.word_embeddings\.weight"),
    "missing weight": (_drop_weight, r"model\.safetensors: missing keys.*cls\.predictions\.bias"),
    "tie": (_break_json("config.json", tie_word_embeddings=False), r"model\.safetensors|config\.json"),
    "activation": (_break_json("config.json", hidden_act="relu"), r"config\.json.*outputs differ"),
    "rows": (_break_json("config.json", vocab_size=10), r"model\.safetensors|config\.json"),
    "pad": (_break_json("config.json", pad_token_id=3), r"config\.json: pad_token_id is 3 .*\[PAD\].* id 0"),
    "architecture": (_break_json("config.json", model_type="roberta"), r"config\.json|model\.safetensors"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_load_back_equal_is_named_and_removed(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage, expected = BROKEN[case]
    monkeypatch.setattr("hf_vocab_extend.result.write_extra_files", lambda files, folder: damage(folder))
    with pytest.raises(VerificationError, match=expected):
        make_extension().save_pretrained(tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_more_tokens_thann_rows(tmp_path: Path) -> None:
    own = rebuild(tokenizer("bert-uncased"), read_json(tokenizer("bert-uncased")))
    own.add_tokens(["habari"])
    with pytest.raises(VerificationError, match=r"tokenizer\.json has the id \d+ .* rows"):
        make_extension(make_bert(), own).save_pretrained(tmp_path / "out")


@pytest.mark.parametrize(("eos", "agrees"), [(700, False), ([3, 701], True), ([3, 4], False), (None, True)])
def test_a_model_and_a_tokenizer_that_disagree_from_the_start_are_saved_and_it_is_said(
    eos: object, agrees: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tokenizer("llama3")
    assert own.eos_token_id == 701
    model = make_llama(own)
    model.generation_config.eos_token_id = eos
    make_extension(model, own).save_pretrained(tmp_path / "out")
    said = [message for message in caplog.messages if "generation_config.json: eos_token_id" in message]
    assert [("701" in message) for message in said] == ([] if agrees else [True])


def test_a_model_of_mixed_precision_is_saved(tmp_path: Path) -> None:
    model = make_llama(tokenizer("llama3")).to(torch.bfloat16)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().float())
    make_extension(model, tokenizer("llama3")).save_pretrained(tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["lm_head.weight"].dtype is torch.float32
    assert stored["model.embed_tokens.weight"].dtype is torch.bfloat16


def test_training_mode_and_gradients_are_left_as_they_were(tmp_path: Path) -> None:
    model = make_bert().train()
    make_extension(model).save_pretrained(tmp_path / "out")
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_an_untied_head_stays_untied_whatever_the_config_says(tmp_path: Path) -> None:
    own = tokenizer("gpt2")
    config = GPT2Config(vocab_size=n_rows(own), n_embd=16, n_layer=1, n_head=2, **special_ids(own))
    model = GPT2LMHeadModel(config).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.randn(n_rows(own), 16))
    saved_with(model, own, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(loaded.lm_head.weight, loaded.transformer.wte.weight)


def test_the_battery_tells_usual_pipelines_apart() -> None:
    data = read_json(tokenizer("llama3"))
    own = rebuild(tokenizer("llama3"), data)
    own.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{L}\p{M}]+|\p{N}|\s+|[^\s\p{L}\p{M}\p{N}]+"), "isolated"),
            pre_tokenizers.ByteLevel(use_regex=False),
        ]
    )
    lines = list(verify.TEXTS)
    differing = [a != b for a, b in zip(own(lines)["input_ids"], tokenizer("llama3")(lines)["input_ids"], strict=True)]
    assert sum(differing) > len(lines) // 2


def test_a_model_that_a_trainer_computed_in_bfloat16_is_saved_and_compared_in_its_own_type(tmp_path: Path) -> None:
    extension = make_extension()
    model = extension.model.to(torch.float32)
    model.bert.encoder.layer[0].intermediate.dense.weight.data.mul_(50)  # so that rounding shows
    ids = torch.arange(8)[None]
    exact = model.eval()(input_ids=ids).logits
    wrapped = computed_in_bfloat16(model)
    assert not torch.equal(wrapped(input_ids=ids).logits, exact)
    extension.save_pretrained(tmp_path / "out")
    assert not torch.equal(wrapped(input_ids=ids).logits, exact), "the wrapper is the caller's: it stays"
