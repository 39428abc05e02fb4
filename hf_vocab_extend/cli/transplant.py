"""``hf-vocab-extend transplant``: put a learned token table into the full model, or into a task model made of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from .common import (
    SAVE_OPTIONS,
    Answer,
    Command,
    add_save_options,
    add_trust_option,
    check_output,
    errors_name_flags,
    given,
)
from .learn import FLAGS, add_into, put_into


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("table", metavar="TABLE", help="what learn wrote: a folder or a name on the Hub")
    add_into(parser, required=True)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the result's folder, new or empty")
    add_save_options(parser)
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Load, transplant, save; errors name flags.

    Raises:
        VocabExtendError: As the Python functions do.
    """
    with errors_name_flags(FLAGS):
        output = check_output(args.out, overwrite=getattr(args, "overwrite", False))
        extension = put_into(args, args.table)
        extension.save_pretrained(output, **given(args, SAVE_OPTIONS))
    saved = str(Path(args.out))
    text = f"{extension.report}\n\nSaved to {saved}, with its card in {Path(saved) / 'README.md'}"
    return Answer({"output_dir": saved, "report": extension.report.to_dict()}, text)


COMMAND = Command(
    name="transplant",
    summary="Put a learned token table into the full model, or into a task model made of it.",
    examples=(
        "hf-vocab-extend transplant ./table-sw --into roberta-base --out ./roberta-sw",
        "hf-vocab-extend transplant ./table-sw --into ./classifier-en --out ./classifier-sw",
    ),
    add_arguments=add_arguments,
    run=run,
)
