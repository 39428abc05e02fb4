"""Translation probabilities of one direction: p(unit | unit of the other side), and a null word for the rest.

Re-estimated from expected counts either plainly (maximum likelihood) or by variational Bayes under a sparse Dirichlet
prior, `p = exp(digamma(c + a)) / exp(digamma(sum(c + a)))` (Riley & Gildea 2012), which keeps rare words from
explaining everything that stands beside them.
"""

from __future__ import annotations

import numpy as np
import torch

from .grid import Grid

# Less than this is no translation: arithmetic on denormal numbers would take ten times as long. The null word is never
# less likely, so that nothing is impossible.
FLOOR = 1e-12


def add_at(total: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> None:
    """Add values to the places of a vector, in an order that does not change from run to run."""
    places, values = places.reshape(-1), values.reshape(-1).to(total.dtype)
    if total.device.type == "cpu":
        total.index_add_(0, places, values)
    else:  # index_add_ adds in the order of arrival there; index_put_ sorts
        total.index_put_((places.long(),), values, accumulate=True)


def gather(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the values at some places of a vector, in the shape of the places."""
    return values.index_select(0, places.reshape(-1)).view(places.shape)


class Lexicon:
    """p(event | condition) of one direction.

    Attributes:
        n_events: Number of units of the side that is explained.
        pairs: Probability of each unit pair of the grid, and 0 for padding, `(n_pairs + 1,)`.
        null: Probability of each event under the null word, and 1 for padding, `(n_events + 1,)`.
        pair_counts: Expected counts of the round in progress, float64, as `pairs`.
        null_counts: Ditto, as `null`.
    """

    def __init__(self, grid: Grid, *, reverse: bool, prior: float, device: torch.device, dtype: torch.dtype) -> None:
        conditions, events = grid.source_of, grid.target_of
        n_conditions, n_events = grid.n_source, grid.n_target
        if reverse:
            conditions, events, n_conditions, n_events = events, conditions, n_events, n_conditions
        self.prior = prior
        self._conditions = torch.from_numpy(conditions).to(device)
        # how many different events each condition ever stands beside: the support of its prior
        self._support = torch.from_numpy(np.bincount(conditions, minlength=n_conditions)).to(device, torch.float64)
        self.n_events = n_events
        self.pairs = torch.ones(len(conditions) + 1, dtype=dtype, device=device) / max(n_events, 1)
        self.null = torch.ones(n_events + 1, dtype=dtype, device=device) / max(n_events, 1)
        self._fix_padding()
        self.reset()

    @property
    def device(self) -> torch.device:
        """Where the probabilities lie."""
        return self.pairs.device

    def _fix_padding(self) -> None:
        """Set what padding stands for: it is nobody's translation, and null explains it."""
        self.pairs[-1] = 0
        self.null[-1] = 1

    def reset(self) -> None:
        """Start a round: no counts."""
        self.pair_counts = torch.zeros(len(self.pairs), dtype=torch.float64, device=self.pairs.device)
        self.null_counts = torch.zeros(len(self.null), dtype=torch.float64, device=self.null.device)

    def estimate(self) -> None:
        """Take the probabilities from the counts of the round."""
        counts = self.pair_counts[:-1]
        sums = torch.zeros_like(self._support)
        add_at(sums, self._conditions, counts)
        null = self.null_counts[:-1]
        shares = self._normalised(counts, sums, self._support, self._conditions)
        self.pairs[:-1] = shares.masked_fill_(shares < FLOOR, 0).to(self.pairs.dtype)
        # the null word is frequent: nothing is gained from a prior on it
        shares = null / null.sum().clamp(min=torch.finfo(torch.float64).tiny)
        self.null[:-1] = shares.clamp_(min=FLOOR).to(self.null.dtype)
        self._fix_padding()

    def _normalised(
        self, counts: torch.Tensor, sums: torch.Tensor, support: torch.Tensor, owners: torch.Tensor
    ) -> torch.Tensor:
        """Return counts as shares of their owners' sums."""
        if not self.prior:
            return counts / sums.clamp(min=torch.finfo(torch.float64).tiny)[owners]
        totals = torch.digamma(sums + self.prior * support)[owners]
        return torch.exp(torch.digamma(counts + self.prior) - totals)
