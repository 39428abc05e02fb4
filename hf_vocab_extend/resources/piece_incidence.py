"""Which words of a space hold which tokens of a tokenizer: a sparse matrix, and means over it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from tokenizers import Tokenizer

from .._logging import get_logger, progress
from ..errors import InvalidOptionError, InvalidTableError
from ..vocab.canonical import CanonicalVocab, Family, TokenKind
from ..vocab.pipeline import backend_of, nodes
from ..vocab.reachability import whole_lines
from . import cache as stored
from .alignment.ragged import offsets_of, row_of, take_rows
from .word_vectors import BEGINS, WordVectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

_VERSION = 1
_WORDS_PER_BLOCK = 20_000
_WORDS_WORTH_KEEPING = 20_000  # fewer are cut again sooner than a file of them is found
_KEEPS_FRONT = {"NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "Precompiled", "Replace"}
_FLOATS_PER_BLOCK = 1 << 25  # of the words' vectors, at most, in float64: 256 MiB


@dataclass(frozen=True, eq=False)
class Incidence:
    """Which words hold each token, in CSR form; a token without words is not covered.

    Attributes:
        offsets: Start of each token in ``words``, int64, shape `(n_pieces + 1,)`.
        words: Places of the words that hold the token, int32, shape `(n_entries,)`, ascending within a token.
        counts: In how many of the word's surface forms the token occurs, uint8, shape `(n_entries,)`, 1 to 4.
        n_words: Number of words of the space.
    """

    offsets: np.ndarray
    words: np.ndarray
    counts: np.ndarray
    n_words: int

    @property
    def n_pieces(self) -> int:
        """Number of tokens."""
        return len(self.offsets) - 1

    @property
    def covered(self) -> np.ndarray:
        """Which tokens occur in a word, bool, shape `(n_pieces,)`."""
        return np.diff(self.offsets) > 0

    def select(self, pieces: np.ndarray) -> Incidence:
        """Return the rows of some tokens, in the given order."""
        words, offsets = take_rows(self.words, self.offsets, pieces)
        counts, _ = take_rows(self.counts, self.offsets, pieces)
        return Incidence(offsets, words, counts, self.n_words)

    def mean(
        self, vectors: WordVectors | np.ndarray, weights: np.ndarray | None = None, use_counts: bool = True
    ) -> np.ndarray:
        """Average over the words of each token.

        Args:
            vectors: Vectors of the words, `(n, dim)` with `n >= n_words`; of a space only rows that count are read.
            weights: Weight of each word, not negative, shape `(n,)`; None weighs all alike.
            use_counts: Weigh a word once more for each of its surface forms that hold the token.

        Returns:
            Float32, shape `(n_pieces, dim)`, summed in float64 in the order of the words, so that it does not depend
            on the number of threads; zeros for tokens without words, or with words of weight 0 alone.

        Raises:
            InvalidTableError: If there are fewer vectors or weights than words, or a vector is not finite.
        """
        if len(vectors) < self.n_words or (weights is not None and len(weights) < self.n_words):
            raise InvalidTableError(
                f"The tokens were looked for in {self.n_words} words, and there are {len(vectors)} vectors"
                + ("." if weights is None else f" and {len(weights)} weights.")
            )
        dim = vectors.dim if isinstance(vectors, WordVectors) else vectors.shape[1]
        entries = np.ones(len(self.words)) if weights is None else weights[self.words].astype(np.float64)
        if use_counts:
            entries *= self.counts
        totals = np.bincount(row_of(self.offsets), entries, self.n_pieces)
        means = np.zeros((self.n_pieces, dim), np.float32)
        step = max(1, _FLOATS_PER_BLOCK // dim)
        carry, owner = np.zeros(dim), -1  # of a token whose words fill more than one block
        for start in range(0, len(self.words), step):
            stop = min(start + step, len(self.words))
            first = int(np.searchsorted(self.offsets, start, "right")) - 1
            last = int(np.searchsorted(self.offsets, stop - 1, "right")) - 1
            bags = np.clip(self.offsets[first : last + 2], start, stop) - start
            sums = _weighted_sums(vectors, self.words[start:stop], entries[start:stop], bags)
            if first == owner:
                sums[0] += carry
            carry, owner = sums[-1].copy(), last
            means[first : last + 1] = sums / np.maximum(totals[first : last + 1], np.finfo(np.float64).tiny)[:, None]
        return means


def _weighted_sums(
    vectors: WordVectors | np.ndarray, words: np.ndarray, weights: np.ndarray, offsets: np.ndarray
) -> np.ndarray:
    """Return weighted sums of words' vectors, float64, shape `(len(offsets) - 1, dim)`."""
    used = np.zeros(len(vectors), bool)
    used[words] = True
    places = np.flatnonzero(used)
    new_place = np.zeros(len(vectors), np.int64)
    new_place[places] = np.arange(len(places))
    rows = vectors.take(places) if isinstance(vectors, WordVectors) else vectors[places]
    sums = torch.nn.functional.embedding_bag(
        torch.from_numpy(new_place[words]),
        torch.from_numpy(rows.astype(np.float64)),
        torch.from_numpy(offsets),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights),
        include_last_offset=True,
    )
    return sums.numpy()


