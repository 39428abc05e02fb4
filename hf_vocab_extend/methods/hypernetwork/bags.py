"""The words that hold each token of a tokenizer, as input of a network."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from ...resources.alignment.ragged import offsets_of, row_of, take_rows
from ...resources.piece_incidence import Incidence
from ...resources.word_vectors import WordVectors
from ...vocab.canonical import CanonicalVocab

N_FEATURES = 3
"""Facts about a token beside its words: how frequent they are, how many there are, whether it starts a word."""

_ROWS_PER_TAKE = 1 << 16


@dataclass(frozen=True, eq=False)
class Bags:
    """Words of tokens in CSR form.

    Attributes:
        offsets: Start of each token, int64, shape `(n + 1,)`.
        words: Rows of ``table``, int64, shape `(n_entries,)`.
        shares: Share of the word's cuts that is this token, times the root of the word's frequency if that is known,
            positive, float32, shape `(n_entries,)`. A word that is one token alone says more about it than one that
            is cut into many, and a frequent word's vector is the better one.
        features: See :data:`N_FEATURES`; not yet standardised, float32, shape `(n, N_FEATURES)`.
        table: Vectors of the words that occur, float32, shape `(n_words, dim)`; never part of a network.
    """

    offsets: np.ndarray
    words: np.ndarray
    shares: np.ndarray
    features: np.ndarray
    table: torch.Tensor

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:
        """Number of words of each token, int64, shape `(n,)`."""
        return np.diff(self.offsets)

    def select(self, rows: np.ndarray) -> Bags:
        """Return the bags of some tokens, in the given order."""
        words, offsets = take_rows(self.words, self.offsets, rows)
        shares, _ = take_rows(self.shares, self.offsets, rows)
        return Bags(offsets, words, shares, self.features[rows], self.table)

    def sample(self, sizes: np.ndarray, generator: torch.Generator) -> Bags:
        """Return a random part of each bag, drawn without replacement.

        Args:
            sizes: How many words to keep of each at most, int64, shape `(n,)`.
            generator: Draws one number for each word of the bags that lose any.
        """
        cut = np.flatnonzero(self.sizes > sizes)
        if len(cut) == 0:
            return self
        part = self.select(cut)
        keys = torch.rand(len(part.words), generator=generator, dtype=torch.float64).numpy()
        order = np.lexsort((keys, row_of(part.offsets)))
        rank = np.arange(len(order)) - np.repeat(part.offsets[:-1], part.sizes)
        lost = np.zeros(len(part.words), bool)
        lost[order] = rank >= np.repeat(sizes[cut], part.sizes)
        keep = np.ones(len(self.words), bool)
        keep[np.isin(row_of(self.offsets), cut)] = ~lost
        lengths = np.minimum(self.sizes, np.maximum(sizes, 0))
        return Bags(offsets_of(lengths), self.words[keep], self.shares[keep], self.features, self.table)

    def pooled(self) -> torch.Tensor:
        """Return the mean of each token's words, each scaled to length 1 and weighed by the square of its share.

        Returns:
            Float32, scaled to length 1 again, shape `(n, dim)`; zeros where the words cancel out.
        """
        scaled = torch.nn.functional.normalize(self.table, dim=1)
        weights = torch.from_numpy(self.shares).square()
        sums = torch.nn.functional.embedding_bag(
            torch.from_numpy(self.words),
            scaled,
            torch.from_numpy(self.offsets),
            mode="sum",
            per_sample_weights=weights,
            include_last_offset=True,
        )
        return torch.nn.functional.normalize(sums, dim=1)

    def fingerprint(self) -> str:
        """Return a hexadecimal key of all that a network sees."""
        digest = hashlib.sha256()
        for array in (self.offsets, self.words, self.shares, self.features, self.table.numpy()):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def make_bags(space: WordVectors, incidence: Incidence, vocab: CanonicalVocab, pieces: np.ndarray) -> Bags:
    """Return the bags of some tokens.

    Args:
        space: The words.
        incidence: Which words hold which tokens of the vocabulary.
        vocab: The vocabulary.
        pieces: The tokens, each held by a word at least, int64, shape `(n,)`.
    """
    in_word = np.bincount(incidence.words, incidence.counts, minlength=max(1, incidence.n_words))
    part = incidence.select(pieces)
    shares = (part.counts / in_word[part.words]).astype(np.float32)
    if space.frequencies is not None:
        frequencies = np.asarray(space.frequencies, np.float64)
        least = frequencies[frequencies > 0].min(initial=1.0)
        shares *= np.sqrt(np.maximum(frequencies[part.words], least) / least).astype(np.float32)
    used, words = np.unique(part.words, return_inverse=True)
    blocks = [space.take(used[start : start + _ROWS_PER_TAKE]) for start in range(0, len(used), _ROWS_PER_TAKE)]
    table = torch.from_numpy(np.concatenate(blocks or [np.zeros((0, space.dim), np.float32)]))
    features = np.zeros((len(pieces), N_FEATURES), np.float32)
    if space.frequencies is not None:
        total = max(float(space.frequencies.sum()), 1e-30)
        mass = np.bincount(row_of(part.offsets), space.frequencies[part.words] / total, len(pieces))
        features[:, 0] = np.log(np.maximum(mass, 1e-12))
    features[:, 1] = np.log(np.maximum(np.diff(part.offsets), 1) / max(1, incidence.n_words))
    features[:, 2] = vocab.starts_word[pieces] == 1
    return Bags(part.offsets, words.reshape(-1).astype(np.int64), shares, features, table)


@dataclass(frozen=True, eq=False)
class Batch:
    """What a network sees.

    Attributes:
        vectors: Words of all tokens end to end, shape `(n_entries, dim)`.
        log_shares: Logarithm of each word's share, shape `(n_entries,)`.
        offsets: Start of each token, int64, shape `(n + 1,)`.
        features: Standardised facts about the tokens, shape `(n, n_features)`; of width 0 for none.
    """

    vectors: torch.Tensor
    log_shares: torch.Tensor
    offsets: torch.Tensor
    features: torch.Tensor

    def padded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return words as a block, `(n, longest, dim)`, zeros behind the last, and lengths, int64, `(n,)`."""
        lengths = self.offsets.diff()
        longest = int(lengths.max())
        rows = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        columns = torch.arange(len(self.vectors), device=lengths.device) - self.offsets[:-1][rows]
        block = self.vectors.new_zeros(len(lengths), longest, self.vectors.shape[1])
        block[rows, columns] = self.vectors
        return block, lengths


