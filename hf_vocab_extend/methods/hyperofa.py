"""HyperOFA: a network that has learnt source rows from the words that hold their tokens predicts the new rows.

Ozeren, Liu & Schütze 2025, arXiv 2504.21018. Tokens of both vocabularies are bags of word vectors in one multilingual
space. Here a closed form comes first, ridge regression on the mean word vector plus the mean of what that leaves at
similar source tokens, and the network adds to it; ``base="mean"`` with ``network="bilstm"`` or ``"setformer"`` is the
paper's way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .._logging import get_logger
from ..errors import InvalidTableError
from ..resources.piece_incidence import VARIANTS, piece_incidence
from ..vocab.canonical import TokenKind
from .base import FitContext, InitMethod, Resources, check_option
from .hypernetwork.bags import Bags, find_scales, make_bags
from .hypernetwork.base import BASES, Base, Split, base_inputs
from .hypernetwork.coordinates import SPACES, make_coordinates, table_key
from .hypernetwork.losses import LOSSES
from .hypernetwork.networks import NETWORKS, HyperNetwork, Shape
from .hypernetwork.training import SCHEDULES, History, Lessons, TrainOptions, predict, train
from .shared_space import SPACE_NEEDS, SpaceConfig, check_space, shared_space

logger = get_logger(__name__)

_LEAST_TOKENS = 8


@dataclass(frozen=True)
class HyperOfaConfig(SpaceConfig):
    """Options of :class:`HyperOfa`, beside those of the space.

    Attributes:
        network: A name in :data:`~.hypernetwork.networks.NETWORKS`: ``attention``, ``deepsets``, ``bilstm`` and
            ``setformer`` (the paper's; hours without a GPU), or ``none``.
        base: What the network adds to: ``neighbours``: ridge regression on the mean word vector and the mean of what
            that leaves at similar source tokens; ``ridge``: the first part alone; ``mean``: the mean row.
        loss: A name in :data:`~.hypernetwork.losses.LOSSES`.
        loss_space: ``E``: on rows; ``F``: on those of the orthonormal factor, which weighs all directions alike.
        rank: Predict this many coordinates along the table's principal directions; None for the rank that the table
            will be factorised at, else for the full width.
        k: Neighbours that are averaged.
        max_pool: Neighbours are looked for among this many source tokens, the most frequent ones.
        norms: ``none``: lengths as predicted; ``mean``: each row has the mean length of the source rows; ``network``:
            all rows are scaled by one factor, so that their mean length is that.
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
    """

    network: str = "attention"
    base: str = "neighbours"
    loss: str = "cosine"
    loss_space: str = "E"
    rank: int | None = None
    k: int = 50
    max_pool: int = 32_768
    norms: str = "none"
    features: bool = True
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

    def make_network(self, dim: int, n_features: int, n_outputs: int) -> HyperNetwork:
        """Make the network."""
        kind = NETWORKS[self.network]
        assert kind is not None
        layers, hidden, heads = self.layers or kind.layers, self.hidden or kind.hidden, self.heads or kind.heads
        dropout = kind.dropout if self.dropout is None else self.dropout
        return kind.build(Shape(dim, n_features, n_outputs, layers, hidden, heads, dropout))


_CHOICES: dict[str, Iterable[str]] = {
    "network": NETWORKS,
    "base": BASES,
    "loss": LOSSES,
    "loss_space": SPACES,
    "norms": ("none", "mean", "network"),
    "variants": VARIANTS,
    "schedule": SCHEDULES,
}


@dataclass(eq=False)
class HyperRows:
    """Rows that a network predicts, a network for each table, trained when the table's rows are asked for.

    Attributes:
        covered: Which of the new tokens a word holds, bool, shape `(n_new,)`.
        known: Source tokens that are learnt from, ascending, int64.
        source: Their bags.
        target: Bags of the covered new tokens.
        config: The options.
        rank: Coordinates to predict; None for the full width.
        seed: Of all randomness.
        device: Where networks are trained.
        histories: What happened in each training, by table.
    """

    covered: np.ndarray
    known: np.ndarray
    source: Bags
    target: Bags
    config: HyperOfaConfig
    rank: int | None
    seed: int
    device: torch.device
    histories: dict[str, History] = field(default_factory=dict)
    _done: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """Return the rows of the new tokens, float32, shape `(n_new, width)`; zeros for those not covered.

        Raises:
            InvalidOptionError: If the rank is beyond the table's.
            InvalidTableError: If the table holds NaN or infinite values.
            MissingDependencyError: If accelerate is not installed and a network is to be trained.
        """
        source = table.detach().float().cpu()
        key = table_key(source, _mask(self.known, len(source)))
        if key not in self._done:
            self._done[key] = self._predict(source, key)
        result = torch.zeros(len(self.covered), table.shape[1], device=table.device)
        result[torch.from_numpy(np.flatnonzero(self.covered)).to(table.device)] = self._done[key].to(table.device)
        return result

    def _predict(self, table: torch.Tensor, key: str) -> torch.Tensor:
        """Train on a table, and predict the covered new rows, `(n_covered, width)`."""
        config = self.config
        coordinates = make_coordinates(table, _mask(self.known, len(table)), self.rank, config.loss_space)
        known = table[torch.from_numpy(self.known)]
        targets = coordinates.encode(known)
        scales = find_scales(self.source, with_features=config.features, unit=config.unit_words)
        features, new_features = scales.features(self.source), scales.features(self.target)
        learnt, held = self._split()
        split = Split(
            base_inputs(self.source.pooled(), features), targets, torch.from_numpy(learnt), torch.from_numpy(held)
        )
        base, base_known = self._base(split, features)
        predicted = base(base_inputs(self.target.pooled(), new_features), self.device)
        if NETWORKS[config.network] is not None:
            decode = coordinates.decode_loss
            lessons = Lessons(
                self.source,
                scales,
                features,
                targets,
                base_known,
                learnt,
                held,
                LOSSES[config.loss](config.contrast),
                decode,
            )
            network, history = train(
                lambda: self._network(targets.shape[1], features.shape[1]),
                lessons,
                config.training(),
                self.seed,
                self.device,
            )
            self.histories[key] = history
            predicted += predict(
                network, self.target, scales, new_features, config.max_words, torch.device("cpu"), self.seed
            )
        return self._scaled(coordinates.decode(predicted), known)

    def _network(self, n_outputs: int, n_features: int) -> HyperNetwork:
        """Make the network; it begins as what it is added to."""
        network = self.config.make_network(self.source.table.shape[1], n_features, n_outputs)
        torch.nn.init.zeros_(network.last.bias)
        if self.config.base != "mean":
            torch.nn.init.zeros_(network.last.weight)
        return network

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Return places of the tokens that are learnt from, and of those that are held out, both ascending."""
        n = len(self.known)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed)).numpy()
        n_held = max(1, round(self.config.held_out * n))
        return np.sort(order[n_held:]), np.sort(order[:n_held])

    def _base(self, split: Split, features: torch.Tensor) -> tuple[Base, torch.Tensor]:
        """Fit the closed form.

        Returns:
            It, and its coordinates of all known tokens, of which those in the pool do not count themselves.
        """
        learnt = split.learnt.numpy()
        frequency = self.source.features[learnt, 0] + self.source.features[learnt, 1]
        pool = np.sort(learnt[np.argsort(-frequency, kind="stable")[: self.config.max_pool]])
        base = BASES[self.config.base](split, torch.from_numpy(pool), self.config.k, self.device)
        own = np.full(len(self.known), -1)
        own[pool] = np.arange(len(pool))
        return base, base(split.inputs, self.device, own)

    def _scaled(self, rows: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Give rows the length that the options ask for."""
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        wanted = torch.linalg.vector_norm(known, dim=1).mean()
        if self.config.norms == "mean":
            return rows * (wanted / lengths.clamp(min=1e-12))
        if self.config.norms == "network" and len(rows):
            return rows * (wanted / lengths.mean().clamp(min=1e-12))
        return rows


def _mask(places: np.ndarray, n: int) -> np.ndarray:
    """Return which of `n` places are named, bool."""
    mask = np.zeros(n, bool)
    mask[places] = True
    return mask


class HyperOfa(InitMethod):
    """Rows that a network predicts from the words that hold a token."""

    name = "hyperofa"
    pretty_name = "HyperOFA"
    summary = "Each new row is predicted from the word vectors of the words that hold its token, by a small network."
    paper_url = "https://arxiv.org/abs/2504.21018"
    citation = (
        "@inproceedings{ozeren-etal-2025-hyperofa, title={{HYPEROFA}: Expanding {LLM} Vocabulary to New Languages via "
        'Hypernetwork-Based Embedding Initialization}, author={{\\"O}zeren, Enes and Liu, Yihong and '
        'Sch{\\"u}tze, Hinrich}, booktitle={Proceedings of the ACL Student Research Workshop}, year={2025}}'
    )
    config_class = HyperOfaConfig
    config: HyperOfaConfig
    needs = SPACE_NEEDS
    extra = "hyperofa"

    def check_resources(self, resources: Resources) -> None:
        """Raise before any work if there is no space of words.

        Raises:
            MissingResourceError: It names the missing arguments.
        """
        super().check_resources(resources)
        check_space(resources, self.config)

    def fit(self, context: FitContext) -> HyperRows:
        """Cover every new token that a word holds.

        Raises:
            InvalidTableError: If the space cannot be read, or its words hold too few source tokens to learn from.
        """
        plan, config = context.plan, self.config
        space = shared_space(context, config)
        left = piece_incidence(space.source, context.source_tokenizer, plan.source, variants=config.variants)
        right = piece_incidence(space.target, context.target_tokenizer, plan.target, variants=config.variants)
        usable = left.covered & np.isin(plan.source.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
        known = np.flatnonzero(usable & context.trained[: plan.n_source])
        if len(known) < _LEAST_TOKENS:
            raise InvalidTableError(
                f"The {len(space.source)} words of {space.source.name} hold {len(known)} of the {plan.n_source} "
                f"source tokens that are trained; {_LEAST_TOKENS} are needed to learn from. Bring vectors of words "
                "of the source language, spelled as its tokenizer spells them."
            )
        covered = right.covered[plan.new_ids]
        source = make_bags(space.source, left, plan.source, known)
        target = make_bags(space.target, right, plan.target, plan.new_ids[covered])
        logger.info("HyperOFA: %d of %d new tokens from %d source tokens", covered.sum(), len(covered), len(known))
        seed = int(torch.randint(2**62, (1,), generator=context.generator))
        rank = config.rank if config.rank is not None else context.rank
        return HyperRows(covered, known, source, target, config, rank, seed, context.device)


__all__ = ["HyperOfa", "HyperOfaConfig", "HyperRows"]
