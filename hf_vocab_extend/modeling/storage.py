"""A language, or all of them, in a folder or on the Hub."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, InvalidOptionError, InvalidTableError, OutputFolderError, UnsupportedModelError
from ..result import MAPPING_FILE
from ..saving import (
    CARD_FILE,
    SPARE_BYTES,
    check_output_folder,
    is_replaced_by_a_save,
    model_bytes,
    save_tokenizer,
    staged_folder,
)
from .body import adapter_parameters
from .language_card import heads_card, language_card
from .language_files import LANGUAGE_FILE, TENSORS_FILE, BaseModel, read_json, write_language

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedModel

    from .language import Language
    from .settings import Settings

HEADS_FILE = "language_heads.json"
LANGUAGES_FOLDER = "languages"
_FORMAT_VERSION = 1


def save_one(
    path: str | os.PathLike[str],
    language: Language,
    settings: Settings,
    base: BaseModel,
    *,
    overwrite: bool,
    verify: bool,
    card: dict[str, Any],
) -> None:
    """Write one language with its card, whole or not at all.

    Raises:
        OutputFolderError: If the folder cannot be written to, or holds files and ``overwrite`` is False.
        InvalidOptionError: If a key of the card is wrong.
        VerificationError: If the folder does not load back equal.
    """
    from ..hub.card import read_card

    n_bytes = sum(tensor.nbytes for tensor in language.tensors.named().values()) + SPARE_BYTES
    target = check_output_folder(path, n_bytes, overwrite=overwrite)
    text = language_card(language, base, target.name, read_card(target / CARD_FILE), **card)
    with staged_folder(target) as folder:
        write_language(folder, language, settings, base, verify=verify)
        (folder / CARD_FILE).write_bytes(text.encode("utf-8"))


def save_all(
    path: str | os.PathLike[str],
    model: PreTrainedModel,
    languages: dict[str, Language],
    settings: dict[str, Settings],
    base: BaseModel,
    *,
    active: tuple[str, str],
    max_shard_size: str | int,
    overwrite: bool,
    verify: bool,
) -> None:
    """Write the model with its own vocabulary, which plain ``from_pretrained`` loads, and the others beside it.

    Args:
        path: Where to write.
        model: The model, with the base language active.
        languages: All languages by name.
        settings: Of each, its value of every setting in which they differ.
        base: What the languages are said to belong to.
        active: Input and output language.
        max_shard_size: Largest size of one file of weights.
        overwrite: Write into a folder that is not empty; languages there that are not among these are removed.
        verify: Load the languages again and compare.
    """
    from ..hub.card import read_card

    extra = sum(tensor.nbytes for item in languages.values() for tensor in item.tensors.named().values())
    target = check_output_folder(path, model_bytes(model) + extra + SPARE_BYTES, overwrite=overwrite)
    text = heads_card(list(languages.values()), base, target.name, read_card(target / CARD_FILE))
    state = _state_without_adapters(model)
    others = [name for name in languages if name != base.language]
    with staged_folder(target) as folder:
        model.save_pretrained(folder, state_dict=state, max_shard_size=max_shard_size)
        save_tokenizer(languages[base.language].tokenizer, folder)
        for name in others:
            (folder / LANGUAGES_FOLDER / name).mkdir(parents=True)
            write_language(folder / LANGUAGES_FOLDER / name, languages[name], settings[name], base, verify=verify)
        content = {
            "format_version": _FORMAT_VERSION,
            "architecture": base.architecture,
            "base_model": base.name,
            "base_revision": base.revision,
            "base_language": base.language,
            "languages": others,
            "input": active[0],
            "output": active[1],
        }
        (folder / HEADS_FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")
        (folder / CARD_FILE).write_bytes(text.encode("utf-8"))
    _remove_other_languages(target / LANGUAGES_FOLDER, others)


def _remove_other_languages(folder: Path, kept: list[str]) -> None:
    """Remove the folders of languages that an earlier save left; whatever holds no language stays."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name not in kept and not path.is_symlink() and (path / LANGUAGE_FILE).is_file():
            shutil.rmtree(path)


def is_replaced(name: str) -> bool:
    """Whether a file of a repository is one of an earlier save, so that one without a successor is removed."""
    last = name.rpartition("/")[2]
    of_language = is_replaced_by_a_save(last) or last in (LANGUAGE_FILE, TENSORS_FILE, MAPPING_FILE)
    return is_replaced_by_a_save(name) or (name.startswith(f"{LANGUAGES_FOLDER}/") and of_language)


