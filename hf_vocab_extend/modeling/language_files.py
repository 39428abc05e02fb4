"""One language as a folder: tokenizer, tensors, and what says which base model they belong to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import InvalidOptionError, InvalidTableError, VerificationError
from ..mapping import TokenMapping
from ..report import ExtensionReport
from ..result import MAPPING_FILE
from ..saving import save_tokenizer
from ..scrub import without_private
from ..surgery.checks import check_values
from ..verify import TEXTS
from .body import BodyFingerprint
from .language import Language
from .settings import Settings, from_json, to_json
from .slots import LanguageTensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LANGUAGE_FILE = "language_config.json"
TENSORS_FILE = "language_head.safetensors"
_GENERATION_FILE = "generation_config.json"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class BaseModel:
    """The model that a language was made for.

    Attributes:
        name: Its Hub id, None if it is only known as a local folder.
        revision: Its commit, if known.
        language: Its own language.
        model_type: ``model_type`` of its config.
        architecture: Its class.
        body: Fingerprint of its body.
    """

    name: str | None
    revision: str | None
    language: str
    model_type: str
    architecture: str
    body: BodyFingerprint


@dataclass(frozen=True)
class StoredLanguage:
    """What a folder holds: a language, and the base model that it names."""

    language: Language
    base: BaseModel


def write_language(folder: Path, language: Language, settings: Settings, base: BaseModel, *, verify: bool) -> None:
    """Write a language into a folder that exists; no card.

    Args:
        folder: Where to write.
        language: The language.
        settings: Its value of every setting in which the languages differ.
        base: The base model.
        verify: Load the folder again and compare.

    Raises:
        VerificationError: If the folder does not load back equal.
    """
    save_tokenizer(language.tokenizer, folder)
    named = {name: tensor.detach().contiguous() for name, tensor in language.tensors.named().items()}
    save_file(named, str(folder / TENSORS_FILE), metadata={"format": "pt"})
    report = None if language.report is None else without_private(language.report.to_dict())
    content = {
        "format_version": _FORMAT_VERSION,
        "language": language.name,
        "base_model": base.name,
        "base_revision": base.revision,
        "base_language": base.language,
        "model_type": base.model_type,
        "architecture": base.architecture,
        "body": base.body.to_dict(),
        "tensors": [_describe(named[group[0]], group) for group in language.tensors.groups],
        "settings": to_json(settings),
        "report": report,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
    (folder / LANGUAGE_FILE).write_text(text + "\n", "utf-8")
    if language.generation_config is not None:
        (folder / _GENERATION_FILE).write_text(language.generation_config.to_json_string(), "utf-8")
    if language.mapping is not None:
        language.mapping.save(folder / MAPPING_FILE)
    if verify:
        _verify(folder, language, named)


def _describe(tensor: torch.Tensor, group: tuple[str, ...]) -> dict[str, Any]:
    """Return shape and type of a tensor, and the names that it hangs under."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"shape": list(tensor.shape), "dtype": dtype, "names": list(group)}


def _verify(folder: Path, language: Language, named: dict[str, torch.Tensor]) -> None:
    """Raise unless tensors and tokenizer load back equal."""
    for name, tensor in _read_tensors(folder).items():
        if not torch.equal(tensor, named[name].cpu()):
            raise VerificationError(f"{TENSORS_FILE}: '{name}' loads with other values. Save again.")
    loaded = load_tokenizer(folder)
    own, other = (_behaviour(tokenizer) for tokenizer in (language.tokenizer, loaded))
    if own != other:
        raise VerificationError(
            f"tokenizer.json of '{language.name}' loads as another tokenizer: vocabulary or ids differ. "
            "Give a tokenizer whose class keeps the pipeline of its tokenizer.json."
        )


def _behaviour(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, int], list[list[int]]]:
    """Return the vocabulary, and the ids of some texts."""
    return tokenizer.get_vocab(), tokenizer(list(TEXTS), truncation=False, verbose=False)["input_ids"]


