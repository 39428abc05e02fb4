"""What an extended model learns from a pair of sentences, and how that is judged on held-out pairs.

An encoder learns to give a sentence the vector of its translation. A causal model learns to predict the sentence,
half of the time behind its translation: what is said is then known, and how it is said in new tokens is left to learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from ...evaluation.vectors import padded
from .compact_rows import CompactRows
from .guard import translation_scores
from .sentence_vectors import Ids, embed_all, vectors_of
from .translation_loss import translation_loss

BATCH = 32


@dataclass(frozen=True)
class Pair:
    """One pair as ids.

    Attributes:
        corpus: Name of its corpus.
        teacher: The source side, as the teacher reads it.
        student: The target side, as the extended model reads it.
        both: The source side, a line break and the target side, as the extended model reads it.
        start: First place of the target side in that.
        size: UTF-8 bytes of the target side, as far as ``student`` goes.
    """

    corpus: str
    teacher: Ids
    student: Ids
    both: Ids
    start: int
    size: int


class Lesson(Protocol):
    """Gradients for a step, and scores for the guard.

    Attributes:
        metric: What the scores are, higher is better.
    """

    metric: str

    def backward(self, step: int) -> float:
        """Compute the gradients of a step, counted from 0; returns its loss."""

    def score(self) -> dict[str, float]:
        """Return the score of the present rows on the held-out pairs of each corpus."""


class VectorLesson:
    """A sentence is to have the vector that the teacher gives its translation."""

    metric = "mean reciprocal rank, both directions"

    def __init__(
        self,
        rows: CompactRows,
        teacher: PreTrainedModel,
        pairs: tuple[list[Pair], list[Pair]],
        batches: list[list[int]],
        *,
        pads: tuple[int, int],
        layer: int,
        temperature: float,
        contrast: float,
    ) -> None:
        """Compute the teacher's vectors of the pairs that will be used, once.

        Args:
            rows: Rows of the student.
            teacher: The teacher.
            pairs: For training, and held out.
            batches: Indices of the training pairs of each step.
            pads: Ids to pad with: the student's, the teacher's.
            layer: Layer whose states are averaged.
            temperature: Of the contrast.
            contrast: Its weight.
        """
        train, self.held_out = pairs
        self.rows, self.pad_id, self.layer, self.batches = rows, pads[0], layer, batches
        self.temperature, self.contrast = temperature, contrast
        used = sorted({index for batch in batches for index in batch})
        self.place = {index: row for row, index in enumerate(used)}
        self.train = {index: train[index].student for index in used}
        sources = [train[index].teacher for index in used]
        self.bank = embed_all(teacher, sources, pads[1], layer, desc="Embedding sources").to(rows.model.device)
        held_out = [pair.teacher for pair in self.held_out]
        self.wanted = embed_all(teacher, held_out, pads[1], layer, desc="Embedding held-out sources")
        self.wanted = self.wanted.to(rows.model.device)

    def backward(self, step: int) -> float:
        """See :class:`Lesson`."""
        chosen = self.batches[step]
        found = vectors_of(self.rows.model, [self.train[index] for index in chosen], self.pad_id, self.layer)
        partners = torch.tensor([self.place[index] for index in chosen], device=self.bank.device)
        loss = translation_loss(found, self.bank, partners, temperature=self.temperature, contrast=self.contrast)
        loss.backward()
        return float(loss.detach())

    def score(self) -> dict[str, float]:
        """See :class:`Lesson`."""
        texts = [pair.student for pair in self.held_out]
        found = embed_all(self.rows.model, texts, self.pad_id, self.layer, desc="Embedding held-out targets")
        return translation_scores(found, self.wanted, [pair.corpus for pair in self.held_out])


class TextLesson:
    """A sentence is to be predicted: in every other step by itself, in the others behind its translation."""

    metric = "minus bits per byte of the target side"

    def __init__(
        self, rows: CompactRows, pairs: tuple[list[Pair], list[Pair]], batches: list[list[int]], *, pad_id: int
    ) -> None:
        """Take the pairs; see :class:`VectorLesson`."""
        self.rows, self.pad_id, self.batches = rows, pad_id, batches
        self.train, self.held_out = pairs

    def backward(self, step: int) -> float:
        """See :class:`Lesson`."""
        pairs = [self.train[index] for index in self.batches[step]]
        behind = step % 2 == 1
        texts = [pair.both if behind else pair.student for pair in pairs]
        starts = [pair.start if behind else 1 for pair in pairs]
        order = sorted(range(len(pairs)), key=lambda index: len(texts[index]))
        total = sum(len(text) - max(1, start) for text, start in zip(texts, starts, strict=True))
        loss = 0.0
        for begin in range(0, len(order), BATCH):  # of like length, and so few logits at once
            chosen = order[begin : begin + BATCH]
            logits, labels = self._predict([texts[i] for i in chosen], [starts[i] for i in chosen])
            part = functional.cross_entropy(logits, labels, reduction="sum") / max(1, total)
            part.backward()
            loss += float(part.detach())
        return loss

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """See :class:`Lesson`."""
        totals: dict[str, list[float]] = {pair.corpus: [0.0, 0.0] for pair in self.held_out}
        order = sorted(self.held_out, key=lambda pair: len(pair.student))
        for begin in range(0, len(order), BATCH):
            pairs = order[begin : begin + BATCH]
            logits, labels = self._predict([pair.student for pair in pairs], [1] * len(pairs))
            nats = functional.cross_entropy(logits, labels, reduction="none")
            for pair, losses in zip(pairs, nats.split([len(pair.student) - 1 for pair in pairs]), strict=True):
                totals[pair.corpus][0] -= float(losses.sum()) / math.log(2)
                totals[pair.corpus][1] += pair.size
        return {name: bits / size for name, (bits, size) in totals.items()}

    def _predict(self, texts: Sequence[Ids], starts: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits `(n, V)` and labels `(n,)` of all ids from each start on, text by text."""
        batch = padded(texts, self.rows.model.device, self.pad_id)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        places = torch.arange(1, ids.shape[1], device=ids.device)
        first = torch.tensor(list(starts), device=ids.device).clamp(min=1)[:, None]
        wanted = (places >= first) & (mask[:, 1:] > 0)
        with self.rows.logits_at(functional.pad(wanted, (0, 1))):  # the place that predicts is one to the left
            logits: Any = self.rows.model(input_ids=ids, attention_mask=mask).logits
        return logits.float().flatten(0, -2), ids[:, 1:][wanted]


__all__ = ["Lesson", "Pair", "TextLesson", "VectorLesson"]
