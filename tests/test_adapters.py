"""LoRA on extended models: arguments, saved adapters, merged models."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open

peft = pytest.importorskip("peft")

from transformers import AutoModelForCausalLM  # noqa: E402

from hf_vocab_extend import extend_vocabulary, load_adapter, lora_arguments, save_adapter  # noqa: E402
from hf_vocab_extend.adaptation.adapter_files import adapter_extension  # noqa: E402
from hf_vocab_extend.adaptation.adapters import body_layers  # noqa: E402
from hf_vocab_extend.adaptation.drift import RowDrift  # noqa: E402
from hf_vocab_extend.adaptation.locate import locate_extension  # noqa: E402
from hf_vocab_extend.adaptation.rows import new_row_ids  # noqa: E402
from hf_vocab_extend.adaptation.selection import ParameterMap  # noqa: E402
from hf_vocab_extend.errors import (  # noqa: E402
    InvalidOptionError,
    MissingResourceError,
    OutputFolderError,
    TokenizerMismatchError,
    UnsupportedModelError,
)
from hf_vocab_extend.surgery.sites import describe, scan_sites  # noqa: E402

from . import adapting  # noqa: E402
from .factories import gpt2_like, llama3_like, swahili  # noqa: E402
from .models import build, logits  # noqa: E402
from .tiny_models import make_llama  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
IDS = torch.tensor([[3, 40, 90, 95, 7, 96]])


def extended(model):
    """An extension whose report names the tables of its model."""
    extension = adapting.extended(model)
    tables = tuple(describe(site) for site in scan_sites(model))
    extension.report = dataclasses.replace(extension.report, tables=tables)
    return extension


def adapted(extension, tables, **options):
    """The extension's model with LoRA, every trainable value moved at random."""
    config = peft.LoraConfig(**lora_arguments(extension, tables=tables, r=2, **options))
    model = peft.get_peft_model(extension.model, config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def close(one, other):
    return torch.allclose(one, other, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "tied", "tables"),
    [
        ("llama", True, "new_rows"),
        ("llama", False, "new_rows"),
        ("llama", True, "full"),
        ("llama", False, "full"),
        ("gpt2", True, "new_rows"),
        ("gpt2", True, "full"),
        ("gemma3", True, "new_rows"),
        ("t5", True, "new_rows"),
        ("bert", False, "full"),
        ("bert", True, "none"),
    ],
)
def test_what_trains_and_what_merges(name, tied, tables):
    extension = extended(build(name, 97, tied))
    new = new_row_ids(extension)
    base = build(name, 97, tied)
    fresh = peft.get_peft_model(build(name, 97, tied), peft.LoraConfig(**lora_arguments(extension, tables=tables)))
    assert close(logits(fresh.get_base_model().eval(), IDS), logits(base, IDS))
    model = adapted(extension, tables)
    before = logits(model.get_base_model(), IDS)
    assert not close(before, logits(base, IDS))
    merged = model.merge_and_unload()
    assert type(merged) is type(base)
    assert close(logits(merged.eval(), IDS), before)
    pairs = [(one.get_input_embeddings().weight, one.get_output_embeddings().weight) for one in (base, merged)]
    assert (pairs[1][0].data_ptr() == pairs[1][1].data_ptr()) is tied
    assert merged.config.tie_word_embeddings is base.config.tie_word_embeddings
    old = torch.tensor([row for row in range(97) if row not in set(new.tolist())])
    for was, now in zip(*pairs, strict=True):
        assert torch.equal(was[old], now[old]) is (tables != "full")
        assert torch.equal(was[new], now[new]) is (tables == "none")


@pytest.mark.parametrize("tied", [True, False])
def test_merged_model_reloads_equal(tmp_path, tied):
    model = adapted(extended(build("llama", 97, tied)), "new_rows")
    before = logits(model.get_base_model(), IDS)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert close(logits(again, IDS), before)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tables", ["new_rows", "full", "none"])