def capital(word: str) -> str:
    """Return a word with a capital first letter, the rest as it is."""
    return word[:1].title() + word[1:]


def _as_written(word: str, begins: bool, marked: bool) -> tuple[str, ...]:
    """Return the word behind a space, unless it is known to begin within a word."""
    return (" " + word if begins else word,)


def _two(word: str, begins: bool, marked: bool) -> tuple[str, ...]:
    """Return what WECHSEL cuts: with and without a space in front."""
    return word, " " + word


def _four(word: str, begins: bool, marked: bool) -> tuple[str, ...]:
    """Return the word with and without a space in front and a capital letter."""
    return word, " " + word, capital(word), " " + capital(word)


def _published(word: str, begins: bool, marked: bool) -> tuple[str, ...]:
    """Return what OFA cuts, without its doubled and trailing spaces.

    A key whose mark says that a word begins there holds a space of its own, so that both plain forms have one, and
    the form with a capital has none. Without a mark it is the other way round.
    """
    if begins and marked:
        return " " + word, " " + word, capital(word)
    return word, " " + word, " " + capital(word)


VARIANTS: dict[str, Callable[[str, bool, bool], tuple[str, ...]]] = {
    "one": _as_written,
    "two": _two,
    "four": _four,
    "published": _published,
}
"""Surface forms that a word is cut in, by the name of the option.

Each takes the word, whether it begins at the edge of a word, and whether that is known from a mark, and gives the same
number of strings for every word.
"""


def piece_incidence(
    space: WordVectors,
    tokenizer: PreTrainedTokenizerBase,
    vocab: CanonicalVocab,
    *,
    variants: str = "four",
    cache: bool = True,
    n_words: int | None = None,
) -> Incidence:
    """Find out which words of a space hold which tokens.

    A word is cut in each of its surface forms; a token that occurs twice in one form counts once for it. Only ordinary
    tokens and bytes are looked for: no special, unknown or unused ones.

    Args:
        space: The words, and their bounds if they have any. No vector is read.
        tokenizer: Cuts them.
        vocab: Its vocabulary.
        variants: A name in :data:`VARIANTS`.
        cache: Keep the result on disk, by the content of words, tokenizer and option, if there are many words.
        n_words: Look in the first so many words only; None for all.

    Raises:
        InvalidOptionError: If there are no such variants.
    """
    if variants not in VARIANTS:
        raise InvalidOptionError(f"variants is {variants!r}. Choose one of: {', '.join(sorted(VARIANTS))}.")
    count = len(space) if n_words is None else min(n_words, len(space))
    backend = backend_of(tokenizer)
    with whole_lines(backend):
        if not cache or count < _WORDS_WORTH_KEEPING:
            return _cut(space, count, backend, vocab, variants)
        key = _key(space, count, backend, vocab, variants)
        return _load(key, len(vocab), count) or _store(key, _cut(space, count, backend, vocab, variants))


def _cut(space: WordVectors, n_words: int, backend: Tokenizer, vocab: CanonicalVocab, variants: str) -> Incidence:
    """Cut the words block by block."""
    plain = np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    spaced = vocab.family is not Family.WORDPIECE and not _drops_spaces(backend)
    parts = []
    for start in progress(range(0, n_words, _WORDS_PER_BLOCK), desc="Cut words", unit=" blocks"):
        stop = min(start + _WORDS_PER_BLOCK, n_words)
        bounds = None if space.bounds is None else space.bounds[start:stop]
        texts = _surface_forms(_encodable(list(space.words[start:stop])), bounds, variants)
        if not spaced:  # forms that differ in them alone are cut alike, so once will do
            texts = [text.strip() for text in texts]
        tokens, words, counts = _entries(texts, stop - start, backend, plain)
        parts.append((tokens.astype(np.int32), (words + start).astype(np.int32), counts.astype(np.uint8)))
    tokens, words, counts = (
        np.concatenate([part[column] for part in parts] or [np.zeros(0, np.int32)]) for column in range(3)
    )
    order = np.argsort(tokens, kind="stable")
    lengths = np.bincount(tokens, minlength=len(vocab))
    return Incidence(offsets_of(lengths), words[order], counts[order].astype(np.uint8), n_words)


