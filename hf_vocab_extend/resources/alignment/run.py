"""From parallel text, or from what is known of it already, to counts of translations between units."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..._logging import get_logger
from ...errors import AlignmentError, InvalidOptionError, OutputFolderError, VocabExtendWarning
from ...vocab.backend import read_json
from .. import cache
from ..parallel import Pairs, open_pairs
from .aligners import ALIGNERS, CHECKS, OWN
from .bitext import DEFAULT_UNIT, UNITS, Bitext, read_bitext
from .counts import UnitCounts, vocab_fingerprint
from .links import AlignerOptions
from .order import warn_if_swapped, warn_if_unknown
from .pharaoh import PharaohAlignment, count_pharaoh
from .shards import align_in_processes
from .tables import CountTable, count_table, is_count_file

CACHE_KIND = "alignment"
CACHE_VERSION = 1

logger = get_logger(__name__)


def align_pairs(
    pairs: Any,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    options: AlignerOptions | None = None,
    *,
    unit: str = DEFAULT_UNIT,
    processes: int = 1,
    use_cache: bool = True,
    show_progress: bool = True,
) -> UnitCounts:
    """Count in parallel text how often a source unit and a target unit are translations of each other.

    The text is streamed; only numbers are kept. The counts are cached by the content of the text, both tokenizers and
    the options. Those of several shards of a text, made here or on other machines, can be added up with ``+``.

    Args:
        pairs: Whatever :func:`~hf_vocab_extend.resources.parallel.open_pairs` reads.
        source_tokenizer: Cuts the first text of each pair.
        target_tokenizer: Cuts the second.
        options: The aligner and what it is told; by default :class:`AlignerOptions`.
        unit: What is aligned: ``"token"``, or ``"word"`` (the tokens of a word together, in every script). Tokens give
            the better rows on dev text: rare words share them.
        processes: Align so many shards of the pairs side by side, each on its own, and add the counts.
        use_cache: Look the counts up, and keep them.
        show_progress: Show progress bars.

    Raises:
        CorpusError: If the text cannot be read, or no pair has units on both sides.
        InvalidOptionError: If there is no such unit or aligner, or ``processes`` is below 1.
        MissingDependencyError: If the aligner is a program that is not installed.
        AlignmentError: If the aligner fails.
        UnsupportedTokenizerError: If a tokenizer has no ``tokenizer.json`` behind it or is of no known family.
    """
    options = options or AlignerOptions()
    if processes < 1:
        raise InvalidOptionError(f"processes is {processes}. It must be at least 1.")
    if options.aligner not in ALIGNERS:
        raise InvalidOptionError(f"There is no aligner {options.aligner!r}. There are: {', '.join(ALIGNERS)}.")
    if unit not in UNITS:
        raise InvalidOptionError(f"There is no unit {unit!r}. There are: {', '.join(UNITS)}.")
    opened = open_pairs(pairs)
    warn_if_swapped(opened, source_tokenizer, target_tokenizer)
    tokenizers = source_tokenizer, target_tokenizer
    key = _cache_key(opened, tokenizers, options, unit, processes) if use_cache else None
    counts = _load(key)
    if counts is None:
        if options.aligner in CHECKS:
            CHECKS[options.aligner](options)  # a missing program or device shows before the text is read for good
        shown = dataclasses.replace(options, show_progress=options.show_progress and show_progress)
        counts = _align(opened, tokenizers, shown, unit, processes)
        _store(key, counts)
    warn_if_unknown(counts.info, opened.name)
    _warn_if_long(counts, options)
    return counts


def _warn_if_long(counts: UnitCounts, options: AlignerOptions) -> None:
    """Say how many pairs were too long to be aligned.

    Raises:
        AlignmentError: If all were.
    """
    n_long = counts.info.get("n_long_pairs", 0)
    if not len(counts):
        raise AlignmentError(
            f"The aligner '{options.aligner}' links no unit of the {counts.n_pairs} pairs; {n_long} of them have a "
            f"side of more than {options.max_length} units. Bring pairs of sentences, or raise max_length."
        )
    if n_long:
        warnings.warn(
            f"{n_long} of {counts.n_pairs} pairs have a side of more than {options.max_length} units and were left "
            "out of the alignment. Cut them into sentences, or align with AlignerOptions(max_length=...) and give the "
            "counts as parallel=.",
            VocabExtendWarning,
            stacklevel=4,
        )


def _align(
    pairs: Pairs,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    options: AlignerOptions,
    unit: str,
    processes: int,
) -> UnitCounts:
    """Read and align; the seconds of both stages are logged."""
    start = time.perf_counter()
    bitext = read_bitext(pairs, *tokenizers, unit=unit, show_progress=options.show_progress)
    read = time.perf_counter()
    links = align_in_processes(bitext, options, processes)
    logger.info("Read %d pairs in %.1f s, aligned in %.1f s.", len(bitext), read - start, time.perf_counter() - read)
    return UnitCounts(
        bitext.source,
        bitext.target,
        links.source_index,
        links.target_index,
        links.forward,
        links.backward,
        n_pairs=len(bitext),
        source_vocab=vocab_fingerprint(tokenizers[0]),
        target_vocab=vocab_fingerprint(tokenizers[1]),
        info={"processes": processes, **_told(options), **bitext.info, "n_long_pairs": _n_long(bitext, options)},
    )


def _n_long(bitext: Bitext, options: AlignerOptions) -> int:
    """Return how many pairs our own aligners leave out for their length."""
    if options.aligner not in OWN:
        return 0
    sides = (np.diff(offsets) > options.max_length for offsets in (bitext.source_offsets, bitext.target_offsets))
    return int(np.logical_or(*sides).sum())


def _told(options: AlignerOptions) -> dict[str, Any]:
    """Return the options that may change the counts."""
    return {
        key: value for key, value in dataclasses.asdict(options).items() if key not in ("threads", "show_progress")
    }


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of all that decides how a tokenizer cuts a text: vocabulary, normalizer, pre-tokenizer."""
    data = read_json(tokenizer)
    told = {name: data.get(name) for name in ("model", "added_tokens", "normalizer", "pre_tokenizer")}
    text = json.dumps(told, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _cache_key(
    pairs: Pairs,
    tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
    options: AlignerOptions,
    unit: str,
    processes: int,
) -> str:
    """Return what the counts are kept under."""
    return cache.content_key(
        version=CACHE_VERSION,
        pairs=pairs.fingerprint(),
        tokenizers=[tokenizer_fingerprint(tokenizer) for tokenizer in tokenizers],
        options=_told(options),
        unit=unit,
        processes=processes,
    )


def _load(key: str | None) -> UnitCounts | None:
    """Return cached counts, or None."""
    found = None if key is None else cache.load(CACHE_KIND, key)
    return None if found is None else UnitCounts.from_arrays(*found, f"The cached file {key}")


def _store(key: str | None, counts: UnitCounts) -> None:
    """Keep counts; where that fails they are worth more than an error."""
    if key is None:
        return
    try:
        cache.store(CACHE_KIND, key, counts.arrays(), counts.metadata())
    except OutputFolderError as error:
        warnings.warn(f"The counts were made but not cached. {error}", VocabExtendWarning, stacklevel=4)


def read_counts(
    given: Any,
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    options: AlignerOptions | None = None,
    *,
    unit: str = DEFAULT_UNIT,
    processes: int = 1,
    use_cache: bool = True,
    show_progress: bool = True,
) -> UnitCounts:
    """Return counts of translations from whatever holds them.

    Args:
        given: :class:`UnitCounts`, or a file that :meth:`UnitCounts.save` wrote; a :class:`PharaohAlignment`; a
            :class:`CountTable`, a TSV file of three columns (source, target, count) or a list of such triples; or
            parallel text, which is aligned as :func:`align_pairs` does. A dictionary is read by
            :func:`~hf_vocab_extend.resources.alignment.tables.read_dictionary`.
        source_tokenizer: Cuts the source side.
        target_tokenizer: Cuts the target side.
        options: For :func:`align_pairs`, as all that follow.
        unit: ``"word"`` or ``"token"``.
        processes: Shards that are aligned side by side.
        use_cache: Look the counts up, and keep them.
        show_progress: Show progress bars.

    Raises:
        TokenizerMismatchError: If ready counts were made with other tokenizers.
        VocabExtendError: What the functions named above raise.
    """
    tokenizers = source_tokenizer, target_tokenizer
    for fits, read in _READY:
        if fits(given):
            counts = read(given, *tokenizers)
            counts.check_tokenizers(*tokenizers)
            return counts
    return align_pairs(
        given, *tokenizers, options, unit=unit, processes=processes, use_cache=use_cache, show_progress=show_progress
    )


def _is_file(given: Any) -> bool:
    return isinstance(given, (str, os.PathLike)) and os.path.isfile(given)


def _is_triples(given: Any) -> bool:
    """Whether this is a list of triples; pairs have two texts."""
    first = given[0] if isinstance(given, list) and given else None
    return isinstance(first, (tuple, list)) and len(first) == 3


_READY: tuple[tuple[Callable[[Any], bool], Callable[..., UnitCounts]], ...] = (
    (lambda given: isinstance(given, UnitCounts), lambda given, *_: given),
    (lambda given: isinstance(given, PharaohAlignment), count_pharaoh),
    (lambda given: isinstance(given, CountTable), count_table),
    (_is_triples, lambda given, *tokenizers: count_table(CountTable(given), *tokenizers)),
    (lambda given: _is_file(given) and Path(given).suffix == ".safetensors", lambda given, *_: UnitCounts.load(given)),
    (
        lambda given: _is_file(given) and is_count_file(Path(given)),
        lambda given, *tokenizers: count_table(CountTable(given), *tokenizers),
    ),
)
"""What ready counts look like, and how they are read."""


__all__ = ["align_pairs", "read_counts", "tokenizer_fingerprint"]
