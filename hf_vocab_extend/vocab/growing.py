"""Grow a tokenizer from text: continued training on top of its vocabulary."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..errors import CorpusError, InvalidOptionError, VocabExtendWarning
from .adding import Data
from .backend import read_json, rebuild
from .growing_base import GrowthOptions, Material
from .growing_bpe import grow_bpe
from .growing_unigram import grow_unigram
from .growing_wordpiece import grow_wordpiece
from .marks import upgrade_marks
from .pipeline import Family, read_spelling
from .pretokens import count_pre_tokens

if TYPE_CHECKING:
    from ..resources.corpus import CorpusLike

_GROWERS: dict[Family, Callable[[Material], tuple[Data, list[str]]]] = {
    Family.BYTE_BPE: grow_bpe,
    Family.SENTENCEPIECE_BPE: grow_bpe,
    Family.SUFFIX_BPE: grow_bpe,
    Family.UNIGRAM: grow_unigram,
    Family.WORDPIECE: grow_wordpiece,
}


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    corpus: CorpusLike,
    num_new_tokens: int,
    *,
    min_frequency: int = 2,
    max_token_length: int | None = None,
    digits: bool = False,
    punctuation: bool = False,
    alphabet: str | Iterable[str] | None = None,
    marks_aware: bool = False,
    show_progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Return a tokenizer with tokens learnt from a text after its own.

    Every old token keeps its id; the new ones follow the highest. Normalizer, pre-tokenizer, decoder, post-processor,
    special tokens, chat template, truncation, padding and maximum length are those of the given tokenizer, which is
    not changed. The same text gives the same tokenizer, byte for byte.

    BPE models go on merging where their merges end. WordPiece models get the pieces that such merging proposes and
    that longest-match-first encoding then uses most. Unigram models get such pieces with scores fitted on the text,
    the old scores staying as they are. Each new token occurs in the encoding of the text, or at least in that of the
    word that it spells if other new tokens are made from it.

    Args:
        tokenizer: Tokenizer with a ``tokenizer.json`` behind it, of any family.
        corpus: Text: whatever :func:`~hf_vocab_extend.resources.corpus.open_corpus` takes. It is streamed; only its
            distinct pre-tokens are held in memory.
        num_new_tokens: How many tokens to add, at least 1.
        min_frequency: How often a new token must be seen while learning, at least 1.
        max_token_length: Most characters of a new token, marks of place not counted; no limit by default.
        digits: Whether new tokens may hold digits besides single ones of a new alphabet.
        punctuation: Whether new tokens may hold both letters and punctuation.
        alphabet: Characters that get a token of their own if they have none, as one string or several. By default
            those that cover 99.95 % of the text. Byte-level tokenizers write every character and take no alphabet.
        marks_aware: Whether to let the pre-tokenizer's regex keep combining marks with their letters (Indic scripts,
            Thai, vowelled Arabic). Text without such marks keeps its ids.
        show_progress: Whether to show a progress bar on standard error.

    Returns:
        A new tokenizer. It has fewer new tokens than asked for if the text gives no more, which a warning says.

    Raises:
        InvalidOptionError: If an option lies outside its range, or the pre-tokenizer has no regex to make aware of
            marks.
        CorpusError: If the text is empty or cannot be read.
        UnsupportedTokenizerError: If the tokenizer has no ``tokenizer.json`` or is of no known family.
    """
    from ..resources.corpus import open_corpus

    spelling = read_spelling(tokenizer)
    options = GrowthOptions(
        num_new_tokens=_at_least_one("num_new_tokens", num_new_tokens),
        min_frequency=_at_least_one("min_frequency", min_frequency),
        max_token_length=None if max_token_length is None else _at_least_one("max_token_length", max_token_length),
        digits=digits,
        punctuation=punctuation,
    )
    chars = _alphabet(alphabet, spelling.byte_level)
    if marks_aware:
        tokenizer = rebuild(tokenizer, upgrade_marks(tokenizer))
    words = count_pre_tokens(tokenizer, open_corpus(corpus), show_progress)
    if not words:
        raise CorpusError("The corpus has no text that this tokenizer would cut into words. Pass plain text.")
    probes = [text for char in chars or () for text in (char, "a" + char)]
    letters = count_pre_tokens(tokenizer, probes) if probes else None
    material = Material(read_json(tokenizer), spelling, dict(sorted(words.items())), options, letters)
    data, new_tokens = _GROWERS[spelling.family](material)
    if len(new_tokens) < num_new_tokens:
        warnings.warn(
            f"The corpus gives {len(new_tokens)} new tokens, not the {num_new_tokens} asked for: nothing else in it "
            f"occurs {min_frequency} times and may be joined. Bring more text, or lower min_frequency.",
            VocabExtendWarning,
            stacklevel=2,
        )
    return rebuild(tokenizer, data)


def _at_least_one(name: str, value: Any) -> int:
    """Return a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOptionError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    return value


def _alphabet(alphabet: str | Iterable[str] | None, byte_level: bool) -> tuple[str, ...] | None:
    """Return the distinct characters of an alphabet in order."""
    if alphabet is None:
        return None
    if byte_level:
        raise InvalidOptionError(
            "alphabet was given, but this tokenizer is byte-level: it writes every character already. Leave it out."
        )
    if not isinstance(alphabet, Iterable) or not all(isinstance(part, str) for part in alphabet):
        raise InvalidOptionError(f"alphabet is {alphabet!r}; pass one string or several.")
    chars = tuple(dict.fromkeys(char for part in alphabet for char in part if not char.isspace()))
    if not chars:
        raise InvalidOptionError("alphabet holds no character. Leave it out to take the frequent ones of the text.")
    return chars


__all__ = ["extend_tokenizer"]