def _state_without_adapters(model: PreTrainedModel) -> dict[str, Any] | None:
    """Return the body's own tensors under their own names, None if no adapter is in it."""
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} carries an adapter of add_adapter, and would save only that. Use "
            "peft.get_peft_model(heads.model, config), or delete the adapter first."
        )
    adapters = adapter_parameters(model)
    if not adapters:
        return None
    left_out = {name for name, tensor in model.named_parameters(remove_duplicate=False) if id(tensor) in adapters}
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in model.state_dict().items()
        if name not in left_out
    }


def read_heads_file(folder: Path) -> dict[str, Any]:
    """Return what says which languages a folder holds.

    Raises:
        InvalidOptionError: If the folder was not written by ``save_pretrained`` of this class.
        InvalidTableError: If it is cut short, or of a newer version.
    """
    content = read_json(folder, HEADS_FILE, "LanguageHeads.save_pretrained")
    needed = ("architecture", "base_model", "base_revision", "base_language", "languages", "input", "output")
    missing = [name for name in needed if name not in content]
    if missing or content.get("format_version") != _FORMAT_VERSION:
        problem = f"lacks '{missing[0]}'" if missing else f"has format {content.get('format_version')}"
        raise InvalidTableError(f"{HEADS_FILE} {problem}; this version reads format {_FORMAT_VERSION}. Save it again.")
    return content


def load_model(folder: Path, architecture: str, **options: Any) -> PreTrainedModel:
    """Load the model of a folder with its own class.

    Raises:
        UnsupportedModelError: If transformers has no such class.
    """
    import transformers

    loader = getattr(transformers, architecture, None)
    if loader is None:
        raise UnsupportedModelError(
            f"transformers has no class {architecture}. Load the model yourself, then call from_model and "
            f"load_language for each folder in '{LANGUAGES_FOLDER}'."
        )
    return loader.from_pretrained(folder, **options)


def local_folder(name: str | os.PathLike[str], *, revision: str | None, token: str | bool | None) -> Path:
    """Return a folder, downloaded from the Hub unless it is one already.

    Raises:
        OutputFolderError: If it looks like a local path and is not there.
        HubError: If the Hub does not give it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    text = str(name)
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") > 1:
        raise OutputFolderError(f"There is no folder '{path.name}'. Check the path.")
    from huggingface_hub import errors, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT")
    reason: Exception
    try:
        return Path(snapshot_download(text, revision=revision, token=token, endpoint=endpoint))
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        problem, reason = "has no such repository", error
    except (errors.HfHubHTTPError, errors.EntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        problem, reason = "does not give it", error
    said = f"{type(reason).__name__}: {' '.join(str(reason).split())[:200]}"
    raise HubError(
        f"'{text}' is no folder here, and the Hub {problem} ({said}). Check the name, the network and the token."
    ) from reason


def push(
    repo_id: str,
    save: Callable[[Path], None],
    card: Callable[[str, str | None], str],
    *,
    commit_message: str,
    replaces: Callable[[str], bool] | None = None,
    **options: Any,
) -> CommitInfo:
    """Save into a folder of its own and upload that in one commit.

    Args:
        repo_id: ``user/name`` or ``name``.
        save: Writes the folder.
        card: Takes the repository's full name and its present README.md, gives the new one.
        commit_message: First line of the commit.
        replaces: Whether a file of the repository is removed if the folder has none of its name.
        options: ``private``, ``token``, ``revision``, ``create_pr``.

    Raises:
        InvalidOptionError: If there is no such option; nothing is saved.
        HubError: If the Hub refuses; the message says what to do.
    """
    from ..hub.push import check_repo_id, push_with_card

    settings: dict[str, Any] = {"private": None, "token": None, "revision": None, "create_pr": False}
    unknown = sorted(set(options) - set(settings))
    if unknown:
        raise InvalidOptionError(f"There is no option '{unknown[0]}'. Options: {', '.join(settings)}, commit_message.")
    settings |= options
    name = check_repo_id(repo_id).rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="hf_vocab_extend-") as scratch:
        save(Path(scratch) / name)
        return push_with_card(
            Path(scratch) / name,
            repo_id,
            {},
            commit_message=commit_message,
            render=card,
            replaces=replaces,
            **settings,
        )
