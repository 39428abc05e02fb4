"""The plan of one extension: which target token is which source token, and which tokens are new.

It needs no model. ``hf-vocab-extend plan`` prints it before anything is paid for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from .vocab.canonical import CanonicalVocab

Mode = Literal["extend", "replace"]


class MatchKind(IntEnum):
    """How a target id found its source id."""

    NEW = 0
    """No source token: a method finds its row."""
    SAME = 1
    """Same id in both (mode ``extend``): the row stays as it is, holes and padding included."""
    EXACT = 2
    """Same bytes and same place in a word."""
    BYTE = 3
    """Same single byte of a byte alphabet or of byte fallback."""
    SPECIAL = 4
    """Same role (bos, eos, pad, ...)."""
    FUZZY = 5
    """Same spelling but for case or word start; only if asked for."""
    HOLE = 6
    """An id without a token (mode ``replace``): padding."""


@dataclass(frozen=True, eq=False)
class VocabPlan:
    """Matches between a source and a target vocabulary.

    Attributes:
        mode: ``extend`` keeps all source ids, ``replace`` takes the target vocabulary as it is.
        source: Source vocabulary, by id.
        target: Target vocabulary, by id.
        source_ids: Source id of each target id or -1, int64, shape `(n_target,)`.
        kinds: :class:`MatchKind` of each target id, uint8, shape `(n_target,)`.
    """

    mode: Mode
    source: CanonicalVocab
    target: CanonicalVocab
    source_ids: np.ndarray
    kinds: np.ndarray

    @property
    def n_source(self) -> int:
        """Number of source ids: highest id + 1."""
        return len(self.source)

    @property
    def n_target(self) -> int:
        """Number of target ids: highest id + 1."""
        return len(self.target)

    @property
    def new_ids(self) -> np.ndarray:
        """Target ids that a method must find rows for, ascending, int64, shape `(n_new,)`."""
        return np.flatnonzero(self.kinds == MatchKind.NEW)

    @property
    def copied_ids(self) -> np.ndarray:
        """Target ids whose row is a copy, ascending, int64, shape `(n_copied,)`."""
        return np.flatnonzero(self.source_ids >= 0)

    def counts(self) -> dict[str, int]:
        """Number of target ids of each kind, by lower-case name; kinds that do not occur are left out."""
        totals = np.bincount(self.kinds, minlength=len(MatchKind))
        return {kind.name.lower(): int(totals[kind]) for kind in MatchKind if totals[kind]}