def read_language(folder: Path, name: str | None) -> StoredLanguage:
    """Read what :func:`write_language` wrote.

    Args:
        folder: The folder.
        name: Another name for the language, None for its own.

    Raises:
        InvalidOptionError: If the folder holds no language.
        InvalidTableError: If a file is cut short, or of a newer version.
        VerificationError: If the tokenizer cannot be loaded.
    """
    content = read_json(folder, LANGUAGE_FILE, "save_language")
    try:
        if content["format_version"] != _FORMAT_VERSION:
            raise InvalidTableError(
                f"{LANGUAGE_FILE} has format {content['format_version']}, this version reads {_FORMAT_VERSION}. "
                "Install a newer hf_vocab_extend."
            )
        base = BaseModel(
            content["base_model"],
            content["base_revision"],
            content["base_language"],
            content["model_type"],
            content["architecture"],
            BodyFingerprint(**content["body"]),
        )
        groups = [item["names"] for item in content["tensors"]]
        shapes = {item["names"][0]: item["shape"] for item in content["tensors"]}
        settings = from_json(content["settings"])
        report = None if content["report"] is None else ExtensionReport.from_dict(content["report"])
        language_name = name or content["language"]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise InvalidTableError(
            f"{LANGUAGE_FILE} lacks a field or holds one of another kind ({error}). Save or download it again."
        ) from error
    tensors = LanguageTensors(_read_tensors(folder, shapes), groups)
    generation = _read_generation_config(folder)
    mapping = TokenMapping.load(folder / MAPPING_FILE) if (folder / MAPPING_FILE).is_file() else None
    language = Language(language_name, load_tokenizer(folder), tensors, settings, generation, report, mapping)
    return StoredLanguage(language, base)


def read_json(folder: Path, file: str, writer: str) -> dict[str, Any]:
    """Return the content of a JSON file.

    Raises:
        InvalidOptionError: If there is none.
        InvalidTableError: If it is cut short.
    """
    path = folder / file
    if not path.is_file():
        raise InvalidOptionError(f"'{folder.name}' holds no {file}. Give a folder that {writer} wrote.")
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InvalidTableError(f"{file} is no JSON ({error}). Save or download it again.") from error
    if not isinstance(content, dict):
        raise InvalidTableError(f"{file} holds no JSON object. Save or download it again.")
    return content


def _read_tensors(folder: Path, expected: dict[str, list[int]] | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors of a folder, if all are there, whole and finite.

    Raises:
        InvalidTableError: It names the tensor.
    """
    try:
        with safe_open(str(folder / TENSORS_FILE), "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidTableError(f"{TENSORS_FILE} cannot be read ({error}). Save or download it again.") from error
    for name, wanted in (expected or {}).items():
        shape = list(found[name].shape) if name in found else None
        if shape != wanted:
            raise InvalidTableError(
                f"{TENSORS_FILE} has {'no tensor' if shape is None else f'the shape {shape} for'} '{name}', and "
                f"{LANGUAGE_FILE} says {wanted}. Save or download both again."
            )
        check_values(name, found[name].reshape(found[name].shape[0], -1))
    return found if expected is None else {name: found[name] for name in expected}


def _read_generation_config(folder: Path) -> Any:
    """Return the generation config of a folder, None if it has none."""
    from transformers import GenerationConfig

    if not (folder / _GENERATION_FILE).is_file():
        return None
    return GenerationConfig.from_dict(read_json(folder, _GENERATION_FILE, "save_language"))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder exactly as its ``tokenizer.json`` says.

    Raises:
        VerificationError: If it cannot be loaded.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises plain Exception for a file that is cut short
        raise VerificationError(
            f"tokenizer.json in '{folder.name}' cannot be loaded ({type(error).__name__}: {str(error)[:200]}). "
            "Save or download it again."
        ) from error
