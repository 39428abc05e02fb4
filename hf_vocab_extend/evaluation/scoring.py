"""Bits of chosen tokens under a language model, with memory that does not grow with the vocabulary."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UnsupportedModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOGIT_BUDGET = 2**26
"""Logits that stand in memory at once: 256 MiB in float32."""
LONGEST = 2048
"""Longest window by default, in tokens; models with more positions would need much more time for little."""


@dataclass(frozen=True)
class Row:
    """One input of a model, and what is asked of it.

    Attributes:
        ids: Token ids, shape `(length,)`.
        places: Positions whose logits count, shape `(n,)`.
        labels: The token that each of them should predict, shape `(n,)`.
    """

    ids: Sequence[int]
    places: Sequence[int]
    labels: Sequence[int]


def unwrap(model: Any) -> PreTrainedModel:
    """Return the model inside DistributedDataParallel, ``torch.compile`` and adapters of peft.

    Raises:
        UnsupportedModelError: If an adapter puts virtual tokens before the text.
    """
    while True:
        if isinstance(model, torch.nn.parallel.DistributedDataParallel | torch.nn.DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            if getattr(model.active_peft_config, "is_prompt_learning", False):
                raise UnsupportedModelError(
                    "The adapter puts virtual tokens before the text, and their share of the bits is not defined. "
                    "Give the model without it."
                )
            model = model.get_base_model()
        else:
            return model


@contextmanager
def modes_kept(model: torch.nn.Module) -> Iterator[None]:
    """Put every module of a model back in its own mode afterwards, of training or evaluation."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and every module back in its own mode afterwards; gradients flow as before."""
    with modes_kept(model):
        model.eval()
        yield


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode without gradients, and every module back in its own mode."""
    with evaluation_mode(model), torch.no_grad():  # not inference_mode: FSDP would keep what it gathers for training
        yield


@contextmanager
def own_type(model: torch.nn.Module) -> Iterator[None]:
    """Compute in the weights' type: a Trainer with bf16 or fp16 leaves its wrapper (accelerate's) on the forward."""
    wrapped = vars(model).get("forward")
    plain = vars(model).get("_original_forward")
    if wrapped is None or plain is None:
        yield
        return
    vars(model)["forward"] = plain
    try:
        yield
    finally:
        vars(model)["forward"] = wrapped


def longest_input(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the longest input of a model in tokens, special tokens included; None if nothing limits it."""
    config = model.config.get_text_config()
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len")]
    limits.append(tokenizer.model_max_length)
    for name, module in model.named_modules():
        if "position" in name and isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            limits.append(module.num_embeddings - module.padding_idx - 1)  # RoBERTa counts from its padding id
    known = [limit for limit in limits if isinstance(limit, int) and 1 < limit < 10**9]
    return min(known, default=None)


