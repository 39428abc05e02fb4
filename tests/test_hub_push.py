"""Pushing with the real client over HTTP to a local server that speaks the Hub's routes."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_vocab_extend.errors import HubError, InvalidOptionError
from hf_vocab_extend.hub.card import split_front_matter
from hf_vocab_extend.hub.push import push_folder

from .hub_server import READ_TOKEN, WRITE_TOKEN, Failure, Hub
from .stub_extension import make_extension

NAME = "me/swahili-bert"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved folder."""
    folder = tmp_path_factory.mktemp("push") / "out"
    make_extension().save_pretrained(folder)
    return folder


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Do not wait between the client's retries; returns what it wanted to wait."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def test_one_commit_holds_every_file(hub: Hub, saved: Path) -> None:
    commit = push_folder(saved, NAME, token=WRITE_TOKEN)
    repo = hub.repos[NAME]
    assert [(entry.branch, entry.oid) for entry in repo.commits] == [("main", commit.oid)]
    assert set(repo.branches["main"]) == {path.name for path in saved.iterdir()}
    for name, content in repo.branches["main"].items():
        if name != "README.md":
            assert content == (saved / name).read_bytes(), name
    assert commit.commit_url == f"{hub.endpoint}/{NAME}/commit/{commit.oid}"
    assert hub.repos[NAME].private is False


def test_weights_go_by_lfs_and_the_rest_does_not(hub: Hub, saved: Path) -> None:
    push_folder(saved, NAME, token=WRITE_TOKEN)
    large = {hashlib.sha256(path.read_bytes()).hexdigest() for path in saved.glob("*.safetensors")}
    assert set(hub.blobs) == large
    assert len(large) == 2
    tensors = load(hub.repos[NAME].branches["main"]["model.safetensors"])
    assert "bert.embeddings.word_embeddings.weight" in tensors


def test_the_card_carries_the_final_name(hub: Hub, saved: Path) -> None:
    push_folder(saved, "swahili-bert", token=WRITE_TOKEN)
    card = hub.repos[NAME].branches["main"]["README.md"].decode()
    assert f'from_pretrained("{NAME}")' in card
    assert 'from_pretrained("out")' not in card
    front, _ = split_front_matter(card)
    assert front["tags"][:2] == ["hf_vocab_extend", "vocabulary-extension"]


@pytest.mark.parametrize(("private", "expected"), [(True, True), (False, False), (None, False)])
def test_private(hub: Hub, saved: Path, private: bool | None, expected: bool) -> None:
    push_folder(saved, NAME, token=WRITE_TOKEN, private=private)
    assert hub.repos[NAME].private is expected


def test_second_push_of_the_same_folder_makes_no_commit(hub: Hub, saved: Path) -> None:
    first = push_folder(saved, NAME, token=WRITE_TOKEN)
    second = push_folder(saved, NAME, token=WRITE_TOKEN)
    assert second.oid == first.oid
    assert len(hub.repos[NAME].commits) == 1


def test_revision_makes_a_branch_and_leaves_main_alone(hub: Hub, saved: Path) -> None:
    for _ in range(2):
        push_folder(saved, NAME, token=WRITE_TOKEN, revision="trial")
    assert hub.repos[NAME].branches["main"] == {}
    assert "model.safetensors" in hub.repos[NAME].branches["trial"]


def test_pull_request(hub: Hub, saved: Path) -> None:
    commit = push_folder(saved, NAME, token=WRITE_TOKEN, create_pr=True, commit_message="Swahili")
    assert commit.pr_url == f"{hub.endpoint}/{NAME}/discussions/1"
    assert hub.repos[NAME].branches["main"] == {}
    assert hub.repos[NAME].commits[0].summary == "Swahili"


