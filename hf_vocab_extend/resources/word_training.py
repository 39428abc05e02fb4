"""Word vectors trained with fastText on text that the user brings, one language at a time."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import pre_tokenizers

from .._logging import get_logger, progress_bar
from .._optional import require
from ..errors import CorpusError
from ..vocab.backend import read_json
from ..vocab.pipeline import backend_of, nodes, read_spelling
from . import cache
from .fasttext import FastTextOptions, bucket_count, train_cbow
from .word_vector_files import compose_by_ngrams, of_fasttext_model
from .word_vectors import WordVectors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .corpus import Corpus

logger = get_logger(__name__)

_CUT_VERSION = 1
_LINES_PER_BATCH = 1000


def train_word_vectors(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    texts: Sequence[str],
    options: FastTextOptions,
    *,
    seed: int = 0,
    use_cache: bool = True,
) -> WordVectors:
    """Train CBOW vectors of words with character n-grams, or take them from the cache.

    Text is normalised as the tokenizer does it (lower case where that lowers it), so that tokens and words are
    spelled alike, and cut at white space and punctuation.

    Args:
        tokenizer: Its normalizer is used; it cuts nothing here.
        corpus: Text of one language.
        texts: The strings that vectors will be composed for. The model itself is not kept.
        options: How to train.
        seed: Of fastText.
        use_cache: Look for the vectors in the cache, and store them there.

    Returns:
        A space whose ``compose`` knows ``texts`` only.

    Raises:
        MissingDependencyError: If fastText is not installed.
        CorpusError: If no word occurs often enough.
    """
    fasttext = require("fasttext.FastText", "focus")
    if not use_cache:
        return _space(_train(fasttext, tokenizer, corpus, texts, options, seed), texts, corpus.name)
    key = _key(tokenizer, corpus, texts, options, seed)
    cached = cache.load("words", key)
    if cached is not None and {"words", "vectors", "frequencies", "composed"} <= cached[0].keys():
        logger.info("Word vectors are taken from the cache (%s).", key[:16])
        return _space(cached[0], texts, corpus.name)
    arrays = _train(fasttext, tokenizer, corpus, texts, options, seed)
    cache.keep("words", key, arrays, {"corpus": corpus.name})
    return _space(arrays, texts, corpus.name)


def _key(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, texts: Sequence[str], options: FastTextOptions, seed: int
) -> str:
    """Return the cache key."""
    return cache.content_key(
        cut=_CUT_VERSION,
        fasttext=importlib.metadata.version("fasttext"),
        normalizer=read_json(tokenizer)["normalizer"],
        corpus=corpus.fingerprint(),
        texts=cache.content_key(texts=list(texts)),
        seed=seed,
        **asdict(options),
    )


def _space(arrays: dict[str, np.ndarray], texts: Sequence[str], name: str) -> WordVectors:
    """Make a space of what was trained; words are kept as UTF-8 bytes with line ends between them."""
    words = arrays["words"].tobytes().decode("utf-8").split("\n")
    composed = {text: row for row, text in enumerate(texts)}

    def compose(wanted: Sequence[str]) -> np.ndarray:
        return arrays["composed"][[composed[text] for text in wanted]]

    return WordVectors(words, arrays["vectors"], arrays["frequencies"], f"vectors trained on {name}", compose)


def _train(
    fasttext: Any,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    texts: Sequence[str],
    options: FastTextOptions,
    seed: int,
) -> dict[str, np.ndarray]:
    """Write the words to a temporary file and train on it."""
    with tempfile.TemporaryDirectory(prefix="hf_vocab_extend_") as folder:
        path = Path(folder) / "words.txt"
        counts = _write_words(tokenizer, corpus, path)
        frequent = sum(count >= options.min_count for count in counts.values())
        if frequent == 0:
            raise CorpusError(
                f"No word occurs {options.min_count} times in {corpus.name}: it has {sum(counts.values())} words, and "
                f"the most frequent one occurs {max(counts.values(), default=0)} times. Bring more text or lower "
                "min_count."
            )
        model = train_cbow(fasttext, path, options, bucket_count(options, frequent), seed)
    space = of_fasttext_model(model, corpus.name)
    return {
        "words": np.frombuffer("\n".join(space.words).encode("utf-8"), np.uint8),
        "vectors": space.take(np.arange(len(space))),
        "frequencies": np.asarray(space.frequencies),
        "composed": compose_by_ngrams(model, texts),
    }


def _write_words(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, path: Path) -> dict[str, int]:
    """Write the corpus as words, a line each, and count them."""
    counts: dict[str, int] = {}
    cut = pre_tokenizers.BertPreTokenizer()  # at white space, and around each punctuation mark
    with path.open("w", encoding="utf-8", newline="\n") as file, progress_bar(desc="Cut words", unit=" lines") as bar:
        for batch in corpus.batches(_LINES_PER_BATCH):
            for line in _normalised(tokenizer, batch):
                words = [word for word, _ in cut.pre_tokenize_str(line)]
                for word in words:
                    counts[word] = counts.get(word, 0) + 1
                file.write(" ".join(words))
                file.write("\n")
            bar.update(len(batch))
    return counts


def _normalised(tokenizer: PreTrainedTokenizerBase, lines: list[str]) -> Iterator[str]:
    """Yield lines as the tokenizer normalises them, with plain spaces; as they are where it turns them into bytes."""
    normalizer = backend_of(tokenizer).normalizer
    if normalizer is None or any(node["type"] == "ByteLevel" for node in nodes(normalizer)):
        yield from lines
        return
    mark = read_spelling(tokenizer).space_mark
    for line in lines:
        normal = normalizer.normalize_str(line)
        yield normal.replace(mark, " ") if mark else normal
