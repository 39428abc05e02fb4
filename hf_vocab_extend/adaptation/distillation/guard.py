"""Held-out pairs decide: which rows are kept, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ...evaluation.retrieval import retrieval_scores


@dataclass
class Guard:
    """Keeps the best rows seen, the start included.

    A state is allowed if no corpus falls by more than ``tolerance`` below its start; of the allowed ones the highest
    mean over corpora is the best.

    Attributes:
        score: Scores the present rows: one number per corpus, higher is better.
        tolerance: How far a corpus may fall below its start.
        patience: Evaluations in a row without a new best one, after which :meth:`look` says to stop; None for never.
        history: Step and scores of each look.
        best_step: Step of the best rows.
    """

    score: Callable[[], Mapping[str, float]]
    tolerance: float
    patience: int | None = None
    history: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    best_step: int = 0
    _best: list[torch.Tensor] = field(default_factory=list)
    _since: int = 0

    def look(self, step: int, rows: Sequence[torch.Tensor]) -> bool:
        """Score the present rows and keep a copy if they are the best so far.

        Args:
            step: Steps done; the first look must be the start.
            rows: The present rows.

        Returns:
            Whether to go on.
        """
        scores = dict(self.score())
        self.history.append((step, scores))
        if len(self.history) == 1 or (self._allowed(scores) and _mean(scores) > _mean(self.best)):
            self.best_step, self._since = step, 0
            self._best = [item.detach().clone() for item in rows]
        else:
            self._since += 1
        return self.patience is None or self._since < self.patience

    @property
    def start(self) -> dict[str, float]:
        """Scores before the first step."""
        return self.history[0][1]

    @property
    def best(self) -> dict[str, float]:
        """Scores of the best rows."""
        return next(scores for step, scores in self.history if step == self.best_step)

    @torch.no_grad()
    def restore(self, rows: Sequence[torch.Tensor]) -> None:
        """Put the best rows back."""
        for item, best in zip(rows, self._best, strict=True):
            item.copy_(best)

    def _allowed(self, scores: Mapping[str, float]) -> bool:
        """Whether no corpus fell too far."""
        return all(scores[name] >= value - self.tolerance for name, value in self.start.items())


def _mean(scores: Mapping[str, float]) -> float:
    """Return the mean over corpora; NaN counts as the worst."""
    mean = sum(scores.values()) / len(scores)
    return mean if mean == mean else float("-inf")


def translation_scores(found: torch.Tensor, wanted: torch.Tensor, corpora: Sequence[str]) -> dict[str, float]:
    """Return the mean reciprocal rank of partners, both directions averaged, by corpus.

    Args:
        found: Vectors of the target side, shape `(n, width)`.
        wanted: Vectors of the source side, same shape.
        corpora: Corpus of each pair.
    """
    scores = {}
    for corpus in dict.fromkeys(corpora):
        chosen = torch.tensor([index for index, name in enumerate(corpora) if name == corpus], device=found.device)
        scores[corpus] = retrieval_scores(found[chosen], wanted[chosen])["mrr"]
    return scores


__all__ = ["Guard", "translation_scores"]
