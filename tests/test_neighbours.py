"""The shared kernel against a naive dense computation; the same bits whatever the blocks and threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError
from hf_vocab_extend.methods import cosine_search as module
from hf_vocab_extend.methods.neighbours import softmax_weights, sparsemax_weights, top_neighbours

SHAPES = {
    "groups": (40, 3000, 24, 0.0),
    "no groups": (30, 50, 8, 0.0),
    "fewer than k": (20, 6, 5, 0.0),
    "alike": (25, 700, 12, 4.0),
    "two dimensions": (15, 900, 2, 0.0),
    "one dimension": (9, 300, 1, 0.0),
}
ZERO_QUERY, ZERO_CANDIDATE = 3, 2


def vectors(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and candidates; one row of each is zero, and one candidate occurs three times."""
    n, m, dim, common = SHAPES[name]
    generator = torch.Generator().manual_seed(len(name))
    queries = torch.randn(n, dim, generator=generator) + common
    candidates = torch.randn(m, dim, generator=generator) + common
    queries[ZERO_QUERY] = 0
    candidates[ZERO_CANDIDATE] = 0
    candidates[[4, m - 1]] = candidates[0].clone()
    return queries, candidates


def dense_cosines(queries: torch.Tensor, candidates: torch.Tensor) -> np.ndarray:
    """Cosines in float64; -inf for zero candidates."""
    left, right = queries.double().numpy(), candidates.double().numpy()
    norms = [np.linalg.norm(part, axis=1, keepdims=True) for part in (left, right)]
    cosines = (left / np.maximum(norms[0], 1e-300)) @ (right / np.maximum(norms[1], 1e-300)).T
    cosines[:, norms[1][:, 0] == 0] = -np.inf
    return cosines


def dense_sparsemax(scores: np.ndarray, temperature: float, k: int | None) -> np.ndarray:
    """Sparsemax of one row by its definition: sort, cumulate, threshold."""
    ordered = np.sort(scores[np.isfinite(scores)])[::-1][:k] / temperature
    ranks = np.arange(1, len(ordered) + 1)
    sums = np.cumsum(ordered)
    size = ranks[1 + ranks * ordered > sums].max()
    weights = np.maximum(scores / temperature - (sums[size - 1] - 1) / size, 0)
    weights[scores < ordered[-1] * temperature - 1e-9] = 0
    return weights


def to_dense(mixture) -> np.ndarray:
    dense = np.zeros((mixture.n_rows, mixture.n_source))
    for row in range(mixture.n_rows):
        for column, weight in mixture.row(row):
            dense[row, column] = weight
    return dense


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("name", SHAPES)
def test_top_neighbours_are_the_largest_cosines(name: str, k: int) -> None:
    queries, candidates = vectors(name)
    indices, cosines = top_neighbours(queries, candidates, k)
    naive = dense_cosines(queries, candidates)
    for row in range(len(queries)):
        if row == ZERO_QUERY:
            assert (indices[row] == -1).all()
            assert (cosines[row] == 0).all()
            continue
        found = indices[row] >= 0
        assert found.sum() == min(k, len(candidates) - 1)
        np.testing.assert_allclose(cosines[row][found], np.sort(naive[row])[::-1][: found.sum()], atol=1e-6)
        np.testing.assert_allclose(naive[row][indices[row][found]], cosines[row][found], atol=1e-6)
        assert len(set(indices[row][found])) == found.sum()
        assert ZERO_CANDIDATE not in indices[row]


def test_ties_go_to_the_lowest_index() -> None:
    queries, candidates = vectors("groups")
    indices, cosines = top_neighbours(candidates[:1], candidates, 4)
    assert indices[0, :3].tolist() == [0, 4, len(candidates) - 1]
    assert cosines[0, 0] == cosines[0, 2]
    assert top_neighbours(candidates[:1], candidates, 2)[0].tolist() == [[0, 4]]
    same = torch.ones(6, 3)
    assert top_neighbours(same, same, 3)[0].tolist() == [[0, 1, 2]] * 6


@pytest.mark.parametrize("k", [None, 1, 7])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("name", SHAPES)
def test_sparsemax_weights_are_those_of_the_definition(name: str, temperature: float, k: int | None) -> None:
    if k is not None and name == "one dimension":
        pytest.skip("all cosines are 1 or -1: which of equal ones the k are is tested by the ties")
    queries, candidates = vectors(name)
    weights = to_dense(sparsemax_weights(queries, candidates, temperature=temperature, k=k))
    naive = dense_cosines(queries, candidates)
    assert not weights[ZERO_QUERY].any()
    for row in range(len(queries)):
        if row == ZERO_QUERY:
            continue
        expected = dense_sparsemax(naive[row], temperature, k)
        if k is not None and np.count_nonzero(expected) > k:
            continue  # equal candidates at the edge of the k
        np.testing.assert_allclose(weights[row], expected, atol=2e-6)
        assert weights[row].sum() == pytest.approx(1.0, abs=1e-5)


