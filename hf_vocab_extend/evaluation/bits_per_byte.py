"""Bits per byte: how well a language model predicts a text, comparable across tokenizers.

Perplexity and the Trainer's loss are per token, and a tokenizer that cuts a text into fewer tokens has fewer and
harder predictions to make. The bits that a model needs for the whole text do not depend on how it is cut; divided by
the bytes of the text they are comparable across tokenizers, and across texts nearly so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from .._logging import progress
from ..errors import (
    CorpusError,
    InvalidOptionError,
    UnsupportedModelError,
    UnsupportedTokenizerError,
    VocabExtendWarning,
)
from .masking import deal_units, unit_ends, units_of_tokens
from .scoring import LONGEST, Row, Scorer, check_causal, evaluating, longest_input, unwrap
from .vectors import pad_id_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SHORTEST = 8
"""Least window, in tokens."""


@dataclass(frozen=True)
class BitsPerByte:
    """How well a model predicts a text.

    Attributes:
        bits_per_byte: ``bits`` / ``bytes``.
        bits: Sum of -log2 p over the counted tokens.
        bytes: UTF-8 bytes of the text; of masked models with ``passes``, of the words that were measured.
        tokens: Counted tokens, end tokens included.
        texts: Texts that were not empty.
        new_tokens: How many of ``tokens`` are new; 0 if ``new_ids`` was not given.
        new_bits: Their share of ``bits``.
        end_tokens: How many of ``tokens`` are end tokens.
        uncounted_tokens: First tokens that nothing stands before, because the tokenizer has no token for it. Their
            bytes are in ``bytes`` all the same, so the number is too low.
        unknown_tokens: How many of ``tokens`` are the unknown token. It hides bytes, so the number is too low.
        measure: ``causal``, or ``masked`` with the way of masking.
    """

    bits_per_byte: float
    bits: float
    bytes: int
    tokens: int
    texts: int
    new_tokens: int
    new_bits: float
    end_tokens: int
    uncounted_tokens: int
    unknown_tokens: int
    measure: str

    @property
    def old_tokens(self) -> int:
        """Counted tokens that are not new."""
        return self.tokens - self.new_tokens

    @property
    def old_bits(self) -> float:
        """Bits of the tokens that are not new."""
        return self.bits - self.new_bits

    @property
    def new_token_bits(self) -> float | None:
        """Bits per new token; None without one."""
        return self.new_bits / self.new_tokens if self.new_tokens else None

    @property
    def old_token_bits(self) -> float | None:
        """Bits per token that is not new; None without one."""
        return self.old_bits / self.old_tokens if self.old_tokens else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class _Settings:
    """What the ways of scoring need to know."""

    tokenizer: PreTrainedTokenizerBase
    length: int
    share: float
    passes: int | None
    seed: int


@dataclass
class _Text:
    """A window of a text: its tokens, which of them count, and which unit and group each is in."""

    ids: list[int]
    first: int
    last: int
    groups: list[int]
    units: list[int]


def bits_per_byte(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    new_ids: torch.Tensor | Sequence[int] | None = None,
    end_token: bool = True,
    masking: str = "groups",
    share: float = 0.15,
    passes: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> BitsPerByte:
    """Measure how well a language model predicts texts.

    *Causal models.* The sum of -log2 p over all tokens of a text and, where the tokenizer has one, the token that ends
    it, divided by the UTF-8 bytes of the text. The first token is conditioned on the tokenizer's bos token, else its
    cls, else its eos token; without any of them it is not counted, and reported in ``uncounted_tokens``. A text longer
    than the model's window is read in windows that overlap by half; each token is counted once, with at least half a
    window before it (or all that there is). Nothing is cut off.

    *Masked models.* Pseudo-log-likelihood per byte: a token's probability when it is masked and the rest of the text
    is seen, with the special tokens of the tokenizer around the text, which are not counted. What is masked at once:

    - ``masking="groups"``: the words of the text (not its tokens, so that every tokenizer has the same bytes hidden)
      are dealt by chance, seeded, to ``round(1 / share)`` groups, and each group is masked whole in one pass. Every
      token is counted once. With ``passes=1`` only the first of the groups is measured, and only its bytes are
      counted: a cheap estimate for use while training, comparable with itself only.
    - ``masking="token"``: each token alone, as in Salazar et al. 2020 (arXiv 1910.14659). The other pieces of a word
      give a masked piece away, so that tokenizers that cut more look better: for one tokenizer only.
    - ``masking="word"``: each token together with the pieces of its word that follow, as in Kauf and Ivanova 2023
      (arXiv 2305.10588, "within word, left to right"). As many passes as tokens.

    Numbers of causal and masked models, and of different ways of masking, are not comparable with each other.

    Args:
        model: A causal or masked language model; DistributedDataParallel, ``torch.compile`` and peft are looked
            through. Its mode, and the state of all global generators, are left as they were.
        tokenizer: Its tokenizer.
        texts: Documents. Each is scored on its own; empty ones are left out.
        batch_size: Windows per forward pass; they are sorted by length.
        max_length: Window in tokens; by default the model's own length, at most 2,048.
        new_ids: Ids of new tokens, whose bits are summed apart, shape `(n_new,)`.
        end_token: Count the end token of causal models.
        masking: ``groups``, ``token`` or ``word``; masked models only.
        share: Share of the words that is masked at once by ``groups``.
        passes: How many of the groups are measured; None for all.
        seed: Seed of the dealing.
        device: Where the model is moved for this; by default it stays where it is.

    Returns:
        The measure with its counts.

    Raises:
        UnsupportedModelError: If the model has an encoder and a decoder (what a text's likelihood is there depends on
            what the encoder reads) or no head over the vocabulary.
        UnsupportedTokenizerError: If a masked model's tokenizer has no mask token, or no offsets.
        CorpusError: If there is no text with a character in it.
        InvalidOptionError: If an option is out of its range.
    """
    inner = unwrap(model)
    kind = model_kind(inner)
    settings = _checked(inner, tokenizer, kind, max_length, masking, share, passes, seed)
    chosen = [text for text in texts if text]
    if not chosen:
        raise CorpusError("There is no text to measure: every text is empty. Give texts with characters.")
    if device is not None:
        inner.to(device)  # type: ignore[arg-type]
    windows, counts = (
        _causal_windows(chosen, settings, end_token)
        if kind == "causal"
        else _masked_windows(chosen, settings, masking)
    )
    rows = _rows(windows, settings, kind if kind == "causal" else masking)
    with evaluating(inner):
        if kind == "causal":
            _check_reads_back(inner, windows)
        scorer = Scorer(inner, pad_id_of(tokenizer))
        total = _total(scorer.bits(progress(rows, desc="Bits per byte", unit="row"), batch_size), tokenizer, new_ids)
    if counts["end_tokens"] and tokenizer.unk_token_id == _end_ids(tokenizer)[0]:  # GPT-2 has one token for both
        total["unknown_tokens"] -= counts["end_tokens"]
    measure = kind if kind == "causal" else f"masked, {_masking_name(settings, masking)}"
    return _result(total, counts, len(chosen), measure)


def _check_reads_back(model: PreTrainedModel, windows: list[_Text]) -> None:
    """Raise if a model is not causal; on a few tokens."""
    sample = next((window.ids[:SHORTEST] for window in windows if len(set(window.ids[:SHORTEST])) > 1), None)
    if sample is not None:
        check_causal(model, sample)


def _total(
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    tokenizer: PreTrainedTokenizerBase,
    new_ids: torch.Tensor | Sequence[int] | None,
) -> dict[str, Any]:
    """Sum bits and tokens over batches of labels and bits."""
    fresh = torch.zeros(0, dtype=torch.long) if new_ids is None else torch.as_tensor(new_ids).long().cpu()
    total = {"bits": 0.0, "new_bits": 0.0, "tokens": 0, "new_tokens": 0, "unknown_tokens": 0}
    for labels, bits in batches:
        new = torch.isin(labels, fresh)
        total["bits"] += float(bits.sum())
        total["new_bits"] += float(bits[new].sum())
        total["tokens"] += len(labels)
        total["new_tokens"] += int(new.sum())
        if tokenizer.unk_token_id is not None:
            total["unknown_tokens"] += int((labels == tokenizer.unk_token_id).sum())
    return total


def model_kind(model: Any) -> str:
    """Return ``causal`` or ``masked``.

    Raises:
        UnsupportedModelError: If a model is neither.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    name = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} has an encoder and a decoder: its likelihood of a text depends on what the encoder reads, so "
            "bits per byte are not defined. Measure its loss on the task that it is trained for."
        )
    if model.get_output_embeddings() is None:
        raise UnsupportedModelError(
            f"{name} has no head over the vocabulary, so it predicts no tokens. Load it with AutoModelForCausalLM or "
            "AutoModelForMaskedLM, or measure it by retrieval or transfer."
        )
    return "masked" if name in MASKED.values() or name.endswith("ForMaskedLM") else "causal"


