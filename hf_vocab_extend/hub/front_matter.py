"""The front matter of a README.md: read, joined with another, and written."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from ..errors import InvalidOptionError

_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
LICENSE_KEYS = ("license", "license_name", "license_link")


class _Loader(yaml.SafeLoader):
    """Reads front matter as the Hub does, by YAML 1.2: ``no`` is Norwegian, not false."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Return the front matter as data, and the text after it.

    Raises:
        InvalidOptionError: If the front matter is no YAML mapping.
    """
    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}, text
    try:
        data = yaml.load(match[1], _Loader) or {}
    except yaml.YAMLError as error:
        raise InvalidOptionError(
            f"The front matter of README.md is not YAML ({str(error).splitlines()[0]}). Correct it, then save again."
        ) from error
    if not isinstance(data, dict):
        raise InvalidOptionError("The front matter of README.md is no mapping of keys to values. Correct it.")
    return data, text[match.end() :]


def merge_front_matter(own: dict[str, Any], new: dict[str, Any], explicit: set[str]) -> dict[str, Any]:
    """Join two front matters: lists are joined, explicit keys are replaced, of all others the user's value stays."""
    merged = dict(own)
    if "license" in explicit:
        merged = {key: value for key, value in merged.items() if key not in LICENSE_KEYS}
    for key, value in new.items():
        present = merged.get(key)
        if key == "model-index":
            merged[key] = [entry for entry in present or [] if not _is_told_again(entry, value)] + value
        elif key in explicit or present is None:
            merged[key] = value
        elif isinstance(value, list):
            merged[key] = list(dict.fromkeys([*(present if isinstance(present, list) else [present]), *value]))
    return merged


def _is_told_again(entry: Any, new: list[dict[str, Any]]) -> bool:
    """Whether a model index tells of the same model, or, before the repository had its name, the same measures."""
    told, ours = ({key for item in items for key in _measured(item)} for items in ([entry], new))
    return isinstance(entry, dict) and (
        entry.get("name") in {item["name"] for item in new} or bool(told) and told <= ours
    )


def _measured(entry: Any) -> list[str]:
    """Return what an entry of a model index tells: each task, dataset and metric, without the values."""
    results = entry.get("results") or () if isinstance(entry, dict) else ()
    tables = [
        (item.get("task"), item.get("dataset"), metric.get("type")) for item in results for metric in item["metrics"]
    ]
    return [json.dumps(table, sort_keys=True, default=str) for table in tables]


def assemble(front: dict[str, Any], body: str) -> str:
    """Return front matter and body as one text."""
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=1000)}---\n\n{body}"


def as_list(value: str | Sequence[str]) -> list[str]:
    """Return one or many strings as a list."""
    return [value] if isinstance(value, str) else list(value)
