"""The plan of one extension: which target token is which source token, and which tokens are new.

It needs no model. ``hf-vocab-extend plan`` prints it before anything is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .errors import InvalidOptionError, TokenizerMismatchError
from .vocab.canonical import CanonicalVocab, TokenKind, canonicalise
from .vocab.matching import MatchKind, match
from .vocab.pipeline import backend_of, detect_family
from .vocab.special_tokens import match_roles

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Mode = Literal["extend", "replace"]
EXAMPLES = 5
"""How many tokens of each kind a summary shows."""


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

    def summary(self) -> dict[str, Any]:
        """Return what the plan amounts to, as plain data.

        Returns:
            ``mode``; ``source`` and ``target``, each with ``family``, ``ids`` (highest id + 1), ``tokens``, ``unused``
            and ``holes``; and ``kinds``: by lower-case name ``count``, ``share`` of the target ids (0 to 1) and
            ``examples``, pairs of target token and source token (None where there is none), spread over the ids.
        """
        kinds = {}
        for name, count in self.counts().items():
            ids = np.flatnonzero(self.kinds == MatchKind[name.upper()])
            shown = ids[np.linspace(0, len(ids) - 1, min(EXAMPLES, len(ids))).astype(np.int64)]
            kinds[name] = {
                "count": count,
                "share": count / self.n_target,
                "examples": [self._pair(index) for index in shown.tolist()],
            }
        return {"mode": self.mode, "source": _sizes(self.source), "target": _sizes(self.target), "kinds": kinds}

    def _pair(self, index: int) -> tuple[str | None, str | None]:
        """Return the target token of an id and the source token that it is, if any."""
        source_id = int(self.source_ids[index])
        return self.target.tokens[index], self.source.tokens[source_id] if source_id >= 0 else None


def _sizes(vocab: CanonicalVocab) -> dict[str, Any]:
    """Describe a vocabulary in numbers."""
    holes = int(np.count_nonzero(vocab.kinds == TokenKind.HOLE))
    return {
        "family": vocab.family.value,
        "ids": len(vocab),
        "tokens": len(vocab) - holes,
        "unused": int(np.count_nonzero(vocab.kinds == TokenKind.UNUSED)),
        "holes": holes,
    }


def _moved(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> tuple[str, int, int | None] | None:
    """Return the first source token, by id, that has another id or none in the target: token, id, id there."""
    here = backend_of(source).get_vocab(with_added_tokens=True)
    there = backend_of(target).get_vocab(with_added_tokens=True)
    moved = min(((index, token) for token, index in here.items() if there.get(token) != index), default=None)
    return None if moved is None else (moved[1], moved[0], there.get(moved[1]))


def _check_grown(source: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> None:
    """Raise unless the target has grown from the source.

    Raises:
        TokenizerMismatchError: It states the first difference.
    """
    families = detect_family(source), detect_family(target)
    moved = _moved(source, target)
    if moved is not None:
        token, index, elsewhere = moved
        place = "none" if elsewhere is None else elsewhere
        fact = f"{token!r} has id {index} in the source and {place} in the target"
    elif families[0] is not families[1]:
        fact = f"the source is {families[0].value}, the target {families[1].value}"
    else:
        return
    raise TokenizerMismatchError(
        f"The target tokenizer has not grown from the source: {fact}. Merge them first with merge_tokenizers, or use "
        "mode='replace'."
    )


def is_grown_from(source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether every source token has the same id in the target, and both spell alike.

    Raises:
        UnsupportedTokenizerError: If one of the two has no ``tokenizer.json`` behind it or belongs to no known family.
    """
    alike = detect_family(source_tokenizer) is detect_family(target_tokenizer)
    return alike and _moved(source_tokenizer, target_tokenizer) is None


def build_plan(
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    mode: Mode = "extend",
    *,
    fuzzy: bool = False,
    roles: Mapping[str | int, str | int | None] | None = None,
) -> VocabPlan:
    """Decide for each target id whether its row is kept, copied, or to be found.

    Args:
        source_tokenizer: The tokenizer that the model was trained with.
        target_tokenizer: The tokenizer that it shall have.
        mode: ``extend``: the target has grown from the source; ids of the source stay (``SAME``), added ones are
            matched where they are a source token in another spelling. ``replace``: the target is taken as it is and
            all its ids are matched.
        fuzzy: Also match but for case and word start.
        roles: Overrides for special tokens, see :func:`~.vocab.special_tokens.match_roles`.

    Raises:
        InvalidOptionError: If the mode is unknown or ``roles`` names a token that does not exist.
        TokenizerMismatchError: If the target of mode ``extend`` has not grown from the source.
        UnsupportedTokenizerError: If a tokenizer has no ``tokenizer.json`` behind it or belongs to no known family.
    """
    if mode not in ("extend", "replace"):
        raise InvalidOptionError(f"mode is {mode!r}. Choose 'extend' (keep all source ids) or 'replace'.")
    if mode == "extend":
        _check_grown(source_tokenizer, target_tokenizer)
    source, target = canonicalise(source_tokenizer), canonicalise(target_tokenizer)
    source_ids, kinds = match(source, target, match_roles(source_tokenizer, target_tokenizer, roles), fuzzy)
    kept = _kept(source, target, mode)
    source_ids[kept], kinds[kept] = kept, MatchKind.SAME
    return VocabPlan(mode, source, target, source_ids, kinds)


def _kept(source: CanonicalVocab, target: CanonicalVocab, mode: Mode) -> np.ndarray:
    """Return the ids whose row stays in its place, ascending, int64, shape `(n_kept,)`.

    In mode ``extend`` all source ids but holes that the target fills; in mode ``replace`` only the holes of one and
    the same vocabulary, so that replacing a tokenizer by itself changes no row.
    """
    if mode == "replace" and source.tokens != target.tokens:
        return np.zeros(0, np.int64)
    n = min(len(source), len(target))
    holes = source.kinds[:n] == TokenKind.HOLE
    both = holes & (target.kinds[:n] == TokenKind.HOLE)
    return np.flatnonzero(both if mode == "replace" else both | ~holes)


__all__ = ["MatchKind", "Mode", "VocabPlan", "build_plan", "is_grown_from"]
