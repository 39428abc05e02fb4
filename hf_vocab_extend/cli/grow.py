"""``hf-vocab-extend grow``: new tokens for a tokenizer, learnt from text."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from itertools import islice
from pathlib import Path

from .common import (
    Answer,
    Command,
    add_corpus_options,
    add_trust_option,
    check_output,
    given,
    load_tokenizer,
    option_adder,
    save_tokenizer_folder,
)

OPTIONS = ("min_frequency", "max_token_length", "digits", "punctuation", "alphabet", "marks_aware", "show_progress")
MEASURED_LINES = 10_000


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("tokenizer", metavar="TOKENIZER", help="a name, a folder, tokenizer.json or .model")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="a new or empty folder")
    add_corpus_options(parser, required=True)
    parser.add_argument("--num-new-tokens", type=int, required=True, metavar="N", help="tokens to add")
    add = option_adder(parser, "vocab.growing", "extend_tokenizer")
    add("--min-frequency", "how often a new token must be seen", type=int, metavar="N")
    add("--max-token-length", "most characters of a new token", type=int, metavar="N")
    add("--digits", "let new tokens hold digits", action="store_true")
    add("--punctuation", "let new tokens hold both letters and punctuation", action="store_true")
    add("--alphabet", "characters that get a token of their own", metavar="CHARS")
    add("--marks-aware", "keep combining marks with their letters (Indic scripts, Thai)", action="store_true")
    add("--show-progress", "show a progress bar on standard error", action="store_true")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Grow, save, and say what it does to the text."""
    from ..resources.corpus import open_corpus

    output = check_output(args.output_dir, overwrite=getattr(args, "overwrite", False))
    corpus = open_corpus(args.corpus, text_column=getattr(args, "text_column", None))

    from ..vocab.fertility import compare_fertility, measure_fertility
    from ..vocab.growing import extend_tokenizer

    source = load_tokenizer(args.tokenizer, trust_remote_code=getattr(args, "trust_remote_code", False))
    grown = extend_tokenizer(source, corpus, args.num_new_tokens, **given(args, OPTIONS))
    save_tokenizer_folder(grown, output)
    lines = list(islice(corpus, MEASURED_LINES))
    before = measure_fertility(source, lines)
    after = measure_fertility(
        grown, lines, new_ids=sorted(set(grown.get_vocab().values()) - set(source.get_vocab().values()))
    )
    data = {
        "output_dir": str(Path(args.output_dir)),
        "added": len(grown) - len(source),
        "tokens": len(grown),
        "fertility_before": before.to_dict(),
        "fertility_after": after.to_dict(),
    }
    text = f"{compare_fertility(before, after)}\n\nAdded {data['added']:,} tokens, {len(grown):,} in all. "
    return Answer(data, text + f"Saved to {data['output_dir']}")


COMMAND = Command(
    name="grow",
    summary="Add tokens to a tokenizer, learnt from text; the old ones keep their ids.",
    examples=(
        "hf-vocab-extend grow bert-base-uncased ./tokenizer-sw --corpus swahili.txt --num-new-tokens 8000",
        "hf-vocab-extend grow ./model ./tokenizer-hi --corpus - --num-new-tokens 4000 --marks-aware",
    ),
    add_arguments=add_arguments,
    run=run,
)
