"""``hf-vocab-extend train``: continued pretraining on plain text, from a folder to a folder.

On several devices: ``accelerate launch -m hf_vocab_extend.cli.main train ...``, or ``torchrun --nproc-per-node 8 -m
hf_vocab_extend.cli.main train ...``; the main process alone writes and answers.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import InvalidOptionError, OutputFolderError
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
    option_adder,
)

OPTIONS = (
    "objective",
    "block_size",
    "pack",
    "documents_apart",
    "streaming",
    "shuffle_buffer",
    "replay_share",
    "held_out",
    "steps",
    "epochs",
    "tokens",
    "learning_rate",
    "warmup",
    "weight_decay",
    "batch_size",
    "gradient_accumulation",
    "bf16",
    "gradient_checkpointing",
    "evaluations",
    "lora",
    "lora_tables",
    "resume",
    "seed",
    "logger",
)
SAVE_OPTIONS = ("overwrite", "language", "license")
NOT_IN_FILE = ("model", "output_dir", "config", "run", "command", "format", "verbose", "debug")


def _number(text: str) -> int:
    """Read a whole number, also as 2e9."""
    value = float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("model", metavar="MODEL", help="a folder that extend wrote, or any model")
    parser.add_argument("output_dir", metavar="OUTPUT_DIR", help="a new or empty folder")
    add_corpus_options(parser, required=False)
    add = option_adder(parser, "adaptation.training_options", "TrainingOptions")
    add("--replay", "text in the source language to mix in, like --corpus", metavar="PATH")
    add("--replay-share", "share of bytes of that text", type=float, metavar="S")
    add("--eval-corpus", "text to measure on, like --corpus; by default lines are held out", metavar="PATH")
    add("--held-out", "lines held out of each corpus to measure on", type=int, metavar="N")
    add("--config", "options in a YAML, TOML or JSON file; those of the command line win", metavar="FILE")
    add("--stages", "a preset by name, or stages as JSON", metavar="NAME")
    add("--objective", "what is predicted", choices=("auto", "causal", "masked", "span"))
    add("--block-size", "tokens in an example (default: 512, or what the model reads)", type=int, metavar="N")
    add("--no-packing", "one document to an example", action="store_false", dest="pack")
    add("--documents-apart", "keep attention inside documents (causal models)", action="store_true")
    add("--streaming", "read while training; needs --steps or --tokens", action="store_true")
    add("--shuffle-buffer", "examples to shuffle among when streaming", type=int, metavar="N")
    add("--steps", "optimizer steps", type=int, metavar="N")
    add("--epochs", "passes over the text (default: 1)", type=float, metavar="N")
    add("--tokens", "tokens to train on, for example 2e9", type=_number, metavar="N")
    add("--learning-rate", "highest learning rate", type=float, metavar="R")
    add("--warmup", "share of the steps over which it rises", type=float, metavar="S")
    add("--weight-decay", "weight decay of AdamW", type=float, metavar="W")
    add("--batch-size", "examples on a device at once", type=int, metavar="N")
    add("--gradient-accumulation", "batches to an optimizer step", type=int, metavar="N")
    add("--bf16", "compute in bfloat16", action="store_true")
    add("--gradient-checkpointing", "compute activations again to save memory", action="store_true")
    add("--evaluations", "how often to measure and to save a checkpoint", type=int, metavar="N")
    add("--lora", "train LoRA of this rank on the body; it is merged at the end", type=int, metavar="R")
    add("--lora-tables", "what of the tables trains beside it", choices=("new_rows", "full", "none"))
    add("--seed", "seed of all randomness", type=int, metavar="N")
    add("--logger", "where to log", choices=("none", "tensorboard", "wandb"))
    add("--work-folder", "where checkpoints go (default: OUTPUT_DIR.work, removed at the end)", metavar="DIR")
    add("--resume", "go on from the last checkpoint in the work folder", action="store_true")
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
    work = _work_folder(args, output)
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


def _work_folder(args: Namespace, output: Path) -> Path:
    """Return where checkpoints go. The default folder is removed at the end, so nothing else may lie there.

    Raises:
        OutputFolderError: If something else does.
    """
    if hasattr(args, "work_folder"):
        return Path(args.work_folder)
    work = Path(f"{output}.work")
    if work.is_dir() and any(work.iterdir()) and not any(work.glob("checkpoint-*")):
        raise OutputFolderError(
            f"'{work.name}' holds files and no checkpoint, and this folder is removed when the training is over. Move "
            "them away, or say with --work-folder where checkpoints go."
        )
    return work


def _answer(args: Namespace, trained: Any, work: Path) -> Answer:
    """Push if asked, clean up, and say what was done."""
    saved = str(Path(args.output_dir))
    data: dict[str, Any] = {"output_dir": saved, "metrics": trained.metrics}
    lines = _summary(trained)
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


def _summary(trained: Any) -> list[str]:
    """Return what a reader wants to know of a training: steps, tokens, seconds, losses, and bits per byte by text."""
    metrics = trained.metrics
    first, last = (trained.measures[0], trained.measures[-1]) if trained.measures else ({}, {})
    shown = (
        ("steps", trained.steps, ",d"),
        ("tokens", last.get("trained_tokens"), ",d"),
        ("seconds", last.get("seconds", metrics.get("train_runtime")), ",.1f"),
        ("loss in training", metrics.get("train_loss"), ".4f"),
        ("loss on held-out text", metrics.get("eval_loss"), ".4f"),
    )
    lines = [f"{label}: {value:{form}}" for label, value, form in shown if value is not None]
    prefix = "bits per byte "
    for name in last:
        label = name.replace("_", " ")
        if label.startswith(prefix) and name in first:
            lines.append(f"bits per byte of {label.removeprefix(prefix)}: {first[name]:.4f} -> {last[name]:.4f}")
    return lines


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
    """Add the options of the config file that the command line does not have.

    Raises:
        InvalidOptionError: If the file cannot be read, or a key or value is no option.
    """
    if not hasattr(args, "config"):
        return
    parser = _ConfigParser(argument_default=SUPPRESS, add_help=False, allow_abbrev=False)
    add_arguments(parser)
    actions = {flag[2:]: action for action in parser._actions for flag in action.option_strings}
    known = {name: action for name, action in actions.items() if action.dest not in NOT_IN_FILE}
    tokens = ["model", "output"]
    for key, value in read_config(args.config).items():
        name = str(key).replace("_", "-")
        if name not in known:
            raise InvalidOptionError(
                f"'{args.config}' has the key '{key}', which is no option. Known: {', '.join(sorted(known))}."
            )
        tokens += _as_arguments(name, value, flag=known[name].nargs == 0)
    for name, value in vars(parser.parse_args(tokens)).items():
        if name not in NOT_IN_FILE and not hasattr(args, name):
            setattr(args, name, value)


class _ConfigParser(ArgumentParser):
    """A parser that says what is wrong as our own error."""

    def error(self, message: str) -> Any:
        """Raise."""
        raise InvalidOptionError(f"The config file is wrong: {message}.")


def _as_arguments(name: str, value: Any, *, flag: bool) -> list[str]:
    """Return an option of a config file as arguments of a command line."""
    if flag:
        if not isinstance(value, bool):
            raise InvalidOptionError(f"The config file has {name}: {value!r}. It is true or false.")
        return [f"--{name}"] if value else []
    if isinstance(value, dict) or (isinstance(value, list) and name == "stages"):
        return [f"--{name}={json.dumps(value)}"]
    values = value if isinstance(value, list) else [value]
    return [f"--{name}={item}" for item in values]


def read_config(file: str) -> dict[str, Any]:
    """Read a YAML, TOML or JSON file that holds one mapping.

    Raises:
        InvalidOptionError: If it cannot be read as such.
    """
    import tomllib

    import yaml

    readers: dict[str, Callable[[str], Any]] = {
        ".json": json.loads,
        ".toml": tomllib.loads,
        ".yaml": yaml.safe_load,
        ".yml": yaml.safe_load,
    }
    reader = readers.get(Path(file).suffix.lower())
    if reader is None:
        raise InvalidOptionError(f"'{file}' is no .yaml, .toml or .json file. Give one of these.")
    try:
        data = reader(Path(file).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidOptionError(f"'{file}' cannot be read ({first_line(error)}).") from error
    if not isinstance(data, dict):
        raise InvalidOptionError(f"'{file}' holds a {type(data).__name__}, not options by name.")
    return data


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
