"""``hf-vocab-extend train``: continued pretraining on plain text, from a folder to a folder.

On several devices: ``accelerate launch -m hf_vocab_extend.cli.main train ...``, or ``torchrun --nproc-per-node 8 -m
hf_vocab_extend.cli.main train ...``; the main process alone writes and answers.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ..errors import InvalidOptionError
from .common import (
    Answer,
    Command,
    add_corpus_options,
    add_trust_option,
    check_output,
    first_line,
    given,
    load_model,
    load_tokenizer,
)
from .config_file import add_config
from .training import TRAINING_OPTIONS, add_training_options, summary, work_folder

OPTIONS = (*TRAINING_OPTIONS, "replay_share", "lora", "lora_tables")
SAVE_OPTIONS = ("overwrite", "language", "license")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", metavar="MODEL", help="a folder that extend wrote, or any model")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="a new or empty folder")
    add_corpus_options(parser, required=False)
    add = add_training_options(parser, output="OUTPUT_DIR")
    add("--replay", "text in the source language to mix in, like --corpus", metavar="PATH")
    add("--replay-share", "share of bytes of that text", type=float, metavar="S")
    add("--eval-corpus", "text to measure on, like --corpus; by default lines are held out", metavar="PATH")
    add("--stages", "a preset by name, or stages as JSON", metavar="NAME")
    add("--lora", "train LoRA of this rank on the body; it is merged at the end", type=int, metavar="R")
    add("--lora-tables", "what of the tables trains beside it", choices=("new_rows", "full", "none"))
    add("--overwrite", "write into a folder that is not empty", action="store_true")
    add("--language", "language code for the card; may be repeated", action="append", metavar="CODE")
    add("--license", "licence for the card (default: what the base model states)", metavar="ID")
    add("--push-to-hub", "push the trained model there, too", metavar="NAME")
    add_trust_option(parser)


def run(args: Namespace) -> Answer:
    """Train and save."""
    _add_config(args)
    if not hasattr(args, "corpus"):
        raise InvalidOptionError("There is no text to train on. Give --corpus, or corpus in the config file.")

    from ..adaptation.training import train_language_model
    from ..adaptation.training_options import TrainingOptions
    from ..resources.corpus import open_corpus

    column = getattr(args, "text_column", None)
    options = TrainingOptions(**given(args, OPTIONS), stages=_stages(getattr(args, "stages", None)))
    output = check_output(args.output_dir, overwrite=getattr(args, "overwrite", False))
    work = work_folder(args, output)
    if hasattr(args, "push_to_hub"):
        from ..hub.push import check_repo_id

        check_repo_id(args.push_to_hub)
    corpora = {
        name: open_corpus(getattr(args, name), text_column=column)
        for name in ("corpus", "replay", "eval_corpus")
        if hasattr(args, name)
    }
    trust = getattr(args, "trust_remote_code", False)
    tokenizer = load_tokenizer(args.model, trust_remote_code=trust)
    model = load_model(args.model, trust_remote_code=trust)
    with contextlib.redirect_stdout(sys.stderr):  # the Trainer prints its log
        trained = train_language_model(
            model,
            corpora["corpus"],
            work,
            options,
            tokenizer=tokenizer,
            replay=corpora.get("replay"),
            evaluation=corpora.get("eval_corpus"),
        )
        save = given(args, SAVE_OPTIONS)
        if trained.extension is None:
            save = given(args, ("overwrite",))
        trained.save_pretrained(output, **save)
    if not trained.is_main:
        sys.exit(0)  # the main process alone answers
    return _answer(args, trained, work)


def _answer(args: Namespace, trained: Any, work: Path) -> Answer:
    """Push if asked, clean up, and say what was done."""
    saved = str(Path(args.output_dir))
    data: dict[str, Any] = {"output_dir": saved, "metrics": trained.metrics}
    lines = summary(trained)
    if trained.measures:
        data["measures"] = {"start": trained.measures[0], "end": trained.measures[-1]}
    if trained.extension is not None:
        data["report"] = trained.extension.report.to_dict()
    if hasattr(args, "push_to_hub"):
        from ..hub.push import push_folder

        data["url"] = push_folder(saved, args.push_to_hub).commit_url
        lines.append(f"Pushed: {data['url']}")
    if not hasattr(args, "work_folder"):
        shutil.rmtree(work, ignore_errors=True)
    return Answer(data, "\n".join([*lines, "", f"Saved to {saved}"]))


def _stages(text: str | None) -> Any:
    """Read a preset's name or stages as JSON."""
    if text is None or text.lstrip()[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidOptionError(
            f"--stages is no JSON ({first_line(error)}). Give a preset's name or JSON."
        ) from error


def _add_config(args: Namespace) -> None:
    """Add the options of the config file that the command line does not have."""
    add_config(args, add_arguments)


COMMAND = Command(
    name="train",
    summary="Train an extended model further on plain text and save it; runs under accelerate launch, too.",
    examples=(
        "hf-vocab-extend train ./bert-sw ./bert-sw-trained --corpus swahili.txt --epochs 3",
        "hf-vocab-extend train ./out ./trained --corpus sw.jsonl.gz --replay english.txt --stages embeddings_first",
        "hf-vocab-extend train ./out ./trained --config train.yaml --seed 1 --push-to-hub user/model-sw",
        "hf-vocab-extend train ./out ./trained --corpus sw.txt --lora 16 --bf16 --logger tensorboard",
        "hf-vocab-extend train ./out ./trained --corpus owner/dataset:sw@train --streaming --tokens 2e9 --resume",
    ),
    add_arguments=add_arguments,
    run=run,
)
