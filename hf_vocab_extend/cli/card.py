"""``hf-vocab-extend card``: write the card of a saved folder anew."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from .common import Answer, Command, given


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="a folder that extend has saved")
    parser.add_argument("--model-name", metavar="TEXT", help="title (default: the one that it has, or the folder)")
    parser.add_argument(
        "--load-name", metavar="NAME", help="what the usage snippet loads (default: the folder's name)"
    )
    parser.add_argument("--language", metavar="CODE", action="append", help="language code; may be repeated")
    parser.add_argument("--license", metavar="ID", help="licence (default: the one that it has)")
    parser.add_argument("--stdout", action="store_true", help="print the card instead of writing README.md")


def run(args: Namespace) -> Answer:
    """Render README.md from vocab_extension.json, and keep the user's own text around our part."""
    from ..hub.card import card_of_folder

    folder = Path(args.folder)
    readme = folder / "README.md"
    options: dict[str, Any] = {"load_name": folder.resolve().name, "model_name": folder.resolve().name}
    options |= given(args, ("model_name", "load_name", "language", "license"))
    text = card_of_folder(folder, existing=readme.read_text("utf-8") if readme.is_file() else None, **options)
    if getattr(args, "stdout", False):
        return Answer({"card": text}, text)
    _write(readme, text)
    return Answer({"readme": str(readme)}, f"Wrote {readme}")


def _write(path: Path, text: str) -> None:
    """Replace a file by rename.

    Raises:
        OutputFolderError: If the folder cannot be written to.
    """
    from ..errors import OutputFolderError

    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_text(text, "utf-8")
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OutputFolderError(f"'{path}' cannot be written ({error.strerror}).") from error


COMMAND = Command(
    name="card",
    summary="Write the README.md of a saved folder anew from its report; your own text stays.",
    examples=("hf-vocab-extend card ./bert-sw", "hf-vocab-extend card ./bert-sw --language sw --license apache-2.0"),
    add_arguments=add_arguments,
    run=run,
)
