"""What an aligner is told and what it answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...errors import InvalidOptionError
from .counts import sum_parts


@dataclass(frozen=True)
class AlignerOptions:
    """How two texts are aligned; an aligner ignores what it has no use for.

    Attributes:
        aligner: A name of :data:`~hf_vocab_extend.resources.alignment.aligners.ALIGNERS`.
        iterations: Rounds of EM of the last model; None for the aligner's own default.
        model1_iterations: Rounds of IBM Model 1 that ``hmm`` starts with.
        null_share: How likely ``hmm`` takes a unit to have no translation, above 0 and below 1.
        prior: Concentration of the Dirichlet prior on the translations of a unit; 0 for none.
        device: Where to compute, as torch names it; None for the CPU.
        threads: Threads of the computation on a CPU. The last bits of a sum depend on them, so 1 gives the same counts
            on every machine; None leaves torch's setting as it is.
        max_length: Longest side of a pair in units; longer pairs are left out (they are rarely translations unit by
            unit, and the work grows with the product of the lengths).
        max_links: Most possible links (product of both lengths, summed over pairs) that are aligned together. Memory
            grows with it (about 10 bytes each for tokens, more where most units are rare); a larger text is dealt out
            evenly to shards that are aligned apart.
        double: Compute probabilities with 64 bits instead of 32; sums always take 64.
        show_progress: Whether progress bars may be shown.
    """

    aligner: str = "hmm"
    iterations: int | None = None
    model1_iterations: int = 5
    null_share: float = 0.05
    prior: float = 0.0
    device: str | None = None
    threads: int | None = 1
    max_length: int = 400
    max_links: int = 200_000_000
    double: bool = False
    show_progress: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "threads", "max_length", "max_links"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidOptionError(f"{name} is {value}. It must be at least 1.")
        if self.model1_iterations < 0 or not 0 <= self.prior < 1e6:
            raise InvalidOptionError(
                f"model1_iterations is {self.model1_iterations} and prior is {self.prior}. Neither may be negative."
            )
        if not 0 < self.null_share < 1:
            raise InvalidOptionError(f"null_share is {self.null_share}. It must lie above 0 and below 1.")


@dataclass(frozen=True, eq=False)
class Links:
    """How often units were linked, over a whole text: each (source, target) once, sorted by source, then target.

    Attributes:
        source_index: Unit of the source text, int32 `(n_links,)`.
        target_index: Unit of the target text, int32 `(n_links,)`.
        forward: Expected count under p(target | source), float64 `(n_links,)`.
        backward: Expected count under p(source | target), float64 `(n_links,)`.
    """

    source_index: np.ndarray
    target_index: np.ndarray
    forward: np.ndarray
    backward: np.ndarray

    def __len__(self) -> int:
        """Return the number of different links."""
        return len(self.source_index)

    @classmethod
    def empty(cls) -> Links:
        """Return no links."""
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0), np.zeros(0))


def merge_links(parts: list[Links]) -> Links:
    """Add up the links of several shards; no shard gives no links."""
    if len(parts) == 1:
        return parts[0]
    arrays = [(part.source_index, part.target_index, part.forward, part.backward) for part in parts]
    return Links(*sum_parts(arrays))
