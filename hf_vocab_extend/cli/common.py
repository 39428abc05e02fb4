"""What the commands share: their description, loading by name, defaults shown in help. Nothing heavy at import."""

from __future__ import annotations

import ast
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..methods.base import MethodConfig
    from ..resources.corpus import Corpus

METHOD_OPTIONS = ("mode", "fallback", "languages")
SAVE_OPTIONS = ("max_shard_size", "overwrite", "verify", "license")


@dataclass(frozen=True)
class Answer:
    """What a command has found: plain data for ``--format json``, and the same as text."""

    data: Any
    text: str


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        name: How it is called.
        summary: One line for the list of commands.
        examples: Lines that can be run as they are, the names of files aside.
        add_arguments: Adds its arguments to its parser. Options have no default there: one that is not given is not
            passed on, so that the default is the one of the Python function.
        run: Does the work; imports what is heavy only then.
    """

    name: str
    summary: str
    examples: tuple[str, ...]
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], Answer]


@cache
def python_defaults(module: str, function: str) -> dict[str, Any]:
    """Return the literal defaults of a function's or dataclass' parameters, read from the source without an import.

    Args:
        module: Module inside this package, for example ``"extend"``.
        function: Name of a function or dataclass there, or of a constant that a call makes: then what it passes.
    """
    source = Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".py")
    if not source.is_file():
        return {}
    tree = ast.parse(source.read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == function:
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            return {
                item.target.id: ast.literal_eval(item.value)
                for item in fields
                if isinstance(item.target, ast.Name) and isinstance(item.value, ast.Constant)
            }
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if [target.id for target in node.targets if isinstance(target, ast.Name)] == [function]:
                return {item.arg: ast.literal_eval(item.value) for item in node.value.keywords if item.arg}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function]
    if not nodes:
        return {}
    found = nodes[-1].args  # the implementation follows its overloads
    positional = [*found.posonlyargs, *found.args]
    pairs: list[tuple[ast.arg, ast.expr | None]] = [
        *zip(positional[len(positional) - len(found.defaults) :], found.defaults, strict=True),
        *zip(found.kwonlyargs, found.kw_defaults, strict=True),
    ]
    return {name.arg: ast.literal_eval(value) for name, value in pairs if isinstance(value, ast.Constant)}


def option_adder(
    parser: ArgumentParser, module: str, function: str, changed: tuple[str, str] | None = None
) -> Callable[..., None]:
    """Return ``add(flag, help, **options)``, which adds an option and shows the default of the Python function.

    Args:
        parser: Where to add.
        module: Module of the function that the options go to.
        function: Its name.
        changed: Module and name of a constant whose values come before these defaults.
    """
    defaults = python_defaults(module, function) | (python_defaults(*changed) if changed else {})

    def add(flag: str, text: str, **options: Any) -> None:
        name = options.get("dest", flag.lstrip("-").replace("-", "_"))
        default = defaults.get(name)
        shown = "" if default is None or isinstance(default, bool) else f" (default: {default})"
        parser.add_argument(flag, help=(text + shown).replace("%", "%%"), **options)

    return add


def given(args: Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Return those of the named options that were given."""
    return {name: getattr(args, name) for name in names if hasattr(args, name)}


def add_corpus_options(parser: ArgumentParser, *, required: bool, language: str = "the new language") -> None:
    """Add ``--corpus``, text in a language, and ``--text-column``."""
    parser.add_argument(
        "--corpus",
        required=required,
        metavar="PATH",
        help=f"text in {language}: a file (text, .jsonl, .csv, .tsv, .parquet, plain or gzipped), a folder of "
        "such files, '-' for standard input, or a dataset on the Hub (owner/name[:config][@split])",
    )
    parser.add_argument("--text-column", metavar="NAME", help="column or key that holds the text (default: text)")


def add_trust_option(parser: ArgumentParser) -> None:
    """Add ``--trust-remote-code``."""
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code from the model's own repository (read it first)"
    )


def add_method_options(add: Callable[..., None]) -> None:
    """Add what says how rows are found, with what :func:`option_adder` gave; ``method_config`` reads the first two."""
    add("--method", "how rows are found: see hf-vocab-extend methods", metavar="NAME")
    add("--set", "one option of the method; may be repeated", metavar="KEY=VALUE", action="append", dest="assignments")
    add(
        "--mode",
        "extend keeps every source id and row; replace takes the new tokenizer",
        choices=("extend", "replace"),
    )
    add("--fallback", "method for tokens that the method does not cover", metavar="NAME")
    add("--language", "language code for the card; may be repeated", action="append", dest="languages", metavar="CODE")


def add_save_options(parser: ArgumentParser) -> Callable[..., None]:
    """Add how an extension is saved; return what adds more options of that."""
    add = option_adder(parser, "result", "save_pretrained")
    add("--license", "licence for the card (default: what the base model states)", metavar="ID")
    add("--max-shard-size", "largest size of one file of weights", metavar="SIZE")
    add("--overwrite", "write into a folder that is not empty", action="store_true")
    add("--no-verify", "do not load the folder again to compare", action="store_false", dest="verify")
    return add


