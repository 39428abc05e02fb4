"""Which rows of the tables belong to new tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..mapping import RowKind
from ..report import COPIED, PADDING

if TYPE_CHECKING:
    from ..mapping import TokenMapping
    from ..result import VocabExtension

NOT_NEW = tuple(RowKind[name.upper()] for name in (*COPIED, *PADDING))
"""Kinds of rows that the source model trained, or that stand for no token."""


def new_row_ids(extension: VocabExtension | TokenMapping) -> torch.Tensor:
    """Return the ids of the tokens whose rows the source model did not have.

    These are the rows that a method, a fallback, an override or a random draw has filled. Copies (the same id, text,
    byte or role) and padding rows without a token are not among them.

    Args:
        extension: An extension, or its mapping alone.

    Returns:
        Ascending ids, int64, shape `(n_new,)`.
    """
    mapping: Any = getattr(extension, "mapping", extension)
    return torch.from_numpy(np.flatnonzero(~np.isin(mapping.kinds, NOT_NEW)).astype(np.int64))


__all__ = ["new_row_ids"]
