"""What else than tensors differs between two vocabularies of one model: sizes and token ids in modules and configs."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ..surgery.config_tree import all_configs
from ..surgery.registry import COUNT_ATTRIBUTES, VOCABULARY_FIELDS
from ..surgery.token_ids import ID_FIELD, ID_LISTS, ID_SEQUENCES, MODULE_FIELD

Key = tuple[str, str, str]
"""``modules`` or ``configs``, the dotted path of the owner, the name of the attribute."""
Settings = dict[Key, Any]

_SIZES = ("num_embeddings", "in_features", "out_features", *COUNT_ATTRIBUTES)
_CONFIG_FIELDS = frozenset(
    {
        *VOCABULARY_FIELDS,
        *ID_LISTS,
        *ID_SEQUENCES,
        *("tie_word_embeddings", "forced_decoder_ids", "sequence_bias", "lang_to_id", "task_to_id"),
    }
)


def read_settings(model: PreTrainedModel) -> Settings:
    """Return every attribute of a model that can follow the vocabulary."""
    found: Settings = {}
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if (type(value) is int or value is None) and (name in _SIZES or MODULE_FIELD.search(name)):
                found["modules", path, name] = value
    for path, config in all_configs(model):
        for name, value in vars(config).items():
            if name in _CONFIG_FIELDS or ID_FIELD.search(name):
                found["configs", path, name] = value
    return found


def differing(base: Settings, other: Settings) -> Settings:
    """Return those of ``other`` that ``base`` has with another value."""
    return {key: value for key, value in other.items() if key in base and base[key] != value}


def write_settings(model: PreTrainedModel, settings: Settings) -> None:
    """Set attributes of a model's modules and configs."""
    owners: dict[tuple[str, str], Any] = {("configs", path): config for path, config in all_configs(model)}
    for (kind, path, name), value in settings.items():
        owner = model.get_submodule(path) if kind == "modules" else owners[kind, path]
        setattr(owner, name, value)


def to_json(settings: Settings) -> dict[str, dict[str, dict[str, Any]]]:
    """Return settings as plain nested data."""
    result: dict[str, dict[str, dict[str, Any]]] = {"modules": {}, "configs": {}}
    for (kind, path, name), value in sorted(settings.items(), key=lambda item: item[0]):
        result[kind].setdefault(path, {})[name] = value
    return result


def from_json(data: dict[str, dict[str, dict[str, Any]]]) -> Settings:
    """Return what :func:`to_json` was given."""
    return {
        (kind, path, name): value
        for kind, owners in data.items()
        for path, fields in owners.items()
        for name, value in fields.items()
    }
