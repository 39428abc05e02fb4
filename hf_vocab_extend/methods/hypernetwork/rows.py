"""From bags of words to rows of any table: fits a closed form and a network on the source rows, and predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..._logging import get_logger
from .bags import Bags, Scales, find_scales
from .base import BASES, Base, Linear, Split, base_inputs, mix, neighbours_of, softmax
from .config import HyperOfaConfig
from .coordinates import Coordinates, make_coordinates, table_key
from .losses import LOSSES
from .networks import NETWORKS, HyperNetwork
from .storage import Shelf
from .training import History, Lessons, predict, train

logger = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class RowPredictor:
    """What was learnt from one table.

    Attributes:
        config: The options that it was made by.
        coordinates: What is predicted.
        scales: Of words and features.
        base: The closed form.
        pool: Source tokens that the closed form averages over, places among those that were learnt from, int64.
        network: Adds to it; None for nothing.
        history: What happened in training.
        n_tokens: Number of source tokens that it was made from.
    """

    config: HyperOfaConfig
    coordinates: Coordinates
    scales: Scales
    base: Base
    pool: torch.Tensor
    network: HyperNetwork | None
    history: History
    n_tokens: int

    def __call__(self, bags: Bags, device: torch.device, seed: int) -> torch.Tensor:
        """Return rows of tokens, float32 on the CPU, shape `(n, width)`.

        Args:
            bags: Of the tokens.
            device: Where to compute.
            seed: Of the words that are read of a token in more than ``max_words``.
        """
        features = self.scales.features(bags)
        predicted, shares = self.base(base_inputs(bags.pooled(), features), device)
        if self.network is not None:
            network = self.network.to(device)
            predicted += shares * predict(network, bags, self.scales, features, self.config.max_words, device, seed)
            network.cpu()
        return self.coordinates.decode(predicted)


def fit_predictor(
    bags: Bags, rows: torch.Tensor, coordinates: Coordinates, config: HyperOfaConfig, seed: int, device: torch.device
) -> RowPredictor:
    """Learn to predict rows.

    Args:
        bags: Of the tokens that are learnt from, of which some are held out.
        rows: Their rows, float32 on the CPU, shape `(n, width)`.
        coordinates: What is predicted of them.
        config: The options.
        seed: Of all randomness.
        device: Where to compute.

    Raises:
        MissingDependencyError: If accelerate is not installed and there is a network to train.
    """
    targets = coordinates.encode(rows)
    scales = find_scales(bags, with_features=config.features, unit=config.unit_words)
    features = scales.features(bags)
    learnt, held = _split(len(bags), config.held_out, seed)
    split = Split(base_inputs(bags.pooled(), features), targets, torch.from_numpy(learnt), torch.from_numpy(held))
    pool = _most_frequent(bags, learnt, config.max_pool)
    base = BASES[config.base](split, pool, config.k, config.temperature, device)
    network, history = None, History()
    if NETWORKS[config.network] is not None:
        own = np.full(len(bags), -1)
        own[pool.numpy()] = np.arange(len(pool))
        before, shares = base(split.inputs, device, own)
        loss = LOSSES[config.loss](config.contrast)
        lessons = Lessons(bags, scales, features, targets, before, shares, learnt, held, loss, coordinates.decode_loss)
        build = _builder(config, bags.table.shape[1], features.shape[1], targets.shape[1])
        network, history = train(build, lessons, config.training(), seed, device)
    pool = _most_frequent(bags, np.arange(len(bags)), config.max_pool)  # what was held out has served, and joins
    base = with_pool(base, split.inputs, targets, pool)
    return RowPredictor(config, coordinates, scales, base, pool, network, history, len(bags))


def with_pool(base: Base, inputs: torch.Tensor, targets: torch.Tensor, pool: torch.Tensor) -> Base:
    """Return a closed form that averages over other tokens, if it averages at all."""
    if base.k == 0:
        return base
    chosen = inputs[pool]
    return dataclasses.replace(base, pool=chosen, residuals=targets[pool] - base.linear(chosen))


def _builder(config: HyperOfaConfig, dim: int, n_features: int, n_outputs: int) -> Callable[[], HyperNetwork]:
    """Return what makes the network; it begins as what it is added to, if that is more than a mean."""

    def build() -> HyperNetwork:
        network = config.make_network(dim, n_features, n_outputs)
        torch.nn.init.zeros_(network.last.bias)
        if config.base != "mean":
            torch.nn.init.zeros_(network.last.weight)
        return network

    return build


def _split(n: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places of the tokens that are learnt from, and of those that are held out, both ascending."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).numpy()
    n_held = max(1, round(share * n))
    return np.sort(order[n_held:]), np.sort(order[:n_held])


def _most_frequent(bags: Bags, places: np.ndarray, n: int) -> torch.Tensor:
    """Return at most so many of some tokens, those whose words are the most frequent, or the most, ascending."""
    weights = bags.features[places, 0] + bags.features[places, 1]
    return torch.from_numpy(np.sort(places[np.argsort(-weights, kind="stable")[:n]]))


@dataclass(frozen=True, eq=False)
class Known:
    """Rows that were learnt from, for a length to give to others.

    Attributes:
        rows: Float32, shape `(m, width)`.
        inputs: Their mean word vectors, shape `(m, dim)`.
        queries: Mean word vectors of the predicted rows, shape `(n, dim)`.
        device: Where neighbours are looked for.
    """

    rows: torch.Tensor
    inputs: torch.Tensor
    queries: torch.Tensor
    device: torch.device

    def lengths(self) -> torch.Tensor:
        """Return the length of each known row, shape `(m, 1)`."""
        return torch.linalg.vector_norm(self.rows, dim=1, keepdim=True)

    def nearby_lengths(self) -> torch.Tensor:
        """Return the mean length of the known rows nearest to each predicted one, as OFA weighs them, `(n, 1)`."""
        found, cosines = neighbours_of(self.queries, self.inputs, 10, self.device)
        return mix(found, softmax(cosines, 0.1), self.lengths())


def _scale(rows: torch.Tensor, wanted: torch.Tensor, each: bool) -> torch.Tensor:
    """Scale rows to a length: each by itself, or all by one factor, so that they have it on average."""
    lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows * (wanted / (lengths if each else lengths.mean()).clamp(min=1e-12)) if len(rows) else rows


NORMS: dict[str, Callable[[torch.Tensor, Known], torch.Tensor]] = {
    "none": lambda rows, known: rows,
    "neighbours": lambda rows, known: _scale(rows, known.nearby_lengths(), True),
    "each": lambda rows, known: _scale(rows, known.lengths().mean(), True),
    "mean": lambda rows, known: _scale(rows, known.lengths().mean(), False),
}
"""How predicted rows are scaled, given those that were learnt from, by the name of the option."""


@dataclass(eq=False)
class HyperRows:
    """Rows of new tokens, from a predictor for each table that is trained when the table's rows are asked for.

    Attributes:
        covered: Which of the new tokens a word holds, bool, shape `(n_new,)`.
        known: Source tokens that are learnt from, ascending, int64.
        source: Their bags.
        target: Bags of the covered new tokens.
        config: The options.
        rank: Coordinates to predict; None for the full width.
        seed: Of all randomness.
        device: Where to compute.
        shelf: Where trained predictors lie; None to keep none.
        predictors: Those that were trained or loaded, by the key of their table.
    """

    covered: np.ndarray
    known: np.ndarray
    source: Bags
    target: Bags
    config: HyperOfaConfig
    rank: int | None
    seed: int
    device: torch.device
    shelf: Shelf | None = None
    predictors: dict[str, RowPredictor] = field(default_factory=dict)
    _done: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """Return the rows of the new tokens, float32, shape `(n_new, width)`; zeros for those not covered.

        Raises:
            InvalidOptionError: If the rank is beyond the table's.
            InvalidTableError: If the table holds NaN or infinite values, or predictors on the shelf are not of it.
            MissingDependencyError: If accelerate is not installed and a network is to be trained.
        """
        key = table_key(table, self.known)
        if key not in self._done:
            known = table.detach()[torch.from_numpy(self.known).to(table.device)].float().cpu()
            predictor = self._predictor(key, table, known)
            self.predictors[key] = predictor
            reference = Known(known, self.source.pooled(), self.target.pooled(), self.device)
            self._done[key] = NORMS[self.config.norms](predictor(self.target, self.device, self.seed), reference)
        result = torch.zeros(len(self.covered), table.shape[1], device=table.device)
        result[torch.from_numpy(np.flatnonzero(self.covered)).to(table.device)] = self._done[key].to(table.device)
        return result

    def _predictor(self, key: str, table: torch.Tensor, known: torch.Tensor) -> RowPredictor:
        """Take the predictor of a table from the shelf, else train it."""
        rank = self.rank
        if rank is not None and self.config.rank is None:  # the model's rank, which another table may not have
            rank = min(rank, *table.shape)
        saved = None if self.shelf is None else self.shelf.find(key)
        if saved is not None:
            return load_predictor(saved, self.source, known)
        coordinates = make_coordinates(table.detach().cpu(), known, rank, self.config.loss_space)
        predictor = fit_predictor(self.source, known, coordinates, self.config, self.seed, self.device)
        if self.shelf is not None:
            self.shelf.keep(key, *dump_predictor(predictor))
        return predictor


def dump_predictor(predictor: RowPredictor) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tensors of a predictor and the plain data beside them; no word vector and no row is among them."""
    network, coordinates, scales = predictor.network, predictor.coordinates, predictor.scales
    tensors = {
        "linear": predictor.base.linear.weights,
        "pool": predictor.pool,
        "centre": scales.centre,
        "spread": scales.spread,
    }
    if coordinates.directions is not None:
        tensors["directions"] = coordinates.directions
    if network is not None:
        tensors |= {f"network.{name}": value for name, value in network.state_dict().items()}
    facts = {
        "config": predictor.config.to_dict() | {"folder": None},
        "n_outputs": predictor.base.linear.weights.shape[1],
        "scale": coordinates.scale,
        "word_length": scales.length,
        "n_tokens": predictor.n_tokens,
        "k": predictor.base.k,
        "temperature": predictor.base.temperature,
        "reach": predictor.base.reach,
        "history": dataclasses.asdict(predictor.history),
    }
    return tensors, facts