@dataclass(frozen=True, eq=False)
class Scales:
    """How words and features are scaled before a network sees them.

    Attributes:
        length: What vectors are divided by, or 0 to scale each to length `sqrt(dim)`.
        centre: Of the features, shape `(n_features,)`.
        spread: Of the features, shape `(n_features,)`.
    """

    length: float
    centre: torch.Tensor
    spread: torch.Tensor

    def features(self, bags: Bags) -> torch.Tensor:
        """Return the standardised features, shape `(n, n_features)`."""
        wanted = torch.from_numpy(bags.features)[:, : len(self.centre)]
        return ((wanted - self.centre) / self.spread).clamp_(-4, 4)

    def vectors(self, table: torch.Tensor) -> torch.Tensor:
        """Return scaled vectors of words."""
        if self.length:
            return table / self.length
        return torch.nn.functional.normalize(table, dim=1) * table.shape[1] ** 0.5


def find_scales(bags: Bags, *, with_features: bool, unit: bool) -> Scales:
    """Measure the scales on the source side.

    Args:
        bags: Of the tokens that are learnt from.
        with_features: Whether networks see features.
        unit: Scale each word to the same length, else all by one number to a root mean square of 1.
    """
    features = torch.from_numpy(bags.features)[:, : N_FEATURES if with_features else 0]
    length = 0.0 if unit else float(bags.table.double().square().mean().sqrt()) or 1.0
    centre = features.mean(0)
    return Scales(length, centre, (features - centre).square().mean(0).sqrt().clamp_(min=1e-3))


def make_batch(bags: Bags, scales: Scales, features: torch.Tensor, device: torch.device) -> Batch:
    """Gather what a network sees of some tokens.

    Args:
        bags: Of these tokens.
        scales: Of words.
        features: Standardised features of these tokens.
        device: Where to put it.
    """
    vectors = scales.vectors(bags.table[torch.from_numpy(bags.words)])
    return Batch(
        vectors.to(device),
        torch.from_numpy(bags.shares).log().to(device),
        torch.from_numpy(bags.offsets).to(device),
        features.to(device),
    )


__all__ = ["N_FEATURES", "Bags", "Batch", "Scales", "find_scales", "make_bags", "make_batch"]
