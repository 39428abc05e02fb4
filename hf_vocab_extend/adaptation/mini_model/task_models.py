"""A model that was trained for a task, and its copies that read other languages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..._logging import get_logger, progress
from ...errors import InvalidOptionError
from ...evaluation.probe import classification_scores
from ...evaluation.scoring import evaluating, longest_input
from ...modeling.slots import alias_clone
from ...saving import save_model
from .task_building import set_padding
from .task_kinds import KINDS, kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...result import VocabExtension

logger = get_logger(__name__)

LONGEST = 256
"""Longest input in tokens by default, if the model reads as much."""


@dataclass(eq=False)
class TaskModel:
    """A model that was trained for a task, with the tokenizer of the language that it reads.

    Attributes:
        model: The transformers model, one of ``AutoModelForSequenceClassification`` or
            ``AutoModelForTokenClassification``.
        tokenizer: The tokenizer that its table belongs to.
        labels: Names of the labels, in the order of the logits.
        task: ``"classification"`` (a label for each text) or ``"tagging"`` (one for each word).
        metrics: What was measured in training: ``loss``, ``seconds``, ``steps``, and ``validation``, the scores after
            each epoch, where validation examples were given.
        extension: What is known of the swapped table; None while the model reads its own language.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]
    task: str
    metrics: dict[str, Any] = field(default_factory=dict)
    extension: VocabExtension | None = None

    def predict(
        self, inputs: Sequence[Any], *, batch_size: int = 32, max_length: int | None = None
    ) -> list[str] | list[list[str | None]]:
        """Return the most probable labels.

        Args:
            inputs: Texts, or for a tagger lists of words. An empty text is read as its special tokens.
            batch_size: Inputs per forward pass.
            max_length: Longer inputs are cut to so many tokens; by default 256, or what the model reads.

        Returns:
            A label for each text; for a tagger a list for each sentence, with None for words that were cut off or
            have no token.

        Raises:
            UnsupportedTokenizerError: If a tagger's tokenizer gives no offsets.
        """
        found = self._predict(list(inputs), batch_size, max_length)
        if KINDS[self.task].per_token:
            return found
        return [str(own[0]) for own in found]

    def evaluate(
        self, examples: Sequence[Any], *, batch_size: int = 32, max_length: int | None = None
    ) -> dict[str, float]:
        """Measure the predictions against labels.

        Labels that the model does not know count as wrong, with a warning in the log; so do words that were cut off
        or have no token.

        Args:
            examples: Label and text of each document, or words and tags of each sentence.
            batch_size: Inputs per forward pass.
            max_length: Longer inputs are cut to so many tokens; by default 256, or what the model reads.

        Returns:
            ``accuracy``, ``macro_f1``, ``count`` (texts or words) and ``unread`` (words that were not read).

        Raises:
            InvalidTableError: If there is no example, or one is not of this form.
            InvalidOptionError: If the model knows none of the labels.
        """
        kind = KINDS[self.task]
        inputs, labels = kind.split(kind.listed(examples))
        expected = [label for own in labels for label in own]
        unknown = sorted(set(expected) - set(self.labels))
        if expected and len(unknown) == len(set(expected)):
            raise InvalidOptionError(
                f"The model knows none of the labels ({some_of(unknown)}); its own are {some_of(self.labels)}. Give "
                "examples with the labels of the training."
            )
        if unknown:
            count = sum(label not in self.labels for label in expected)
            logger.warning("%d of %d labels are unknown to the model and count as wrong.", count, len(expected))
        predicted = [label for own in self._predict(inputs, batch_size, max_length) for label in own]
        other = {label: self.labels[label == self.labels[0]] for label in expected}  # any label but the right one
        filled = [other[true] if label is None else label for label, true in zip(predicted, expected, strict=True)]
        return classification_scores(filled, expected) | {"unread": float(predicted.count(None))}

    def with_embeddings(self, learned: Any, **options: Any) -> TaskModel:
        """Return a task model for another language: the same body, in the same memory, with another table.

        This model stays as it is, so one task model serves as many languages as there are tables.

        Args:
            learned: What :func:`~.transplanting.transplant_embeddings` takes: learned embeddings, an extension, or
                the folder of one.
            options: Its options.

        Raises:
            VocabExtendError: If the table does not fit: see :func:`~.transplanting.transplant_embeddings`.
        """
        from .transplanting import transplant_embeddings

        model = alias_clone(self.model)
        extension = transplant_embeddings(learned, model, **options)
        set_padding(model, extension.tokenizer)
        return TaskModel(model, extension.tokenizer, self.labels, self.task, dict(self.metrics), extension)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder that plain ``from_pretrained`` loads, complete or not at all.

        Args:
            save_directory: Where to write.
            overwrite: Write into a folder that is not empty.

        Raises:
            OutputFolderError: If the folder cannot be written to.
            VerificationError: If it does not load back equal.
        """
        save_model(self.model, self.tokenizer, save_directory, overwrite=overwrite)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> TaskModel:
        """Load a task model from a folder or the Hub.

        Args:
            name: Where it is.
            options: Options of transformers' ``from_pretrained`` for the model.

        Raises:
            UnsupportedModelError: If the model is of no task.
        """
        import transformers

        config = transformers.AutoConfig.from_pretrained(name)
        kind = kind_of(next(iter(config.architectures or ()), type(config).__name__))
        model = getattr(transformers, kind.auto_class).from_pretrained(name, **options).eval()
        labels = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
        return cls(model, transformers.AutoTokenizer.from_pretrained(name), labels, kind.name)

    def _predict(self, inputs: list[Any], batch_size: int, max_length: int | None) -> list[list[str | None]]:
        """Return the label of each unit of each input."""
        if not inputs:
            return []
        kind = KINDS[self.task]
        read = kind.encode(self.tokenizer, inputs, longest(self.model, self.tokenizer, max_length))
        order = sorted(range(len(read)), key=lambda index: -len(read[index].ids))
        pad_id = self.model.config.get_text_config().pad_token_id
        found: dict[int, list[str | None]] = {}
        batches = range(0, len(order), batch_size)
        with evaluating(self.model):
            for start in progress(batches, desc="Predicting", unit="batch", total=len(batches)):
                part = order[start : start + batch_size]
                chosen = [read[index] for index in part]
                logits = self.model(**kind.batch(chosen, pad_id, self.model.device)).logits
                for index, best in zip(part, kind.best(chosen, logits), strict=True):
                    found[index] = [None if label is None else self.labels[label] for label in best]
        return [found[index] for index in range(len(read))]


def longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int:
    """Return how many tokens of an input a task model reads, special tokens included."""
    wanted = LONGEST if max_length is None else max_length
    return min(wanted, longest_input(model, tokenizer) or wanted)


def some_of(names: Sequence[str]) -> str:
    """Return the first few names."""
    return ", ".join(f"'{name:.30}'" for name in names[:5]) + (", ..." if len(names) > 5 else "")


__all__ = ["LONGEST", "TaskModel", "longest", "some_of"]
