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

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_NEWTON_STEPS = 3
_HEAD = 64  # scores whose sparsemax the steps start from
_DENSE = 8  # rows that keep more than one in so many candidates are computed by one matrix product
_ROWS_PER_CONVERSION = 1024
_SCORES_PER_BLOCK = {"cpu": 1 << 21, "cuda": 1 << 27}  # float32
_ROWS_PER_BLOCK = 64  # at least, or the matrix product is slow
_FLOATS_KEPT_DOUBLE = 1 << 24  # 128 MiB
_FLOATS_PER_GATHER = {"cpu": 1 << 18, "cuda": 1 << 26}
_KEYS_PER_SORT = {"cpu": 1 << 20, "cuda": 1 << 26}

Bound = Callable[[torch.Tensor], torch.Tensor]
"""Some scores of each query, shape `(n, g)`, to a score `(n,)` below which no candidate can matter."""

Found = tuple[torch.Tensor, ...]
Finish = Callable[[torch.Tensor, torch.Tensor], Found]
"""Query rows `(n,)` and the sorted keys of their candidates `(n, s)` to what is kept of them."""


@dataclass(frozen=True)
class _Units:
    """Candidates as unit vectors on the grid."""

    vectors: torch.Tensor
    """Float32, shape `(padded, d)`: the candidates that are not zero, then zero rows to fill the last group."""
    ids: torch.Tensor
    """Row of each candidate in the given matrix, ascending, int64, shape `(m,)`."""
    exact: torch.Tensor
    """The same in float64, or ``vectors`` itself where that would take much memory."""


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

    def finish(rows: torch.Tensor, keys: torch.Tensor) -> Found:
        keys = keys[:, :k]
        found, ids = _decode(keys)
        empty = keys == _NOTHING
        return (
            rows,
            ids.masked_fill_(empty, -1),
            found.double().mul_(2.0**-_SCALE).clamp_(-1, 1).masked_fill_(empty, 0),
        )

    for rows, ids, values in _search(queries, candidates, _Search(_top_bound(k), finish, k, block_size, device)):
        indices[rows.numpy(), : ids.shape[1]] = ids.numpy()
        cosines[rows.numpy(), : ids.shape[1]] = values.numpy()
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

    def finish(rows: torch.Tensor, keys: torch.Tensor) -> Found:
        keys = keys[:, :k]
        scores, ids = _decode(keys)
        weights = _sparsemax(scores, keys != _NOTHING, total)
        owners, places = weights.nonzero(as_tuple=True)
        return rows[owners], ids[owners, places], weights[owners, places]

    parts = list(_search(queries, candidates, _Search(bound, finish, k, block_size, device)))
    return _assemble([[part.numpy() for part in found] for found in parts], len(queries), len(candidates))


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
        head = scores.topk(min(_HEAD, scores.shape[1]), dim=1).values
        sums = head.cumsum(1).sub_(temperature)
        tau = sums.div_(torch.arange(1, head.shape[1] + 1, device=head.device)).amax(1)
        excess, signs = torch.empty_like(scores), torch.empty_like(scores)
        for _ in range(_NEWTON_STEPS):
            torch.sub(scores, tau[:, None], out=excess).clamp_(min=0)
            tau = tau + (excess.sum(1) - temperature) / torch.sign(excess, out=signs).sum(1).clamp_(min=1)
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


