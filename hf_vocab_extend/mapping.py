"""Where every row came from: kind, source tokens and weights, saved beside the model."""

from __future__ import annotations

import dataclasses
import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import InvalidOptionError, InvalidTableError
from .methods.mixture import Mixture
from .plan import MatchKind, VocabPlan

FORMAT_VERSION = 1


class RowKind(IntEnum):
    """How the row of a target id was made. The first seven are the plan's :class:`~hf_vocab_extend.plan.MatchKind`."""

    NEW = 0
    SAME = 1
    EXACT = 2
    BYTE = 3
    SPECIAL = 4
    FUZZY = 5
    HOLE = 6
    METHOD = 7
    """A mixture of source rows, found by the method."""
    PREDICTED = 8
    """Given by the method as numbers, not as a mixture."""
    OVERRIDE = 9
    """A mixture that the user named with ``sources=``."""
    FALLBACK = 10
    """A mixture found by the fallback method, because the method had nothing for this token."""
    RANDOM = 11
    """Drawn from the normal distribution of the source rows, because nothing else covered the token."""


DESCRIPTIONS = {
    RowKind.NEW: "not initialised",
    RowKind.SAME: "kept as it was",
    RowKind.EXACT: "copied: same text",
    RowKind.BYTE: "copied: same byte",
    RowKind.SPECIAL: "copied: same special role",
    RowKind.FUZZY: "copied: same text but for case or word start",
    RowKind.HOLE: "padding without a token: mean of the source rows",
    RowKind.METHOD: "mixture found by the method",
    RowKind.PREDICTED: "given by the method as numbers",
    RowKind.OVERRIDE: "mixture named by the user",
    RowKind.FALLBACK: "mixture of the token's own source pieces (fallback)",
    RowKind.RANDOM: "random, from the distribution of the source rows",
}


@dataclass(frozen=True)
class Explanation:
    """How one row was made."""

    token: str | None
    token_id: int
    kind: RowKind
    sources: tuple[tuple[str | None, float], ...]
    """Source tokens with their weights, largest first."""
    norm_matched: bool = False
    """Whether the sum was then scaled to the mean length of its sources."""
    distilled: bool = False
    """Whether the row was then refined by distillation, so that this is only where it started."""

    def __str__(self) -> str:
        """One line: token, how, and from what."""
        text = f"{self.token!r} (id {self.token_id}): {DESCRIPTIONS[self.kind]}"
        if self.kind is not RowKind.SAME and self.sources:
            text += ": " + " + ".join(f"{weight:.3g} x {token!r}" for token, weight in self.sources)
            if self.norm_matched and len(self.sources) > 1:
                text += ", scaled to their mean length"
        return f"{text}; then distilled" if self.distilled else text