def test_prose_on_the_hub_survives_and_local_prose_wins(hub: Hub, saved: Path, tmp_path: Path) -> None:
    push_folder(saved, NAME, token=WRITE_TOKEN)
    tree = hub.repos[NAME].branches["main"]
    tree["README.md"] = tree["README.md"] + b"\n## Thanks\n\nTo everyone.\n"
    push_folder(saved, NAME, token=WRITE_TOKEN)
    assert "To everyone." in tree["README.md"].decode()
    local = tmp_path / "local"
    local.mkdir()
    for path in saved.iterdir():
        (local / path.name).write_bytes(path.read_bytes())
    (local / "README.md").write_text((saved / "README.md").read_text() + "\nMy own words.\n")
    push_folder(local, NAME, token=WRITE_TOKEN)
    card = hub.repos[NAME].branches["main"]["README.md"].decode()
    assert "My own words." in card
    assert card.count("hf_vocab_extend: begin") == 1


def test_push_to_hub_saves_verifies_and_pushes(hub: Hub) -> None:
    extension = make_extension()
    commit = extension.push_to_hub(NAME, token=WRITE_TOKEN, private=True, extra_files={"1_Pooling/config.json": b"{}"})
    tree = hub.repos[NAME].branches["main"]
    assert len(hub.repos[NAME].commits) == 1
    assert commit.oid == hub.repos[NAME].commits[0].oid
    assert tree["1_Pooling/config.json"] == b"{}"
    assert b"vocab_extension" not in tree["config.json"]
    assert f'from_pretrained("{NAME}")' in tree["README.md"].decode()


def test_what_is_given_goes_before_the_card_on_the_hub_and_that_before_what_was_found(hub: Hub) -> None:
    extension = make_extension()
    extension.push_to_hub(NAME, token=WRITE_TOKEN, license="mit", card={"tags": ["first"]})
    tree = hub.repos[NAME].branches["main"]
    assert split_front_matter(tree["README.md"].decode())[0]["license"] == "mit"
    own = "---\nlicense: cc-by-4.0\npipeline_tag: sentence-similarity\n---\n# Own\n\nWords.\n"
    tree["README.md"] = own.encode()
    extension.push_to_hub(NAME, token=WRITE_TOKEN, card={"thumbnail": "x.png"})
    front, body = split_front_matter(tree["README.md"].decode())
    assert (front["license"], front["pipeline_tag"]) == ("cc-by-4.0", "sentence-similarity")
    assert (front["thumbnail"], front["library_name"]) == ("x.png", "transformers")
    assert "Words." in body
    extension.push_to_hub(NAME, token=WRITE_TOKEN, license="mit")
    assert split_front_matter(tree["README.md"].decode())[0]["license"] == "mit"


def test_files_of_an_older_model_go_in_the_same_commit(hub: Hub) -> None:
    extension = make_extension()
    extension.push_to_hub(NAME, token=WRITE_TOKEN)
    tree = hub.repos[NAME].branches["main"]
    tree |= {"vocab.txt": b"old", "notes.txt": b"mine", "special_tokens_map.json": b"{}"}
    extension.push_to_hub(NAME, token=WRITE_TOKEN, max_shard_size="20KB")
    assert len(hub.repos[NAME].commits) == 2
    assert "model.safetensors.index.json" in tree
    assert not {"model.safetensors", "vocab.txt", "special_tokens_map.json"} & set(tree)
    assert tree["notes.txt"] == b"mine"


def test_hidden_files_stay_here(hub: Hub, saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / ".cache").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / "checkpoint-10").mkdir()
    for name in ("config.json", ".env", ".cache/x", "__pycache__/y", "checkpoint-10/model.safetensors"):
        (folder / name).write_text("{}")
    push_folder(folder, NAME, token=WRITE_TOKEN)
    assert set(hub.repos[NAME].branches["main"]) == {"config.json"}


