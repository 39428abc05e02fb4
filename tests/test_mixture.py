"""The sparse matrix: against a dense product, whatever the dtype, width, number of threads or block size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import InvalidTableError
from hf_vocab_extend.methods import mixture as module
from hf_vocab_extend.methods.mixture import Mixture


def random_mixture(n_rows: int = 40, n_source: int = 30, seed: int = 0) -> tuple[Mixture, np.ndarray]:
    """A mixture with empty rows, and the same as a dense matrix."""
    random = np.random.default_rng(seed)
    dense = random.random((n_rows, n_source)) * (random.random((n_rows, n_source)) < 0.2)
    dense[3] = dense[-1] = 0
    dense = dense.astype(np.float32)
    rows, columns = np.nonzero(dense)
    order = random.permutation(len(rows))
    rows, columns = rows[order], columns[order]
    return Mixture.from_entries(rows, columns, dense[rows, columns], n_rows=n_rows, n_source=n_source), dense


@pytest.mark.parametrize("width", [1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_the_dense_product(dtype: torch.dtype, width: int) -> None:
    mixture, dense = random_mixture()
    table = torch.randn(30, width, generator=torch.Generator().manual_seed(1)).to(dtype)
    rows = mixture.rows(table)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, (torch.from_numpy(dense).double() @ table.double()).float())
    assert (rows[~mixture.covered] == 0).all()
    assert not mixture.covered[3]
    assert not mixture.covered[-1]
    assert mixture.covered.sum() == (dense != 0).any(1).sum()


def test_a_view_of_a_table_and_a_trainable_table_work() -> None:
    mixture, dense = random_mixture()
    wide = torch.nn.Parameter(torch.randn(30, 20))
    rows = mixture.rows(wide[:, 3:11])
    assert not rows.requires_grad
    torch.testing.assert_close(rows, torch.from_numpy(dense) @ wide.detach()[:, 3:11])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_and_block_size_do_not_matter(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, _ = random_mixture(200, 150)
    table = torch.randn(150, 33).to(dtype)
    expected = mixture.rows(table)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert torch.equal(mixture.rows(table), expected)
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(module, "_FLOATS_PER_BLOCK", 300)
    assert torch.equal(mixture.rows(table), expected)
    picked = np.asarray([7, 3, 199, 7])
    assert torch.equal(mixture.select(picked).rows(table), expected[picked])


def test_a_row_of_weight_one_is_a_bitwise_copy() -> None:
    table = torch.randn(9, 5)
    mixture = Mixture.from_lists([[(4, 1.0)], [], [(0, 1.0)]], n_source=9)
    assert torch.equal(mixture.rows(table)[[0, 2]], table[[4, 0]])


def test_entries_of_one_place_add_up_and_zeros_go() -> None:
    mixture = Mixture.from_entries(
        np.asarray([1, 0, 1, 1]), np.asarray([2, 0, 2, 1]), np.asarray([0.25, 0.0, 0.5, 0.25]), n_rows=2, n_source=3
    )
    assert mixture.row(0) == []
    assert mixture.row(1) == [(2, 0.75), (1, 0.25)]
    assert mixture.columns.tolist() == [1, 2]


def test_row_lists_the_largest_weight_first_and_ties_by_id() -> None:
    mixture = Mixture.from_lists([[(5, 0.25), (1, 0.25), (3, 0.5)]], n_source=6)
    assert mixture.row(0) == [(3, 0.5), (1, 0.25), (5, 0.25)]


def test_no_entries_give_zero_rows() -> None:
    mixture = Mixture.from_lists([[], []], n_source=4)
    assert torch.equal(mixture.rows(torch.ones(4, 3)), torch.zeros(2, 3))
    assert Mixture.from_lists([], n_source=4).rows(torch.ones(4, 3)).shape == (0, 3)


BAD = {
    "column outside": ([0, 1], [9], [1.0]),
    "negative column": ([0, 1], [-1], [1.0]),
    "offsets too short": ([0, 1], [0, 1], [1.0, 1.0]),
    "offsets fall": ([0, 2, 1, 2], [0, 1], [1.0, 1.0]),
    "weights missing": ([0, 2], [0, 1], [1.0]),
    "nan": ([0, 1], [0], [float("nan")]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_together_is_refused(name: str) -> None:
    offsets, columns, weights = BAD[name]
    with pytest.raises(InvalidTableError):
        Mixture(np.asarray(offsets, np.int64), np.asarray(columns, np.int32), np.asarray(weights, np.float32), 4)


def test_a_table_of_another_size_is_refused() -> None:
    mixture, _ = random_mixture()
    with pytest.raises(InvalidTableError, match="30 source rows"):
        mixture.rows(torch.zeros(31, 4))
    with pytest.raises(InvalidTableError):
        mixture.rows(torch.zeros(30))


def test_norm_matched_rows_have_the_mean_length_of_their_sources():
    table = torch.tensor([[3.0, 4.0], [-1.0, 0.0], [0.0, 2.0]])
    entries = [[(0, 0.25), (1, 0.75)], [(0, 0.25), (1, 0.75)], [(2, 1.0)], []]
    plain = Mixture.from_lists(entries, n_source=3)
    matched = Mixture(plain.offsets, plain.columns, plain.weights, 3, np.array([True, False, True, True]))
    rows = matched.rows(table)
    direction = 0.25 * table[0] + 0.75 * table[1]
    wanted = direction / direction.norm() * (0.25 * 5 + 0.75 * 1)
    assert torch.allclose(rows[0], wanted)
    assert torch.equal(rows[1:], plain.rows(table)[1:])  # not asked for; a copy; nothing there
    assert torch.equal(matched.rows(table[:, :1]), plain.rows(table[:, :1]))  # a bias has no length
    assert matched.select(np.array([2, 0])).norm_matched.tolist() == [True, True]


def test_norm_matched_of_another_length_is_refused():
    with pytest.raises(InvalidTableError, match="norm_matched"):
        Mixture.from_entries(
            np.zeros(1, int), np.zeros(1, int), np.ones(1), n_rows=2, n_source=1, norm_matched=np.ones(3, bool)
        )
