"""Find the extension that a model in training came from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingResourceError, TokenizerMismatchError
from ..mapping import TokenMapping
from ..report import REPORT_FILE, ExtensionReport
from ..result import MAPPING_FILE, VocabExtension

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HOW = "Pass extension=, what extend_vocabulary returned, or the folder that its save_pretrained wrote."


def locate_extension(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> VocabExtension:
    """Return the extension of a model from the files that were saved beside it.

    Args:
        model: The model, loaded from the folder or the Hub name of a saved extension.
        tokenizer: Its tokenizer; by default the one saved there.
        folder: Where to look instead: a folder, or a name on the Hub.

    Returns:
        The extension, with this very model.

    Raises:
        MissingResourceError: If ``vocab_extension.json`` or ``vocab_mapping.safetensors`` is not there.
        TokenizerMismatchError: If the rows of the model are not those of the report.
    """
    name = os.fspath(folder) if folder is not None else str(getattr(model.config, "_name_or_path", "") or "")
    if not name:
        raise MissingResourceError(f"The model was not loaded from a folder, so its extension cannot be found. {_HOW}")
    report = find_report(name)
    mapping = TokenMapping.load(_file(name, MAPPING_FILE))
    if tokenizer is None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(name)
    extension = VocabExtension(model, tokenizer, mapping, report)
    check_rows(model, extension)
    return extension


def find_report(name: str) -> ExtensionReport:
    """Return the report that lies beside a saved extension.

    Args:
        name: A folder, or a name on the Hub.

    Raises:
        MissingResourceError: If there is none.
    """
    return ExtensionReport.from_json(_file(name, REPORT_FILE).read_text("utf-8"))


def _file(name: str, file: str) -> Path:
    """Return a file beside a model, from its folder, the cache or the Hub."""
    from ..side_files import _find

    try:
        path = _find(name, file, False)
    except (OSError, ValueError) as error:
        path, reason = None, f" ({type(error).__name__})"
    else:
        reason = ""
    if path is None:
        shown = Path(name).name if Path(name).is_dir() else name
        raise MissingResourceError(f"'{shown}' holds no {file}{reason}. {_HOW}")
    return path


def check_rows(model: Any, extension: VocabExtension) -> None:
    """Raise unless the input table of a model is as long as the report says.

    Raises:
        TokenizerMismatchError: The message has both numbers.
    """
    weight = getattr(model.get_input_embeddings(), "weight", None)
    wanted = extension.report.sizes["target_rows"]
    if weight is None or weight.shape[0] == wanted:
        return
    raise TokenizerMismatchError(
        f"The input table of this model has {weight.shape[0]} rows and the extension {wanted}. Train the model of the "
        "extension (extension.model, or loaded from the folder that it was saved to), and do not resize it afterwards."
    )


__all__ = ["check_rows", "find_report", "locate_extension"]
