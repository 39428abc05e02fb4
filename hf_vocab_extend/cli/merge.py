"""``hf-vocab-extend merge``: the vocabulary of another tokenizer, or a word list, added to a tokenizer."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from .common import (
    Answer,
    Command,
    add_corpus_options,
    add_trust_option,
    check_output,
    corpus_of,
    given,
    load_tokenizer,
    option_adder,
    save_tokenizer_folder,
    table,
)

OPTIONS = ("min_frequency", "max_new_tokens", "special_tokens")
SHOWN_TOKENS = 10


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("tokenizer", metavar="TOKENIZER", help="a name, a folder, tokenizer.json or .model")
    parser.add_argument("other", metavar="OTHER", help="likewise; with --words a text file of one word a line")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="a new or empty folder")
    parser.add_argument("--words", action="store_true", help="OTHER is a word list")
    add_corpus_options(parser, required=False)
    add = option_adder(parser, "vocab.merging", "merge_tokenizers")
    add("--min-frequency", "leave out what is counted less often", type=int, metavar="N")
    add("--max-new-tokens", "most tokens to add", type=int, metavar="N")
    add("--special-tokens", "add control tokens that have no namesake, chat markers for example", action="store_true")
    parser.add_argument("--overwrite", action="store_true", help="write into a folder that is not empty")
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Merge, save, and say what became of every token."""
    output = check_output(args.output_dir, overwrite=getattr(args, "overwrite", False))
    options = given(args, OPTIONS)
    corpus = corpus_of(args)
    if corpus is not None:
        options["corpus"] = corpus

    from ..vocab.merging import merge_tokenizers

    trust = getattr(args, "trust_remote_code", False)
    source = load_tokenizer(args.tokenizer, trust_remote_code=trust)
    other: Any = _words(args.other) if hasattr(args, "words") else load_tokenizer(args.other, trust_remote_code=trust)
    merged, report = merge_tokenizers(source, other, return_report=True, **options)
    save_tokenizer_folder(merged, output)
    data = {"output_dir": str(Path(args.output_dir)), "tokens": len(merged), **dataclasses.asdict(report)}
    return Answer(data, _text(data))


def _words(path: str) -> list[str]:
    """Read a word list."""
    from ..resources.corpus import open_corpus

    return [line.strip() for line in open_corpus(path)]


def _text(data: dict[str, Any]) -> str:
    """Return the counts as a table."""
    rows = [(name.replace("_", " "), f"{value:,}") for name, value in data.items() if isinstance(value, int)]
    lost = data.get("unreachable_tokens") or ()
    more = ", ..." if len(lost) > SHOWN_TOKENS else ""
    shown = f"\nunreachable: {', '.join(map(repr, lost[:SHOWN_TOKENS]))}{more}" if lost else ""
    return f"{table(rows)}{shown}\n\nSaved to {data['output_dir']}"


COMMAND = Command(
    name="merge",
    summary="Add the vocabulary of another tokenizer, or a word list, to a tokenizer.",
    examples=(
        "hf-vocab-extend merge bert-base-uncased ./swahili.model ./merged --max-new-tokens 8000",
        "hf-vocab-extend merge bert-base-uncased words.txt ./merged --words --format json",
    ),
    add_arguments=add_arguments,
    run=run,
)
