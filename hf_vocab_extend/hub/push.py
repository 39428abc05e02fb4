"""Upload of a saved folder to the Hub in one commit."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from .._logging import get_logger
from ..errors import HubError, InvalidOptionError
from ..report import REPORT_FILE
from ..saving import CARD_FILE, is_replaced_by_a_save
from .card import card_of_folder, fill_front_matter, has_own_prose, read_card
from .commits import Operation, Target, commit_once
from .refusals import with_clear_errors
from .retries import Patience, bounded_session, patiently

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from huggingface_hub.hf_api import ModelInfo

logger = get_logger(__name__)

Render = Callable[[str, str | None], str]
"""Takes the name of a repository and its README.md, gives the README.md to write."""

_IGNORED = re.compile(r"\..*|__pycache__|checkpoint-\d+")
"""Parts of paths that are no part of a model: hidden files, caches, and the Trainer's checkpoints beside it."""
_READ_FOR_TOKENS = 64 * 2**20
"""Files up to this size are searched for the token before anything is sent."""


def push_folder(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    patience: Patience | None = None,
) -> CommitInfo:
    """Upload a folder in one commit; the repository is created if it does not exist.

    A folder of ``save_pretrained`` replaces the repository's model: older weights and tokenizer files without a
    successor are removed. Of any other folder, files are only added.
    The card is written anew with the final name. Text of the user's own around our part of it is that of the folder's
    README.md, or, if that has none, that of the README.md on the Hub.

    All files arrive by one commit or none does: after any failure, every branch holds what it held before. Failures
    that may pass are repeated, but nothing is committed twice: where no answer came, the Hub is asked whether the
    commit has landed. A repository or a branch that was created for the push stays, without any new file.

    Args:
        folder: A folder that ``save_pretrained`` wrote.
        repo_id: ``user/name`` or ``name``.
        private: Whether a new repository is private; None takes the organisation's default. True is refused where
            the repository exists and is public.
        token: A token, None for the saved one, False for none.
        revision: Branch to commit to; it is created if it does not exist.
        create_pr: Open a pull request to the main branch instead of committing.
        commit_message: First line of the commit.
        patience: How long to go on after failures that may pass; by default four tries and waits up to 120 s.

    Returns:
        The commit, with its address.

    Raises:
        InvalidOptionError: If the folder holds no model, one of its files holds the token, or the name is not allowed.
        HubError: If the Hub refuses or cannot be reached; the message says what to do.
        KeyboardInterrupt: If interrupted; the message says whether the commit had landed.
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
        patience=patience,
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
    patience: Patience | None = None,
    render: Render | None = None,
    replaces: Callable[[str], bool] | None = None,
) -> CommitInfo:
    """Do what :func:`push_folder` does, with arguments of ``render_card`` that go before what the Hub's card says.

    With ``render``, the folder may hold anything, and its card is what that gives for the repository's full name and
    the README.md that is there already. ``replaces`` says which files without a successor are removed.
    """
    path, patience = Path(folder), patience or Patience()
    names = _checked_files(path, repo_id, needs_config=render is None)
    _check_options(path, names, token, revision, create_pr)
    if REPORT_FILE in names:
        card_of_folder(path)  # a report that cannot be read shows before anything is created
        replaces = replaces or is_replaced_by_a_save
    target = Target(HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token), repo_id, revision, create_pr, patience)

    def operations_for(target: Target, state: ModelInfo) -> list[Operation]:
        _check_visibility(state, target.repo_id, private)
        present = [item.rfilename for item in state.siblings or []]
        remote = _remote_card(target, state) if CARD_FILE in present else None
        text = _card(path, target.repo_id, card, remote) if render is None else render(target.repo_id, remote)
        return _operations(path, names, text, [name for name in present if replaces and replaces(name)])

    def send() -> CommitInfo:
        with bounded_session(patience):
            made = replace(target, repo_id=patiently(lambda: _create(target, private), patience))
            message = commit_message or "Model with an extended vocabulary"
            return commit_once(made, lambda state: operations_for(made, state), message)

    commit = with_clear_errors(send, repo_id, token)
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


def _checked_files(folder: Path, repo_id: str, *, needs_config: bool) -> list[str]:
    """Return the relative paths of all files, hidden ones, caches and checkpoints left out.

    Raises:
        InvalidOptionError: If there is no model, or the repository's name is not allowed.
    """
    if needs_config and not (folder / "config.json").is_file():
        raise InvalidOptionError(f"'{folder.name}' holds no config.json. Give a folder that save_pretrained wrote.")
    check_repo_id(repo_id)
    found = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(_IGNORED.fullmatch(part) for part in parts):
            found.append("/".join(parts))
    return found


def _check_options(
    folder: Path, names: list[str], token: str | bool | None, revision: str | None, create_pr: bool
) -> None:
    """Refuse what must not be sent, before anything is created.

    Raises:
        InvalidOptionError: If a pull request is to go to another branch than the main one, or a file holds the token.
    """
    if create_pr and revision not in (None, "main"):
        raise InvalidOptionError(
            f"A pull request goes to the main branch, not to '{revision}'. Leave the branch out, or commit to it."
        )
    secret = token if isinstance(token, str) else get_token() if token is not False else None
    if not secret:
        return
    for name in names:
        file = folder / name
        if file.stat().st_size <= _READ_FOR_TOKENS and secret.encode() in file.read_bytes():
            raise InvalidOptionError(
                f"'{name}' holds the token itself and was not sent. Remove the file or the token from it; Trainer "
                "writes hub_token= into training_args.bin, but not a token of `hf auth login` or HF_TOKEN."
            )


def _create(target: Target, private: bool | None) -> str:
    """Create the repository and the branch, where there are none; return the repository's full name."""
    name = target.repo_id
    try:
        name = target.api.create_repo(name, private=private, exist_ok=True).repo_id
    except ValueError as error:
        # It exists, but the token may not create any: then the client takes addresses of huggingface.co alone.
        if isinstance(error, HfHubHTTPError) or "/" not in name:
            raise
    if target.revision is not None and not target.revision.startswith("refs/"):
        target.api.create_branch(name, branch=target.revision, exist_ok=True)
    return name


