"""Alignments in Pharaoh format: one line of links ``i-j`` for each pair, counted from 0 over words between spaces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from ..._logging import progress_bar
from ...errors import AlignmentError
from ...vocab.pipeline import backend_of
from ...vocab.reachability import whole_lines
from ..parallel import Pair, Pairs, open_pairs
from ..readers import decoded_lines
from .bitext import BATCH_PAIRS, Cut, group
from .counts import LinkArrays, UnitCounts, sum_links, sum_parts, vocab_fingerprint
from .ragged import offsets_of, row_of
from .units import Units, UnitTable
from .words import WordFinder

_NAME = "The alignment"
_LINE = re.compile(r"\s*(?:\d{1,9}-\d{1,9}\s+)*(?:\d{1,9}-\d{1,9}\s*)?")


@dataclass(frozen=True)
class PharaohAlignment:
    """Sentence pairs with links between their words, as fast_align, awesome-align and others write them.

    Attributes:
        pairs: Whatever :func:`~hf_vocab_extend.resources.parallel.open_pairs` reads. Words are what stands between
            white space, so the text must be the one that was aligned.
        links: A file with one line of links ``i-j`` (source word - target word, from 0) for each pair, or an iterable
            of such lines.
    """

    pairs: Any
    links: str | os.PathLike[str] | Iterable[str]

    def lines(self) -> Iterator[str]:
        """Yield the lines of links.

        Raises:
            AlignmentError: If there is no such file.
        """
        if not isinstance(self.links, (str, os.PathLike)):
            return iter(self.links)
        path = Path(self.links)
        if not path.is_file():
            raise AlignmentError(f"There is no file '{path}'. Give a file of Pharaoh lines, or the lines in a list.")
        return decoded_lines(path, f"'{path.name}'")


def parse_links(lines: Sequence[str], first_line: int, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read lines of links.

    Args:
        lines: Lines ``i-j i-j ...``; a line may be blank.
        first_line: Number of the first one, for messages.
        name: How messages call the lines.

    Returns:
        Place of the line (from 0), source word and target word of each link, int64, shape `(n_links,)` each.

    Raises:
        AlignmentError: If a line is no Pharaoh line.
    """
    for number, line in enumerate(lines):
        if not isinstance(line, str) or _LINE.fullmatch(line) is None:
            raise AlignmentError(
                f"{name}, line {first_line + number}, is no line of links: {line!r:.60}. Pharaoh format has "
                "one line of links like '0-0 1-2' for each pair."
            )
    text = " ".join(lines).replace("-", " ").split()
    numbers = np.asarray(list(map(int, text)), np.int64).reshape(-1, 2)
    line_of = np.repeat(np.arange(len(lines)), np.fromiter((line.count("-") for line in lines), np.int64, len(lines)))
    return line_of, numbers[:, 0], numbers[:, 1]


def check_links(
    line_of: np.ndarray, words: np.ndarray, n_words: np.ndarray, first_line: int, side: str, name: str
) -> None:
    """Raise if a link points beyond its sentence.

    Args:
        line_of: Place of each link's line, shape `(n_links,)`.
        words: Word of each link on this side, shape `(n_links,)`.
        n_words: Words of each sentence, shape `(n_lines,)`.
        first_line: Number of the first line.
        side: ``"source"`` or ``"target"``.
        name: How messages call the lines.

    Raises:
        AlignmentError: It names the first such line, the index and the number of words.
    """
    beyond = np.flatnonzero(words >= n_words[line_of])
    if len(beyond):
        line, index = int(line_of[beyond[0]]), int(words[beyond[0]])
        raise AlignmentError(
            f"{name}, line {first_line + line}, has a link to {side} word {index}, but the {side} sentence has "
            f"{int(n_words[line])} words (counted from 0). Give the text that was aligned, its sides in the order of "
            "the links."
        )