def test_the_front_matter_is_what_the_client_reads(hub: Hub, tmp_path: Path) -> None:
    results = [{"task": "retrieval", "dataset": "org/pairs", "metric": "R@1", "value": 0.75, "before": 0.5}]
    report = make_extension().report.with_training({"steps": 3}).with_evaluations(results)
    extension = replace(make_extension(), report=report)
    extension.save_pretrained(tmp_path / "local-name", license="mit", verify=False)
    (tmp_path / "local-name" / "README.md").write_text(
        (tmp_path / "local-name" / "README.md")
        .read_text()
        .replace("tags:", "datasets: [org/text]\nmetrics: [recall]\ntags:")
    )
    for _ in range(2):
        push_folder(tmp_path / "local-name", NAME, token=WRITE_TOKEN)
    (tmp_path / "README.md").write_bytes(hub.repos[NAME].branches["main"]["README.md"])
    front = huggingface_hub.metadata_load(tmp_path / "README.md")
    data = huggingface_hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, front["base_model_relation"]) == ("org/base-model", "finetune")
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "fill-mask", "mit")
    assert (data.datasets, data.metrics, data.language) == (["org/text"], ["recall"], ["sw"])
    assert [(item.metric_type, item.metric_value, item.dataset_type) for item in data.eval_results] == [
        ("r@1", 0.75, "org/pairs")
    ]
    assert [entry["name"] for entry in front["model-index"]] == ["swahili-bert"], "once, by its final name"


def test_another_folder_removes_nothing(hub: Hub, saved: Path, tmp_path: Path) -> None:
    push_folder(saved, NAME, token=WRITE_TOKEN)
    before = set(hub.repos[NAME].branches["main"])
    (tmp_path / "config.json").write_text("{}")
    push_folder(tmp_path, NAME, token=WRITE_TOKEN)
    assert set(hub.repos[NAME].branches["main"]) == before


