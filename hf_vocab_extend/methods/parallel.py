"""Blocks of work side by side, each in one thread, so that results do not depend on the number of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Space = TypeVar("Space")


@contextmanager
def exact_settings() -> Iterator[int]:
    """Run every operation in one thread and multiply float32 matrices in float32; give the number of threads before.

    A sum over many terms is cut differently for each number of threads; a user may have allowed TF32 or bfloat16.
    Besides, many short operations that each split over all cores wait for one another more than they compute.
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield threads
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_num_threads(threads)


def able_device(device: torch.device) -> torch.device:
    """Return the device, or the CPU in place of one without float64 (Apple's)."""
    return device if device.type in ("cpu", "cuda") else torch.device("cpu")


def run_blocks(
    function: Callable[[Space, Item], Result],
    items: Iterable[Item],
    make_space: Callable[[], Space],
    device: torch.device,
) -> Iterator[Result]:
    """Yield ``function(space, item)`` for each item, in order.

    On the CPU as many run at once as PyTorch has threads, at most two for each of them ahead of the reader. On
    another device they run one by one.

    Args:
        function: It must not depend on what it finds in the space.
        items: Blocks of work.
        make_space: Makes a worker's own space, for buffers.
        device: Where the work is done.
    """
    if device.type != "cpu":
        space = make_space()
        with exact_settings(), torch.autocast(device.type, enabled=False):
            for item in items:
                yield function(space, item)
        return
    with exact_settings() as threads, ThreadPoolExecutor(threads) as pool:
        idle = deque(make_space() for _ in range(threads))
        waiting: deque[Future[Result]] = deque()

        def run(item: Item) -> Result:
            space = idle.pop()
            try:
                return function(space, item)
            finally:
                idle.append(space)

        try:
            for item in items:
                waiting.append(pool.submit(run, item))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
