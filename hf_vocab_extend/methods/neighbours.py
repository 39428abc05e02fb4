"""Nearest neighbours by cosine: exact top-k, softmax and sparsemax weights, in bounded memory.

A query block is multiplied with all candidates, and everything that cannot matter is thrown away by a bound: the k-th
largest value of any subset, and the sparsemax threshold of any subset, never exceed those of the whole. The subset
is the maxima of small groups of candidates, which one pass over the product yields.

Products of a matrix multiplication change in their last bits with block size and thread count. So unit vectors are
rounded to multiples of `2^-26`: products of two such numbers, and sums of a whole row of them, fit a float64 exactly,
in any order. The cosines of what the bound left over are computed once more that way, and all that follows is integer
arithmetic or elementwise: the result depends neither on block size nor on thread count. Ties go to the lowest index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InvalidOptionError, InvalidTableError
from .mixture import Mixture

_GRID = 2.0**26  # unit vectors are multiples of 1 / _GRID
_SCALE = 36  # cosines are compared as integers, in units of 2^-_SCALE
_ID_BITS = 25
_LAST_ID = (1 << _ID_BITS) - 1
_NOTHING = -(1 << 62)  # sorts below every cosine
_OUTSIDE = -4.0  # score of a column that is no candidate
_GROUP = 32  # candidates that share one maximum
_NEWTON_STEPS = 8
_ROWS_PER_CONVERSION = 8192
_SCORES_PER_BLOCK = {"cpu": 1 << 23, "cuda": 1 << 28}  # 32 MiB and 1 GiB of float32
_FLOATS_PER_GATHER = {"cpu": 1 << 20, "cuda": 1 << 26}

Bound = Callable[[torch.Tensor], torch.Tensor]
"""Some scores of each query, shape `(n, g)`, to a score `(n,)` below which no candidate can matter."""


@dataclass(frozen=True)
class _Units:
    """Unit vectors on the grid, zero rows left out."""

    vectors: torch.Tensor
    """Float32, shape `(n, d)`."""
    ids: torch.Tensor
    """Row of each in the given matrix, ascending, int64, shape `(n,)`."""


def top_neighbours(
    queries: torch.Tensor | np.ndarray,
    candidates: torch.Tensor | np.ndarray,
    k: int,
    *,
    block_size: int | None = None,
    device: torch.device | str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `k` candidates of largest cosine for each query.

    Args:
        queries: Shape `(n, d)`; a zero row has no neighbours.
        candidates: Shape `(m, d)`; a zero row is never chosen.
        k: Number of neighbours.
        block_size: Queries per block; by default so many that a block's scores take 32 MiB (1 GiB on a GPU).
        device: Where to compute; by default where the candidates are.

    Returns:
        Candidate indices, int32, and cosines, float64, both `(n, k)`, largest first, ties by lowest index. Places
        without a neighbour hold -1 and 0.

    Raises:
        InvalidOptionError: If `k` or `block_size` is below 1.
        InvalidTableError: If the shapes do not fit or a value is not finite.
    """
    if k < 1:
        raise InvalidOptionError(f"k is {k}. At least 1 neighbour is needed.")
    indices = np.full((len(queries), k), -1, np.int32)
    cosines = np.zeros((len(queries), k), np.float64)
    for rows, keys in _search(queries, candidates, _top_bound(k), k, block_size, device):
        found, ids = _decode(keys[:, :k])
        width = found.shape[1]
        empty = keys[:, :k] == _NOTHING
        indices[rows, :width] = ids.masked_fill(empty, -1).cpu().numpy()
        cosines[rows, :width] = found.double().mul(2.0**-_SCALE).clamp_(-1, 1).masked_fill(empty, 0).cpu().numpy()
    return indices, cosines


