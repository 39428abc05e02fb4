"""``hf-vocab-extend plan``: what an extension would copy and would have to find, at no cost."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from .common import Answer, Command, add_trust_option, given, load_tokenizer, option_adder, table


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", metavar="MODEL_OR_TOKENIZER", help="a name on the Hub, a folder or a file")
    parser.add_argument("new_tokenizer", metavar="NEW_TOKENIZER", help="likewise; sentencepiece .model files work too")
    add = option_adder(parser, "plan", "build_plan")
    add(
        "--mode",
        "extend keeps every source id and row; replace takes the new tokenizer",
        choices=("extend", "replace"),
    )
    add("--fuzzy", "match also tokens that differ in case or word start", action="store_true")
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Build the plan and show it."""
    from ..plan import build_plan
    from ..prepare import find_target_tokenizer

    trust = getattr(args, "trust_remote_code", False)
    source = load_tokenizer(args.source, trust_remote_code=trust)
    new = load_tokenizer(args.new_tokenizer, trust_remote_code=trust)
    target = find_target_tokenizer(source, new, getattr(args, "mode", "extend"))
    merged = target is not new
    summary = build_plan(source, target, **given(args, ("mode", "fuzzy"))).summary()
    summary["merged"] = merged
    return Answer(summary, _text(summary))


def _text(summary: dict[str, Any]) -> str:
    """Return the plan as a table."""
    rows: list[tuple[str, ...]] = [("", "family", "ids", "tokens", "unused", "holes")]
    for side in ("source", "target"):
        sizes = summary[side]
        rows.append((side, sizes["family"], *(f"{sizes[name]:,}" for name in ("ids", "tokens", "unused", "holes"))))
    kinds: list[tuple[str, ...]] = [("target ids", "examples", "count", "share")]
    for name, kind in summary["kinds"].items():
        examples = ", ".join(repr(target) for target, _ in kind["examples"][:4] if target is not None)
        kinds.append((name, examples, f"{kind['count']:,}", f"{kind['share']:.1%}"))
    head = f"mode {summary['mode']}" + (", the new tokenizer merged into the source" if summary["merged"] else "")
    return "\n\n".join([head, table(rows, left=2), table(kinds, left=2)])


COMMAND = Command(
    name="plan",
    summary="Show which tokens of a new tokenizer a model already has, and which need new rows.",
    examples=(
        "hf-vocab-extend plan bert-base-uncased ./tokenizer-sw",
        "hf-vocab-extend plan ./model ./swahili.model --mode replace --format json",
    ),
    add_arguments=add_arguments,
    run=run,
)
