"""One space of the words of two languages, built from nothing but their parallel text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._logging import get_logger
from ..errors import CorpusError, InvalidOptionError, OutputFolderError
from ..vocab.canonical import canonicalise
from . import cache
from .alignment.bitext import Bitext, read_bitext
from .alignment.ragged import row_of
from .alignment.run import tokenizer_fingerprint
from .alignment.units import Units
from .cooccurrence import association, left_factors
from .parallel import Pairs, open_pairs
from .word_pairs import unit_texts
from .word_vectors import SIDES, WordVectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

CACHE_KIND = "bilingual"
_VERSION = 1


@dataclass(frozen=True)
class BilingualOptions:
    """How a space is built.

    Attributes:
        build: A name in :data:`BUILDS`.
        dim: Dimensions, at most.
        min_count: Words in fewer pairs get no vector.
    """

    build: str = "pairs"
    dim: int = 300
    min_count: int = 2


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


Sides = tuple[SideWords, SideWords]


def bilingual_space(
    pairs: Pairs,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    options: BilingualOptions | None = None,
    *,
    seed: int = 0,
    use_cache: bool = True,
) -> tuple[WordVectors, WordVectors]:
    """Build a space of the words of parallel text, or take it from the cache.

    Words are what the tokenizers' own normalisation leaves of them (lower case where that lowers it), so that they
    and the tokens are spelled alike; in scripts without spaces each token stands for itself.

    Args:
        pairs: Texts that are translations of each other.
        source_tokenizer: Cuts the first text of each pair.
        target_tokenizer: Cuts the second.
        options: How; by default :class:`BilingualOptions`.
        seed: Of the random start of the decomposition.
        use_cache: Look the space up, and keep it.

    Returns:
        Words of the source and of the target side with their counts, in one system of coordinates.

    Raises:
        CorpusError: If the text cannot be read, or no word of a side occurs often enough.
        InvalidOptionError: If there is no such build, or a number is below 1.
    """
    options = options or BilingualOptions()
    if options.build not in BUILDS:
        raise InvalidOptionError(f"build is {options.build!r}. Choose one of: {', '.join(sorted(BUILDS))}.")
    if options.dim < 1 or options.min_count < 1:
        raise InvalidOptionError(f"dim is {options.dim} and min_count {options.min_count}. Both must be at least 1.")
    pairs = open_pairs(pairs)
    tokenizers = source_tokenizer, target_tokenizer
    key = _key(pairs, tokenizers, options, seed) if use_cache else None
    arrays = _load(key)
    if arrays is None:
        arrays = _build(pairs, tokenizers, options, seed)
        _store(key, arrays)
    source, target = (_space(arrays, side, pairs.name) for side in SIDES)
    logger.info("A space of %d source and %d target words, %d dimensions.", len(source), len(target), source.dim)
    return source, target


def _build(
    pairs: Pairs,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    options: BilingualOptions,
    seed: int,
) -> dict[str, np.ndarray]:
    """Read the pairs and build the space."""
    sides = read_words(pairs, *tokenizers)
    _check_frequent(sides, options.min_count, pairs.name)
    vectors = BUILDS[options.build](sides, options, seed)
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


def _by_pairs(sides: Sides, options: BilingualOptions, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Describe each word by the pairs that it occurs in, on either side."""
    source, target = sides
    left, right = source.unique(), target.unique()
    n_source, n_words = len(source.words), len(source.words) + len(target.words)
    rows, columns = np.concatenate([left[0], right[0] + n_source]), np.concatenate([left[1], right[1]])
    shape = (n_words, int(columns.max()) + 1)
    kept, matrix = association(rows, columns, shape, min_count=options.min_count)
    vectors = np.zeros((n_words, min(options.dim, *matrix.shape)), np.float32)
    vectors[kept] = left_factors(matrix, options.dim, seed).numpy()
    return vectors[:n_source], vectors[n_source:]


Build = Callable[[Sides, BilingualOptions, int], tuple[np.ndarray, np.ndarray]]
BUILDS: dict[str, Build] = {"pairs": _by_pairs}
"""Vectors of the words of both sides, float32, `(n_words, dim)` each, zeros for those that get none, by name."""


def _key(
    pairs: Pairs,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    options: BilingualOptions,
    seed: int,
) -> str:
    """Return what the space is kept under."""
    return cache.content_key(
        version=_VERSION,
        pairs=pairs.fingerprint(),
        tokenizers=[tokenizer_fingerprint(tokenizer) for tokenizer in tokenizers],
        seed=seed,
        **asdict(options),
    )


def _load(key: str | None) -> dict[str, np.ndarray] | None:
    """Return a cached space, or None."""
    found = None if key is None else cache.load(CACHE_KIND, key)
    wanted = {f"{side}_{part}" for side in SIDES for part in ("words", "vectors", "frequencies")}
    if found is None or not wanted <= found[0].keys():
        return None
    logger.info("The space of the pairs is taken from the cache (%s).", (key or "")[:16])
    return found[0]


def _store(key: str | None, arrays: dict[str, np.ndarray]) -> None:
    """Keep a space; where that fails, only the next call is slower."""
    if key is None:
        return
    try:
        cache.store(CACHE_KIND, key, arrays)
    except OutputFolderError as error:
        logger.warning("%s", error)


def _space(arrays: dict[str, np.ndarray], side: str, name: str) -> WordVectors:
    """Make one side of the space of its arrays; words are kept as UTF-8 bytes with line ends between them."""
    words = arrays[f"{side}_words"].tobytes().decode("utf-8").split("\n")
    return WordVectors(
        words, arrays[f"{side}_vectors"], arrays[f"{side}_frequencies"], f"the {side} words of the pairs {name}"
    )


__all__ = ["BUILDS", "BilingualOptions", "SideWords", "bilingual_space", "read_words"]