def sparsemax_weights(
    queries: torch.Tensor | np.ndarray,
    candidates: torch.Tensor | np.ndarray,
    *,
    temperature: float = 1.0,
    k: int | None = None,
    block_size: int | None = None,
    device: torch.device | str | None = None,
) -> Mixture:
    """Weigh candidates by the sparsemax of their cosines.

    Sparsemax (Martins & Astudillo 2016, arXiv 1602.02068) is the nearest point of the simplex: weights are
    `max(cosine - tau, 0) / temperature` with `tau` such that they sum to 1. Its support lies within
    `max - temperature`.

    Args:
        queries: Shape `(n, d)`; a zero row gets no weights.
        candidates: Shape `(m, d)`; a zero row is never chosen.
        temperature: Cosines are divided by it; smaller is sparser.
        k: Only the `k` largest cosines may get weight; None for all.
        block_size: Queries per block, see :func:`top_neighbours`.
        device: Where to compute; by default where the candidates are.

    Returns:
        Weights `(n, m)`.

    Raises:
        InvalidOptionError: If the temperature is not positive, or `k` or `block_size` below 1.
        InvalidTableError: If the shapes do not fit or a value is not finite.
    """
    _check_temperature(temperature)
    if k is not None and k < 1:
        raise InvalidOptionError(f"k is {k}. At least 1 neighbour is needed.")
    total = round(temperature * 2.0**_SCALE)
    bound = _sparsemax_bound(temperature) if k is None else _top_bound(k)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for rows, keys in _search(queries, candidates, bound, k, block_size, device):
        keys = keys[:, :k]
        scores, ids = _decode(keys)
        weights = _sparsemax(scores, keys != _NOTHING, total)
        places = weights.nonzero()
        owners = rows[places[:, 0].cpu().numpy()]
        chosen = (places[:, 0], places[:, 1])
        parts.append((owners, ids[chosen].cpu().numpy(), weights[chosen].cpu().numpy()))
    return _assemble(parts, len(queries), len(candidates))


def softmax_weights(
    queries: torch.Tensor | np.ndarray,
    candidates: torch.Tensor | np.ndarray,
    k: int,
    *,
    temperature: float = 1.0,
    block_size: int | None = None,
    device: torch.device | str | None = None,
) -> Mixture:
    """Weigh the `k` candidates of largest cosine by the softmax of cosine / temperature.

    Args:
        queries: Shape `(n, d)`; a zero row gets no weights.
        candidates: Shape `(m, d)`; a zero row is never chosen.
        k: Number of neighbours.
        temperature: Smaller is sharper.
        block_size: Queries per block, see :func:`top_neighbours`.
        device: Where to compute; by default where the candidates are.

    Returns:
        Weights `(n, m)`.

    Raises:
        InvalidOptionError: If the temperature is not positive, or `k` or `block_size` below 1.
        InvalidTableError: If the shapes do not fit or a value is not finite.
    """
    _check_temperature(temperature)
    indices, cosines = top_neighbours(queries, candidates, k, block_size=block_size, device=device)
    weights = np.exp((cosines - cosines[:, :1]) / temperature) * (indices >= 0)
    weights /= np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float64).tiny)
    rows, places = np.nonzero(weights)
    return _assemble([(rows, indices[rows, places], weights[rows, places])], len(queries), len(candidates))


def _check_temperature(temperature: float) -> None:
    """Raise unless a temperature is positive and finite."""
    if not 0 < temperature < 1e6:
        raise InvalidOptionError(f"The temperature is {temperature}. It must lie above 0 and below 1e6.")


def _top_bound(k: int) -> Bound:
    """Return the bound for top-k: the k-th largest of some scores."""

    def bound(scores: torch.Tensor) -> torch.Tensor:
        if scores.shape[1] <= k:
            return torch.full((scores.shape[0],), _OUTSIDE / 2, device=scores.device)
        return scores.topk(k, dim=1).values[:, -1]

    return bound


def _sparsemax_bound(temperature: float) -> Bound:
    """Return the bound for sparsemax: its threshold over some scores.

    The sum of what the scores exceed `tau` by falls with `tau` and is convex, so Newton's steps from below never pass
    the point where it equals the temperature: each of them is a bound.
    """

    def bound(scores: torch.Tensor) -> torch.Tensor:
        tau = scores.amax(1) - temperature
        for _ in range(_NEWTON_STEPS):
            excess = (scores - tau[:, None]).clamp_(min=0)
            tau = tau + (excess.sum(1) - temperature) / excess.count_nonzero(1).clamp_(min=1)
        return tau

    return bound


