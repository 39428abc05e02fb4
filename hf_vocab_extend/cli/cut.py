"""``hf-vocab-extend cut``: a mini-model of a finished model, or of one that was trained with two heads."""

from __future__ import annotations

import contextlib
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import InvalidOptionError
from .common import (
    Answer,
    Command,
    add_corpus_options,
    add_trust_option,
    check_output,
    corpus_of,
    errors_name_flags,
    given,
    load_model,
    load_tokenizer,
    option_adder,
)
from .config_file import add_config
from .training import TRAINING_OPTIONS, add_training_options, kept_for_resuming, summary

LEARNING = "adaptation.mini_model.learning"
JOINT = "mini_joint"
"""``model_type`` of a model with two heads."""
LAYERS = ("num_layers", "new_layers")
GIVEN = ("corpus", "imitate", *LAYERS, *TRAINING_OPTIONS)
"""What has no meaning where nothing is trained."""
FLAGS = {
    "num_layers": "--layers",
    "new_layers": "--new-layers",
    "pass overwrite=True (--overwrite)": "give --overwrite",
}
"""What errors of the Python functions say, and how the same is said here."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", metavar="MODEL", help="a language model: a name on the Hub or a folder")
    parser.add_argument("--out", required=True, metavar="MINI", help="the mini-model's folder, new or empty")
    build = option_adder(parser, "adaptation.mini_model.building", "build_mini_model")
    build("--layers", "bottom layers to share with the model", type=int, metavar="N", dest="num_layers")
    build("--new-layers", "layers to put over them and to train", type=int, metavar="N")
    add_corpus_options(parser, required=False, language="the model's language")
    add = add_training_options(parser, output="MINI", changed=(LEARNING, "DEFAULTS"))
    add("--eval-corpus", "text to measure on, like --corpus; by default lines are held out", metavar="PATH")
    add("--tokenizer", "the model's own tokenizer, if it does not lie beside the model", metavar="NAME")
    add(
        "--no-imitation",
        "train the new layers to predict the text, not to give what the full model gives",
        action="store_false",
        dest="imitate",
    )
    add("--overwrite", "write into a folder that is not empty", action="store_true")
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Cut, train, save; errors name flags.

    Raises:
        VocabExtendError: As the Python functions do.
    """
    with errors_name_flags(FLAGS):
        add_config(args, add_arguments)
        output = check_output(args.out, overwrite=getattr(args, "overwrite", False))
        return _cut_joint(args, output) if _is_joint(args) else _cut_and_train(args, output)


def _is_joint(args: Namespace) -> bool:
    """Whether the model was trained with two heads, by its config alone; what cannot be read is said later."""
    from transformers import AutoConfig

    trust = getattr(args, "trust_remote_code", False)
    try:
        return AutoConfig.from_pretrained(args.model, trust_remote_code=trust).model_type == JOINT
    except (OSError, ValueError, ImportError):
        return False


def _cut_and_train(args: Namespace, output: Path) -> Answer:
    """Put new layers over the bottom of a finished model and train them."""
    if not hasattr(args, "corpus"):
        raise InvalidOptionError(
            "There is no text to train the new layers on. Give --corpus in the language of the model, or corpus in "
            "the config file."
        )
    from ..adaptation.mini_model.building import build_mini_model
    from ..adaptation.mini_model.learning import DEFAULTS
    from ..adaptation.mini_model.post_training import train_mini_model
    from ..adaptation.objectives import choose_objective

    options = replace(DEFAULTS, **given(args, TRAINING_OPTIONS))
    texts, corpus = _texts(args), corpus_of(args)
    assert corpus is not None
    tokenizer, model = _load(args)
    choose_objective(model, options.objective)  # else it is cut with a warning, and refused by the training
    mini = build_mini_model(model, **given(args, LAYERS), seed=options.seed)
    with kept_for_resuming(args, output) as work, contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log
        trained = train_mini_model(
            mini, corpus, work, options, model=model, tokenizer=tokenizer, texts=texts, **given(args, ("imitate",))
        )
        trained.save_pretrained(output, **given(args, ("overwrite",)))
    if not trained.run.is_main:
        sys.exit(0)  # the main process alone answers
    data = {"metrics": trained.run.metrics, "cost": trained.cost.to_dict(), "alignments": trained.alignments}
    imitated = getattr(args, "imitate", True)  # the model is at hand
    return _answer(args, mini, trained.alignment, data, summary(trained.run, trained.cost, imitated=imitated))


def _cut_joint(args: Namespace, output: Path) -> Answer:
    """Cut at the second head, where nothing is left to train."""
    flags = {"num_layers": "layers", "pack": "no-packing", "imitate": "no-imitation"}
    useless = [flags.get(name, name).replace("_", "-") for name in given(args, GIVEN)]
    if useless:
        raise InvalidOptionError(
            f"The model was trained with two heads, so its mini-model is cut as it is, and "
            f"--{', --'.join(useless)} has no meaning here. Leave it out; --eval-corpus measures the mini-model."
        )
    from ..adaptation.mini_model.alignment import check_alignment
    from ..saving import save_model

    texts = _texts(args)
    tokenizer, joint = _load(args)
    mini = joint.cut()
    alignment = None if texts is None else check_alignment(mini, joint.primary, tokenizer, texts)
    with contextlib.redirect_stdout(sys.stderr):
        save_model(mini, tokenizer, output, **given(args, ("overwrite",)))
    return _answer(args, mini, alignment, {}, [])


def _load(args: Namespace) -> Any:
    """Load tokenizer and model."""
    trust = getattr(args, "trust_remote_code", False)
    tokenizer = load_tokenizer(getattr(args, "tokenizer", args.model), trust_remote_code=trust)
    return tokenizer, load_model(args.model, trust_remote_code=trust)


def _texts(args: Namespace) -> list[str] | None:
    """Return the documents to measure on, if they were named."""
    from ..resources.corpus import open_corpus

    if not hasattr(args, "eval_corpus"):
        return None
    return list(open_corpus(args.eval_corpus, text_column=getattr(args, "text_column", None)))


def _answer(args: Namespace, mini: Any, alignment: Any, data: dict[str, Any], lines: list[str]) -> Answer:
    """Say what was cut, how well it predicts the source language, and what that cost."""
    from ..adaptation.mini_model.record import read_record

    record = read_record(mini)
    assert record is not None
    saved = str(Path(args.out))
    data = {"output_dir": saved, "kind": record.kind, "bottom_layers": record.bottom_layers} | data
    data |= {"new_layers": record.new_layers, "alignment": None if alignment is None else alignment.to_dict()}
    head = [f"layers: {record.bottom_layers} of the full model, {record.new_layers} new"]
    if alignment is not None:
        full, own = alignment.full.bits_per_byte, alignment.mini.bits_per_byte
        lines = [*lines, f"bits per byte of source text: {own:.4f} with the mini-model, {full:.4f} with the full one"]
    return Answer(data, "\n".join([*head, *lines, "", f"Saved to {saved}"]))


COMMAND = Command(
    name="cut",
    summary="Cut a mini-model from a model and train its new layers on text in the model's language.",
    examples=(
        "hf-vocab-extend cut roberta-base --corpus english.txt --out ./mini --steps 20000",
        "hf-vocab-extend cut ./llama --corpus english.txt --out ./mini --layers 8 --new-layers 2 --tokens 2e8 --bf16",
        "hf-vocab-extend cut ./two-heads --out ./mini --eval-corpus english-test.txt",
    ),
    add_arguments=add_arguments,
    run=run,
)
