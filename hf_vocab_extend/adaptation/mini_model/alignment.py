"""Whether a mini-model still speaks the language of the full model's embeddings: how well both predict source text.

A mini-model is trained until it predicts source-language text nearly as well as the full model, through the same
embeddings. What is left between them is measured in bits per byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...errors import BaseModelMismatchError, UnsupportedModelError
from ...evaluation.bits_per_byte import BitsPerByte, bits_per_byte
from ..tables import vocabulary_tables
from .record import read_record, table_hashes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Alignment:
    """How well a mini-model and the full model predict the same text.

    Attributes:
        mini: Of the mini-model.
        full: Of the full model.
    """

    mini: BitsPerByte
    full: BitsPerByte

    @property
    def gap(self) -> float:
        """Bits per byte that the mini-model needs beyond the full model."""
        return self.mini.bits_per_byte - self.full.bits_per_byte

    @property
    def ratio(self) -> float | None:
        """Bits of the mini-model over those of the full one; None if the full model needs none."""
        return self.mini.bits_per_byte / self.full.bits_per_byte if self.full.bits_per_byte else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data, without the text."""
        return {"mini": asdict(self.mini), "full": asdict(self.full), "gap": self.gap, "ratio": self.ratio}


def check_alignment(
    mini: PreTrainedModel,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    masking: str = "groups",
    share: float = 0.15,
    passes: int | None = None,
    seed: int = 0,
) -> Alignment:
    """Measure a mini-model against the full model on source-language text.

    Both read the same windows, and masked models the same masks. Neither model is changed.

    Args:
        mini: The mini-model, before its table is replaced.
        model: The model that it was cut from.
        tokenizer: The source tokenizer, which both read.
        texts: Documents in the source language that neither was trained on; empty ones are left out.
        batch_size: Windows per forward pass.
        max_length: Window in tokens; by default the models' own length, at most 2,048.
        masking: As in :func:`~hf_vocab_extend.evaluation.bits_per_byte.bits_per_byte`; masked models only.
        share: Share of the words that is masked at once.
        passes: How many of the groups of words are measured, None for all; 1 is a cheap estimate.
        seed: Seed of the dealing of words to groups.

    Returns:
        The bits per byte of both, and their difference.

    Raises:
        BaseModelMismatchError: If the two do not share their token tables: another model, one whose tables moved
            after the cut, or a mini-model that has another vocabulary by now.
        UnsupportedModelError: If one of them has no head over the vocabulary, or is no mini-model.
        CorpusError: If there is no text with a character in it.
        InvalidOptionError: If an option is out of its range.
    """
    _check_pair(mini, model)
    measured = [
        bits_per_byte(
            each,
            tokenizer,
            texts,
            batch_size=batch_size,
            max_length=max_length,
            masking=masking,
            share=share,
            passes=passes,
            seed=seed,
        )
        for each in (mini, model)
    ]
    return Alignment(*measured)


@torch.no_grad()
def _check_pair(mini: PreTrainedModel, model: PreTrainedModel) -> None:
    """Raise unless one model is cut from the other and both still have the same token tables."""
    if read_record(mini) is None:
        raise UnsupportedModelError(
            f"The config of this {type(mini).__name__} names no full model, so it is no mini-model. Make one with "
            "build_mini_model, or compare any two models with bits_per_byte."
        )
    if type(mini) is not type(model):
        raise BaseModelMismatchError(
            f"The mini-model is a {type(mini).__name__} and the other a {type(model).__name__}. Give the model that "
            "it was cut from."
        )
    if _places(mini) == _places(model):  # one storage, which need not be read
        return
    own, other = table_hashes(mini), table_hashes(model)
    different = sorted(role for role in {*own, *other} if own.get(role) != other.get(role))
    if different:
        raise BaseModelMismatchError(
            f"The token tables of the mini-model and of the full model differ ({', '.join(different)}), so they do "
            "not read the same embeddings. Give the model that it was cut from, as it was then, and measure before "
            "the table is replaced."
        )


def _places(model: PreTrainedModel) -> set[tuple[str, int]]:
    """Return where the token tables of a model lie in memory, with their names."""
    tables = vocabulary_tables(model)
    return {(each.name, item.data_ptr()) for each in tables for item in (each.parameter, *each.projections)}


__all__ = ["Alignment", "check_alignment"]
