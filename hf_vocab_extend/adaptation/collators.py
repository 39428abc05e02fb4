"""Blocks into batches with labels: next token, masked words, spans taken out.

Every example draws from a generator of its own, made of the collator's seed and of the example's place in the data
(:data:`~hf_vocab_extend.adaptation.data.DRAW`): the masks of a run do not depend on batch size, number of workers or
processes, nor on where a run was resumed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import InvalidOptionError, UnsupportedTokenizerError
from ..modeling.reading import IGNORED
from .data import DRAW
from .objectives import OBJECTIVES
from .word_units import WordUnits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Batch = dict[str, torch.Tensor]


def _padded(rows: Sequence[np.ndarray], fill: int, multiple: int | None = None) -> torch.Tensor:
    """Return rows of ids as one table filled on the right, int64."""
    width = max(len(row) for row in rows)
    width += -width % (multiple or 1)
    table = np.full((len(rows), width), fill, np.int64)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return torch.from_numpy(table)


class Collator:
    """What the collators share: padding on the right, attention mask, one generator an example.

    Called with a list of examples (mappings with ``input_ids``, or lists of ids), it returns ``input_ids``, ``labels``
    and ``attention_mask``, int64, each of shape `(batch, longest)`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0, pad_to_multiple_of: int | None = None
    ) -> None:
        """Take the tokenizer.

        Args:
            tokenizer: The tokenizer; without a padding token its end token fills, behind the attention mask.
            seed: Seed of all draws.
            pad_to_multiple_of: Round the length of batches up, for example to 8.
        """
        fills = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.fill = next(value for value in fills if value is not None)
        self.seed = seed
        self.pad_to_multiple_of = pad_to_multiple_of
        self._running = np.random.default_rng(seed)

    def __call__(self, examples: Sequence[Any]) -> Batch:
        """Return one batch."""
        features = [example if isinstance(example, Mapping) else {"input_ids": example} for example in examples]
        return self.collate(features)

    def collate(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """Return one batch of examples that are mappings."""
        raise NotImplementedError

    def generator(self, feature: Mapping[str, Any]) -> np.random.Generator:
        """Return the generator of an example; one without a place draws from a running generator."""
        return self._running if DRAW not in feature else np.random.default_rng([self.seed, int(feature[DRAW])])

    def table(self, rows: Sequence[np.ndarray], fill: int) -> torch.Tensor:
        """Return rows as one table."""
        return _padded(rows, fill, self.pad_to_multiple_of)

    def inputs(self, rows: Sequence[np.ndarray], features: Sequence[Mapping[str, Any]]) -> Batch:
        """Return ids and attention mask; places that examples call padding already stay out of the mask."""
        given = (feature.get("attention_mask", ()) for feature in features)
        masks = [
            np.asarray(mask) if len(mask) == len(row) else np.ones_like(row)
            for row, mask in zip(rows, given, strict=True)
        ]
        return {"input_ids": self.table(rows, self.fill), "attention_mask": self.table(masks, 0)}


def _ids(feature: Mapping[str, Any]) -> np.ndarray:
    """Return the ids of an example."""
    return np.asarray(feature["input_ids"], np.int64)


class CausalCollator(Collator):
    """Labels are the inputs: every token is told from those before it.

    Where examples hold ``position_ids``, no attention mask is made (padding on the right is seen by nothing that has a
    loss), because transformers then keeps attention inside documents; the first token of a document has no loss.
    """

    def collate(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """Return one batch."""
        rows = [_ids(feature) for feature in features]
        batch = self.inputs(rows, features)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        if "position_ids" in features[0]:
            places = self.table([np.asarray(feature["position_ids"]) for feature in features], 0)
            batch["position_ids"] = places
            labels = labels.masked_fill(places == 0, IGNORED)
            del batch["attention_mask"]
        return batch | {"labels": labels}


class MaskedCollator(Collator):
    """Masked language modelling (BERT, arXiv 1810.04805), by whole words.

    Each word is chosen with probability ``share``, at least one word an example; of the tokens of chosen words 80 %
    are replaced by the mask token, 10 % by a random token of text, and 10 % stay. Specials are never chosen, and no
    random token is one. The ``whole_word_mask`` of transformers tells words by gaps between character offsets, which
    packed blocks do not carry and which tokens that hold their spaces do not show; and it only ever writes the mask.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        share: float = 0.15,
        whole_words: bool = True,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        """Take the tokenizer and the shares.

        Args:
            tokenizer: A tokenizer with a mask token.
            share: Probability that a word is chosen, above 0 and below 1.
            whole_words: Choose words; if False, tokens.
            mask_share: Share of chosen tokens that become the mask token.
            random_share: Share of chosen tokens that become a random one.
            seed: Seed of all draws.
            pad_to_multiple_of: Round the length of batches up.

        Raises:
            InvalidOptionError: If a share is out of range.
            UnsupportedTokenizerError: If the tokenizer has no mask token, or no ``tokenizer.json`` behind it.
        """
        super().__init__(tokenizer, seed=seed, pad_to_multiple_of=pad_to_multiple_of)
        if not 0 < share < 1:
            raise InvalidOptionError(f"The share of masked words is {share}. Give one above 0 and below 1.")
        if mask_share < 0 or random_share < 0 or mask_share + random_share > 1:
            raise InvalidOptionError(
                f"Of the chosen tokens, {mask_share} become the mask and {random_share} a random one. Give shares of "
                "0 or more that sum to 1 at most."
            )
        if tokenizer.mask_token_id is None:
            raise UnsupportedTokenizerError(
                "The tokenizer has no mask token, which masked language modelling needs. Give it one, or train a "
                "causal model."
            )
        self.share, self.mask_share, self.random_share = share, mask_share, random_share
        self.whole_words = whole_words
        self.mask_id = tokenizer.mask_token_id
        self.units = WordUnits(tokenizer)

    def collate(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """Return one batch."""
        pairs = [self.mask(_ids(feature), self.generator(feature)) for feature in features]
        batch = self.inputs([ids for ids, _ in pairs], features)
        return batch | {"labels": self.table([labels for _, labels in pairs], IGNORED)}

    def mask(self, ids: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return masked ids and labels of one example, each of shape `(n,)`."""
        words = self.units(ids)
        if not self.whole_words:
            words = np.where(words < 0, -1, np.arange(len(ids)))
        chosen = self._choose(words, generator)
        fate = generator.random(len(ids))
        masked = np.where(chosen & (fate < self.mask_share), self.mask_id, ids)
        swapped = chosen & (fate >= self.mask_share) & (fate < self.mask_share + self.random_share)
        randoms = self.units.plain_ids[generator.integers(len(self.units.plain_ids), size=len(ids))]
        return np.where(swapped, randoms, masked), np.where(chosen, ids, IGNORED)

    def _choose(self, words: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return which places belong to chosen words, bool, shape `(n,)`."""
        names, place = np.unique(words[words >= 0], return_inverse=True)
        chosen = np.zeros(len(words), bool)
        if len(names):
            drawn = generator.random(len(names))
            taken = drawn < self.share
            taken[np.argmin(drawn)] = True
            chosen[words >= 0] = taken[place]
        return chosen


_SENTINEL = re.compile(r"<extra_id_(\d+)>")


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a tokenizer's sentinels ``<extra_id_0>``, ``<extra_id_1>``, ... in this order.

    Raises:
        UnsupportedTokenizerError: If it has none.
    """
    matches = ((_SENTINEL.fullmatch(token), index) for token, index in tokenizer.get_vocab().items())
    found = sorted((int(match[1]), index) for match, index in matches if match)
    if not found:
        raise UnsupportedTokenizerError(
            "The tokenizer has no sentinels (<extra_id_0>, ...), which span corruption needs. Extend with "
            "mode='extend', which keeps those of the source, or take a tokenizer that has them."
        )
    return [index for _, index in found]


def span_counts(n_tokens: int, share: float, mean_length: float, n_sentinels: int) -> tuple[int, int]:
    """Return how many tokens of a text are taken out, and in how many spans.

    Args:
        n_tokens: Length of the text.
        share: Share of tokens to take out.
        mean_length: Mean length of a span.
        n_sentinels: Most spans that can be named.
    """
    taken = min(max(round(n_tokens * share), 1), n_tokens - 1)
    spans = min(max(round(taken / mean_length), 1), n_sentinels, taken, n_tokens - taken)
    return taken, spans


def span_text_length(block_size: int, share: float, mean_length: float, n_sentinels: int) -> int:
    """Return the longest text whose input after span corruption, end token included, fills ``block_size`` at most."""

    def input_length(n_tokens: int) -> int:
        taken, spans = span_counts(n_tokens, share, mean_length, n_sentinels)
        return n_tokens - taken + spans + 1

    length = max(block_size - 1, 2)
    while input_length(length + 1) <= block_size:
        length += 1
    return length


class SpanCollator(Collator):
    """Span corruption for encoder-decoder models with sentinels (T5, arXiv 1910.10683, section 3.1.4).

    Random spans are taken out, each replaced by a sentinel; the labels are the sentinels, each with its span. Text and
    spans alternate, text first. A text of `n` tokens with `m` taken out in `k` spans gives `n - m + k + 1` inputs and
    `m + k + 1` labels, the end token included. The model makes the decoder's inputs from the labels.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        share: float = 0.15,
        mean_length: float = 3.0,
        seed: int = 0,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        """Take the tokenizer and the shares.

        Args:
            tokenizer: A tokenizer with sentinels and an end token.
            share: Share of tokens that are taken out, above 0 and below 1.
            mean_length: Mean length of a span, in tokens.
            seed: Seed of all draws.
            pad_to_multiple_of: Round the length of batches up.

        Raises:
            InvalidOptionError: If a number is out of range.
            UnsupportedTokenizerError: If the tokenizer has no sentinels.
        """
        super().__init__(tokenizer, seed=seed, pad_to_multiple_of=pad_to_multiple_of)
        if not 0 < share < 1 or mean_length < 1:
            raise InvalidOptionError(
                f"Spans: share {share}, mean length {mean_length}. Give a share above 0 and below 1, and 1 or more."
            )
        self.share, self.mean_length = share, mean_length
        self.sentinels = np.array(sentinel_ids(tokenizer), np.int64)
        self.end = np.array([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], np.int64)

    def text_length(self, block_size: int) -> int:
        """Return the length of blocks whose corrupted inputs are ``block_size`` long at most."""
        return span_text_length(block_size, self.share, self.mean_length, len(self.sentinels))

    def collate(self, features: Sequence[Mapping[str, Any]]) -> Batch:
        """Return one batch."""
        pairs = [self.corrupt(_ids(feature), self.generator(feature)) for feature in features]
        batch = self.inputs([ids for ids, _ in pairs], [{}] * len(pairs))
        return batch | {"labels": self.table([labels for _, labels in pairs], IGNORED)}

    def corrupt(self, ids: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return inputs and labels of one text, shapes `(n - m + k + 1,)` and `(m + k + 1,)`."""
        if len(ids) < 2:
            return np.concatenate([ids, self.end]), np.concatenate([self.sentinels[:1], self.end])
        taken, spans = span_counts(len(ids), self.share, self.mean_length, len(self.sentinels))
        kept_lengths = _parts(len(ids) - taken, spans, generator)
        taken_lengths = _parts(taken, spans, generator)
        lengths = np.stack([kept_lengths, taken_lengths], 1).reshape(-1)
        pieces = np.split(ids, np.cumsum(lengths)[:-1])
        inputs, labels = [], []
        for index in range(spans):
            sentinel = self.sentinels[index : index + 1]
            inputs += [pieces[2 * index], sentinel]
            labels += [sentinel, pieces[2 * index + 1]]
        return np.concatenate([*inputs, self.end]), np.concatenate([*labels, self.end])


def _parts(total: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return ``count`` lengths of 1 or more that sum to ``total``, all such rows alike probable."""
    cuts = np.sort(generator.choice(total - 1, count - 1, replace=False)) + 1 if count > 1 else np.zeros(0, np.int64)
    return np.diff(np.concatenate([[0], cuts, [total]]))


COLLATORS: dict[str, Callable[..., Collator]] = {
    "causal": CausalCollator,
    "masked": MaskedCollator,
    "span": SpanCollator,
}
"""Objective to its collator."""


def make_collator(objective: str, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Collator:
    """Return the collator of an objective.

    Args:
        objective: A name of :data:`COLLATORS`; :func:`~hf_vocab_extend.adaptation.objectives.choose_objective` finds
            it by the model's class.
        tokenizer: The tokenizer.
        options: Options of the collator, for example ``seed``.

    Raises:
        InvalidOptionError: If there is no such objective, or an option is out of range.
        UnsupportedTokenizerError: If the tokenizer lacks what the objective needs.
    """
    if objective not in COLLATORS:
        raise InvalidOptionError(f"There is no objective '{objective}'. Take {', '.join(OBJECTIVES)}.")
    return COLLATORS[objective](tokenizer, **options)


__all__ = [
    "COLLATORS",
    "CausalCollator",
    "Collator",
    "MaskedCollator",
    "SpanCollator",
    "make_collator",
    "sentinel_ids",
    "span_counts",
    "span_text_length",
]
