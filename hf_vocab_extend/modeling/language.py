"""One language of a model with several: its tokenizer, its tensors, and what its report says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import BaseModelMismatchError, InvalidOptionError, TokenizerMismatchError, UnsupportedModelError
from ..prepare import highest_id
from ..surgery.sites import find_sites
from .body import BodyFingerprint, fingerprint
from .settings import Settings, read_settings
from .slots import LanguageTensors, Slots

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ..mapping import TokenMapping
    from ..report import ExtensionReport
    from ..result import VocabExtension

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(eq=False)
class Language:
    """A language and all that belongs to it.

    Attributes:
        name: Its name, most often a language code.
        tokenizer: Its tokenizer.
        tensors: Its tables, heads and biases.
        settings: Attributes of modules and configs that have another value in this language.
        generation_config: Its ``generation_config``, None for a model that does not write.
        report: How it was made, if that is known.
        mapping: Where each of its rows came from, if that is known.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    tensors: LanguageTensors
    settings: Settings = field(default_factory=dict)
    generation_config: GenerationConfig | None = None
    report: ExtensionReport | None = None
    mapping: TokenMapping | None = None

    @property
    def pad_id(self) -> int | None:
        """Id of padding, None if there is none or if it also stands for a word or an end of text."""
        pad = self.tokenizer.pad_token_id
        others = {getattr(self.tokenizer, f"{role}_token_id", None) for role in ("eos", "bos", "unk")}
        return pad if isinstance(pad, int) and pad not in others else None


def check_new_name(name: object, present: list[str]) -> str:
    """Return the name of a new language.

    Raises:
        InvalidOptionError: If it is taken, or cannot be the name of a folder.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidOptionError(
            f"{name!r} cannot name a language. Use up to 64 letters, digits, '-' and '_', such as 'sw' or 'zh-Hans'."
        )
    if name in present:
        raise InvalidOptionError(
            f"There is a language '{name}' already. Choose another name, or call remove_language('{name}') first."
        )
    return name


def language_of_extension(name: str, extension: VocabExtension) -> tuple[Language, Settings, BodyFingerprint]:
    """Take the language out of an extended model; the model is not changed, and no number is copied.

    Returns:
        The language, with all settings of the extended model, and the fingerprint of that model's body.
    """
    model = extension.model
    sites = find_sites(model, highest_id(extension.tokenizer) + 1)
    tensors = LanguageTensors.of(sites)
    body = fingerprint(model, {id(tensor) for tensor in tensors.parameters()})
    config = getattr(model, "generation_config", None)
    language = Language(name, extension.tokenizer, tensors, {}, config, extension.report, extension.mapping)
    return language, read_settings(model), body


def check_fits(language: Language, slots: Slots) -> None:
    """Raise unless a language has a tensor of the right width for every slot, and rows for its tokenizer.

    Raises:
        BaseModelMismatchError: It names the slot and the shapes.
        TokenizerMismatchError: If the tokenizer has more ids than the table has rows.
    """
    found = language.tensors.by_slot()
    for names, what in ((set(found) - set(slots.by_name), "extra"), (set(slots.by_name) - set(found), "missing")):
        if names:
            raise BaseModelMismatchError(
                f"Language '{language.name}' was made for another model: '{min(names)}' is {what}. "
                "Load the base model, and the model class, that it names."
            )
    for name, slot in slots.by_name.items():
        width, own = (
            [size for axis, size in enumerate(tensor.shape) if axis != slot.axis]
            for tensor in (slot.tensor, found[name])
        )
        if width != own or found[name].ndim != slot.tensor.ndim:
            raise BaseModelMismatchError(
                f"Language '{language.name}' was made for another model: '{name}' has rows of width "
                f"{_times(own)}, this model's have {_times(width)}. Load the base model that it names."
            )
    n_ids, n_rows = highest_id(language.tokenizer) + 1, language.tensors.n_rows(slots)
    if n_ids > n_rows:
        raise TokenizerMismatchError(
            f"The tokenizer of '{language.name}' has ids up to {n_ids - 1}, its table {n_rows} rows. "
            "Give the tokenizer that the table was made with."
        )


def _times(sizes: list[int]) -> str:
    return " x ".join(map(str, sizes)) or "1"


def check_positions(model: PreTrainedModel, pad_of: dict[str, int | None], name: str) -> None:
    """Raise if positions count from the padding id, as in RoBERTa, and a new language's padding id is another one.

    The position table belongs to the body, which all languages share.

    Args:
        model: The model.
        pad_of: New ``padding_idx`` by path of the module; modules that are not named keep theirs.
        name: The language.

    Raises:
        UnsupportedModelError: It says which id the padding token must have.
    """
    for path, module in model.named_modules():
        old = vars(module).get("padding_idx")
        if "position" in f"{path} {type(module).__name__}".lower() and pad_of.get(path, old) != old:
            raise UnsupportedModelError(
                f"The positions of {type(model).__name__} count from the padding id {old} ('{path}'), and that of "
                f"'{name}' is {pad_of[path]}; all languages share one position table. Give the new tokenizer its "
                f"padding token at id {old}, or use mode='extend'."
            )
