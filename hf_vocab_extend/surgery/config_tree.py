"""All config objects of a model: the top one, nested ones, and the copies that sub-modules keep."""

from __future__ import annotations

from collections.abc import Iterator

from transformers import PretrainedConfig, PreTrainedModel

from .registry import OTHER_MODALITY, VOCABULARY_FIELDS

TOP = "config"
"""Path of a model's own config."""


def walk(config: PretrainedConfig, path: str = TOP) -> Iterator[tuple[str, PretrainedConfig]]:
    """Give a config and all configs nested in it, each with its dotted path."""
    yield path, config
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            yield from walk(value, f"{path}.{name}")


def all_configs(model: PreTrainedModel) -> list[tuple[str, PretrainedConfig]]:
    """Every config object that the model or one of its modules reads, each once.

    T5 and others give their encoder and decoder copies of the config, so changing ``model.config`` is not enough.
    """
    found: dict[int, tuple[str, PretrainedConfig]] = {}
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            for path, item in walk(config, f"{name}.{TOP}" if name else TOP):
                found.setdefault(id(item), (path, item))
    return list(found.values())


def text_configs(configs: list[tuple[str, PretrainedConfig]], vocab_size: int) -> list[PretrainedConfig]:
    """Those configs whose ``vocab_size`` is that of the tokenizer, not of another modality; the top one always."""
    stated = [(path, config, getattr(config, "vocab_size", None)) for path, config in configs]
    return [
        config
        for path, config, value in stated
        if isinstance(value, int) and (path == TOP or (value == vocab_size and not OTHER_MODALITY.search(path)))
    ]


def main_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config that counts the text vocabulary; the top one where several would do."""
    try:
        return config.get_text_config()
    except ValueError:  # more than one text config: encoder and decoder, each with its own
        return config


def fields_of(config: PretrainedConfig) -> dict[str, int]:
    """The row counts that a config states, by field name."""
    values = {name: getattr(config, name, None) for name in VOCABULARY_FIELDS}
    return {name: value for name, value in values.items() if isinstance(value, int) and value > 0}
