"""HyperOFA: a network that has learnt source rows from the words that hold their tokens predicts the new rows.

Ozeren, Liu & Schütze 2025, arXiv 2504.21018. Tokens of both vocabularies are bags of word vectors in one multilingual
space. Here a closed form comes first, ridge regression on the mean word vector plus the mean of what that leaves at
similar source tokens, and the network adds to it; ``HyperOfaConfig.package()`` has the paper's settings.
"""

from __future__ import annotations

import numpy as np
import torch

from .._logging import get_logger
from .._optional import require
from ..errors import InvalidTableError
from ..resources.piece_incidence import piece_incidence
from ..vocab.canonical import TokenKind
from .base import FitContext, InitMethod, Resources
from .hypernetwork.bags import make_bags
from .hypernetwork.config import HyperOfaConfig
from .hypernetwork.rows import HyperRows
from .hypernetwork.storage import Shelf
from .shared_space import SPACE_NEEDS, check_space, shared_space

logger = get_logger(__name__)

_LEAST_TOKENS = 8


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
            MissingDependencyError: If a network is to be trained and accelerate is not installed.
        """
        super().check_resources(resources)
        check_space(resources, self.config)
        if self.config.network != "none":
            require("accelerate", "hyperofa", ' To do without, choose network="none".')

    def fit(self, context: FitContext) -> HyperRows:
        """Cover every new token that a word holds.

        Raises:
            InvalidOptionError: If options do not fit the space, or kept hypernetworks are of another rank.
            InvalidTableError: If the space cannot be read, or its words hold too few source tokens to learn from,
                or kept hypernetworks are of another space.
            OutputFolderError: If the folder of hypernetworks holds other things.
        """
        plan, config = context.plan, self.config
        space = shared_space(context, config)
        config.check_dim(space.source.dim)
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
        context.notes.append(
            f"HyperOFA: {int(covered.sum())} of {len(covered)} new tokens occur in words of {space.target.name} and "
            f"are predicted from {len(known)} source tokens; network: {config.network}."
        )
        seed = int(torch.randint(2**62, (1,), generator=context.generator))
        rank = config.rank if config.rank is not None else context.rank
        shelf = None if config.folder is None else Shelf.open(config.folder, source.fingerprint(), rank)
        return HyperRows(covered, known, source, target, config, rank, seed, context.device, shelf)


__all__ = ["HyperOfa", "HyperOfaConfig", "HyperRows"]
