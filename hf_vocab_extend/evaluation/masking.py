"""Which tokens of a text are hidden together, so that tokenizers can be compared: units of text, not of tokens."""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

_UNSPACED = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts that write no spaces: Thai, Lao, Tibetan, Burmese, Khmer, kana, Han."""
_PUNCTUATION = r"!-/:-@\[-`{-~\u00a1-\u00bf\u2010-\u205e\u0964\u0965\u3000-\u303f\uff00-\uff0f"
_UNIT = re.compile(
    rf"[{_UNSPACED}]{{1,4}}"
    rf"|[^\s{_PUNCTUATION}{_UNSPACED}]+(?:['\u2019\u02bc-][^\s{_PUNCTUATION}{_UNSPACED}]+)*"
    rf"|[{_PUNCTUATION}]"
)


def unit_ends(text: str) -> list[int]:
    """Cut a text into words and marks, whatever the tokenizer.

    A unit is a word (apostrophes and hyphens inside included), one mark of punctuation, or up to four characters of a
    script that writes no spaces. White space belongs to the unit after it, at the end of the text to the last one.

    Returns:
        End of each unit in characters, ascending; the last one is the end of the text.
    """
    ends = [match.end() for match in _UNIT.finditer(text)]
    if not ends:
        return [len(text)] if text else []
    ends[-1] = len(text)
    return ends


def units_of_tokens(ends: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Return the unit of each token: the one that holds its last character.

    Args:
        ends: Ends of the units, from :func:`unit_ends`.
        offsets: Start and end of each token in characters; a token without characters goes with the next one.

    Returns:
        Unit of each token, ascending, shape `(n,)`.
    """
    return [min(bisect_left(ends, max(start + 1, end)), len(ends) - 1) for start, end in offsets]


def deal_units(text: str, n_units: int, n_groups: int, seed: int) -> np.ndarray:
    """Deal the units of a text to groups: each ``n_groups`` neighbours go to different groups, in an order by chance.

    It depends on the text and the seed alone, so that two tokenizers hide the same units.

    Returns:
        Group of each unit, shape `(n_units,)`.
    """
    generator = np.random.default_rng([seed, zlib.crc32(text.encode("utf-8"))])
    blocks = [generator.permutation(n_groups) for _ in range(0, n_units, n_groups)]
    return np.concatenate([np.zeros(0, np.int64), *blocks])[:n_units]