def _checked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    kind: str,
    max_length: int | None,
    masking: str,
    share: float,
    passes: int | None,
    seed: int,
) -> _Settings:
    """Check the options.

    Raises:
        InvalidOptionError: If one is out of its range.
        UnsupportedTokenizerError: If masks are needed and the tokenizer has none.
    """
    if masking not in _HIDDEN:
        raise InvalidOptionError(f"masking is {masking!r}. Give one of: {', '.join(_HIDDEN)}.")
    if not 0 < share <= 0.5:
        raise InvalidOptionError(f"share is {share}. Give a share of the words above 0 and at most 0.5.")
    n_groups = round(1 / share)
    if passes is not None and not 1 <= passes <= n_groups:
        raise InvalidOptionError(f"passes is {passes}. Give 1 to {n_groups}, or None for all groups.")
    if kind == "masked" and (tokenizer.mask_token_id is None or not tokenizer.is_fast):
        lacks = "no mask token" if tokenizer.mask_token_id is None else "no offsets of its tokens"
        raise UnsupportedTokenizerError(
            f"A masked language model needs masks by word, and its tokenizer has {lacks}. Give the tokenizer.json "
            "that belongs to the model."
        )
    limit = longest_input(model, tokenizer)
    length = min(limit or LONGEST, LONGEST) if max_length is None else max_length
    if length < SHORTEST or (limit is not None and length > limit):
        raise InvalidOptionError(
            f"max_length is {length} tokens. Give at least {SHORTEST}"
            + (f", and no more than the {limit} that the model reads." if limit else ".")
        )
    return _Settings(tokenizer, length, share, passes, seed)


