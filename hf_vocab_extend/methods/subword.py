"""Each new row is a mean of the rows of the pieces that the source tokenizer cuts the token into.

Known as fast vocabulary transfer (Gee et al. 2022, arXiv 2402.09977), there with equal weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .base import FitContext, InitMethod, MethodConfig, check_option
from .mixture import Mixture
from .segmentation import segment


@dataclass(frozen=True)
class SubwordConfig(MethodConfig):
    """Options of :class:`Subword`.

    Attributes:
        weights: ``mean``: equal; ``length``: by the bytes that a piece covers; ``first`` and ``last``: that piece
            alone; ``position``: falling by the factor ``decay`` from each piece to the next.
        decay: Above 0; below 1 the first piece weighs most, above 1 the last.
    """

    weights: str = "mean"
    decay: float = 0.5

    def __post_init__(self) -> None:
        """Check the options."""
        check_option(
            self.weights in WEIGHTS, f"weights is {self.weights!r}. Choose one of: {', '.join(sorted(WEIGHTS))}."
        )
        check_option(0 < self.decay < 1e3, f"decay is {self.decay}. It must lie above 0 and below 1000.")


@dataclass(frozen=True)
class _Layout:
    """Where each piece stands, all of shape `(n_pieces,)`."""

    position: np.ndarray
    """Place in its token, from 0."""
    size: np.ndarray
    """Number of pieces of its token."""
    length: np.ndarray
    """Bytes that it covers, at least 1."""


WEIGHTS: dict[str, Callable[[_Layout, float], np.ndarray]] = {
    "mean": lambda layout, decay: np.ones(len(layout.size)),
    "length": lambda layout, decay: layout.length.astype(np.float64),
    "first": lambda layout, decay: (layout.position == 0).astype(np.float64),
    "last": lambda layout, decay: (layout.position == layout.size - 1).astype(np.float64),
    "position": lambda layout, decay: _powers(layout, decay),
}
"""Weight of each piece before the weights of a token are scaled to sum 1, by the name of the option."""


class Subword(InitMethod):
    """Mean of a token's source pieces."""

    name = "subword"
    pretty_name = "Subword"
    summary = "Each new row is the mean of the rows of its pieces in the source tokenizer."
    paper_url = "https://arxiv.org/abs/2402.09977"
    citation = (
        "@inproceedings{gee-etal-2022-fast, title={Fast Vocabulary Transfer for Language Model Compression}, "
        "author={Gee, Leonidas and Zugarini, Andrea and Rigutini, Leonardo and Torroni, Paolo}, "
        "booktitle={Proceedings of EMNLP 2022: Industry Track}, year={2022}}"
    )
    config_class = SubwordConfig
    config: SubwordConfig

    def fit(self, context: FitContext) -> Mixture:
        """Cover every new token whose text, or whose bytes, the source vocabulary can spell.

        Pieces that were never trained get no weight; a token that has no other is not covered.
        """
        plan = context.plan
        pieces = segment(context.source_tokenizer, plan.source, plan.target, plan.new_ids)
        pieces = pieces.keep(context.trained[pieces.ids])
        lengths = np.fromiter((len(raw) for raw in plan.source.raw), np.int64, len(plan.source))
        size = np.diff(pieces.offsets)
        layout = _Layout(
            position=np.arange(len(pieces.ids)) - np.repeat(pieces.offsets[:-1], size),
            size=np.repeat(size, size),
            length=np.maximum(lengths[pieces.ids], 1),
        )
        weights = WEIGHTS[self.config.weights](layout, self.config.decay)
        rows = np.repeat(np.arange(len(size)), size)
        weights /= np.bincount(rows, weights=weights, minlength=len(size))[rows]
        return Mixture.from_entries(rows, pieces.ids, weights, n_rows=len(size), n_source=context.n_source)


def _powers(layout: _Layout, decay: float) -> np.ndarray:
    """Return powers of the decay, scaled so that the largest of a token is 1: long tokens do not underflow."""
    steps = layout.position if decay <= 1 else layout.size - 1 - layout.position
    return np.power(min(decay, 1 / decay), steps)


__all__ = ["WEIGHTS", "Subword", "SubwordConfig"]
