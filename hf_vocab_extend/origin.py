"""Where a token table was learned, if not on the model that has it: as facts of a report, and in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEARNED_ON = "learned_on"
"""Entry of a report's training; a later training of the model itself has none."""
_MINI_KINDS = ("post", "joint")
"""Kinds of a mini-model's record that speak of a mini-model, see ``adaptation.mini_model.record``."""

CITATION = (
    "@inproceedings{marchisio-etal-2023-mini,\n"
    "    title = {Mini-Model Adaptation: Efficiently Extending Pretrained Models to New Languages via Aligned Shallow "
    "Training},\n"
    "    author = {Marchisio, Kelly and Lewis, Patrick and Chen, Yihong and Artetxe, Mikel},\n"
    "    booktitle = {Findings of the Association for Computational Linguistics: ACL 2023},\n"
    "    year = {2023},\n"
    "    eprint = {2212.10503},\n"
    "    archivePrefix = {arXiv},\n"
    "    url = {https://arxiv.org/abs/2212.10503},\n"
    "}"
)
"""Of the paper that learns tables on mini-models."""


@dataclass(frozen=True)
class Origin:
    """What a token table was learned on.

    Attributes:
        kind: That of a mini-model's record, or ``full`` for a whole model.
        layers: Layers of the mini-model; 0 for a whole model.
        shared_layers: Those among them that are the full model's.
        full_model: Hub id of the full model, None if it is not known.
        transplanted: Whether the table has been put into the full model since.
    """

    kind: str = "full"
    layers: int = 0
    shared_layers: int = 0
    full_model: str | None = None
    transplanted: bool = False

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | None, *, transplanted: bool = False) -> Origin:
        """Return what the record of a model says, as plain data; a model without one is a whole one."""
        if record is None or record.get("kind") not in _MINI_KINDS:
            return cls(transplanted=transplanted)
        shared = record["bottom_layers"]
        return cls(record["kind"], shared + record["new_layers"], shared, record.get("primary"), transplanted)

    @property
    def is_mini(self) -> bool:
        """Whether it is a mini-model."""
        return self.kind in _MINI_KINDS

    @property
    def is_table_only(self) -> bool:
        """Whether the model at hand is the mini-model, which matters for its table alone."""
        return self.is_mini and not self.transplanted

    @property
    def which(self) -> str:
        """Which model: "the mini-model"."""
        return "the mini-model" if self.is_mini else "another language model"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """With its layers: "a mini-model of 4 layers (2 of the full model's)"."""
        if not self.is_mini:
            return "the language model"
        size = f"{self.layers} {'layer' if self.layers == 1 else 'layers'}"
        return f"a mini-model of {size} ({self.shared_layers} of the full model's)"


def origin_of(training: Mapping[str, Any] | None, config: Mapping[str, Any] | None = None) -> Origin | None:
    """Return what a table was learned on; None if on the very model that has it.

    Args:
        training: ``training`` of its report.
        config: ``config.json`` of the model, which tells a mini-model whose report does not.
    """
    facts = (training or {}).get(LEARNED_ON)
    if isinstance(facts, Mapping):
        names = {item.name for item in dataclasses.fields(Origin)}
        return Origin(**{name: value for name, value in facts.items() if name in names})
    record = (config or {}).get("mini_model")
    origin = Origin.of_record(record if isinstance(record, Mapping) else None)
    return origin if origin.is_mini else None


__all__ = ["CITATION", "LEARNED_ON", "Origin", "origin_of"]