def check_causal(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Raise if what a model says of a token depends on that token or a later one.

    Args:
        model: A model in evaluation mode.
        ids: Some tokens, at least two that differ.

    Raises:
        UnsupportedModelError: If it reads ahead, as XLNet and a BERT without ``is_decoder`` do.
    """
    one = torch.tensor([list(ids)], device=model.device)
    other = one.clone()
    other[0, -1] = one[0, one[0] != one[0, -1]][0]
    first, second = (model(input_ids=each).logits[:, :-1].float() for each in (one, other))
    if (first - second).abs().max() > 1e-4 * first.abs().max():
        raise UnsupportedModelError(
            f"What {type(model).__name__} says of a token depends on the tokens after it, so it is no causal model. "
            "Set is_decoder=True in its config if it was trained so, or load it as the class that it was trained as."
        )


class Scorer:
    """Computes bits of tokens, batch by batch."""

    def __init__(self, model: PreTrainedModel, pad_id: int) -> None:
        """Prepare.

        Args:
            model: A model with logits over the vocabulary, in evaluation mode.
            pad_id: Id that fills short rows; it is masked out.
        """
        self.model = model
        self.pad_id = pad_id
        body = model.base_model
        self.body = body if body is not model and isinstance(body, torch.nn.Module) else None
        self.options = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
        self.checked = False

    def bits(self, rows: Iterable[Row], batch_size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield labels and their bits, -log2 p, both on the CPU, shape `(n,)`, float64, for each batch of rows."""
        rows = iter(rows)
        while batch := list(islice(rows, batch_size)):
            yield self._batch(batch)

    def _batch(self, rows: list[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute one batch."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), longest), self.pad_id)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row.ids)] = torch.tensor(row.ids)
            mask[index, : len(row.ids)] = 1
        counts = torch.tensor([len(row.places) for row in rows])
        where = torch.repeat_interleave(torch.arange(len(rows)), counts)
        places = torch.tensor([place for row in rows for place in row.places])
        labels = torch.tensor([label for row in rows for label in row.labels])
        device = self.model.device
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device), **self.options}
        nats = self._nats(inputs, where.to(device), places.to(device), labels.to(device))
        return labels, nats.double().cpu() / math.log(2)

    def _nats(
        self, inputs: dict[str, Any], where: torch.Tensor, places: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Return -ln p of the labels, float32, shape `(n,)`."""
        if self.body is not None and not self.checked:
            self._check(inputs, where, places, labels)
        if self.body is None:
            logits = self.model(**inputs).logits
            return torch.cat(
                [
                    _nats(logits[rows, columns], wanted)
                    for rows, columns, wanted in _chunks(logits.shape[-1], where, places, labels)
                ]
            )
        return self._nats_by_chunks(inputs, where, places, labels)

    def _nats_by_chunks(
        self, inputs: dict[str, Any], where: torch.Tensor, places: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Run the body once, then what follows it on the wanted positions only, a chunk at a time.

        The model's own ``forward`` does what follows, so that scaling, soft caps and biases are those of the model.
        """
        body: Any = self.body
        forward, own = body.forward, "forward" in vars(body)  # accelerate's hooks put a forward of their own there
        outputs: list[Any] = []

        def first(*args: Any, **kwargs: Any) -> Any:
            outputs.append(forward(*args, **kwargs))
            return _with_states(outputs[0], outputs[0][0][:1, :1])

        try:
            body.forward = first
            size = self.model(**inputs).logits.shape[-1]
            nats = []
            for rows, columns, wanted in _chunks(size, where, places, labels):
                part = outputs[0][0][rows, columns].unsqueeze(0)  # (1, n, d)
                body.forward = partial(_again, outputs[0], part)
                nats.append(_nats(self.model(**inputs).logits[0], wanted))
            return torch.cat(nats)
        finally:
            if own:
                body.forward = forward
            else:
                del body.forward

    def _check(self, inputs: dict[str, Any], where: torch.Tensor, places: torch.Tensor, labels: torch.Tensor) -> None:
        """Compare the short way with the model's own on one row; go the model's own way from now on if they differ."""
        self.checked = True
        one = where == 0
        row = {name: value[:1] if torch.is_tensor(value) else value for name, value in inputs.items()}
        expected = self.model(**row).logits[0, places[one]]
        try:
            nats = self._nats_by_chunks(row, where[one], places[one], labels[one])
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
            self.body = None
            return
        if not torch.allclose(nats, _nats(expected, labels[one]), rtol=1e-2, atol=1e-2):
            self.body = None


def _with_states(output: Any, states: torch.Tensor) -> Any:
    """Return a copy of a body's output with other last hidden states."""
    if isinstance(output, tuple):
        return (states, *output[1:])
    return dataclasses.replace(output, last_hidden_state=states)


def _again(output: Any, states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Stand for a body that has run already."""
    return _with_states(output, states)


def _chunks(
    size: int, where: torch.Tensor, places: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Cut positions so that their logits keep to the budget."""
    length = max(1, LOGIT_BUDGET // size)
    return zip(where.split(length), places.split(length), labels.split(length), strict=True)


def _nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return -ln p of labels from logits `(n, V)`, in float32 whatever the model's precision, shape `(n,)`."""
    return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")
