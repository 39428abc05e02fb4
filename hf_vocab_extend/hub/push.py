"""Upload of a saved folder to the Hub in one commit."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from .._logging import get_logger
from ..errors import HubError, InvalidOptionError, VocabExtendError
from ..report import REPORT_FILE
from ..saving import is_replaced_by_a_save
from .card import card_of_folder, fill_front_matter, has_own_prose, read_card

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

logger = get_logger(__name__)

Render = Callable[[str, str | None], str]
"""Takes the name of a repository and its README.md, gives the README.md to write."""

_IGNORED = {"__pycache__"}

_ADVICE = {
    400: "Correct what the answer names, most often the front matter of README.md.",
    401: "Log in with `hf auth login`, or pass a token with write access as token=; an old one may have expired.",
    402: "The account's plan does not allow this. Free some storage, or push to a public repository.",
    403: "The token may not write there. Pass one with write access to this user or organisation.",
    404: "Check the name (user/name) and the branch; a private repository looks missing to a token without access.",
    409: "Something else changed the repository at the same moment. Push again.",
    412: "Something else committed to the branch meanwhile. Push again.",
    413: "A file is too large. Save again with a smaller max_shard_size.",
    429: "Too many requests in a short time. Wait some minutes, then push again.",
}
_SERVER_ADVICE = "The Hub has a problem of its own. Nothing was committed; push again later."


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
) -> CommitInfo:
    """Upload a folder in one commit; the repository is created if it does not exist.

    A folder of ``save_pretrained`` replaces the repository's model: older weights and tokenizer files without a
    successor are removed. Of any other folder, files are only added.
    The card is written anew with the final name. Text of the user's own around our part of it is that of the folder's
    README.md, or, if that has none, that of the README.md on the Hub.

    Args:
        folder: A folder that ``save_pretrained`` wrote.
        repo_id: ``user/name`` or ``name``.
        private: Whether a new repository is private; None takes the organisation's default.
        token: A token, None for the saved one, False for none.
        revision: Branch to commit to; it is created if it does not exist.
        create_pr: Open a pull request instead of committing to the branch.
        commit_message: First line of the commit.

    Returns:
        The commit, with its address.

    Raises:
        InvalidOptionError: If the folder holds no model or the name is not allowed.
        HubError: If the Hub refuses or cannot be reached; the message says what to do.
    """
    return push_with_card(
        folder,
        repo_id,
        {},
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message,
    )


def push_with_card(
    folder: str | os.PathLike[str],
    repo_id: str,
    card: Mapping[str, Any],
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
    commit_message: str | None,
    render: Render | None = None,
    replaces: Callable[[str], bool] | None = None,
) -> CommitInfo:
    """Do what :func:`push_folder` does, with arguments of ``render_card`` that go before what the Hub's card says.

    With ``render``, the folder may hold anything, and its card is what that gives for the repository's full name and
    the README.md that is there already. ``replaces`` says which files without a successor are removed.
    """
    path = Path(folder)
    if render is None and not (path / "config.json").is_file():
        raise InvalidOptionError(f"'{path.name}' holds no config.json. Give a folder that save_pretrained wrote.")
    check_repo_id(repo_id)
    if (path / REPORT_FILE).is_file():
        card_of_folder(path)  # a report that cannot be read shows before anything is created
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token)
    with _clear_errors(repo_id, token):
        full_name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(full_name, branch=revision, exist_ok=True)
        names = _files(path)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path / name))
            for name in names
            if name != "README.md"
        ]
        if REPORT_FILE in names or replaces is not None:
            operations += _deletions(api, full_name, revision, names, replaces or is_replaced_by_a_save)
        if render is not None:
            text: str | None = render(full_name, remote_card(api, full_name, revision))
        else:
            text = _card(api, path, full_name, revision, card)
        if text is not None:
            operations.append(CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=text.encode("utf-8")))
        # create_commit, not upload_folder: the latter may split a large folder into several commits.
        commit = api.create_commit(
            full_name,
            operations,
            commit_message=commit_message or "Model with an extended vocabulary",
            revision=revision,
            create_pr=create_pr,
        )
    logger.info("Pushed to %s", commit.pr_url or commit.commit_url)
    return commit


def check_repo_id(repo_id: str) -> str:
    """Return the name if the Hub allows it.

    Raises:
        InvalidOptionError: If it does not.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InvalidOptionError(f"'{repo_id}' is no name of a repository ({error}). Use user/name.") from error
    return repo_id


