"""Find every tensor of a model that is indexed by token id, and how these tensors share storage.

Three questions are kept apart. *Which* tensors are vocabulary-sized is measured by :mod:`.probe`. *What part* one
plays is known from ``get_input_embeddings`` and ``get_output_embeddings`` of the model and its sub-models, else from
its name. *Which are tied* is decided by storage, never by ``config.tie_word_embeddings``: transformers 5 forces that
flag to True for the T5 family, whose heads often are their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import TokenizerMismatchError, UnsupportedModelError
from .checks import check_model, check_plain, check_values
from .config_tree import fields_of, main_config
from .probe import Dependence, named_tensors, probe
from .registry import LAYER_STACK, NOT_VOCABULARY, REFUSED_TYPES, ROLES_BY_NAME, SECOND_VOCABULARY_FIELDS

_ROLE_ORDER = ("input", "head", "head_part", "per_layer", "bias", "logits_bias")


@dataclass(frozen=True, eq=False)
class Alias:
    """One name under which a tensor hangs in the model."""

    name: str
    role: str
    module: nn.Module
    attribute: str
    tensor: torch.Tensor


@dataclass(frozen=True, eq=False)
class Site:
    """One storage that is indexed by token id.

    Attributes:
        name: Dotted name of the first alias, the input table's if it is one.
        role: ``input`` (also if tied), ``head``, ``head_part``, ``per_layer``, ``bias`` or ``logits_bias``.
        axis: Which axis of the tensor counts tokens.
        tensor: The live Parameter or buffer.
        aliases: All names that share the storage, this one included.
        field: The config field that counts its rows.
        extra: Its rows minus that field, for tables that are longer than the vocabulary by construction.
    """

    name: str
    role: str
    axis: int
    tensor: torch.Tensor
    aliases: tuple[Alias, ...]
    field: str = "vocab_size"
    extra: int = 0

    @property
    def n_rows(self) -> int:
        """Number of rows now."""
        return self.tensor.shape[self.axis]

    @property
    def roles(self) -> frozenset[str]:
        """Parts that the storage plays under its different names."""
        return frozenset(alias.role for alias in self.aliases)

    def table(self) -> torch.Tensor:
        """The values as a detached matrix, shape `(n_rows, width)`; a view where the layout allows it."""
        return self.tensor.detach().movedim(self.axis, 0).reshape(self.n_rows, -1)

    def restore_layout(self, table: torch.Tensor) -> torch.Tensor:
        """Bring a matrix `(rows, width)` into the layout of the live tensor."""
        rest = [size for axis, size in enumerate(self.tensor.shape) if axis != self.axis]
        return table.reshape(table.shape[0], *rest).movedim(0, self.axis).contiguous()


@dataclass(frozen=True, eq=False)
class Sites:
    """Every vocabulary-sized storage of a model.

    Attributes:
        items: The sites, input tables first.
        n_rows: Rows of the main input table.
    """

    items: tuple[Site, ...]
    n_rows: int

    def __iter__(self) -> Iterator[Site]:
        """Iterate over the sites."""
        return iter(self.items)

    def __len__(self) -> int:
        """Number of storages."""
        return len(self.items)

    @property
    def input(self) -> Site:
        """The main input table."""
        return self.items[0]

    @property
    def head(self) -> Site | None:
        """The output table, the input table itself if it is tied, None for a model without a head."""
        return next((site for site in self.items if "head" in site.roles), None)

    @property
    def tied(self) -> bool:
        """Whether the head shares the storage of an input table."""
        return any({"input", "head"} <= site.roles for site in self.items)


def find_sites(model: PreTrainedModel, n_source_ids: int) -> Sites:
    """Find and check every vocabulary-sized tensor; nothing is changed.

    Args:
        model: The model.
        n_source_ids: Highest id of the source tokenizer + 1.

    Raises:
        UnsupportedModelError: If a table is quantised, sharded, without data or reparametrised, or if a
            vocabulary-sized tensor is of a kind that is not known; the message names it.
        InvalidTableError: If a table holds NaN or infinite values; the message names the rows.
        TokenizerMismatchError: If the tokenizer has more ids than the input table has rows.
    """
    check_model(model)
    main = _main_table(model)
    if n_source_ids > main.shape[0]:
        raise TokenizerMismatchError(
            f"The tokenizer has more tokens than the model has rows: ids go up to {n_source_ids - 1}, the input table "
            f"has {main.shape[0]} rows. Pass the tokenizer that belongs to this model with tokenizer=. If it is that "
            f"one, its last tokens never had rows: call model.resize_token_embeddings({n_source_ids}) first."
        )
    sites = _group(_candidates(model, main.shape[0]), main)
    _check_vocabularies(model, sites)
    for site in sites:
        check_values(site.name, site.table())
    return Sites(tuple(sites), main.shape[0])


def scan_sites(model: PreTrainedModel) -> Sites:
    """Find every vocabulary-sized tensor of a model that will be trained, not changed; no value is read.

    Sharded tables, tables of a quantised body and tables without data are found too; shapes are the global ones.

    Raises:
        UnsupportedModelError: If the model has no plain input table, or a vocabulary-sized tensor of unknown kind.
    """
    main = _main_table(model)
    return Sites(tuple(_group(_candidates(model, main.shape[0], plain=False), main)), main.shape[0])


def _main_table(model: PreTrainedModel) -> torch.Tensor:
    """Return the weight of the model's input embeddings."""
    reason = REFUSED_TYPES.get(model.config.model_type)
    if reason is not None:
        raise UnsupportedModelError(f"A model of type '{model.config.model_type}' cannot be extended: {reason}.")
    try:
        module = model.get_input_embeddings()
    except NotImplementedError as error:
        raise UnsupportedModelError(f"{type(model).__name__} has no table of token embeddings.") from error
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or "weight" not in module._parameters:
        raise UnsupportedModelError(
            f"The input embeddings of {type(model).__name__} are a {type(module).__name__} without a plain weight "
            "matrix. Merge or remove adapters and reparametrisations first."
        )
    return weight


