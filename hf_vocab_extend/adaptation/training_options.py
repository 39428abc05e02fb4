"""How a training on plain text goes: the options that Python, the command line and config files share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidOptionError
from .stages import Stages, as_stages


@dataclass(frozen=True)
class TrainingOptions:
    """How ``train_language_model`` trains; the command line has the same options.

    Attributes:
        objective: ``"causal"``, ``"masked"``, ``"span"``, or ``"auto"`` for the one of the model's class.
        block_size: Tokens in an example; by default 512, or as many as the model reads.
        pack: Join documents, so that no example is padded.
        documents_apart: Keep attention inside documents (causal models that make their mask from positions).
        streaming: Read the corpora while training; for those that fit in no memory. Needs ``steps`` or ``tokens``.
        shuffle_buffer: Examples to shuffle among when streaming.
        replay_share: Share of bytes of source text, if there is any.
        held_out: Lines held out of each corpus to measure on.
        stages: What trains when, see :mod:`~hf_vocab_extend.adaptation.stages`; everything by default.
        steps: Optimizer steps.
        epochs: Passes over the text, 1 by default.
        tokens: Tokens to train on.
        learning_rate: Highest learning rate.
        warmup: Share of the steps over which the rate rises; it then falls as a cosine.
        weight_decay: Weight decay of AdamW.
        batch_size: Examples on a device at once.
        gradient_accumulation: Batches to an optimizer step.
        bf16: Compute in bfloat16.
        gradient_checkpointing: Compute activations again to save memory.
        evaluations: How often to measure and to save a checkpoint.
        lora: Rank of LoRA on the body; None trains the weights themselves.
        lora_tables: What of the tables trains beside it: ``"new_rows"``, ``"full"`` or ``"none"``.
        resume: Go on from the last checkpoint in the work folder.
        seed: Seed of all randomness.
        logger: Where the Trainer logs: ``"none"``, ``"tensorboard"``, ``"wandb"``.
        training_arguments: More arguments of ``TrainingArguments``.
    """

    objective: str = "auto"
    block_size: int | None = None
    pack: bool = True
    documents_apart: bool = False
    streaming: bool = False
    shuffle_buffer: int = 1000
    replay_share: float = 0.1
    held_out: int = 200
    stages: Stages | None = None
    steps: int | None = None
    epochs: float | None = None
    tokens: int | None = None
    learning_rate: float = 5e-5
    warmup: float = 0.03
    weight_decay: float = 0.01
    batch_size: int = 8
    gradient_accumulation: int = 1
    bf16: bool = False
    gradient_checkpointing: bool = False
    evaluations: int = 10
    lora: int | None = None
    lora_tables: str = "new_rows"
    resume: bool = False
    seed: int = 0
    logger: str = "none"
    training_arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            InvalidOptionError: It names the option.
        """
        lengths = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise InvalidOptionError(f"The training has {' and '.join(lengths)}. Give one of them.")
        if self.streaming and self.steps is None and self.tokens is None:
            raise InvalidOptionError("A stream has no end: give steps or tokens to train on.")
        for name in ("steps", "epochs", "tokens", "learning_rate", "batch_size", "gradient_accumulation", "lora"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InvalidOptionError(f"{name} is {value}. Give a number above 0.")
        if not 0 <= self.warmup <= 1 or self.evaluations < 0:
            raise InvalidOptionError(
                f"warmup is {self.warmup} and evaluations is {self.evaluations}. Give a share of the steps, and 0 or "
                "more times."
            )
        from .adapters import TABLES

        if self.lora_tables not in TABLES:
            raise InvalidOptionError(f"lora_tables is '{self.lora_tables}'. Take {', '.join(TABLES)}.")
        as_stages(self.stages)


__all__ = ["TrainingOptions"]
