"""What a model remembers of a table that was put into it, so that the next language can take its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ...mapping import RowKind
from ...modeling.settings import Settings, differing, from_json, read_settings, to_json
from ...plan import MatchKind, VocabPlan
from ...surgery.config_tree import all_configs
from ...surgery.positions import plan_position_shift, write_position_shift
from ...surgery.registry import COUNT_ATTRIBUTES, VOCABULARY_FIELDS
from ...surgery.token_ids import IdMap
from ...vocab.canonical import CanonicalVocab, canonicalise
from .record import FIELD, table_hashes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...result import VocabExtension
    from ...surgery.journal import Journal
    from ...surgery.sites import Sites

KEY = "plugged"
"""The entry of a record's config field that holds what was plugged in."""
_GENERATION = ("configs", "generation_config")
_SIZES = frozenset({*VOCABULARY_FIELDS, *COUNT_ATTRIBUTES, "num_embeddings", "in_features", "out_features"})
_COPIES = (RowKind.EXACT, RowKind.BYTE, RowKind.SPECIAL, RowKind.FUZZY)


@dataclass(frozen=True)
class Plugged:
    """A table that was put into a model.

    Attributes:
        source_vocab_size: Rows of the model's input table before the first one.
        source_tables: Hashes of the tables before the first one, by role.
        tables: Hashes of the tables now, by role.
        before: Token ids in modules and configs before the first one, those that have changed since.
    """

    source_vocab_size: int
    source_tables: dict[str, str]
    tables: dict[str, str]
    before: dict[str, Any]

    @classmethod
    def after(
        cls, model: PreTrainedModel, before: Settings, *, source_vocab_size: int, source_tables: dict[str, str]
    ) -> Plugged:
        """Describe a model that has just taken a table.

        Args:
            model: The model.
            before: Its token ids before.
            source_vocab_size: Rows before.
            source_tables: Hashes of the tables before.
        """
        changed = differing(token_settings(model), before)
        return cls(source_vocab_size, source_tables, table_hashes(model), to_json(changed))


def read_plugged(model: PreTrainedModel) -> Plugged | None:
    """Return what a model's config says of the table that was put into it; None if there was none."""
    known = getattr(model.config, FIELD, None)
    data = known.get(KEY) if isinstance(known, Mapping) else None
    if not isinstance(data, Mapping):
        return None
    return Plugged(**{item.name: data[item.name] for item in fields(Plugged)})


def write_plugged(model: PreTrainedModel, plugged: Plugged, journal: Journal) -> None:
    """Write it into the model's config, from where it is saved and loaded with the model."""
    known = getattr(model.config, FIELD, None) or {}
    journal.set_attribute(model.config, FIELD, {**known, KEY: asdict(plugged)})


def token_settings(model: PreTrainedModel) -> Settings:
    """Return the token ids in a model's modules, configs and generation config, in a form that JSON can hold."""
    found = {key: value for key, value in read_settings(model).items() if key[2] not in _SIZES}
    generation = getattr(model, "generation_config", None)
    for name, value in vars(generation).items() if generation is not None else ():
        if not name.startswith("_") and isinstance(value, int | list | dict | None):
            found[*_GENERATION, name] = value
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    """Return ids that JSON gives back as they are: ``sequence_bias`` as pairs."""
    if isinstance(value, dict) and any(not isinstance(key, str) for key in value):
        return [[list(key) if isinstance(key, tuple) else key, item] for key, item in value.items()]
    return list(value) if isinstance(value, tuple) else value


def take_out(model: PreTrainedModel, sites: Sites, plugged: Plugged, journal: Journal) -> None:
    """Give positions and token ids of a model back as they were before it took a table; the table itself stays."""
    before = from_json(plugged.before)
    modules = dict(model.named_modules())
    padded = [
        value
        for (kind, path, name), value in before.items()
        if kind == "modules" and name == "padding_idx" and "position" in f"{path} {type(modules.get(path))}".lower()
    ]
    if padded:
        shift = plan_position_shift(model, sites, _Back(padded[0]))
        if shift is not None:
            write_position_shift(model, shift, journal)
    owners: dict[tuple[str, str], Any] = {("configs", path): config for path, config in all_configs(model)}
    owners |= {("modules", path): module for path, module in modules.items()}
    owners[_GENERATION] = getattr(model, "generation_config", None)
    for (kind, path, name), value in before.items():
        owner = owners.get((kind, path))
        if owner is not None and hasattr(owner, name):
            journal.set_attribute(owner, name, value)


class _Back(IdMap):
    """Sends every id to the padding id that a model had at first."""

    def __init__(self, pad: int) -> None:
        self.is_identity = False
        self._pad = pad

    def find(self, source_id: int, role: str | None = None) -> int | None:
        """Return that padding id."""
        return self._pad


def plan_of(extension: VocabExtension) -> VocabPlan:
    """Return the plan by which a model was extended, as its mapping tells it: which target id is which source id.

    Of the source vocabulary only the tokens are known.
    """
    mapping, target = extension.mapping, canonicalise(extension.tokenizer)
    tokens, n_target = tuple(mapping.source_tokens), len(mapping.tokens)
    source_ids = np.full(n_target, -1, np.int64)
    kinds = np.where(mapping.kinds <= max(MatchKind), mapping.kinds, MatchKind.NEW).astype(np.uint8)
    copied = np.flatnonzero(np.isin(mapping.kinds, _COPIES))
    source_ids[copied] = mapping.mixture.columns[mapping.mixture.offsets[copied]]
    same = np.flatnonzero(mapping.kinds == RowKind.SAME)
    source_ids[same] = same
    unknown = np.full(len(tokens), -1, np.int8)
    source = CanonicalVocab(
        target.family, tokens, (b"",) * len(tokens), unknown, unknown, np.zeros(len(tokens), np.uint8)
    )
    mode: Any = extension.report.mode
    return VocabPlan(mode, source, target, source_ids, kinds)


__all__ = ["Plugged", "plan_of", "read_plugged", "take_out", "token_settings", "write_plugged"]
