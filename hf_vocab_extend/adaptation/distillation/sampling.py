"""Which pairs a step sees: corpora in shares that do not follow their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional


def balanced_batches(
    groups: Sequence[int], batch_size: int, balance: float, generator: torch.Generator
) -> Iterator[list[int]]:
    """Yield batches without end; within a group every item comes once before one comes again.

    Args:
        groups: Group of each item, counted from 0.
        batch_size: Items of a batch.
        balance: A group of n items gets a share in proportion to `n ** (1 - balance)`: 0 for shares by size, 1 for
            equal shares.
        generator: Source of the order.
    """
    labels = torch.tensor(list(groups))
    members = [(labels == group).nonzero().flatten() for group in range(int(labels.max()) + 1)]
    members = [item for item in members if len(item)]
    weights = torch.tensor([float(len(item)) for item in members]).pow(1 - balance)
    owed = torch.zeros(len(members), dtype=torch.float64)
    queues: list[list[int]] = [[] for _ in members]
    while True:
        owed += batch_size * (weights / weights.sum()).double()
        batch: list[int] = []
        counts = owed.floor().long()
        rest = batch_size - int(counts.sum())
        for group in torch.argsort(owed - counts, descending=True, stable=True)[: max(rest, 0)].tolist():
            counts[group] += 1
        owed -= counts
        for group, count in enumerate(counts.tolist()):
            while len(queues[group]) < count:
                order = torch.randperm(len(members[group]), generator=generator)
                queues[group] = members[group][order].tolist() + queues[group]
            batch += [queues[group].pop() for _ in range(count)]
        yield batch


CLUSTERS, ROUNDS, BLOCK = 8, 10, 4096


@torch.no_grad()
def clusters_of(rows: Sequence[Sequence[int]], table: torch.Tensor, generator: torch.Generator) -> list[int]:
    """Return the cluster of each text: k-means of its bag of words, so that rare kinds of text can be favoured.

    Args:
        rows: Ids of the texts.
        table: A table over those ids, shape `(V, width)`.
        generator: Source of the first centres.

    Returns:
        Numbers below 8, or below the number of texts.
    """
    table = table.float()
    bags = torch.stack([table[torch.tensor(list(row), device=table.device)].mean(0) for row in rows])
    bags = functional.normalize(bags - bags.mean(0), dim=1)
    centres = bags[torch.randperm(len(bags), generator=generator)[:CLUSTERS].to(bags.device)]
    for _ in range(ROUNDS):
        labels = torch.cat([(block @ centres.T).argmax(1) for block in bags.split(BLOCK)])
        sums = torch.zeros_like(centres).index_add_(0, labels, bags)
        centres = torch.where(sums.any(1, keepdim=True), functional.normalize(sums, dim=1), centres)
    return list(map(int, labels.tolist()))


__all__ = ["balanced_batches", "clusters_of"]
