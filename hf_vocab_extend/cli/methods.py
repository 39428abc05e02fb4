"""``hf-vocab-extend methods``: the initialisation methods, what each needs, and its options."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from typing import Any

from .common import Answer, Command, table


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="show one method only")


def run(args: Namespace) -> Answer:
    """List them."""
    from ..methods import get_method_class, list_methods

    names = [args.name] if getattr(args, "name", None) else list_methods()
    data = [_describe(get_method_class(name)) for name in names]
    return Answer(data, "\n\n".join([_overview(data), *(_options(method) for method in data if method["options"])]))


def _describe(method: Any) -> dict[str, Any]:
    """Return a method as plain data."""
    defaults = method.config_class().to_dict()
    types = {item.name: item.type for item in dataclasses.fields(method.config_class)}
    return {
        "name": method.name,
        "pretty_name": method.pretty_name,
        "summary": method.summary,
        "needs": [sorted(alternative) for alternative in method.needs],
        "extra": method.extra,
        "paper_url": method.paper_url,
        "options": {name: {"default": value, "type": str(types[name])} for name, value in defaults.items()},
    }


def _overview(data: list[dict[str, Any]]) -> str:
    """Return one line per method."""
    rows = [("method", "needs", "paper", "what it does")]
    for method in data:
        needs = " or ".join("+".join(alternative) for alternative in method["needs"]) or "nothing"
        rows.append((method["name"], needs, method["paper_url"] or "-", method["summary"]))
    return table(rows, left=4)


def _options(method: dict[str, Any]) -> str:
    """Return the options of a method."""
    rows = [(f"  {name}", repr(option["default"]), option["type"]) for name, option in method["options"].items()]
    return f"{method['name']} (--set OPTION=VALUE)\n" + table([("  option", "default", "type"), *rows], left=3)


COMMAND = Command(
    name="methods",
    summary="List the initialisation methods, what each needs, and their options with defaults.",
    examples=("hf-vocab-extend methods", "hf-vocab-extend methods focus --format json"),
    add_arguments=add_arguments,
    run=run,
)
