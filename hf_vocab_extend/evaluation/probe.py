"""Multinomial logistic regression, the classifier of the transfer measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import InvalidOptionError, InvalidTableError


@dataclass(frozen=True)
class Probe:
    """A fitted classifier.

    Attributes:
        labels: Names of the classes, k of them.
        weight: Shape `(k, d)`, float64.
        bias: Shape `(k,)`, float64.
        mean: Subtracted from vectors before, shape `(d,)`.
        scale: Then they are divided by it, shape `(d,)`.
    """

    labels: tuple[str, ...]
    weight: torch.Tensor
    bias: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor

    def predict(self, vectors: torch.Tensor) -> list[str]:
        """Return the most probable label of each vector, `(n, d)`; the first of the names where two tie."""
        scores = ((vectors.double() - self.mean) / self.scale) @ self.weight.T + self.bias
        return [self.labels[index] for index in scores.argmax(1).tolist()]


def fit_probe(
    vectors: torch.Tensor,
    labels: Sequence[str],
    *,
    penalty: float = 1.0,
    standardise: bool = True,
    max_iterations: int = 500,
) -> Probe:
    """Fit a multinomial logistic regression with an L2 penalty, by LBFGS in float64; deterministic.

    The loss is that of scikit-learn's ``LogisticRegression(C=1 / penalty)``: the summed cross-entropy and
    ``penalty / 2`` times the squared weights, the bias free.

    Args:
        vectors: Features, shape `(n, d)`.
        labels: Label of each, n of them.
        penalty: Strength of the L2 penalty.
        standardise: Give every feature mean 0 and deviation 1 first, by the training vectors.
        max_iterations: Most iterations of LBFGS.

    Raises:
        InvalidTableError: If the shapes do not fit, or a value is not finite.
        InvalidOptionError: If there are not two labels, or the penalty is not positive.
    """
    if vectors.ndim != 2 or len(vectors) != len(labels) or not torch.isfinite(vectors).all():
        raise InvalidTableError(
            f"A probe needs finite vectors (n, d) and n labels; got {tuple(vectors.shape)} and {len(labels)} labels."
        )
    names = tuple(sorted(set(labels)))
    if len(names) < 2 or penalty <= 0:
        raise InvalidOptionError(
            f"A probe needs two labels or more and a positive penalty; got {len(names)} and {penalty}."
        )
    data = vectors.detach().double()
    mean, scale = torch.zeros(data.shape[1]).double(), torch.ones(data.shape[1]).double()
    if standardise:
        mean, scale = data.mean(0), data.std(0, correction=0)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    data = (data - mean) / scale
    places = {name: index for index, name in enumerate(names)}
    wanted = torch.tensor([places[label] for label in labels])
    weight = torch.zeros(len(names), data.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(data @ weight.T + bias, wanted)
        value = value + penalty / 2 * weight.square().sum() / len(data)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return Probe(names, weight.detach(), bias.detach(), mean, scale)


def classification_scores(predicted: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Return ``accuracy``, ``macro_f1`` and ``count``.

    Macro F1 is the mean of the F1 of every label that is expected or predicted; one that is never right counts 0.

    Raises:
        InvalidTableError: If the lengths differ or are 0.
    """
    if len(predicted) != len(expected) or not expected:
        raise InvalidTableError(f"{len(predicted)} labels were predicted and {len(expected)} are expected.")
    pairs = list(zip(predicted, expected, strict=True))
    scores = []
    for label in sorted(set(predicted) | set(expected)):
        right = sum(one == other == label for one, other in pairs)
        said, true = sum(one == label for one, _ in pairs), sum(other == label for _, other in pairs)
        scores.append(2 * right / (said + true))
    return {
        "accuracy": sum(one == other for one, other in pairs) / len(pairs),
        "macro_f1": sum(scores) / len(scores),
        "count": float(len(pairs)),
    }


__all__ = ["Probe", "classification_scores", "fit_probe"]
