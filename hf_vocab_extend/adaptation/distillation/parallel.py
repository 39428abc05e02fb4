"""Distillation from parallel text: the untouched model reads the source side, the extended one the target side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ...errors import CorpusError, InvalidOptionError
from ...evaluation.vectors import pad_id_of
from ...resources.parallel import open_pairs
from .aligned import Encoded
from .checks import check_counts, check_layer, find_teacher, is_causal, name_of, new_rows_of
from .compact_rows import CompactRows
from .guard import Guard
from .lessons import Lesson, Pair, TextLesson, VectorLesson
from .loop import Schedule, run_steps
from .record import finish
from .sampling import balanced_batches, clusters_of
from .sentence_vectors import cut
from .snippets import encode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...result import VocabExtension

HELD_OUT, MOST_HELD_OUT, FEWEST_HELD_OUT = 0.05, 200, 10
"""Share of a corpus that is held out where no held-out pairs are given; at most and at least so many."""
LOOKS = 4
COUNTS = ("steps", "batch_size", "max_length", "evaluate_every", "patience")
OPTIONS = (
    *("steps", "batch_size", "learning_rate", "temperature", "contrast", "balance", "average", "anchor"),
    *("target_layer", "max_length", "tolerance", "seed"),
)
"""Options that the report names."""


def distill_parallel(
    extension: VocabExtension,
    teacher_model: PreTrainedModel,
    teacher_tokenizer: PreTrainedTokenizerBase,
    pairs: Any,
    *,
    dev_pairs: Any = None,
    steps: int = 120,
    batch_size: int = 64,
    learning_rate: float = 6e-3,
    temperature: float = 0.1,
    contrast: float = 1.0,
    balance: float = 0.5,
    average: float = 0.0,
    anchor: float = 0.0,
    target_layer: int = -1,
    max_length: int = 64,
    evaluate_every: int | None = None,
    tolerance: float = 0.005,
    patience: int | None = None,
    seed: int = 0,
) -> VocabExtension:
    """Refine the new rows by parallel text: a sentence is to mean what its translation means to the untouched model.

    The untouched model reads the source side, and the extended encoder is to give the target side the same vector, the
    mean of the states of a layer. The loss is one minus the cosine, plus a contrast in both directions: a sentence
    must find its translation among the translations of all pairs that the run will see, whose vectors are computed
    once, and a translation its sentence in the batch. A causal model with a head is to predict the target side
    instead, in every other step behind its source side, and the teacher is not run. Held-out pairs decide which rows
    are kept. Nothing but the new rows changes; they change when all is done, so that a run that is broken off leaves
    the model as it was.

    Args:
        extension: An extension of an encoder or a causal model; its model is changed in place, mapping and report say
            so.
        teacher_model: The untouched model.
        teacher_tokenizer: Its tokenizer.
        pairs: ``(source_text, target_text)``: what :func:`~hf_vocab_extend.resources.parallel.open_pairs` reads, or a
            mapping of the name of a corpus to such.
        dev_pairs: Held-out pairs in the same form; the guard looks at each corpus apart. By default 5 % of each
            corpus of ``pairs``, at most 200, are held out.
        steps: Steps at most.
        batch_size: Pairs of a step.
        learning_rate: Highest step size of Adam.
        temperature: Cosines are divided by it before the softmax of the contrast.
        contrast: Weight of the contrast.
        balance: 0 to take corpora by their size, 1 for equal shares. One corpus alone is balanced by clusters of its
            source vectors.
        average: Decay of the moving average of the rows, which is what is kept; 0 for the last rows.
        anchor: Pull of rarely seen rows to their start.
        target_layer: Layer whose states are averaged: -1 the last.
        max_length: Tokens of a sentence at most.
        evaluate_every: Steps between two looks of the guard; by default four looks in all.
        tolerance: How far a corpus may fall below its start for rows to be kept: in mean reciprocal rank, or in bits
            per byte for causal models.
        patience: Looks in a row without better rows, after which the run stops; None to go on to the end.
        seed: Seed of all randomness.

    Returns:
        The extension that was given.

    Raises:
        CorpusError: If there are no pairs.
        InvalidOptionError: If an option lies outside its range, or there is no new row.
        BaseModelMismatchError: If the teacher's vectors are of another width.
        TokenizerMismatchError: If a tokenizer does not belong to its model, or no pair holds a new token.
    """
    given = dict(locals())
    check_counts(**{name: given[name] for name in COUNTS})
    _check_ranges(temperature=temperature, contrast=contrast, balance=balance, tolerance=tolerance)
    schedule = Schedule(steps, learning_rate, average, anchor, evaluate_every or -(-steps // LOOKS))
    ids = new_rows_of(extension)
    find_teacher(extension, teacher_model, teacher_tokenizer)
    check_layer(extension.model, teacher_model, target_layer)
    start = time.perf_counter()
    as_text = extension.model.get_output_embeddings() is not None and is_causal(extension.model)
    generator = torch.Generator().manual_seed(seed)
    train, held_out = _read(pairs, dev_pairs, extension, teacher_tokenizer, max_length, as_text, generator)
    new = set(ids.tolist())
    train = [pair for pair in train if not new.isdisjoint(pair.student)]
    if not train:
        raise CorpusError("No new token stands in the target side of the pairs. Bring text in the new language.")

    groups = _groups(train, teacher_model, generator)
    batches = list(islice(balanced_batches(groups, batch_size, balance, generator), steps))
    lesson: Lesson
    rows = CompactRows(extension.model, ids, with_head=as_text)
    pads = pad_id_of(extension.tokenizer), pad_id_of(teacher_tokenizer)
    if as_text:
        lesson = TextLesson(rows, (train, held_out), batches, pad_id=pads[0])
    else:
        options = {"layer": target_layer, "temperature": temperature, "contrast": contrast}
        lesson = VectorLesson(rows, teacher_model, (train, held_out), batches, pads=pads, **options)  # type: ignore[arg-type]
    guard = Guard(lesson.score, tolerance, patience)
    with rows.in_place():
        outcome = run_steps(rows, lesson.backward, guard, schedule)
    said = {
        "method": "parallel",
        "teacher": "the text itself" if as_text else name_of(teacher_model),
        "corpora": ", ".join(dict.fromkeys(pair.corpus for pair in train)),
        "pairs": len({index for batch in batches for index in batch}),
        "options": {name: given[name] for name in OPTIONS},
        "held_out_pairs": len(held_out),
        "held_out_metric": lesson.metric,
        "seconds_before_the_steps": round(time.perf_counter() - start - outcome.seconds, 1),
    }
    return finish(extension, rows, guard, outcome, said)


def _check_ranges(**values: float) -> None:
    """Raise unless each value lies in its range.

    Raises:
        InvalidOptionError: It names the option.
    """
    for name, value in values.items():
        low, high = (1e-4, 10.0) if name == "temperature" else (0.0, 1.0 if name != "contrast" else 1e3)
        if not low <= value <= high:
            raise InvalidOptionError(f"{name} is {value}. Give a number in {low:g} .. {high:g}.")


def _corpora(pairs: Any) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs by the name of their corpus."""
    named = pairs if isinstance(pairs, Mapping) else {"pairs": pairs}
    return {str(name): list(open_pairs(item)) for name, item in named.items()}


