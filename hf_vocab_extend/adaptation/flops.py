"""Floating point operations of a training step, from what is trained and how often each matrix product is computed.

Counted are matrix products, two operations to a multiplication and its addition, and nothing else: lookups, norms,
activation functions, softmax, the loss and the optimizer are left out, as ``torch.utils.flop_counter`` does. A product
costs as much in the gradient of each of its factors as in the forward pass, if that gradient is needed: so a frozen
weight has no weight gradient, and below the lowest trained layer there are no gradients at all.

Attention counts as two full products, Q K^T and A V, for each query head, whatever implementation computes it: causal
and sliding masks save nothing. ``FlopCounterMode`` finds the same with ``attn_implementation="eager"``. With
``"sdpa"`` it finds less on a CPU, where it does not know the fused kernel, and more on a GPU, where kernels compute
the scores once more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from ..errors import InvalidOptionError, UnsupportedModelError
from .flop_probe import PARTS, Product, check_countable, seen_products, table_names

_POWERS = ((0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0), (0, 0, 1))
"""How FLOPs may grow: powers of batch size, length and number of labels, which comes last and on its own."""
_POINTS = ((2, 4, 2), (2, 6, 2), (3, 4, 2), (3, 6, 2), (3, 8, 2), (2, 4, 5))
"""Batch sizes, lengths and numbers of labels at which a model is run; as many as powers."""
_KINDS = ("forward", "recomputed", "activation_gradients", "weight_gradients")


@dataclass(frozen=True)
class Flops:
    """Floating point operations; they add up, and ``flops * 100`` is a hundred steps.

    Attributes:
        forward: Of the forward pass.
        activation_gradients: Of the gradients that the backward pass hands down.
        weight_gradients: Of the gradients of what is trained.
        recomputed: Of the forward pass once more, under gradient checkpointing.
        by_part: All of them by part: ``body`` (products with weights), ``attention`` (of activations among
            themselves), ``head`` (with a table of tokens) and ``positions`` (of what no token enters).
    """

    forward: int = 0
    activation_gradients: int = 0
    weight_gradients: int = 0
    recomputed: int = 0
    by_part: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All of them."""
        return self.forward + self.recomputed + self.activation_gradients + self.weight_gradients

    def __add__(self, other: Flops) -> Flops:
        """Return the sum."""
        parts = {part: self.by_part.get(part, 0) + other.by_part.get(part, 0) for part in PARTS}
        return Flops(**{kind: getattr(self, kind) + getattr(other, kind) for kind in _KINDS}, by_part=parts)

    def __mul__(self, times: int) -> Flops:
        """Return those of so many steps."""
        parts = {part: value * times for part, value in self.by_part.items()}
        return Flops(**{kind: getattr(self, kind) * times for kind in _KINDS}, by_part=parts)

    __rmul__ = __mul__

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, the total included."""
        return {**{kind: getattr(self, kind) for kind in _KINDS}, "total": self.total, "by_part": dict(self.by_part)}


@dataclass(frozen=True)
class FlopProfile:
    """How the FLOPs of a step grow with batch size, length and number of labels.

    Attributes:
        terms: Part and kind to its factors, in the order of the powers.
    """

    terms: Mapping[tuple[str, str], tuple[Fraction, ...]]

    def at(self, batch_size: int, length: int, labelled: int) -> Flops:
        """Return the FLOPs of one step.

        Args:
            batch_size: Number of sequences.
            length: Tokens of each, padding included.
            labelled: Positions with a label in all of them; only a head that skips the others takes note.
        """
        return self.of_batches({(batch_size, length): 1}, labelled)

    def of_batches(self, shapes: Mapping[tuple[int, int], int], labelled: int) -> Flops:
        """Return the FLOPs of many batches, one step or one part of a step each.

        Args:
            shapes: Batch size and length to how many batches there are of this shape.
            labelled: Positions with a label in all of them.
        """
        values = [0] * len(_POWERS)
        for (batch_size, length), count in shapes.items():
            powers = _powers(batch_size, length, 0)
            values = [value + count * power for value, power in zip(values, powers, strict=True)]
        values[-1] = labelled
        kinds, parts = dict.fromkeys(_KINDS, 0), dict.fromkeys(PARTS, 0)
        for (part, kind), factors in self.terms.items():
            flops = int(sum(factor * value for factor, value in zip(factors, values, strict=True)))
            kinds[kind] += flops
            parts[part] += flops
        return Flops(**kinds, by_part=parts)


def training_flops(model: Any, *, length: int, batch_size: int = 1, labelled_share: float = 1.0) -> Flops:
    """Return the FLOPs of one forward and backward pass of a model as it is: what is frozen and what is trained.

    The structure is measured: the model reads a few tokens, and one sequence of ``length``. Attention, gradient
    checkpointing, ``masked_positions_only``, adapters and two heads count as the model uses them.

    Args:
        model: A transformers model, also one of peft; its ``requires_grad`` say what is trained.
        length: Tokens of a sequence.
        batch_size: Number of sequences.
        labelled_share: Share of positions with a label. It matters where logits are computed at labels only
            (``masked_positions_only``, ModernBERT's ``sparse_prediction``); elsewhere the head runs everywhere.

    Raises:
        InvalidOptionError: If a number is not positive, or the share outside of 0 to 1.
        UnsupportedModelError: If the model computes something that is not counted: convolutions and recurrences
            (Mamba), quantised weights, an encoder with a decoder, weights spread over processes.

    Example:
        >>> training_flops(model, length=512, batch_size=32, labelled_share=0.15).total
    """
    _check_sizes(length, batch_size)
    if not 0 <= labelled_share <= 1:
        raise InvalidOptionError(f"labelled_share is {labelled_share}. Give a share from 0 to 1.")
    labelled = round(labelled_share * batch_size * length)
    return flop_profile(model, length=length).at(batch_size, length, labelled)


def inference_flops(model: Any, *, length: int, batch_size: int = 1) -> Flops:
    """Return the FLOPs of one forward pass in evaluation mode, without labels: logits at every position.

    Args:
        model: A transformers model.
        length: Tokens of a sequence.
        batch_size: Number of sequences.

    Raises:
        InvalidOptionError: If a number is not positive.
        UnsupportedModelError: If the model computes something that is not counted.
    """
    _check_sizes(length, batch_size)
    return flop_profile(model, length=length, training=False).at(batch_size, length, 0)


def flop_profile(model: Any, *, length: int, training: bool = True) -> FlopProfile:
    """Return how the FLOPs of a step of a model grow; see :func:`training_flops`.

    Args:
        model: A transformers model.
        length: The length at which it is checked that they grow so.
        training: Whether of a training step, or of a forward pass in evaluation mode.

    Raises:
        UnsupportedModelError: If the model computes something that is not counted, or in jumps.
    """
    check_countable(model)
    tables = table_names(model)
    sums = [_sums(seen_products(model, tables, *point, training=training)) for point in _POINTS]
    inverse = _inverse([_powers(*point) for point in _POINTS])
    terms: dict[tuple[str, str], tuple[Fraction, ...]] = {}
    for key in sorted({key for found in sums for key in found}):
        values = [found.get(key, 0) for found in sums]
        terms[key] = tuple(sum((a * b for a, b in zip(row, values, strict=True)), Fraction()) for row in inverse)
    profile = FlopProfile(terms)
    _check(model, profile, tables, length, training)
    return profile


def _check_sizes(length: int, batch_size: int) -> None:
    """Raise unless there is something to count.

    Raises:
        InvalidOptionError: It says what is wrong.
    """
    if length < 1 or batch_size < 1:
        raise InvalidOptionError(f"length is {length} and batch_size is {batch_size}. Give numbers from 1 on.")


def _check(model: Any, profile: FlopProfile, tables: frozenset[str], length: int, training: bool) -> None:
    """Raise unless a sequence of the length costs what the profile says.

    Raises:
        UnsupportedModelError: With both numbers, or if there is no attention in what was seen.
    """
    name = type(model).__name__
    if not any(part == "attention" and any(factors) for (part, _), factors in profile.terms.items()):
        raise UnsupportedModelError(
            f"{name} computes no product of activations, so what relates its tokens is not seen (a recurrence in a "
            "kernel of its own, such as Mamba or RWKV). FLOPs are counted for transformers with attention."
        )
    labelled = min(length, 3)
    products = seen_products(model, tables, 1, length, labelled, training=training, trace=False)
    found, expected = sum(product.flops for product in products), profile.at(1, length, labelled).forward
    if found != expected:
        raise UnsupportedModelError(
            f"A sequence of {length} tokens costs {name} {found} FLOPs forward, and {expected} are expected from how "
            "short ones grow: it computes attention in blocks, or drops tokens. Such models are not counted."
        )


def _powers(batch_size: int, length: int, labelled: int) -> list[int]:
    """Return the powers of three numbers, in order."""
    return [batch_size**first * length**second * labelled**third for first, second, third in _POWERS]


def _sums(products: list[Product]) -> dict[tuple[str, str], int]:
    """Return FLOPs by part and kind."""
    found: dict[tuple[str, str], int] = {}
    for item in products:
        values = (item.flops, item.flops * item.recomputed, item.activation, item.weight)
        for kind, value in zip(_KINDS, values, strict=True):
            found[item.part, kind] = found.get((item.part, kind), 0) + value
    return found


def _inverse(rows: list[list[int]]) -> list[list[Fraction]]:
    """Return the inverse of a regular matrix, exact: counts have more digits than a float."""
    size = len(rows)
    work = [[Fraction(value) for value in row] + [Fraction(i == j) for j in range(size)] for i, row in enumerate(rows)]
    for column in range(size):
        pivot = next(row for row in range(column, size) if work[row][column])
        work[column], work[pivot] = work[pivot], work[column]
        work[column] = [value / work[column][column] for value in work[column]]
        for row in range(size):
            if row != column:
                factor = work[row][column]
                work[row] = [a - factor * b for a, b in zip(work[row], work[column], strict=True)]
    return [row[size:] for row in work]


__all__ = ["FlopProfile", "Flops", "flop_profile", "inference_flops", "training_flops"]
