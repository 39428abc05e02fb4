"""Work that seeds the global generators, as the Trainer does, without a trace in them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept(seed: int | None = None) -> Iterator[None]:
    """Give the generators of Python, NumPy and torch back as they were, also after an error.

    Args:
        seed: Seed of torch's generators inside; None begins with the state as it is.
    """
    own, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002  (the Trainer seeds the global one)
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            if seed is not None:
                torch.manual_seed(seed)
            yield
    finally:
        random.setstate(own)
        np.random.set_state(numpy_state)  # noqa: NPY002


__all__ = ["random_state_kept"]
