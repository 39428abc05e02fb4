"""Do the sides of a parallel text lie the right way round? Measured, not guessed."""

from __future__ import annotations

import warnings
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...errors import VocabExtendWarning
from ...vocab.pipeline import backend_of, unknown_id
from ...vocab.reachability import whole_lines
from ..parallel import Pairs

SAMPLE_PAIRS = 500
MIN_CHARACTERS = 500
MARGIN = 1.2
MAX_UNKNOWN = 0.3


def warn_if_swapped(
    pairs: Pairs, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> None:
    """Warn, with the figures, if each tokenizer cuts the other side's text less finely than its own.

    A tokenizer spends fewer tokens for each character on the language that it was made for; a character that it does
    not know counts as one token. Where both fit both sides (a multilingual vocabulary), nothing can be told.
    """
    sides = list(zip(*islice(pairs, SAMPLE_PAIRS), strict=True))
    if min(sum(map(len, side)) for side in sides) < MIN_CHARACTERS:
        return
    (own_source, cross_target), (cross_source, own_target) = (
        [cost(tokenizer, list(side)) for side in sides] for tokenizer in (source_tokenizer, target_tokenizer)
    )
    if own_source + own_target > MARGIN * (cross_source + cross_target):
        warnings.warn(
            f"The two sides of {pairs.name} look swapped: the source tokenizer spends {own_source:.2f} tokens per "
            f"character on the source texts and {cross_target:.2f} on the target texts, the target tokenizer "
            f"{own_target:.2f} on the target texts and {cross_source:.2f} on the source texts. Pairs are (text in the "
            "language that the model knows, text in the new language).",
            VocabExtendWarning,
            stacklevel=3,
        )


def warn_if_unknown(info: dict[str, int], name: str) -> None:
    """Warn if much of a side is unknown to its tokenizer.

    Args:
        info: ``n_source_tokens``, ``n_source_unknown`` and the same of the target side.
        name: How messages call the pairs.
    """
    for side in ("source", "target"):
        n_tokens, n_unknown = info[f"n_{side}_tokens"], info[f"n_{side}_unknown"]
        if n_unknown > MAX_UNKNOWN * n_tokens:
            warnings.warn(
                f"{n_unknown} of {n_tokens} tokens ({n_unknown / n_tokens:.0%}) on the {side} side of {name} are "
                f"unknown to the {side} tokenizer and align with nothing. Check the language of "
                "that side and the tokenizer.",
                VocabExtendWarning,
                stacklevel=3,
            )


def cost(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> float:
    """Return the tokens that a tokenizer spends for each character; an unknown character counts as a token."""
    backend = backend_of(tokenizer)
    unknown = unknown_id(backend)
    with whole_lines(backend):
        encodings = backend.encode_batch(texts, add_special_tokens=False)
    spent = sum(map(len, encodings))
    for encoding in encodings:
        ids = encoding.ids
        if unknown is not None and unknown in ids:
            spans = np.asarray(encoding.offsets)[np.asarray(ids) == unknown]
            spent += int(np.diff(spans, axis=1).sum()) - len(spans)
    return spent / max(1, sum(map(len, texts)))


__all__ = ["cost", "warn_if_swapped", "warn_if_unknown"]
