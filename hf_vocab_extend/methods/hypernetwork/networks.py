"""Networks from a bag of words to the coordinates of a row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from .bags import Batch


@dataclass(frozen=True)
class Shape:
    """Sizes of a network.

    Attributes:
        dim: Of a word's vector.
        n_features: Facts about a token beside its words.
        n_outputs: Coordinates to predict.
        layers: Layers of a recurrent or transformer network.
        hidden: Width of hidden layers.
        heads: Attention heads.
        dropout: Share of hidden values that are dropped in training.
    """

    dim: int
    n_features: int
    n_outputs: int
    layers: int
    hidden: int
    heads: int
    dropout: float


class HyperNetwork(nn.Module):
    """What all networks are: ``forward(batch)`` gives coordinates, `(n, n_outputs)`; ``last`` is the last layer."""

    pads = False
    """Whether bags are padded to one length, so that a batch should hold bags of like size."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.last: nn.Linear

    def pool(self, vectors: torch.Tensor, weights: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Return weighted sums over each bag, `(n_entries, d)` and `(n_entries,)` to `(n, d)`."""
        places = torch.arange(len(vectors), device=vectors.device)
        return nn.functional.embedding_bag(
            places, vectors, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


class AttentionPooling(HyperNetwork):
    """Each head weighs the words of a bag by itself; the pooled words go through one hidden layer.

    The weights are a softmax over the bag of a linear score of the word plus a learnt power of its share. At the start
    the powers are 0, 1, 2, ... by head, so that the first head begins as the mean.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.score = nn.Linear(shape.dim, shape.heads)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)
        self.power = nn.Parameter(torch.arange(shape.heads, dtype=torch.float32))
        self.first = nn.Linear(shape.heads * shape.dim + shape.n_features, shape.hidden)
        self.dropout = nn.Dropout(shape.dropout)
        self.last = nn.Linear(shape.hidden, shape.n_outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return coordinates."""
        vectors, offsets = batch.vectors, batch.offsets
        scores = self.score(vectors) / vectors.shape[1] ** 0.5 + batch.log_shares[:, None] * self.power
        bag = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())
        highest = scores.new_full((len(offsets) - 1, scores.shape[1]), -torch.inf)
        highest = highest.scatter_reduce(0, bag[:, None].expand_as(scores), scores.detach(), "amax")
        weights = (scores - highest[bag]).exp()
        totals = torch.zeros_like(highest).index_add(0, bag, weights)
        weights = weights / totals[bag]
        heads = [self.pool(vectors, weights[:, head].contiguous(), offsets) for head in range(self.shape.heads)]
        heads = [nn.functional.normalize(head, dim=1) * vectors.shape[1] ** 0.5 for head in heads]
        return self.last(self.dropout(nn.functional.gelu(self.first(torch.cat([*heads, batch.features], 1)))))


class DeepSets(HyperNetwork):
    """Each word goes through a layer of its own before the mean, weighed by the square of its share (1703.06114)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.inner = nn.Linear(shape.dim, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden)
        self.first = nn.Linear(shape.hidden + shape.n_features, shape.hidden)
        self.dropout = nn.Dropout(shape.dropout)
        self.last = nn.Linear(shape.hidden, shape.n_outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return coordinates."""
        weights = (2 * batch.log_shares).exp()
        ones = weights.new_ones(len(weights), 1)
        weights = weights / self.pool(ones, weights, batch.offsets).repeat_interleave(batch.offsets.diff(), 0)[:, 0]
        pooled = self.norm(self.pool(nn.functional.gelu(self.inner(batch.vectors)), weights, batch.offsets))
        return self.last(self.dropout(nn.functional.gelu(self.first(torch.cat([pooled, batch.features], 1)))))


class BiLstm(HyperNetwork):
    """HyperOFA's network: the last states of both directions, then one hidden layer of twice the outputs."""

    pads = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        between = shape.dropout if shape.layers > 1 else 0.0
        self.lstm = nn.LSTM(
            shape.dim, shape.hidden, shape.layers, batch_first=True, bidirectional=True, dropout=between
        )
        self.first = nn.Linear(2 * shape.hidden + shape.n_features, 2 * shape.n_outputs)
        self.dropout = nn.Dropout(shape.dropout)
        self.last = nn.Linear(2 * shape.n_outputs, shape.n_outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return coordinates."""
        block, lengths = batch.padded()
        packed = nn.utils.rnn.pack_padded_sequence(block, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (states, _) = self.lstm(packed)
        pooled = torch.cat([states[-2], states[-1], batch.features], 1)
        return self.last(self.dropout(nn.functional.gelu(self.first(pooled))))


class SetFormer(HyperNetwork):
    """HyperOFA's other network: a transformer without positions, a mean over the bag, then one hidden layer."""

    pads = True

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        layer = nn.TransformerEncoderLayer(shape.dim, shape.heads, shape.hidden, shape.dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, shape.layers, enable_nested_tensor=False)
        self.first = nn.Linear(shape.dim + shape.n_features, 2 * shape.dim)
        self.dropout = nn.Dropout(shape.dropout)
        self.last = nn.Linear(2 * shape.dim, shape.n_outputs)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return coordinates."""
        block, lengths = batch.padded()
        outside = torch.arange(block.shape[1], device=block.device) >= lengths[:, None]
        states = self.encoder(block, src_key_padding_mask=outside).masked_fill(outside[:, :, None], 0)
        pooled = torch.cat([states.sum(1) / lengths[:, None], batch.features], 1)
        return self.last(self.dropout(nn.functional.gelu(self.first(pooled))))


@dataclass(frozen=True)
class Kind:
    """A network and the sizes that it has unless told otherwise."""

    build: Callable[[Shape], HyperNetwork]
    layers: int
    hidden: int
    heads: int
    dropout: float


NETWORKS: dict[str, Kind | None] = {
    "attention": Kind(AttentionPooling, 1, 1024, 3, 0.4),
    "deepsets": Kind(DeepSets, 1, 1024, 1, 0.4),
    "bilstm": Kind(BiLstm, 2, 800, 1, 0.4),
    "setformer": Kind(SetFormer, 28, 1600, 10, 0.4),
    "none": None,
}
"""Network and its sizes by the name of the option; ``none`` leaves what has a closed form alone."""


__all__ = ["NETWORKS", "AttentionPooling", "BiLstm", "DeepSets", "HyperNetwork", "Kind", "SetFormer", "Shape"]
