"""``hf-vocab-extend extend``: the whole job on a saved model, from two names to a folder with a card."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from ..errors import InvalidOptionError
from .common import (
    METHOD_OPTIONS,
    SAVE_OPTIONS,
    Answer,
    Command,
    add_corpus_options,
    add_method_options,
    add_save_options,
    add_trust_option,
    check_output,
    corpus_of,
    given,
    load_model,
    load_tokenizer,
    method_config,
    option_adder,
    read_options,
)
from .pairs import add_lexical_options, add_parallel_options, lexical_resources, parallel_of

CALL_OPTIONS = (*METHOD_OPTIONS, "factorize", "pad_to_multiple_of", "seed", "device")
FOLDER_OPTIONS = (*SAVE_OPTIONS, "factorized")


def rank_or_share(text: str) -> int | float:
    """Read a whole number as a rank, and another as a share."""
    try:
        return int(text) if text.strip().lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is neither a whole rank nor a share below 1") from None


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", metavar="MODEL", help="a name on the Hub or a folder")
    parser.add_argument("new_tokenizer", metavar="NEW_TOKENIZER", help="a name, a folder, tokenizer.json or .model")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="a new or empty folder")
    add_corpus_options(parser, required=False)
    add_parallel_options(parser, required=False)
    add_lexical_options(parser)
    add = option_adder(parser, "extend", "extend_vocabulary")
    add("--tokenizer", "the model's own tokenizer, if it does not lie beside the model", metavar="NAME")
    add_method_options(add)
    add("--config", 'JSON file with options of the method, and perhaps its name as "method"', metavar="FILE")
    add("--sources", 'JSON file that names sources of single tokens: {"token": "text"}', metavar="FILE")
    add(
        "--factorize",
        "keep the tables as products of this rank, or of the rank that keeps this share, if below 1",
        type=rank_or_share,
        metavar="R",
    )
    add("--pad-to-multiple-of", "round the number of rows up", type=int, metavar="N")
    add("--seed", "seed of all randomness", type=int, metavar="N")
    add("--device", "where heavy arithmetic runs, for example cuda", metavar="NAME")
    save = add_save_options(parser)
    save("--factorized", "write the two matrices of --factorize instead of their product", action="store_true")
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Load, extend, save."""
    if hasattr(args, "factorized") and not hasattr(args, "factorize"):
        raise InvalidOptionError(
            "--factorized asks for two matrices, and the tables are dense. Give --factorize R, too."
        )
    output = check_output(args.output_dir, overwrite=getattr(args, "overwrite", False))
    method = method_config(
        getattr(args, "method", None), getattr(args, "config", None), getattr(args, "assignments", [])
    )
    options = given(args, CALL_OPTIONS)
    if method is not None:
        options["method"] = method
    if hasattr(args, "sources"):
        options["sources"] = read_options(args.sources)
    corpus = corpus_of(args)
    options |= {"parallel": parallel_of(args), **lexical_resources(args)}

    from ..extend import extend_vocabulary
    from ..side_files import side_files

    trust = getattr(args, "trust_remote_code", False)
    tokenizer = load_tokenizer(getattr(args, "tokenizer", args.model), trust_remote_code=trust)
    new_tokenizer = load_tokenizer(args.new_tokenizer, trust_remote_code=trust)
    model = load_model(args.model, trust_remote_code=trust)
    extension = extend_vocabulary(model, new_tokenizer, tokenizer=tokenizer, corpus=corpus, **options)
    extension.save_pretrained(output, extra_files=side_files(args.model), **given(args, FOLDER_OPTIONS))
    saved = str(Path(args.output_dir))
    text = f"{extension.report}\n\nSaved to {saved}, with its card in {Path(saved) / 'README.md'}"
    return Answer({"output_dir": saved, "report": extension.report.to_dict()}, text)


COMMAND = Command(
    name="extend",
    summary="Give a model the vocabulary of a new tokenizer and save it.",
    examples=(
        "hf-vocab-extend extend bert-base-uncased ./tokenizer-sw ./bert-sw --corpus swahili.txt --language sw",
        "hf-vocab-extend extend ./model ./tokenizer-sw ./out --parallel english-swahili.tsv --language sw",
        "hf-vocab-extend extend ./model ./tokenizer-sw ./out --method focus --corpus sw.jsonl.gz --set dim=200",
        "hf-vocab-extend extend ./model ./tokenizer-sw ./out --parallel pairs.tsv --factorize 128 --factorized",
        "hf-vocab-extend extend ./model ./swahili.model ./out --mode replace --method subword --format json",
    ),
    add_arguments=add_arguments,
    run=run,
)
