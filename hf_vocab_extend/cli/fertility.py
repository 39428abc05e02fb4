"""``hf-vocab-extend fertility``: how finely one or two tokenizers cut a text."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from .common import Answer, Command, add_corpus_options, add_trust_option, corpus_of, load_tokenizer


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("tokenizer", metavar="TOKENIZER", help="a name, a folder, tokenizer.json or .model")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="a second one to compare")
    add_corpus_options(parser, required=True)
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Measure and show."""
    corpus = corpus_of(args)

    from ..vocab.fertility import compare_fertility, measure_fertility

    names = [args.tokenizer, *([args.other] if getattr(args, "other", None) else [])]
    trust = getattr(args, "trust_remote_code", False)
    tokenizers = [load_tokenizer(name, trust_remote_code=trust) for name in names]
    measured = [measure_fertility(tokenizer, corpus) for tokenizer in tokenizers]
    data = [{"tokenizer": name, **item.to_dict()} for name, item in zip(names, measured, strict=True)]
    if len(measured) == 2:
        return Answer(data, compare_fertility(measured[0], measured[1], (names[0], names[1])))
    return Answer(data, "\n".join(f"{name}: {_figure(value)}" for name, value in data[0].items() if value is not None))


def _figure(value: object) -> str:
    """Return a figure as text."""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


COMMAND = Command(
    name="fertility",
    summary="Measure tokens per word, unknown tokens and round trip of a tokenizer on a text.",
    examples=(
        "hf-vocab-extend fertility bert-base-uncased --corpus swahili.txt",
        "hf-vocab-extend fertility bert-base-uncased ./tokenizer-sw --corpus held-out.jsonl.gz --format json",
    ),
    add_arguments=add_arguments,
    run=run,
)
