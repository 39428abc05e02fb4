"""Reading a text of several vocabularies with one model.

While a mixed text is read, ids live in one space: those of the output language as they are, so that what the model
writes can be fed back and every id of its configs keeps its meaning; those of the other languages behind them, one
range for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..errors import InvalidOptionError
from .slots import Slot

IGNORED = -100
"""Label of a position that does not enter the loss."""


@dataclass(frozen=True)
class IdSpace:
    """Where the ids of each language lie while a mixed text is read.

    Attributes:
        languages: Names, in the order that language ids count.
        sizes: Rows of the input table of each.
        pads: Padding id of each, None for a tokenizer without one, or with one that is also a word (eos).
        output: The language whose ids come first.
        output_pad: The id that stands for padding of any language, None if the output language has none.
    """

    languages: tuple[str, ...]
    sizes: tuple[int, ...]
    pads: tuple[int | None, ...]
    output: str
    output_pad: int | None

    @property
    def offsets(self) -> tuple[int, ...]:
        """First id of each language."""
        first = self.languages.index(self.output)
        found, behind = [], self.sizes[first]
        for index, size in enumerate(self.sizes):
            found.append(0 if index == first else behind)
            behind += 0 if index == first else size
        return tuple(found)

    @property
    def extra(self) -> int:
        """Number of ids behind those of the output language."""
        return sum(self.sizes) - self.sizes[self.languages.index(self.output)]

    def range_of(self, language: str) -> tuple[int, int]:
        """First id and number of ids of a language."""
        index = self.languages.index(language)
        return self.offsets[index], self.sizes[index]

    def join(
        self, ids: torch.Tensor, language_ids: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[str]]:
        """Bring ids of several languages into this space.

        Args:
            ids: Ids of their own tokenizers, shape `(batch, length)`.
            language_ids: Index of the language of each, same shape.
            attention_mask: Zero where there is padding, same shape; of another shape it is not looked at.

        Returns:
            The ids, and the languages that occur, the output language first.

        Raises:
            InvalidOptionError: If a language id or an id lies outside its range.
        """
        present = language_ids.unique().tolist()
        unknown = [index for index in present if not 0 <= index < len(self.languages)]
        if unknown:
            raise InvalidOptionError(
                f"language_ids holds {unknown[0]}, and there are {len(self.languages)} languages: "
                f"{', '.join(f'{name} {index}' for index, name in enumerate(self.languages))}."
            )
        sizes, offsets, pads = (
            torch.tensor(values, device=ids.device)[language_ids]
            for values in (self.sizes, self.offsets, [-1 if pad is None else pad for pad in self.pads])
        )
        self._check_ids(ids, language_ids, sizes)
        joined = ids + offsets
        if self.output_pad is not None:
            padding = ids == pads
            if attention_mask is not None and attention_mask.shape == ids.shape:
                padding = padding | (attention_mask == 0)
            joined = joined.masked_fill(padding, self.output_pad)
        others = [self.languages[index] for index in present if self.languages[index] != self.output]
        return joined, [self.output, *others]

    def _check_ids(self, ids: torch.Tensor, language_ids: torch.Tensor, sizes: torch.Tensor) -> None:
        """Raise if an id lies outside its language: it would be read as another language's."""
        wrong = (ids < 0) | (ids >= sizes)
        if wrong.any():
            where = tuple(wrong.nonzero()[0].tolist())
            language = self.languages[int(language_ids[where])]
            raise InvalidOptionError(
                f"input_ids holds {int(ids[where])} for '{language}', whose table has {int(sizes[where])} rows. "
                f"Encode the text with the tokenizer of '{language}'."
            )


@contextmanager
def reading_mixed(
    readers: Sequence[Slot],
    tables: Mapping[str, Mapping[str, torch.Tensor]],
    paddings: Callable[[str, Slot], int | None],
    space: IdSpace,
    present: Sequence[str],
) -> Iterator[None]:
    """Let the input tables of a model read ids of an :class:`IdSpace`; afterwards they are as they were.

    Args:
        readers: The input tables.
        tables: Of each language, the tensor of each slot.
        paddings: Padding id of an input table in a language.
        space: The space.
        present: Languages that may occur, the output language first; no other table is touched.
    """
    with ExitStack() as stack:
        for slot in readers:
            parts = [(*space.range_of(name), tables[name][slot.name], paddings(name, slot)) for name in present]
            stack.enter_context(_replaced_forward(slot.module, _mixed_lookup(slot, parts)))
        yield


def _mixed_lookup(slot: Slot, parts: list[tuple[int, int, torch.Tensor, int | None]]) -> Callable[..., torch.Tensor]:
    """Return a forward that looks every id up in the table of its range, by the module's own forward."""
    module, own_forward = slot.module, slot.module.forward

    def forward(ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        result: torch.Tensor | None = None
        for first, size, table, padding in parts:
            inside = (ids >= first) & (ids < first + size)
            with _own_table(module, slot.attribute, table, padding):
                rows = own_forward(torch.where(inside, ids - first, 0), *args, **kwargs)
            result = rows if result is None else torch.where(inside.unsqueeze(-1), rows, result)
        assert result is not None
        return result

    return forward


@contextmanager
def _own_table(module: nn.Module, attribute: str, table: torch.Tensor, padding: int | None) -> Iterator[None]:
    """Let a module hold another table for one lookup."""
    before, padding_before = module._parameters[attribute], vars(module).get("padding_idx")
    module._parameters[attribute] = table  # type: ignore[assignment]
    if "padding_idx" in vars(module):
        module.__dict__["padding_idx"] = padding
    try:
        yield
    finally:
        module._parameters[attribute] = before
        if "padding_idx" in vars(module):
            module.__dict__["padding_idx"] = padding_before


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Give one module another forward for a while."""
    before = vars(module).get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


@contextmanager
def widened_logits(model: nn.Module, extra: int) -> Iterator[None]:
    """Append columns of minus infinity to the logits, one for each id of another language.

    Logits processors look every id of the prompt up in the logits (a repetition penalty gathers, n-gram blocking
    writes), so the ids of other languages need a place there. They can never be chosen.
    """

    def widen(_module: nn.Module, _args: Any, output: Any) -> Any:
        output.logits = functional.pad(output.logits, (0, extra), value=float("-inf"))
        return output

    handle = model.register_forward_hook(widen)
    try:
        yield
    finally:
        handle.remove()


def narrowed(output: Any, n_rows: int) -> Any:
    """Take the columns of :func:`widened_logits` out of what ``generate`` returned beside the sequences."""
    for name in ("scores", "logits"):
        steps = getattr(output, name, None)
        if steps is not None:
            setattr(output, name, tuple(step[..., :n_rows] for step in steps))
    return output
