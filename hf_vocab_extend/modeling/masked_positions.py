"""Train a masked language model with logits where there is a label only, as OFA's code does (arXiv 2311.08849).

Of 512 positions some 77 have a label, and with a large vocabulary the output layer is most of a step. Works for dense
and factorised models of any class that transformers trains as a masked language model.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ..errors import UnsupportedModelError
from .reading import IGNORED


def masked_positions_only(model: PreTrainedModel, wanted: bool = True) -> PreTrainedModel:
    """Compute logits at labels only while the model trains; off again with ``wanted=False``.

    Loss and gradients are the same; ``logits`` are `(n_labels, V)` instead of `(batch, length, V)`. Evaluation, and
    calls without ``labels=``, are as ever. Nothing of this is saved.

    Args:
        model: A masked language model.
        wanted: Whether to.

    Returns:
        The model itself.

    Raises:
        UnsupportedModelError: If the model needs logits at every position.
    """
    for hook in vars(model).pop("_masked_position_hooks", ()):
        hook.remove()
    if not wanted:
        return model
    head: Any = model.get_output_embeddings()
    is_masked = type(model).__name__ in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()
    if not is_masked or head is None or getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"A {type(model).__name__} is no masked language model: it needs logits at every position. Leave "
            "masked_positions_only out."
        )
    first = model.register_forward_pre_hook(_drop_unlabelled, with_kwargs=True)
    vars(model)["_masked_position_hooks"] = (first, head.register_forward_pre_hook(_select_labelled))
    return model


def _drop_unlabelled(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
    """Tell the head where labels are, and leave only those."""
    labels: Any = kwargs.get("labels")
    places = labels != IGNORED if labels is not None and model.training else None
    vars(model.get_output_embeddings())["_labelled"] = places
    return args, kwargs if places is None else {**kwargs, "labels": labels[places]}


def _select_labelled(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Leave the states that have a label."""
    places = vars(head).pop("_labelled", None)
    return args if places is None else (args[0][places.to(args[0].device)], *args[1:])


__all__ = ["masked_positions_only"]
