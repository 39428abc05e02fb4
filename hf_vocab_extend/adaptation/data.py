"""Texts into blocks of equal length: streamed or in memory, the same at every run, nothing lost but the last block.

Every text is a document. Documents are joined and the long row is cut into blocks, so that no place of a batch is
spent on padding. What stands between documents depends on the objective (:data:`FORMS`): for causal models each
document is written as the tokenizer writes it (with a start token, where it gives one) and closed by the end token;
for masked models every block is wrapped in the tokenizer's own specials and documents inside it are parted by the
separator; for span corruption documents follow each other plainly, as in T5's own pre-training (arXiv 1910.10683).

Attention crosses the borders of documents inside a block, as in most pre-training. ``positions=True`` adds
``position_ids`` that begin anew at each document: those causal models of transformers that make their attention mask
with ``create_causal_mask`` (Llama, Mistral, Qwen, Gemma, GPT-2 and others) then look at their own document only, as
long as they get no attention mask and use no cache; our collator and Trainer see to both.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .._logging import get_logger, progress
from ..errors import CorpusError, InvalidOptionError
from .objectives import OBJECTIVES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

DRAW = "draw"
"""Key of an example that says which draw of the collator's randomness is its own: epoch * 2^32 + index."""
_EPOCH = 1 << 32
_TEXTS_AT_ONCE = 256

Block = dict[str, list[int]]


@dataclass(frozen=True)
class BlockForm:
    """What stands around documents and blocks.

    Attributes:
        before: Ids before each document.
        after: Ids after each document.
        prefix: Ids before each block.
        suffix: Ids after each block.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


def _template(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that a tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start]), tuple(full[start + len(plain) :])
    return (), ()


def _causal_form(tokenizer: PreTrainedTokenizerBase) -> BlockForm:
    before, after = _template(tokenizer)
    end = tokenizer.eos_token_id
    if end is not None and end not in after:
        after = (*after, end)
    if not before and not after:
        logger.warning("The tokenizer has no end token: documents follow each other without a border.")
    return BlockForm(before=before, after=after)


def _masked_form(tokenizer: PreTrainedTokenizerBase) -> BlockForm:
    prefix, suffix = _template(tokenizer)
    border = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return BlockForm(after=() if border is None else (border,), prefix=prefix, suffix=suffix)


def _span_form(tokenizer: PreTrainedTokenizerBase) -> BlockForm:
    return BlockForm()


FORMS: dict[str, Callable[[PreTrainedTokenizerBase], BlockForm]] = {
    "causal": _causal_form,
    "masked": _masked_form,
    "span": _span_form,
}
"""Objective to what stands around documents and blocks."""


def packed_blocks(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    block_size: int,
    *,
    objective: str = "causal",
    last: str = "drop",
    pack: bool = True,
    positions: bool = False,
) -> Iterator[Block]:
    """Cut texts into blocks of ``block_size`` ids, streaming.

    Args:
        tokenizer: The tokenizer.
        texts: Documents; a :class:`~hf_vocab_extend.resources.corpus.Corpus` gives one a line.
        block_size: Ids in a block, specials included.
        objective: ``"causal"``, ``"masked"`` or ``"span"``: what stands between documents.
        last: What becomes of a block that is not full: ``"drop"`` or ``"keep"`` (shorter; collators pad it).
        pack: Join documents. If False, each document has blocks of its own, and ``last`` counts for each.
        positions: Add ``position_ids`` that begin anew at each document (objective ``"causal"`` only).

    Yields:
        ``{"input_ids": [...]}``, perhaps with ``"position_ids"``, each of ``block_size`` ids.

    Raises:
        InvalidOptionError: Before any work, if an option is out of range.
    """
    if objective not in FORMS:
        raise InvalidOptionError(f"There is no objective '{objective}'. Take {', '.join(OBJECTIVES)}.")
    if last not in ("drop", "keep"):
        raise InvalidOptionError(f"last is '{last}'. Take 'drop' or 'keep'.")
    if positions and objective != "causal":
        raise InvalidOptionError(
            f"positions=True parts documents for causal models only, and the objective is '{objective}'. Leave it out."
        )
    form = FORMS[objective](tokenizer)
    room = block_size - len(form.prefix) - len(form.suffix)
    if room < 2:
        raise InvalidOptionError(
            f"A block of {block_size} ids has room for {room} beside {len(form.prefix) + len(form.suffix)} specials. "
            "Give a larger block_size."
        )
    return _cut(_documents(tokenizer, texts, form), form, room, last == "keep", pack, positions)


def _documents(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], form: BlockForm) -> Iterator[list[int]]:
    """Yield the ids of each document with what stands around it."""
    stream = iter(texts)
    while batch := list(islice(stream, _TEXTS_AT_ONCE)):
        encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for ids in encoded:
            if ids:
                yield [*form.before, *ids, *form.after]


def _cut(
    documents: Iterable[list[int]], form: BlockForm, room: int, keep: bool, pack: bool, positions: bool
) -> Iterator[Block]:
    """Yield blocks with ``room`` ids of text each; what is left over only if ``keep``."""
    ids: list[int] = []
    places: list[int] = []  # place of each id in its document
    for document in documents:
        ids += document
        places += range(len(document))
        start = 0
        while len(ids) - start >= room:
            yield _block(ids[start : start + room], places[start : start + room], form, positions)
            start += room
        if start:
            del ids[:start], places[:start]
        if not pack:
            if keep and ids:
                yield _block(ids, places, form, positions)
            ids, places = [], []
    if keep and ids:
        yield _block(ids, places, form, positions)


def _block(ids: list[int], places: list[int], form: BlockForm, positions: bool) -> Block:
    """Return one block; a document cut off by the block before counts its positions from the block's start."""
    block = {"input_ids": [*form.prefix, *ids, *form.suffix]}
    if positions:
        start, counted = 0, []
        for index, place in enumerate(places):
            start = index if place == 0 else start
            counted.append(index - start)
        block["position_ids"] = counted
    return block


