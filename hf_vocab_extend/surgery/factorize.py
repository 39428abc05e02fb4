"""Factorise the token tables of a model in place: ``E (V, D) ~ F (V, R) @ P (R, D)``; and merge them back.

The classes that hold the factors are in :mod:`..modeling.factorized`, the file that travels with saved models.
Modules, Parameters and ties stay the objects that they were; only their classes and data change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from .._logging import get_logger
from ..errors import InvalidOptionError, UnsupportedModelError
from ..modeling import factorized
from ..modeling.factorized import merge_tables, register
from .checks import check_model
from .journal import Journal
from .low_rank import SCALINGS, Basis, Factors, check_rank, factorize_table, is_share, principal_basis, resolve_rank
from .sites import Alias, Site, Sites, find_sites
from .table_uses import check_uses
from .ties import make_flag_truthful

logger = get_logger(__name__)
factorized.register()
_TABLES = frozenset({"input", "head"})
_LEFT_AS_THEY_ARE = frozenset({"bias", "logits_bias", "per_layer"})


@dataclass(frozen=True, eq=False)
class _Step:
    """One storage and what it will be replaced by."""

    site: Site
    factors: Factors
    modules: dict[int, nn.Module]


def factorize_embeddings(
    model: PreTrainedModel,
    rank: int | float,
    *,
    scaling: str = "balanced",
    head_rank: int | float | None = None,
    bases: Mapping[str, Basis] | None = None,
    journal: Journal | None = None,
) -> PreTrainedModel:
    """Replace the token tables of a model by products of rank R, in place.

    Input table and tied head share both factors; an untied head gets its own. The model's class and config become
    sisters of the stock ones (``isinstance`` holds), and what ``save_pretrained`` writes loads with
    ``trust_remote_code=True`` anywhere, or with this package imported.

    Args:
        model: The model.
        rank: R, from 1 to min(V, D); or a fraction below 1: the share of the table's squared norm to keep.
        scaling: How the singular values are shared out, a name in :data:`.low_rank.SCALINGS`.
        head_rank: The same as ``rank`` for an untied head; by default ``rank``.
        bases: Site name to the principal directions to use instead of the table's own.
        journal: Where to note the writes, for a caller whose own later failure must take them back too.

    Returns:
        The model itself.

    Raises:
        InvalidOptionError: If a rank is out of range, or the scaling is unknown.
        InvalidTableError: If a table holds NaN or infinite values.
        UnsupportedModelError: If the model is factorised already, or reads a table in a way that a product does not
            serve. Nothing is changed then.
    """
    _check_options(model, scaling)
    sites = find_sites(model, 0)
    check_uses(model, _tables(model, sites))
    return place_factors(
        model, sites, rank, scaling=scaling, head_rank=head_rank, bases=bases or {}, journal=journal or Journal()
    )


def place_factors(
    model: PreTrainedModel,
    sites: Sites,
    rank: int | float,
    *,
    bases: Mapping[str, Basis],
    journal: Journal,
    scaling: str = "balanced",
    head_rank: int | float | None = None,
) -> PreTrainedModel:
    """Do what :func:`factorize_embeddings` does to a model whose tables were found and checked before.

    Args:
        model: The model.
        sites: Its vocabulary-sized tensors, as :func:`source_bases` saw them; their rows may be others since.
        rank: As in :func:`factorize_embeddings`, as are the others.
        bases: Site name to principal directions.
        journal: Where to note the writes.
        scaling: A name in :data:`.low_rank.SCALINGS`.
        head_rank: Rank of an untied head.
    """
    steps = [
        _plan(site, rank if "input" in site.roles or head_rank is None else head_rank, scaling, bases)
        for site in _tables(model, sites)
    ]
    with journal as writes:
        make_flag_truthful(model, sites, writes)
        for step in steps:
            _write(step, writes)
        _write_classes(model, steps, writes)
    return model


def source_bases(model: PreTrainedModel, sites: Sites, rank: int | float) -> dict[str, Basis]:
    """Check before any other work that a model can be factorised, and return the directions of its tables.

    Rows that are mixed from those of a table lie in the span of its directions, so that factorising after the rows
    are placed, with these directions, gives the same as mixing rows of the factor (OFA, arXiv 2311.08849).

    Args:
        model: The model.
        sites: Its vocabulary-sized tensors.
        rank: As in :func:`factorize_embeddings`.

    Returns:
        Site name to the principal directions of its table.

    Raises:
        InvalidOptionError: If the rank is out of range.
        UnsupportedModelError: If the model cannot be factorised.
    """
    _check_options(model, "balanced")
    tables = _tables(model, sites)
    for site in tables:
        if not is_share(rank):
            check_rank(rank, *site.table().shape)
    check_uses(model, tables)
    bases = {site.name: principal_basis(site.table()) for site in tables}
    for basis in bases.values():
        resolve_rank(rank, basis)
    return bases


def merge_factorized(model: PreTrainedModel) -> PreTrainedModel:
    """Turn a factorised model, in place, into the stock model with dense tables.

    Args:
        model: A model of :func:`factorize_embeddings`, or one loaded from a factorised folder, by this package or by
            the folder's own code.

    Returns:
        The model itself, now of the stock class.

    Raises:
        UnsupportedModelError: If the model is not factorised, or is wrapped.
    """
    if not is_factorized_model(model):
        raise UnsupportedModelError(
            f"A {type(model).__name__} is not a factorised model, so there is nothing to merge. Of a PEFT model pass "
            "model.get_base_model(), and call model.merge_and_unload() afterwards."
        )
    merge: Callable[[], PreTrainedModel] = model.merge_factorized  # type: ignore[assignment]
    return merge()


@contextmanager
def saved_form(model: PreTrainedModel, *, factorized: bool) -> Iterator[None]:
    """Give a model for a while the form in which it is saved: with dense tables, or as the products that they are.

    Args:
        model: Any model; one with dense tables stays as it is. A factorised one is the same again afterwards, to the
            bit, its Parameters the same objects.
        factorized: Whether the products are wanted.

    Raises:
        InvalidOptionError: If products are wanted of a model with dense tables.
    """
    if not is_factorized_model(model):
        if factorized:
            raise InvalidOptionError(
                "factorized=True asks for two matrices, and the model's tables are dense. Pass factorize=RANK to "
                "extend_vocabulary, or leave it out."
            )
        yield
    elif factorized:
        register()  # so that the folder loads again in this process, to be compared
        yield
    else:
        journal = Journal()
        try:
            merge_tables(model, journal.set_attribute, journal.delete_attribute, journal.set_data)
            yield
        finally:
            journal.undo()


def is_factorized_model(model: object) -> bool:
    """Whether a model was made by :func:`factorize_embeddings` or loaded from a factorised folder."""
    return isinstance(model, PreTrainedModel) and hasattr(type(model), "dense_class")


def _check_options(model: PreTrainedModel, scaling: str) -> None:
    """Raise before any work for what is wrong at first sight."""
    check_model(model)
    if is_factorized_model(model) or factorized.factorized_modules(model):
        raise UnsupportedModelError(
            f"The tables of this {type(model).__name__} are factorised already. Call merge_factorized(model) first."
        )
    if scaling not in SCALINGS:
        raise InvalidOptionError(f"The scaling is {scaling!r}. Choose one of: {', '.join(SCALINGS)}.")


def _tables(model: PreTrainedModel, sites: Sites) -> list[Site]:
    """Return the sites to factorise; raise if one cannot be."""
    tables = [site for site in sites if site.roles & _TABLES]
    others = [site.name for site in sites if not site.roles & (_TABLES | _LEFT_AS_THEY_ARE)]
    odd = [alias.name for site in tables for alias in site.aliases if not _is_plain_layer(site, alias)]
    if others or odd:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be factorised: {', '.join(others + odd)} is vocabulary-sized, but no "
            "embedding or linear layer that a product can stand for. Leave out the rank (factorize=None)."
        )
    return tables


def _is_plain_layer(site: Site, alias: Alias) -> bool:
    """Whether a name is that of the weight of an embedding or a linear layer, tokens first."""
    module = alias.module
    is_layer = isinstance(module, (nn.Embedding, nn.Linear)) and alias.attribute == "weight" and site.axis == 0
    return is_layer and getattr(module, "max_norm", None) is None


def _plan(site: Site, rank: int | float, scaling: str, bases: Mapping[str, Basis]) -> _Step:
    """Compute the factors of one storage."""
    table = site.table()
    if not is_share(rank):
        check_rank(rank, *table.shape)
    basis = bases.get(site.name) or principal_basis(table)
    factors = factorize_table(table, resolve_rank(rank, basis), scaling=scaling, basis=basis)
    if factors.factor.shape == table.shape:
        factors = _one_wider(factors)
    return _Step(site, factors, {id(alias.module): alias.module for alias in site.aliases})


def _one_wider(factors: Factors) -> Factors:
    """Add a dimension of zeros, so that `F` of full rank has not the shape of the table.

    With that shape a stock class, or an adapter of peft that looks up or adds to ``weight`` itself, would take `F`
    for the table and compute something else without a word.
    """
    return Factors(functional.pad(factors.factor, (0, 1)), functional.pad(factors.projection, (0, 0, 0, 1)))


def _write(step: _Step, journal: Journal) -> None:
    """Put the factors behind every alias of a storage."""
    tensor = step.site.tensor
    for live in {id(alias.tensor): alias.tensor for alias in step.site.aliases}.values():
        journal.set_data(live, step.factors.factor.to(tensor.dtype))
    projection = nn.Parameter(step.factors.projection.to(tensor.dtype), requires_grad=tensor.requires_grad)
    for module in step.modules.values():
        journal.set_attribute(module, "__class__", factorized.layer_class(type(module)))
        journal.set_attribute(module, "projection", projection)


def _write_classes(model: PreTrainedModel, steps: list[_Step], journal: Journal) -> None:
    """Give model and configs the classes that save and load the factors, and declare the ties of the projections."""
    kind = factorized.model_class(type(model))
    plan = _description(model, steps)
    journal.set_attribute(model.config, "__class__", kind.config_class)
    journal.set_attribute(model.config, "factorization", plan)
    journal.set_attribute(model, "__class__", kind)
    factorized.declare_ties(model, journal.set_attribute)


def _description(model: PreTrainedModel, steps: list[_Step]) -> dict[str, Any]:
    """Return what the config says about the factors: which modules, at which rank."""
    prefix = factorized.body_prefix(model)
    plan: dict[str, Any] = {"format": factorized.FORMAT, "body": {}, "head": {}}
    for step in steps:
        for alias in step.site.aliases:
            name = alias.name.rpartition(".")[0]
            is_body = name.startswith(prefix) if prefix else alias.role != "head"
            part = plan["body" if is_body else "head"]
            part[name.removeprefix(prefix) if is_body else name] = step.factors.factor.shape[1]
    return plan


__all__ = [
    "factorize_embeddings",
    "is_factorized_model",
    "merge_factorized",
    "place_factors",
    "saved_form",
    "source_bases",
]