def _accessor_modules(model: PreTrainedModel) -> dict[int, str]:
    """Return the id of every module that an accessor of the model or a sub-model gives, with its role."""
    roles: dict[int, str] = {}
    for module in model.modules():
        if not isinstance(module, PreTrainedModel):
            continue
        try:
            found = {"input": module.get_input_embeddings()}
        except (NotImplementedError, AttributeError):  # a part without tokens, such as a vision tower
            continue
        found["head"] = module.get_output_embeddings()
        for role, item in found.items():
            if item is not None:
                roles.setdefault(id(item), role)
    return roles


def _candidates(model: PreTrainedModel, n_rows: int, *, plain: bool = True) -> list[tuple[Alias, Dependence]]:
    """Return every tensor with a vocabulary axis; raise for one of unknown kind, and unless it is plain if asked."""
    counts = fields_of(main_config(model.config))
    dependences = probe(model) if "vocab_size" in counts else None
    accessors = _accessor_modules(model)
    lengths = {n_rows, *counts.values()}
    found, unknown = [], []
    for name, tensor in named_tensors(model):
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        role = _role(name, attribute, accessors.get(id(module)))
        known = dependences.get(name) if dependences is not None else None
        axes = known if known is not None else _guess(name, tensor, role, lengths, counts.get("vocab_size", n_rows))
        if known == () and role is not None and n_rows in tensor.shape and id(module) in accessors:
            axes = ()  # an accessor of a part whose vocabulary is not the tokenizer's
        if not axes:
            continue
        if role is None or len(axes) > 1 or axes[0].field is None:
            unknown.append(f"{name} {tuple(tensor.shape)}")
            continue
        if plain:
            check_plain(name, tensor)
        found.append((Alias(name, role, module, attribute, tensor), axes[0]))
    if unknown:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds vocabulary-sized tensors whose rows cannot be placed: "
            f"{', '.join(unknown)}. They are not embeddings, heads or biases that are known here; nothing was changed."
        )
    return found


def _role(name: str, attribute: str, accessor: str | None) -> str | None:
    """Return the part that a tensor plays, None if it is not known."""
    if accessor is not None and attribute == "weight":
        return accessor
    if accessor == "head" and attribute == "bias":
        return "bias"
    return next((role for pattern, role in ROLES_BY_NAME if pattern.search(name)), None)


def _guess(
    name: str, tensor: torch.Tensor, role: str | None, lengths: set[int], vocab_size: int
) -> tuple[Dependence, ...]:
    """Judge a tensor that the probe does not know: by length, unless its name says that tokens do not index it."""
    axes = [axis for axis, size in enumerate(tensor.shape) if size in lengths]
    if role is None and (LAYER_STACK.search(name) or NOT_VOCABULARY.search(name)):
        return ()
    if role is not None and axes:
        axes = axes[-1:] if role == "logits_bias" else axes[:1]
    return tuple(Dependence(axis, "vocab_size", 0) for axis in axes)


def _group(candidates: list[tuple[Alias, Dependence]], main: torch.Tensor) -> list[Site]:
    """Join the aliases of one storage; the main input table comes first, then by role."""
    groups: dict[tuple[int, ...], list[tuple[Alias, Dependence]]] = {}
    for alias, axis in candidates:
        groups.setdefault(_storage_key(alias.tensor), []).append((alias, axis))
    sites = []
    for members in groups.values():
        members.sort(key=lambda member: _ROLE_ORDER.index(member[0].role))
        alias, axis = members[0]
        aliases = tuple(member[0] for member in members)
        sites.append(Site(alias.name, alias.role, axis.axis, alias.tensor, aliases, axis.field or "", axis.extra))
    if not any(alias.tensor is main for site in sites for alias in site.aliases):
        raise UnsupportedModelError(
            "The input table does not follow the vocabulary size that the config states. "
            "Load the model with from_pretrained, so that config and tensors belong together."
        )
    sites.sort(
        key=lambda site: (not any(alias.tensor is main for alias in site.aliases), _ROLE_ORDER.index(site.role))
    )
    return sites


def _storage_key(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return what two names of one storage have in common; a shard or a tensor without data is only itself."""
    if hasattr(tensor, "placements") or tensor.device.type == "meta":
        return (id(tensor),)
    return (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), *tensor.shape, *tensor.stride())


def _check_vocabularies(model: PreTrainedModel, sites: list[Site]) -> None:
    """Refuse a model whose encoder and decoder count tokens apart."""
    main = main_config(model.config)
    shared = getattr(main, "share_encoder_decoder_embeddings", True) is not False
    for site in sites:
        value = getattr(main, site.field, None)
        same = shared and site.field == "decoder_vocab_size" and value == main.vocab_size
        if site.field in SECOND_VOCABULARY_FIELDS and not same:
            raise UnsupportedModelError(
                f"'{site.name}' is counted by {site.field} ({value}), a second vocabulary beside vocab_size. Only "
                "models whose encoder and decoder share one vocabulary can be extended."
            )


def describe(site: Site) -> dict[str, object]:
    """Name, role, shape, type and aliases of a site as plain data."""
    return {
        "name": site.name,
        "role": site.role,
        "shape": list(site.tensor.shape),
        "dtype": str(site.tensor.dtype).removeprefix("torch."),
        "aliases": sorted({alias.name for alias in site.aliases} - {site.name}),
    }


__all__ = ["Alias", "Site", "Sites", "describe", "find_sites", "scan_sites"]
