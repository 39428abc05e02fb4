"""One language, or all of them, through a folder, a fresh process and a Hub."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_vocab_extend import LanguageHeads
from hf_vocab_extend.errors import (
    BaseModelMismatchError,
    HubError,
    InvalidOptionError,
    InvalidTableError,
    OutputFolderError,
    TokenizerMismatchError,
    VerificationError,
)
from hf_vocab_extend.hub.card import split_front_matter
from hf_vocab_extend.modeling.language_files import LANGUAGE_FILE, TENSORS_FILE
from hf_vocab_extend.modeling.storage import HEADS_FILE

from . import factories
from .hub_server import WRITE_TOKEN, Failure, Hub
from .language_models import SW_SIZE, heads, output_of, pair, random_ids
from .tiny_models import MODELS, make_llama

NAMES = ("llama", "gemma", "gpt2", "bert", "bert_body", "t5", "marian", "mllama", "gemma3n_text", "rembert")
TEXT = "watu wote"
TOKEN = "ya"


def base_of(name: str, tied: bool = True) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return pair(name, tied)[:2]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[LanguageHeads, Path]:
    """A model with real tokenizers, and a folder that holds it untouched."""
    folder = tmp_path_factory.mktemp("real") / "org-base"
    tokenizer = factories.tokenizer("llama3")
    torch.manual_seed(0)
    model = make_llama(tokenizer, tied=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    both = LanguageHeads.from_model(model, tokenizer)
    both.add_language("sw", factories.xlmr_like(400, factories.swahili()), "subword")
    both.set_language(input="en", output="sw")
    return both, folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_one_language_comes_back_on_its_base_model(tmp_path: Path, name: str, tied: bool) -> None:
    both = heads(name, tied)
    both.save_language("sw", tmp_path / "sw")
    again = LanguageHeads.from_model(*base_of(name, tied))
    assert again.load_language(tmp_path / "sw") == "sw"
    assert again.output_language == "en"
    ids = random_ids(SW_SIZE - 5, 1)
    for language in ("sw", "en"):
        both.set_language(language)
        again.set_language(language)
        assert torch.equal(output_of(again, ids), output_of(both, ids))
        assert again.config.to_dict() == both.config.to_dict()
    assert again._language("sw").tensors.groups == both._language("sw").tensors.groups
    assert again.tokenizers["sw"].get_vocab() == both.tokenizers["sw"].get_vocab()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "gemma3n_text"])
def test_all_languages_come_back(tmp_path: Path, name: str, tied: bool) -> None:
    both = heads(name, tied)
    both.set_language(input="en", output="sw")
    both.save_pretrained(tmp_path / "out")
    assert (both.input_language, both.output_language) == ("en", "sw")
    again = LanguageHeads.from_pretrained(tmp_path / "out")
    assert again.languages == ("en", "sw")
    assert (again.input_language, again.output_language) == ("en", "sw")
    ids, languages = random_ids(SW_SIZE - 5, 1), torch.tensor([[0, 0, 1, 1, 0, 1, 1]] * 2)
    assert torch.equal(output_of(again, ids, language_ids=languages), output_of(both, ids, language_ids=languages))
    for language in ("en", "sw"):
        both.set_language(language)
        again.set_language(language)
        assert torch.equal(output_of(again, ids), output_of(both, ids))
    assert again._language("sw").tensors.groups == both._language("sw").tensors.groups


def in_a_fresh_process(code: str, folder: Path) -> str:
    """Run code with the package installed and nothing else of this process; returns what it prints."""
    script = folder / "script.py"
    script.write_text(code, "utf-8")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script.name], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def test_a_fresh_process_loads_one_language_by_the_code_of_its_card(
    real: tuple[LanguageHeads, Path], tmp_path: Path
) -> None:
    both, base = real
    shutil.copytree(base, tmp_path / "org" / "base")
    both.save_language("sw", tmp_path / "sw", base_model="org/base")
    card = (tmp_path / "sw" / "README.md").read_text("utf-8")
    snippet = card.split("```python\n")[1].split("```")[0]
    assert 'from_pretrained("org/base")' in snippet
    code = (
        f"{snippet}\nimport torch\nfrom safetensors.torch import save_file\n"
        f"batch = heads.encode([('en', 'Read this:'), ('sw', '{TEXT}')])\n"
        "heads.eval()\n"
        "with torch.no_grad():\n"
        "    logits = heads(**batch).logits\n"
        "ids = heads.generate(**batch, max_new_tokens=5, do_sample=False)\n"
        "save_file({'logits': logits, 'ids': ids}, 'out.safetensors')\n"
    )
    in_a_fresh_process(code, tmp_path)
    batch = both.encode([("en", "Read this:"), ("sw", TEXT)])
    found = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(found["logits"], both(**batch).logits, atol=1e-6, rtol=0)
    assert torch.equal(found["ids"], both.generate(**batch, max_new_tokens=5, do_sample=False))


def test_a_fresh_process_loads_everything(real: tuple[LanguageHeads, Path], tmp_path: Path) -> None:
    both, _ = real
    both.save_pretrained(tmp_path / "hydra")
    code = (
        "import torch\nfrom hf_vocab_extend import LanguageHeads\nfrom safetensors.torch import save_file\n"
        "heads = LanguageHeads.from_pretrained('hydra')\n"
        f"batch = heads.encode([('en', 'Read this:'), ('sw', '{TEXT}')])\n"
        "with torch.no_grad():\n    out = {'mixed': heads(**batch).logits}\n"
        "    heads.set_language('en')\n    ids = heads.encode('Read this')['input_ids']\n"
        "    out['base'] = heads(ids).logits\n"
        "out['rows'] = heads.model.get_input_embeddings().weight.detach()\n"
        "save_file(out, 'out.safetensors')\nprint(*heads.languages, heads.config.tie_word_embeddings)\n"
    )
    assert in_a_fresh_process(code, tmp_path) == "en sw True"
    found = load_file(tmp_path / "out.safetensors")
    with torch.no_grad():
        mixed = both(**both.encode([("en", "Read this:"), ("sw", TEXT)])).logits
        with both.using("en"):
            base = both(both.encode("Read this")["input_ids"]).logits
            assert torch.equal(found["rows"], both.model.get_input_embeddings().weight)
    # equal tensors lie elsewhere in the memory of another process, and products may then round otherwise
    torch.testing.assert_close(found["mixed"], mixed, atol=1e-6, rtol=0)
    torch.testing.assert_close(found["base"], base, atol=1e-6, rtol=0)


def test_the_whole_folder_is_the_base_model_for_everyone_else(
    real: tuple[LanguageHeads, Path], tmp_path: Path
) -> None:
    both, base = real
    both.save_pretrained(tmp_path / "hydra")
    plain, untouched = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "hydra", base))
    assert plain.config.to_diff_dict() == untouched.config.to_diff_dict()
    theirs = untouched.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in plain.state_dict().items())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hydra")
    assert tokenizer("Read this now").input_ids == both.tokenizers["en"]("Read this now").input_ids
    stored = load_file(tmp_path / "hydra" / "languages" / "sw" / TENSORS_FILE)
    assert list(stored) == ["model.embed_tokens.weight"], "a tied head is stored once"


@pytest.mark.parametrize("name", list(MODELS))
def test_real_tokenizers_come_back(tmp_path: Path, name: str) -> None:
    model, tokenizer = MODELS[name][0]()
    new = (factories.t5_like if name == "t5" else factories.xlmr_like)(400, factories.swahili())
    both = LanguageHeads.from_model(copy.deepcopy(model), tokenizer)
    both.add_language("sw", new, "subword")
    both.save_language("sw", tmp_path / "sw")
    again = LanguageHeads.from_model(model, tokenizer)
    again.load_language(tmp_path / "sw", name="swahili")
    assert again.languages == ("en", "swahili")
    lines = factories.swahili(20)
    assert again.tokenizers["swahili"](lines).input_ids == new(lines).input_ids
    assert again._language("swahili").mapping.explain(TOKEN) == both._language("sw").mapping.explain(TOKEN)
    assert again._language("swahili").report.method == "subword"


def test_a_language_in_another_type_takes_that_of_the_model(tmp_path: Path) -> None:
    heads("llama").to(torch.bfloat16).save_language("sw", tmp_path / "sw")
    again = LanguageHeads.from_model(*base_of("llama"))
    again.load_language(tmp_path / "sw")
    assert {tensor.dtype for tensor in again.vocabularies.parameters()} == {torch.float32}


# Cards


def test_the_card_names_the_base_model(real: tuple[LanguageHeads, Path], tmp_path: Path) -> None:
    both, _ = real
    both.save_language("sw", tmp_path / "sw-head", base_model="org/base", license="apache-2.0")
    front, body = split_front_matter((tmp_path / "sw-head" / "README.md").read_text("utf-8"))
    assert front["base_model"] == "org/base"
    assert front["base_model_relation"] == "adapter"
    assert front["language"] == ["sw"]
    assert front["library_name"] == "hf_vocab_extend"
    assert front["license"] == "apache-2.0"
    assert "`model.embed_tokens.weight` | 405 x 16" in body
    assert "`subword`" in body
    both.save_pretrained(tmp_path / "hydra")
    front, body = split_front_matter((tmp_path / "hydra" / "README.md").read_text("utf-8"))
    assert front["language"] == ["en", "sw"]
    assert "base_model" not in front
    assert 'LanguageHeads.from_pretrained("hydra")' in body


def test_saving_again_keeps_what_the_user_wrote(tmp_path: Path) -> None:
    both = heads("llama")
    both.save_language("sw", tmp_path / "sw")
    readme = tmp_path / "sw" / "README.md"
    readme.write_text(readme.read_text("utf-8") + "\nMy own words.\n", "utf-8")
    with pytest.raises(OutputFolderError, match="overwrite=True"):
        both.save_language("sw", tmp_path / "sw")
    both.save_language("sw", tmp_path / "sw", overwrite=True, license="mit")
    text = readme.read_text("utf-8")
    assert text.count("My own words.") == text.count("## How to load it") == 1
    assert split_front_matter(text)[0]["license"] == "mit"


def test_an_unknown_key_of_the_card_stops_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="licence"):
        heads("llama").save_language("sw", tmp_path / "sw", licence="mit")
    assert not (tmp_path / "sw").exists()


# Bad input


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    heads("llama").save_language("sw", tmp_path / "sw")
    return tmp_path / "sw"


def cut(file: Path, share: float = 0.5) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("file", "error"),
    [(LANGUAGE_FILE, InvalidTableError), (TENSORS_FILE, InvalidTableError), ("tokenizer.json", VerificationError)],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_file_that_is_cut_short_is_named(stored: Path, file: str, error: type[Exception], share: float) -> None:
    cut(stored / file, share)
    again = LanguageHeads.from_model(*base_of("llama"))
    with pytest.raises(error, match=file.replace(".", r"\.")):
        again.load_language(stored)
    assert again.languages == ("en",)


@pytest.mark.parametrize("file", [LANGUAGE_FILE, TENSORS_FILE])
def test_a_file_that_is_missing_is_named(stored: Path, file: str) -> None:
    (stored / file).unlink()
    with pytest.raises((InvalidOptionError, InvalidTableError), match=file.replace(".", r"\.")):
        LanguageHeads.from_model(*base_of("llama")).load_language(stored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "format 9"),
        ({"body": None}, "lacks a field"),
        ({"settings": []}, "lacks a field"),
        ({"tensors": [{}]}, "lacks a field"),
        ({"tensors": [{"shape": [3, 3], "names": ["lm_head.weight"]}]}, "no tensor 'lm_head"),
    ],
)
def test_a_config_that_was_changed(stored: Path, change: dict, message: str) -> None:
    content = json.loads((stored / LANGUAGE_FILE).read_text("utf-8"))
    (stored / LANGUAGE_FILE).write_text(json.dumps(content | change), "utf-8")
    with pytest.raises(InvalidTableError, match=message):
        LanguageHeads.from_model(*base_of("llama")).load_language(stored)


def test_tensors_that_were_changed(stored: Path) -> None:
    tensors = load_file(stored / TENSORS_FILE)
    name = next(iter(tensors))
    save_file({name: tensors[name].fill_(float("nan"))}, stored / TENSORS_FILE)
    with pytest.raises(InvalidTableError, match="NaN"):
        LanguageHeads.from_model(*base_of("llama")).load_language(stored)
    save_file({name: tensors[name][:7].nan_to_num()}, stored / TENSORS_FILE)
    with pytest.raises(InvalidTableError, match="shape"):
        LanguageHeads.from_model(*base_of("llama")).load_language(stored)


def test_a_tokenizer_of_another_language_is_refused(stored: Path) -> None:
    factories.tokenizer("gpt2").save_pretrained(stored)
    with pytest.raises(TokenizerMismatchError, match=rf"its table {SW_SIZE} rows"):
        LanguageHeads.from_model(*base_of("llama")).load_language(stored)


@pytest.mark.parametrize("name", ["gemma", "gpt2", "bert"])
def test_another_base_model_is_named(stored: Path, name: str) -> None:
    with pytest.raises(BaseModelMismatchError, match="made for a LlamaForCausalLM"):
        LanguageHeads.from_model(*base_of(name)).load_language(stored)


def test_a_body_that_was_trained_further_needs_a_word(stored: Path) -> None:
    model, tokenizer = base_of("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1.05)
    again = LanguageHeads.from_model(model, tokenizer)
    with pytest.raises(BaseModelMismatchError, match="allow_other_body=True"):
        again.load_language(stored)
    with pytest.warns(UserWarning, match="other values"):
        again.load_language(stored, allow_other_body=True)
    assert again.languages == ("en", "sw")


def test_a_language_trained_with_the_body_fits_that_body(tmp_path: Path) -> None:
    both = heads("llama")
    with torch.no_grad():
        both.model.model.norm.weight.add_(0.25)
    both.save_language("sw", tmp_path / "sw")
    both.remove_language("sw")
    assert both.load_language(tmp_path / "sw") == "sw"
    with pytest.raises(BaseModelMismatchError):
        LanguageHeads.from_model(*base_of("llama")).load_language(tmp_path / "sw")


def test_two_languages_under_one_name(stored: Path) -> None:
    again = LanguageHeads.from_model(*base_of("llama"))
    again.load_language(stored)
    with pytest.raises(InvalidOptionError, match="a language 'sw' already"):
        again.load_language(stored)
    with pytest.raises(InvalidOptionError, match="a language 'en' already"):
        again.load_language(stored, name="en")


def test_folders_that_hold_something_else(tmp_path: Path, stored: Path) -> None:
    again = LanguageHeads.from_model(*base_of("llama"))
    with pytest.raises(InvalidOptionError, match="holds no language_config.json"):
        again.load_language(tmp_path)
    with pytest.raises(OutputFolderError, match="no folder"):
        again.load_language(tmp_path / "nowhere")
    with pytest.raises(InvalidOptionError, match="holds no language_heads.json"):
        LanguageHeads.from_pretrained(stored)
    heads("llama").save_pretrained(tmp_path / "all")
    cut(tmp_path / "all" / HEADS_FILE)
    with pytest.raises(InvalidTableError, match=r"language_heads\.json"):
        LanguageHeads.from_pretrained(tmp_path / "all")


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    both = heads("llama")
    both.set_language("sw")
    monkeypatch.setattr("hf_vocab_extend.modeling.language_files.save_file", fail)
    for save in (lambda folder: both.save_language("sw", folder), both.save_pretrained):
        with pytest.raises(OutputFolderError, match="nothing was left"):
            save(tmp_path / "out")
        assert list(tmp_path.iterdir()) == []
    assert both.output_language == "sw"


# Hub


def test_one_language_goes_to_the_hub_in_one_commit(hub: Hub) -> None:
    both = heads("llama")
    commit = both.push_language("sw", "me/llama-sw", base_model="org/llama", token=WRITE_TOKEN)
    repo = hub.repos["me/llama-sw"]
    assert [entry.oid for entry in repo.commits] == [commit.oid]
    files = repo.branches["main"]
    assert {LANGUAGE_FILE, TENSORS_FILE, "tokenizer.json", "README.md", "generation_config.json"} <= set(files)
    assert "config.json" not in files
    front, body = split_front_matter(files["README.md"].decode("utf-8"))
    assert front["base_model"] == "org/llama"
    assert 'heads.load_language("me/llama-sw")' in body

    files["README.md"] += b"\nMy own words.\n"
    both.push_language("sw", "me/llama-sw", base_model="org/llama", token=WRITE_TOKEN)
    again = hub.repos["me/llama-sw"].branches["main"]["README.md"].decode("utf-8")
    assert again.count("My own words.") == again.count("## How to load it") == 1


def test_everything_goes_to_the_hub(hub: Hub) -> None:
    both = heads("llama")
    both.push_to_hub("me/llama-hydra", token=WRITE_TOKEN)
    files = set(hub.repos["me/llama-hydra"].branches["main"])
    assert {"config.json", "model.safetensors", HEADS_FILE, f"languages/sw/{TENSORS_FILE}"} <= files
    both.remove_language("sw")
    both.push_to_hub("me/llama-hydra", token=WRITE_TOKEN)
    files = hub.repos["me/llama-hydra"].branches["main"]
    assert {name for name in files if name.startswith("languages/")} == set()
    assert split_front_matter(files["README.md"].decode("utf-8"))[0]["language"] == ["en"]


def test_a_language_comes_from_the_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The snapshot is that of the client; here only what is asked of it, and what is done with it."""
    both = heads("llama")
    both.save_language("sw", tmp_path / "snapshot")
    asked = []

    def snapshot(name: str, **options: object) -> str:
        asked.append((name, options["revision"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    again = LanguageHeads.from_model(*base_of("llama"))
    assert again.load_language("me/llama-sw", revision="v1") == "sw"
    assert asked == [("me/llama-sw", "v1")]


def test_a_hub_that_refuses_is_explained(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.failures.append(Failure(r"/api/repos/create", 403))
    with pytest.raises(HubError, match="write access"):
        heads("llama").push_language("sw", "me/llama-sw", token=WRITE_TOKEN)
    with pytest.raises(InvalidOptionError, match="no name of a repository"):
        heads("llama").push_language("sw", "not a name")
