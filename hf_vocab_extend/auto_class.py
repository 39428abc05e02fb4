"""Which ``AutoModel...`` class loads a model, and which task of the Hub it serves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AutoClass:
    """One of the Auto classes of transformers."""

    name: str
    mapping: str
    """Name of its table of model type to class name."""
    pipeline_tag: str | None
    """Task on the Hub; None where the class alone does not tell."""


AUTO_CLASSES = (
    AutoClass("AutoModelForImageTextToText", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "image-text-to-text"),
    AutoClass("AutoModelForSpeechSeq2Seq", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", "automatic-speech-recognition"),
    AutoClass("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", None),
    AutoClass("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "text-generation"),
    AutoClass("AutoModelForMaskedLM", "MODEL_FOR_MASKED_LM_MAPPING_NAMES", "fill-mask"),
    AutoClass(
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
        "text-classification",
    ),
    AutoClass(
        "AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", "token-classification"
    ),
    AutoClass("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", "question-answering"),
    AutoClass("AutoModelForPreTraining", "MODEL_FOR_PRETRAINING_MAPPING_NAMES", None),
    AutoClass("AutoModel", "MODEL_MAPPING_NAMES", "feature-extraction"),
)
"""First match wins: BART's class for translation also stands in the table of masked language models."""


def find_auto_class(model_type: str, architecture: str) -> AutoClass | None:
    """Return the Auto class that builds an architecture from a config of a model type.

    Args:
        model_type: ``model_type`` of ``config.json``.
        architecture: Name of the model class, the first of ``architectures`` in ``config.json``.

    Returns:
        The Auto class, or None if every one of them builds another class.
    """
    from transformers.models.auto import modeling_auto

    for candidate in AUTO_CLASSES:
        built = getattr(modeling_auto, candidate.mapping, {}).get(model_type)
        names = (built,) if isinstance(built, str) else tuple(built or ())
        if names[:1] == (architecture,):
            return candidate
    return None
