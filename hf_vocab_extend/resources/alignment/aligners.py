"""Word aligners by name: each turns a text of sentence pairs into expected counts of unit pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..._logging import progress_bar
from ...errors import InvalidOptionError
from . import hmm, ibm1
from .eflomal import align_eflomal, find_program
from .grid import Grid, build_grid
from .lexicon import Lexicon
from .links import AlignerOptions, Links, merge_links

if TYPE_CHECKING:
    from .bitext import Bitext

__all__ = ["ALIGNERS", "AlignerOptions", "Links", "align"]

_CELLS = {"cpu": 1 << 18, "cuda": 1 << 22}  # of a batch: what a cache holds, what keeps a GPU busy
Tick = Callable[[], object]


def align(bitext: Bitext, options: AlignerOptions) -> Links:
    """Align a text with the aligner that the options name.

    Raises:
        InvalidOptionError: If there is no such aligner.
    """
    if options.aligner not in ALIGNERS:
        raise InvalidOptionError(f"There is no aligner {options.aligner!r}. There are: {', '.join(ALIGNERS)}.")
    return ALIGNERS[options.aligner](bitext, options)


def align_ibm1(bitext: Bitext, options: AlignerOptions) -> Links:
    """Align by IBM Model 1 in both directions, each by itself: 7 rounds of EM, uniform start, null word.

    The counts are those of the last round.
    """
    rounds = options.iterations or 7

    def run(grid: Grid, tick: Tick) -> Links:
        lexicons = _lexicons(grid, options)
        for number in range(rounds):
            _next_round(number, *lexicons)
            for batch in grid.batches(lexicons[0].device):
                ibm1.expect(batch, *lexicons)
                tick()
        return _links(grid, *lexicons)

    return _each_shard(bitext, options, run, rounds)


def align_hmm(bitext: Bitext, options: AlignerOptions) -> Links:
    """Align by hidden Markov models of both directions, trained to agree, after some rounds of IBM Model 1.

    The counts of both directions are the same: the product of both posteriors (Liang, Taskar & Klein 2006).
    """
    rounds = options.iterations or 8

    def run(grid: Grid, tick: Tick) -> Links:
        lexicons = _lexicons(grid, options)
        jumps = [hmm.Jumps(lexicon.device, lexicon.pairs.dtype) for lexicon in lexicons]
        for number in range(options.model1_iterations + rounds):
            _next_round(number, *lexicons)
            if number >= options.model1_iterations:  # both directions count the links that they agree on
                lexicons[1].pair_counts = lexicons[0].pair_counts
            for batch in grid.batches(lexicons[0].device):
                if number < options.model1_iterations:
                    ibm1.expect(batch, *lexicons)
                else:
                    hmm.expect(batch, lexicons, jumps, options.null_share)
                tick()
            for model in jumps if number >= options.model1_iterations else ():
                model.estimate()
                model.reset()
        return _links(grid, *lexicons)

    return _each_shard(bitext, options, run, options.model1_iterations + rounds)


def _lexicons(grid: Grid, options: AlignerOptions) -> tuple[Lexicon, Lexicon]:
    """Return uniform lexicons of both directions."""
    device, dtype = _place(options)
    return (
        Lexicon(grid, reverse=False, prior=options.prior, device=device, dtype=dtype),
        Lexicon(grid, reverse=True, prior=options.prior, device=device, dtype=dtype),
    )


def _next_round(number: int, *lexicons: Lexicon) -> None:
    """Before every round but the first, take the probabilities from the counts and start counting anew."""
    for lexicon in lexicons if number else ():
        lexicon.estimate()
        lexicon.reset()


def _links(grid: Grid, forward: Lexicon, backward: Lexicon) -> Links:
    """Return the counts of the last round, without pairs that have none."""
    counts = [lexicon.pair_counts[:-1].cpu().numpy() for lexicon in (forward, backward)]
    kept = (counts[0] > 0) | (counts[1] > 0)
    return Links(grid.source_of[kept], grid.target_of[kept], counts[0][kept], counts[1][kept])


def _place(options: AlignerOptions) -> tuple[torch.device, torch.dtype]:
    """Return where and in which precision to compute.

    Raises:
        InvalidOptionError: If there is no such device.
    """
    try:
        device = torch.device(options.device or "cpu")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidOptionError(f"Nothing can be computed on {options.device!r} ({error}). Try 'cpu'.") from error
    return device, torch.float64 if options.double else torch.float32


def _each_shard(bitext: Bitext, options: AlignerOptions, run: Callable[[Grid, Tick], Links], rounds: int) -> Links:
    """Align a text shard by shard and add up."""
    device, _ = _place(options)
    shards = _shards(bitext, options)
    parts = []
    with _threads(options.threads), torch.inference_mode():
        for number, chosen in enumerate(shards, 1):
            grid = build_grid(bitext, chosen, _CELLS.get(device.type, _CELLS["cuda"]))
            title = f"Aligning, shard {number} of {len(shards)}" if len(shards) > 1 else "Aligning"
            bar = progress_bar(desc=title, unit="batch", total=rounds * grid.n_batches)
            with bar if options.show_progress else nullcontext() as shown:
                parts.append(run(grid, shown.update if shown is not None else lambda: None))
    return merge_links(parts)


def _shards(bitext: Bitext, options: AlignerOptions) -> list[np.ndarray]:
    """Deal the pairs out to shards of about equal size, every shard from the whole length of the text."""
    lengths = np.stack([np.diff(bitext.source_offsets), np.diff(bitext.target_offsets)])
    usable = np.flatnonzero((lengths.min(0) > 0) & (lengths.max(0) <= options.max_length))
    n_links = int(lengths[:, usable].prod(0).sum())
    n_shards = -(-n_links // options.max_links)
    return [usable[shard::n_shards] for shard in range(n_shards)]


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    try:
        if count:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)


ALIGNERS: dict[str, Callable[[Bitext, AlignerOptions], Links]] = {
    "hmm": align_hmm,
    "ibm1": align_ibm1,
    "eflomal": align_eflomal,
}

OWN = frozenset({"hmm", "ibm1"})
"""Aligners of this package; they leave out pairs of more than ``max_length`` units."""

CHECKS: dict[str, Callable[[AlignerOptions], object]] = {
    "hmm": _place,
    "ibm1": _place,
    "eflomal": lambda options: find_program(),
}
"""What raises if an aligner cannot run here, before any work."""
