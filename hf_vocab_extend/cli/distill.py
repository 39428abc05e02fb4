"""``hf-vocab-extend distill``: refine the new rows of a saved extension, and nothing else of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidOptionError, MissingResourceError
from .common import (
    SAVE_OPTIONS,
    Answer,
    Command,
    add_corpus_options,
    add_save_options,
    add_trust_option,
    check_output,
    corpus_of,
    errors_name_flags,
    given,
    load_model,
    load_tokenizer,
    option_adder,
)

BOTH = ("steps", "batch_size", "learning_rate", "average", "target_layer", "evaluate_every", "seed")
TOKENS = ("snippets_per_token", "snippet_length", "max_snippets", "epochs", "next_token")
PARALLEL = ("temperature", "contrast", "balance", "anchor", "max_length", "tolerance", "patience")
FLAGS = {
    "Pass extension=, what extend_vocabulary returned, or the folder that its save_pretrained wrote.": (
        "Give the FOLDER that extend has saved, or its name on the Hub."
    ),
    "columns=, --pair-columns": "--pair-columns",
    "pass overwrite=True": "give --overwrite",
    "Pass other dev_pairs=": "Give other pairs with --dev",
    "Pass dev_pairs=": "Give held-out pairs with --dev",
    "pass source_model=": "give it with --teacher",
    "Pass tokenizer=": "Give a --teacher with its tokenizer",
    "columns=": "--pair-columns SOURCE TARGET",
}
"""What errors of the Python functions say, and how the same is said here."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="what extend has saved: a folder or a name on the Hub")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="a new or empty folder")
    add_corpus_options(parser, required=False)
    parser.add_argument(
        "--parallel",
        action="append",
        metavar="[NAME=]PATH",
        help="sentence pairs, source language first; once for each corpus, with its name",
    )
    parser.add_argument(
        "--dev",
        action="append",
        metavar="[NAME=]PATH",
        help="held-out pairs that decide which rows are kept (default: 5 %% of each corpus)",
    )
    parser.add_argument(
        "--pair-columns", nargs=2, metavar=("SOURCE", "TARGET"), help="columns of TSV files with a header"
    )
    parser.add_argument("--teacher", metavar="MODEL", help="the untouched model (default: the base that FOLDER names)")
    add = option_adder(parser, "adaptation.distillation.parallel", "distill_parallel")
    add("--steps", "steps; from text: at most so many of one pass", type=int, metavar="N")
    add("--learning-rate", "highest step size of Adam; from text: 0.002", type=float, metavar="X")
    add("--batch-size", "pairs of a step; from text: 16 pieces", type=int, metavar="N")
    add("--average", "decay of the moving average of the rows, 0 for none", type=float, metavar="X")
    add("--target-layer", "layer whose states are matched, -1 for the last", type=int, metavar="N")
    add("--evaluate-every", "steps between looks at held-out text", type=int, metavar="N")
    add("--seed", "seed of all randomness", type=int, metavar="N")
    add("--temperature", "from pairs: of the contrast", type=float, metavar="X")
    add("--contrast", "from pairs: weight of the contrast", type=float, metavar="X")
    add("--balance", "from pairs: 0 takes corpora by their size, 1 in equal shares", type=float, metavar="X")
    add("--anchor", "from pairs: pull of rarely seen rows to their start", type=float, metavar="X")
    add("--max-length", "from pairs: tokens of a sentence at most", type=int, metavar="N")
    add("--tolerance", "from pairs: how far a held-out corpus may fall below its start", type=float, metavar="X")
    add("--patience", "from pairs: looks without better rows after which to stop", type=int, metavar="N")
    text = option_adder(parser, "adaptation.distillation.tokens", "distill_tokens")
    text("--snippets-per-token", "from text: pieces for each new token", type=int, metavar="N")
    text("--snippet-length", "from text: tokens of a piece at most", type=int, metavar="N")
    text("--max-snippets", "from text: most pieces of all", type=int, metavar="N")
    text("--epochs", "from text: passes over the pieces", type=int, metavar="N")
    text(
        "--no-next-token",
        "from text: match states only, do not learn from the text",
        action="store_false",
        dest="next_token",
    )
    add_save_options(parser)
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Load, distil, save; errors name flags.

    Raises:
        VocabExtendError: As the Python functions do.
    """
    with errors_name_flags(FLAGS):
        return _run(args)


def _run(args: Namespace) -> Answer:
    """Load, distil, save."""
    if not hasattr(args, "corpus") and not hasattr(args, "parallel"):
        raise InvalidOptionError("There is nothing to learn from. Give --corpus, --parallel, or both.")
    if hasattr(args, "dev") and not hasattr(args, "parallel"):
        raise InvalidOptionError("--dev holds pairs for --parallel. Give that too.")
    for text, names in (("corpus", TOKENS), ("parallel", PARALLEL)):
        for name in given(args, names) if not hasattr(args, text) else ():
            raise InvalidOptionError(f"--{name.replace('_', '-')} goes with --{text}. Give that too, or leave it out.")
    output = check_output(args.output_dir, overwrite=getattr(args, "overwrite", False))
    corpus, pairs, dev = corpus_of(args), _pairs(args, "parallel"), _pairs(args, "dev")

    from ..adaptation.distillation.parallel import distill_parallel
    from ..adaptation.distillation.tokens import distill_tokens
    from ..adaptation.locate import find_report, locate_extension

    base = getattr(args, "teacher", None) or find_report(args.folder).base_model
    if base is None:
        raise MissingResourceError("The report names no base model. Give the untouched model with --teacher.")
    trust = getattr(args, "trust_remote_code", False)
    tokenizer = load_tokenizer(args.folder, trust_remote_code=trust)
    model = load_model(args.folder, trust_remote_code=trust)
    extension = locate_extension(model, tokenizer, args.folder)
    earlier = len(extension.report.distillations)
    teacher, source = load_model(base, trust_remote_code=trust), load_tokenizer(base, trust_remote_code=trust)
    if corpus is not None:
        distill_tokens(extension, teacher, corpus, tokenizer=source, **given(args, BOTH + TOKENS))
    if pairs is not None:
        distill_parallel(extension, teacher, source, pairs, dev_pairs=dev, **given(args, BOTH + PARALLEL))
    extension.save_pretrained(output, **given(args, SAVE_OPTIONS))
    saved = str(Path(args.output_dir))
    done = [_told(item) for item in extension.report.distillations[earlier:]]
    text = "\n\n".join([*done, f"Saved to {saved}, with its card in {Path(saved) / 'README.md'}"])
    return Answer({"output_dir": saved, "report": extension.report.to_dict()}, text)


def _told(item: Mapping[str, Any]) -> str:
    """Say what a distillation did: its steps, which was kept, the scores of held-out text, its seconds."""
    kept = item["kept_step"]
    before, after = item["held_out_before"], item["held_out_after"]
    lines = [
        f"Distilled from {'text' if item['method'] == 'tokens' else 'pairs'}, teacher {item['teacher']}:",
        f"  steps: {item['steps']:,}, kept: "
        + (f"step {kept:,}, {item['rows']:,} rows refined" if kept else "the start, as held-out text got no better"),
        f"  held-out scores, higher is better ({item['held_out_metric']}):",
        *(f"    {name}: {value:.4f} -> {after[name]:.4f}" for name, value in before.items()),
        f"  seconds: {item['seconds']:.1f}, and {item['seconds_before_the_steps']:.1f} before the first step",
    ]
    return "\n".join(lines)


def _pairs(args: Namespace, name: str) -> dict[str, Any] | None:
    """Open the pairs of one option by the names of their corpora; a file without a name goes by that of the file."""
    from ..resources.parallel import open_pairs

    if not hasattr(args, name):
        return None
    columns = tuple(args.pair_columns) if hasattr(args, "pair_columns") else None
    opened = {}
    for item in getattr(args, name):
        label, sign, path = item.partition("=")
        if not sign or Path(item).is_file():
            label, path = Path(item).name.split(".")[0], item
        if label in opened:
            raise InvalidOptionError(f"--{name} names the corpus '{label}' twice. Give each file a name: NAME=PATH.")
        opened[label] = open_pairs(path, columns=columns)
    return opened


COMMAND = Command(
    name="distill",
    summary="Refine the new rows of a saved extension, from text or from sentence pairs, and save it.",
    examples=(
        "hf-vocab-extend distill ./bert-sw ./bert-sw-distilled --parallel bible=bible.tsv --parallel news=news.tsv",
        "hf-vocab-extend distill ./llama-sw ./llama-sw-distilled --corpus swahili.txt --teacher ./llama",
    ),
    add_arguments=add_arguments,
    run=run,
)
