"""Hidden Markov alignment (Vogel, Ney & Tillmann 1996): the link of a unit depends on where the unit before it went.

A direction explains one side (`n_steps` units) by positions on the other (`n_places` units). At each step the text
either jumps from the place of the last step to another, with a probability that depends on the distance, and the unit
there makes the step's unit; or, with probability `null_share`, the null word makes it and the place stays (Och & Ney
2003). Before the first step the text stands one place left of the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from .grid import Batch
from .lexicon import Lexicon, add_at, gather

REACH = 16  # jumps further than this share one weight


class Jumps:
    """How likely jumps of each distance are, relative to each other.

    From place `i` the text jumps to place `k` with probability `w(k - i) / sum over places k' of w(k' - i)`.

    Attributes:
        weights: One weight for each distance from `-REACH` to `REACH`, the ends also for all beyond, float64.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        distances = torch.arange(-REACH, REACH + 1, device=device)
        self.weights = 1.0 / (1.0 + (distances - 1).abs().double())
        self._dtype = dtype
        self.reset()

    def reset(self) -> None:
        """Start a round: no counts."""
        self._made, self._offered = torch.zeros_like(self.weights), torch.zeros_like(self.weights)

    def table(self, n: int) -> torch.Tensor:
        """Return the weight of each jump between `n` places, `(n, n)`, from row to column; none leads to the first."""
        table = self.weights[self._distances(n)].to(self._dtype)
        table[:, 0] = 0
        return table

    def count(self, made: torch.Tensor, offered: torch.Tensor) -> None:
        """Add the expected number of jumps, and what it would be per unit of weight, both `(n, n)`."""
        distances = self._distances(len(made))[:, 1:]
        add_at(self._made, distances, made[:, 1:])
        add_at(self._offered, distances, offered[:, 1:])

    def estimate(self) -> None:
        """Take the weights from the counts: one step of a minorisation that never lowers the likelihood."""
        # a distance that hardly ever was possible stays near the mean
        weights = (self._made + 1e-3 / len(self.weights)) / (self._offered + 1e-3)
        self.weights = weights / weights.sum()

    def _distances(self, n: int) -> torch.Tensor:
        """Return the place of each jump's distance in `weights`, `(n, n)`."""
        places = torch.arange(n, device=self.weights.device)
        return (places[None, :] - places[:, None]).clamp(-REACH, REACH) + REACH


@dataclass(frozen=True, eq=False)
class Chain:
    """What the steps of some sentence pairs look like.

    Attributes:
        cells: Probability of each step's unit under each place, `(n_steps, n, n_places)`, 0 for padding.
        null: Ditto under the null word, `(n_steps, n)`, 1 for padding.
        places: Which places exist, `(n, n_places)`, bool.
        null_share: How likely the null word is at each step.
    """

    cells: torch.Tensor
    null: torch.Tensor
    places: torch.Tensor
    null_share: float


def expect(batch: Batch, lexicons: tuple[Lexicon, Lexicon], jumps: list[Jumps], null_share: float) -> None:
    """Add the expected counts of some sentence pairs: of links, the product of both directions' posteriors.

    As both directions get the same counts of links, only the first lexicon is given them.

    Args:
        batch: The sentence pairs.
        lexicons: p(target | source) and p(source | target).
        jumps: Of both directions.
        null_share: How likely the null word is at each step.
    """
    forward, backward = lexicons
    links, null = posteriors(
        Chain(
            gather(forward.pairs, batch.pairs.permute(2, 0, 1)),
            gather(forward.null, batch.target.T),
            batch.source < backward.n_events,
            null_share,
        ),
        jumps[0],
    )
    add_at(forward.null_counts, batch.target.T, null)
    links_back, null = posteriors(
        Chain(
            gather(backward.pairs, batch.pairs.permute(1, 0, 2)),
            gather(backward.null, batch.source.T),
            batch.target < forward.n_events,
            null_share,
        ),
        jumps[1],
    )
    add_at(backward.null_counts, batch.source.T, null)
    agreed = links.permute(1, 2, 0) * links_back.permute(1, 0, 2)
    add_at(forward.pair_counts, batch.pairs, agreed)


def posteriors(chain: Chain, jumps: Jumps) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how likely each place, and the null word, made each step's unit; count the jumps.

    Returns:
        Shape `(n_steps, n, n_places)` and `(n_steps, n)`; the latter is 1 for padding.
    """
    cells = pad(chain.cells, (1, 0))  # place 0 is where the text starts; it makes nothing
    places = pad(chain.places, (1, 0)).to(cells.dtype)
    table = jumps.table(cells.shape[2])
    # the weight of all jumps from a place; padding places are never left
    leaving = (places @ table.T).clamp_(min=torch.finfo(cells.dtype).tiny)
    outward = (1 - chain.null_share) / leaving
    stay = chain.null_share * chain.null
    before, linked, scales = _run_forward(cells, stay, outward, table)
    after, onward = _run_backward(cells, stay, outward, table, scales)
    flat = before * outward
    made = table * (flat.flatten(0, 1).T @ onward.flatten(0, 1))
    leaves = (flat * (onward @ table.T)).sum(0)
    jumps.count(made, (leaves / leaving).T @ places)
    linked *= after
    linked = linked[:, :, 1:]
    return linked, (1 - linked.sum(2)).clamp_(min=0)


def _run_forward(
    cells: torch.Tensor, stay: torch.Tensor, outward: torch.Tensor, table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, for each step, where the text stood before it, where it is linked, and what both were divided by."""
    before, linked = torch.empty_like(cells), torch.empty_like(cells)
    scales = torch.empty_like(stay)
    now = torch.zeros_like(cells[0])
    now[:, 0] = 1
    for step in range(len(cells)):
        before[step] = now
        torch.mm(now * outward, table, out=linked[step])
        linked[step] *= cells[step]
        now = torch.addcmul(linked[step], now, stay[step][:, None])
        torch.sum(now, 1, out=scales[step])
        now /= scales[step][:, None]
        linked[step] /= scales[step][:, None]
    return before, linked, scales


def _run_backward(
    cells: torch.Tensor, stay: torch.Tensor, outward: torch.Tensor, table: torch.Tensor, scales: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each step, how well each place explains what follows, and the same times the step's own cells."""
    after, onward = torch.empty_like(cells), torch.empty_like(cells)
    now = torch.ones_like(cells[0])
    transposed = table.T.contiguous()
    for step in range(len(cells) - 1, -1, -1):
        after[step] = now
        torch.mul(cells[step], now, out=onward[step])
        onward[step] /= scales[step][:, None]
        now = now * (stay[step] / scales[step])[:, None]
        now += (onward[step] @ transposed) * outward
    return after, onward
