"""Import of optional packages with one clear error when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import MissingDependencyError


def require(module: str, extra: str, otherwise: str = "") -> ModuleType:
    """Return the imported module.

    Args:
        module: Name of the module, for example ``"fasttext"``.
        extra: The extra of this package that installs it.
        otherwise: Sentence that says how to do without.

    Raises:
        MissingDependencyError: If the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"The package '{module}' is needed here and cannot be imported ({error}). "
            f"Install it with: pip install 'hf_vocab_extend[{extra}]'{'.' if otherwise else ''}{otherwise}"
        ) from error
