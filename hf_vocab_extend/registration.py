"""Tell transformers about the ``model_type`` of factorised models as soon as its Auto classes exist.

``import hf_vocab_extend`` must stay light, so it imports no transformers: if the Auto classes are not there yet, a
hook waits for their module, and the classes of the models are made when the first factorised folder is loaded.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

MODEL_TYPE = "factorized_vocabulary"
"""The same as in ``modeling/factorized.py``, which is too heavy to import here."""
_AWAITED = "transformers.models.auto.configuration_auto"


def install() -> None:
    """Register now if transformers is there, else when it comes; to be called once."""
    module = sys.modules.get(_AWAITED)
    if hasattr(module, "CONFIG_MAPPING"):
        _register()
    elif module is None:
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Stands aside for every module but one, and steps out of the way when that one has run."""

    def __init__(self) -> None:
        self._is_asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Let the other finders find the awaited module, and let it register us after it has run."""
        if fullname != _AWAITED or self._is_asking:
            return None
        self._is_asking = True  # some only look whether a module is there: so this one stays until it runs
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._is_asking = False
        loader: Any = spec.loader if spec else None
        if hasattr(loader, "exec_module"):
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _register()

            loader.exec_module = exec_module
        return spec


def _register() -> None:
    """Register a config class that makes way for the real one when it is used."""
    from transformers.configuration_utils import PretrainedConfig

    mapping = sys.modules[_AWAITED].CONFIG_MAPPING

    class FactorizedConfig(PretrainedConfig):
        """Stands for the config of a factorised model until one is read."""

        model_type = MODEL_TYPE

        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            from .modeling import factorized

            factorized.register()
            return factorized.FactorizedConfig.from_dict(config_dict, **kwargs)

    mapping.register(MODEL_TYPE, FactorizedConfig, exist_ok=True)


__all__ = ["MODEL_TYPE", "install"]