def test_adapter_of_a_grown_vocabulary_on_the_original_base(tmp_path, tied, tables):
    tok = llama3_like()
    base = make_llama(tok, tied=tied)
    base.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    extension = extend_vocabulary(model, gpt2_like(lines=swahili()), tokenizer=tok, method="subword")
    model = adapted(extension, tables)
    ids = torch.tensor([[5, 600, int(new_row_ids(extension)[-1])]])
    before = logits(model.get_base_model(), ids)
    save_adapter(model, tmp_path / "adapter", extension)
    again = load_adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval(), tmp_path / "adapter")
    assert close(logits(again.get_base_model().eval(), ids), before)
    assert again.get_base_model().config.vocab_size == extension.report.sizes["target_rows"]
    found = adapter_extension(again.get_base_model(), tmp_path / "adapter")
    text = "habari ya leo"
    assert found.tokenizer(text)["input_ids"] == extension.tokenizer(text)["input_ids"]
    assert found.mapping.counts() == extension.mapping.counts()
    assert "load_adapter" in (tmp_path / "adapter" / "README.md").read_text("utf-8")
    merged = again.merge_and_unload()
    assert close(logits(merged.eval(), ids), before)
    with pytest.raises(OutputFolderError):
        save_adapter(model, tmp_path / "adapter", extension)


@pytest.mark.parametrize("tied", [True, False])
def test_adapter_of_a_vocabulary_of_the_same_size(tmp_path, tied):
    """Without the tables peft reloads another model, and says nothing."""
    base = build("llama", 97, tied)
    extension = extended(build("llama", 97, tied))
    with torch.no_grad():
        for table in (extension.model.get_input_embeddings(), extension.model.get_output_embeddings()):
            table.weight[80:] += 1.0
    extension.model.save_pretrained(tmp_path / "unused")
    model = adapted(extension, "none")
    before = logits(model.get_base_model(), IDS)
    model.save_pretrained(tmp_path / "naive", save_embedding_layers=False)
    naive = peft.PeftModel.from_pretrained(build("llama", 97, tied), tmp_path / "naive")
    assert not close(logits(naive.get_base_model().eval(), IDS), before)
    save_adapter(model, tmp_path / "ours", extension)
    for again in (
        peft.PeftModel.from_pretrained(build("llama", 97, tied), tmp_path / "ours"),
        load_adapter(base, tmp_path / "ours"),
    ):
        assert close(logits(again.get_base_model().eval(), IDS), before)


def test_adapter_on_the_extended_base_is_small(tmp_path):
    tok = llama3_like()
    extension = extend_vocabulary(
        make_llama(tok), gpt2_like(lines=swahili()), tokenizer=tok, method="subword", mode="replace"
    )
    extension.save_pretrained(tmp_path / "extended")
    extension.model = AutoModelForCausalLM.from_pretrained(tmp_path / "extended")
    model = adapted(extension, "new_rows")
    before = logits(model.get_base_model(), IDS)
    save_adapter(model, tmp_path / "adapter", extension)
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if "base_layer" in key]  # noqa: SIM118
    assert not (tmp_path / "adapter" / "vocab_tables.safetensors").exists()
    again = load_adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "extended"), tmp_path / "adapter")
    assert close(logits(again.get_base_model().eval(), IDS), before)
    other = build("llama", 61)
    with pytest.raises(TokenizerMismatchError, match="rows"):
        load_adapter(other, tmp_path / "adapter")


def test_head_bias_comes_back(tmp_path):
    extension = extended(build("bert", 97, False))
    with torch.no_grad():
        extension.model.cls.predictions.decoder.bias[80:] += 2.0
    model = adapted(extension, "none")
    before = logits(model.get_base_model(), IDS)
    save_adapter(model, tmp_path / "adapter", extension)
    again = load_adapter(build("bert", 97, False), tmp_path / "adapter")
    assert close(logits(again.get_base_model().eval(), IDS), before)


@pytest.mark.parametrize("name", ["llama", "bert", "gpt2", "t5", "bloom", "opt"])
def test_lora_is_on_the_body_only(name):
    model = build(name)
    names = body_layers(model)
    tables = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=names))
    layers = [module for module in wrapped.modules() if hasattr(module, "lora_A") and hasattr(module, "base_layer")]
    assert layers
    assert not [layer for layer in layers if id(layer.base_layer) in tables]