def _sparsemax(scores: torch.Tensor, valid: torch.Tensor, total: int) -> torch.Tensor:
    """Return the sparsemax weights of scores sorted from the largest.

    Args:
        scores: Integers in units of `2^-_SCALE`, int64, shape `(n, s)`.
        valid: Which of them count, bool, shape `(n, s)`; those that do come first.
        total: The temperature in the same units.

    Returns:
        Weights, float32, shape `(n, s)`.
    """
    scores = scores.masked_fill(~valid, 0)
    sums = scores.cumsum(1)
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device)
    inside = valid & (total + ranks * scores > sums)
    size = inside.sum(1, keepdim=True)
    tau = (sums.gather(1, size - 1) - total).double() / size
    return (scores.double() - tau).clamp_(min=0).div_(total).masked_fill_(~inside, 0).float()


def _decode(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split sort keys into integer cosines and candidate indices, both int64."""
    return keys >> _ID_BITS, _LAST_ID - (keys & _LAST_ID)


def _assemble(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]], n_rows: int, n_columns: int) -> Mixture:
    """Join (rows, columns, weights), whose places are all different, to one mixture."""
    rows, columns, weights = (
        np.concatenate([part[index] for part in parts] or [np.zeros(0, np.int64)]) for index in range(3)
    )
    order = np.argsort(rows.astype(np.int64) * n_columns + columns, kind="stable")
    offsets = np.zeros(n_rows + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=n_rows), out=offsets[1:])
    return Mixture(offsets, columns[order].astype(np.int32), weights[order].astype(np.float32), n_columns)


@contextmanager
def _full_precision() -> Iterator[None]:
    """Multiply float32 matrices in float32: a user may have allowed TF32 or bfloat16, which would break the bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _units(matrix: torch.Tensor | np.ndarray, device: torch.device, what: str) -> _Units:
    """Return the rows of a matrix as unit vectors on the grid.

    Raises:
        InvalidTableError: If the matrix is not two-dimensional or holds a value that is not finite.
    """
    matrix = torch.as_tensor(matrix)
    if matrix.ndim != 2:
        raise InvalidTableError(
            f"The {what} have the shape {tuple(matrix.shape)}. A matrix of one row each is needed."
        )
    vectors = torch.empty(matrix.shape, dtype=torch.float32, device=device)
    norms = torch.empty(len(matrix), dtype=torch.float64, device=device)
    for start in range(0, len(matrix), _ROWS_PER_CONVERSION):
        part = slice(start, start + _ROWS_PER_CONVERSION)
        block = matrix[part].to(device=device, dtype=torch.float64)
        peak = block.abs().amax(1, keepdim=True) if block.shape[1] else block.new_zeros(len(block), 1)
        block = block / peak.masked_fill(peak == 0, 1)  # squares of tiny or huge values stay in range
        norms[part] = norm = block.square().sum(1).sqrt_()
        vectors[part] = block.div_(norm.masked_fill(norm == 0, 1)[:, None]).mul_(_GRID).round_().div_(_GRID)
    if not torch.isfinite(norms).all():
        bad = int((~torch.isfinite(norms)).sum())
        raise InvalidTableError(f"{bad} of the {what} hold NaN or infinite values. Remove or repair them.")
    ids = norms.nonzero()[:, 0]
    return _Units(vectors if len(ids) == len(vectors) else vectors[ids], ids)


def _search(
    queries: torch.Tensor | np.ndarray,
    candidates: torch.Tensor | np.ndarray,
    bound: Bound,
    k: int | None,
    block_size: int | None,
    device: torch.device | str | None,
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield query rows and the sort keys of their candidates, largest first, `_NOTHING` behind the last.

    Every candidate that reaches the bound is among them, and perhaps others below it.
    """
    if block_size is not None and block_size < 1:
        raise InvalidOptionError(f"block_size is {block_size}. It must be at least 1.")
    if device is None:
        device = candidates.device if isinstance(candidates, torch.Tensor) else "cpu"
    device = torch.device(device)
    with _full_precision():
        left = _units(queries, device, "queries")
        right = _units(candidates, device, "candidates")
        if left.vectors.shape[1] != right.vectors.shape[1]:
            raise InvalidTableError(
                f"Queries have {left.vectors.shape[1]} dimensions and candidates {right.vectors.shape[1]}."
            )
        if len(candidates) > _LAST_ID:
            raise InvalidTableError(f"{len(candidates)} candidates are more than the {_LAST_ID} that are supported.")
        if len(left.ids) == 0 or len(right.ids) == 0:
            return
        yield from _scan(left, right, bound, k, block_size)


def _scan(
    left: _Units, right: _Units, bound: Bound, k: int | None, block_size: int | None
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Walk over blocks of queries: multiply, bound, gather what is left, compute it exactly."""
    n, dim = left.vectors.shape
    m = len(right.vectors)
    device = left.vectors.device
    group = max(1, min(_GROUP, m // (4 * k if k else 64)))
    n_groups = -(-m // group)
    padded = torch.zeros(group * n_groups, dim, device=device)
    padded[:m] = right.vectors
    size = block_size or max(16, _SCORES_PER_BLOCK[device.type] // len(padded))
    buffer = torch.empty(min(size, n), len(padded), device=device)
    # The rounding error of a product of unit vectors is at most about dim * 2^-24; the bound has it, and so has the
    # score that is compared with it.
    slack = 4 * (dim + 16) * 2.0**-24
    for start in range(0, n, size):
        block = left.vectors[start : start + size]
        scores = torch.mm(block, padded.T, out=buffer[: len(block)])
        scores[:, m:] = _OUTSIDE
        grouped = scores.view(len(block), group, n_groups)
        maxima = grouped.amax(1)
        limit = bound(maxima) - slack
        owners, groups = (maxima >= limit[:, None]).nonzero(as_tuple=True)
        values = grouped.transpose(1, 2)[owners, groups]
        places, members = (values >= limit[owners, None]).nonzero(as_tuple=True)
        owners, columns = owners[places], members * n_groups + groups[places]
        inside = columns < m
        for rows, keys in _exact(block, right, owners[inside], columns[inside]):
            yield left.ids[start + rows].cpu().numpy(), keys


def _exact(
    block: torch.Tensor, right: _Units, owners: torch.Tensor, columns: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield rows of a block with the sorted keys of their candidates.

    Args:
        block: Query units, shape `(n, d)`.
        right: Candidates.
        owners: Row of each pair, ascending, shape `(n_pairs,)`; every row has at least one pair.
        columns: Candidate unit of each pair, shape `(n_pairs,)`.
    """
    dim = block.shape[1]
    counts = torch.bincount(owners, minlength=len(block))
    starts = counts.cumsum(0) - counts
    order = counts.argsort(stable=True)  # rows of like length share a block, so little of it is padding
    lengths = counts[order].cpu().numpy()
    stop = len(order)
    while stop > 0:
        width = int(lengths[stop - 1])
        first = max(0, stop - max(1, _FLOATS_PER_GATHER[block.device.type] // (width * dim)))
        rows = order[first:stop]
        within = torch.arange(width, device=block.device)
        missing = within[None, :] >= counts[rows, None]
        pairs = (starts[rows, None] + within).masked_fill_(missing, 0)
        chosen = columns[pairs]
        gathered = right.vectors.index_select(0, chosen.flatten()).double().view(len(rows), width, dim)
        cosines = torch.bmm(gathered, block[rows].double()[:, :, None])[:, :, 0]
        keys = (cosines * 2.0**_SCALE).round_().long() * (1 << _ID_BITS) + (_LAST_ID - right.ids[chosen])
        yield rows, keys.masked_fill_(missing, _NOTHING).sort(dim=1, descending=True).values
        stop = first
