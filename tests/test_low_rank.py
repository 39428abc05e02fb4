"""The truncated SVD against LAPACK in float64, and what its scalings do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError
from hf_vocab_extend.surgery.low_rank import SCALINGS, choose_rank, factorize_table, principal_basis, resolve_rank


def table_of(values: torch.Tensor, n_rows: int = 300, seed: int = 0) -> torch.Tensor:
    """Return a float32 table with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(n_rows, len(values), generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    return ((left * values) @ right.T).float()


def best(table: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the best approximation of a rank by LAPACK, float64."""
    left, values, right = torch.linalg.svd(table.double(), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("rank", [1, 7, 24])
def test_product_is_the_best_approximation(rank: int, scaling: str) -> None:
    table = table_of(torch.linspace(3, 0.1, 24, dtype=torch.float64))
    factors = factorize_table(table, rank, scaling=scaling)
    product = factors.factor.double() @ factors.projection.double()
    assert torch.allclose(product, best(table, rank), atol=2e-6)
    if rank == 24:
        assert torch.allclose(product.float(), table, atol=2e-6)


def test_singular_values_down_to_a_hundred_thousandth() -> None:
    table = table_of(torch.logspace(0, -5, 40, dtype=torch.float64))
    basis = principal_basis(table)
    reference = torch.linalg.svdvals(table.double())
    assert ((basis.values - reference).abs() / reference).max() < 1e-4
    identity = basis.vectors.T @ basis.vectors
    assert torch.allclose(identity, torch.eye(40, dtype=torch.float64), atol=1e-12)
    assert (basis.vectors.gather(0, basis.vectors.abs().argmax(0, keepdim=True)) > 0).all()


@pytest.mark.parametrize("scaling", SCALINGS)
def test_dimensions_without_any_content_stay_finite_and_trainable(scaling: str) -> None:
    """A table of rank 5 at rank 12: no division by zero, and P has no zero row, through which F could not learn."""
    table = table_of(torch.tensor([5.0, 4, 3, 2, 1] + [0.0] * 15, dtype=torch.float64))
    factors = factorize_table(table, 12, scaling=scaling)
    assert torch.isfinite(factors.factor).all()
    assert torch.isfinite(factors.projection).all()
    assert (factors.projection.norm(dim=1) > 0).all()
    assert torch.allclose(factors.factor @ factors.projection, table, atol=1e-5)


def test_zero_table() -> None:
    factors = factorize_table(torch.zeros(6, 4), 3)
    assert (factors.factor == 0).all()
    assert (factors.projection.norm(dim=1) > 0).all()


def test_scalings_share_the_singular_values_as_they_say() -> None:
    table = table_of(torch.linspace(9, 1, 10, dtype=torch.float64), n_rows=400)
    made = {name: factorize_table(table, 10, scaling=name) for name in SCALINGS}
    rms = {
        name: (item.factor.square().mean().sqrt(), item.projection.square().mean().sqrt())
        for name, item in made.items()
    }
    assert rms["balanced"][0].item() == pytest.approx(rms["balanced"][1].item(), rel=1e-5)
    assert made["symmetric"].factor.norm().item() == pytest.approx(
        made["symmetric"].projection.norm().item(), rel=1e-5
    )
    assert torch.allclose(made["published"].factor.norm(dim=0), torch.ones(10), atol=1e-5)
    assert torch.allclose(made["orthonormal"].projection.norm(dim=1), torch.ones(10), atol=1e-5)


def test_rank_by_explained_share() -> None:
    table = table_of(torch.tensor([4.0, 2, 1, 1], dtype=torch.float64))  # shares 16, 4, 1, 1 of 22
    basis = principal_basis(table)
    assert [basis.rank_for(share) for share in (0.1, 16 / 22 - 1e-6, 16 / 22 + 1e-4, 21.5 / 22, 1.0)] == [
        1,
        1,
        2,
        4,
        4,
    ]
    assert basis.explained(2) == pytest.approx(20 / 22, abs=1e-6)
    assert resolve_rank(np.float32(0.9), basis) == resolve_rank(np.int64(2), basis) == 2
    assert choose_rank(table, 0.9) == resolve_rank(0.9, basis) == resolve_rank(2, basis) == 2
    with pytest.raises(InvalidOptionError, match="whole ranks from 1 to 4"):
        resolve_rank(5, basis)
    with pytest.raises(InvalidOptionError, match="whole ranks from 1 to 4"):
        resolve_rank(1.5, basis)


def test_basis_of_another_table_is_linear_in_the_rows() -> None:
    """Rows of a new vocabulary, mixed from source rows, get the same mixture of the source's coordinates."""
    source = table_of(torch.linspace(3, 0.5, 12, dtype=torch.float64))
    weights = torch.rand(50, 300, generator=torch.Generator().manual_seed(1))
    basis = principal_basis(source)
    target = factorize_table(weights @ source, 5, scaling="published", basis=basis)
    mixed = weights @ factorize_table(source, 5, scaling="published", basis=basis).factor
    assert torch.allclose(target.factor, mixed, atol=1e-4)


def test_more_columns_than_rows() -> None:
    table = torch.randn(5, 30, generator=torch.Generator().manual_seed(2))
    assert principal_basis(table).max_rank == 5
    factors = factorize_table(table, 5)
    assert torch.allclose(factors.factor @ factors.projection, table, atol=1e-5)


def test_half_precision_is_read_as_it_is() -> None:
    table = table_of(torch.linspace(3, 0.5, 12, dtype=torch.float64)).bfloat16()
    factors = factorize_table(table, 12)
    assert factors.factor.dtype == torch.float32
    assert torch.allclose(factors.factor @ factors.projection, table.float(), atol=1e-5)


@pytest.mark.parametrize("rank", [0, -3, 13, 2.0, True])
def test_rank_out_of_range(rank: object) -> None:
    with pytest.raises(InvalidOptionError, match="whole ranks from 1 to 12"):
        factorize_table(torch.ones(40, 12), rank)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_share_out_of_range(share: float) -> None:
    with pytest.raises(InvalidOptionError, match="above 0 and not above 1"):
        choose_rank(torch.ones(40, 12), share)


def test_bad_tables() -> None:
    table = torch.ones(40, 12)
    table[3, 4] = float("nan")
    with pytest.raises(InvalidTableError, match="NaN or infinite"):
        principal_basis(table)
    with pytest.raises(InvalidTableError, match=r"\(V, D\) is needed"):
        principal_basis(torch.ones(4))
    with pytest.raises(InvalidTableError, match="basis is of a table of 6 columns"):
        factorize_table(torch.ones(40, 12), 3, basis=principal_basis(torch.ones(9, 6)))
    with pytest.raises(InvalidOptionError, match="Choose one of: balanced"):
        factorize_table(torch.ones(40, 12), 3, scaling="even")
