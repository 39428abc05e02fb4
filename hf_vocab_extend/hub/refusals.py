"""What the Hub's refusals mean: one line with the fact and the remedy, and never a token."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from huggingface_hub import HfApi, get_session, get_token
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

from ..errors import HubError, VocabExtendError

T = TypeVar("T")

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
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+@")
_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")
"""Addresses of storage carry a signature in their query, which is as good as a password for a while."""


class WaitTooLongError(Exception):
    """Raised inside a request when the server asks for a longer wait than a push is willing to wait."""

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"{status}: wait {seconds:g} s")
        self.status = status
        self.seconds = seconds


def links_of(error: BaseException) -> list[BaseException]:
    """Return an error and those that it was raised from, outermost first."""
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__
    return found


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status behind an error, None if no answer came."""
    for link in links_of(error):
        if isinstance(link, HfHubHTTPError):
            return int(link.response.status_code)
    return None


def transport_error() -> type[BaseException]:
    """Return the base of the HTTP library's connection errors; which library it is depends on the client's version."""
    library = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    return library.TransportError


def without_secrets(text: str, secrets: Sequence[str | bool | None] = ()) -> str:
    """Return one line without tokens, passwords in addresses and signatures of storage.

    Args:
        text: Any text.
        secrets: Tokens in use; those saved on this machine are known.
    """
    known = [*secrets, get_token(), os.environ.get("HF_TOKEN")]
    for secret in known:
        if isinstance(secret, str) and secret.strip():
            text = text.replace(secret.strip(), "***")
    text = _SIGNED.sub(r"\1", _USER_IN_ADDRESS.sub("", _TOKEN.sub("***", text)))
    return " ".join(text.split())


def with_clear_errors(call: Callable[[], T], repo_id: str, token: str | bool | None) -> T:
    """Call a function and turn the client's errors into one line that says what to do and holds no token.

    The error is raised outside of any handler, so that the client's own, which may hold what was sent, is not kept as
    its context.

    Raises:
        HubError: In place of the client's errors.
        KeyboardInterrupt: With a message, where one is known.
    """
    kind: type[BaseException] = HubError
    try:
        return call()
    except VocabExtendError:
        raise
    except KeyboardInterrupt as stop:
        kind, message = KeyboardInterrupt, without_secrets(str(stop), [token])
    except Exception as error:
        found = explain(error, repo_id)
        if found is None:
            raise
        message = without_secrets(found, [token])
    raise kind(message)


def explain(error: BaseException, repo_id: str) -> str | None:
    """Return the line for an error of the client or of one that it was raised from; None for any other error."""
    links = links_of(error)
    for kinds, say in _explanations():
        for link in links:
            if isinstance(link, kinds):
                return " ".join(say(link, repo_id).split())
    return None


_Explanation = tuple[tuple[type[BaseException], ...], Callable[[BaseException, str], str]]


def _explanations() -> list[_Explanation]:
    """Return the table of the client's errors and what to say about them, first match wins."""
    return [
        ((OfflineModeIsEnabled,), _explain_offline),
        ((LocalTokenNotFoundError,), _explain_no_token),
        ((WaitTooLongError,), _explain_wait),
        ((HfHubHTTPError,), _explain_status),
        ((transport_error(), ConnectionError, TimeoutError), _explain_connection),
        ((FileNotFoundError, PermissionError), _explain_file),
        ((ValueError, RuntimeError, OSError), _explain_other),
    ]


def _explain_offline(error: BaseException, repo_id: str) -> str:
    return f"'{repo_id}' was not pushed: offline mode is on. Unset HF_HUB_OFFLINE, then push again."


def _explain_no_token(error: BaseException, repo_id: str) -> str:
    return f"'{repo_id}' was not pushed: no token was found. {_ADVICE[401]}"


def _explain_wait(error: BaseException, repo_id: str) -> str:
    assert isinstance(error, WaitTooLongError)
    return (
        f"'{repo_id}' was not pushed: the Hub answered {error.status} and asks to wait {error.seconds:,.0f} s. "
        "Wait that long, then push again; nothing was committed."
    )


def _explain_connection(error: BaseException, repo_id: str) -> str:
    endpoint = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).endpoint
    kind = type(error).__name__
    return (
        f"'{repo_id}' was not pushed: {endpoint} cannot be reached ({str(error) or kind}). "
        "Check the network and the proxy settings, and HF_ENDPOINT if it is set."
    )


def _explain_file(error: BaseException, repo_id: str) -> str:
    assert isinstance(error, OSError)
    name = os.path.basename(str(error.filename or ""))
    return (
        f"'{repo_id}' was not pushed: the file '{name}' cannot be read ({error.strerror}). "
        "Leave the folder alone while it is being pushed, then push again."
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
