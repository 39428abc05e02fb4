"""Offline, quiet, and repeatable."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch

from .hub_server import running_hub
from .stub_extension import make_extension

_FILE = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep caches of a test session out of the user's home."""
    monkeypatch.setenv("HF_VOCAB_EXTEND_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Two threads: the machines that run the tests have two cores; one where several processes share them."""
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A running Hub that this process' client talks to, online, by LFS; its cache is of this test alone."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with running_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.setattr(constants, "ENDPOINT", running.endpoint)
        monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # the Trainer's, kept for a process
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.endpoint + _FILE)
        yield running
    huggingface_hub.close_session()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread: on tensors this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved folder."""
    folder = tmp_path_factory.mktemp("saved") / "out"
    make_extension().save_pretrained(folder, verify=False)
    return folder


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Do not wait between tries to push, neither here nor in the client; returns what was to be waited."""
    found: list[float] = []
    monkeypatch.setattr("hf_vocab_extend.hub.retries.time.sleep", found.append)
    return found
