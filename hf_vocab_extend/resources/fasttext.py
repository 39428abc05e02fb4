"""Token-level fastText: vectors of a tokenizer's tokens, trained on text that it has cut."""

from __future__ import annotations

import importlib.metadata
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._logging import get_logger, progress_bar
from .._optional import require
from ..errors import CorpusError
from ..vocab.backend import read_json
from . import cache
from .corpus import open_corpus
from .token_vectors import TokenVectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .corpus import Corpus

logger = get_logger(__name__)

_LINES_PER_BATCH = 1000
_FRESH_PAGES_BYTES = 64 * 2**20  # twice the largest block that the C library serves from memory used before
_SPELLING_VERSION = 2
_LABEL = "__label__"  # fastText takes words that begin so for labels
_END_OF_LINE = "</s>"  # fastText's own word
_STAND_IN = {ord(char): chr(0x2400 + ord(char)) for char in " \t\n\v\f\r\0"}  # U+2400 ff. picture control characters
_PRIVATE = 0xE000
_LEAST_BYTES = 1 << 26  # of fastText's input matrix, see bucket_count


@dataclass(frozen=True)
class FastTextOptions:
    """How vectors are trained; the names in brackets are fastText's.

    Attributes:
        dim: Dimensions (dim).
        epochs: Passes over the corpus (epoch).
        min_count: Tokens that occur less often get no vector (minCount).
        window: Tokens on each side that count as context (ws).
        negatives: Negative samples (neg).
        min_ngram: Shortest character n-gram of a token's spelling (minn).
        max_ngram: Longest one (maxn); 0 trains whole tokens only.
        buckets: Hash places of the n-grams (bucket), at least; each takes `dim` floats of memory while training.
        threads: Threads (thread). Only 1 gives the same vectors at every run.
    """

    dim: int = 100
    epochs: int = 3
    min_count: int = 10
    window: int = 5
    negatives: int = 10
    min_ngram: int = 3
    max_ngram: int = 6
    buckets: int = 2_000_000
    threads: int = 1


def train_token_vectors(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Any,
    options: FastTextOptions | None = None,
    *,
    seed: int = 0,
    use_cache: bool = True,
) -> TokenVectors:
    """Train CBOW vectors of tokens, or take them from the cache.

    The cache key is the content of the corpus and of the tokenizer, the options, the seed and fastText's version.

    Args:
        tokenizer: Cuts the corpus.
        corpus: Anything that ``open_corpus`` reads.
        options: How to train.
        seed: Of fastText, `0 .. 2**31 - 1`.
        use_cache: Look for the vectors in the cache, and store them there.

    Returns:
        Vectors of the tokens that occur at least ``min_count`` times.

    Raises:
        MissingDependencyError: If fastText is not installed.
        CorpusError: If the corpus is empty or no token occurs often enough.
    """
    options = options or FastTextOptions()
    fasttext = require("fasttext.FastText", "focus")
    corpus = open_corpus(corpus)
    if not use_cache:
        return _train(fasttext, tokenizer, corpus, options, seed)
    key = _key(tokenizer, corpus, options, seed)
    cached = cache.load("fasttext", key)
    if cached is not None and {"ids", "vectors"} <= cached[0].keys():
        logger.info("Token vectors are taken from the cache (%s).", key[:16])
        return TokenVectors(cached[0]["ids"], cached[0]["vectors"])
    trained = _train(fasttext, tokenizer, corpus, options, seed)
    cache.keep("fasttext", key, {"ids": trained.ids, "vectors": trained.vectors}, {"corpus": corpus.name})
    return trained


def _key(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, options: FastTextOptions, seed: int) -> str:
    """Return the cache key: truncation and padding, which change nothing here, are left out of the tokenizer."""
    data = read_json(tokenizer)
    data.pop("truncation", None)
    data.pop("padding", None)
    return cache.content_key(
        spelling=_SPELLING_VERSION,
        fasttext=importlib.metadata.version("fasttext"),
        tokenizer=cache.content_key(json=data),
        corpus=corpus.fingerprint(),
        seed=seed,
        **asdict(options),
    )


