"""Factorised folders load in fresh processes: by their own code, by the package, and without both a clear refusal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertForMaskedLM,
    LlamaForCausalLM,
)

from hf_vocab_extend import factorize_embeddings, merge_factorized
from hf_vocab_extend.modeling import factorized
from hf_vocab_extend.modeling.factorized import factorized_modules

from .models import build, logits

V, RANK = 97, 7
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 1]])  # T5 as a classifier looks for its end of text, 1
MASKED, CAUSAL, TRANSLATE = "AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
SAVED = {
    ("bert", True): [MASKED, "AutoModel", "AutoModelForSequenceClassification"],
    ("roberta", False): [MASKED],
    ("bert_body", True): ["AutoModel", MASKED],
    ("distilbert", True): [MASKED, "AutoModelForTokenClassification"],
    ("electra", True): [MASKED],
    ("gpt2", True): [CAUSAL, "AutoModel"],
    ("llama", False): [CAUSAL, "AutoModelForSequenceClassification"],
    ("gemma", True): [CAUSAL],
    ("qwen2", True): [CAUSAL],
    ("opt", True): [CAUSAL],
    ("t5", True): [TRANSLATE, "AutoModel", "AutoModelForSequenceClassification"],
    ("t5", False): [TRANSLATE],
    ("bart", True): [TRANSLATE, "AutoModel"],
    ("marian", True): [TRANSLATE],
    ("gemma3_multimodal", True): ["AutoModelForImageTextToText"],
}
"""Model, tied or not, to the Auto classes that shall load it; the first is that of the model itself."""
WAYS = ("trust", "package", "neither")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[float]]]:
    root, expected = tmp_path_factory.mktemp("factorized"), {}
    for (name, tied), classes in SAVED.items():
        model = build(name, V, tied)
        factorize_embeddings(model, RANK)
        folder = root / f"{name}-{tied}"
        model.save_pretrained(folder)
        (folder / "job.json").write_text(json.dumps({"ids": IDS.tolist(), "classes": classes}))
        expected[f"{folder.name} {classes[0]}"] = logits(model, IDS).flatten()[:500].tolist()
    return root, expected


@pytest.fixture(scope="module", params=WAYS)
def loaded(request, folders, tmp_path_factory) -> tuple[str, dict[str, dict]]:
    copy = tmp_path_factory.mktemp(request.param) / "folders"
    shutil.copytree(folders[0], copy)
    file = copy.parent / "answer.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.factorized_loading", str(copy), request.param, str(file)],
        env={**os.environ, "HF_MODULES_CACHE": str(copy.parent / "modules"), "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return request.param, json.loads(file.read_text())


def test_every_class_loads_in_a_fresh_process_or_the_refusal_is_clear(folders, loaded):
    way, found = loaded
    assert len(found) == sum(map(len, SAVED.values()))
    for key, answer in found.items():
        if way == "neither":
            assert "contains custom code" in answer["error"], key
            assert "trust_remote_code=True" in answer["error"], key
            continue
        assert "error" not in answer, (key, answer)
        assert answer["written"] == factorized.MODEL_TYPE, key
        assert answer["module"].startswith("transformers."), key
        torch.testing.assert_close(answer["merged"], answer["first"], rtol=1e-4, atol=1e-4)
        if key in folders[1]:
            torch.testing.assert_close(answer["first"], folders[1][key], rtol=1e-5, atol=1e-5)
            assert answer["missing"] == answer["unexpected"] == [], key
        assert not [name for name in answer["missing"] if "projection" in name or "embed" in name], (key, answer)


def test_what_is_written_is_the_stock_config_under_a_name_of_its_own(tmp_path):
    model = build("bert", V)
    factorize_embeddings(model, RANK)
    assert model.config.model_type == "bert"
    assert model.config.to_dict()["model_type"] == "bert"
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "factorized.py", "model.safetensors"}
    assert (tmp_path / "factorized.py").read_bytes() == Path(factorized.__file__).read_bytes()
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["base_model_type"]) == ("factorized_vocabulary", "bert")
    assert config["factorization"] == {
        "format": 1,
        "body": {"embeddings.word_embeddings": RANK},
        "head": {"cls.predictions.decoder": RANK},
    }
    assert config["auto_map"]["AutoModelForMaskedLM"] == "factorized.FactorizedBertForMaskedLM"
    model.config.to_json_file(tmp_path / "whole.json", use_diff=False)
    assert json.loads((tmp_path / "whole.json").read_text())["model_type"] == "factorized_vocabulary"
    sizes = 7 * (V + 16), V * 16
    saved = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    build("bert", V).save_pretrained(tmp_path / "dense")
    dense = sum(path.stat().st_size for path in (tmp_path / "dense").glob("*.safetensors"))
    assert dense - saved == pytest.approx(4 * (sizes[1] - sizes[0]), abs=200)


def test_a_merged_model_saves_as_the_stock_one(tmp_path):
    model = build("bert", V)
    factorize_embeddings(model, RANK)
    model.save_pretrained(tmp_path / "factors")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "factors")
    assert factorized_modules(model)
    expected = logits(model, IDS)
    model.merge_factorized().save_pretrained(tmp_path / "dense")
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    assert config["model_type"] == "bert"
    assert not {"auto_map", "factorization", "base_model_type"} & set(config)
    assert {path.name for path in (tmp_path / "dense").iterdir()} == {"config.json", "model.safetensors"}
    torch.testing.assert_close(logits(BertForMaskedLM.from_pretrained(tmp_path / "dense"), IDS), expected)


def test_the_sister_classes_load_without_an_auto_class(tmp_path, caplog):
    model = build("bert", V)
    factorize_embeddings(model, RANK)
    model.save_pretrained(tmp_path)
    again = factorized.FactorizedBertForMaskedLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, IDS), logits(model, IDS))
    assert type(again.config) is type(AutoConfig.from_pretrained(tmp_path)) is factorized.FactorizedBertConfig
    fresh = AutoModelForSequenceClassification.from_config(again.config)
    assert type(fresh) is factorized.FactorizedBertForSequenceClassification
    with pytest.raises(AttributeError, match="no class BertForNothing"):
        factorized.FactorizedBertForNothing  # noqa: B018
    with pytest.raises(RuntimeError, match="ize mismatch|mismatched"):
        BertForMaskedLM.from_pretrained(tmp_path)


def test_a_folder_of_a_newer_format_is_refused(tmp_path):
    model = build("bert", V)
    factorize_embeddings(model, RANK)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["factorization"]["format"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="format 2; this code reads format 1"):
        AutoModelForMaskedLM.from_pretrained(tmp_path)


def test_a_class_that_transformers_lacks_is_not_saved_as_factors(tmp_path):
    class BertForMe(BertForMaskedLM):
        pass

    model = build("bert", V)
    model.__class__ = BertForMe
    factorize_embeddings(model, RANK)
    with pytest.raises(TypeError, match="BertForMe'? is no class of transformers.*merge_factorized"):
        model.save_pretrained(tmp_path)


def test_a_part_of_a_model_is_saved_as_factors_too(tmp_path):
    model = build("bert", V)
    factorize_embeddings(model, RANK)
    model.bert.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, IDS), logits(model.bert, IDS))


OWN_HEADS = {
    "t5": (AutoModelForSeq2SeqLM, torch.float32, {}),
    "umt5": (AutoModelForSeq2SeqLM, torch.float32, {}),
    "llama": (AutoModelForCausalLM, torch.float32, {}),
    "bert": (AutoModelForMaskedLM, torch.bfloat16, {}),
    "bart": (AutoModelForSeq2SeqLM, torch.float32, {"max_shard_size": 2000}),
    "rembert": (AutoModelForMaskedLM, torch.float32, {}),
}


@pytest.mark.parametrize("name", OWN_HEADS)
def test_heads_of_another_rank_narrow_types_and_shards_come_back(name, tmp_path):
    auto, dtype, options = OWN_HEADS[name]
    model = build(name, V, tied=False).to(dtype)
    factorize_embeddings(model, RANK, head_rank=5)
    model.save_pretrained(tmp_path, **options)
    assert (tmp_path / "model.safetensors.index.json").exists() == bool(options)
    again = auto.from_pretrained(tmp_path)
    assert again.dtype == dtype
    assert again.get_output_embeddings().weight.shape == (V, 5)
    assert torch.equal(logits(again, IDS), logits(model, IDS))


@pytest.mark.parametrize("before", ["", "transformers.models.auto.configuration_auto, "])
def test_the_package_registers_whichever_is_imported_first(folders, before):
    """And a light import stays light: torch comes with transformers only."""
    script = (
        f"import {before}hf_vocab_extend; import sys; light = 'torch' not in sys.modules\n"
        "from transformers import AutoConfig; import sys\n"
        f"config = AutoConfig.from_pretrained({str(folders[0] / 'bert-True')!r})\n"
        "print(light, type(config).__name__, config.model_type)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split() == [str(not before), "FactorizedBertConfig", "bert"]


@pytest.mark.parametrize("tied", [True, False])
def test_a_full_rank_is_not_taken_for_a_dense_table(tmp_path, tied):
    """`F (V, D)` would fit into a stock class, which would compute something else without a word."""
    model = build("llama", V, tied)
    factorize_embeddings(model, model.config.hidden_size)
    expected = logits(model, IDS)
    model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ize mismatch|mismatched"):
        LlamaForCausalLM.from_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(again, IDS), expected)
    fresh = AutoModelForCausalLM.from_config(again.config)
    fresh.load_state_dict(again.state_dict())
    assert torch.equal(logits(fresh.eval(), IDS), expected)
    dense = merge_factorized(again)
    assert dense.get_input_embeddings().weight.shape == (V, model.config.hidden_size)
    torch.testing.assert_close(logits(dense, IDS), expected, rtol=1e-4, atol=1e-4)


def test_the_package_registers_beside_other_import_hooks_and_after_a_mere_look():
    script = """
import importlib.machinery, importlib.util, sys
import hf_vocab_extend
class Tracer:
    def find_spec(name, path=None, target=None):
        if name.startswith("transformers.models.auto."):
            return importlib.machinery.PathFinder.find_spec(name, path)
sys.meta_path.append(Tracer)
sys.meta_path.append(sys.meta_path.pop(sys.meta_path.index(importlib.machinery.PathFinder)))
found = importlib.util.find_spec("transformers.models.auto.configuration_auto")
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
waits = any(type(item).__module__ == "hf_vocab_extend.registration" for item in sys.meta_path)
print(found is not None, "factorized_vocabulary" in CONFIG_MAPPING, waits)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split() == ["True", "True", "False"]
