"""Corpora into the data that a Trainer reads: packed, with replay, in memory or streamed, and with text held out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset

from .._logging import get_logger
from ..errors import CorpusError, InvalidOptionError
from ..resources.corpus import Corpus, CorpusLike, open_corpus
from .collators import Collator, SpanCollator, make_collator
from .data import DRAW, Block, PackedDataset, StreamedBlocks, packed_blocks
from .replay import HELD_OUT_LINES, check_share, hold_out, mix_replay

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)


@dataclass(frozen=True)
class DataOptions:
    """How text becomes batches.

    Attributes:
        objective: ``"causal"``, ``"masked"`` or ``"span"``.
        block_size: Tokens in an example, special tokens included; for ``"span"`` of its input.
        pack: Join documents.
        positions: Keep attention inside documents, for causal models that can.
        streaming: Read while training, and hold nothing in memory.
        shuffle_buffer: Examples to shuffle among when streaming.
        replay_share: Share of bytes of source text.
        held_out: Lines held out of each text to measure on.
        seed: Seed of masks, of the order when streaming, and of the lines held out.
    """

    objective: str
    block_size: int
    pack: bool = True
    positions: bool = False
    streaming: bool = False
    shuffle_buffer: int = 1000
    replay_share: float = 0.1
    held_out: int = HELD_OUT_LINES
    seed: int = 0


@dataclass
class TrainingData:
    """What a Trainer needs.

    Attributes:
        train: Training examples.
        evaluation: Examples of the text held out, or None.
        collator: Makes batches of either.
        held_out: Lines to measure on: ``target``, and ``source`` with replay.
        facts: What was read, for the report: plain data.
    """

    train: Any
    evaluation: PackedDataset | None
    collator: Collator
    held_out: dict[str, list[str]]
    facts: dict[str, Any] = field(default_factory=dict)


class ReplayedBlocks(Dataset):
    """Blocks of the new language, all in each pass, and some of the source language, others in each pass."""

    def __init__(self, target: PackedDataset, source: PackedDataset, per_pass: int) -> None:
        """Take both; ``per_pass`` blocks of the source are in each pass, and the last is followed by the first."""
        self._target, self._source, self._per_pass = target, source, per_pass
        self._epoch = 0

    def __len__(self) -> int:
        """Number of blocks in a pass."""
        return len(self._target) + self._per_pass

    def set_epoch(self, epoch: int) -> None:
        """Say which pass it is. Trainer calls it."""
        self._epoch = epoch
        self._target.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one example."""
        index = range(len(self))[index]
        if index < len(self._target):
            return self._target[index]
        place = self._epoch * self._per_pass + index - len(self._target)
        draw = self._target[0][DRAW] + index
        return self._source[place % len(self._source)] | {DRAW: draw}


class _Measured:
    """Texts that are counted while they are read."""

    def __init__(self, texts: Iterable[str], most_bytes: float = math.inf) -> None:
        """Take texts, and how many bytes of them to read, to within one text."""
        self._texts, self._most = texts, most_bytes
        self.bytes = self.lines = 0

    def __iter__(self) -> Iterator[str]:
        """Yield the texts."""
        for text in self._texts:
            if self.bytes >= self._most:
                return
            self.bytes += len(text.encode("utf-8"))
            self.lines += 1
            yield text


def make_training_data(
    tokenizer: PreTrainedTokenizerBase,
    texts: CorpusLike,
    options: DataOptions,
    *,
    replay: CorpusLike | None = None,
    evaluation: CorpusLike | None = None,
    passes: float = 1,
    examples: int | None = None,
) -> TrainingData:
    """Open corpora and make the data of a training.

    Args:
        tokenizer: The tokenizer.
        texts: Text of the new language.
        options: How it becomes batches.
        replay: Text of the source language to mix in.
        evaluation: Text to measure on; by default lines of ``texts`` are held out.
        passes: How often ``texts`` will be read, so that as much of ``replay`` is made ready.
        examples: Number of examples that the training takes, instead of ``passes``.

    Raises:
        CorpusError: If a corpus is missing, empty, or too short for one block or for lines to hold out.
        InvalidOptionError: If an option is out of range.
        UnsupportedTokenizerError: If the tokenizer lacks what the objective needs.
    """
    check_share(options.replay_share)
    if options.shuffle_buffer < 0:
        raise InvalidOptionError(f"A buffer of {options.shuffle_buffer} examples cannot be. Give 0 or more.")
    collator = make_collator(options.objective, tokenizer, seed=options.seed)
    size = collator.text_length(options.block_size) if isinstance(collator, SpanCollator) else options.block_size

    def blocks(read: Iterable[str], last: str = "drop") -> Iterator[Block]:
        parted = options.positions and last == "drop"
        kept = last if options.pack else "keep"
        return packed_blocks(
            tokenizer, read, size, objective=options.objective, last=kept, pack=options.pack, positions=parted
        )

    blocks([])  # an option out of range is said before any text is read
    held, target = _parted(texts, evaluation, options)
    data = TrainingData(None, None, collator, {"target": held} if held else {})
    if held:
        data.evaluation = PackedDataset(blocks(held, "keep"))
    source = None
    if replay is not None and options.replay_share > 0:
        data.held_out["source"], source = hold_out(replay, options.held_out, seed=options.seed)
    if options.streaming:
        mixed = _stream(target, source, options)
        data.train = StreamedBlocks(lambda: blocks(mixed), shuffle_buffer=options.shuffle_buffer, seed=options.seed)
        return data
    read = _Measured(target)
    packed = PackedDataset(blocks(read))
    data.facts = {"bytes": read.bytes, "lines": read.lines, "tokens": packed.n_tokens, "examples": len(packed)}
    if source is None:
        data.train = packed
        return data
    ratio = options.replay_share / (1 - options.replay_share)
    if examples is not None:
        passes = examples / (len(packed) * (1 + ratio))
    wanted = read.bytes * ratio
    replayed = _Measured(source, math.ceil(max(passes, 1)) * wanted)
    ready = PackedDataset(blocks(replayed, "keep"))
    per_pass = max(1, round(len(ready) * wanted / replayed.bytes))
    if per_pass > len(ready):
        logger.info("The source text is shorter than the share of replay needs: it is read again in each pass.")
    data.train = ReplayedBlocks(packed, ready, per_pass)
    data.facts |= {"replay_bytes": round(wanted), "replay_examples": per_pass}
    return data


def _parted(texts: CorpusLike, evaluation: CorpusLike | None, options: DataOptions) -> tuple[list[str], Corpus]:
    """Return lines to measure on and text to train on."""
    if evaluation is not None:
        held = list(open_corpus(evaluation))
        return held, open_corpus(texts)
    return hold_out(texts, options.held_out, seed=options.seed)


def _stream(target: Corpus, source: Corpus | None, options: DataOptions) -> Iterable[str]:
    """Return the texts of a stream without end."""
    if source is None:
        return Corpus(target.name, lambda: (text for _ in count() for text in target))
    return mix_replay(target, source, options.replay_share, held_out=0, passes=None)


def check_trains(data: TrainingData) -> None:
    """Raise unless a stream gives a first example; data in memory has said so already.

    Raises:
        CorpusError: If it gives none.
    """
    if isinstance(data.train, StreamedBlocks) and next(iter(data.train), None) is None:
        raise CorpusError("The stream gives no example. Give more text or a smaller block_size.")


__all__ = ["DataOptions", "ReplayedBlocks", "TrainingData", "make_training_data"]
