"""Options of a command in a YAML, TOML or JSON file."""

from __future__ import annotations

import json
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InvalidOptionError
from .common import first_line

NOT_IN_FILE = ("config", "out")


def add_config(args: Namespace, add_arguments: Callable[[ArgumentParser], None]) -> None:
    """Add the options of the file that ``--config`` names to those of the command line, which win.

    Args:
        args: Options of the command line.
        add_arguments: Adds the arguments of the command to a parser.

    Raises:
        InvalidOptionError: If the file cannot be read, or a key or value is no option.
    """
    if not hasattr(args, "config"):
        return
    parser = _ConfigParser(argument_default=SUPPRESS, add_help=False, allow_abbrev=False)
    add_arguments(parser)
    options = [action for action in parser._actions if action.option_strings]
    tokens = ["-"] * (len(parser._actions) - len(options))  # what stands without a flag is not in the file
    for action in options:
        action.required = False
    known = {flag[2:]: item for item in options for flag in item.option_strings if item.dest not in NOT_IN_FILE}
    for key, value in read_config(args.config).items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise InvalidOptionError(
                f"'{args.config}' has the key '{key}', which is no option. Known: {', '.join(sorted(known))}."
            )
        tokens += _as_arguments(name, value, known[name])
    found = parser.parse_args(tokens)
    for name in {action.dest for action in known.values()}:
        if hasattr(found, name) and not hasattr(args, name):
            setattr(args, name, getattr(found, name))


class _ConfigParser(ArgumentParser):
    """A parser that says what is wrong as our own error."""

    def error(self, message: str) -> Any:
        """Raise."""
        raise InvalidOptionError(f"The config file is wrong: {message}.")


def _as_arguments(name: str, value: Any, action: Action) -> list[str]:
    """Return an option of a config file as arguments of a command line."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise InvalidOptionError(f"The config file has {name}: {value!r}. It is true or false.")
        return [f"--{name}"] if value else []
    if isinstance(value, list) and action.nargs:
        return [f"--{name}", *map(str, value)]
    if isinstance(value, dict) or (isinstance(value, list) and name == "stages"):
        return [f"--{name}={json.dumps(value)}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{name}={item}" for item in values]


def read_config(file: str) -> dict[str, Any]:
    """Read a YAML, TOML or JSON file that holds one mapping.

    Raises:
        InvalidOptionError: If it cannot be read as such.
    """
    import tomllib

    import yaml

    readers: dict[str, Callable[[str], Any]] = {
        ".json": json.loads,
        ".toml": tomllib.loads,
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
    }
    reader = readers.get(Path(file).suffix.lower())
    if reader is None:
        raise InvalidOptionError(f"'{file}' is no .yaml, .toml or .json file. Give one of these.")
    try:
        data = reader(Path(file).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidOptionError(f"'{file}' cannot be read ({first_line(error)}).") from error
    if not isinstance(data, dict):
        raise InvalidOptionError(f"'{file}' holds a {type(data).__name__}, not options by name.")
    return data
