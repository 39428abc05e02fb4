"""``hf-vocab-extend learn``: the token table of a new language, learned on a mini-model and put into the full one."""

from __future__ import annotations

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InvalidOptionError, MissingResourceError
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
    errors_name_flags,
    given,
    load_model,
    load_tokenizer,
    method_config,
    option_adder,
)
from .config_file import add_config
from .pairs import add_lexical_options, add_parallel_options, lexical_resources, parallel_of
from .training import TRAINING_OPTIONS, add_training_options, kept_for_resuming, summary

LEARNING = "adaptation.mini_model.learning"
FLAGS = {
    "allow_moved=True takes": "--allow-moved takes",
    "pass allow_moved=True": "pass --allow-moved",
    "pass overwrite=True (--overwrite)": "give --overwrite",
    "give learn_embeddings the model and the tokenizer": "give learn the model and --tokenizer",
    "build_mini_model or MiniJointModel.cut gave": "hf-vocab-extend cut wrote",
    "Run learn_embeddings on": "Run hf-vocab-extend learn on",
    "learn_embeddings": "learn",
}
"""What errors of the Python functions say, and how the same is said here."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "mini", metavar="MINI", help="what cut wrote; or a full model; or what learn or extend wrote, to train it on"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the result's folder, new or empty")
    parser.add_argument(
        "--tokenizer",
        metavar="NEW",
        help="tokenizer of the new language: a name, a folder, tokenizer.json or .model; left out where MINI has a "
        "learned table already",
    )
    parser.add_argument("--source-tokenizer", metavar="NAME", help="that of MINI, if it does not lie beside it")
    add_into(parser, required=False)
    add_corpus_options(parser, required=False)
    add_method_options(option_adder(parser, LEARNING, "learn_embeddings"))
    add_parallel_options(parser, required=False)
    add_lexical_options(parser)
    add_training_options(parser, output="FOLDER", changed=(LEARNING, "DEFAULTS"))
    add_save_options(parser)
    add_trust_option(parser)


def add_into(parser: ArgumentParser, *, required: bool) -> None:
    """Add ``--into`` and ``--allow-moved``."""
    parser.add_argument(
        "--into",
        required=required,
        metavar="MODEL",
        help="the model that the mini-model was cut from, or a task model of it that was fine-tuned with its token "
        "table frozen: it is saved with the learned table",
    )
    parser.add_argument(
        "--allow-moved", action="store_true", help="put the table in even if the model's own moved since the cut"
    )


def run(args: Namespace) -> Answer:
    """Learn, transplant if asked, save; errors name flags.

    Raises:
        VocabExtendError: As the Python functions do.
    """
    with errors_name_flags(FLAGS):
        return _run(args)


def _run(args: Namespace) -> Answer:
    """Learn, transplant if asked, save."""
    add_config(args, add_arguments)
    if not hasattr(args, "corpus"):
        raise InvalidOptionError("There is no text to learn from. Give --corpus, or corpus in the config file.")
    if hasattr(args, "allow_moved") and not hasattr(args, "into"):
        raise InvalidOptionError("--allow-moved goes with --into. Give that too, or leave it out.")
    output = check_output(args.out, overwrite=getattr(args, "overwrite", False))
    method = method_config(getattr(args, "method", None), None, getattr(args, "assignments", []))
    begin = given(args, METHOD_OPTIONS) | {"parallel": parallel_of(args), **lexical_resources(args)}
    begin |= {} if method is None else {"method": method}
    corpus = corpus_of(args)
    assert corpus is not None

    from ..adaptation.mini_model.learning import DEFAULTS, learn_embeddings

    options = replace(DEFAULTS, **given(args, TRAINING_OPTIONS))
    start, new, own = _start(args)
    if hasattr(args, "into"):
        _check_into(args, start)
    with kept_for_resuming(args, output) as work, contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log
        learned = learn_embeddings(start, new, corpus, work, options, tokenizer=own, **begin)
        extension: Any = learned
        if hasattr(args, "into") and learned.run.is_main:
            extension = put_into(args, learned)
        extension.save_pretrained(output, **given(args, SAVE_OPTIONS))
    if not learned.run.is_main:
        sys.exit(0)  # the main process alone answers
    return _answer(args, learned, extension)


def _start(args: Namespace) -> tuple[Any, Any, Any]:
    """Return what to learn on, with the new tokenizer and its own; None and None for an extension, which has both.

    Raises:
        InvalidOptionError: If there is no tokenizer of the new language.
    """
    from ..adaptation.locate import locate_extension
    from ..adaptation.mini_model.joint import MiniJointModel

    trust = getattr(args, "trust_remote_code", False)
    own = load_tokenizer(getattr(args, "source_tokenizer", args.mini), trust_remote_code=trust)
    new = load_tokenizer(args.tokenizer, trust_remote_code=trust) if hasattr(args, "tokenizer") else None
    model = load_model(args.mini, trust_remote_code=trust)
    if isinstance(model, MiniJointModel):
        raise InvalidOptionError("The model has two heads. Cut its mini-model first: hf-vocab-extend cut.")
    if new is not None:
        return model, new, own
    try:
        return locate_extension(model, own, args.mini), None, None
    except MissingResourceError as error:
        raise InvalidOptionError(
            "There is no tokenizer of the new language, and MINI has no learned table to train on. Give --tokenizer."
        ) from error


def _check_into(args: Namespace, start: Any) -> None:
    """Raise before the training if the table would not fit; the model is not kept in memory meanwhile."""
    from ..adaptation.mini_model.transplanting import check_transplant

    model = load_model(args.into, trust_remote_code=getattr(args, "trust_remote_code", False))
    check_transplant(start, model, **given(args, ("allow_moved",)))


def put_into(args: Namespace, table: Any) -> Any:
    """Return the model of ``--into`` with a learned table, or one in a folder."""
    from ..adaptation.mini_model.task_building import set_padding
    from ..adaptation.mini_model.task_kinds import KINDS
    from ..adaptation.mini_model.transplanting import transplant_embeddings
    from ..auto_class import find_auto_class

    model = load_model(args.into, trust_remote_code=getattr(args, "trust_remote_code", False))
    extension = transplant_embeddings(table, model, **given(args, ("allow_moved",)))
    found = find_auto_class(model.config.model_type, type(model).__name__)
    if found is not None and found.name in {kind.auto_class for kind in KINDS.values()}:
        set_padding(model, extension.tokenizer)
    return extension


def _answer(args: Namespace, learned: Any, extension: Any) -> Answer:
    """Say what was learned, what that cost, and where it is."""
    saved = str(Path(args.out))
    report = getattr(extension, "report", None) or learned.extension.report
    data = {"output_dir": saved, "metrics": learned.run.metrics, "cost": learned.cost.to_dict()}
    if learned.measures:
        data["measures"] = {"start": learned.measures[0], "end": learned.measures[-1]}
    data["report"] = report.to_dict()
    what = f"{args.into} with the learned table" if hasattr(args, "into") else "the learned table"
    lines = [
        str(report),
        "",
        f"Training on {args.mini}",
        *summary(learned.run, learned.cost),
        "",
        f"Saved {what} to {saved}",
    ]
    return Answer(data, "\n".join(lines))


COMMAND = Command(
    name="learn",
    summary="Learn the token table of a new language on a mini-model, for the full model.",
    examples=(
        "hf-vocab-extend learn ./mini --tokenizer ./tokenizer-sw --corpus swahili.txt --out ./roberta-sw "
        "--into roberta-base",
        "hf-vocab-extend learn ./mini --tokenizer ./tokenizer-sw --corpus sw.txt --out ./table-sw "
        "--parallel english-swahili.tsv --steps 5000",
        "hf-vocab-extend learn ./mini --tokenizer ./tokenizer-sw --corpus sw.txt --out ./table-sw --mode extend "
        "--method focus --set dim=200",
        "hf-vocab-extend learn ./table-sw --corpus more.txt --out ./table-sw2 --bf16",
    ),
    add_arguments=add_arguments,
    run=run,
)
