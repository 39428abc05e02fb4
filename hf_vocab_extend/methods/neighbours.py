"""Nearest neighbours by cosine: exact top-k, softmax and sparsemax weights, in bounded memory.

Results depend neither on block size nor on the number of threads; ``cosine_search`` says how.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import InvalidOptionError
from .cosine_search import HEAD, NOTHING, OUTSIDE, SCALE, Bound, Found, Search, decode, search_neighbours
from .mixture import Mixture

_FIRST_STEPS, _LAST_STEPS = 6, 3  # of Newton's method; fewer give a looser bound, not a wrong result


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
        found, ids = decode(keys)
        empty = keys == NOTHING
        return (
            rows,
            ids.masked_fill_(empty, -1),
            found.double().mul_(2.0**-SCALE).clamp_(-1, 1).masked_fill_(empty, 0),
        )

    for rows, ids, values in search_neighbours(
        queries, candidates, Search(_top_bound(k), finish, k, block_size, device)
    ):
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
    total = round(temperature * 2.0**SCALE)
    bound = _sparsemax_bound(temperature) if k is None else _top_bound(k)

    def finish(rows: torch.Tensor, keys: torch.Tensor) -> Found:
        keys = keys[:, :k]
        scores, ids = decode(keys)
        weights = _sparsemax(scores, keys != NOTHING, total)
        owners, places = weights.nonzero(as_tuple=True)
        return rows[owners], ids[owners, places], weights[owners, places]

    parts = list(search_neighbours(queries, candidates, Search(bound, finish, k, block_size, device)))
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
            return torch.full((scores.shape[0],), OUTSIDE / 2, device=scores.device)
        return scores.topk(k, dim=1).values[:, -1]

    return bound


def _sparsemax_bound(temperature: float) -> Bound:
    """Return the bound for sparsemax: its threshold over some scores.

    The sum of what the scores exceed `tau` by falls with `tau` and is convex, so Newton's steps from below never pass
    the point where it equals the temperature: each of them is a bound.
    """

    def bound(scores: torch.Tensor) -> torch.Tensor:
        tau = scores.amax(1) - temperature
        n_head = scores.shape[1] // HEAD
        if n_head > 1:  # most of the way over maxima of maxima, which are few
            tau = steps(scores[:, : n_head * HEAD].reshape(len(scores), n_head, HEAD).amax(1), tau, _FIRST_STEPS)
        return steps(scores, tau, _LAST_STEPS)

    def steps(scores: torch.Tensor, tau: torch.Tensor, count: int) -> torch.Tensor:
        excess, signs = torch.empty_like(scores), torch.empty_like(scores)
        for _ in range(count):
            torch.sub(scores, tau[:, None], out=excess).clamp_(min=0)
            tau = tau + (excess.sum(1) - temperature) / torch.sign(excess, out=signs).sum(1).clamp_(min=1)
        return tau

    return bound


def _sparsemax(scores: torch.Tensor, valid: torch.Tensor, total: int) -> torch.Tensor:
    """Return the sparsemax weights of scores sorted from the largest.

    Args:
        scores: Integers in units of `2^-SCALE`, int64, shape `(n, s)`.
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


def _assemble(parts: Sequence[Sequence[np.ndarray]], n_rows: int, n_columns: int) -> Mixture:
    """Join (rows, columns, weights), whose places are all different, to one mixture."""
    rows, columns, weights = (
        np.concatenate([part[index] for part in parts] or [np.zeros(0, np.int64)]) for index in range(3)
    )
    order = np.argsort(rows.astype(np.int64) * n_columns + columns, kind="stable")
    offsets = np.zeros(n_rows + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=n_rows), out=offsets[1:])
    return Mixture(offsets, columns[order].astype(np.int32), weights[order].astype(np.float32), n_columns)
