"""What every initialisation method is: a config, a class, and one ``fit`` that returns rows.

A method never sees a model, a tokenizer file or the Hub. It receives a :class:`FitContext` and returns a
:class:`RowSource`; ``extend_vocabulary`` applies that source to every vocabulary-sized tensor of the model.
"""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from ..errors import InvalidOptionError, MissingResourceError, VocabExtendWarning

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerBase

    from ..plan import VocabPlan


@runtime_checkable
class RowSource(Protocol):
    """Rows for target tokens, computable for any table that is indexed by the source vocabulary."""

    @property
    def covered(self) -> np.ndarray:
        """Which of the plan's new tokens have a row here, bool, shape `(n_new,)`, in the order of ``plan.new_ids``."""
        ...

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """Return the rows of the new tokens.

        Args:
            table: A table over the source vocabulary, shape `(n_source, width)`, any float dtype.

        Returns:
            Float32 rows, shape `(n_new, width)`; rows that are not covered hold zeros.
        """
        ...


@dataclass(frozen=True)
class Resources:
    """Auxiliary knowledge that the user brings; whatever is None was not given."""

    corpus: Any = None
    """Target-language text: anything that ``resources.corpus.open_corpus`` reads."""
    parallel: Any = None
    """Pairs ``(source_text, target_text)``."""
    word_vectors: Any = None
    """Word vectors: one space of all languages, or ``(source, target)``; ``resources.word_vectors`` says of what."""
    token_vectors: Any = None
    """Vectors of target tokens: a mapping of token to vector or ``(tokens, matrix)``."""
    dictionary: Any = None
    """Pairs ``(source_word, target_word)``."""
    helper_model: Any = None
    """A model that already speaks the target vocabulary."""

    def given(self) -> frozenset[str]:
        """Names of the resources that were given."""
        return frozenset(item.name for item in dataclasses.fields(self) if getattr(self, item.name) is not None)


@dataclass(frozen=True)
class FitContext:
    """All that a method may look at."""

    plan: VocabPlan
    source_tokenizer: PreTrainedTokenizerBase
    target_tokenizer: PreTrainedTokenizerBase
    resources: Resources
    generator: torch.Generator
    """The only source of randomness, on the CPU."""
    trained: np.ndarray
    """Which source rows may enter a mean, bool, shape `(n_source,)`: not padding, not a hole, not never-trained."""
    device: torch.device
    """Where heavy arithmetic should run."""
    shared: np.ndarray | None = None
    """Source id that spells the same as each new token that the method asked for with
    :meth:`InitMethod.reestimates`, -1 for the others, int64, shape `(n_new,)`; None where it asked for none."""
    rank: int | None = None
    """Rank at which the table is going to be factorised; None where it stays dense."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the report that a method adds: facts about its work that a reader would not look for."""

    @property
    def n_source(self) -> int:
        """Number of rows of the source tables (at least the number of source ids)."""
        return len(self.trained)


@dataclass(frozen=True)
class MethodConfig:
    """Base of the methods' options; subclasses are frozen dataclasses with JSON-safe fields."""

    def __post_init__(self) -> None:
        """Check the options; subclasses call it before their own checks."""

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], *, strict: bool = True) -> MethodConfig:
        """Build a config from plain data.

        Args:
            options: Option names and values.
            strict: Refuse unknown names. Otherwise they are dropped with one warning (a newer version wrote them).

        Raises:
            InvalidOptionError: If a name is unknown and ``strict`` holds, or a value is out of range.
        """
        known = [item.name for item in dataclasses.fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown and strict:
            close = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise InvalidOptionError(
                f"{cls.__name__} has no option '{unknown[0]}'.{hint} Its options: {', '.join(known) or 'none'}."
            )
        if unknown:
            warnings.warn(
                f"{cls.__name__} ignores options of another version: {', '.join(unknown)}.",
                VocabExtendWarning,
                stacklevel=2,
            )
        return cls(**{name: value for name, value in options.items() if name in known})


class InitMethod(ABC):
    """One way to find rows for new tokens. Subclass it, fill the class attributes, write ``fit``."""

    name: ClassVar[str]
    pretty_name: ClassVar[str]
    summary: ClassVar[str]
    paper_url: ClassVar[str | None] = None
    citation: ClassVar[str | None] = None
    config_class: ClassVar[type[MethodConfig]] = MethodConfig
    needs: ClassVar[tuple[frozenset[str], ...]] = ()
    """Alternatives: each a set of :class:`Resources` fields, one set of which must be given in full."""
    extra: ClassVar[str | None] = None
    """The package extra that the method needs, if any."""

    def __init__(self, config: MethodConfig | None = None) -> None:
        """Take a config of ``config_class``, or the defaults."""
        if config is not None and not isinstance(config, self.config_class):
            raise InvalidOptionError(
                f"Method '{self.name}' takes a {self.config_class.__name__}, not a {type(config).__name__}."
            )
        self.config = config if config is not None else self.config_class()

    def check_resources(self, resources: Resources) -> None:
        """Raise before any work if no alternative of ``needs`` is met.

        Raises:
            MissingResourceError: It names the missing arguments.
        """
        given = resources.given()
        if not self.needs or any(option <= given for option in self.needs):
            return
        least = [option for option in self.needs if not any(other < option for other in self.needs)]
        wanted = " or ".join(" with ".join(f"{name}=" for name in sorted(option)) for option in least)
        raise MissingResourceError(
            f"Method '{self.name}' needs {wanted}, and it was not given. "
            "The methods 'subword', 'mean' and 'normal' need nothing."
        )

    def reestimates(self, plan: VocabPlan) -> np.ndarray:
        """Return target ids that the plan would copy by their spelling and that the method wants to find a row for.

        Asked in mode ``replace`` only, where a word of the new language can spell like an unrelated one of the old.
        What the method does not cover after all is copied. By default none, int64, shape `(n,)`.
        """
        import numpy as np

        return np.empty(0, np.int64)

    @abstractmethod
    def fit(self, context: FitContext) -> RowSource:
        """Find the rows of the plan's new tokens."""


def check_option(condition: bool, message: str) -> None:
    """Raise :class:`InvalidOptionError` with the message unless the condition holds."""
    if not condition:
        raise InvalidOptionError(message)


def names(values: Iterable[str]) -> str:
    """Join names for a message."""
    return ", ".join(sorted(values))


__all__ = ["FitContext", "InitMethod", "MethodConfig", "Resources", "RowSource", "check_option", "field", "names"]
