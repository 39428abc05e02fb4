"""Many texts to token ids: each different word is tokenised once, where that is known to be the same.

Most pipelines cut at every space, and then a word's tokens depend on nothing but the word and whether it comes first.
Whether a pipeline does is told from its parts and its vocabulary, and checked on the first texts; where it does not,
whole texts are tokenised.
"""

from __future__ import annotations

from itertools import chain

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ...vocab.canonical import CanonicalVocab, TokenKind
from ...vocab.pipeline import backend_of, nodes, unknown_id
from ...vocab.reachability import whole_lines
from .ragged import offsets_of, row_of, take_rows

MAX_WORDS = 2_000_000
CHECKED_TEXTS = 500
WORDS_PER_TEXT = 64
_BEFORE = "the"
"""What stands before a word while it is tokenised: any word does."""

_LOCAL_NORMALIZERS = frozenset(
    "BertNormalizer ByteLevel Lowercase NFC NFD NFKC NFKD Nmt Precompiled Prepend Replace Sequence Strip "
    "StripAccents".split()
)
_LOCAL_PRE_TOKENIZERS = frozenset(
    "BertPreTokenizer ByteLevel Digits Metaspace Punctuation Sequence Split Whitespace WhitespaceSplit".split()
)
"""Parts that look at no character beyond the space after a word, or before the one in front of it."""