def test_softmax_weights_are_those_of_the_definition() -> None:
    queries, candidates = vectors("groups")
    weights = to_dense(softmax_weights(queries, candidates, 5, temperature=0.2))
    naive = dense_cosines(queries, candidates)
    for row in range(len(queries)):
        chosen = np.flatnonzero(weights[row])
        if row == ZERO_QUERY:
            assert len(chosen) == 0
            continue
        expected = np.exp(naive[row][chosen] / 0.2)
        np.testing.assert_allclose(weights[row][chosen], expected / expected.sum(), atol=1e-5)
        assert set(chosen) == set(np.argsort(-naive[row], kind="stable")[:5])


FUNCTIONS = {
    "top": lambda *given, **more: top_neighbours(*given, 9, **more),
    "sparsemax": lambda *given, **more: parts(sparsemax_weights(*given, **more)),
    "sparsemax k": lambda *given, **more: parts(sparsemax_weights(*given, k=9, temperature=0.3, **more)),
    "softmax": lambda *given, **more: parts(softmax_weights(*given, 9, temperature=0.1, **more)),
}


def parts(mixture) -> tuple[np.ndarray, ...]:
    return mixture.offsets, mixture.columns, mixture.weights


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ["groups", "alike"])
def test_block_size_threads_and_grouping_do_not_change_a_bit(
    name: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, candidates = vectors(name)
    call = FUNCTIONS[function]
    expected = call(queries, candidates)

    def check(**more) -> None:
        for ours, theirs in zip(call(queries, candidates, **more), expected, strict=True):
            assert np.array_equal(ours, theirs)

    for block_size in (1, 7, 1000):
        check(block_size=block_size)
    threads = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            check(block_size=11)
            assert torch.get_num_threads() == count
        finally:
            torch.set_num_threads(threads)
    for constant, value in (("_GROUP", 5), ("_DENSE", 10**6), ("_DENSE", 0), ("_FLOATS_KEPT_DOUBLE", 0)):
        with monkeypatch.context() as patch:
            patch.setattr(module, constant, value)
            check()
    for gather in (1, 100):
        with monkeypatch.context() as patch:
            patch.setattr(module, "_FLOATS_PER_GATHER", {"cpu": gather})
            patch.setattr(module, "_KEYS_PER_SORT", {"cpu": gather})
            check()


def test_lowered_matmul_precision_and_autocast_change_nothing() -> None:
    queries, candidates = vectors("groups")
    expected = top_neighbours(queries, candidates, 5)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = top_neighbours(queries, candidates, 5)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


def test_scale_and_dtype_of_vectors_do_not_matter() -> None:
    queries, candidates = vectors("groups")
    expected = top_neighbours(queries, candidates, 5)
    found = top_neighbours(queries.numpy() * 2.0**-80, candidates.double() * 2.0**70, 5)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
    assert top_neighbours(queries.bfloat16(), candidates.half(), 5)[0].shape == (len(queries), 5)


@pytest.mark.parametrize("empty", ["queries", "candidates", "all candidates zero"])
def test_nothing_gives_nothing(empty: str) -> None:
    queries, candidates = torch.randn(4, 3), torch.randn(5, 3)
    if empty == "queries":
        queries = queries[:0]
    elif empty == "candidates":
        candidates = candidates[:0]
    else:
        candidates = torch.zeros(5, 3)
    mixture = sparsemax_weights(queries, candidates)
    assert (mixture.n_rows, mixture.n_source, len(mixture.columns)) == (len(queries), len(candidates), 0)
    assert (top_neighbours(queries, candidates, 2)[0] == -1).all()


def test_bad_input_is_refused() -> None:
    threads = torch.get_num_threads()
    good = torch.randn(4, 3)
    for options in ({"k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}, {"block_size": 0}):
        with pytest.raises(InvalidOptionError):
            sparsemax_weights(good, good, **options)
    with pytest.raises(InvalidOptionError):
        top_neighbours(good, good, 0)
    with pytest.raises(InvalidTableError, match="3 dimensions and candidates 2"):
        top_neighbours(good, good[:, :2], 1)
    with pytest.raises(InvalidTableError):
        top_neighbours(good[0], good, 1)
    for value in (float("nan"), float("inf")):
        bad = good.clone()
        bad[1, 1] = value
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(InvalidTableError, match="NaN"):
                sparsemax_weights(*pair)
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["groups", "alike"])
def test_a_gpu_gives_the_same_bits(name: str) -> None:
    queries, candidates = vectors(name)
    for call in (FUNCTIONS["top"], FUNCTIONS["sparsemax"]):
        for ours, theirs in zip(call(queries, candidates, device="cuda"), call(queries, candidates), strict=True):
            assert np.array_equal(ours, theirs)
