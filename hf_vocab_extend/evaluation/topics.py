"""Transfer of a topic classifier: trained on sentence vectors of one language, read on those of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .probe import classification_scores, fit_probe
from .retrieval import embed_sentences
from .scoring import evaluating
from .vectors import body_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Labelled = Sequence[tuple[str, str]]
"""Label and text of each document."""


def topic_transfer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Labelled,
    test: Labelled,
    *,
    batch_size: int = 64,
    max_length: int = 256,
    penalty: float = 1.0,
) -> dict[str, float]:
    """Measure how well topics learned in one language are told in another.

    A logistic regression is fitted on the mean of the last hidden states of the training texts (for SIB-200 the usual
    measure is accuracy or macro F1 of such a transfer from English, Adelani et al. 2024, arXiv 2309.07445). The model
    itself is not trained.

    Args:
        model: Any model with hidden states; of one with a head, its body.
        tokenizer: Its tokenizer.
        train: Label and text of the documents to learn from.
        test: Label and text of the documents to tell.
        batch_size: Texts per forward pass.
        max_length: Longer texts are cut to so many tokens.
        penalty: L2 penalty of the classifier, see :func:`~hf_vocab_extend.evaluation.probe.fit_probe`.

    Returns:
        ``accuracy``, ``macro_f1`` and ``count`` (test documents).

    Raises:
        InvalidTableError: If there is no test document.
        InvalidOptionError: If the training documents have fewer than two labels.
        UnsupportedModelError: If the model has no hidden states to read.
    """
    body = body_of(model)
    with evaluating(model):
        learned, read = (
            embed_sentences(body, tokenizer, [text for _, text in side], batch_size=batch_size, max_length=max_length)
            for side in (train, test)
        )
    probe = fit_probe(learned, [label for label, _ in train], penalty=penalty)
    return classification_scores(probe.predict(read), [label for label, _ in test])


__all__ = ["topic_transfer"]
