"""Writing a folder so that it is there whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from ._logging import get_logger
from .errors import InvalidOptionError, OutputFolderError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = get_logger(__name__)

ExtraFiles = Mapping[str, str | os.PathLike[str] | bytes]
"""Relative path in the folder to a file to copy, or to its bytes."""

CARD_FILE = "README.md"
STAGING_PREFIX = ".hf_vocab_extend-"
ROLES = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
"""Special tokens that a tokenizer names."""
SPARE_BYTES = 32 * 2**20
"""Room for tokenizer, report and card."""

_STALE = re.compile(
    r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|tokenizer\.model"
    r"|chat_template\.(jinja|json)|vocab\.(txt|json)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model"
    r"|generation_config\.json"
)
"""Files of an earlier model or tokenizer; left beside the new ones, some loaders would read them first."""

_DROPPED_TOKENIZER_KEYS = ("is_local", "local_files_only", "name_or_path", "auto_map", "vocab_file", "tokenizer_file")


def is_replaced_by_a_save(name: str) -> bool:
    """Whether a file name belongs to a model or a tokenizer, so that a save without such a file removes it."""
    return _STALE.fullmatch(name) is not None


def check_output_folder(folder: str | os.PathLike[str], n_bytes: int, *, overwrite: bool) -> Path:
    """Return the folder's real path if a save of this size can succeed; changes nothing.

    Args:
        folder: Where the save shall go.
        n_bytes: Estimated size of what will be written.
        overwrite: Whether a folder that is not empty may be written to.

    Raises:
        OutputFolderError: If the folder is a file, is not empty, cannot be written to, or the disk is too full.
    """
    path = Path(folder).expanduser()
    try:
        path = path.resolve()
        present = next(existing for existing in (path, *path.parents) if existing.exists())
        if not present.is_dir():
            raise OutputFolderError(
                f"'{folder}' cannot be a folder: '{present.name}' is a file. Choose another folder."
            )
        if present == path and not overwrite and any(path.iterdir()):
            raise OutputFolderError(
                f"'{folder}' is not empty. Choose a new folder, or pass overwrite=True (--overwrite)."
            )
        tempfile.TemporaryFile(dir=present).close()
        free = shutil.disk_usage(present).free
    except OutputFolderError:
        raise
    except OSError as error:
        raise OutputFolderError(
            f"'{folder}' cannot be written to ({error.strerror}). Choose a folder that you may write to."
        ) from error
    if free < n_bytes:
        raise OutputFolderError(
            f"'{folder}' needs about {n_bytes / 2**20:,.0f} MiB and the disk has {free / 2**20:,.0f} MiB free. "
            "Free some space, or choose a folder on another disk."
        )
    return path


def model_bytes(model: PreTrainedModel) -> int:
    """Bytes of a model's tensors, shared storage counted once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in model.state_dict().values()
    }
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write to, and put its files in place when the block ends well.

    A folder that does not exist yet appears by one rename. Into one that exists (it may be a mount, which cannot be
    renamed), the files move one by one, and move back if one of them fails. If the block fails, everything is as it
    was before.

    Args:
        path: The real path of the final folder.

    Raises:
        OutputFolderError: If writing fails, for example on a full disk.
    """
    exists = path.is_dir()
    staging: Path | None = None
    try:
        if not exists:
            path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=path if exists else path.parent))
        (staging / "new").mkdir()
        yield staging / "new"
        if exists:
            _move_into(staging / "new", path, staging / "old")
        else:
            (staging / "new").rename(path)
    except OutputFolderError:
        raise
    except (OSError, SafetensorError) as error:
        raise OutputFolderError(
            f"Writing to '{path.name}' failed and nothing was left there ({error}). "
            "Free some space, or choose another folder."
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _move_into(new: Path, folder: Path, old: Path) -> None:
    """Move files into a folder; those that they replace, and stale ones, go to ``old`` until all is well."""
    files = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
    stale = [path.relative_to(folder) for path in folder.iterdir() if is_replaced_by_a_save(path.name)]
    moves = [(folder / name, old / name) for name in dict.fromkeys([*stale, *files]) if (folder / name).is_file()]
    moves += [(new / name, folder / name) for name in files]
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer so that ``AutoTokenizer`` reads ``tokenizer.json`` as it is, beside most configs.

    The class is written as ``PreTrainedTokenizerFast``, which both transformers 4 and 5 know: a model's own class
    would rebuild the normalizer and the pre-tokenizer by its own rules and drop those of ``tokenizer.json``.
    """
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text("utf-8"))
    kept = {key: value for key, value in settings.items() if key not in _DROPPED_TOKENIZER_KEYS}
    kept["tokenizer_class"] = "PreTrainedTokenizerFast"
    kept["model_input_names"] = list(tokenizer.model_input_names)
    for side in ("padding_side", "truncation_side"):
        kept[side] = getattr(tokenizer, side)
    # Said outright: a model's own class fills a role that the file does not name with a default of its own.
    kept |= {f"{role}_token": None for role in ROLES if getattr(tokenizer, f"{role}_token") is None}
    file.write_text(json.dumps(kept, indent=2, ensure_ascii=False, sort_keys=True) + "\n", "utf-8")


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    save_directory: str | os.PathLike[str],
    *,
    overwrite: bool = False,
) -> None:
    """Write a folder that plain ``from_pretrained`` loads, without report and card; complete or not at all.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        save_directory: Where to write.
        overwrite: Write into a folder that is not empty.

    Raises:
        OutputFolderError: If the folder cannot be written to.
        VerificationError: If it does not load back equal.
    """
    from .verify import verify_folder

    path = check_output_folder(save_directory, model_bytes(model) + SPARE_BYTES, overwrite=overwrite)
    with staged_folder(path) as folder:
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        for note in verify_folder(folder, model, tokenizer):
            logger.warning("%s", note)


def check_extra_files(files: ExtraFiles) -> None:
    """Raise before any work if an extra file cannot be written along.

    Raises:
        InvalidOptionError: If a name leaves the folder, or a file to copy does not exist.
    """
    for name, content in files.items():
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
            raise InvalidOptionError(f"extra_files names {name!r}. Give a path relative to the folder.")
        if name == CARD_FILE:
            raise InvalidOptionError(f"extra_files names {name!r}, which the save writes itself. Leave it out.")
        if not isinstance(content, bytes) and not Path(content).is_file():
            raise InvalidOptionError(f"extra_files names {name!r}, but the file to copy does not exist.")


def write_extra_files(files: ExtraFiles, folder: Path) -> None:
    """Write files along; one that the save has written itself is refused.

    Raises:
        InvalidOptionError: If a name is taken by the model, the tokenizer or the report.
    """
    for name, content in files.items():
        target = folder / name
        if target.exists():
            raise InvalidOptionError(f"extra_files names {name!r}, which the save writes itself. Leave it out.")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())
