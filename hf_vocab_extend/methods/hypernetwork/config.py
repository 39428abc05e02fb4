"""Options of HyperOFA."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...resources.piece_incidence import VARIANTS
from ..base import check_option
from ..shared_space import SpaceConfig
from .base import BASES
from .coordinates import SPACES
from .losses import LOSSES
from .networks import NETWORKS, HyperNetwork, Shape
from .training import SCHEDULES, TrainOptions


@dataclass(frozen=True)
class HyperOfaConfig(SpaceConfig):
    """Options of :class:`HyperOfa`, beside those of the space.

    Attributes:
        network: A name in :data:`~.hypernetwork.networks.NETWORKS`: ``none``, ``attention``, ``deepsets``, or the
            paper's ``bilstm`` and ``setformer`` (hours without a GPU). ``none`` leaves the closed form alone: seconds
            instead of minutes, and translations are found as well.
        base: What the network adds to: ``neighbours``: ridge regression on the mean word vector and the mean of what
            that leaves at similar source tokens; ``ridge``: the first part alone; ``mean``: the mean row.
        loss: A name in :data:`~.hypernetwork.losses.LOSSES`.
        loss_space: ``E``: on rows; ``F``: on those of the orthonormal factor, which weighs all directions alike.
        rank: Predict this many coordinates along the table's principal directions; None for the rank that the table
            will be factorised at, else for the full width.
        k: Neighbours that are averaged.
        temperature: Of the softmax that weighs them; None for what predicts the held-out source tokens best.
        max_pool: Neighbours are looked for among this many source tokens, the most frequent ones.
        norms: ``none``: lengths as predicted; ``neighbours``: each row has the mean length of the source rows whose
            words are nearest; ``each``: each row has the mean length of the source rows; ``mean``: all
            rows are scaled by one factor, so that their mean length is that.
        features: Whether token frequency, number of words and word start are seen beside the words.
        unit_words: Scale each word vector to the same length.
        variants: Surface forms that a word is cut in, a name in :data:`~..resources.piece_incidence.VARIANTS`.
        layers: Layers of a recurrent or transformer network; None for the network's own, as in the next three.
        hidden: Width of hidden layers.
        heads: Attention heads.
        dropout: Share of hidden values that are dropped in training.
        train_epochs: Passes over the source tokens at most.
        batch_size: Tokens in a step.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        schedule: ``linear`` (after a short rise, falls to zero), ``step`` (HyperOFA's) or ``constant``.
        patience: Stop after so many passes without a better held-out cosine.
        held_out: Share of the source tokens that is not learnt from but scored.
        max_words: Of a token in more words a random part of this size is read.
        augment: Share of the tokens whose words are cut to a random 50 to 100 % in a pass.
        contrast: Temperature of the contrastive losses.
        folder: Where trained hypernetworks are kept. If it is empty or new, they are saved there; if not, those in it
            are used for the new vocabulary, by the options that they were made with, and nothing is trained.
    """

    network: str = "attention"
    base: str = "neighbours"
    loss: str = "squared"
    loss_space: str = "E"
    rank: int | None = None
    k: int = 10
    temperature: float | None = 0.1
    max_pool: int = 32_768
    norms: str = "neighbours"
    features: bool = False
    unit_words: bool = True
    variants: str = "four"
    layers: int | None = None
    hidden: int | None = None
    heads: int | None = None
    dropout: float | None = None
    train_epochs: int = 10
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    schedule: str = "linear"
    patience: int = 4
    held_out: float = 0.03
    max_words: int = 256
    augment: float = 0.5
    contrast: float = 0.25
    folder: str | None = None

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            check_option(value in known, f"{name} is {value!r}. Choose one of: {', '.join(sorted(known))}.")
        for name in ("k", "max_pool", "train_epochs", "batch_size", "patience", "max_words"):
            check_option(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}. It must be at least 1.")
        for name in ("rank", "layers", "hidden", "heads"):
            value = getattr(self, name)
            check_option(value is None or value >= 1, f"{name} is {value}. It must be at least 1, or None.")
        value = self.temperature
        check_option(value is None or 0 < value < 1e6, f"temperature is {value}. It must be positive, or None.")
        for name in ("learning_rate", "contrast"):
            check_option(0 < getattr(self, name) < 1e6, f"{name} is {getattr(self, name)}. It must be positive.")
        check_option(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}. It must not be negative.")
        check_option(0 < self.held_out <= 0.5, f"held_out is {self.held_out}. It must lie above 0 and at most at 0.5.")
        check_option(0 <= self.augment <= 1, f"augment is {self.augment}. It must lie between 0 and 1.")
        dropout = self.dropout
        check_option(dropout is None or 0 <= dropout < 1, f"dropout is {dropout}. It must lie in [0, 1), or be None.")

    @classmethod
    def package(cls, network: str = "bilstm", **options: Any) -> HyperOfaConfig:
        """Return the settings of the published code for ``bilstm`` or ``setformer``; it has no early stopping.

        On two processor cores a pass over 100,000 tokens takes hours; they are meant for a GPU.
        """
        epochs = {"setformer": 500}.get(network, 300)
        published: dict[str, Any] = {
            "network": network,
            "base": "mean",
            "loss": "published",
            "loss_space": "F",
            "features": False,
            "norms": "none",
            "unit_words": False,
            "variants": "published",
            "train_epochs": epochs,
            "patience": epochs,
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "schedule": "step",
            "held_out": 0.025,
        }
        return cls(**(published | options))

    def training(self) -> TrainOptions:
        """Return how to train."""
        return TrainOptions(
            self.train_epochs,
            self.batch_size,
            self.learning_rate,
            self.weight_decay,
            self.schedule,
            self.patience,
            self.max_words,
            self.augment,
        )

    def check_dim(self, dim: int) -> None:
        """Raise unless word vectors of some dimensions fit the network.

        Raises:
            InvalidOptionError: If a transformer's heads do not divide them.
        """
        heads = self._sizes()[2]
        check_option(
            self.network != "setformer" or dim % heads == 0,
            f"The word vectors have {dim} dimensions, which {heads} heads do not divide. Choose heads that do.",
        )

    def _sizes(self) -> tuple[int, int, int]:
        """Return layers, hidden width and heads of the network."""
        kind = NETWORKS[self.network]
        own = (1, 1, 1) if kind is None else (kind.layers, kind.hidden, kind.heads)
        return self.layers or own[0], self.hidden or own[1], self.heads or own[2]

    def make_network(self, dim: int, n_features: int, n_outputs: int) -> HyperNetwork:
        """Make the network."""
        kind = NETWORKS[self.network]
        assert kind is not None
        dropout = kind.dropout if self.dropout is None else self.dropout
        return kind.build(Shape(dim, n_features, n_outputs, *self._sizes(), dropout))


_CHOICES: dict[str, Iterable[str]] = {
    "network": NETWORKS,
    "base": BASES,
    "loss": LOSSES,
    "loss_space": SPACES,
    "norms": ("none", "neighbours", "each", "mean"),
    "variants": VARIANTS,
    "schedule": SCHEDULES,
}


__all__ = ["HyperOfaConfig"]