class PackedDataset(Dataset):
    """Blocks in memory, for Trainer; 4 bytes an id.

    An example holds ``input_ids``, perhaps ``position_ids``, and :data:`DRAW`, from which our collators draw: the same
    seed gives the same batches with any number of processes and workers, and after a resume. Trainer must be told to
    pass it on: ``TrainingArguments(remove_unused_columns=False)``; without, collators draw from a running generator.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        """Take all blocks.

        Args:
            blocks: What :func:`packed_blocks` yields.

        Raises:
            CorpusError: If there is none.
        """
        rows: dict[str, array[int]] = {}
        ends = array("q", [0])
        for block in progress(blocks, desc="Packing text", unit="block"):
            for key, row in block.items():
                rows.setdefault(key, array("i")).extend(row)
            ends.append(ends[-1] + len(block["input_ids"]))
        if len(ends) == 1:
            raise CorpusError("The text does not fill one block. Give more text, a smaller block_size or last='keep'.")
        self._rows = {key: np.frombuffer(row, np.intc) for key, row in rows.items()}
        self._ends = np.frombuffer(ends, np.int64)
        self._epoch = 0

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._ends) - 1

    @property
    def n_tokens(self) -> int:
        """Number of ids in all blocks."""
        return int(self._ends[-1])

    def set_epoch(self, epoch: int) -> None:
        """Say which pass it is: each has draws of its own.

        Trainer calls it in one process; in several, give it
        :class:`~hf_vocab_extend.adaptation.training.Passes` as a callback.
        """
        self._epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one example."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        part = slice(int(self._ends[index]), int(self._ends[index + 1]))
        example: dict[str, Any] = {key: row[part].tolist() for key, row in self._rows.items()}
        return example | {DRAW: self._epoch * _EPOCH + index}


class StreamedBlocks(IterableDataset):
    """Blocks made while they are read, for corpora that fit in no memory; Trainer needs ``max_steps`` with it.

    Examples are those of :class:`PackedDataset`. Workers of a ``DataLoader`` share the blocks among them; processes do
    so through accelerate. A resumed run reads and skips what was used (Trainer's ``ignore_data_skip=False``).
    """

    def __init__(self, make_blocks: Callable[[], Iterable[Block]], *, shuffle_buffer: int = 0, seed: int = 0) -> None:
        """Take a function that starts a new reading.

        Args:
            make_blocks: Gives the blocks from the start, for example
                ``lambda: packed_blocks(tokenizer, corpus, 512)``.
            shuffle_buffer: So many blocks are held, and one of them at random comes next; 0 keeps the order.
            seed: Seed of that; every pass has an order of its own.
        """
        self._make_blocks = make_blocks
        self._buffer = shuffle_buffer
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which pass it is. Trainer calls it."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the examples of this worker."""
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:  # the threads of a tokenizer that was used before the fork do not exist in the worker
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        numbered = ({**block, DRAW: self._epoch * _EPOCH + index} for index, block in enumerate(self._make_blocks()))
        yield from islice(self._shuffled(numbered), first, None, step)

    def _shuffled(self, examples: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the examples, out of a buffer at random."""
        if self._buffer < 2:
            yield from examples
            return
        generator = np.random.default_rng([self._seed, self._epoch])
        held = list(islice(examples, self._buffer))
        for example in examples:
            index = int(generator.integers(len(held)))
            yield held[index]
            held[index] = example
        for index in generator.permutation(len(held)):
            yield held[index]


__all__ = ["DRAW", "FORMS", "PackedDataset", "StreamedBlocks", "packed_blocks"]