def _end_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that can end a text, the first of them is taken; empty if there is none."""
    return [token for token in (tokenizer.eos_token_id, tokenizer.sep_token_id) if token is not None]


def _causal_windows(texts: list[str], settings: _Settings, end_token: bool) -> tuple[list[_Text], dict[str, int]]:
    """Cut texts into windows for a causal model, and count bytes, end tokens and first tokens that cannot count."""
    own = settings.tokenizer
    starts = [token for token in (own.bos_token_id, own.cls_token_id, own.eos_token_id) if token is not None]
    before, after = starts[:1], _end_ids(own)[:1] if end_token else []
    step = settings.length // 2
    windows, uncounted = [], 0
    for ids in own(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
        whole = [*before, *ids, *after]
        uncounted += not before
        first = 1
        for start in range(0, max(1, len(whole) - settings.length + step), step):
            part = whole[start : start + settings.length]
            if first < start + len(part):
                windows.append(_Text(part, first - start, len(part), [], []))
            first = start + len(part)
    n_bytes = sum(len(text.encode("utf-8")) for text in texts)
    return windows, {"bytes": n_bytes, "end_tokens": len(texts) * len(after), "uncounted_tokens": uncounted}


def _masked_windows(texts: list[str], settings: _Settings, masking: str) -> tuple[list[_Text], dict[str, int]]:
    """Cut texts into windows for a masked model, special tokens included, and count the bytes."""
    own, n_groups = settings.tokenizer, round(1 / settings.share)
    special = own("a", return_special_tokens_mask=True)
    plain = special["special_tokens_mask"].index(0)
    head = special["input_ids"][:plain]
    tail = special["input_ids"][len(special["special_tokens_mask"]) - special["special_tokens_mask"][::-1].index(0) :]
    room = settings.length - len(head) - len(tail)
    wanted = n_groups if settings.passes is None or masking != "groups" else settings.passes
    encoded = own(
        texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    windows, n_bytes = [], 0
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        ends = unit_ends(text)
        units = units_of_tokens(ends, offsets)
        groups = deal_units(text, len(ends), n_groups, settings.seed)
        counted = [index for index in range(len(ends)) if groups[index] < wanted]
        starts = [0, *ends]
        n_bytes += sum(len(text[starts[index] : ends[index]].encode("utf-8")) for index in counted)
        for start, first, last in _masked_cuts(len(ids), room):
            part = slice(start, start + room)
            windows.append(
                _Text(
                    [*head, *ids[part], *tail],
                    len(head) + first - start,
                    len(head) + last - start,
                    [-1] * len(head) + [int(groups[unit]) for unit in units[part]] + [-1] * len(tail),
                    [-1] * len(head) + units[part] + [-1] * len(tail),
                )
            )
    return windows, {"bytes": n_bytes, "end_tokens": 0, "uncounted_tokens": 0}


def _masked_cuts(n_tokens: int, room: int) -> Iterator[tuple[int, int, int]]:
    """Yield start of a window and the range that counts in it: each token once, a quarter window from the edge."""
    margin = room // 4
    first = 0
    start = 0
    while first < n_tokens:
        last = n_tokens if start + room >= n_tokens else start + room - margin
        yield start, first, last
        first, start = last, start + room - 2 * margin


def _rows(windows: list[_Text], settings: _Settings, way: str) -> Iterator[Row]:
    """Turn windows into rows, the longest first, so that a batch has rows of like length."""
    for window in sorted(windows, key=lambda window: -len(window.ids)):
        if way == "causal":
            counted = range(window.first, window.last)
            yield Row(window.ids, [place - 1 for place in counted], window.ids[window.first : window.last])
            continue
        for hidden, places in _HIDDEN[way](window, settings):
            ids = list(window.ids)
            for place in hidden:
                ids[place] = settings.tokenizer.mask_token_id
            yield Row(ids, places, [window.ids[place] for place in places])


def _hide_groups(window: _Text, settings: _Settings) -> Iterator[tuple[list[int], list[int]]]:
    """Yield what is hidden in each pass, and what of it counts."""
    for group in range(settings.passes or round(1 / settings.share)):
        hidden = [place for place, own in enumerate(window.groups) if own == group]
        places = [place for place in hidden if window.first <= place < window.last]
        if places:
            yield hidden, places


def _hide_token(window: _Text, settings: _Settings) -> Iterator[tuple[list[int], list[int]]]:
    """Yield each token alone."""
    for place in range(window.first, window.last):
        yield [place], [place]


def _hide_word(window: _Text, settings: _Settings) -> Iterator[tuple[list[int], list[int]]]:
    """Yield each token with the later ones of its word."""
    for place in range(window.first, window.last):
        end = place
        while end < len(window.units) and window.units[end] == window.units[place]:
            end += 1
        yield list(range(place, end)), [place]


_HIDDEN: dict[str, Callable[[_Text, _Settings], Iterator[tuple[list[int], list[int]]]]] = {
    "groups": _hide_groups,
    "token": _hide_token,
    "word": _hide_word,
}


def _masking_name(settings: _Settings, masking: str) -> str:
    """Say how words were masked."""
    if masking != "groups":
        return {"token": "each token alone", "word": "each token with the rest of its word"}[masking]
    n_groups = round(1 / settings.share)
    measured = "" if settings.passes in (None, n_groups) else f", {settings.passes} measured"
    return f"words in {n_groups} groups{measured}"


def _result(total: dict[str, Any], counts: dict[str, int], n_texts: int, measure: str) -> BitsPerByte:
    """Put the counts together.

    Raises:
        CorpusError: If nothing was counted.
    """
    if not total["tokens"] or not counts["bytes"]:
        raise CorpusError(
            f"None of the {n_texts} texts has a token that counts. Give longer texts, or a tokenizer that reads them."
        )
    if total["unknown_tokens"]:
        warnings.warn(
            f"{total['unknown_tokens']} of {total['tokens']} tokens are the unknown token, which hides bytes: the "
            "bits per byte are too low. Compare only with a tokenizer that knows as many.",
            VocabExtendWarning,
            stacklevel=3,
        )
    return BitsPerByte(
        bits_per_byte=total["bits"] / counts["bytes"], texts=n_texts, measure=measure, **total, **counts
    )


__all__ = ["BitsPerByte", "bits_per_byte", "model_kind"]
