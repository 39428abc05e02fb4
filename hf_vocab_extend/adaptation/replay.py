"""Replay: some text of the source language among that of the new one, so that the model does not forget the former.

The share is one of bytes of text. Rows differ in length, and a token of the new language may stand for more or less
text than one of the source language, so that a share of either would mean something else with every tokenizer.
Swallow (arXiv 2404.17790) continues with a tenth of English text; so does the default here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import count, islice

from .._logging import get_logger
from ..errors import CorpusError, InvalidOptionError
from ..resources.corpus import Corpus, CorpusLike, open_corpus

logger = get_logger(__name__)

HELD_OUT_LINES = 200
_WINDOW = 50
"""Lines to hold out are chosen among so many times their number, from the start of the text."""


def hold_out(texts: CorpusLike, n_lines: int = HELD_OUT_LINES, *, seed: int = 0) -> tuple[list[str], Corpus]:
    """Part lines for measuring from lines for training.

    The lines are chosen by a hash among the first ``50 * n_lines`` lines, a tenth of them at most; a line that is held
    out is left out wherever it occurs again. Works on text that is only streamed.

    Args:
        texts: Anything that :func:`~hf_vocab_extend.resources.corpus.open_corpus` reads.
        n_lines: Lines to hold out.
        seed: Another seed chooses other lines.

    Returns:
        The lines held out, in their order, and the others as a corpus.

    Raises:
        CorpusError: If there is no text, or too little to hold anything out.
        InvalidOptionError: If ``n_lines`` is below 0.
    """
    if n_lines < 0:
        raise InvalidOptionError(f"{n_lines} lines cannot be held out. Give 0 or more.")
    corpus = open_corpus(texts)
    if n_lines == 0:
        return [], corpus
    window = list(dict.fromkeys(islice(corpus, _WINDOW * n_lines)))
    n_held = min(n_lines, len(window) // 10)
    if n_held == 0:
        raise CorpusError(
            f"The corpus {corpus.name} has {len(window)} different lines: too few to hold some out (10 at least). "
            "Give more text, or hold 0 lines out and give text to measure on."
        )
    salt = seed.to_bytes(8, "little", signed=True)
    ranked = sorted(window, key=lambda line: hashlib.blake2b(line.encode("utf-8"), key=salt, digest_size=8).digest())
    held = set(ranked[:n_held])
    rest = Corpus(corpus.name, lambda: (line for line in corpus if line not in held))
    return [line for line in window if line in held], rest


class ReplayMix:
    """Texts of the new language with texts of the source language among them; made by :func:`mix_replay`.

    Iterate as often as needed; it is the same at every time.

    Attributes:
        share: Share of bytes of source text.
        held_out: Lines of the source text that are never yielded, to measure what is forgotten.
        name: What messages call it.
    """

    def __init__(
        self, target: Iterable[str], source: Iterable[str], share: float, passes: int | None, held_out: list[str]
    ) -> None:
        """Take both texts; each can be read again."""
        self._target, self._source = target, source
        self._passes = passes
        self.share = share
        self.held_out = held_out
        self.name = "the text with replay"

    def __iter__(self) -> Iterator[str]:
        """Yield texts; each source text comes as soon as the share of source bytes has fallen behind."""
        replay = self._recycled()
        target_bytes = source_bytes = 0
        for turn in count():
            if turn == self._passes:
                return
            for text in self._target:
                yield text
                target_bytes += len(text.encode("utf-8"))
                while source_bytes < self.share * (source_bytes + target_bytes):
                    source_text = next(replay)
                    source_bytes += len(source_text.encode("utf-8"))
                    yield source_text

    def _recycled(self) -> Iterator[str]:
        """Yield the source texts without end."""
        for turn in count():
            if turn == 1:
                logger.info("The source text is shorter than the share of replay needs: it is read again.")
            empty = True
            for text in self._source:
                empty = False
                yield text
            if empty:
                raise CorpusError("Nothing is left of the source text for replay. Give more, or hold fewer lines out.")


def check_share(share: float) -> float:
    """Return a share of replay that is in its range.

    Raises:
        InvalidOptionError: If it is not.
    """
    if not 0 <= share < 1:
        raise InvalidOptionError(f"The share of replay is {share}. Give a share of bytes from 0 to below 1.")
    return share


def mix_replay(
    target_texts: CorpusLike,
    source_texts: CorpusLike,
    share: float = 0.1,
    *,
    held_out: int = HELD_OUT_LINES,
    passes: int | None = 1,
    seed: int = 0,
) -> ReplayMix:
    """Put text of the source language among that of the new one.

    Both are streamed. Source text that is too short is read again (the log says so); what is left of it goes unused.
    The share holds all along, not only at the end, to within one text.

    Args:
        target_texts: Text of the new language: anything that
            :func:`~hf_vocab_extend.resources.corpus.open_corpus` reads.
        source_texts: Text of the source language, likewise.
        share: Share of bytes that are source text, from 0 to below 1.
        held_out: So many lines of the source text are kept away, as ``mix.held_out``, to measure retention.
        passes: Readings of the target text; the source text goes on from one to the next. None has no end, for
            training by steps.
        seed: Seed of the choice of lines to hold out.

    Returns:
        An iterable of texts, with ``held_out``.

    Raises:
        InvalidOptionError: If ``share`` or ``passes`` is out of range.
        CorpusError: If a text is missing, empty, or too short to hold lines out.

    Example:
        >>> mix = mix_replay(["habari ya leo"] * 90, [f"line {n}" for n in range(50)], share=0.1, held_out=5)
        >>> len(mix.held_out)
        5
    """
    check_share(share)
    if passes is not None and passes < 1:
        raise InvalidOptionError(f"The target text cannot be read {passes} times. Give 1 or more, or None.")
    target = open_corpus(target_texts)
    held, source = hold_out(source_texts, held_out, seed=seed)
    return ReplayMix(target, source, share, passes, held)


__all__ = ["HELD_OUT_LINES", "ReplayMix", "check_share", "hold_out", "mix_replay"]
