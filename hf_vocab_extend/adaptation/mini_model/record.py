"""What a mini-model remembers of the model that it was cut from; it stands in the config, and so in every saved one.

The token tables of both are hashed: rows that were learned on a mini-model fit the full model only while its own
tables are those of the cut.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from ...errors import UnsupportedModelError
from ...modeling.factorized import is_factorized
from ...prepare import hub_name
from ...surgery.sites import Site, Sites, scan_sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIELD = "mini_model"
"""Entry of the config."""
Kind = Literal["post", "joint", "full"]
_ROWS_PER_BLOCK = 1 << 14


@dataclass(frozen=True)
class MiniRecord:
    """Where a mini-model comes from.

    Attributes:
        kind: ``post`` if new layers were put over the bottom of a finished model, ``joint`` if the model was trained
            with a second head and cut there, ``full`` if rows were learned on a whole model.
        bottom_layers: Number of layers that are those of the full model.
        new_layers: Number of layers above them that are its own.
        primary: Hub id of the full model; None if it has none.
        source_vocab_size: Rows of the full model's input table at the cut.
        width: Length of these rows.
        source_tables: Hash of every token table at the cut, by role; see :func:`table_hashes`.
    """

    kind: Kind
    bottom_layers: int
    new_layers: int
    primary: str | None
    source_vocab_size: int
    width: int
    source_tables: dict[str, str]

    @classmethod
    def of(cls, model: PreTrainedModel, kind: Kind, bottom_layers: int, new_layers: int = 0) -> MiniRecord:
        """Return the record of a mini-model that is cut from a model now.

        Args:
            model: The full model.
            kind: How the mini-model comes about.
            bottom_layers: Number of layers that it shares.
            new_layers: Number of layers that it adds.
        """
        sites = scan_sites(model)
        rows = sites.input.table()
        return cls(
            kind=kind,
            bottom_layers=bottom_layers,
            new_layers=new_layers,
            primary=hub_name(model.config._name_or_path),
            source_vocab_size=rows.shape[0],
            width=rows.shape[1],
            source_tables=_hashes(sites),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return dataclasses.asdict(self)


@torch.no_grad()
def table_hashes(model: PreTrainedModel) -> dict[str, str]:
    """Return SHA-256 of a model's token tables, whole ones, by the part that they play.

    Values are rounded to bfloat16, so that a model loaded in half precision has the same. Of a factorised table both
    factors count; several tables of one role are one hash. A tied head has the role ``input``.

    Args:
        model: A model with data.

    Raises:
        UnsupportedModelError: If a table has no data, or is of unknown kind.
    """
    return _hashes(scan_sites(model))


def _hashes(sites: Sites) -> dict[str, str]:
    """Return the hash of every role."""
    found: dict[str, Any] = {}
    for site in sites:
        if site.tensor.device.type == "meta":
            raise UnsupportedModelError(
                f"'{site.name}' is on the meta device: it has no data, or is offloaded. Load the model without "
                "device_map."
            )
        digest = found.setdefault(site.role, hashlib.sha256())
        for matrix in (site.table(), *_projections(site)):
            digest.update(f"{tuple(matrix.shape)}\n".encode())
            for block in matrix.split(_ROWS_PER_BLOCK):
                values = block.to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy()
                digest.update(values.astype("<i2", copy=False))
    return {role: digest.hexdigest() for role, digest in found.items()}


def _projections(site: Site) -> list[torch.Tensor]:
    """Return the second factors of a table, each once."""
    modules = [alias.module for alias in site.aliases if alias.attribute == "weight" and is_factorized(alias.module)]
    factors = [module.get_parameter("projection") for module in modules]
    return [factor.detach() for factor in {id(factor): factor for factor in factors}.values()]


def write_record(mini: PreTrainedModel, record: MiniRecord) -> None:
    """Put a record into the config of a mini-model.

    Args:
        mini: The mini-model.
        record: What it shall remember; entries beside it stay.
    """
    before = getattr(mini.config, FIELD, None) or {}
    setattr(mini.config, FIELD, {**before, **record.to_dict()})


def read_record(model: PreTrainedModel) -> MiniRecord | None:
    """Return the record of a mini-model, None for any other model.

    Args:
        model: Any model; entries of its config that are no part of the record are left alone.

    Raises:
        UnsupportedModelError: If the entry is there and not whole.
    """
    entry = getattr(model.config, FIELD, None)
    if not isinstance(entry, dict) or "kind" not in entry:
        return None
    names = [field.name for field in dataclasses.fields(MiniRecord)]
    missing = [name for name in names if name not in entry]
    if missing:
        raise UnsupportedModelError(
            f"The entry '{FIELD}' of the config lacks {', '.join(missing)}. Cut the mini-model again, or load the "
            "config that was saved with it."
        )
    return MiniRecord(**{name: entry[name] for name in names})


__all__ = ["FIELD", "MiniRecord", "read_record", "table_hashes", "write_record"]
