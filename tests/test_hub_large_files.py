"""Large files by every route that the client takes: one request, parts, and Xet with the plain route behind it."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import _xet

from hf_vocab_extend.errors import HubError
from hf_vocab_extend.hub.push import push_folder
from hf_vocab_extend.hub.retries import Patience

from .hub_server import WRITE_TOKEN, Failure, Hub
from .hub_xet import CAS_TOKEN

NAME = "me/swahili-bert"
WEIGHTS = "model.safetensors"


@pytest.fixture
def by_xet(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """A Hub that the client talks to by Xet, with a store of its own and few tries."""
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")
    monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())
    return hub


def push(folder: Path, **options):
    """Push with a token that may write."""
    return push_folder(folder, NAME, token=WRITE_TOKEN, **options)


def weights_on(hub: Hub) -> bytes:
    """The weights that the main branch holds."""
    return hub.repos[NAME].branches["main"][WEIGHTS]


@pytest.mark.parametrize("parts", [2, 3])
def test_parts(parts: int, hub: Hub, saved: Path) -> None:
    size = (saved / WEIGHTS).stat().st_size
    hub.part_size = -(-size // parts)
    push(saved)
    assert weights_on(hub) == (saved / WEIGHTS).read_bytes()
    assert hub.count("PUT /lfs-part/") == parts
    assert hub.count("POST /lfs-complete/") == 1
    assert len(hub.repos[NAME].commits) == 1


@pytest.mark.parametrize("pattern", [r"PUT /lfs-part/\w+/2", "POST /lfs-complete/"])
@pytest.mark.parametrize("status", [0, 500])
def test_a_part_is_sent_again(pattern: str, status: int, hub: Hub, saved: Path, waits: list[float]) -> None:
    hub.part_size = (saved / WEIGHTS).stat().st_size // 2 + 1
    hub.failures = [Failure(pattern, status, times=2)]
    push(saved)
    assert weights_on(hub) == (saved / WEIGHTS).read_bytes()
    assert len(hub.repos[NAME].commits) == 1


@pytest.mark.parametrize("pattern", [r"PUT /lfs-part/\w+/2", "POST /lfs-complete/"])
def test_parts_that_never_arrive_leave_nothing(pattern: str, hub: Hub, saved: Path, waits: list[float]) -> None:
    push(saved)
    hub.repos[NAME].branches["main"][WEIGHTS] = b"old"
    before = copy.deepcopy(hub.repos)
    hub.blobs.clear()
    hub.part_size = (saved / WEIGHTS).stat().st_size // 2 + 1
    hub.failures = [Failure(pattern, 503)]
    with pytest.raises(HubError, match="503"):
        push(saved)
    assert hub.repos == before
    hub.failures = []
    push(saved)
    assert weights_on(hub) == (saved / WEIGHTS).read_bytes()


def test_an_upload_that_broke_off_goes_on_with_what_is_there(hub: Hub, saved: Path, waits: list[float]) -> None:
    hub.failures = [Failure("POST .*/commit/", 403)]
    with pytest.raises(HubError, match="403"):
        push(saved)
    sent = hub.count("PUT /lfs/")
    hub.failures = []
    push(saved)
    assert sent == hub.count("PUT /lfs/") == 2, "large files are not sent again"


def test_xet_there_and_back(by_xet: Hub, saved: Path, tmp_path: Path) -> None:
    push(saved)
    assert weights_on(by_xet) == (saved / WEIGHTS).read_bytes()
    assert by_xet.count("POST /cas/v1/xorbs/") == 1
    assert by_xet.count("POST /cas/v1/shards") == 1
    assert by_xet.count("/lfs") == 0
    assert len(by_xet.repos[NAME].commits) == 1
    by_xet.requests.clear()
    path = hf_hub_download(NAME, WEIGHTS, endpoint=by_xet.endpoint, cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == (saved / WEIGHTS).read_bytes()
    assert by_xet.count("GET /cas/v1/reconstructions/") >= 1
    assert by_xet.count("GET /xorb/") >= 1


@pytest.mark.parametrize(
    ("pattern", "status"),
    [("xet-write-token", 500), ("xet-write-token", 404), ("/cas/v1/xorbs/", 500), ("/cas/v1/xorbs/", 0)],
)
def test_where_xet_fails_the_plain_route_is_taken(
    pattern: str, status: int, by_xet: Hub, saved: Path, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    by_xet.failures = [Failure(pattern, status)]
    push(saved)
    assert weights_on(by_xet) == (saved / WEIGHTS).read_bytes()
    assert by_xet.count("PUT /lfs/") == 2
    assert len(by_xet.repos[NAME].commits) == 1
    assert "trying the plain route" in caplog.text
    assert WRITE_TOKEN not in caplog.text
    assert CAS_TOKEN not in caplog.text


def test_where_both_routes_fail_nothing_is_there(by_xet: Hub, saved: Path, waits: list[float]) -> None:
    by_xet.failures = [Failure("/cas/v1/shards", 500), Failure("PUT /lfs/", 500)]
    with pytest.raises(HubError, match="500"):
        push(saved, patience=Patience(attempts=2))
    assert by_xet.repos[NAME].branches == {"main": {}}
    assert by_xet.repos[NAME].commits == []


def test_no_file_stays_open(hub: Hub, saved: Path, waits: list[float]) -> None:
    def open_files() -> int:
        folder = str(saved)
        here = Path("/proc/self/fd")
        if not here.is_dir():
            pytest.skip("the system does not list open files")
        return sum(os.path.realpath(link).startswith(folder) for link in here.iterdir())

    hub.failures = [Failure("PUT /lfs/", 500)]
    with pytest.raises(HubError, match="500"):
        push(saved)
    assert open_files() == 0
