"""Measure which tensors depend on the vocabulary size: build the model twice without memory and compare shapes.

A tensor as long as the vocabulary may be so by coincidence (a hidden size, a number of positions), and a vocabulary
tensor may be longer than the vocabulary. Names and lengths cannot tell; the class itself can.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig, PreTrainedModel

from .._logging import get_logger
from .config_tree import fields_of, main_config, text_configs, walk
from .registry import VOCABULARY_FIELDS

logger = get_logger(__name__)
_STEPS = {name: 1024 << index for index, name in enumerate(VOCABULARY_FIELDS)}
_FIELD_OF_STEP = {step: name for name, step in _STEPS.items()}


@dataclass(frozen=True)
class Dependence:
    """How one axis of one tensor follows the config."""

    axis: int
    field: str | None
    """The config field that the length follows, None if it follows one in another way than plus a constant."""
    extra: int
    """Length of the axis minus the value of the field."""


Shapes = dict[str, tuple[int, ...]]


def named_tensors(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """All parameters and buffers, every alias of a shared one included."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def build_shapes(model: PreTrainedModel, config: PretrainedConfig) -> Shapes | None:
    """Shapes of all tensors of a model of this class with another config, without allocating them.

    Returns:
        Shape by dotted name, or None if the class cannot be built this way (custom code, values needed in
        ``__init__``); callers then judge by name.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            twin = type(model)(config)
    except Exception as error:  # any class of any author is built here; names are the fallback
        logger.info("%s cannot be built without memory (%s); judging its tensors by name", type(model).__name__, error)
        return None
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(twin)}


def probe(model: PreTrainedModel) -> dict[str, tuple[Dependence, ...]] | None:
    """Find the axes of every tensor that follow a vocabulary field.

    Returns:
        Dependences by dotted name, empty for tensors that do not depend; None if the model cannot be probed.
    """
    config = copy.deepcopy(model.config)
    plain = build_shapes(model, copy.deepcopy(config))
    if plain is None:
        return None
    counts = fields_of(main_config(config))
    for item in text_configs(list(walk(config)), counts["vocab_size"]):
        for name, value in fields_of(item).items():
            setattr(item, name, value + _STEPS[name])
    grown = build_shapes(model, config)
    if grown is None:
        return None
    return {
        name: _compare(shape, grown[name], counts)
        for name, shape in plain.items()
        if name in grown and len(shape) == len(grown[name])
    }


def _compare(plain: tuple[int, ...], grown: tuple[int, ...], counts: dict[str, int]) -> tuple[Dependence, ...]:
    """Read off which axes grew, and by the step of which field."""
    found = []
    for axis, (before, after) in enumerate(zip(plain, grown, strict=True)):
        if before != after:
            field = _FIELD_OF_STEP.get(after - before)
            found.append(Dependence(axis, field, before - counts.get(field or "", 0)))
    return tuple(found)