def _drops_spaces(backend: Tokenizer) -> bool:
    """Whether a tokenizer surely cuts a text alike with and without a space in front, as those of XLM-R and T5 do.

    It does if nothing is put in front of the text before spaces fall away or become the mark that every word gets.
    """
    normalizer = [node["type"] for node in nodes(backend.normalizer) if node["type"] != "Sequence"]
    first, *rest = [node for node in nodes(backend.pre_tokenizer) if node["type"] != "Sequence"] or [{"type": ""}]
    marks = [node for node in (first, *rest) if node["type"] == "Metaspace"]
    return (
        set(normalizer) <= _KEEPS_FRONT
        and first["type"] in ("WhitespaceSplit", "Metaspace")
        and len(marks) == len(rest) + (first["type"] == "Metaspace")
        and all(node.get("prepend_scheme") == "always" for node in marks)
    )


def _encodable(words: list[str]) -> list[str]:
    """Return words with a question mark for each lone surrogate, which no tokenizer takes."""
    try:
        "".join(words).encode("utf-8")
    except UnicodeEncodeError:
        return [word.encode("utf-8", "replace").decode("utf-8") for word in words]
    return words


def _surface_forms(words: Sequence[str], bounds: np.ndarray | None, variants: str) -> list[str]:
    """Return the surface forms of words, those of one word side by side."""
    forms = VARIANTS[variants]
    begins = [True] * len(words) if bounds is None else ((bounds & BEGINS) > 0).tolist()
    marked = bounds is not None
    return list(chain.from_iterable(forms(word, start, marked) for word, start in zip(words, begins, strict=True)))


def _entries(
    texts: Sequence[str], n_words: int, backend: Tokenizer, plain: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which token occurs in how many forms of which word: tokens, words and counts, ordered by both.

    Args:
        texts: Surface forms, those of one word side by side, the same number for each.
        n_words: Number of words.
        backend: Cuts them. Forms that are spelled alike are cut once.
        plain: Which tokens are looked for, bool, shape `(n_pieces,)`.
    """
    n_forms = len(texts) // n_words
    index: dict[str, int] = {}
    codes = np.fromiter((index.setdefault(text, len(index)) for text in texts), np.int64, len(texts))
    rows = [encoding.ids for encoding in backend.encode_batch_fast(list(index), add_special_tokens=False)]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    flat = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    tokens, offsets = take_rows(flat, offsets_of(lengths), codes)
    forms = row_of(offsets)
    kept = plain[tokens]
    in_forms = np.unique(tokens[kept] * len(texts) + forms[kept])
    keys, counts = np.unique(in_forms // n_forms, return_counts=True)
    return keys // n_words, keys % n_words, counts


def _key(space: WordVectors, n_words: int, backend: Tokenizer, vocab: CanonicalVocab, variants: str) -> str:
    """Return the cache key: the content of the words, their bounds, the tokenizer, and which tokens are looked for."""
    words = hashlib.sha256()
    for start in range(0, n_words, _WORDS_PER_BLOCK):
        block = list(space.words[start : min(start + _WORDS_PER_BLOCK, n_words)])
        words.update("\0".join(block).encode("utf-8", "surrogatepass") + b"\0")
    if space.bounds is not None:
        words.update(np.ascontiguousarray(space.bounds[:n_words], np.uint8).tobytes())
    return stored.content_key(
        version=_VERSION,
        tokenizer=hashlib.sha256(backend.to_str().encode("utf-8", "surrogatepass")).hexdigest(),
        kinds=hashlib.sha256(np.ascontiguousarray(vocab.kinds, np.uint8).tobytes()).hexdigest(),
        words=words.hexdigest(),
        n_words=n_words,
        marked=space.bounds is not None,
        variants=variants,
    )


def _load(key: str, n_pieces: int, n_words: int) -> Incidence | None:
    """Take an incidence from the cache, if it is there and fits."""
    found = stored.load("incidence", key)
    if found is None or not {"offsets", "words", "counts"} <= found[0].keys():
        return None
    arrays = found[0]
    if len(arrays["offsets"]) != n_pieces + 1 or arrays["offsets"][-1] != len(arrays["words"]):
        return None
    logger.info("The words of tokens are taken from the cache (%s).", key[:16])
    return Incidence(arrays["offsets"], arrays["words"], arrays["counts"], n_words)


def _store(key: str, incidence: Incidence) -> Incidence:
    """Put an incidence into the cache."""
    arrays = {"offsets": incidence.offsets, "words": incidence.words, "counts": incidence.counts}
    stored.keep("incidence", key, arrays)
    return incidence