@dataclass(frozen=True, eq=False)
class TokenMapping:
    """Provenance of every target row.

    Attributes:
        tokens: Target tokens by id, None for a hole, length `n_target`.
        source_tokens: Source tokens by id, length `n_source_tokens`.
        kinds: :class:`RowKind` of each target id, uint8, shape `(n_target,)`.
        mixture: Weights over source rows, `(n_target, n_source)`; rows of kind ``SAME`` are left empty, they are
            their own source.
        distilled: Which rows were refined by distillation since, bool, shape `(n_target,)`; None for none. The rest
            says how they started.
    """

    tokens: Sequence[str | None]
    source_tokens: Sequence[str | None]
    kinds: np.ndarray
    mixture: Mixture
    distilled: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that the parts speak of the same ids."""
        marks = len(self.tokens) if self.distilled is None else len(self.distilled)
        if not len(self.tokens) == len(self.kinds) == self.mixture.n_rows == marks:
            raise InvalidTableError(
                f"A mapping needs one kind and one row per token; got {len(self.tokens)} tokens, "
                f"{len(self.kinds)} kinds, {self.mixture.n_rows} rows."
            )

    def explain(self, token: str | int) -> Explanation:
        """Say how the row of a token was made.

        Args:
            token: A token as the tokenizer spells it, the plain text of one (a word that starts a word is tried
                first), or an id.

        Raises:
            InvalidOptionError: If the target vocabulary has no such token.
        """
        token_id = self._find(token) if isinstance(token, str) else operator.index(token)
        if not 0 <= token_id < len(self.tokens):
            raise InvalidOptionError(f"Id {token_id} lies outside the {len(self.tokens)} target ids.")
        kind = RowKind(int(self.kinds[token_id]))
        entries = [(token_id, 1.0)] if kind is RowKind.SAME else self.mixture.row(token_id)
        names = self.source_tokens
        sources = tuple((names[index] if index < len(names) else None, weight) for index, weight in entries)
        matched = self.mixture.norm_matched is not None and bool(self.mixture.norm_matched[token_id])
        distilled = self.distilled is not None and bool(self.distilled[token_id])
        return Explanation(self.tokens[token_id], token_id, kind, sources, matched, distilled)

    def with_distilled(self, rows: np.ndarray) -> TokenMapping:
        """Return a copy that says that these rows were refined by distillation.

        Args:
            rows: Bool, shape `(n_target,)`; rows that were refined before stay so.
        """
        before = np.zeros(len(self.tokens), bool) if self.distilled is None else self.distilled
        return dataclasses.replace(self, distilled=before | rows)

    def _find(self, token: str) -> int:
        """Return the id of a token, by its spelling or by its plain text."""
        ids = {name: index for index, name in enumerate(self.tokens) if name is not None}
        for spelling in (token, "\u2581" + token, "\u0120" + token, token + "</w>", "##" + token):
            if spelling in ids:
                return ids[spelling]
        raise InvalidOptionError(f"The target vocabulary has no token {token!r}. Give it as the tokenizer spells it.")

    def counts(self) -> dict[str, int]:
        """Number of target ids of each kind, by lower-case name; kinds that do not occur are left out."""
        totals = np.bincount(self.kinds, minlength=len(RowKind))
        return {kind.name.lower(): int(totals[kind]) for kind in RowKind if totals[kind]}

    def coverage(self, token_counts: np.ndarray) -> dict[str, float]:
        """Share of each kind in a text.

        Args:
            token_counts: How often each target id occurs in the text, shape `(n_target,)`.
        """
        total = float(token_counts.sum())
        weighted = np.bincount(self.kinds, weights=token_counts, minlength=len(RowKind))
        return {kind.name.lower(): float(weighted[kind] / total) for kind in RowKind if total and weighted[kind]}

    def save(self, path: str | Path) -> None:
        """Write as safetensors: weights, kinds, and the two token lists as JSON bytes."""
        spelled = {"tokens": list(self.tokens), "source_tokens": list(self.source_tokens)}
        tensors = {
            "offsets": self.mixture.offsets,
            "columns": self.mixture.columns,
            "weights": self.mixture.weights,
            "kinds": self.kinds.astype(np.uint8),
        }
        if self.mixture.norm_matched is not None:
            tensors["norm_matched"] = self.mixture.norm_matched
        if self.distilled is not None:
            tensors["distilled"] = self.distilled
        for name, tokens in spelled.items():
            tensors[name] = np.frombuffer(json.dumps(tokens, ensure_ascii=False).encode("utf-8"), np.uint8)
        # One key only: safetensors writes several in an order that changes from run to run.
        header = {"format_version": FORMAT_VERSION, "n_source": self.mixture.n_source}
        save_file(tensors, str(path), metadata={"mapping": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> TokenMapping:
        """Read what :meth:`save` wrote.

        Raises:
            InvalidTableError: If the file is cut short or was written by a newer version.
        """
        try:
            with safe_open(str(path), "numpy") as file:
                metadata = json.loads((file.metadata() or {}).get("mapping", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise
        except (OSError, ValueError, SafetensorError) as error:
            raise InvalidTableError(f"'{Path(path).name}' cannot be read as a mapping ({error}).") from error
        if metadata.get("format_version") != FORMAT_VERSION:
            raise InvalidTableError(
                f"'{Path(path).name}' has mapping format {metadata.get('format_version')}, this version reads "
                f"{FORMAT_VERSION}. Install a newer hf_vocab_extend."
            )
        mixture = Mixture(
            tensors["offsets"],
            tensors["columns"],
            tensors["weights"],
            metadata["n_source"],
            tensors.get("norm_matched"),
        )
        tokens, sources = (json.loads(tensors[name].tobytes().decode("utf-8")) for name in ("tokens", "source_tokens"))
        return cls(tokens, sources, tensors["kinds"], mixture, tensors.get("distilled"))


def assemble_mapping(plan: VocabPlan, kinds: np.ndarray, new_rows: Mixture) -> TokenMapping:
    """Join the plan's copies and the new tokens' rows.

    Args:
        plan: The plan.
        kinds: :class:`RowKind` of each new token, shape `(n_new,)`.
        new_rows: Mixture of the new tokens, `(n_new, n_source)`.
    """
    all_kinds = plan.kinds.astype(np.uint8).copy()
    all_kinds[plan.new_ids] = kinds
    copied = np.flatnonzero((plan.source_ids >= 0) & (plan.kinds != MatchKind.SAME))
    lengths = np.diff(new_rows.offsets)
    rows = np.concatenate([copied, np.repeat(plan.new_ids, lengths)])
    columns = np.concatenate([plan.source_ids[copied], new_rows.columns.astype(np.int64)])
    weights = np.concatenate([np.ones(len(copied)), new_rows.weights.astype(np.float64)])
    matched = None
    if new_rows.norm_matched is not None:
        matched = np.zeros(plan.n_target, bool)
        matched[plan.new_ids] = new_rows.norm_matched
    mixture = Mixture.from_entries(
        rows, columns, weights, n_rows=plan.n_target, n_source=new_rows.n_source, norm_matched=matched
    )
    return TokenMapping(plan.target.tokens, plan.source.tokens, all_kinds, mixture)
