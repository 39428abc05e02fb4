"""Trains a network on the tokens of a source vocabulary."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..._logging import get_logger, progress_bar
from ..._optional import require
from .bags import Bags, Scales, make_batch
from .base import mean_cosine
from .losses import Loss
from .networks import HyperNetwork

logger = get_logger(__name__)

_WINDOW = 40  # batches among which padded bags are sorted by size
_LEAST_WORDS = 4  # smaller bags are never cut
_ROWS_PER_BATCH = 256
_MAX_NORM = 1.0


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        epochs: Passes over the tokens.
        batch_size: Tokens in a step, over all processes together.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        schedule: A name in :data:`SCHEDULES`.
        patience: Stop after so many passes without a better held-out cosine.
        max_words: Of a larger bag a random part of this size is read, another one in each pass.
        augment: Share of the bags that are cut to a random 50 to 100 % in a pass.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    schedule: str
    patience: int
    max_words: int
    augment: float


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a network learns from.

    Attributes:
        bags: Of all tokens.
        scales: Of words and features.
        features: Standardised, shape `(n, n_features)`.
        targets: Coordinates, shape `(n, R)`.
        base: What the network's output is added to, shape `(n, R)`.
        shares: What it is multiplied by first, shape `(n, 1)`.
        learnt: Which tokens are learnt from, int64.
        held: Which are held out, int64.
        loss: Of predictions and targets.
        decode: What both are multiplied by first, shape `(R, n)`; None for nothing.
    """

    bags: Bags
    scales: Scales
    features: torch.Tensor
    targets: torch.Tensor
    base: torch.Tensor
    shares: torch.Tensor
    learnt: np.ndarray
    held: np.ndarray
    loss: Loss
    decode: torch.Tensor | None


@dataclass
class History:
    """What happened in training.

    Attributes:
        losses: Mean loss of each pass.
        cosines: Held-out cosine before the first pass and after each.
    """

    losses: list[float] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The pass whose network is kept; 0 for the one before all."""
        return int(np.argmax(self.cosines))


def _linear(step: int, n_steps: int, per_epoch: int) -> float:
    """Rise over the first tenth of the steps, then fall to zero."""
    warm = max(1, n_steps // 10)
    return min((step + 1) / warm, max(0.0, (n_steps - step) / max(1, n_steps - warm)))


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "linear": _linear,
    "step": lambda step, n_steps, per_epoch: 0.95 ** (step // (10 * per_epoch)),
    "constant": lambda step, n_steps, per_epoch: 1.0,
}
"""Factor of the learning rate, of step, number of steps and steps in a pass. ``step`` is HyperOFA's."""


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which weights and dropout are drawn from, and put them back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def train(
    build: Callable[[], HyperNetwork], lessons: Lessons, options: TrainOptions, seed: int, device: torch.device
) -> tuple[HyperNetwork, History]:
    """Train a network and return it as it was when it predicted the held-out tokens best.

    Works in one process and, started by accelerate's launcher, in many: each takes its part of every batch.
    Runs with the same seed, device and number of threads give the same network.

    Args:
        build: Makes the network.
        lessons: What it learns from.
        options: How.
        seed: Of weights, order, dropout and cuts.
        device: Where; an accelerator that was set up before decides instead.

    Raises:
        MissingDependencyError: If accelerate is not installed.
    """
    accelerator = _accelerator(device)
    device = accelerator.device
    generator = torch.Generator().manual_seed(seed)
    history = History()
    with torch.inference_mode(False), torch.enable_grad(), own_randomness(seed, device):
        network = build().to(device)
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        per_epoch = max(1, -(-len(lessons.learnt) // options.batch_size))
        n_steps = per_epoch * options.epochs
        factor = SCHEDULES[options.schedule]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, n_steps, per_epoch))
        prepared, optimizer = accelerator.prepare(network, optimizer)
        best = _keep(network, lessons, options, history, None, device)
        with progress_bar(desc="Train hypernetwork", unit=" steps", total=n_steps) as bar:
            for epoch in range(1, options.epochs + 1):
                prepared.train()
                total, steps = torch.zeros((), device=device), 0
                for rows in _batches(lessons, options, network.pads, generator):
                    part = _part(lessons, rows, options, generator, accelerator)
                    loss = _loss(prepared, lessons, *part, device)
                    optimizer.zero_grad()
                    accelerator.backward(loss)
                    accelerator.clip_grad_norm_(prepared.parameters(), _MAX_NORM)
                    optimizer.step()
                    schedule.step()
                    total, steps = total + loss.detach(), steps + 1
                    bar.update()
                history.losses.append(float(total) / max(1, steps))
                best = _keep(network, lessons, options, history, best, device)
                bar.set_postfix(loss=f"{history.losses[-1]:.4f}", held_out_cosine=f"{history.cosines[-1]:.4f}")
                if epoch - history.best >= options.patience:
                    break
        network.load_state_dict(best)
    accelerator.free_memory()
    return network.cpu().eval(), history


