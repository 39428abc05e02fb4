"""Ready knowledge of translations: tables of counts and dictionaries, turned into counts of units."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ...errors import AlignmentError, InvalidOptionError
from ...vocab.pipeline import backend_of
from ..parallel import open_pairs
from ..readers import decoded_lines
from .bitext import group
from .counts import LinkArrays, UnitCounts, sum_links, sum_parts, vocab_fingerprint
from .encoding import encode
from .ragged import row_of
from .units import UnitTable
from .words import WordFinder

Row = tuple[str, str, float]
SPELLINGS = ("text", "token")
BATCH_ROWS = 16384
_MOST_WORDS = 4.0  # of a side on average; terms of a dictionary are shorter, sentences longer


@dataclass(frozen=True)
class CountTable:
    """Counts of translations that are ready: rows ``source, target, count``.

    Attributes:
        rows: A TSV file of three columns without a header (plain or compressed), or an iterable of such triples.
        spelling: ``"text"``: the columns hold words or phrases as they are written. ``"token"``: they hold tokens, or
            several of them joined by :attr:`joiner`, spelled as ``tokenizer.convert_ids_to_tokens`` does.
        joiner: What joins tokens.
    """

    rows: str | os.PathLike[str] | Iterable[Row]
    spelling: str = "text"
    joiner: str = " "

    def __post_init__(self) -> None:
        if self.spelling not in SPELLINGS:
            raise InvalidOptionError(f"The spelling is {self.spelling!r}. Choose 'text' or 'token'.")

    def read(self) -> Iterator[Row]:
        """Yield the rows.

        Raises:
            AlignmentError: If there is no such file, or a row is not two texts and a number of at least 0.
        """
        if not isinstance(self.rows, (str, os.PathLike)):
            for index, row in enumerate(self.rows):
                yield _checked_row(row, f"Item {index} of the counts")
            return
        path = Path(self.rows)
        if not path.is_file():
            raise AlignmentError(f"There is no file '{path}'. Give a TSV file of source, target and count.")
        for number, line in enumerate(decoded_lines(path, f"'{path.name}'"), start=1):
            if line.strip("\r\n"):
                yield _checked_row(line.rstrip("\r\n").split("\t"), f"'{path.name}', line {number},")


def _checked_row(row: Any, where: str) -> Row:
    """Return a row with its count as a number."""
    fields = tuple(row) if isinstance(row, (tuple, list)) else ()
    if len(fields) != 3 or not all(isinstance(text, str) for text in fields[:2]):
        raise AlignmentError(f"{where} is {row!r:.80}, not a source, a target and a count.")
    try:
        count = float(fields[2])
    except (TypeError, ValueError) as error:
        raise AlignmentError(f"{where} has the count {fields[2]!r:.40}, which is no number.") from error
    if not (math.isfinite(count) and count >= 0):
        raise AlignmentError(f"{where} has the count {count}. Counts are finite and not negative.")
    return fields[0], fields[1], count


def is_count_file(path: Path) -> bool:
    """Whether a file looks like a table of counts: its first row with text has three columns, the third a number."""
    for line in decoded_lines(path, f"'{path.name}'"):
        if line.strip():
            fields = line.rstrip("\r\n").split("\t")
            return len(fields) == 3 and _is_number(fields[2])
    return False


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def count_table(
    table: CountTable, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> UnitCounts:
    """Turn a table of counts into counts of units; each row counts in the direction ``forward``.

    A text becomes the tokens that it has after a space, as in running text. Where both tokenizers write the start of a
    text otherwise, the row counts for that writing too. Rows with a side without a known token are left out and
    counted in ``info["n_skipped_rows"]``.

    Raises:
        AlignmentError: If a row is no row of counts, or no row is left.
        UnsupportedTokenizerError: If a tokenizer has no ``tokenizer.json`` behind it or is of no known family.
    """
    info = {"aligner": "table", "unit": table.spelling}
    return _count_rows(table.read(), source_tokenizer, target_tokenizer, table, info)


def read_dictionary(
    dictionary: Any, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
) -> UnitCounts:
    """Turn a bilingual dictionary into counts of units: every entry counts 1, an entry that comes twice 2.

    Args:
        dictionary: Whatever :func:`~hf_vocab_extend.resources.parallel.open_pairs` reads, or a mapping of word to
            word. Entries may hold several words.
        source_tokenizer: Cuts the first text of each entry.
        target_tokenizer: Cuts the second.

    Raises:
        CorpusError: If it cannot be read.
        AlignmentError: If no entry has a known token on both sides.
        UnsupportedTokenizerError: If a tokenizer has no ``tokenizer.json`` behind it or is of no known family.
    """
    if isinstance(dictionary, dict) and all(isinstance(text, str) for text in dictionary.values()):
        dictionary = list(dictionary.items())
    rows = ((source, target, 1.0) for source, target in open_pairs(dictionary))
    info = {"aligner": "dictionary", "unit": "text"}
    return _count_rows(rows, source_tokenizer, target_tokenizer, CountTable(()), info)


def _count_rows(
    rows: Iterator[Row],
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    table: CountTable,
    info: dict[str, Any],
) -> UnitCounts:
    """Count rows batch by batch."""
    sides = _EntrySide(source_tokenizer, table), _EntrySide(target_tokenizer, table)
    parts: list[LinkArrays] = []
    n_rows, n_kept, n_words = 0, 0, 0.0
    while batch := list(islice(rows, BATCH_ROWS)):
        sources, targets, numbers = zip(*batch, strict=True)
        n_words += sum(text.count(" ") + 1 for side in (sources, targets) for text in side)
        source, target = sides[0].add(sources), sides[1].add(targets)
        counts = np.asarray(numbers, np.float64)
        known = (source[0] >= 0) & (target[0] >= 0) & (counts > 0)
        bare = known & (source[1] >= 0) & (target[1] >= 0) & (source[1] != source[0]) & (target[1] != target[0])
        chosen = [(source[form][mask], target[form][mask], counts[mask]) for form, mask in ((0, known), (1, bare))]
        left, right, forward = (np.concatenate(arrays) for arrays in zip(*chosen, strict=True))
        parts.append(sum_links(left, right, forward, np.zeros(len(forward))))
        n_rows, n_kept = n_rows + len(batch), n_kept + int(known.sum())
    n_words /= max(1, 2 * n_rows)
    if info["aligner"] == "table" and n_words > _MOST_WORDS:
        raise AlignmentError(
            f"A side of a row of counts has {n_words:.1f} words on average: these look like sentences with a score, "
            "not words with a count. Name the two columns of text (columns=, --pair-columns) or drop the third."
        )
    if not n_kept:
        raise AlignmentError(
            f"None of the {n_rows} rows has a count and a known token on both sides. Check the order of the languages "
            "and the tokenizers."
        )
    links = sum_parts(parts)
    source_units, target_units = (side.table.units(np.ones(len(side.table), np.int64)) for side in sides)
    vocabs = vocab_fingerprint(source_tokenizer), vocab_fingerprint(target_tokenizer)
    return UnitCounts(source_units, target_units, *links, n_rows, *vocabs, info | {"n_skipped_rows": n_rows - n_kept})


class _EntrySide:
    """One side of a table: its entries as units."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, table: CountTable) -> None:
        self.table = UnitTable()
        self._backend = backend_of(tokenizer)
        self._dropped = WordFinder(tokenizer).dropped
        self._vocab = self._backend.get_vocab(with_added_tokens=True) if table.spelling == "token" else {}
        self._joiner = table.joiner
        self._read = {"text": self._texts, "token": self._tokens}[table.spelling]

    def add(self, entries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the unit of each entry after a space and at the start of a text, -1 for none, int64 `(n,)` each."""
        return self._read(entries)

    def _texts(self, entries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Read written words."""
        forms = []
        for mark in (" ", ""):
            tokens, offsets = encode(self._backend, [mark + entry.strip() for entry in entries])
            forms.append(self._numbers(tokens, row_of(offsets), len(entries)))
        return forms[0], forms[1]

    def _tokens(self, entries: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Read spelled tokens; an entry with a token that the vocabulary lacks is none."""
        rows = [[self._vocab.get(token, -1) for token in self._split(entry)] for entry in entries]
        rows = [row if min(row, default=-1) >= 0 else [] for row in rows]
        tokens = np.asarray([token for row in rows for token in row], np.int64)
        row_of_token = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        return self._numbers(tokens, row_of_token, len(entries)), np.full(len(entries), -1, np.int64)

    def _split(self, entry: str) -> list[str]:
        """Return the tokens of an entry; one that is a token as it stands is not cut."""
        return [entry] if entry in self._vocab or not self._joiner else entry.split(self._joiner)

    def _numbers(self, tokens: np.ndarray, row_of_token: np.ndarray, n_rows: int) -> np.ndarray:
        """Return the unit of each row, -1 for one without a token that counts, int64 `(n_rows,)`."""
        kept = ~self._dropped[tokens]
        cut = group(tokens, row_of_token, row_of_token, kept, n_rows)
        numbers = np.full(n_rows, -1, np.int64)
        numbers[np.flatnonzero(cut.lengths)] = self.table.add(cut.pieces, cut.offsets)
        return numbers


__all__ = ["CountTable", "count_table", "is_count_file", "read_dictionary"]
