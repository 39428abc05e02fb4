"""The step of ``extend_vocabulary`` that keeps the token tables as products."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from .errors import VocabExtendWarning
from .modeling.factorized import is_factorized
from .surgery.factorize import place_factors, source_bases
from .surgery.journal import Journal
from .surgery.low_rank import Basis, resolve_rank
from .surgery.sites import Sites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .rows import NewRows
    from .surgery.apply import NewRows as PlacedRows
    from .surgery.sites import Site

_ROWS_PER_BLOCK = 1 << 14


@dataclass(frozen=True)
class LowRank:
    """What was asked for, with what was measured on the tables before they change.

    Attributes:
        asked: Rank or share that was asked for; None for dense tables.
        rank: Rank of the input table; None for dense tables.
        bases: Site name to the principal directions of its source table.
    """

    asked: int | float | None = None
    rank: int | None = None
    bases: dict[str, Basis] = field(default_factory=dict)

    def apply(self, model: PreTrainedModel, sites: Sites, journal: Journal) -> list[str]:
        """Factorise the tables after their rows are placed; returns what the report should say."""
        if self.asked is None:
            return []
        tables = [site for site in sites if site.name in self.bases]
        before = sum(site.tensor.numel() for site in tables)
        place_factors(model, sites, self.asked, bases=self.bases, journal=journal)
        after = sum(
            site.tensor.numel() + site.aliases[0].module.get_parameter("projection").numel() for site in tables
        )
        if after >= before:
            warnings.warn(
                f"At rank {self.rank} the factors hold {after:,} numbers and the dense tables {before:,}: nothing is "
                "saved. Choose a smaller rank, or leave factorize out.",
                VocabExtendWarning,
                stacklevel=3,
            )
        kept = [self.bases[site.name].explained(site.tensor.shape[1]) for site in tables]
        shares = " and ".join(f"{share:.1%}" for share in kept)
        return [
            f"The token tables are products of rank {self.rank}: {after:,} numbers instead of {before:,}. Of the "
            f"squared norm of the source table {shares} is kept, and no row is exactly what it was."
        ]


def plan_low_rank(model: PreTrainedModel, sites: Sites, factorize: int | float | None) -> LowRank:
    """Check that the tables can be factorised, and measure them, before any other work.

    Raises:
        InvalidOptionError: If the rank is out of range.
        UnsupportedModelError: If a table cannot be held as a product, or is one already.
    """
    if factorize is None:
        return LowRank()
    bases = source_bases(model, sites, factorize)
    return LowRank(factorize, resolve_rank(factorize, bases[sites.input.name]), bases)


def rank_of(model: PreTrainedModel) -> int | None:
    """Return the rank of a model's input table, None if it is dense."""
    table = model.get_input_embeddings()
    return min(table.get_parameter("projection").shape) if is_factorized(table) else None


def as_long_as_their_products(rows: NewRows) -> PlacedRows:
    """Let rows that shall be as long as their sources be so in the model, also where the table is a factor `F`.

    A model that is factorised already gets rows of `F`; what it computes with is `F P`, and `P` changes lengths.
    """
    matched = rows.mixture.norm_matched
    if matched is None:
        return rows
    sums = replace(rows.mixture, norm_matched=None)

    def place(table: torch.Tensor, site: Site) -> torch.Tensor:
        made = rows(table, site)
        alias = site.aliases[0]
        if not is_factorized(alias.module) or alias.attribute != "weight":
            return made
        projection = alias.module.get_parameter("projection").detach().float()
        gram = projection @ projection.T
        wanted, found = sums.rows(_lengths(table.detach(), gram)), _lengths(made, gram)
        chosen = torch.from_numpy(matched).to(made.device)[:, None] & (wanted > 0) & (found > 0)
        return made * torch.where(chosen, wanted / found, 1.0)

    return place


def _lengths(factor: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Return the lengths of the rows of `F P`, float32, shape `(V, 1)`, from `P P^T`."""
    parts = [((block.float() @ gram) * block.float()).sum(1, keepdim=True) for block in factor.split(_ROWS_PER_BLOCK)]
    return torch.cat(parts).clamp(min=0).sqrt()