def _read(
    pairs: Any,
    dev_pairs: Any,
    extension: VocabExtension,
    teacher: PreTrainedTokenizerBase,
    max_length: int,
    as_text: bool,
    generator: torch.Generator,
) -> tuple[list[Pair], list[Pair]]:
    """Return training and held-out pairs as ids.

    Raises:
        CorpusError: If there are none, or too few to hold some out.
    """
    train = _corpora(pairs)
    if not any(train.values()):
        raise CorpusError("There are no pairs. Bring a mapping of the name of a corpus to its pairs, or pairs.")
    if dev_pairs is not None:
        held_out = _corpora(dev_pairs)
    else:
        held_out = {}
        for name, items in train.items():
            count = min(MOST_HELD_OUT, max(FEWEST_HELD_OUT, int(HELD_OUT * len(items))))
            if len(items) < 2 * count:
                raise CorpusError(
                    f"The corpus '{name}' has {len(items)} pairs, too few to hold {count} of them out. Pass "
                    "dev_pairs=."
                )
            order = torch.randperm(len(items), generator=generator).tolist()
            held_out[name] = [items[index] for index in order[:count]]
            kept_out = {source for source, _ in held_out[name]}
            train[name] = [pair for pair in items if pair[0] not in kept_out]

    as_ids = partial(_as_ids, teacher=teacher, student=extension.tokenizer, max_length=max_length, as_text=as_text)
    found = as_ids(held_out)
    if not found:
        raise CorpusError("No held-out pair has text on both sides, so nothing can decide. Pass other dev_pairs=.")
    return as_ids(train), found


def _as_ids(
    corpora: dict[str, list[tuple[str, str]]],
    *,
    teacher: PreTrainedTokenizerBase,
    student: PreTrainedTokenizerBase,
    max_length: int,
    as_text: bool = True,
) -> list[Pair]:
    """Return pairs as ids; those of which a side has none are left out. A causal model reads both at once."""
    found = []
    for name, items in corpora.items():
        sources = cut(teacher, [source for source, _ in items], max_length)
        texts = [target for _, target in items]
        targets = student(texts, truncation=True, max_length=max_length, return_offsets_mapping=True, verbose=False)
        none = [Encoded([], [], [])] * len(items)
        joined = encode(student, [f"{source}\n{target}" for source, target in items]) if as_text else none
        columns = zip(items, sources, targets["input_ids"], targets["offset_mapping"], joined, strict=True)
        for (source, target), theirs, ours, offsets, both in columns:
            if not theirs or len(ours) < 2:
                continue
            size = len(target[: max(end for _, end in offsets)].encode("utf-8"))
            start = next((i for i, (begin, _) in enumerate(both.offsets) if begin > len(source)), len(both.ids))
            found.append(Pair(name, theirs, list(ours), both.ids[: start + max_length], start, size))
    return found


def _groups(pairs: list[Pair], teacher: PreTrainedModel, generator: torch.Generator) -> list[int]:
    """Return the group of each pair: its corpus, or where there is one corpus only, a cluster of its source words."""
    names = list(dict.fromkeys(pair.corpus for pair in pairs))
    if len(names) > 1:
        return [names.index(pair.corpus) for pair in pairs]
    table: Any = teacher.get_input_embeddings().weight
    return clusters_of([pair.teacher for pair in pairs], table.detach(), generator)
