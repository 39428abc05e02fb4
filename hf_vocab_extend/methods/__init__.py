"""The table of initialisation methods: a new one is one file and one line here."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from ..errors import InvalidOptionError, UnknownMethodError

if TYPE_CHECKING:
    from .base import InitMethod, MethodConfig

METHODS: dict[str, str | type[InitMethod]] = {
    "mean": ".mean:Mean",
    "normal": ".normal:Normal",
    "subword": ".subword:Subword",
    "focus": ".focus:Focus",
    "trans_tokenization": ".trans_tokenization:TransTokenization",
    "hyperofa": ".hyperofa:HyperOfa",
    "wechsel": ".wechsel:Wechsel",
    "ofa": ".ofa:Ofa",
}
"""Name to class, or to a ``"module:Class"`` that is imported at first use."""


def list_methods() -> list[str]:
    """Names of all registered methods, sorted."""
    return sorted(METHODS)


def get_method_class(name: str) -> type[InitMethod]:
    """Return the class of a method.

    Raises:
        UnknownMethodError: If no method has this name; the message suggests the nearest one.
    """
    if name not in METHODS:
        close = difflib.get_close_matches(name, METHODS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise UnknownMethodError(f"There is no method '{name}'.{hint} Methods: {', '.join(list_methods())}.")
    entry = METHODS[name]
    if isinstance(entry, str):
        module, _, attribute = entry.partition(":")
        entry = getattr(importlib.import_module(module, __name__), attribute)
        METHODS[name] = entry
    return entry


def register_method(method: type[InitMethod]) -> type[InitMethod]:
    """Add a method class under its ``name``; usable as a decorator.

    Raises:
        InvalidOptionError: If the name is taken by another class.
    """
    taken = METHODS.get(method.name)
    if taken is not None and taken is not method:
        raise InvalidOptionError(f"The method name '{method.name}' is taken. Choose another name.")
    METHODS[method.name] = method
    return method


def resolve_method(method: str | MethodConfig | InitMethod | type[InitMethod]) -> InitMethod:
    """Turn a name, a config, a class or an instance into an instance.

    Raises:
        UnknownMethodError: If the name or the config belongs to no method.
    """
    from .base import InitMethod, MethodConfig

    if isinstance(method, InitMethod):
        return method
    if isinstance(method, type) and issubclass(method, InitMethod):
        return method()
    if isinstance(method, MethodConfig):
        owners = [get_method_class(name) for name in list_methods()]
        for owner in owners:
            if owner.config_class is type(method) and type(method) is not MethodConfig:
                return owner(method)
        raise UnknownMethodError(f"No method takes a {type(method).__name__}. Methods: {', '.join(list_methods())}.")
    return get_method_class(method)()
