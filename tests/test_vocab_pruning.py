"""Pruning candidates ends for every budget and leaves none idle."""

from __future__ import annotations

import numpy as np
import pytest

from hf_vocab_extend.vocab.pruning import prune


@pytest.mark.parametrize("budget", [0, 1, 2, 9, 10, 19, 20, 49, 50, 60])
def test_any_budget_is_reached(budget: int) -> None:
    candidates = [f"t{index}" for index in range(50)]
    uses = {token: index % 7 + 1 for index, token in enumerate(candidates)}

    def count(chosen: list[str], learning: bool) -> np.ndarray:
        return np.asarray([uses[token] for token in chosen], np.int64)

    chosen = prune(candidates, budget, count, lambda token: 1)
    assert len(chosen) == min(budget, 50)
    assert chosen == sorted(chosen, key=candidates.index)
