"""A Trainer with groups of learning rates: as a mixin for any Trainer, and as a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import Trainer

from .learning_rates import split_groups


class VocabExtensionTrainerMixin:
    """Gives the optimizer of a Trainer one group for tables, one for heads and one for the body.

    Put it before the Trainer: ``class MyTrainer(VocabExtensionTrainerMixin, Seq2SeqTrainer)``. Any optimizer that the
    Trainer can make keeps its options; one that is given with ``optimizers=`` is left alone.

    Attributes:
        learning_rate_factors: Group (``tables``, ``head``, ``body``) to its rate over ``args.learning_rate``; set it
            before training.
    """

    learning_rate_factors: Mapping[str, float] | None = None

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimizer as the Trainer does, then split its groups.

        Raises:
            InvalidOptionError: If a factor is negative or its group unknown.
        """
        given = self.optimizer is not None  # type: ignore[attr-defined]
        optimizer = super().create_optimizer(model)  # type: ignore[misc]
        if not given:
            own = self.model if model is None else model  # type: ignore[attr-defined]
            optimizer.param_groups[:] = split_groups(optimizer.param_groups, own, self.learning_rate_factors)
        return optimizer


class VocabExtensionTrainer(VocabExtensionTrainerMixin, Trainer):
    """``Trainer`` with groups of learning rates.

    Example:
        >>> trainer = VocabExtensionTrainer(model=model, args=args, train_dataset=data, callbacks=[callback])
        >>> trainer.learning_rate_factors = {"tables": 1.0, "body": 0.1}
    """


__all__ = ["VocabExtensionTrainer", "VocabExtensionTrainerMixin"]