def _assemble(parts: Sequence[Sequence[np.ndarray]], n_rows: int, n_columns: int) -> Mixture:
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
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Let every operation run in one thread; give the number of threads that they had.

    Many short operations that each split over all cores wait for one another more than they compute.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _unit_rows(matrix: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write the rows of a matrix as unit vectors on the grid, zero rows as zeros.

    Args:
        matrix: Any dtype, shape `(n, d)`.
        out: Float32, shape `(n, d)`.

    Returns:
        Norms, float64, shape `(n,)`.

    Raises:
        InvalidTableError: If a value is not finite.
    """
    values = matrix.to(device=out.device, dtype=torch.float64, copy=True)
    norms = torch.linalg.vector_norm(values, dim=1)
    if not torch.isfinite(norms).all():
        bad = int((~torch.isfinite(norms)).sum())
        raise InvalidTableError(
            f"{bad} of {len(norms)} vectors in one block hold NaN, infinite or far too large values. "
            "Remove or repair them."
        )
    out.copy_(values.mul_((_GRID / norms.masked_fill(norms == 0, torch.inf))[:, None]).round_()).mul_(1 / _GRID)
    return norms


def _units(matrix: torch.Tensor, device: torch.device, group: int) -> _Units:
    """Return the rows of a matrix as unit vectors; zero rows are left out, and added behind to fill the last group."""
    vectors = torch.empty(-(-len(matrix) // group) * group, matrix.shape[1], device=device)
    norms = torch.zeros(len(vectors), dtype=torch.float64, device=device)
    for start in range(0, len(matrix), _ROWS_PER_CONVERSION):
        part = slice(start, min(start + _ROWS_PER_CONVERSION, len(matrix)))
        norms[part] = _unit_rows(matrix[part], vectors[part])
    ids = norms.nonzero()[:, 0]
    if len(ids) < len(matrix):
        vectors[: len(ids)] = vectors[ids]
        vectors = vectors[: -(-len(ids) // group) * group]
    vectors[len(ids) :] = 0
    small = vectors.numel() <= _FLOATS_KEPT_DOUBLE
    return _Units(vectors, ids, vectors.double() if small else vectors)


def _matrix(values: torch.Tensor | np.ndarray, what: str) -> torch.Tensor:
    """Return a matrix as a tensor.

    Raises:
        InvalidTableError: If it is not two-dimensional.
    """
    matrix = torch.as_tensor(values)
    if matrix.ndim != 2:
        raise InvalidTableError(
            f"The {what} have the shape {tuple(matrix.shape)}. A matrix of one row each is needed."
        )
    return matrix


@dataclass(frozen=True)
class _Search:
    """What is looked for."""

    bound: Bound
    finish: Finish
    k: int | None
    block_size: int | None
    device: torch.device | str | None


@dataclass
class _Job:
    """One search, and the buffers of one worker: fresh memory for each block costs page faults."""

    queries: torch.Tensor
    right: _Units
    group: int
    search: _Search

    def __post_init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def buffer(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a tensor of this worker's own, to be written before it is read."""
        size = int(np.prod(shape))
        kept = self._buffers.get((name, dtype))
        if kept is None or kept.numel() < size:
            kept = self._buffers[name, dtype] = torch.empty(size, dtype=dtype, device=self.right.ids.device)
        return kept[:size].view(*shape)


def _search(
    queries: torch.Tensor | np.ndarray, candidates: torch.Tensor | np.ndarray, search: _Search
) -> Iterator[Found]:
    """Yield what ``search.finish`` keeps of each block of queries, on the CPU, in the order of the queries.

    It is shown every candidate that reaches the bound, and perhaps others below it.
    """
    if search.block_size is not None and search.block_size < 1:
        raise InvalidOptionError(f"block_size is {search.block_size}. It must be at least 1.")
    home = candidates.device if isinstance(candidates, torch.Tensor) else "cpu"
    device = torch.device(search.device if search.device is not None else home)
    left, right = _matrix(queries, "queries"), _matrix(candidates, "candidates")
    if left.shape[1] != right.shape[1]:
        raise InvalidTableError(f"Queries have {left.shape[1]} dimensions and candidates {right.shape[1]}.")
    if len(right) > _LAST_ID:
        raise InvalidTableError(f"{len(right)} candidates are more than the {_LAST_ID} that are supported.")
    group = max(1, min(_GROUP, len(right) // (4 * search.k if search.k else _HEAD)))
    units = _units(right, device, group)
    if len(units.ids) == 0:
        return
    size = search.block_size or max(_ROWS_PER_BLOCK, _SCORES_PER_BLOCK[device.type] // len(units.vectors))
    jobs = [_Job(left, units, group, search) for _ in range(torch.get_num_threads())]
    starts = range(0, len(left), size)
    with _full_precision():
        if device.type != "cpu":
            for start in starts:
                yield from _block(jobs[0], start, start + size)
            return
        with _one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
            yield from _in_order(pool, jobs, starts, size)


def _in_order(pool: ThreadPoolExecutor, jobs: list[_Job], starts: range, size: int) -> Iterator[Found]:
    """Run blocks in parallel, at most two for each worker ahead of the reader; yield their results in order."""
    idle = deque(jobs)
    waiting: deque[Future[list[Found]]] = deque()

    def run(start: int) -> list[Found]:
        job = idle.pop()
        try:
            return _block(job, start, start + size)
        finally:
            idle.append(job)

    try:
        for start in starts:
            waiting.append(pool.submit(run, start))
            if len(waiting) >= 2 * len(jobs):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


@torch.no_grad()
def _block(job: _Job, start: int, stop: int) -> list[Found]:
    """Search for a block of queries: multiply, bound, gather what is left, compute it exactly."""
    given = job.queries[start:stop]
    device = job.right.ids.device
    block = job.buffer("queries", *given.shape)
    ids = _unit_rows(given, block).nonzero()[:, 0]
    block = block if len(ids) == len(given) else block[ids]
    if len(ids) == 0:
        return []
    (rows, dim), padded = block.shape, len(job.right.vectors)
    n_groups = padded // job.group
    with torch.autocast(device.type, enabled=False):
        scores = torch.mm(block, job.right.vectors.T, out=job.buffer("scores", rows, padded))
    scores[:, len(job.right.ids) :] = _OUTSIDE
    grouped = scores.view(rows, job.group, n_groups)
    maxima = torch.amax(grouped, 1, out=job.buffer("maxima", rows, n_groups))
    # A product of unit vectors is off by about dim * 2^-24 at most, in the bound and in what it is compared with.
    limit = job.search.bound(maxima) - 4 * (dim + 16) * 2.0**-24
    owners, groups = (maxima >= limit[:, None]).nonzero(as_tuple=True)
    values = grouped.transpose(1, 2)[owners, groups]
    places, members = (values >= limit[owners, None]).nonzero(as_tuple=True)
    owners, columns = owners[places], members * n_groups + groups[places]
    inside = columns < len(job.right.ids)
    found = _exact(job, block, owners[inside], columns[inside])
    return [tuple(part.cpu() for part in job.search.finish(start + ids[chosen], keys)) for chosen, keys in found]


def _exact(
    job: _Job, block: torch.Tensor, owners: torch.Tensor, columns: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield rows of a block with the sorted keys of their candidates.

    Args:
        job: The search.
        block: Query units, shape `(n, d)`.
        owners: Row of each pair, ascending, shape `(n_pairs,)`; every row has at least one pair.
        columns: Candidate unit of each pair, shape `(n_pairs,)`.
    """
    counts = torch.bincount(owners, minlength=len(block))
    starts = counts.cumsum(0) - counts
    order = counts.argsort(stable=True)  # rows of like length share a block, so little of it is padding
    lengths = counts[order].tolist()
    stop = len(order)
    while stop > 0:
        width = lengths[stop - 1]
        first = max(0, stop - max(1, _KEYS_PER_SORT[block.device.type] // width))
        rows = order[first:stop]
        within = torch.arange(width, device=block.device)
        missing = within >= counts[rows, None]
        chosen = columns[(starts[rows, None] + within).masked_fill_(missing, 0)]
        cosines = _cosines(job, block[rows], chosen, lengths[first:stop])
        keys = cosines.mul_(2.0**_SCALE).round_().long().mul_(1 << _ID_BITS).add_(_LAST_ID).sub_(job.right.ids[chosen])
        yield rows, keys.masked_fill_(missing, _NOTHING).sort(dim=1, descending=True).values
        stop = first


def _cosines(job: _Job, block: torch.Tensor, chosen: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Return exact cosines, float64.

    Args:
        job: The search.
        block: Query units, shape `(n, d)`.
        chosen: Candidate unit of each pair, shape `(n, width)`.
        lengths: How many of a row's pairs count, ascending; the rest may hold anything.
    """
    (rows, width), dim = chosen.shape, block.shape[1]
    block = block.double()
    if width * _DENSE > len(job.right.ids):
        return _dense_cosines(job, block).gather(1, chosen)
    cosines = torch.zeros(rows, width, dtype=torch.float64, device=block.device)
    stop = rows
    while stop > 0:
        width = lengths[stop - 1]
        first = max(0, stop - max(1, _FLOATS_PER_GATHER[block.device.type] // (width * dim)))
        size = (stop - first) * width
        picked = chosen[first:stop, :width].reshape(-1)
        table = job.right.exact
        taken = torch.index_select(table, 0, picked, out=job.buffer("taken", size, dim, dtype=table.dtype))
        double = taken if table.dtype == torch.float64 else job.buffer("double", size, dim, dtype=torch.float64)
        if double is not taken:
            double.copy_(taken)
        product = torch.bmm(double.view(-1, width, dim), block[first:stop, :, None])
        cosines[first:stop, :width] = product[:, :, 0]
        stop = first
    return cosines


def _dense_cosines(job: _Job, block: torch.Tensor) -> torch.Tensor:
    """Return the exact cosines of queries with all candidates, float64, shape `(n, m)`."""
    m, dim = len(job.right.ids), block.shape[1]
    cosines = torch.empty(len(block), m, dtype=torch.float64, device=block.device)
    step = max(1, _FLOATS_PER_GATHER[block.device.type] // dim)
    for start in range(0, m, step):
        stop = min(start + step, m)
        cosines[:, start:stop] = block @ job.right.exact[start:stop].double().T
    return cosines
