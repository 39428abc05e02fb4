"""One commit, or none: what to do when it is unknown whether a commit has landed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.hf_api import RepoFile

from .._logging import get_logger
from ..errors import HubError
from .refusals import links_of, status_of, without_secrets
from .retries import Patience, is_passing, patiently

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

logger = get_logger(__name__)

Operation = CommitOperationAdd | CommitOperationDelete
_CONFLICTS = (409, 412)
_LARGE = 10 * 2**20
"""Files of this size are never stored in git itself."""
_SECONDS_TO_ASK = 10.0
"""After an interrupt, the user waits."""


@dataclass(frozen=True)
class Target:
    """Where a commit goes.

    Attributes:
        api: The client.
        repo_id: Full name of the repository.
        revision: Branch, or None for the main one.
        create_pr: Whether a pull request is opened instead.
        patience: How long to go on.
    """

    api: HfApi
    repo_id: str
    revision: str | None
    create_pr: bool
    patience: Patience

    def state(self) -> ModelInfo:
        """Return the branch as it is: its last commit, its files, whether the repository is private."""
        silence = self.patience.silence
        return patiently(
            lambda: self.api.model_info(self.repo_id, revision=self.revision, timeout=silence), self.patience
        )

    def pull_requests(self) -> set[int]:
        """Return the numbers of the pull requests that there are."""
        return patiently(
            lambda: {
                found.num for found in self.api.get_repo_discussions(self.repo_id, discussion_type="pull_request")
            },
            self.patience,
        )


def commit_once(target: Target, operations_for: Callable[[ModelInfo], list[Operation]], message: str) -> CommitInfo:
    """Commit, again if a failure may pass, but never twice.

    A commit names the one that it builds on, so the Hub refuses it where the branch has moved. After a failure that
    leaves open whether it landed (no answer, or a server's error), the branch is compared file by file with what was
    sent; only where it differs, the commit is sent again. A pull request has no such guard on the Hub's side and is
    sent once.

    Args:
        target: Where it goes.
        operations_for: Gives what to add and remove for the state that a branch is in.
        message: First line of the commit.

    Returns:
        The commit.

    Raises:
        HubError: If it is unknown whether a pull request was opened.
        Exception: The client's own error after the last try.
    """
    pulls = target.pull_requests() if target.create_pr else set()
    conflicts, plain = 0, False
    for tries in range(1, target.patience.attempts + 1):
        before = target.state()
        operations = operations_for(before)
        try:
            return _send(target, operations, message, before.sha, plain=plain)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_after_interrupt(target, operations, before.sha, pulls)) from None
        except Exception as error:
            landed = _look(target, operations, message, before.sha, pulls) if _is_unknown(error) else None
            if landed is not None:
                return landed
            if tries == target.patience.attempts:
                raise
            if not plain and _is_xet(error):
                logger.warning("The upload by Xet failed; trying the plain route for large files.")
                plain = True
            elif status_of(error) in _CONFLICTS and not conflicts:
                conflicts += 1
            elif target.create_pr and _is_unknown(error):
                raise HubError(_unknown_pull_request(target)) from None
            elif not _is_repeated_here(error):
                raise
            target.patience.wait(tries, error)
    raise AssertionError("unreachable")


def _send(
    target: Target, operations: Sequence[Operation], message: str, parent: str | None, *, plain: bool
) -> CommitInfo:
    """Upload and commit.

    Args:
        target: Where.
        operations: What to add and remove.
        message: First line.
        parent: The commit to build on.
        plain: Keep off Xet: the client takes the plain route for the lot where a file comes as an open file.
    """
    with ExitStack() as stack:
        sent: list[Operation] = list(operations)
        if plain:
            sent = [
                CommitOperationAdd(
                    operation.path_in_repo, stack.enter_context(Path(operation.path_or_fileobj).open("rb"))
                )
                if isinstance(operation, CommitOperationAdd) and isinstance(operation.path_or_fileobj, str | Path)
                else operation
                for operation in operations
            ]
        return target.api.create_commit(
            target.repo_id,
            sent,
            commit_message=message,
            revision=target.revision,
            create_pr=target.create_pr,
            parent_commit=None if target.create_pr else parent,
        )


def _request_path(error: BaseException) -> str:
    """Return the path that a failed request went to; empty if it is not known."""
    for link in links_of(error):
        try:
            return str(link.request.url.path)  # type: ignore[attr-defined]
        except (AttributeError, RuntimeError):  # the HTTP library raises where a request was never attached
            continue
    return ""


def _is_unknown(error: BaseException) -> bool:
    """Whether it is unknown if the commit landed: it was sent, and no answer, or none of the Hub itself, came back."""
    if "/commit/" not in _request_path(error):
        return False
    return is_passing(error) and status_of(error) != 429


def _is_repeated_here(error: BaseException) -> bool:
    """Whether a failure may pass and the client has not repeated the request itself."""
    path = _request_path(error)
    return is_passing(error) and ("/commit/" in path or path.endswith("/validate-yaml"))


def _is_xet(error: BaseException) -> bool:
    """Whether an upload by Xet failed: its errors come from outside the HTTP library, without an answer of the Hub."""
    if constants.HF_HUB_DISABLE_XET or find_spec("hf_xet") is None or isinstance(error, FileNotFoundError):
        return False
    return not _request_path(error) and isinstance(error, OSError | RuntimeError)


def _look(
    target: Target, operations: Sequence[Operation], message: str, parent: str | None, pulls: set[int]
) -> CommitInfo | None:
    """Return the commit if it landed, None if not.

    Raises:
        HubError: If the Hub cannot be asked.
    """
    try:
        return _landed(target, operations, message, parent, pulls)
    except Exception:
        address = f"{target.api.endpoint}/{target.repo_id}"
        remedy = "Look at its pull requests before you push again" if target.create_pr else "Push again"
    raise HubError(
        f"'{target.repo_id}': the Hub gave no answer to the commit and can no longer be asked whether it landed "
        f"({without_secrets(address)}). {remedy}; files that are there already make no second commit."
    )


def _landed(
    target: Target, operations: Sequence[Operation], message: str, parent: str | None, pulls: set[int]
) -> CommitInfo | None:
    """Return the commit if the Hub holds what was sent, None if not.

    Raises:
        Exception: The client's error if the Hub cannot be asked.
    """
    address = f"{target.api.endpoint}/{target.repo_id}"
    if target.create_pr:
        for number in sorted(target.pull_requests() - pulls, reverse=True):
            revision = f"refs/pr/{number}"
            if _holds(target, revision, operations):
                oid = str(target.api.model_info(target.repo_id, revision=revision).sha)
                url = f"{address}/discussions/{number}"
                return CommitInfo(f"{address}/commit/{oid}", message, "", oid, target.api.endpoint, pr_url=url)
        return None
    oid = str(target.state().sha)
    if oid == parent or not _holds(target, oid, operations):
        return None
    return CommitInfo(f"{address}/commit/{oid}", message, "", oid, target.api.endpoint)


def _holds(target: Target, revision: str, operations: Sequence[Operation]) -> bool:
    """Whether a revision holds every file that was sent, byte for byte, and none that was removed."""

    def read() -> dict[str, RepoFile]:
        found = target.api.list_repo_tree(target.repo_id, recursive=True, revision=revision)
        return {item.path: item for item in found if isinstance(item, RepoFile)}

    present = patiently(read, target.patience)
    for operation in operations:
        item = present.get(operation.path_in_repo)
        if isinstance(operation, CommitOperationDelete):
            if item is not None:
                return False
        elif item is None or not _is_same(item, operation):
            return False
    return True


def _is_same(item: RepoFile, operation: CommitOperationAdd) -> bool:
    """Whether a file on the Hub has the content that was sent."""
    if item.lfs is not None:
        return item.lfs.sha256 == operation.upload_info.sha256.hex()
    if item.size != operation.upload_info.size or item.size > _LARGE:
        return False
    with operation.as_file() as file:
        content = file.read()
    return item.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git's id of a file


def _after_interrupt(target: Target, operations: Sequence[Operation], parent: str | None, pulls: set[int]) -> str:
    """Return what an interrupt has left on the Hub, as far as it can be asked."""
    repo = target.repo_id
    target = replace(target, patience=Patience(attempts=1, silence=_SECONDS_TO_ASK))
    try:
        landed = _landed(target, operations, "", parent, pulls)
    except Exception:
        return f"'{repo}': interrupted; whether the commit had landed could not be asked. Look at its page."
    if landed is not None:
        return f"'{repo}': interrupted, but the commit had landed: {landed.pr_url or landed.commit_url}"
    return f"'{repo}' was not pushed: interrupted. The repository is as it was; push again to go on."


def _unknown_pull_request(target: Target) -> str:
    """Return what to do where a pull request may have been opened."""
    return (
        f"'{target.repo_id}': the Hub gave no answer to the pull request, and none is to be seen yet. "
        f"Look at {target.api.endpoint}/{target.repo_id}/discussions before you push again."
    )