class _WordSide:
    """One side of an aligned text: its words between white space as units."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend: Tokenizer = backend_of(tokenizer)
        self._dropped = WordFinder(tokenizer).dropped
        self._table = UnitTable()
        self._seen: list[np.ndarray] = []

    def add(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Cut texts into words.

        Returns:
            Number of words of each text, int64 `(n_texts,)`, and the unit of each word end to end, -1 for a word
            without a token that counts, int64 `(n_words,)`.
        """
        n_words = np.asarray([len(text.split()) for text in texts], np.int64)
        units = np.full(int(n_words.sum()), -1, np.int64)
        tokens, text_of, word_of = self._encode(texts)
        kept = ~self._dropped[tokens] & (word_of >= 0)
        cut: Cut = group(tokens, text_of, word_of, kept, len(texts))
        numbers = self._table.add(cut.pieces, cut.offsets)
        units[word_of[kept][cut.offsets[:-1]]] = numbers
        self._seen.append(numbers)
        return n_words, units

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return token ids end to end, the text of each, and its word among the words of all texts (-1 for none)."""
        with whole_lines(self._backend):
            encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        offsets = offsets_of(np.asarray([len(encoding) for encoding in encodings], np.int64))
        tokens = np.asarray(list(chain.from_iterable(encoding.ids for encoding in encodings)), np.int64)
        spans = np.asarray(list(chain.from_iterable(encoding.offsets for encoding in encodings)), np.int64)
        spans = spans.reshape(-1, 2)
        text_of = row_of(offsets)
        starts = offsets_of(np.asarray([len(text) + 1 for text in texts], np.int64))[:-1]
        # A token may begin with the space before its word, so its last character tells the word.
        place = np.maximum(spans[:, 1] - 1, spans[:, 0]) + starts[text_of]
        return tokens, text_of, _words_of_characters(texts)[place]

    def units(self) -> Units:
        """Return the unique units with how often each occurs."""
        frequency = np.zeros(len(self._table), np.int64)
        for numbers in self._seen:
            frequency += np.bincount(numbers, minlength=len(frequency))
        return self._table.units(frequency)


def _words_of_characters(texts: list[str]) -> np.ndarray:
    """Return the word of each character of texts that are joined by a line end, -1 for white space, int64."""
    data = ("\n".join(texts) + "\n").encode("utf-32-le", "surrogatepass")
    blank = np.isin(np.frombuffer(data, np.uint32), _white_space())
    starts = ~blank & np.concatenate([[True], blank[:-1]])
    return np.where(blank, -1, np.cumsum(starts) - 1)


@cache
def _white_space() -> np.ndarray:
    """Return the code points that fast_align and eflomal cut at: a no-break space stands inside a word."""
    return np.frombuffer(" \t\n\r\v\f".encode("utf-32-le"), np.uint32)


def count_pharaoh(
    alignment: PharaohAlignment,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    *,
    show_progress: bool = True,
) -> UnitCounts:
    """Count the links of a ready alignment; each counts one, in the direction ``forward``.

    Raises:
        AlignmentError: If a line is no line of links, an index lies beyond its sentence, or pairs and lines differ in
            number.
        CorpusError: If the pairs cannot be read.
        UnsupportedTokenizerError: If a tokenizer has no ``tokenizer.json`` behind it or is of no known family.
    """
    pairs = open_pairs(alignment.pairs)
    sides = _WordSide(source_tokenizer), _WordSide(target_tokenizer)
    parts: list[LinkArrays] = []
    n_links = n_pairs = 0
    with progress_bar(desc="Reading links", unit="pair") if show_progress else nullcontext() as bar:
        for batch, lines in _batches(pairs, alignment):
            found = _linked_units(batch, lines, sides, n_pairs + 1)
            n_links, n_pairs = n_links + len(found[0]), n_pairs + len(batch)
            source, target = (units[(found[0] >= 0) & (found[1] >= 0)] for units in found)
            parts.append(sum_links(source, target, np.ones(len(source)), np.zeros(len(source))))
            if bar is not None:
                bar.update(len(batch))
    links = sum_parts(parts)
    info = {"aligner": "pharaoh", "unit": "word", "n_links": n_links, "n_dropped_links": n_links - int(links[2].sum())}
    vocabs = vocab_fingerprint(source_tokenizer), vocab_fingerprint(target_tokenizer)
    return UnitCounts(sides[0].units(), sides[1].units(), *links, n_pairs, *vocabs, info)


def _linked_units(
    batch: list[Pair], lines: list[str], sides: tuple[_WordSide, _WordSide], first_line: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the source and the target unit of each link, -1 for a word that has none, int64, `(n_links,)` each."""
    line_of, *words = parse_links(lines, first_line, _NAME)
    found = []
    for column, (side, name) in enumerate(zip(sides, ("source", "target"), strict=True)):
        n_words, units = side.add([pair[column] for pair in batch])
        check_links(line_of, words[column], n_words, first_line, name, _NAME)
        found.append(units[offsets_of(n_words)[line_of] + words[column]])
    return found[0], found[1]


def _batches(pairs: Pairs, alignment: PharaohAlignment) -> Iterator[tuple[list[Pair], list[str]]]:
    """Yield pairs with their lines of links.

    Raises:
        AlignmentError: If they differ in number.
    """
    both = zip_longest(pairs.all(), alignment.lines())
    done = 0
    while batch := list(islice(both, BATCH_PAIRS)):
        if batch[-1][0] is None or batch[-1][1] is None:
            n_pairs, n_lines = (done + sum(item[side] is not None for item in batch) for side in (0, 1))
            more = sum(1 for _ in both)
            n_pairs, n_lines = n_pairs + more * (batch[-1][1] is None), n_lines + more * (batch[-1][0] is None)
            raise AlignmentError(
                f"There are {n_pairs} pairs in {pairs.name} and {n_lines} lines of links: number "
                f"{min(n_pairs, n_lines) + 1} has no partner. An aligner that stopped early leaves too few lines; "
                "run it again on this text."
            )
        done += len(batch)
        yield [item[0] for item in batch], [item[1] for item in batch]


__all__ = ["PharaohAlignment", "check_links", "count_pharaoh", "parse_links"]
