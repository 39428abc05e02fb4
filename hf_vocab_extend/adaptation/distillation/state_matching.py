"""The losses of token distillation: states at aligned places, and the text itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from .compact_rows import CompactRows
from .sentence_vectors import hidden_states, padded
from .snippets import Snippet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASKED = 0.15
"""Share of the tokens that are masked for the loss on the text of a masked model."""
IGNORED = -100


@dataclass
class Matching:
    """The losses of token distillation.

    Attributes:
        rows: Rows of the student, in their places.
        teacher: Reads the source segmentation.
        pads: Ids to pad with: the student's, the teacher's.
        layer: Layer whose states are matched.
        causal: Whether the model is causal.
        text: Whether the loss on the text itself takes part.
        mask_id: Id of the mask, of a masked model.
        special: Ids that are never masked.
    """

    rows: CompactRows
    teacher: PreTrainedModel
    pads: tuple[int, int]
    layer: int
    causal: bool
    text: bool
    mask_id: int | None
    special: frozenset[int] = field(default_factory=frozenset)

    def backward(self, snippets: list[Snippet], generator: torch.Generator) -> float:
        """Compute gradients for one batch; return the loss of the states."""
        student = padded([item.student for item in snippets], self.pads[0], self.rows.model.device)
        distance, _ = self._distance(snippets, student)
        own_head = self.rows.head is not None
        if not self._reads_text() or not (self.text or own_head):
            distance.backward()
            return float(distance.detach())
        text = self._text_loss(student, generator)
        total = distance
        if self.text:
            total = distance + text * (distance.detach() / text.detach().clamp(min=1e-9))
        total.backward(inputs=[self.rows.input], retain_graph=own_head)
        if self.rows.head is not None:  # its own loss, at its own weight
            text.backward(inputs=[self.rows.head])
        return float(distance.detach())

    @torch.no_grad()
    def scores(self, snippets: list[Snippet], batch_size: int) -> dict[str, float]:
        """Return minus the losses on held-out snippets, higher is better; masks are the same at every call."""
        generator = torch.Generator().manual_seed(0)
        totals, count = {"states": 0.0, "text": 0.0}, 0
        for start in range(0, len(snippets), batch_size):
            chosen = snippets[start : start + batch_size]
            student = padded([item.student for item in chosen], self.pads[0], self.rows.model.device)
            distance, square = self._distance(chosen, student)
            totals["states"] -= float(distance / square) * len(chosen)
            if self._reads_text():
                totals["text"] -= float(self._text_loss(student, generator)) * len(chosen)
            count += len(chosen)
        if not self._reads_text():
            del totals["text"]
        return {name: value / count for name, value in totals.items()}

    def _reads_text(self) -> bool:
        """Whether the model can be asked for the text itself."""
        return self.rows.has_head and (self.causal or self.mask_id is not None)

    def _distance(
        self, snippets: list[Snippet], student: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean squared distance of states at aligned positions, and the mean square of the teacher's."""
        device = self.rows.model.device
        with torch.no_grad(), self.rows.out_of_place():
            teacher = padded([item.teacher for item in snippets], self.pads[1], self.teacher.device)
            wanted = hidden_states(self.teacher, teacher, self.layer).to(device)
        found = hidden_states(self.rows.model, student, self.layer)
        places = [(row, *pair) for row, item in enumerate(snippets) for pair in item.pairs]
        row, ours, theirs = torch.tensor(places, device=device).T
        target = wanted[row, theirs]
        return functional.mse_loss(found[row, ours], target), target.square().mean()

    def _text_loss(self, student: dict[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """Return the cross-entropy of the next token, or of masked tokens, in nats."""
        ids, mask = student["input_ids"], student["attention_mask"]
        labels = torch.full_like(ids, IGNORED)
        if self.causal:
            labels[:, :-1] = torch.where(mask[:, 1:] > 0, ids[:, 1:], IGNORED)
            inputs = ids
        else:
            special = torch.isin(ids, torch.tensor(sorted(self.special), device=ids.device))
            drawn = torch.rand(ids.shape, generator=generator).to(ids.device) < MASKED
            chosen = drawn & ~special & (mask > 0)
            if not chosen.any():
                chosen = ~special & (mask > 0)
            labels = torch.where(chosen, ids, labels)
            inputs = torch.where(chosen, self.mask_id or 0, ids)
        places = labels != IGNORED
        with self.rows.logits_at(places):
            logits: Any = self.rows.model(input_ids=inputs, attention_mask=mask).logits
        return functional.cross_entropy(logits.float().flatten(0, -2), labels[places])


__all__ = ["Matching"]
