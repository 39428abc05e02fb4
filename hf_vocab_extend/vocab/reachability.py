"""Which tokens a tokenizer never makes: dead rows of the table, found by encoding each token's own text in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..errors import InvalidOptionError
from .canonical import CanonicalVocab, TokenKind, canonicalise
from .pipeline import Family, backend_of

if TYPE_CHECKING:
    from ..resources.corpus import Corpus

BATCH = 10_000

# {t} is the token's text, {c} its first and {z} its last character. The first context settles nearly all tokens; the
# rest is only tried for those left over, so that a long list costs nothing.
_AFTER_SPACE = (" {t}", "{t}", "a {t}", "( {t}", "\n {t}", " {t} a", " {t}.", " {t}a", " {t}1")
_BEFORE = tuple("\n(1a7.-'\"/_xqzjokesintmp0:,)#\u00e9\u0436\ue000") + ("{c}", "{z}", "{c}{c}")
_INSIDE = (
    "{t}",
    *(f"{before}{{t}}" for before in _BEFORE),
    *(f"a{before}{{t}}" for before in "\n(1-.'"),
    "a{t}a",
    "1{t}1",
)
_BEFORE_LETTER = tuple(f"{{t}}{after}" for after in "axqzjokesintmp-'\u00e91") + tuple(
    f"{before}{{t}}{after}" for before in "a1(" for after in "axqz"
)
_AT_END = ("{t}", *(f"{before}{{t}}" for before in _BEFORE))


def contexts(family: Family, starts_word: int, ends_word: int) -> tuple[str, ...]:
    """Return the places to look for a token in, as templates with ``{t}`` for its text, likeliest first.

    Args:
        family: How the tokenizer spells.
        starts_word: 1, 0 or -1, as in :class:`~.canonical.CanonicalVocab`.
        ends_word: 1, 0 or -1.
    """
    if family is Family.SUFFIX_BPE:
        return _BEFORE_LETTER if ends_word == 0 else _AT_END
    return _AFTER_SPACE if starts_word == 1 else _INSIDE


def place(template: str, text: str) -> str:
    """Return the text in a context."""
    return template.replace("{t}", text).replace("{c}", text[:1]).replace("{z}", text[-1:])


@contextmanager
def whole_lines(backend: Tokenizer) -> Iterator[None]:
    """Switch truncation and padding of a Rust tokenizer off, and back on as they were."""
    truncation, padding = backend.truncation, backend.padding
    backend.no_truncation()
    backend.no_padding()
    try:
        yield
    finally:
        if truncation is not None:
            backend.enable_truncation(**truncation)
        if padding is not None:
            backend.enable_padding(**padding)


def unreachable_ids(
    tokenizer: PreTrainedTokenizerBase, ids: Iterable[int] | None = None, *, corpus: Corpus | Any = None
) -> list[int]:
    """Return the ids that are never produced when their own text is encoded where it belongs.

    A token counts as reachable if it occurs among the tokens of its own text in one of a few dozen contexts: after a
    space for a token that starts a word; at the start of a text, after a line end, a digit, a bracket, a letter and
    the like for one that does not; before a letter for one that must not end a word. The search can only prove that a
    token is reachable: one in the answer may still occur in a context that was not tried, and ``corpus`` adds real
    text to the contexts. A token that holds no whole character has no text of its own, so without ``corpus`` it is
    never in the answer. Ids without a token always are, if asked for.

    Args:
        tokenizer: A tokenizer with a ``tokenizer.json`` behind it.
        ids: Ids to check; by default all that have a token.
        corpus: Text to search as well, whatever :func:`~..resources.corpus.open_corpus` accepts.

    Returns:
        The ids, ascending.

    Raises:
        UnsupportedTokenizerError: If the tokenizer has no ``tokenizer.json`` behind it or is of no known family.
        InvalidOptionError: If an id is negative or beyond the vocabulary.
        CorpusError: If the corpus is empty or unreadable.
    """
    vocab = canonicalise(tokenizer)
    asked = _checked(ids, vocab)
    backend = backend_of(tokenizer)
    holes = [index for index in asked if vocab.kinds[index] == TokenKind.HOLE]
    left = [index for index in asked if vocab.kinds[index] != TokenKind.HOLE]
    with whole_lines(backend):
        if corpus is not None:
            seen = _seen(backend, corpus, len(vocab))
            left = [index for index in left if not seen[index]]
        texts = {index: text for index in left if (text := own_text(vocab, index)) is not None}
        partial = [] if corpus is None else [index for index in left if index not in texts]
        missing = _search(backend, vocab, texts)
    return sorted({*holes, *partial, *missing})


def own_text(vocab: CanonicalVocab, index: int) -> str | None:
    """Return the text of an id without its word-start space, or None if it holds no whole character."""
    try:
        return vocab.raw[index].decode("utf-8") or None
    except UnicodeDecodeError:
        return None


def _checked(ids: Iterable[int] | None, vocab: CanonicalVocab) -> list[int]:
    """Return the ids to check, ascending."""
    if ids is None:
        return np.flatnonzero(vocab.kinds != TokenKind.HOLE).tolist()
    asked = sorted({int(index) for index in ids})
    if asked and (asked[0] < 0 or asked[-1] >= len(vocab)):
        wrong = asked[0] if asked[0] < 0 else asked[-1]
        raise InvalidOptionError(f"There is no id {wrong}; the tokenizer's ids run from 0 to {len(vocab) - 1}.")
    return asked


def _seen(backend: Tokenizer, corpus: Corpus | Any, n_ids: int) -> np.ndarray:
    """Return which ids occur in a corpus, bool, shape `(n_ids,)`."""
    from ..resources.corpus import open_corpus

    seen = np.zeros(n_ids, bool)
    for lines in open_corpus(corpus).batches(1000):
        for encoding in backend.encode_batch_fast(lines, add_special_tokens=False):
            seen[encoding.ids] = True
    return seen


def _search(backend: Tokenizer, vocab: CanonicalVocab, texts: dict[int, str]) -> list[int]:
    """Return the ids that were found in no context."""
    left, attempt = list(texts), 0
    while left:
        probes: list[tuple[int, str]] = []
        for index in left:
            templates = contexts(vocab.family, int(vocab.starts_word[index]), int(vocab.ends_word[index]))
            if attempt < len(templates):
                probes.append((index, place(templates[attempt], texts[index])))
        if not probes:
            break
        found = {index for index, hit in zip((i for i, _ in probes), _hits(backend, probes), strict=True) if hit}
        left = [index for index in left if index not in found]
        attempt += 1
    return left


def _hits(backend: Tokenizer, probes: Sequence[tuple[int, str]]) -> Iterator[bool]:
    """Yield for each id and text whether the id is among the text's."""
    for start in range(0, len(probes), BATCH):
        batch = probes[start : start + BATCH]
        encodings = backend.encode_batch_fast([text for _, text in batch], add_special_tokens=False)
        for (index, _), encoding in zip(batch, encodings, strict=True):
            yield index in encoding.ids


__all__ = ["unreachable_ids"]