def _files(folder: Path) -> list[str]:
    """Return the relative paths of all files, hidden ones and caches left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") or part in _IGNORED for part in parts):
            found.append("/".join(parts))
    return found


def _deletions(
    api: HfApi, repo_id: str, revision: str | None, names: list[str], replaces: Callable[[str], bool]
) -> list[CommitOperationDelete]:
    """Return the removal of an older model's files: beside shards, a loader would read an old single file first."""
    present = api.list_repo_files(repo_id, revision=revision)
    return [CommitOperationDelete(name) for name in present if replaces(name) and name not in names]


def _card(api: HfApi, folder: Path, repo_id: str, revision: str | None, given: Mapping[str, Any]) -> str | None:
    """Return the card with its final name, or None if the folder has none."""
    existing = read_card(folder / "README.md")
    if not (folder / REPORT_FILE).is_file():
        return existing
    remote = remote_card(api, repo_id, revision)
    if remote is not None and not (existing and has_own_prose(existing)):
        existing = fill_front_matter(remote, existing or "")
    options = {"load_name": repo_id, "model_name": repo_id.rpartition("/")[2]} | dict(given)
    return card_of_folder(folder, **(options | {"existing": existing}))


def remote_card(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """Return the README.md on the Hub, or None if there is none."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            path = api.hf_hub_download(repo_id, "README.md", revision=revision, local_dir=scratch)
        except (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError):
            return None
        return read_card(Path(path))


@contextmanager
def _clear_errors(repo_id: str, token: str | bool | None) -> Iterator[None]:
    """Turn the client's errors into one line that says what to do and holds no token.

    Raises:
        HubError: In place of any of them.
    """
    try:
        yield
    except VocabExtendError:
        raise
    except Exception as error:
        message = _message(error, repo_id)
        if message is None:
            raise
        for secret in (token, get_token()):
            if isinstance(secret, str) and secret:
                message = message.replace(secret, "***")
        # The client's own error may quote what it sent, so it is not chained.
        raise HubError(message) from None


def _message(error: BaseException, repo_id: str) -> str | None:
    """Return the line for an error of the client or of one that it was raised from; None for any other error."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None:
        chain.append(current)
        current = current.__cause__
    for kinds, explain in _explanations():
        for link in chain:
            if isinstance(link, kinds):
                return " ".join(explain(link, repo_id).split())
    return None


_Explanation = tuple[tuple[type[BaseException], ...], Callable[[BaseException, str], str]]


def _explanations() -> list[_Explanation]:
    """Return the table of the client's errors and what to say about them, first match wins."""
    return [
        ((OfflineModeIsEnabled,), _explain_offline),
        ((LocalTokenNotFoundError,), _explain_no_token),
        ((HfHubHTTPError,), _explain_status),
        ((_transport_error(), ConnectionError), _explain_connection),
        ((ValueError, RuntimeError), _explain_other),
    ]


def _transport_error() -> type[BaseException]:
    """Return the base of the HTTP library's connection errors; which library it is depends on the client's version."""
    library = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    return library.TransportError


def _explain_offline(error: BaseException, repo_id: str) -> str:
    return f"'{repo_id}' was not pushed: offline mode is on. Unset HF_HUB_OFFLINE, then push again."


def _explain_no_token(error: BaseException, repo_id: str) -> str:
    return f"'{repo_id}' was not pushed: no token was found. {_ADVICE[401]}"


def _explain_connection(error: BaseException, repo_id: str) -> str:
    endpoint = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).endpoint
    return (
        f"'{repo_id}' was not pushed: {endpoint} cannot be reached ({error}). "
        "Check the network and the proxy settings, and HF_ENDPOINT if it is set."
    )


def _explain_other(error: BaseException, repo_id: str) -> str:
    return (
        f"'{repo_id}' was not pushed: the client gave up ({str(error)[:200]}). "
        "Push again; HF_HUB_DISABLE_XET=1 takes the plain route for large files."
    )


def _explain_status(error: BaseException, repo_id: str) -> str:
    assert isinstance(error, HfHubHTTPError)
    status = error.response.status_code
    said = re.sub(r"\s+", " ", error.server_message or "").strip()[:200]
    advice = _ADVICE.get(status, _SERVER_ADVICE if status >= 500 else "See the answer for the reason.")
    return f"'{repo_id}' was not pushed: the Hub answered {status}{f' ({said})' if said else ''}. {advice}"
