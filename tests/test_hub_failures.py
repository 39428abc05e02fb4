"""What fails on the way to the Hub: repeated where that helps, never committed twice or half, no token shown."""

from __future__ import annotations

import _thread
import contextlib
import copy
import io
import logging
import signal
import traceback
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from hf_vocab_extend.errors import HubError, InvalidOptionError
from hf_vocab_extend.hub.push import push_folder
from hf_vocab_extend.hub.retries import Patience

from .hub_server import READ_TOKEN, WRITE_TOKEN, Failure, Hub
from .stub_extension import make_extension

NAME = "me/swahili-bert"
COMMIT = r"POST .*/commit/"
OWN_CARD = b"---\nlicense: mit\n---\n# Mine\n\nMy own words.\n"
QUICK = Patience(attempts=4, silence=0.5)


def push(folder: Path, **options):
    """Push with a token that may write."""
    return push_folder(folder, NAME, **({"token": WRITE_TOKEN, "patience": QUICK} | options))


def as_it_is(hub: Hub):
    """All branches, commits and pull requests of all repositories."""
    return copy.deepcopy({name: (repo.branches, repo.commits, repo.pulls) for name, repo in hub.repos.items()})


def start_with_own_card(hub: Hub, saved: Path) -> None:
    """A repository with a commit, and a card of the user's own."""
    push(saved)
    hub.repos[NAME].branches["main"]["README.md"] = OWN_CARD
    hub.repos[NAME].branches["main"]["config.json"] = b"{}"
    hub.requests.clear()


PASSING = {
    "create": "POST /api/repos/create",
    "branch": "POST .*/branch/",
    "state": "GET /api/models/me/swahili-bert/revision",
    "card": "HEAD .*README.md",
    "card's text": "GET /me/.*README.md",
    "check of the card": "POST /api/validate-yaml",
    "question for large files": "POST .*/preupload/",
    "LFS batch": "POST .*/objects/batch",
    "upload": "PUT /lfs/",
    "verification": "POST /lfs-verify",
    "commit": COMMIT,
}


@pytest.mark.parametrize("status", [0, 429, 503])
@pytest.mark.parametrize("route", PASSING)
def test_what_fails_once_is_repeated(route: str, status: int, hub: Hub, saved: Path, waits: list[float]) -> None:
    start_with_own_card(hub, saved)
    hub.blobs.clear()
    headers = {"Retry-After": "7"} if status == 429 else {}
    failure = Failure(PASSING[route], status, headers=headers, times=1)
    hub.failures = [failure]
    commit = push(saved, revision="trial")
    assert failure.times == 0
    repo = hub.repos[NAME]
    assert len(repo.commits) == 2
    assert repo.heads["trial"] == commit.oid
    assert b"My own words." in repo.branches["trial"]["README.md"]
    assert repo.branches["trial"]["config.json"] == (saved / "config.json").read_bytes()
    if status == 429 and "card" not in route:
        assert max(waits) in (7.0, 8.0), "as long as the server asks; the client adds a second"


@pytest.mark.parametrize("status", [0, 500, 504])
def test_a_commit_whose_answer_is_lost_is_not_repeated(status: int, hub: Hub, saved: Path, waits: list[float]) -> None:
    start_with_own_card(hub, saved)
    hub.failures = [Failure(COMMIT, status, served=True, times=1)]
    commit = push(saved)
    repo = hub.repos[NAME]
    assert len(repo.commits) == 2
    assert hub.count(COMMIT) == 1
    assert commit.oid == repo.heads["main"]
    assert commit.commit_url == f"{hub.endpoint}/{NAME}/commit/{commit.oid}"


