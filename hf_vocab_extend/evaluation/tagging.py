"""Transfer of a tagger: a linear probe on the words of one language, read on those of another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from .._logging import progress
from ..errors import InvalidTableError, UnsupportedTokenizerError
from .probe import classification_scores, fit_probe
from .scoring import evaluating
from .vectors import body_of, padded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Tagged = Sequence[tuple[Sequence[str], Sequence[str]]]
"""Words and tags of each sentence."""


def tag_transfer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Tagged,
    test: Tagged,
    *,
    batch_size: int = 32,
    max_length: int = 256,
    max_words: int = 20_000,
    penalty: float = 1.0,
) -> dict[str, float]:
    """Measure how well part-of-speech tags learned in one language are told in another.

    A word's vector is the last hidden state at its first subword, the convention of XTREME (Hu et al. 2020, arXiv
    2003.11080); in a causal model it has not read the rest of the word. The words are put together with single spaces.
    A logistic regression is fitted on them; the model itself is not trained.

    Args:
        model: Any model with hidden states; of one with a head, its body.
        tokenizer: Its tokenizer; one that gives offsets.
        train: Words and tags of the sentences to learn from.
        test: Words and tags of the sentences to tell.
        batch_size: Sentences per forward pass.
        max_length: Longer sentences are cut to so many tokens.
        max_words: Training words at most; whole sentences, in their order.
        penalty: L2 penalty of the probe.

    Returns:
        ``accuracy``, ``macro_f1``, ``count`` (test words) and ``unread`` (test words that were cut off or have no
        token; they count as wrong).

    Raises:
        UnsupportedTokenizerError: If the tokenizer gives no offsets.
        InvalidTableError: If a sentence has another number of tags than words, or there are no test words.
        InvalidOptionError: If the training words have fewer than two tags.
    """
    if not tokenizer.is_fast:
        raise UnsupportedTokenizerError(
            "Tags need to know where words begin, and the tokenizer gives no offsets. Give its tokenizer.json."
        )
    for words, tags in (*train, *test):
        if len(words) != len(tags):
            raise InvalidTableError(f"A sentence has {len(words)} words and {len(tags)} tags ({' '.join(words):.40}).")
    body = body_of(model)
    chosen, count = [], 0
    for sentence in train:
        if count >= max_words:
            break
        chosen.append(sentence)
        count += len(sentence[0])
    with evaluating(model):
        learned, known, _ = _words(body, tokenizer, chosen, batch_size, max_length)
        read, expected, unread = _words(body, tokenizer, test, batch_size, max_length)
    probe = fit_probe(learned, known, penalty=penalty)
    wrong = {label: probe.labels[label == probe.labels[0]] for label in set(unread)}  # any label but the right one
    predicted = probe.predict(read) if len(read) else []
    scores = classification_scores(predicted + [wrong[label] for label in unread], expected + unread)
    return scores | {"unread": float(len(unread))}


def _words(
    body: Any, tokenizer: PreTrainedTokenizerBase, sentences: Tagged, batch_size: int, max_length: int
) -> tuple[torch.Tensor, list[str], list[str]]:
    """Return vectors `(n, d)` and tags of the words that were read, and the tags of those that were not."""
    vectors, tags, unread = [], [], []
    order = sorted(range(len(sentences)), key=lambda index: -sum(map(len, sentences[index][0])))
    batches = range(0, len(order), batch_size)
    for start in progress(batches, desc="Reading words", unit="batch", total=len(batches)):
        part = [sentences[index] for index in order[start : start + batch_size]]
        texts = [" ".join(words) for words, _ in part]
        encoded = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        states = body(**padded(encoded["input_ids"], body.device))[0]
        for row, (words, own_tags) in enumerate(part):
            found = dict(first_tokens(words, offsets[row]))
            for word, tag in enumerate(own_tags):
                if word in found:
                    vectors.append(states[row, found[word]].float().cpu())
                    tags.append(tag)
                else:
                    unread.append(tag)
    return (torch.stack(vectors) if vectors else torch.zeros(0, 0)), tags, unread


def first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield each word and the place of its first token: the first that holds a character of it."""
    starts, end = [], 0
    for word in words:
        starts.append(end)
        end += len(word) + 1
    place = 0
    for index, (word, start) in enumerate(zip(words, starts, strict=True)):
        while place < len(offsets) and (offsets[place][1] <= start or offsets[place][0] == offsets[place][1]):
            place += 1
        if place < len(offsets) and offsets[place][0] < start + len(word):
            yield index, place


__all__ = ["first_tokens", "tag_transfer"]
