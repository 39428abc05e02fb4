"""Train the new layers of a mini-model to give what the full model gives, rather than to predict text on their own.

A table that is learned on a mini-model is used by the full one: what matters is that both answer a table alike, not
how well the mini-model predicts. So the new layers learn the states that the full model hands to its output layer, at
every position, and its predictions at the labels, as in distillation (Hinton et al. 2015, arXiv 1503.02531; states as
in Jiao et al. 2020, arXiv 1909.10351). Marchisio et al. 2023 (arXiv 2212.10503) train them on text alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ...errors import UnsupportedModelError
from ...evaluation.scoring import evaluating
from ...modeling.reading import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Imitation:
    """Replaces the loss of a mini-model in training by its distance from the full model, until :meth:`remove`.

    The loss is the mean squared difference of the states that go into the output layer, over their variance in the
    full model, plus the Kullback-Leibler divergence of the predictions at labels from the full model's, in nats. In
    evaluation, and without labels, nothing changes. The full model computes without gradients and in evaluation mode.
    """

    def __init__(self, mini: PreTrainedModel, model: PreTrainedModel) -> None:
        """Set up the hooks.

        Args:
            mini: The mini-model.
            model: The full model, left as it is.

        Raises:
            UnsupportedModelError: If one of them has no output layer.
        """
        self._model, self._places = model, torch.zeros(0, dtype=torch.bool)
        self._inputs: dict[str, Any] | None = None
        self._states = self._wanted = self._predicted = torch.zeros(0)
        heads: list[Any] = [mini.get_output_embeddings(), model.get_output_embeddings()]
        if None in heads:
            raise UnsupportedModelError(
                "Imitation compares what goes into the output layers, and one of these models has none. Load it with "
                "AutoModelForCausalLM or AutoModelForMaskedLM."
            )
        self._hooks = [
            # before a hook that leaves labelled positions only, so that all positions are seen
            heads[0].register_forward_pre_hook(self._at_mini_head, prepend=True),
            heads[1].register_forward_pre_hook(self._at_full_head),
            mini.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            mini.register_forward_hook(self._after, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._forget()

    def _forget(self) -> None:
        """Let go of tensors."""
        self._inputs = None
        self._states = self._wanted = self._predicted = torch.zeros(0)

    def _before(self, mini: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the inputs of a training step; masked models lose those labels that are no labels after this."""
        labels = kwargs.get("labels")
        self._forget()
        if labels is None or args or not mini.training:
            return
        self._places = labels != IGNORED
        self._inputs = {name: value for name, value in kwargs.items() if name not in ("labels", "num_items_in_batch")}

    def _at_mini_head(self, head: Any, args: tuple[Any, ...]) -> None:
        """Run the full model on the same inputs; here, as here the precision is that of the mini-model's forward."""
        if self._inputs is None:
            return
        self._states = args[0]
        with evaluating(self._model):
            self._predicted = self._model(**self._inputs).logits

    def _at_full_head(self, head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Keep the states of the full model, and compute its predictions at labels only."""
        if self._inputs is None:
            return args
        self._wanted = args[0]
        return (args[0][self._places], *args[1:])

    def _after(self, mini: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Put the distance in the place of the loss.

        Raises:
            UnsupportedModelError: If the model has not used its output layer.
        """
        if self._inputs is None:
            return output
        if self._wanted.shape != self._states.shape or not self._states.numel():
            raise UnsupportedModelError(
                f"{type(mini).__name__} has handed states {tuple(self._states.shape)} to its output layer and the "
                f"full model {tuple(self._wanted.shape)}: they cannot be compared. Train with imitate=False."
            )
        wanted, states = self._wanted.float(), self._states.float()
        distance = (states - wanted).square().mean() / wanted.var().clamp_min(torch.finfo(torch.float32).tiny)
        own = output.logits if output.logits.ndim == self._predicted.ndim else output.logits[self._places]
        divergence = torch.nn.functional.kl_div(
            own.float().log_softmax(-1),
            self._predicted.float().log_softmax(-1),
            log_target=True,
            reduction="batchmean",
        )
        loss = distance + divergence
        count = kwargs.get("num_items_in_batch")
        if count is not None:  # the Trainer adds the losses of small batches up, each with its share
            loss = loss * self._places.sum() / count
        output.loss = loss
        self._forget()
        return output


__all__ = ["Imitation"]
