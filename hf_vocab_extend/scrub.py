"""Keep tokens and paths of the user's machine out of what is published."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_PATH = re.compile(r"(?<![\w:/.~])(?:file://)?(?:~|[A-Za-z]:)?(?:[\\/][^\s\\/'\"<>|]+){2,}[\\/]?")
"""Absolute paths of two parts or more; an address after ``https:/`` is none."""

_CACHE_ENTRY = re.compile(r"models--([\w.-]+?)--([\w.-]+?)[\\/]snapshots")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


def without_private(value: Any) -> Any:
    """Return plain data in which a path is cut down to its last part and a token to stars.

    Args:
        value: Strings, numbers, lists and dictionaries.
    """
    if isinstance(value, str):
        return _PATH.sub(_last_part, _TOKEN.sub("hf_***", value))
    if isinstance(value, dict):
        return {key: without_private(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_private(item) for item in value]
    return value


def _last_part(match: re.Match[str]) -> str:
    """Return the file name of a path."""
    return re.split(r"[\\/]", match.group().rstrip("\\/"))[-1]


def public_model_id(name: str | None) -> str | None:
    """Return the Hub id of a model, or None if its name is none.

    Args:
        name: A Hub id, or a local path. Of a path in the Hub's cache the id is known; of any other path its last part
            is taken if it could be an id.
    """
    if not name:
        return None
    cached = _CACHE_ENTRY.search(name)
    if cached:
        return f"{cached[1]}/{cached[2]}"
    name = without_private(name)
    return name if _HUB_ID.fullmatch(name) and ".." not in name else None