def test_arguments():
    extension = extended(build("llama", 97, False))
    found = lora_arguments(extension, r=4, lora_dropout=0.1)
    new = new_row_ids(extension).tolist()
    assert found["trainable_token_indices"] == {"model.embed_tokens": new, "lm_head": new}
    assert (found["r"], found["lora_alpha"], found["lora_dropout"]) == (4, 8, 0.1)
    assert set(found["target_modules"]) == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    json.dumps(found)


def test_what_peft_cannot_do_is_refused(tmp_path):
    bert = extended(build("bert", 97, True))
    for tables in ("new_rows", "full"):
        with pytest.raises(UnsupportedModelError, match="bias"):
            lora_arguments(bert, tables=tables)
    with pytest.raises(UnsupportedModelError, match="tables='full'"):
        lora_arguments(extended(build("bert", 97, False)))
    with pytest.raises(UnsupportedModelError, match="several places"):
        lora_arguments(extended(build("t5", 97, True)), tables="full")
    with pytest.raises(InvalidOptionError, match="tables"):
        lora_arguments(bert, tables="rows")
    nothing_new = extended(build("llama"))
    nothing_new.mapping.kinds[:] = np.uint8(1)
    with pytest.raises(InvalidOptionError, match="no new rows"):
        lora_arguments(nothing_new)
    with pytest.raises(MissingResourceError):
        lora_arguments(build("llama"))
    with pytest.raises(InvalidOptionError, match="no model of peft"):
        save_adapter(build("llama"), tmp_path / "a", nothing_new)
    with pytest.raises(MissingResourceError, match="save_adapter"):
        load_adapter(build("llama"), tmp_path)


def test_distilled_rows_go_along_where_the_base_by_its_name_has_the_old_ones(tmp_path):
    extended(build("llama", 97, True)).save_pretrained(tmp_path / "base", verify=False)
    extension = locate_extension(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    with torch.no_grad():
        extension.model.get_input_embeddings().weight[90:] += 0.5
    extension.report = extension.report.with_distillation({"method": "tokens", "rows": 7})
    model = adapted(extension, "none")
    save_adapter(model, tmp_path / "adapter", extension)
    again = load_adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    assert close(logits(again.get_base_model().eval(), IDS), logits(model.get_base_model(), IDS))


def test_words_of_the_user_in_the_card_of_an_adapter_stay(tmp_path):
    extension = extended(build("llama", 97, True))
    model = adapted(extension, "none")
    save_adapter(model, tmp_path / "adapter", extension)
    readme = tmp_path / "adapter" / "README.md"
    readme.write_text(readme.read_text("utf-8") + "\nMy own words.\n", "utf-8")
    save_adapter(model, tmp_path / "adapter", extension, overwrite=True)
    card = readme.read_text("utf-8")
    assert card.count("My own words.") == card.count("hf_vocab_extend: begin") == 1
    assert "What the adapter was trained on was not recorded." in card
    assert "was not trained" not in card


@pytest.mark.parametrize("tied", [True, False])
def test_drift_of_new_rows_is_that_of_the_rows_that_train(tied):
    """Not that of the frozen table beside them, which the model does not read at these rows."""
    extension = extended(build("llama", 97, tied))
    before = extension.model.get_output_embeddings().weight.detach().clone()
    config = peft.LoraConfig(**lora_arguments(extension, tables="new_rows", r=2))
    model = peft.get_peft_model(extension.model, config)
    new = new_row_ids(extension)
    drift = RowDrift(model, extension.mapping, new)
    deltas = [item for name, item in model.named_parameters() if "trainable_tokens_delta" in name]
    with torch.no_grad():
        for delta in deltas:
            delta.mul_(1.5)
    label = "tied" if tied else "head"
    found = drift.measure()
    assert found[f"drift_new_{label}"] == pytest.approx(0.5)
    assert found[f"norm_new_{label}"] == pytest.approx(float(1.5 * before[new].norm(dim=1).mean()))
    assert found[f"drift_old_{label}"] == 0
    assert len(deltas) == (1 if tied else 2)
    assert len(drift.state_dict()) == 2 * len(deltas)  # new and old rows of each table, once
    trained = ParameterMap(model, new).select(["new_rows"])
    assert set(trained.rows) == {id(delta) for delta in deltas}
