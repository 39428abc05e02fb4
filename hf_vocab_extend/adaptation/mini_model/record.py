"""What a mini-model remembers of the model that it was cut from; it stands in the config, and so in every saved one.

The token tables of both are hashed: rows that were learned on a mini-model fit the full model only while its own
tables are those of the cut. So are the bottom layers, over which the new ones are trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ...errors import UnsupportedModelError, VocabExtendWarning
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
        layers_path: Dotted name of the list of layers; None for ``full``, and in records that were written without it.
        bottom_hash: Hash of the bottom layers at the cut, rounded as the tables are; None as ``layers_path``.
    """

    kind: Kind
    bottom_layers: int
    new_layers: int
    primary: str | None
    source_vocab_size: int
    width: int
    source_tables: dict[str, str]
    layers_path: str | None = None
    bottom_hash: str | None = None

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        kind: Kind,
        bottom_layers: int,
        new_layers: int = 0,
        *,
        layers_path: str | None = None,
    ) -> MiniRecord:
        """Return the record of a mini-model that is cut from a model now.

        Args:
            model: The full model.
            kind: How the mini-model comes about.
            bottom_layers: Number of layers that it shares.
            new_layers: Number of layers that it adds.
            layers_path: Dotted name of the list of layers; without it the bottom layers are not hashed.
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
            layers_path=layers_path,
            bottom_hash=_layers_hash(model, layers_path, bottom_layers),
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


@torch.no_grad()
def first_rows_hashes(model: PreTrainedModel, n_rows: int) -> dict[str, str]:
    """Return what :func:`table_hashes` gives for a model of which only the first tokens are left.

    Args:
        model: A model with data.
        n_rows: Number of these tokens.

    Raises:
        UnsupportedModelError: As :func:`table_hashes`.
    """
    return _hashes(scan_sites(model), n_rows)


def _hashes(sites: Sites, n_rows: int | None = None) -> dict[str, str]:
    """Return the hash of every role, over the first rows or all of them."""
    found: dict[str, Any] = {}
    for site in sites:
        if site.tensor.device.type == "meta":
            raise UnsupportedModelError(
                f"'{site.name}' is on the meta device: it has no data, or is offloaded. Load the model without "
                "device_map."
            )
        digest = found.setdefault(site.role, hashlib.sha256())
        for matrix in (site.table()[:n_rows], *_projections(site)):
            _update(digest, matrix)
    return {role: digest.hexdigest() for role, digest in found.items()}


def _update(digest: Any, values: torch.Tensor) -> None:
    """Add the shape and the rounded values of a tensor to a hash."""
    digest.update(f"{tuple(values.shape)}\n".encode())
    for block in (values if values.ndim else values.reshape(1)).split(_ROWS_PER_BLOCK):
        rounded = block.to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy()
        digest.update(rounded.astype("<i2", copy=False))


@torch.no_grad()
def _layers_hash(model: PreTrainedModel, path: str | None, n_layers: int) -> str | None:
    """Return SHA-256 of a model's first layers; None if they are not at that place, or have no data here."""
    layers: Any = dict(model.named_modules()).get(path or "")
    if not isinstance(layers, nn.ModuleList) or len(layers) < n_layers:
        return None
    digest = hashlib.sha256()
    for name, parameter in layers[:n_layers].named_parameters():
        if parameter.device.type == "meta":
            return None
        digest.update(f"{name}\n".encode())
        _update(digest, parameter)
    return digest.hexdigest()


def bottom_moved(model: PreTrainedModel, record: MiniRecord) -> bool:
    """Whether the bottom layers of a model are others than those of a cut, as far as both are known.

    Args:
        model: The mini-model, or the full one.
        record: What was noted at the cut.
    """
    now = _layers_hash(model, record.layers_path, record.bottom_layers) if record.bottom_hash is not None else None
    return now is not None and now != record.bottom_hash


def warn_if_bottom_moved(mini: PreTrainedModel, record: MiniRecord, *, stacklevel: int) -> None:
    """Warn if a mini-model's bottom layers are not those of the cut: they share storage with the full model's.

    Args:
        mini: The mini-model.
        record: Its record.
        stacklevel: As of ``warnings.warn``, counted from the caller.
    """
    if bottom_moved(mini, record):
        warnings.warn(
            f"The {record.bottom_layers} bottom layers of this mini-model are not those with which it was cut, and "
            f"what stands above was trained over those. Cut it again from the model as it is, and train it."
            f"{float16_note(mini.parameters())}",
            VocabExtendWarning,
            stacklevel=stacklevel + 1,
        )


@torch.no_grad()
def float16_note(tensors: Iterable[torch.Tensor]) -> str:
    """Return what to say after a hash differs whose values may have been rounded to float16, else nothing.

    Args:
        tensors: The tensors that were hashed.
    """
    if not all(torch.equal(item, item.to(torch.float16).to(item.dtype)) for item in tensors):
        return ""
    return (
        " All values are ones of float16, and rounding to it is a difference too: if the model was only cast or saved "
        "so, load it in float32 or bfloat16 from what it was before."
    )


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
    fields = dataclasses.fields(MiniRecord)
    missing = [field.name for field in fields if field.default is dataclasses.MISSING and field.name not in entry]
    if missing:
        raise UnsupportedModelError(
            f"The entry '{FIELD}' of the config lacks {', '.join(missing)}. Cut the mini-model again, or load the "
            "config that was saved with it."
        )
    return MiniRecord(**{field.name: entry[field.name] for field in fields if field.name in entry})


__all__ = [
    "FIELD",
    "MiniRecord",
    "bottom_moved",
    "first_rows_hashes",
    "float16_note",
    "read_record",
    "table_hashes",
    "warn_if_bottom_moved",
    "write_record",
]
