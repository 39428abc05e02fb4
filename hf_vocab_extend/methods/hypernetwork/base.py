"""What has a closed form: ridge regression on the mean word vector, and what it leaves, averaged over neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..neighbours import top_neighbours

_PENALTIES = tuple(10.0**power for power in np.arange(-3, 2.01, 0.5))
_TEMPERATURES = (0.03, 0.05, 0.07, 0.1, 0.15, 0.2)
_FEATURE_WEIGHT = 0.2
"""Length of a standardised feature beside a mean word vector of length 1."""


@dataclass(frozen=True, eq=False)
class Linear:
    """Coordinates as a linear function of a token's mean word vector and features.

    Attributes:
        weights: The constant in the last row, float32, shape `(d + 1, R)`.
    """

    weights: torch.Tensor

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return coordinates, `(n, d)` to `(n, R)`."""
        return torch.addmm(self.weights[-1], inputs, self.weights[:-1])


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs and coordinates of the tokens that are learnt from, and of those that are held out.

    Attributes:
        inputs: Of all, float32, shape `(n, d)`.
        targets: Coordinates of all, float32, shape `(n, R)`.
        learnt: Which are learnt from, ascending, int64.
        held: Which are held out, ascending, int64.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    learnt: torch.Tensor
    held: torch.Tensor

    def score(self, predicted: torch.Tensor) -> float:
        """Return the mean cosine of predictions of the held-out tokens to what they should be."""
        return mean_cosine(predicted, self.targets[self.held])


def mean_cosine(predicted: torch.Tensor, target: torch.Tensor) -> float:
    """Return the mean cosine of rows."""
    return float(torch.nn.functional.cosine_similarity(predicted.double(), target.double(), dim=1).mean())


def fit_mean(split: Split) -> Linear:
    """Return the mean of the coordinates, whatever the input."""
    weights = torch.zeros(split.inputs.shape[1] + 1, split.targets.shape[1])
    weights[-1] = split.targets[split.learnt].double().mean(0).float()
    return Linear(weights)


def fit_ridge(split: Split) -> Linear:
    """Return the ridge regression whose penalty predicts the held-out tokens best."""
    inputs, targets = split.inputs[split.learnt].double(), split.targets[split.learnt].double()
    centre, mean = inputs.mean(0), targets.mean(0)
    gram = (inputs - centre).T @ (inputs - centre)
    energies, vectors = torch.linalg.eigh(gram)
    product = vectors.T @ ((inputs - centre).T @ (targets - mean))
    unit = float(energies.clamp(min=0).mean()) or 1.0
    found: list[tuple[float, Linear]] = []
    for penalty in _PENALTIES:
        weights = vectors @ (product / (energies.clamp(min=0) + penalty * unit)[:, None])
        constant = mean - centre @ weights
        linear = Linear(torch.cat([weights, constant[None]]).float())
        found.append((split.score(linear(split.inputs[split.held])), linear))
    return max(found, key=lambda pair: pair[0])[1]