@contextmanager
def errors_name_flags(flags: Mapping[str, str]) -> Iterator[None]:
    """Say in errors of the Python functions the flags of the command line.

    Args:
        flags: What those errors say, and how the same is said here.

    Raises:
        VocabExtendError: As inside, with another text.
    """
    from ..errors import VocabExtendError

    try:
        yield
    except VocabExtendError as error:
        text = str(error)
        for python, flag in flags.items():
            text = text.replace(python, flag)
        if text == str(error):
            raise
        raise type(error)(text) from error


def corpus_of(args: Namespace) -> Corpus | None:
    """Open the corpus that the arguments name, if any."""
    from ..resources.corpus import open_corpus

    if not hasattr(args, "corpus"):
        return None
    return open_corpus(args.corpus, text_column=getattr(args, "text_column", None))


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load a tokenizer by the name of a model, a folder, a ``tokenizer.json`` or a sentencepiece ``.model`` file.

    Raises:
        MissingResourceError: If there is none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from ..errors import MissingResourceError

    path = Path(name)
    if path.suffix in (".model", ".json") and not path.is_file():
        raise MissingResourceError(f"There is no file '{name}'.")
    if path.suffix == ".model":
        from ..vocab.sentencepiece_model import load_sentencepiece

        return load_sentencepiece(path)
    try:
        if path.suffix == ".json":
            return PreTrainedTokenizerFast(tokenizer_file=name)
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise MissingResourceError(f"No tokenizer could be loaded from '{name}': {first_line(error)}") from error


def load_model(name: str, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """Load a model with the class that it was saved with, in the precision that it was saved in.

    Raises:
        MissingResourceError: If there is none, or no class of transformers loads it.
    """
    import transformers

    from ..auto_class import find_auto_class
    from ..errors import MissingResourceError

    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        architecture = (getattr(config, "architectures", None) or [""])[0]
        auto_map = getattr(config, "auto_map", None) or {}
        remote = [key for key, value in auto_map.items() if str(value).rpartition(".")[2] == architecture]
        found = find_auto_class(config.model_type, architecture)
        auto_name = next((key for key in remote if key.startswith("AutoModel")), None) if trust_remote_code else None
        class_name = auto_name or (found.name if found else architecture or "AutoModel")
        model_class = getattr(transformers, class_name, transformers.AutoModel)
        options = {"trust_remote_code": True} if trust_remote_code else {}
        return model_class.from_pretrained(name, dtype="auto", **options)
    except (OSError, ValueError, ImportError) as error:
        raise MissingResourceError(f"No model could be loaded from '{name}': {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_output(folder: str, *, overwrite: bool) -> Path:
    """Return the real path of an output folder that can be written to.

    Raises:
        OutputFolderError: If it cannot, before any work.
    """
    from ..saving import SPARE_BYTES, check_output_folder

    return check_output_folder(folder, SPARE_BYTES, overwrite=overwrite)


def save_tokenizer_folder(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a tokenizer to a folder, whole or not at all."""
    from ..saving import save_tokenizer, staged_folder

    with staged_folder(path) as folder:
        save_tokenizer(tokenizer, folder)


def method_config(
    method: str | None, config_file: str | None, assignments: Sequence[str]
) -> str | MethodConfig | None:
    """Return the method that ``--method``, ``--config`` and ``--set`` name, as a config if there are options.

    Args:
        method: Name, or None.
        config_file: JSON file with options, and perhaps ``"method"``.
        assignments: ``key=value``; the value is JSON, or text if it is not.

    Raises:
        InvalidOptionError: If the file is not such JSON, an assignment has no ``=``, options come without a method, or
            an option is unknown.
    """
    from ..errors import InvalidOptionError

    options = read_options(config_file) if config_file else {}
    named = options.pop("method", None)
    if named is not None and method is not None and named != method:
        raise InvalidOptionError(f"--method is '{method}' and the config file says '{named}'. Leave one of them out.")
    method = method or named
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign or not key:
            raise InvalidOptionError(f"--set takes key=value; got '{assignment}'.")
        options[key.replace("-", "_")] = _value(value)
    if not options:
        return method
    if method is None or method == "auto":
        raise InvalidOptionError(f"The options {', '.join(options)} belong to a method: name it with --method.")
    from ..methods import get_method_class

    return get_method_class(method).config_class.from_dict(options)


def read_options(config_file: str) -> dict[str, Any]:
    """Read a JSON object."""
    from ..errors import InvalidOptionError

    try:
        options = json.loads(Path(config_file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOptionError(f"'{config_file}' cannot be read as JSON ({first_line(error)}).") from error
    if not isinstance(options, dict):
        raise InvalidOptionError(f"'{config_file}' holds a {type(options).__name__}, not a JSON object of options.")
    return options


def _value(text: str) -> Any:
    """Read a value as JSON, or take it as text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def table(rows: Sequence[Sequence[Any]], *, left: int = 1) -> str:
    """Return aligned columns: the first ``left`` of them to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = []
    for row in cells:
        parts = [
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)