def encode(backend: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids of texts end to end, int64, and where each text begins; nothing is added or cut off."""
    with whole_lines(backend):
        rows = [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    return np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum())), offsets_of(lengths)


def cuts_at_spaces(backend: Tokenizer, vocab: CanonicalVocab) -> bool:
    """Whether the tokens of words between single spaces do not depend on the words around them."""
    normalizers, pre_tokenizers = nodes(backend.normalizer), nodes(backend.pre_tokenizer)
    known = {node["type"] for node in normalizers} <= _LOCAL_NORMALIZERS
    known = known and {node["type"] for node in pre_tokenizers} <= _LOCAL_PRE_TOKENIZERS
    patterns = [str(node["pattern"]) for node in [*normalizers, *pre_tokenizers] if "pattern" in node]
    looks_around = any("(?<" in pattern or "(?=" in pattern for pattern in patterns)
    spanning = any(
        b" " in raw.lstrip(b" ")
        for raw, kind in zip(vocab.raw, vocab.kinds.tolist(), strict=True)
        if kind in (TokenKind.NORMAL, TokenKind.BYTE)
    )
    named = any(" " in token.content for token in backend.get_added_tokens_decoder().values())
    return known and not (looks_around or spanning or named)


class _Numbers(dict[str, int]):
    """Numbers words in the order of their first occurrence, and keeps those that are new."""

    def __init__(self) -> None:
        super().__init__()
        self.new: list[str] = []

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        self.new.append(word)
        return number


class TextEncoder:
    """Tokenises the texts of one language, batch by batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocab: CanonicalVocab) -> None:
        self._backend = backend_of(tokenizer)
        self._by_word = cuts_at_spaces(self._backend, vocab)
        self._checked = False
        # The unknown token stands for any text, all other added tokens for what they are called.
        unknown = unknown_id(self._backend)
        added = {index for index in self._backend.get_added_tokens_decoder() if index != unknown}
        self._added = np.asarray(sorted(added), np.int64)
        self._unknown = (unknown is not None and self._backend.id_to_token(unknown)) or " "
        self._prefix, twice = (encode(self._backend, [text])[0] for text in (_BEFORE, f"{_BEFORE} {_BEFORE}"))
        self._first_differs = not np.array_equal(twice, np.tile(self._prefix, 2))
        self._forget()

    def _forget(self) -> None:
        """Start without known words."""
        self._numbers = _Numbers()
        self._pieces, self._lengths = np.empty(0, np.int64), np.empty(0, np.int64)
        self._safe = np.empty(0, bool)

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the token ids of texts end to end, int64, and where each text begins."""
        if self._by_word and not self._checked:
            self._check(texts[:CHECKED_TEXTS])
        return self._encode_words(texts) if self._by_word else encode(self._backend, texts)

    def _check(self, texts: list[str]) -> None:
        """Compare both ways on some texts; where they differ, whole texts are tokenised from now on."""
        self._checked = True
        both = zip(self._encode_words(texts), encode(self._backend, texts), strict=True)
        self._by_word = all(np.array_equal(left, right) for left, right in both)

    def _encode_words(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Put texts together from the tokens of their words; texts with an unsafe word are tokenised whole."""
        if len(self._numbers) > MAX_WORDS:
            self._forget()
        rows = [text.split(" ") for text in texts]
        for row in rows if self._first_differs else ():
            row[0] = " " + row[0]  # no other word holds a space
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        words = chain.from_iterable(rows)
        numbers = np.fromiter(map(self._numbers.__getitem__, words), np.int64, int(lengths.sum()))
        self._learn()
        word_offsets = offsets_of(lengths)
        tokens, inner = take_rows(self._pieces, offsets_of(self._lengths), numbers)
        unsafe = np.unique(row_of(word_offsets)[~self._safe[numbers]])
        if not len(unsafe):
            return tokens, inner[word_offsets]
        whole, whole_offsets = encode(self._backend, [texts[row] for row in unsafe.tolist()])
        order = np.arange(len(texts))
        order[unsafe] = len(texts) + np.arange(len(unsafe))
        joined = np.concatenate([inner[word_offsets], len(tokens) + whole_offsets[1:]])
        return take_rows(np.concatenate([tokens, whole]), joined, order)

    def _learn(self) -> None:
        """Tokenise the words that are new, many in one text, and one by one where they disturb each other."""
        new, self._numbers.new = self._numbers.new, []
        if not new:
            return
        tokens, offsets, slots = self._tokenise(new, WORDS_PER_TEXT)
        again = np.flatnonzero(slots < 0)
        if len(again):
            more, more_offsets, more_slots = self._tokenise([new[index] for index in again.tolist()], 1)
            slots[again] = np.where(more_slots < 0, -1, more_slots + len(offsets) - 1)
            tokens, offsets = np.concatenate([tokens, more]), np.append(offsets, offsets[-1] + more_offsets[1:])
        safe = slots >= 0
        pieces, inner = take_rows(tokens, offsets, slots[safe])
        lengths = np.zeros(len(new), np.int64)
        lengths[safe] = np.diff(inner)
        self._pieces = np.concatenate([self._pieces, pieces])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._safe = np.concatenate([self._safe, safe])

    def _tokenise(self, words: list[str], per_text: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokenise words, each after another word; a word that begins with a space at the start of a text.

        Args:
            words: Words.
            per_text: So many go into one text.

        Returns:
            Token ids end to end, where the tokens of each place for a word (slot) begin, and the slot of each word, -1
            for one whose tokens may depend on its neighbours; all int64.
        """
        fitting = [index for index, word in enumerate(words) if self._fits(word)]
        first = [index for index in fitting if words[index][0] == " "]
        inside = [index for index in fitting if words[index][0] != " "]
        groups = [inside[start : start + per_text] for start in range(0, len(inside), per_text)]
        texts = [" ".join([_BEFORE, *(words[index] for index in group)]) for group in groups]
        word_of = np.asarray([*chain.from_iterable([-1, *group] for group in groups), *first], np.int64)
        tokens, slot_of, text_of_slot = _encode_slots(self._backend, texts + [words[index][1:] for index in first])
        offsets = offsets_of(np.bincount(slot_of, minlength=len(word_of)))
        heads = np.flatnonzero(word_of < 0)
        misplaced = [heads[~self._is_prefix(tokens, offsets, heads)], slot_of[np.isin(tokens, self._added)]]
        broken = np.isin(text_of_slot, text_of_slot[np.concatenate(misplaced)])
        found = np.full(len(words), -1, np.int64)
        good = ~broken & (word_of >= 0)
        found[word_of[good]] = np.flatnonzero(good)
        return tokens, offsets, found

    def _fits(self, word: str) -> bool:
        """Whether this is one word, and none that the tokenizer reads as its unknown token."""
        bare = word.removeprefix(" ")
        return word.split() == [bare] and self._unknown not in bare

    def _is_prefix(self, tokens: np.ndarray, offsets: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Return which slots hold the tokens of :data:`_BEFORE`, bool, shape `(n_slots,)`."""
        found = np.diff(offsets)[slots] == len(self._prefix)
        padded = np.concatenate([tokens, np.full(len(self._prefix), -1)])
        for place, token in enumerate(self._prefix.tolist()):
            found &= padded[offsets[slots] + place] == token
        return found


def _encode_slots(backend: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokenise texts and tell the tokens of their words apart by offsets.

    Returns:
        Token ids, ascending by slot; the slot of each; the text of each slot; all int64. Each text begins a slot,
        and so does each space in it, which belongs to the word after it.
    """
    with whole_lines(backend):
        encodings = backend.encode_batch(texts, add_special_tokens=False)
    counts = np.asarray([len(encoding) for encoding in encodings], np.int64)
    tokens = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64, int(counts.sum()))
    spans = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
    starts, ends = np.fromiter(spans, np.int64, 2 * len(tokens)).reshape(-1, 2).T
    characters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    text_starts = offsets_of(np.fromiter(map(len, texts), np.int64, len(texts)))
    begins = characters == ord(" ")
    begins[text_starts[:-1]] = True
    # A token may begin with the space before its word, so its last character tells the word.
    places = np.maximum(ends - 1, starts) + np.repeat(text_starts[:-1], counts)
    slot_of = (np.cumsum(begins) - 1)[places]
    order = np.argsort(slot_of, kind="stable")
    return tokens[order], slot_of[order], row_of(text_starts)[begins]


__all__ = ["TextEncoder", "cuts_at_spaces", "encode"]
