"""Logger and progress bars; both silent by default in a library, both switchable from outside."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
_TRUE = {"1", "true", "yes", "on"}


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module of this package."""
    return logging.getLogger(name)


def progress_disabled() -> bool:
    """Whether progress bars are switched off by ``HF_HUB_DISABLE_PROGRESS_BARS``."""
    return os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").strip().lower() in _TRUE


def progress(iterable: Iterable[T], *, desc: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Iterate with a progress bar on standard error, if that is a terminal, that vanishes when done."""
    return iter(tqdm(iterable, desc=desc, unit=unit, total=total, disable=progress_disabled() or None, leave=False))


@contextmanager
def progress_bar(*, desc: str, unit: str, total: int | None = None) -> Iterator[tqdm]:
    """Give a bar to update by hand, for work that is not one plain loop."""
    with tqdm(desc=desc, unit=unit, total=total, disable=progress_disabled() or None, leave=False) as bar:
        yield bar
