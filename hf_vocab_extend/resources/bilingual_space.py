"""One space of the words of two languages, built from nothing but parallel text, a dictionary, or both.

Two ways. ``pairs`` describes each word by the sentence pairs that it occurs in, on either side (inverted index,
Sogaard et al. 2015; Levy et al. 2017, arXiv 1608.05426). ``aligned`` places the words of one language and then each
word of the other where its translations are, as the alignment of the words counts them: a space in which a nearest
neighbour is a translation and not only a word of the same sentences.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._logging import get_logger
from ..errors import CorpusError, InvalidOptionError, MissingResourceError
from ..vocab.canonical import canonicalise
from . import cache
from .alignment.bitext import Bitext, read_bitext
from .alignment.counts import UnitCounts
from .alignment.ragged import row_of
from .alignment.run import align_pairs, tokenizer_fingerprint
from .alignment.tables import read_dictionary
from .alignment.units import Units
from .cooccurrence import SparseRows, association, left_factors
from .parallel import Pairs, open_pairs
from .word_pairs import unit_texts
from .word_vectors import SIDES, WordVectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

CACHE_KIND = "bilingual"
_VERSION = 2
_SIGNATURE = 0.8  # share of a source word's own signature in its vector; 0.7 to 1 are alike on dev text, 0.4 is worse


@dataclass(frozen=True)
class BilingualOptions:
    """How a space is built.

    Attributes:
        build: A name in :data:`BUILDS`.
        dim: Dimensions, at most; None for what :data:`DIMS` has for the build.
        min_count: Words in fewer pairs are not described by the pairs that they occur in: of ``pairs`` they get no
            vector, of ``aligned`` one of their translations alone.
    """

    build: str = "aligned"
    dim: int | None = None
    min_count: int = 2

    @property
    def width(self) -> int:
        """Number of dimensions."""
        return DIMS[self.build] if self.dim is None else self.dim


@dataclass(frozen=True, eq=False)
class SideWords:
    """The words of one side of parallel text.

    Attributes:
        words: Different words, the most frequent first, length `n_words`.
        frequencies: How often each occurs, int64, shape `(n_words,)`.
        ids: Word of each occurrence, int64, shape `(n_occurrences,)`.
        pairs: Pair of each occurrence, int64, shape `(n_occurrences,)`.
    """

    words: list[str]
    frequencies: np.ndarray
    ids: np.ndarray
    pairs: np.ndarray

    def unique(self) -> tuple[np.ndarray, np.ndarray]:
        """Return which word occurs in which pair, each once: words and pairs, int64, `(n,)` each."""
        n_pairs = int(self.pairs.max(initial=0)) + 1
        keys = np.unique(self.ids * n_pairs + self.pairs)
        return keys // n_pairs, keys % n_pairs

    @classmethod
    def none(cls) -> SideWords:
        """Return a side without words."""
        return cls([], *(np.zeros(0, np.int64) for _ in range(3)))

    def with_words(self, texts: Sequence[str]) -> tuple[SideWords, np.ndarray]:
        """Find texts among the words, and add those that are not there as words that were seen once.

        Returns:
            The side with these words, and the place of each text, int64, shape `(len(texts),)`; -1 for an empty one.
        """
        index = {word: place for place, word in enumerate(self.words)}
        places = [index.setdefault(text, len(index)) if text else -1 for text in texts]
        new = np.ones(len(index) - len(self.words), np.int64)
        side = SideWords(list(index), np.concatenate([self.frequencies, new]), self.ids, self.pairs)
        return side, np.asarray(places, np.int64)


@dataclass(frozen=True, eq=False)
class Translations:
    """How often words of two sides translate each other.

    Attributes:
        source: Words of the source side, int64, shape `(n_links,)`.
        target: Words of the target side, int64, shape `(n_links,)`; each link once, ordered by target, then source.
        counts: Positive, float64, shape `(n_links,)`.
    """

    source: np.ndarray
    target: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class Given:
    """What a space is built from.

    Attributes:
        pairs: Parallel text, or None.
        dictionary: Pairs of words, or None; one of the two is there.
        tokenizers: Of the source and of the target side.
    """

    pairs: Pairs | None
    dictionary: Pairs | None
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase]

    @property
    def name(self) -> str:
        """What messages call it."""
        texts = (("the pairs", self.pairs), ("the dictionary", self.dictionary))
        return " and ".join(f"{what} {one.name}" for what, one in texts if one is not None)


Sides = tuple[SideWords, SideWords]


def bilingual_space(
    pairs: Any,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    options: BilingualOptions | None = None,
    *,
    dictionary: Any = None,
    seed: int = 0,
    use_cache: bool = True,
) -> tuple[WordVectors, WordVectors]:
    """Build a space of the words of parallel text, or take it from the cache.

    Words are what the tokenizers' own normalisation leaves of them (lower case where that lowers it), so that they
    and the tokens are spelled alike; in scripts without spaces each token stands for itself.

    Args:
        pairs: Texts that are translations of each other, whatever :func:`~.parallel.open_pairs` reads; None if there
            is a dictionary.
        source_tokenizer: Cuts the first text of each pair.
        target_tokenizer: Cuts the second.
        options: How; by default :class:`BilingualOptions`.
        dictionary: Pairs of words, which ``aligned`` counts once each beside the text's. Entries of several words are
            left out.
        seed: Of all that is random.
        use_cache: Look the space up, and keep it.

    Returns:
        Words of the source and of the target side with their counts, in one system of coordinates.

    Raises:
        CorpusError: If the text cannot be read, or no word of a side occurs often enough.
        InvalidOptionError: If there is no such build, or a number is below 1.
        MissingResourceError: If the build needs text and there is none.
    """
    options = options or BilingualOptions()
    if options.build not in BUILDS:
        raise InvalidOptionError(f"build is {options.build!r}. Choose one of: {', '.join(sorted(BUILDS))}.")
    if options.width < 1 or options.min_count < 1:
        raise InvalidOptionError(f"dim is {options.width} and min_count {options.min_count}. Both must be at least 1.")
    if isinstance(dictionary, dict):
        dictionary = list(dictionary.items())
    opened = [None if one is None else open_pairs(one) for one in (pairs, dictionary)]
    if opened[0] is None and (opened[1] is None or options.build not in FROM_DICTIONARY):
        raise MissingResourceError(
            f"There is no parallel text, which a space of the kind '{options.build}' is built from. Bring parallel=."
        )
    if options.build not in FROM_DICTIONARY:
        opened[1] = None
    given = Given(opened[0], opened[1], (source_tokenizer, target_tokenizer))
    key = _key(given, options, seed) if use_cache else None
    arrays = _load(key)
    if arrays is None:
        arrays = _build(given, options, seed, use_cache)
        if key is not None:
            cache.keep(CACHE_KIND, key, arrays)
    source, target = (_space(arrays, side, given.name) for side in SIDES)
    logger.info("A space of %d source and %d target words, %d dimensions.", len(source), len(target), source.dim)
    return source, target


def _build(given: Given, options: BilingualOptions, seed: int, use_cache: bool) -> dict[str, np.ndarray]:
    """Read the pairs and build the space."""
    sides = (SideWords.none(), SideWords.none())
    if given.pairs is not None:
        sides = read_words(given.pairs, *given.tokenizers)
        _check_frequent(sides, options.min_count, given.pairs.name)
    sides, vectors = BUILDS[options.build](given, sides, options, seed, use_cache)
    arrays: dict[str, np.ndarray] = {}
    for name, side, rows in zip(SIDES, sides, vectors, strict=True):
        kept = np.flatnonzero(rows.any(1))
        words = "\n".join(side.words[place] for place in kept.tolist())
        arrays[f"{name}_words"] = np.frombuffer(words.encode("utf-8"), np.uint8)
        arrays[f"{name}_vectors"] = rows[kept]
        arrays[f"{name}_frequencies"] = side.frequencies[kept].astype(np.float64)
    return arrays


def _check_frequent(sides: Sides, min_count: int, name: str) -> None:
    """Raise if no word of a side occurs in enough pairs."""
    for which, side in zip(SIDES, sides, strict=True):
        most = int(np.bincount(side.unique()[0]).max(initial=0))
        if most < min_count:
            raise CorpusError(
                f"No {which} word occurs in {min_count} pairs of {name}: the most frequent one occurs in {most}. "
                "Bring more text or lower min_count."
            )


def read_words(
    pairs: Pairs, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> Sides:
    """Return the words of both sides of parallel text."""
    bitext = read_bitext(pairs, source_tokenizer, target_tokenizer, unit="word")
    return _side(bitext, "source", source_tokenizer), _side(bitext, "target", target_tokenizer)


def _side(bitext: Bitext, name: str, tokenizer: PreTrainedTokenizerBase) -> SideWords:
    """Return the words of one side; those that differ in their tokens and not in their text are one."""
    units: Units = getattr(bitext, name)
    index: dict[str, int] = {}
    texts = unit_texts(units, np.arange(len(units)), canonicalise(tokenizer))
    places = np.fromiter((index.setdefault(text, len(index)) for text in texts), np.int64, len(texts))
    counts = np.bincount(places, units.frequency, len(index)).astype(np.int64)
    found = sorted((-count, word) for word, count in zip(index, counts.tolist(), strict=True) if word)
    ranks = np.full(len(index), -1, np.int64)  # of bytes that are no whole characters
    ranks[[index[word] for _, word in found]] = np.arange(len(found))
    ids = ranks[places][getattr(bitext, f"{name}_ids")]
    pairs = row_of(getattr(bitext, f"{name}_offsets"))
    frequencies = -np.asarray([count for count, _ in found], np.int64)
    return SideWords([word for _, word in found], frequencies, ids[ids >= 0], pairs[ids >= 0])


def _by_pairs(
    given: Given, sides: Sides, options: BilingualOptions, seed: int, use_cache: bool
) -> tuple[Sides, Matrices]:
    """Describe each word by the pairs that it occurs in, on either side."""
    source, target = sides
    left, right = source.unique(), target.unique()
    n_source, n_words = len(source.words), len(source.words) + len(target.words)
    rows, columns = np.concatenate([left[0], right[0] + n_source]), np.concatenate([left[1], right[1]])
    shape = (n_words, int(columns.max(initial=-1)) + 1)
    kept, matrix = association(rows, columns, shape, min_count=options.min_count)
    vectors = np.zeros((n_words, min(options.width, *matrix.shape)), np.float32)
    vectors[kept] = left_factors(matrix, options.width, seed).numpy()
    return sides, (vectors[:n_source], vectors[n_source:])


def _by_translations(
    given: Given, sides: Sides, options: BilingualOptions, seed: int, use_cache: bool
) -> tuple[Sides, Matrices]:
    """Place the source words, and each target word at the mean of its translations, weighed by their counts.

    A source word has a signature of its own, random and so nearly orthogonal to all others (random indexing, Kanerva
    et al. 2000), beside what the pairs say about it. With the latter alone, words of like meaning lie so close that
    a softmax spreads over them.
    """
    sides, links = _translations(given, sides, use_cache)
    source = _unit(_placed(given, sides, options, seed))
    shape = (len(sides[1].words), len(sides[0].words))
    matrix = SparseRows.of(links.target, links.source, links.counts, shape)
    return sides, (source, _unit((matrix @ torch.from_numpy(source)).numpy()))


def _placed(given: Given, sides: Sides, options: BilingualOptions, seed: int) -> np.ndarray:
    """Return vectors of the source words: a signature, and the pairs that they occur in if there is text."""
    n_source = len(sides[0].words)
    described = np.zeros((n_source, 0), np.float32)
    if given.pairs is not None and options.width > 1:
        half = dataclasses.replace(options, dim=options.width // 2)
        described = _unit(_by_pairs(given, sides, half, seed, False)[1][0])
    random = torch.Generator().manual_seed(seed)
    signatures = _unit(torch.randn(n_source, options.width - described.shape[1], generator=random).numpy())
    return np.concatenate([_SIGNATURE * signatures, (1 - _SIGNATURE**2) ** 0.5 * described], 1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1, float32; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)


def _single_words(dictionary: Pairs) -> list[tuple[str, str]]:
    """Return the entries of one word on each side: a phrase is none of the words that tokens are looked for in."""
    return [pair for pair in dictionary if not any(char.isspace() for text in pair for char in text)]


def _translations(given: Given, sides: Sides, use_cache: bool) -> tuple[Sides, Translations]:
    """Return the words of text and dictionary, and how often they translate each other."""
    counted: list[UnitCounts] = []
    if given.pairs is not None:
        counted.append(align_pairs(given.pairs, *given.tokenizers, unit="word", use_cache=use_cache))
    words = [] if given.dictionary is None else _single_words(given.dictionary)
    if words:
        counted.append(read_dictionary(words, *given.tokenizers))
    if not counted:
        raise CorpusError(
            f"Every entry of {given.name} has several words on a side, and words are placed one by one. Bring entries "
            "of single words, or parallel text."
        )
    vocabs = [canonicalise(tokenizer) for tokenizer in given.tokenizers]
    left, right = sides
    found = []
    for counts in counted:
        texts = [
            unit_texts(one, np.arange(len(one)), vocab)
            for one, vocab in zip((counts.source, counts.target), vocabs, strict=True)
        ]
        left, source = left.with_words(texts[0])
        right, target = right.with_words(texts[1])
        found.append((source[counts.source_index], target[counts.target_index], counts.counts))
    source, target, amounts = (np.concatenate(column) for column in zip(*found, strict=True))
    known = (source >= 0) & (target >= 0) & (amounts > 0)
    if not known.any():
        raise CorpusError(f"No word of {given.name} has a translation. Bring more text, or a dictionary of words.")
    keys, places = np.unique(target[known] * len(left.words) + source[known], return_inverse=True)
    amounts = np.bincount(places, amounts[known])
    return (left, right), Translations(keys % len(left.words), keys // len(left.words), amounts)


Matrices = tuple[np.ndarray, np.ndarray]
Build = Callable[[Given, Sides, BilingualOptions, int, bool], tuple[Sides, Matrices]]
BUILDS: dict[str, Build] = {"aligned": _by_translations, "pairs": _by_pairs}
"""Words of both sides and their vectors, float32, `(n_words, dim)` each, zeros for those without, by name."""

DIMS = {"aligned": 512, "pairs": 300}
"""Number of dimensions of each build where none is asked for."""

FROM_DICTIONARY = frozenset({"aligned"})
"""Builds that a dictionary joins, and that it suffices for."""


def _key(given: Given, options: BilingualOptions, seed: int) -> str:
    """Return what the space is kept under."""
    return cache.content_key(
        version=_VERSION,
        texts=[None if one is None else one.fingerprint() for one in (given.pairs, given.dictionary)],
        tokenizers=[tokenizer_fingerprint(tokenizer) for tokenizer in given.tokenizers],
        seed=seed,
        **(asdict(options) | {"dim": options.width}),
    )


def _load(key: str | None) -> dict[str, np.ndarray] | None:
    """Return a cached space, or None."""
    found = None if key is None else cache.load(CACHE_KIND, key)
    wanted = {f"{side}_{part}" for side in SIDES for part in ("words", "vectors", "frequencies")}
    if found is None or not wanted <= found[0].keys():
        return None
    logger.info("The space of the pairs is taken from the cache (%s).", (key or "")[:16])
    return found[0]


def _space(arrays: dict[str, np.ndarray], side: str, name: str) -> WordVectors:
    """Make one side of the space of its arrays; words are kept as UTF-8 bytes with line ends between them."""
    words = arrays[f"{side}_words"].tobytes().decode("utf-8").split("\n")
    return WordVectors(words, arrays[f"{side}_vectors"], arrays[f"{side}_frequencies"], f"the {side} words of {name}")


__all__ = ["BUILDS", "DIMS", "FROM_DICTIONARY", "BilingualOptions", "SideWords", "bilingual_space", "read_words"]