def _check_visibility(state: ModelInfo, repo_id: str, private: bool | None) -> None:
    """Refuse to send to a public repository what shall be private.

    Raises:
        HubError: Before any file is sent.
    """
    if private and state.private is False:
        raise HubError(
            f"'{repo_id}' was not pushed: it exists and is public, and private=True makes only new repositories "
            "private. Make it private in its settings, choose another name, or leave private out."
        )
    if private is False and state.private:
        logger.warning("'%s' exists and is private; it stays so.", repo_id)


def _operations(folder: Path, names: list[str], card: str | None, replaced: list[str]) -> list[Operation]:
    """Return what to add and remove.

    Args:
        folder: Where the files are.
        names: Their relative paths.
        card: The README.md to write, None to leave it as it is.
        replaced: Files of an older model on the Hub: beside shards, a loader would read an old single file first.
    """
    found: list[Operation] = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name))
        for name in names
        if name != CARD_FILE
    ]
    found += [CommitOperationDelete(name) for name in replaced if name not in names]
    if card is not None:
        found.append(CommitOperationAdd(path_in_repo=CARD_FILE, path_or_fileobj=card.encode("utf-8")))
    return found


def _card(folder: Path, repo_id: str, given: Mapping[str, Any], remote: str | None) -> str | None:
    """Return the card with its final name, or None if the folder has none."""
    existing = read_card(folder / CARD_FILE)
    if not (folder / REPORT_FILE).is_file():
        return existing
    if remote is not None and not (existing and has_own_prose(existing)):
        existing = fill_front_matter(remote, existing or "")
    options = {"load_name": repo_id, "model_name": repo_id.rpartition("/")[2]} | dict(given)
    return card_of_folder(folder, **(options | {"existing": existing}))


def _remote_card(target: Target, state: ModelInfo) -> str | None:
    """Return the README.md that a state of the Hub holds; a failure is no empty card."""
    with tempfile.TemporaryDirectory() as scratch:
        path = patiently(
            lambda: target.api.hf_hub_download(target.repo_id, CARD_FILE, revision=state.sha, local_dir=scratch),
            target.patience,
        )
        return read_card(Path(path))
