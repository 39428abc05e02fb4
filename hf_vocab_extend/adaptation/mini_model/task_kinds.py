"""The kinds of tasks with labels: how an example is read, and where in a model's output its labels stand."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ...errors import InvalidTableError, UnsupportedModelError, UnsupportedTokenizerError
from ...evaluation.tagging import first_tokens
from ...evaluation.vectors import padded
from ...modeling.reading import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """What a model reads of one input.

    Attributes:
        ids: Token ids, with special tokens.
        places: Which unit (a text, or a word of a sentence) is read at which position of the output.
        n_units: Number of units; those without a place are cut off or have no token.
    """

    ids: list[int]
    places: dict[int, int]
    n_units: int


@dataclass(frozen=True)
class TaskKind:
    """One kind of task.

    Attributes:
        name: Its name.
        auto_class: The class of transformers that makes its models.
        ending: How the names of their classes end.
        unit: What has one label.
        per_token: Whether logits are `(batch, length, k)`, not `(batch, k)`.
        reader: The function that reads examples from a file.
        split: Brings examples into the form of inputs, and labels of each unit of them.
        encode: Reads inputs with a tokenizer, cut to so many tokens.
    """

    name: str
    auto_class: str
    ending: str
    unit: str
    per_token: bool
    reader: str
    split: Callable[[Sequence[Any]], tuple[list[Any], list[list[str]]]]
    encode: Callable[[PreTrainedTokenizerBase, Sequence[Any], int], list[Encoded]]

    def listed(self, examples: Any) -> list[Any]:
        """Return examples as a list.

        Raises:
            InvalidTableError: If they are the name of a file.
        """
        if isinstance(examples, str | os.PathLike):
            raise InvalidTableError(
                f"The examples are the name '{os.fspath(examples)}'. Read them first: {self.reader}(...) of "
                "hf_vocab_extend.evaluation.readers."
            )
        return list(examples)

    def batch(self, read: Sequence[Encoded], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
        """Return ids and mask of a batch, `(n, longest)`, filled on the right."""
        return padded([one.ids for one in read], device, pad_id)

    def labels(self, read: Sequence[Encoded], known: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the labels of a batch as its model takes them: `(n,)`, or `(n, longest)` with -100 elsewhere."""
        if not self.per_token:
            return torch.tensor([own[0] for own in known])
        labels = torch.full((len(read), max(len(one.ids) for one in read)), IGNORED)
        for row, (one, own) in enumerate(zip(read, known, strict=True)):
            for unit, place in one.places.items():
                labels[row, place] = own[unit]
        return labels

    def best(self, read: Sequence[Encoded], logits: torch.Tensor) -> list[list[int | None]]:
        """Return the most probable label of each unit, None for one that was not read."""
        found = logits.float().argmax(-1).cpu()
        found = found if self.per_token else found.unsqueeze(1)
        return [
            [int(found[row, one.places[unit]]) if unit in one.places else None for unit in range(one.n_units)]
            for row, one in enumerate(read)
        ]


def _check_no_dict(number: int, example: Any, form: str) -> None:
    """Raise if an example is a row of a table with named columns.

    Raises:
        InvalidTableError: It names the columns.
    """
    if isinstance(example, Mapping):
        raise InvalidTableError(
            f"Example {number} is a dict with {', '.join(map(str, example))}. Give {form}, not dicts."
        )


def _split_labelled(examples: Sequence[Any]) -> tuple[list[Any], list[list[str]]]:
    """Return the texts and the label of each.

    Raises:
        InvalidTableError: If an example is no pair of label and text.
    """
    for number, example in enumerate(examples):
        _check_no_dict(number, example, "(label, text) pairs")
        if len(example) != 2 or not all(isinstance(part, str) for part in example):
            raise InvalidTableError(f"Example {number} is {example!r:.80}. Give a pair of label and text.")
    return [text for _, text in examples], [[label] for label, _ in examples]


def _split_tagged(examples: Sequence[Any]) -> tuple[list[Any], list[list[str]]]:
    """Return the words of each sentence and their tags.

    Raises:
        InvalidTableError: If an example is no pair of words and as many tags.
    """
    for number, example in enumerate(examples):
        _check_no_dict(number, example, "(words, tags) pairs")
        if len(example) != 2 or any(isinstance(part, str) for part in example):
            raise InvalidTableError(f"Example {number} is {example!r:.80}. Give a pair: a list of words, one of tags.")
        words, tags = example
        if len(words) != len(tags):
            raise InvalidTableError(
                f"Example {number} has {len(words)} words and {len(tags)} tags ({' '.join(words):.40}). Give each "
                "word one tag."
            )
    return [list(words) for words, _ in examples], [list(tags) for _, tags in examples]


def _encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> list[Encoded]:
    """Read texts; each is one unit."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return [Encoded(list(ids) or [_filler(tokenizer)], {0: 0}, 1) for ids in encoded]


def _encode_words(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[Sequence[str]], max_length: int
) -> list[Encoded]:
    """Read sentences, their words with single spaces between; a word is read at its first token.

    Raises:
        UnsupportedTokenizerError: If the tokenizer gives no offsets.
    """
    if not tokenizer.is_fast:
        raise UnsupportedTokenizerError(
            "Tags need to know where words begin, and the tokenizer gives no offsets. Give its tokenizer.json."
        )
    texts = [" ".join(words) for words in sentences]
    encoded = tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True)
    return [
        Encoded(list(ids) or [_filler(tokenizer)], dict(first_tokens(words, offsets)), len(words))
        for words, ids, offsets in zip(sentences, encoded["input_ids"], encoded["offset_mapping"], strict=True)
    ]


def _filler(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id that stands for a text without any token, as no model reads nothing."""
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    return next((own for own in ids if own is not None), 0)


KINDS: dict[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind(
            "classification",
            "AutoModelForSequenceClassification",
            "ForSequenceClassification",
            "text",
            False,
            "read_labelled",
            _split_labelled,
            _encode_texts,
        ),
        TaskKind(
            "tagging",
            "AutoModelForTokenClassification",
            "ForTokenClassification",
            "word",
            True,
            "read_tagged",
            _split_tagged,
            _encode_words,
        ),
    )
}
"""Every kind of task by its name."""


def kind_of(class_name: str) -> TaskKind:
    """Return the kind of task of a model class.

    Raises:
        UnsupportedModelError: If it is of none.
    """
    found = next((kind for kind in KINDS.values() if class_name.endswith(kind.ending)), None)
    if found is None:
        endings = " or ".join(kind.ending for kind in KINDS.values())
        raise UnsupportedModelError(f"A {class_name} is no task model. Give one whose class ends in {endings}.")
    return found


__all__ = ["KINDS", "Encoded", "TaskKind", "kind_of"]
