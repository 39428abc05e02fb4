"""Token distillation: a new token is to do to the model's states what its source pieces do.

After Dobler, Elliott and de Melo, "Token Distillation" (ICLR 2026, arXiv 2505.20133), for causal and masked models,
for added tokens and for a whole new vocabulary, with memory for the new rows alone.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from ...errors import CorpusError
from ...evaluation.scoring import evaluation_mode
from ...evaluation.vectors import pad_id_of
from ...resources.corpus import open_corpus
from .checks import check_counts, check_layer, find_teacher, is_causal, name_of, new_rows_of
from .compact_rows import CompactRows
from .guard import Guard
from .loop import Schedule, run_steps
from .record import finish
from .snippets import Snippet, find_snippets
from .state_matching import Matching

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ...result import VocabExtension

HELD_OUT, MOST_HELD_OUT, FEWEST_SNIPPETS = 20, 128, 40
"""Every so manyth snippet is held out for the guard, at most so many; none of fewer snippets than the last number."""
LOOKS = 5
OPTIONS = ("target_layer", "snippets_per_token", "snippet_length", "batch_size", "learning_rate", "average")
"""Options that the report names."""
COUNTS = (
    "snippets_per_token",
    "snippet_length",
    "max_snippets",
    "epochs",
    "steps",
    "batch_size",
    "evaluate_every",
)


def distill_tokens(
    extension: VocabExtension,
    source_model: PreTrainedModel | None = None,
    corpus: Any = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    target_layer: int = -1,
    next_token: bool | None = None,
    snippets_per_token: int = 25,
    snippet_length: int = 50,
    max_snippets: int | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    average: float = 0.9,
    evaluate_every: int | None = None,
    seed: int = 0,
) -> VocabExtension:
    """Refine the new rows so that new tokens leave the model in the states that their source pieces leave it in.

    The extended model reads pieces of text with its tokens, the teacher the same with source tokens; where both have
    read up to the same character, the hidden states of a layer are matched by their squared distance. Nothing but the
    new rows changes; they change when all is done, so that a run that is broken off leaves the model as it was.

    Args:
        extension: An extension; its model is changed in place, mapping and report say so.
        source_model: The untouched model. In mode ``extend`` it may be left out before any training: source rows are
            unchanged there, and the extended model reads the source segmentation as the untouched one does.
        corpus: Text in the new language: a path, a ``datasets`` object or name, or an iterable of strings.
        tokenizer: The source tokenizer; by default that beside ``source_model`` or the base model.
        target_layer: Layer whose states are matched: -1 the last, 0 the embeddings.
        next_token: Whether to learn from the text itself, too: the loss of the next token, or of masked tokens,
            scaled to the size of the first loss at every step ("alpha-NTP"). By default for models with a head over
            the vocabulary. A head with a table of its own learns its new rows from this loss alone, at full weight,
            whatever is said here.
        snippets_per_token: Pieces of text wanted for each new token; tokens with fewer are trained on those.
        snippet_length: Tokens of a piece at most.
        max_snippets: Most pieces of all, drawn from the whole text.
        epochs: Passes over the pieces.
        steps: Steps at most; by default what the passes take.
        batch_size: Pieces of a step.
        learning_rate: Highest step size of Adam.
        average: Decay of the moving average of the rows, which is what is kept; 0 for the last rows.
        evaluate_every: Steps between looks at held-out pieces; by default five looks in all. The rows of the best
            look are kept, the start included.
        seed: Seed of all randomness.

    Returns:
        The extension that was given.

    Raises:
        InvalidOptionError: If an option lies outside its range, or there is no new token.
        CorpusError: If the corpus holds no new token.
        MissingResourceError: If there is no teacher or no source tokenizer.
        BaseModelMismatchError: If the teacher's states are of another width.
        TokenizerMismatchError: If the source tokenizer does not belong to the teacher.
        UnsupportedModelError: If the model is an encoder-decoder, or its tables cannot be handled.
    """
    given = dict(locals())
    check_counts(**{name: given[name] for name in COUNTS})
    if corpus is None:
        raise CorpusError("distill_tokens needs text in the new language. Pass corpus=.")
    lines = open_corpus(corpus)
    ids = new_rows_of(extension)
    teacher, source = find_teacher(extension, source_model, tokenizer)
    check_layer(extension.model, teacher, target_layer)
    start = time.perf_counter()
    causal = is_causal(extension.model)
    generator = torch.Generator().manual_seed(seed)
    snippets = find_snippets(
        lines,
        extension.tokenizer,
        source,
        ids,
        per_token=snippets_per_token,
        length=snippet_length,
        causal=causal,
        limit=max_snippets,
        generator=generator,
    )
    if not snippets.items:
        raise CorpusError(
            f"None of the {len(ids)} new tokens stands in the {snippets.lines} lines of the corpus with a place where "
            "both tokenizers meet. Bring text in the new language."
        )
    train, held_out = _split(snippets.items)
    whole = epochs * -(-len(train) // batch_size)
    n_steps = whole if steps is None else min(whole, steps)
    schedule = Schedule(n_steps, learning_rate, average, 0.0, evaluate_every or -(-n_steps // LOOKS))
    matching = _matching(extension, (teacher, source), ids, target_layer, causal, next_token)
    order = _order(len(train), n_steps * batch_size, generator)

    def backward(step: int) -> float:
        chosen = order[step * batch_size : (step + 1) * batch_size]
        return matching.backward([train[index] for index in chosen], generator)

    with evaluation_mode(teacher), matching.rows.in_place():
        guard = Guard(lambda: matching.scores(held_out, batch_size), tolerance=0.0)
        outcome = run_steps(matching.rows, backward, guard, schedule)
    said = {
        "method": "tokens",
        "teacher": name_of(teacher),
        **snippets.summary(),
        "options": {name: given[name] for name in OPTIONS} | {"next_token": matching.text, "seed": seed},
        "held_out_snippets": len(held_out),
        "held_out_metric": "minus the squared distance of states over their square, minus nats per token",
        "seconds_before_the_steps": round(time.perf_counter() - start - outcome.seconds, 1),
    }
    return finish(extension, matching.rows, guard, outcome, said)


def _matching(
    extension: VocabExtension,
    teacher: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    ids: torch.Tensor,
    layer: int,
    causal: bool,
    next_token: bool | None,
) -> Matching:
    """Return the losses for an extension and a teacher."""
    own = extension.tokenizer
    has_head = extension.model.get_output_embeddings() is not None
    return Matching(
        CompactRows(extension.model, ids, with_head=has_head),
        teacher[0],
        pads=(pad_id_of(own), pad_id_of(teacher[1])),
        layer=layer,
        causal=causal,
        text=has_head and next_token is not False,
        mask_id=own.mask_token_id,
        special=frozenset(own.all_special_ids),
    )


def _split(items: list[Snippet]) -> tuple[list[Snippet], list[Snippet]]:
    """Return snippets to train on, and those that the guard looks at: the same ones where there are few."""
    if len(items) < FEWEST_SNIPPETS:
        return items, items
    held_out = items[::HELD_OUT][:MOST_HELD_OUT]
    taken = {id(item) for item in held_out}
    return [item for item in items if id(item) not in taken], held_out


def _order(count: int, wanted: int, generator: torch.Generator) -> list[int]:
    """Return indices of so many snippets: each once before one comes again."""
    order: list[int] = []
    while len(order) < wanted:
        order += torch.randperm(count, generator=generator).tolist()
    return order[:wanted]


__all__ = ["distill_tokens"]
