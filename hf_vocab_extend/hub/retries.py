"""How long a push goes on trying, and what it repeats.

The client repeats by itself what is safe to repeat (the question which files are large, the upload of their parts):
five times, with waits of 1 to 8 s or as long as the server asks. It repeats neither the creation of a repository, nor
the check of the card, nor the commit. Those are repeated here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from huggingface_hub import get_session

from .._logging import get_logger
from ..errors import InvalidOptionError
from .refusals import WaitTooLongError, links_of, status_of, transport_error

logger = get_logger(__name__)

T = TypeVar("T")

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may be gone at the next try."""

_NEXT_WINDOW = "ratelimit"
"""Header of the draft on rate limits: ``"api";r=0;t=55`` is no request left, new ones in 55 s."""


@dataclass(frozen=True)
class Patience:
    """How long a push goes on trying.

    Attributes:
        attempts: Tries of one request, the first included.
        first_wait: Seconds before the second try; each further wait is twice as long.
        longest_wait: Longest single wait in seconds. Where the server asks for more (``Retry-After``), the push ends
            at once and says so.
        silence: Seconds without any byte from the server after which a request is given up.
    """

    attempts: int = 4
    first_wait: float = 1.0
    longest_wait: float = 120.0
    silence: float = 180.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.first_wait < 0 or self.longest_wait < 0 or self.silence <= 0:
            raise InvalidOptionError(
                f"{self} is no patience: attempts is at least 1, waits at least 0, silence above 0."
            )

    def wait(self, tries: int, error: BaseException) -> None:
        """Wait before the next try, as long as the server asks for, else twice as long as the last time.

        Args:
            tries: Tries so far, from 1.
            error: What the last one ended with.
        """
        asked = wait_asked_for(error)
        seconds = min(self.first_wait * 2 ** (tries - 1), self.longest_wait) if asked is None else asked
        logger.info("The Hub did not answer well (%s). Trying again in %.0f s.", type(error).__name__, seconds)
        time.sleep(seconds)


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later."""
    status = status_of(error)
    if status is not None:
        return status in PASSING
    return any(isinstance(link, transport_error()) for link in links_of(error))


def patiently(call: Callable[[], T], patience: Patience) -> T:
    """Call a function that may be repeated, again after a failure that may pass."""
    for tries in range(1, patience.attempts + 1):
        try:
            return call()
        except Exception as error:
            if tries == patience.attempts or not is_passing(error):
                raise
            patience.wait(tries, error)
    raise AssertionError("unreachable")


def wait_asked_for(error: BaseException) -> float | None:
    """Return the seconds that the answer behind an error asks to wait, None if it does not say."""
    answers = [getattr(link, "response", None) for link in links_of(error)]
    return next((_asked(answer.headers) for answer in answers if answer is not None), None)


def _asked(headers: Any) -> float | None:
    """Return the seconds of ``Retry-After`` or of the rate limit's next window; dates are not read."""
    after = (headers.get("retry-after") or "").strip()
    if after.isdigit():
        return float(after)
    fields = dict(part.strip().partition("=")[::2] for part in (headers.get(_NEXT_WINDOW) or "").split(";")[1:])
    return float(fields["t"]) if fields.get("r") == "0" and fields.get("t", "").isdigit() else None


@contextmanager
def bounded_session(patience: Patience) -> Iterator[None]:
    """Bound how long the client waits for the server: by itself it waits for ever, both for bytes and when told to.

    The client is one per process; it is as before when the block ends.
    """
    session = get_session()
    hooks, timeout = session.event_hooks, session.timeout

    def refuse_long_waits(response: Any) -> None:
        asked = _asked(response.headers) if response.status_code in PASSING else None
        if asked is not None and asked > patience.longest_wait:
            raise WaitTooLongError(response.status_code, asked)

    session.timeout = patience.silence
    session.event_hooks = {**hooks, "response": [*hooks.get("response", []), refuse_long_waits]}
    try:
        yield
    finally:
        session.event_hooks, session.timeout = hooks, timeout