def spell_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str | None]:
    """Return a word for each token id that fastText reads as one word, all different, None for holes.

    It is the token's own spelling, since character n-grams are taken from it, with visible stand-ins for white space.
    """
    vocab = tokenizer.get_vocab()
    words: list[str | None] = [None] * (max(vocab.values(), default=-1) + 1)
    taken = {_END_OF_LINE}
    for token, index in sorted(vocab.items(), key=lambda item: item[1]):
        word = token.translate(_STAND_IN) or chr(_PRIVATE)
        if word.startswith(_LABEL):
            word = chr(_PRIVATE) + word
        while word in taken:
            word += chr(_PRIVATE)
        taken.add(word)
        words[index] = word
    return words


def _train(
    fasttext: Any, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, options: FastTextOptions, seed: int
) -> TokenVectors:
    """Write the cut corpus to a temporary file and train on it."""
    words = spell_tokens(tokenizer)
    with tempfile.TemporaryDirectory(prefix="hf_vocab_extend_") as folder:
        path = Path(folder) / "tokens.txt"
        counts = _write_cut(tokenizer, corpus, words, path)
        frequent = np.flatnonzero(counts >= options.min_count)
        if len(frequent) == 0:
            raise CorpusError(
                f"No token occurs {options.min_count} times in the corpus {corpus.name}: it has {counts.sum()} "
                f"tokens, and the most frequent one occurs {counts.max(initial=0)} times. "
                "Bring more text or lower min_count."
            )
        model = train_cbow(fasttext, path, options, bucket_count(options, len(frequent)), seed)
    known = set(model.get_words(on_unicode_error="replace"))
    ids = np.asarray([index for index in frequent.tolist() if words[index] in known], np.int64)
    vectors = np.empty((len(ids), options.dim), np.float32)
    for row, index in enumerate(ids.tolist()):
        vectors[row] = model.get_word_vector(words[index])
    return TokenVectors(ids, vectors)


def bucket_count(options: FastTextOptions, n_words: int) -> int:
    """Return the number of hash places to train with.

    fastText 0.9.3 draws random values for the first tenth of its input matrix only (one tenth for each thread) and
    leaves the rest as the memory came. The words come first in it: nine places for each word keep them in the first
    tenth. And a matrix of more than 32 MiB, where the allocator maps fresh pages, starts at zero and not at remains of
    earlier work, which made runs differ and vectors overflow.
    """
    return max(options.buckets, 9 * (n_words + 1), -(-_LEAST_BYTES // (4 * options.dim)))


def train_cbow(fasttext: Any, path: Path, options: FastTextOptions, buckets: int, seed: int) -> Any:
    """Train on a file of words.

    The library's own ``train_unsupervised`` refuses the seed that its trainer takes, so the arguments are built here.
    """
    arguments = {
        "input": str(path),
        "model": "cbow",
        "dim": options.dim,
        "epoch": options.epochs,
        "minCount": options.min_count,
        "ws": options.window,
        "neg": options.negatives,
        "minn": options.min_ngram if options.max_ngram else 0,
        "maxn": options.max_ngram,
        "bucket": buckets,
        "thread": options.threads,
        "seed": seed,
        "verbose": 0,
    }
    built = fasttext._build_args(fasttext.unsupervised_default | arguments, set(arguments))
    built.bucket = buckets  # without n-grams the library would set none
    # fastText 0.9.3 draws only a tenth of the input matrix per thread and leaves the rest as the allocator gave it. A
    # large matrix gets fresh pages, which hold zeros; a small one gets old memory: other vectors at every run, or NaN.
    built.bucket = max(built.bucket, _FRESH_PAGES_BYTES // (4 * options.dim))
    model = fasttext._FastText(args=built)
    fasttext.fasttext.train(model.f, built)
    return model


def _write_cut(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, words: list[str | None], path: Path) -> np.ndarray:
    """Write the corpus as words of tokens, a line each.

    Returns:
        How often each token occurs, int64, shape `(n_tokens,)`.
    """
    counts = np.zeros(len(words), np.int64)
    with path.open("w", encoding="utf-8", newline="\n") as file, progress_bar(desc="Tokenise", unit=" lines") as bar:
        for batch in corpus.batches(_LINES_PER_BATCH):
            encoded = tokenizer(
                batch,
                add_special_tokens=False,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            for ids in encoded:
                file.write(" ".join([words[index] or "" for index in ids]))
                file.write("\n")
            flat = np.fromiter((index for ids in encoded for index in ids), np.int64)
            counts += np.bincount(flat, minlength=len(words))
            bar.update(len(batch))
    return counts