def test_a_commit_that_lands_late_is_not_followed_by_a_second(
    hub: Hub, saved: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_with_own_card(hub, saved)
    from hf_vocab_extend.hub import commits

    looks = []
    real = commits._look
    monkeypatch.setattr(commits, "_look", lambda *given: looks.append(1) if not looks else real(*given))
    hub.failures = [Failure(COMMIT, 504, served=True, times=1)]  # there, but not to be seen at the first look
    commit = push(saved)
    assert looks == [1]
    assert len(hub.repos[NAME].commits) == 2
    assert commit.oid == hub.repos[NAME].heads["main"]


@pytest.mark.parametrize("status", [0, 502])
def test_a_pull_request_whose_answer_is_lost_is_found(status: int, hub: Hub, saved: Path, waits: list[float]) -> None:
    start_with_own_card(hub, saved)
    hub.failures = [Failure(COMMIT, status, served=True, times=1)]
    commit = push(saved, create_pr=True)
    assert hub.repos[NAME].pulls == {2: "Model with an extended vocabulary"}
    assert commit.pr_url == f"{hub.endpoint}/{NAME}/discussions/2"
    assert commit.pr_num == 2


def test_a_pull_request_that_may_have_been_opened_is_not_repeated(hub: Hub, saved: Path, waits: list[float]) -> None:
    start_with_own_card(hub, saved)
    hub.failures = [Failure(COMMIT, 0, times=1)]
    with pytest.raises(HubError, match=r"no answer to the pull request.*discussions before you push again"):
        push(saved, create_pr=True)
    assert hub.repos[NAME].pulls == {}
    hub.failures = [Failure(COMMIT, 429, times=1)]
    assert push(saved, create_pr=True).pr_num == 2


def test_silence_is_bounded(hub: Hub, saved: Path, waits: list[float]) -> None:
    start_with_own_card(hub, saved)
    before = as_it_is(hub)
    hub.failures = [Failure(COMMIT, stall=1.2)]
    with pytest.raises(HubError, match=r"cannot be reached.*timed out"):
        push(saved, patience=Patience(attempts=1, silence=0.2))
    assert as_it_is(hub) == before
    session = huggingface_hub.get_session()
    assert session.timeout.read is None, "the client is as before"
    assert session.event_hooks["response"] == []


def test_waits_grow_and_are_bounded(hub: Hub, saved: Path, waits: list[float]) -> None:
    hub.failures = [Failure("POST /api/repos/create", 503)]
    with pytest.raises(HubError, match="503"):
        push(saved, patience=Patience(attempts=5, first_wait=1.0, longest_wait=3.0))
    assert waits == [1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("route", ["create", "upload", "commit"])
@pytest.mark.parametrize("headers", [{"Retry-After": "3600"}, {"RateLimit": '"api";r=0;t=3600'}])
def test_a_wait_that_is_too_long_ends_the_push(
    route: str, headers: dict[str, str], hub: Hub, saved: Path, waits: list[float]
) -> None:
    hub.failures = [Failure(PASSING[route], 429, headers=headers)]
    with pytest.raises(HubError, match=r"429 and asks to wait 3,600 s\. Wait that long"):
        push(saved)
    assert waits == []
    assert not any(repo.commits for repo in hub.repos.values())


@pytest.mark.parametrize("status", [409, 412])
def test_a_branch_that_moves_is_read_again_once(status: int, hub: Hub, saved: Path, waits: list[float]) -> None:
    start_with_own_card(hub, saved)

    def somebody_writes() -> None:
        hub.repos[NAME].branches["main"]["README.md"] = OWN_CARD + b"\nWritten meanwhile.\n"

    hub.failures = [Failure(COMMIT, status, times=1, action=somebody_writes)]
    push(saved)
    assert b"Written meanwhile." in hub.repos[NAME].branches["main"]["README.md"]
    hub.repos[NAME].branches["main"]["config.json"] = b"{}"
    before, hub.failures = as_it_is(hub), [Failure(COMMIT, status)]
    hub.requests.clear()
    with pytest.raises(HubError, match=rf"{status}.*Push again"):
        push(saved)
    assert hub.count(COMMIT) == 2
    assert as_it_is(hub) == before


def test_a_commit_between_is_seen_by_the_hub(hub: Hub, saved: Path, waits: list[float]) -> None:
    start_with_own_card(hub, saved)
    repo = hub.repos[NAME]

    def somebody_commits() -> None:
        repo.heads["main"] = "1" * 40

    hub.failures = [Failure("POST .*/preupload/", 503, times=1, action=somebody_commits)]
    push(saved)
    assert hub.count(COMMIT) == 2, "the first named a commit that was no longer the last, and was refused"
    assert len(repo.commits) == 2


LASTING = {
    "expired token": ({"token": "hf_" + "X" * 30}, None, r"401.*hf auth login"),
    "no token": ({"token": False}, None, r"401.*hf auth login"),
    "token without write access": ({"token": READ_TOKEN}, None, r"403.*write access"),
    "payment": ({}, Failure("/preupload/", 402, "no storage"), r"402 \(no storage\)"),
    "state": ({}, Failure("GET /api/models/me/swahili-bert$", 500), r"500"),
    "card": ({}, Failure("HEAD .*README.md", 503), r"503"),
    "bad front matter": ({}, Failure("validate-yaml", 400), r"front matter"),
    "preupload": ({}, Failure("/preupload/", 500), r"500"),
    "LFS batch": ({}, Failure("objects/batch", 503), r"503"),
    "upload refused": ({}, Failure("PUT /lfs/", 403, "signature has expired"), r"403"),
    "upload": ({}, Failure("PUT /lfs/", 500), r"500"),
    "upload cut": ({}, Failure("PUT /lfs/"), r"cannot be reached"),
    "verification": ({}, Failure("/lfs-verify", 404), r"404"),
    "commit": ({}, Failure(COMMIT, 500), r"500.*Nothing was committed"),
    "commit cut": ({}, Failure(COMMIT), r"cannot be reached"),
    "storage full": ({}, Failure(COMMIT, 507), r"507"),
}


@pytest.mark.parametrize("case", LASTING)
def test_after_a_failure_the_repository_is_as_before(
    case: str, hub: Hub, saved: Path, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    start_with_own_card(hub, saved)
    hub.blobs.clear()
    options, failure, message = LASTING[case]
    before, hub.failures = as_it_is(hub), [copy.deepcopy(failure)] if failure else []
    caplog.set_level(logging.DEBUG)
    with pytest.raises(HubError, match=message) as caught:
        push(saved, patience=Patience(attempts=2, silence=2.0), **options)
    assert as_it_is(hub) == before
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the client's error, with what it sent, is not kept"
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    for token in (WRITE_TOKEN, READ_TOKEN, "hf_" + "X" * 30):
        assert token not in shown
    assert "X-Amz-Signature" not in str(caught.value)


def test_a_card_that_cannot_be_read_is_not_replaced(hub: Hub, saved: Path, waits: list[float]) -> None:
    start_with_own_card(hub, saved)
    hub.failures = [Failure("HEAD .*README.md", 503)]
    with pytest.raises(HubError, match="503"):
        push(saved)
    assert hub.repos[NAME].branches["main"]["README.md"] == OWN_CARD


def test_a_public_repository_gets_nothing_private(hub: Hub, saved: Path) -> None:
    start_with_own_card(hub, saved)
    before = as_it_is(hub)
    with pytest.raises(HubError, match=r"is public.*settings"):
        push(saved, private=True)
    assert as_it_is(hub) == before
    assert hub.count("preupload") == 0


def test_a_private_repository_stays_private(hub: Hub, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    push(saved, private=True)
    push(saved, private=False)
    assert hub.repos[NAME].private
    assert "stays so" in caplog.text


def test_a_pull_request_goes_to_the_main_branch(hub: Hub, saved: Path) -> None:
    with pytest.raises(InvalidOptionError, match="main branch, not to 'trial'"):
        push(saved, create_pr=True, revision="trial")
    assert hub.requests == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let an interrupt be an exception, as it is in a program; processes that share the tests ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(("route", "landed"), [("upload", False), ("commit", False), ("commit", True)])
def test_an_interrupt_says_what_it_left(route: str, landed: bool, hub: Hub, saved: Path) -> None:
    start_with_own_card(hub, saved)
    hub.blobs.clear()
    before = as_it_is(hub)
    hub.failures = [Failure(PASSING[route], 503, served=landed, stall=0.3, times=1, action=_thread.interrupt_main)]
    with pytest.raises(KeyboardInterrupt) as caught:
        push(saved, patience=Patience(silence=5.0))
    assert WRITE_TOKEN not in "".join(traceback.format_exception(caught.value))
    if landed:
        assert "the commit had landed" in str(caught.value)
        assert len(hub.repos[NAME].commits) == 2
    else:
        assert "The repository is as it was" in str(caught.value)
        assert as_it_is(hub) == before
    hub.failures = []
    push(saved)
    assert len(hub.repos[NAME].commits) == 2


def test_a_file_that_holds_the_token_is_not_sent(hub: Hub, tmp_path: Path) -> None:
    secret = "s3cret-without-a-prefix"
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(b"\x80\x02" + secret.encode())
    with pytest.raises(InvalidOptionError, match="'training_args.bin' holds the token") as caught:
        push_folder(tmp_path, NAME, token=secret)
    assert secret not in str(caught.value)
    assert hub.requests == []


def test_no_token_anywhere(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    """Tokens are planted in the environment, the report, the endpoint's answers; none comes out on any side."""
    planted = "hf_" + "P" * 34
    monkeypatch.setenv("HF_TOKEN", planted)
    caplog.set_level(logging.DEBUG)
    extension = make_extension(notes=(f"trained with {WRITE_TOKEN} and {planted}",))
    extension.save_pretrained(tmp_path / "out", verify=False)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        push(tmp_path / "out")
        hub.failures = [Failure(COMMIT, 403, f"{WRITE_TOKEN} and {planted} may not")]
        (tmp_path / "out" / "notes.txt").write_text("more")
        with pytest.raises(HubError, match="may not") as caught:
            push(tmp_path / "out")
    texts = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    texts += list(hub.repos[NAME].branches["main"].values())
    texts += [said.getvalue().encode(), caplog.text.encode()]
    texts += ["".join(traceback.format_exception(caught.value)).encode()]
    assert len(texts) > 10
    assert not [text for text in texts if WRITE_TOKEN.encode() in text or planted.encode() in text]


def test_a_password_in_the_endpoint_is_not_shown(
    hub: Hub, saved: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://user:hunter2@127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached") as caught:
        push(saved)
    assert "hunter2" not in str(caught.value)