def _accelerator(device: torch.device) -> Any:
    """Return an accelerator for a device, or one for the device that this process was set up for before."""
    accelerate = require("accelerate", "hyperofa")
    state = require("accelerate.state", "hyperofa").PartialState
    is_new = not state._shared_state
    return accelerate.Accelerator(cpu=True if is_new and device.type == "cpu" else None)


def _keep(
    network: HyperNetwork,
    lessons: Lessons,
    options: TrainOptions,
    history: History,
    best: dict[str, torch.Tensor] | None,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """Score the network on the held-out tokens; return its weights if it is the best so far, else the best ones."""
    bags = lessons.bags.select(lessons.held)
    found = predict(network, bags, lessons.scales, lessons.features[lessons.held], options.max_words, device)
    found = found * lessons.shares[lessons.held] + lessons.base[lessons.held]
    history.cosines.append(mean_cosine(found, lessons.targets[lessons.held]))
    logger.info("Pass %d: held-out cosine %.4f", len(history.cosines) - 1, history.cosines[-1])
    if best is not None and history.best != len(history.cosines) - 1:
        return best
    return copy.deepcopy(network.state_dict())


def _batches(lessons: Lessons, options: TrainOptions, pads: bool, generator: torch.Generator) -> Iterator[np.ndarray]:
    """Give the tokens of each step in random order; padded bags sorted by size within windows of batches."""
    order = lessons.learnt[torch.randperm(len(lessons.learnt), generator=generator).numpy()]
    if pads:
        sizes = np.minimum(lessons.bags.sizes, options.max_words)
        window = _WINDOW * options.batch_size
        parts = [order[start : start + window] for start in range(0, len(order), window)]
        order = np.concatenate([part[np.argsort(sizes[part], kind="stable")] for part in parts])
    for start in range(0, len(order), options.batch_size):
        yield order[start : start + options.batch_size]


def _part(
    lessons: Lessons, rows: np.ndarray, options: TrainOptions, generator: torch.Generator, accelerator: Any
) -> tuple[np.ndarray, Bags]:
    """Return this process's tokens of a batch and their bags, cut at random. All processes draw alike."""
    bags = lessons.bags.select(rows)
    sizes = bags.sizes
    chosen, shares = torch.rand(2, len(rows), generator=generator, dtype=torch.float64).numpy()
    cut = (chosen < options.augment) & (sizes > _LEAST_WORDS)
    sizes = np.where(cut, (sizes * (0.5 + 0.5 * shares)).astype(np.int64), sizes)
    bags = bags.sample(np.minimum(sizes, options.max_words), generator)
    n = accelerator.num_processes
    if n == 1:
        return rows, bags
    own = np.arange(accelerator.process_index, max(len(rows), n), n) % len(rows)
    return rows[own], bags.select(own)


def _loss(
    network: torch.nn.Module, lessons: Lessons, rows: np.ndarray, bags: Bags, device: torch.device
) -> torch.Tensor:
    """Return the loss of some tokens."""
    places = torch.from_numpy(rows)
    batch = make_batch(bags, lessons.scales, lessons.features[places], device)
    predicted = network(batch).float() * lessons.shares[places].to(device) + lessons.base[places].to(device)
    target = lessons.targets[places].to(device)
    if lessons.decode is not None:
        decode = lessons.decode.to(device)
        predicted, target = predicted @ decode, target @ decode
    return lessons.loss(predicted, target)


@torch.no_grad()
def predict(
    network: HyperNetwork,
    bags: Bags,
    scales: Scales,
    features: torch.Tensor,
    max_words: int,
    device: torch.device,
    seed: int = 0,
) -> torch.Tensor:
    """Return a network's coordinates of tokens, float32 on the CPU, shape `(n, R)`.

    Args:
        network: The network; it is left in evaluation mode.
        bags: Of the tokens.
        scales: Of words.
        features: Standardised, shape `(n, n_features)`.
        max_words: Of a larger bag a random part of this size is read.
        device: Where the network is.
        seed: Of those parts.
    """
    network.eval()
    bags = bags.sample(np.full(len(bags), max_words), torch.Generator().manual_seed(seed))
    result = torch.empty(len(bags), network.shape.n_outputs)
    order = np.argsort(bags.sizes, kind="stable") if network.pads else np.arange(len(bags))
    for start in range(0, len(bags), _ROWS_PER_BATCH):
        rows = order[start : start + _ROWS_PER_BATCH]
        batch = make_batch(bags.select(rows), scales, features[torch.from_numpy(rows)], device)
        result[torch.from_numpy(rows)] = network(batch).float().cpu()
    return result


__all__ = ["SCHEDULES", "History", "Lessons", "TrainOptions", "own_randomness", "predict", "train"]
