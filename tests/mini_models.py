"""Tiny models of several layers, for tests that cut them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from transformers import PreTrainedModel

from .models import build

COUNTS = {"distilbert": "n_layers", "gpt2": "n_layer", "bloom": "n_layer", "xlnet": "n_layer", "xglm": "num_layers"}
"""Field that counts layers, where it has another name than ``num_hidden_layers``."""


def deep(
    name: str, n_layers: int = 4, *, tied: bool = True, vocab_size: int = 97, **options: object
) -> PreTrainedModel:
    """A model of the factories with several layers, whose norms and biases have values of their own."""
    model = build(name, vocab_size, tied, **{COUNTS.get(name, "num_hidden_layers"): n_layers, **options})
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


class Seen(NamedTuple):
    """What a pass through a model gave."""

    states: list[torch.Tensor]
    output: Any


def seen_states(model: PreTrainedModel, layers: torch.nn.ModuleList, ids: torch.Tensor) -> Seen:
    """The states after each layer, and the output."""
    states: list[torch.Tensor] = []

    def note(module: torch.nn.Module, args: object, output: object) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        output = model(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return Seen(states, output)


def computed_in_bfloat16(model: PreTrainedModel) -> PreTrainedModel:
    """The model, with what a Trainer with ``bf16`` leaves on its forward."""
    AcceleratorState._reset_state(reset_partial_state=True)  # one for a process, whatever ran in it before
    try:
        return Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
