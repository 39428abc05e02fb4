"""What was pushed comes back by its name: public and private, by branch and commit, from the cache when offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel

from hf_vocab_extend import LanguageHeads, factorize_embeddings
from hf_vocab_extend.hub.push import push_folder

from .hub_server import READ_TOKEN, WRITE_TOKEN, Hub
from .language_models import heads, output_of, pair, random_ids
from .stub_extension import make_bert, make_extension

NAME = "me/swahili-bert"


def check(model: PreTrainedModel, folder: Path) -> None:
    """The model has every tensor of the folder."""
    expected = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    found = model.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_by_name_from_the_hub_then_from_the_cache(hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = push_folder(saved, NAME, token=WRITE_TOKEN)
    hub.requests.clear()
    check(AutoModelForMaskedLM.from_pretrained(NAME), saved)
    text = "Maji ni uhai, na watu wengi."
    expected = AutoTokenizer.from_pretrained(saved)(text)["input_ids"]
    assert AutoTokenizer.from_pretrained(NAME)(text)["input_ids"] == expected
    assert hub.count(r"GET /me/.*model\.safetensors") == 1
    check(AutoModelForMaskedLM.from_pretrained(NAME), saved)
    assert hub.count(r"GET /me/.*model\.safetensors") == 1, "the second time it is in the cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    check(AutoModelForMaskedLM.from_pretrained(NAME), saved)
    check(AutoModelForMaskedLM.from_pretrained(NAME, revision=commit.oid), saved)
    assert AutoTokenizer.from_pretrained(NAME)(text)["input_ids"] == expected
    assert hub.requests == []


def test_private(hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_folder(saved, NAME, token=WRITE_TOKEN, private=True)
    with pytest.raises(OSError, match=r"not a valid model identifier|token"):
        AutoModelForMaskedLM.from_pretrained(NAME)
    check(AutoModelForMaskedLM.from_pretrained(NAME, token=READ_TOKEN), saved)
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    assert len(AutoTokenizer.from_pretrained(NAME)) == len(AutoTokenizer.from_pretrained(saved))


def test_branches_commits_and_pull_requests(hub: Hub, saved: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = make_extension(model=make_bert(max_position_embeddings=32))
    other.save_pretrained(tmp_path / "other", verify=False)
    first = push_folder(saved, NAME, token=WRITE_TOKEN)
    push_folder(tmp_path / "other", NAME, token=WRITE_TOKEN, revision="trial")
    pull = push_folder(tmp_path / "other", NAME, token=WRITE_TOKEN, create_pr=True)
    check(AutoModelForMaskedLM.from_pretrained(NAME), saved)
    check(AutoModelForMaskedLM.from_pretrained(NAME, revision="trial"), tmp_path / "other")
    check(AutoModelForMaskedLM.from_pretrained(NAME, revision=pull.pr_revision), tmp_path / "other")
    push_folder(tmp_path / "other", NAME, token=WRITE_TOKEN)
    check(AutoModelForMaskedLM.from_pretrained(NAME), tmp_path / "other")
    check(AutoModelForMaskedLM.from_pretrained(NAME, revision=first.oid), saved)


_STRANGER = """
import json, sys
sys.modules["hf_vocab_extend"] = None
import torch
from transformers import AutoModelForMaskedLM
model = AutoModelForMaskedLM.from_pretrained("me/swahili-bert", trust_remote_code=True).eval()
with torch.no_grad():
    logits = model(input_ids=torch.tensor([[5, 6, 7]])).logits
print(json.dumps({"module": type(model).__module__, "logits": logits[0, :, :20].tolist()}))
"""


def test_a_factorised_folder_by_its_own_code(hub: Hub, tmp_path: Path) -> None:
    extension = make_extension()
    factorize_embeddings(extension.model, 8)
    extension.push_to_hub(NAME, token=WRITE_TOKEN, factorized=True, verify=False)
    assert "factorized.py" in hub.repos[NAME].branches["main"]
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _STRANGER], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["module"].startswith("transformers_modules.me.")
    with torch.no_grad():
        expected = extension.model.eval()(input_ids=torch.tensor([[5, 6, 7]])).logits[0, :, :20]
    torch.testing.assert_close(torch.tensor(answer["logits"]), expected)


def test_language_heads_come_back(hub: Hub) -> None:
    both = heads("llama")
    both.push_to_hub("me/llama-both", token=WRITE_TOKEN, private=True)
    both.push_language("sw", "me/llama-sw", token=WRITE_TOKEN, revision="v1")
    ids = random_ids(40, 5)
    again = LanguageHeads.from_pretrained("me/llama-both", token=READ_TOKEN)
    model, tokenizer, _ = pair("llama")  # the model that the language was made for
    alone = LanguageHeads.from_model(model, tokenizer)
    assert alone.load_language("me/llama-sw", revision="v1") == "sw"
    for found in (again, alone):
        for item in (both, found):
            item.set_language("sw")
        torch.testing.assert_close(output_of(found, ids), output_of(both, ids))
