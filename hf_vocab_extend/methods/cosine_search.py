"""Which candidates matter to each query, and their exact cosines: the engine under ``neighbours``.

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
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import InvalidOptionError, InvalidTableError
from .parallel import able_device, run_blocks

_GRID = 2.0**26  # unit vectors are multiples of 1 / _GRID
SCALE = 36  # cosines are compared as integers, in units of 2^-SCALE
_ID_BITS = 25
_LAST_ID = (1 << _ID_BITS) - 1
NOTHING = -(1 << 62)  # sorts below every cosine
OUTSIDE = -4.0  # score of a column that is no candidate
_GROUP = 32  # candidates that share one maximum
HEAD = 64  # scores whose sparsemax the steps start from
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


def decode(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split sort keys into integer cosines and candidate indices, both int64."""
    return keys >> _ID_BITS, _LAST_ID - (keys & _LAST_ID)


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
    matrix = torch.as_tensor(values).detach()
    if matrix.ndim != 2:
        raise InvalidTableError(
            f"The {what} have the shape {tuple(matrix.shape)}. A matrix of one row each is needed."
        )
    return matrix


@dataclass(frozen=True)
class Search:
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
    search: Search

    def __post_init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], torch.Tensor] = {}

    def buffer(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return a tensor of this worker's own, to be written before it is read."""
        size = int(np.prod(shape))
        kept = self._buffers.get((name, dtype))
        if kept is None or kept.numel() < size:
            kept = self._buffers[name, dtype] = torch.empty(size, dtype=dtype, device=self.right.ids.device)
        return kept[:size].view(*shape)


def search_neighbours(
    queries: torch.Tensor | np.ndarray, candidates: torch.Tensor | np.ndarray, search: Search
) -> Iterator[Found]:
    """Yield what ``search.finish`` keeps of each block of queries, on the CPU, in the order of the queries.

    It is shown every candidate that reaches the bound, and perhaps others below it.
    """
    if search.block_size is not None and search.block_size < 1:
        raise InvalidOptionError(f"block_size is {search.block_size}. It must be at least 1.")
    home = candidates.device if isinstance(candidates, torch.Tensor) else "cpu"
    device = able_device(torch.device(search.device if search.device is not None else home))
    left, right = _matrix(queries, "queries"), _matrix(candidates, "candidates")
    if left.shape[1] != right.shape[1]:
        raise InvalidTableError(f"Queries have {left.shape[1]} dimensions and candidates {right.shape[1]}.")
    if len(right) > _LAST_ID:
        raise InvalidTableError(f"{len(right)} candidates are more than the {_LAST_ID} that are supported.")
    group = max(1, min(_GROUP, len(right) // (4 * search.k if search.k else HEAD)))
    units = _units(right, device, group)
    if len(units.ids) == 0:
        return
    size = search.block_size or max(_ROWS_PER_BLOCK, _SCORES_PER_BLOCK[device.type] // len(units.vectors))
    blocks = (slice(start, start + size) for start in range(0, len(left), size))
    for found in run_blocks(_block, blocks, lambda: _Job(left, units, group, search), device):
        yield from found


@torch.no_grad()
def _block(job: _Job, part: slice) -> list[Found]:
    """Search for a block of queries: multiply, bound, gather what is left, compute it exactly."""
    given = job.queries[part]
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
    scores[:, len(job.right.ids) :] = OUTSIDE
    grouped = scores.view(rows, job.group, n_groups)
    maxima = torch.amax(grouped, 1, out=job.buffer("maxima", rows, n_groups))
    # A product of unit vectors is off by about dim * 2^-24 at most, in the bound and in what it is compared with.
    limit = job.search.bound(maxima) - 4 * (dim + 16) * 2.0**-24
    kept = (maxima >= limit[:, None]).view(-1).nonzero()[:, 0]
    owners = kept // n_groups
    firsts = owners * padded + kept - owners * n_groups  # place of each kept group's first member
    members = scores.view(-1).as_strided((rows * padded - (job.group - 1) * n_groups, job.group), (1, n_groups))
    pairs = (members[firsts] >= limit[owners, None]).view(-1).nonzero()[:, 0]
    places = pairs // job.group
    owners = owners[places]
    columns = (pairs - places * job.group) * n_groups + firsts[places] - owners * padded
    inside = columns < len(job.right.ids)
    found = _exact(job, block, owners[inside], columns[inside])
    return [tuple(part.cpu() for part in job.search.finish(part.start + ids[chosen], keys)) for chosen, keys in found]


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
        keys = cosines.mul_(2.0**SCALE).round_().long().mul_(1 << _ID_BITS).add_(_LAST_ID).sub_(job.right.ids[chosen])
        yield rows, keys.masked_fill_(missing, NOTHING).sort(dim=1, descending=True).values
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
