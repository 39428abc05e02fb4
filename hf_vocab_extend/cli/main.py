"""``hf-vocab-extend``: data on standard output, everything else on standard error.

Exit codes: 0 done, 1 an error that is said in one line, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .. import __version__
from ..errors import VocabExtendError
from . import (
    align,
    card,
    cut,
    demo,
    distill,
    evaluate,
    extend,
    fertility,
    grow,
    learn,
    merge,
    methods,
    plan,
    push,
    train,
    transplant,
)
from .common import Answer, Command

COMMANDS: tuple[Command, ...] = (
    plan.COMMAND,
    extend.COMMAND,
    train.COMMAND,
    grow.COMMAND,
    merge.COMMAND,
    align.COMMAND,
    distill.COMMAND,
    cut.COMMAND,
    learn.COMMAND,
    transplant.COMMAND,
    evaluate.COMMAND,
    fertility.COMMAND,
    methods.COMMAND,
    card.COMMAND,
    push.COMMAND,
    demo.COMMAND,
)
EXIT_ERROR, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="hf-vocab-extend",
        description="Give a pretrained Hugging Face model a vocabulary for a new language.",
        epilog=_examples([command.examples[0] for command in COMMANDS]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    _add_common(parser)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        sub = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=_examples(command.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
        )
        command.add_arguments(sub)
        _add_common(sub)
        sub.set_defaults(run=command.run)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that stand before or after the command."""
    group = parser.add_argument_group("output")
    suppress = argparse.SUPPRESS
    group.add_argument("--format", choices=("text", "json"), default=suppress, help="of the answer (default: text)")
    group.add_argument("--verbose", action="store_true", default=suppress, help="say more on standard error")
    group.add_argument("--debug", action="store_true", default=suppress, help="show the traceback of an error")


def _examples(lines: Sequence[str]) -> str:
    """Return the examples for the end of a help text."""
    return "examples:\n" + "\n".join(f"  {line}" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; by default those of the process.

    Returns:
        The exit code.
    """
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed the help or what is wrong
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    debug = getattr(args, "debug", False)
    try:
        with _warnings_to_stderr(verbose=getattr(args, "verbose", False)):
            answer: Answer = args.run(args)
        _print(answer, getattr(args, "format", "text"))
    except KeyboardInterrupt as stop:
        print(str(stop) or "Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, for example `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except VocabExtendError as error:
        return _fail(str(error), args.command, debug)
    except Exception as error:
        return _fail(f"unexpected {type(error).__name__}: {error}", args.command, debug)
    return 0


def _print(answer: Answer, style: str) -> None:
    """Print an answer on standard output."""
    text = json.dumps(answer.data, indent=2, ensure_ascii=False) if style == "json" else answer.text
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def _fail(message: str, command: str, debug: bool) -> int:
    """Say what went wrong on standard error: the traceback if wanted, else one line and a hint."""
    if debug:
        traceback.print_exc()
    else:
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        print(f"hint: see hf-vocab-extend {command} --help; --debug shows the traceback", file=sys.stderr)
    return EXIT_ERROR


@contextmanager
def _warnings_to_stderr(*, verbose: bool) -> Iterator[None]:
    """Show warnings as one line each, without a line of source, and what the library logs; as before afterwards."""

    def show(message: Warning | str, *where: object, **more: object) -> None:
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)

    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s" if verbose else "warning: %(message)s"))
    library = logging.getLogger("hf_vocab_extend")
    level = library.level
    library.addHandler(handler)
    if verbose:
        library.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        library.removeHandler(handler)
        library.setLevel(level)


if __name__ == "__main__":
    sys.exit(main())
