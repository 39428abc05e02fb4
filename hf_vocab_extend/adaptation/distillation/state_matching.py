"""The losses of token distillation: states at aligned places, and the text itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from ...evaluation.vectors import padded
from .compact_rows import CompactRows
from .sentence_vectors import hidden_states
from .snippets import Snippet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASKED = 0.15
"""Share of the tokens that are masked for the loss on the text of a masked model."""


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
        own_head = self.rows.head is not None
        found, text = self._read(snippets, generator)
        distance, _ = self._distance(snippets, found)
        total = distance
        if text is not None and self.text:
            total = distance + text * (distance.detach() / text.detach().clamp(min=1e-9))
        total.backward(inputs=[self.rows.input], retain_graph=own_head)
        if text is not None and self.rows.head is not None:  # its own loss, at its own weight
            text.backward(inputs=[self.rows.head])
        return float(distance.detach())

    @torch.no_grad()
    def scores(self, snippets: list[Snippet], batch_size: int) -> dict[str, float]:
        """Return minus the losses on held-out snippets, higher is better; masks are the same at every call."""
        generator = torch.Generator().manual_seed(0)
        totals: dict[str, float] = {}
        for start in range(0, len(snippets), batch_size):
            chosen = snippets[start : start + batch_size]
            found, text = self._read(chosen, generator)
            distance, square = self._distance(chosen, found)
            losses = {"states": distance / square} | ({} if text is None else {"text": text})
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0.0) - float(loss) * len(chosen)
        return {name: value / len(snippets) for name, value in totals.items()}

    def _read(self, snippets: list[Snippet], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the student's states `(n, length, width)`, and its loss on the text in nats per token.

        A causal model gives both in one pass. A masked one reads the text as it is for its states, and masked for the
        other loss. The loss on the text is None for a model that has none, and where it is not wanted.
        """
        batch = padded([item.student for item in snippets], self.rows.model.device, self.pads[0])
        ids, mask = batch["input_ids"], batch["attention_mask"]
        wanted = self.text or self.rows.head is not None
        if not wanted or not self.rows.has_head or not (self.causal or self.mask_id is not None):
            return hidden_states(self.rows.model, batch, self.layer), None
        if self.causal:
            places = torch.zeros_like(mask, dtype=torch.bool)
            places[:, :-1] = mask[:, 1:] > 0
            output = self._run(ids, mask, places)
            text = functional.cross_entropy(output.logits.float().flatten(0, -2), ids.roll(-1, 1)[places])
            return output.hidden_states[self.layer].float(), text
        special = torch.isin(ids, torch.tensor(sorted(self.special), device=ids.device))
        candidates = ~special & (mask > 0)
        places = candidates & (torch.rand(ids.shape, generator=generator).to(ids.device) < MASKED)
        places = places if places.any() else candidates
        output = self._run(torch.where(places, self.mask_id or 0, ids), mask, places)
        text = functional.cross_entropy(output.logits.float().flatten(0, -2), ids[places])
        return hidden_states(self.rows.model, batch, self.layer), text

    def _run(self, ids: torch.Tensor, mask: torch.Tensor, places: torch.Tensor) -> Any:
        """Run the student with its head at some places."""
        with self.rows.logits_at(places):
            return self.rows.model(input_ids=ids, attention_mask=mask, output_hidden_states=self.causal)

    def _distance(self, snippets: list[Snippet], found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean squared distance of states at aligned positions, and the mean square of the teacher's."""
        with torch.no_grad(), self.rows.out_of_place():
            batch = padded([item.teacher for item in snippets], self.teacher.device, self.pads[1])
            wanted = hidden_states(self.teacher, batch, self.layer).to(found.device)
        places = [(row, *pair) for row, item in enumerate(snippets) for pair in item.pairs]
        row, ours, theirs = torch.tensor(places, device=found.device).T
        target = wanted[row, theirs]
        return functional.mse_loss(found[row, ours], target), target.square().mean()


__all__ = ["Matching"]