FAILURES = {
    "no token": (None, None, r"401.*hf auth login"),
    "expired token": ("hf_" + "X" * 30, None, r"401.*hf auth login"),
    "read-only token": (READ_TOKEN, None, r"403.*write access"),
    "gone meanwhile": (WRITE_TOKEN, Failure("/preupload/", 404), r"404.*user/name"),
    "conflict": (WRITE_TOKEN, Failure("POST .*/commit/", 409, "moved"), r"409 \(moved\).*Push again"),
    "parent moved": (WRITE_TOKEN, Failure("POST .*/commit/", 412), r"412.*Push again"),
    "too large": (WRITE_TOKEN, Failure("PUT /lfs/", 413), r"413.*max_shard_size"),
    "rate limit": (WRITE_TOKEN, Failure("/preupload/", 429), r"429.*Wait"),
    "rate limit at once": (WRITE_TOKEN, Failure("/repos/create", 429), r"429.*Wait"),
    "server": (WRITE_TOKEN, Failure("PUT /lfs/", 503), r"503.*later"),
    "server at the commit": (WRITE_TOKEN, Failure("POST .*/commit/", 500), r"500.*later"),
    "bad front matter": (WRITE_TOKEN, Failure("validate-yaml", 400, "bad yaml"), r"400|front matter|yaml"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_refusals_are_one_line_with_a_remedy(
    case: str, hub: Hub, saved: Path, no_waiting: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    token, failure, expected = FAILURES[case]
    hub.failures = [] if failure is None else [Failure(failure.pattern, failure.status, failure.message)]
    caplog.set_level(logging.DEBUG)
    with pytest.raises(HubError, match=expected) as caught:
        push_folder(saved, NAME, token=token)
    message = str(caught.value)
    assert "\n" not in message
    assert NAME in message
    assert not any(commit for repo in hub.repos.values() for commit in repo.commits)
    for text in (message, caplog.text):
        assert not re.search(r"hf_[A-Za-z0-9]{16}", text)
    assert caught.value.__cause__ is None


def test_a_passing_failure_is_retried(hub: Hub, saved: Path, no_waiting: list[float]) -> None:
    hub.failures = [
        Failure("/preupload/", 503, times=2),
        Failure("PUT /lfs/", 429, headers={"Retry-After": "3"}, times=1),
    ]
    push_folder(saved, NAME, token=WRITE_TOKEN)
    assert len(hub.repos[NAME].commits) == 1
    assert len(no_waiting) >= 3


def test_a_token_that_the_server_repeats_is_not_shown(hub: Hub, saved: Path) -> None:
    hub.failures = [Failure("/repos/create", 403, f"token {WRITE_TOKEN} has no rights")]
    with pytest.raises(HubError, match="has no rights") as caught:
        push_folder(saved, NAME, token=WRITE_TOKEN)
    assert WRITE_TOKEN not in str(caught.value)


def test_a_language_that_the_hub_does_not_know_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="Swahili, which is no ISO 639 code"):
        make_extension(languages=("Swahili",)).push_to_hub(NAME, token=WRITE_TOKEN)
    assert hub.repos[NAME].commits == []


def test_a_broken_report_shows_before_anything_is_created(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "vocab_extension.json").write_text("{")
    with pytest.raises(InvalidOptionError, match="not JSON"):
        push_folder(tmp_path, NAME, token=WRITE_TOKEN)
    assert hub.requests == []


def test_an_answer_that_the_client_does_not_understand(hub: Hub, saved: Path) -> None:
    hub.failures = [Failure("objects/batch", 200)]
    with pytest.raises(HubError, match="Malformed.*HF_HUB_DISABLE_XET"):
        push_folder(saved, NAME, token=WRITE_TOKEN)


def test_no_server(hub: Hub, saved: Path, no_waiting: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"127\.0\.0\.1:9 cannot be reached.*HF_ENDPOINT"):
        push_folder(saved, NAME, token=WRITE_TOKEN)


def test_offline_mode(hub: Hub, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="Unset HF_HUB_OFFLINE"):
        push_folder(saved, NAME, token=WRITE_TOKEN)


@pytest.mark.parametrize("name", ["a/b/c", "", "me/with space", "-x", "a--b"])
def test_bad_names(name: str, hub: Hub, saved: Path) -> None:
    with pytest.raises(InvalidOptionError, match="user/name"):
        push_folder(saved, name, token=WRITE_TOKEN)
    assert hub.requests == []


def test_a_folder_without_a_model(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"config\.json"):
        push_folder(tmp_path, NAME, token=WRITE_TOKEN)
    assert hub.requests == []


def test_no_token_in_any_uploaded_file(hub: Hub) -> None:
    extension = make_extension(notes=(f"the token was {WRITE_TOKEN}",))
    extension.push_to_hub(NAME, token=WRITE_TOKEN)
    for name, content in hub.repos[NAME].branches["main"].items():
        assert WRITE_TOKEN.encode() not in content, name


def test_a_stranger_loads_it_from_the_hub(hub: Hub, saved: Path, tmp_path: Path) -> None:
    push_folder(saved, NAME, token=WRITE_TOKEN)
    card = hub.repos[NAME].branches["main"]["README.md"].decode()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    code += "\nimport torch\ntorch.save(model(**inputs).logits, 'logits.pt')\n"
    environment = {**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tokenizer, model = AutoTokenizer.from_pretrained(saved), AutoModelForMaskedLM.from_pretrained(saved)
    text = re.search(r'tokenizer\("(.*?)"', code)[1]
    with torch.no_grad():
        expected = model(**tokenizer(text, return_tensors="pt")).logits
    assert torch.equal(torch.load(tmp_path / "logits.pt"), expected)


def test_the_client_agrees_that_the_server_is_a_hub(hub: Hub, saved: Path) -> None:
    push_folder(saved, NAME, token=WRITE_TOKEN)
    api = HfApi(endpoint=hub.endpoint, token=WRITE_TOKEN)
    assert api.whoami()["name"] == "me"
    assert "model.safetensors" in api.list_repo_files(NAME)
    assert api.model_info(NAME).sha == hub.repos[NAME].commits[0].oid