def load_predictor(
    saved: tuple[dict[str, torch.Tensor], dict[str, Any]], bags: Bags, rows: torch.Tensor
) -> RowPredictor:
    """Make a predictor of what :func:`dump_predictor` gave.

    Args:
        saved: Tensors and plain data.
        bags: Of the tokens that it was made from.
        rows: Their rows.
    """
    tensors, facts = saved
    config = HyperOfaConfig.from_dict(facts["config"], strict=False)
    assert isinstance(config, HyperOfaConfig)
    coordinates = Coordinates(tensors.get("directions"), facts["scale"], None)
    scales = Scales(facts["word_length"], tensors["centre"], tensors["spread"])
    base = Base(Linear(tensors["linear"]), k=facts["k"], temperature=facts["temperature"], reach=facts["reach"])
    inputs = base_inputs(bags.pooled(), scales.features(bags))
    base = with_pool(base, inputs, coordinates.encode(rows), tensors["pool"])
    network = None
    if NETWORKS[config.network] is not None:
        network = config.make_network(bags.table.shape[1], len(scales.centre), facts["n_outputs"])
        prefix = "network."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        network.eval()
    return RowPredictor(
        config, coordinates, scales, base, tensors["pool"], network, History(**facts["history"]), len(bags)
    )


__all__ = ["NORMS", "HyperRows", "RowPredictor", "dump_predictor", "fit_predictor", "load_predictor"]
