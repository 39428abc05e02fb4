"""Tell transformers about the package's own ``model_type`` names as soon as its Auto classes exist.

``import hf_vocab_extend`` must stay light, so it imports no transformers: if the Auto classes are not there yet, a
hook waits for their module, and the classes of the models are made when the first folder of that type is loaded.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

MODEL_TYPE = "factorized_vocabulary"
"""The same as in ``modeling/factorized.py``, which is too heavy to import here."""
_CONFIGS = {
    MODEL_TYPE: ("modeling.factorized", "FactorizedConfig"),
    "mini_joint": ("adaptation.mini_model.joint", "MiniJointConfig"),
}
"""Module and config class by ``model_type``; the module's ``register`` tells the Auto classes."""
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
    """Register config classes that make way for the real ones when they are used."""
    mapping = sys.modules[_AWAITED].CONFIG_MAPPING
    for model_type in _CONFIGS:
        mapping.register(model_type, _stand_in(model_type), exist_ok=True)


def _stand_in(own_type: str) -> Any:
    """Return a class that stands for a config class until one is read."""
    from transformers.configuration_utils import PretrainedConfig

    path, name = _CONFIGS[own_type]

    class StandIn(PretrainedConfig):
        """Stands for the config of a model of the package until one is read."""

        model_type = own_type

        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            module = importlib.import_module(f".{path}", __package__)
            module.register()
            return getattr(module, name).from_dict(config_dict, **kwargs)

    return StandIn


__all__ = ["MODEL_TYPE", "install"]