@dataclass(frozen=True, eq=False)
class Base:
    """A closed-form prediction: a linear map, and if asked the weighted mean of what it leaves at similar tokens.

    Attributes:
        linear: The map.
        pool: Inputs of the tokens that are averaged over, float32, shape `(m, d)`; None for no average.
        residuals: Their coordinates less the map's, float32, shape `(m, R)`.
        k: Number of neighbours.
        temperature: Of their softmax.
        reach: Usual distance, 1 less the cosine, of a token to its nearest neighbour; 0 for no neighbours.
    """

    linear: Linear
    pool: torch.Tensor | None = None
    residuals: torch.Tensor | None = None
    k: int = 0
    temperature: float = 1.0
    reach: float = 0.0

    def __call__(
        self, inputs: torch.Tensor, device: torch.device, own: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return coordinates, `(n, d)` to `(n, R)`, and the share of a network's correction that each should get.

        A network learns what is left at the usual distance from the nearest neighbour. A new token that has a
        translation among the source tokens is much nearer to it, and less is left there, in proportion.

        Args:
            inputs: Of the tokens.
            device: Where neighbours are looked for.
            own: Place of each token in the pool, where it must not count itself, -1 for none, shape `(n,)`.

        Returns:
            Coordinates, and shares in [0, 1], shape `(n, 1)`.
        """
        predicted, shares = self.linear(inputs), torch.ones(len(inputs), 1)
        if self.pool is None or self.residuals is None:
            return predicted, shares
        found, cosines = neighbours_of(inputs, self.pool, self.k, device, own)
        predicted += mix(found, softmax(cosines, self.temperature), self.residuals)
        if self.reach > 0:
            distances = np.clip(1 - cosines.max(1, keepdims=True), 0, self.reach)
            shares = torch.from_numpy(distances / self.reach).float()
        return predicted, shares


def neighbours_of(
    inputs: torch.Tensor, pool: torch.Tensor, k: int, device: torch.device, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest tokens of a pool and their cosines, `(n, k)` each; -1 and minus infinity for none."""
    k = min(k, len(pool))
    found, cosines = top_neighbours(inputs, pool, min(k + (own is not None), len(pool)), device=device)
    cosines = np.where(found < 0, -np.inf, cosines)
    if own is not None:
        cosines[found == own[:, None]] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        found, cosines = np.take_along_axis(found, order, 1), np.take_along_axis(cosines, order, 1)
    return found, cosines


def softmax(cosines: np.ndarray, temperature: float) -> torch.Tensor:
    """Return weights that sum to 1 in each row, or zeros where there is no neighbour, float32."""
    highest = cosines.max(1, keepdims=True)
    weights = np.exp((cosines - np.where(np.isfinite(highest), highest, 0)) / temperature)
    return torch.from_numpy(weights / np.maximum(weights.sum(1, keepdims=True), 1e-300)).float()


def mix(found: np.ndarray, weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return weighted sums of rows, `(n, k)`, `(n, k)` and `(m, R)` to `(n, R)`."""
    places = torch.from_numpy(np.maximum(found, 0).astype(np.int64))
    return torch.nn.functional.embedding_bag(places, rows, mode="sum", per_sample_weights=weights)


def _linear_base(fit: Callable[[Split], Linear]) -> Callable[..., Base]:
    return lambda split, pool, k, temperature, device: Base(fit(split))


def _smooth(split: Split, pool: torch.Tensor, k: int, temperature: float | None, device: torch.device) -> Base:
    """Fit the ridge regression, and choose the temperature by the held-out tokens if none is given."""
    linear = fit_ridge(split)
    inputs = split.inputs[pool]
    residuals = split.targets[pool] - linear(inputs)
    queries = split.inputs[split.held]
    found, cosines = neighbours_of(queries, inputs, k, device)
    straight = linear(queries)
    scores = {
        tried: split.score(straight + mix(found, softmax(cosines, tried), residuals))
        for tried in ((temperature,) if temperature is not None else _TEMPERATURES)
    }
    best = max(scores, key=lambda tried: scores[tried])
    distances = 1 - cosines[:, 0]
    reach = float(np.median(distances[np.isfinite(distances)])) if np.isfinite(distances).any() else 0.0
    return Base(linear, inputs, residuals, k, best, max(reach, 0.0))


BASES: dict[str, Callable[[Split, torch.Tensor, int, float | None, torch.device], Base]] = {
    "neighbours": _smooth,
    "ridge": _linear_base(fit_ridge),
    "mean": _linear_base(fit_mean),
}
"""What a network adds to, by the name of the option: of a split, the places of the pool, `k`, a temperature
and a device."""


def base_inputs(pooled: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Return what a base sees: mean word vectors and features side by side, float32, shape `(n, d)`."""
    return torch.cat([pooled, _FEATURE_WEIGHT * features], 1)


__all__ = ["BASES", "Base", "Linear", "Split", "base_inputs", "mean_cosine"]
