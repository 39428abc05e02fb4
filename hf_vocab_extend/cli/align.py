"""``hf-vocab-extend align``: parallel text counted once, for trans-tokenization here or on another machine."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Answer, Command, add_trust_option, given, load_tokenizer, option_adder, table
from .pairs import COUNTS_SUFFIX, add_parallel_options, parallel_of

if TYPE_CHECKING:
    from ..resources.alignment.counts import UnitCounts
    from ..resources.alignment.units import Units

OPTIONS = ("unit", "processes", "use_cache")
ALIGNER_OPTIONS = ("aligner", "iterations", "device")
SHOWN_UNITS, SHOWN_TRANSLATIONS = 10, 3


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "tokenizer", metavar="TOKENIZER", help="of the model: a name, a folder, tokenizer.json, .model"
    )
    parser.add_argument("new_tokenizer", metavar="NEW_TOKENIZER", help="of the new language, likewise")
    parser.add_argument("output", metavar="OUTPUT", help=f"a new file, for example counts{COUNTS_SUFFIX}")
    add_parallel_options(parser, required=False)
    parser.add_argument(
        "--add", action="append", metavar="FILE", help="counts made before, to be added up; may be repeated"
    )
    add = option_adder(parser, "resources.alignment.run", "align_pairs")
    add("--unit", "what is aligned", choices=("word", "token"))
    add("--processes", "shards of the text that are aligned side by side", type=int, metavar="N")
    add("--no-cache", "neither look the counts up nor keep them", action="store_false", dest="use_cache")
    parser.add_argument("--aligner", metavar="NAME", help="hmm (default), ibm1, or eflomal if it is installed")
    parser.add_argument("--iterations", type=int, metavar="N", help="rounds of the aligner (default: its own)")
    parser.add_argument("--device", metavar="NAME", help="where to compute, for example cuda (default: cpu)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Count, add up, save."""
    from ..errors import MissingResourceError

    output = _check_output(args.output, getattr(args, "overwrite", False))
    pairs, more = parallel_of(args), getattr(args, "add", [])
    if pairs is None and not more:
        raise MissingResourceError("There is nothing to count. Give --parallel, or --add with counts made before.")

    from ..resources.alignment.counts import UnitCounts
    from ..resources.alignment.links import AlignerOptions
    from ..resources.alignment.run import read_counts

    trust = getattr(args, "trust_remote_code", False)
    source = load_tokenizer(args.tokenizer, trust_remote_code=trust)
    target = load_tokenizer(args.new_tokenizer, trust_remote_code=trust)
    parts = [UnitCounts.load(path) for path in more]
    for part in parts:
        part.check_tokenizers(source, target)
    if pairs is not None:
        options = AlignerOptions(**given(args, ALIGNER_OPTIONS))
        parts.append(read_counts(pairs, source, target, options, **given(args, OPTIONS)))
    counts = parts[0]
    for part in parts[1:]:
        counts = counts + part
    counts.save(output)
    data = _describe(counts, source, target) | {"output": str(Path(args.output))}
    return Answer(data, _text(data))


def _check_output(name: str, overwrite: bool) -> Path:
    """Return the path of the file to be written.

    Raises:
        OutputFolderError: If it is there already, or has no folder, or another suffix than counts have.
    """
    from ..errors import OutputFolderError

    path = Path(name)
    if path.suffix != COUNTS_SUFFIX:
        raise OutputFolderError(f"'{name}' does not end in {COUNTS_SUFFIX}, as files of counts do. Name it so.")
    if path.exists() and not (overwrite and path.is_file()):
        raise OutputFolderError(f"'{name}' is there already. Name another file, or give --overwrite.")
    if not path.resolve().parent.is_dir():
        raise OutputFolderError(f"The folder of '{name}' does not exist. Make it first.")
    return path


def _describe(counts: UnitCounts, source: Any, target: Any) -> dict[str, Any]:
    """Return what was counted: sizes, and the translations of some frequent target words."""
    return {
        "pairs": counts.n_pairs,
        "source_units": len(counts.source),
        "target_units": len(counts.target),
        "links": len(counts.source_index),
        "info": counts.info,
        "examples": _examples(counts, source, target),
    }


def _examples(counts: UnitCounts, source: Any, target: Any) -> list[dict[str, Any]]:
    """Return the most frequent target words, each with its best translations and their shares."""
    import numpy as np

    amounts = counts.counts
    order = np.lexsort((-amounts, counts.target_index))
    starts = np.searchsorted(counts.target_index[order], np.arange(len(counts.target) + 1))
    examples: list[dict[str, Any]] = []
    for unit in np.argsort(-counts.target.frequency, kind="stable").tolist():
        text, links = _text_of(counts.target, unit, target), order[starts[unit] : starts[unit + 1]]
        if not text.isalpha() or not len(links):
            continue
        shares = amounts[links] / amounts[links].sum()
        best = [
            {"source": _text_of(counts.source, int(counts.source_index[link]), source), "share": float(share)}
            for link, share in zip(links[:SHOWN_TRANSLATIONS], shares[:SHOWN_TRANSLATIONS], strict=True)
        ]
        examples.append({"target": text, "translations": best})
        if len(examples) == SHOWN_UNITS:
            break
    return examples


def _text_of(units: Units, unit: int, tokenizer: Any) -> str:
    """Return the text of a unit."""
    pieces = units.pieces[units.offsets[unit] : units.offsets[unit + 1]]
    return tokenizer.decode(pieces.tolist()).strip()


def _text(data: dict[str, Any]) -> str:
    """Return the sizes and the examples."""
    sizes = [
        (name.replace("_", " "), f"{data[name]:,}") for name in ("pairs", "source_units", "target_units", "links")
    ]
    lines = [table(sizes), ""]
    for example in data["examples"]:
        shown = ", ".join(f"{found['source']} {found['share']:.2f}" for found in example["translations"])
        lines.append(f"{example['target']}: {shown}")
    return "\n".join([*lines, "", f"Saved to {data['output']}; give it to hf-vocab-extend extend as --parallel."])


COMMAND = Command(
    name="align",
    summary="Count in parallel text which words translate each other, for trans-tokenization.",
    examples=(
        "hf-vocab-extend align bert-base-uncased ./tokenizer-sw counts.safetensors --parallel english-swahili.tsv",
        "hf-vocab-extend align ./model ./tokenizer-sw counts.safetensors --parallel text.en --parallel-target text.sw",
        "hf-vocab-extend align ./model ./tokenizer-sw all.safetensors --add part1.safetensors --add part2.safetensors",
    ),
    add_arguments=add_arguments,
    run=run,
)
