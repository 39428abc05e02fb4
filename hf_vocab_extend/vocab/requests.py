"""What another tokenizer or a word list asks for, in the spelling of the tokenizer that is to take it in."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import models
from transformers import PreTrainedTokenizerBase

from ..errors import InvalidOptionError
from .canonical import BYTE_LETTERS, UNTOLD, CanonicalVocab, TokenKind, canonicalise
from .fertility import RoundTrip
from .pipeline import Family, Spelling, backend_of, read_spelling
from .reachability import contexts, own_text, place, whole_lines

if TYPE_CHECKING:
    from ..resources.corpus import Corpus

Words = Iterable[str] | Mapping[str, int]

SPACED = frozenset({Family.BYTE_BPE, Family.SENTENCEPIECE_BPE, Family.UNIGRAM})
"""Families whose tokens hold their spaces."""

_LETTERS = {value: chr(letter) for letter, value in BYTE_LETTERS.items()}


@dataclass(frozen=True)
class Entry:
    """A token asked for, before it is spelled.

    Attributes:
        text: Its text, without a space in front.
        starts_word: 1, 0 or -1, as in :class:`~.canonical.CanonicalVocab`.
        ends_word: 1, 0 or -1.
        weight: How often it is expected, at least 1.
        score: Its log probability, or None if nothing is known of it.
        spaced: Whether the space in front is part of it, and not only the way that its tokenizer tells word starts.
    """

    text: str
    starts_word: int
    ends_word: int
    weight: int
    score: float | None = None
    spaced: bool = False


@dataclass
class Entries:
    """What was read, and how many were passed over.

    Attributes:
        entries: Entries, most wanted first.
        special: Control tokens and names of unused places.
        partial: Bytes, control characters and parts of characters: the alphabet of the other, not its vocabulary.
        rare: Entries below the minimum count.
    """

    entries: list[Entry]
    special: int = 0
    partial: int = 0
    rare: int = 0

    def __len__(self) -> int:
        """All that was asked for."""
        return len(self.entries) + self.special + self.partial + self.rare


def read_tokenizer(other: PreTrainedTokenizerBase, corpus: Corpus | Any, min_frequency: int) -> Entries:
    """Read the vocabulary of a tokenizer.

    Args:
        other: Tokenizer of any family.
        corpus: Text to count its tokens in, or None.
        min_frequency: Tokens counted less often are passed over; needs the corpus.
    """
    vocab = canonicalise(other)
    counts = None if corpus is None else count_tokens(other, corpus, len(vocab))
    scores = _scores(other, vocab)
    found = Entries([])
    spaced = vocab.family in SPACED
    ids = np.flatnonzero(vocab.kinds != TokenKind.HOLE).tolist()
    weights = _weights(vocab, scores, counts)
    total = sum(weights)
    if counts is not None:
        ids.sort(key=lambda index: (-counts[index], index))
    for index in ids:
        text = own_text(vocab, index)
        if vocab.kinds[index] in (TokenKind.SPECIAL, TokenKind.UNUSED):
            found.special += 1
        elif text is None or (vocab.kinds[index] == TokenKind.BYTE and not _is_letter(vocab, index, text)):
            found.partial += 1
        elif counts is not None and counts[index] < min_frequency:
            found.rare += 1
        else:
            starts = int(vocab.starts_word[index])
            score = math.log(weights[index] / total) if scores is None else scores[index]
            found.entries.append(Entry(text, starts, int(vocab.ends_word[index]), weights[index], score, spaced))
    return found


def _is_letter(vocab: CanonicalVocab, index: int, text: str) -> bool:
    """Whether a byte token is a character of text: not a name (``<0x41>``), nor a control character."""
    return text.isprintable() and not (vocab.tokens[index] or "").startswith("<0x")


def read_words(words: Words, min_frequency: int) -> Entries:
    """Read a word list: each a whole word, repeated ones counted, or a mapping of words to counts.

    Raises:
        InvalidOptionError: If an entry is no string, is blank, or has a count that is no whole number.
    """
    counts: Counter[str] = Counter()
    pairs: Iterable[tuple[Any, Any]] = words.items() if isinstance(words, Mapping) else ((word, 1) for word in words)
    for word, count in pairs:
        if not isinstance(word, str) or not word.strip() or isinstance(count, bool) or not isinstance(count, int):
            raise InvalidOptionError(
                f"The word list holds {word!r} with count {count!r}. Pass words that are not blank, or a mapping of "
                "words to whole numbers."
            )
        counts[word.strip()] += count
    kept = [(word, count) for word, count in counts.most_common() if count >= min_frequency]
    entries = [Entry(word, 1, 1, max(1, count)) for word, count in kept]
    return Entries(entries, rare=len(counts) - len(kept))


def count_tokens(tokenizer: PreTrainedTokenizerBase, corpus: Corpus | Any, n_ids: int) -> np.ndarray:
    """Return how often each id occurs in a corpus, int64, shape `(n_ids,)`."""
    from ..resources.corpus import open_corpus

    backend = backend_of(tokenizer)
    counts = np.zeros(n_ids, np.int64)
    with whole_lines(backend):
        for lines in open_corpus(corpus).batches(1000):
            for encoding in backend.encode_batch_fast(lines, add_special_tokens=False):
                np.add.at(counts, encoding.ids, 1)
    return counts


def _scores(other: PreTrainedTokenizerBase, vocab: CanonicalVocab) -> list[float | None] | None:
    """Return the log probabilities of a Unigram model by id, or None for another model.

    A score of 0 or more is no probability: such entries stand for symbols that are always cut out.
    """
    model = backend_of(other).model
    if not isinstance(model, models.Unigram):
        return None
    scores = [float(score) for _, score in json.loads(model.__getstate__())["vocab"]]
    known = [score if score < 0 else None for score in scores]
    return known + [None] * (len(vocab) - len(known))


def _weights(vocab: CanonicalVocab, scores: list[float | None] | None, counts: np.ndarray | None) -> list[int]:
    """Return how often each id is expected, in no unit.

    Counted where there is text; else by the scores; else by Zipf's law over the ids, which follow the order of
    training in BPE and roughly that of frequency in WordPiece.
    """
    if counts is not None:
        return [max(1, int(count)) for count in counts]
    if scores is not None:
        top = max((score for score in scores if score is not None), default=0.0)
        return [1 if score is None else max(1, round(1e6 * math.exp(max(-50.0, score - top)))) for score in scores]
    return [1 + 10_000_000 // (index + 100) for index in range(len(vocab))]


@dataclass(frozen=True)
class Request:
    """An entry in the spelling of the tokenizer that takes it in.

    Attributes:
        token: The token's string.
        entry: What was asked for, its text normalised.
    """

    token: str
    entry: Entry


class Speller:
    """Spells entries for a tokenizer and says which of them its pipeline can ever show to its model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.spelling: Spelling = read_spelling(tokenizer)
        self.backend = backend_of(tokenizer)
        self._round_trip = RoundTrip(tokenizer)

    def request(self, entry: Entry) -> Request | None:
        """Return the entry respelled, or None if no text leads to it: cut up or changed on the way to the model."""
        text = self._round_trip.expected(entry.text).strip(" ") or entry.text
        entry = self._placed(replace(entry, text=text))
        if self._fits(entry):
            return Request(spell(entry, self.spelling), entry)
        inside = replace(entry, starts_word=UNTOLD)
        if entry.starts_word == 1 and not entry.spaced and self._fits(inside):
            # Digits and signs that this pipeline never joins to a space.
            return Request(spell(inside, self.spelling), inside)
        return None

    def _fits(self, entry: Entry) -> bool:
        """Whether the model is shown the entry in one piece in some context."""
        probe = spell(replace(entry, ends_word=0), replace(self.spelling, prefix=""))
        templates = contexts(self.spelling.family, entry.starts_word, entry.ends_word)
        return any(probe in piece for item in templates for piece in self._pre_tokens(place(item, entry.text)))

    def _placed(self, entry: Entry) -> Entry:
        """Fill in what the other family does not tell."""
        starts, ends = entry.starts_word, entry.ends_word
        if starts == UNTOLD and ends != UNTOLD:
            starts = 1
        if self.spelling.family is Family.SUFFIX_BPE and ends == UNTOLD:
            ends = 1
        return replace(entry, starts_word=starts, ends_word=ends)

    def _pre_tokens(self, text: str) -> Iterator[str]:
        """Yield what the model would be shown of a text."""
        if self.backend.normalizer is not None:
            text = self.backend.normalizer.normalize_str(text)
        if self.backend.pre_tokenizer is None:
            yield text
        else:
            yield from (piece for piece, _ in self.backend.pre_tokenizer.pre_tokenize_str(text))


def spell(entry: Entry, spelling: Spelling) -> str:
    """Return the token string of an entry."""
    text = " " + entry.text if spelling.family in SPACED and entry.starts_word == 1 else entry.text
    if spelling.byte_level:
        text = "".join(map(_LETTERS.__getitem__, text.encode("utf-8", "surrogatepass")))
    elif spelling.space_mark:
        text = text.replace(" ", spelling.space_mark)
    if spelling.family is Family.WORDPIECE and entry.starts_word == 0:
        return spelling.prefix + text
    return text + spelling.suffix if entry.ends_word == 1 else text


__all__ = ["Entries", "Entry", "Request", "Speller", "read_tokenizer", "read_words", "spell"]
