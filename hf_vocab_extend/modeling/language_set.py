"""A model and the languages that take turns in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import InvalidOptionError
from ..prepare import check_belongs, check_loaded, highest_id
from ..surgery.sites import find_sites
from .body import BodyFingerprint, fingerprint
from .language import Language, check_new_name, check_positions
from .settings import Settings, differing, read_settings, write_settings
from .slots import LanguageTensors, Slots

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class LanguageSet(nn.Module):
    """The languages of a model, which of them is active, and what a trainer asks of a model.

    Each language's tensors are Parameters and buffers of ``vocabularies``; those of the output language hang in the
    model's own modules too. ``parameters()`` gives each once, under its language's name, and ``state_dict()`` holds
    each once, whichever language is active.
    """

    model: PreTrainedModel

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, language: str) -> None:
        """Take a model and its own vocabulary; nothing is changed in it."""
        super().__init__()
        check_loaded(model, tokenizer)
        check_new_name(language, [])
        unwrap = getattr(model, "get_base_model", None)  # of a PeftModel
        base: PreTrainedModel = model if unwrap is None else unwrap()
        sites = find_sites(base, highest_id(tokenizer) + 1)
        check_belongs(base, tokenizer, sites.n_rows)
        self.slots = Slots.of(sites)
        self.vocabularies = nn.ModuleDict()  # before the model: the first name of a Parameter is its language's
        self.model = base
        self.training = base.training
        self._entries: dict[str, Language] = {}
        self._base = self._input = self._output = language
        self._origin: tuple[str | None, str | None] | None = (
            None  # base model and revision, if its config does not say
        )
        generation = getattr(base, "generation_config", None)
        self._register(Language(language, tokenizer, LanguageTensors.of(sites), {}, generation))
        self.register_load_state_dict_pre_hook(_name_live_tensors)
        self.register_load_state_dict_post_hook(_activate_again)

    @property
    def languages(self) -> tuple[str, ...]:
        """Names of the languages, the model's own first; ``language_ids`` count in this order."""
        return tuple(self._entries)

    @property
    def base_language(self) -> str:
        """The model's own language."""
        return self._base

    @property
    def input_language(self) -> str:
        """The language that ids without ``language_ids`` are read in."""
        return self._input

    @property
    def output_language(self) -> str:
        """The language that is written, and whose head computes logits."""
        return self._output

    @property
    def tokenizers(self) -> dict[str, PreTrainedTokenizerBase]:
        """Tokenizer of each language."""
        return {name: language.tokenizer for name, language in self._entries.items()}

    def set_language(
        self, language: str | None = None, *, input: str | None = None, output: str | None = None
    ) -> None:
        """Choose what is read and what is written.

        Args:
            language: Both at once.
            input: Language of ids that come without ``language_ids``, and of plain strings.
            output: Language of logits, labels, decoder ids and generated ids.

        Raises:
            InvalidOptionError: If a language is not here; nothing is changed.
            UnsupportedModelError: If a table or head was replaced, by an adapter on it.
        """
        reads, writes = input or language or self._input, output or language or self._output
        for name in (reads, writes):
            self._language(name)
        self.slots.check_in_place(self.model)
        self._input, self._output = reads, writes
        self._activate()

    @contextmanager
    def using(
        self, language: str | None = None, *, input: str | None = None, output: str | None = None
    ) -> Iterator[None]:
        """Choose languages for a block; the arguments are those of :meth:`set_language`."""
        before = self._input, self._output
        self.set_language(language, input=input, output=output)
        try:
            yield
        finally:
            self.set_language(input=before[0], output=before[1])

    def remove_language(self, name: str) -> None:
        """Forget a language; where it was active, the base language is.

        Raises:
            InvalidOptionError: If it is not here, or is the model's own.
        """
        self._language(name)
        if name == self._base:
            raise InvalidOptionError(f"'{name}' is the model's own language and cannot be removed.")
        reads, writes = (self._base if active == name else active for active in (self._input, self._output))
        self.set_language(input=reads, output=writes)
        del self._entries[name], self.vocabularies[_module_name(name)]

    def _language(self, name: str) -> Language:
        """Return a language by name."""
        if name not in self._entries:
            raise InvalidOptionError(f"There is no language {name!r} here. Languages: {', '.join(self._entries)}.")
        return self._entries[name]

    def _admit(self, language: Language, settings: Settings) -> None:
        """Take in a language that fits.

        Args:
            language: The language; its settings and tensors are replaced by those that it has here.
            settings: Settings of a model with this language.
        """
        base = self._entries[self._base]
        known = read_settings(self.model) | base.settings
        own = differing(known, settings)
        pads = {path: value for (_, path, name), value in own.items() if name == "padding_idx"}
        check_positions(self.model, pads, language.name)
        language.settings, language.tensors = own, language.tensors.like(self.slots)
        for key in own:
            base.settings.setdefault(key, known[key])
        self._register(language)

    def _register(self, language: Language) -> None:
        """Take in a language."""
        self._entries[language.name] = language
        self.vocabularies[_module_name(language.name)] = language.tensors

    def _settings_of(self, name: str) -> Settings:
        """Return a language's value of every setting in which the languages differ."""
        return {
            key: self._entries[name].settings.get(key, value)
            for key, value in self._entries[self._base].settings.items()
        }

    def _activate(self) -> None:
        """Hang the output language's tensors, settings and generation config into the model."""
        language = self._entries[self._output]
        for name, tensor in language.tensors.by_slot().items():
            self.slots.by_name[name].put(tensor)
        write_settings(self.model, self._settings_of(self._output))
        if language.generation_config is not None:
            self.model.generation_config = language.generation_config

    def _vocabulary_ids(self) -> set[int]:
        """Return the ``id`` of every Parameter of every language."""
        return {id(parameter) for parameter in self.vocabularies.parameters()}

    def _fingerprint(self) -> BodyFingerprint:
        """Return the fingerprint of the body as it is now."""
        return fingerprint(self.model, self._vocabulary_ids())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> LanguageSet:
        """Move or cast everything; buffers become new objects then, so they are hung in again."""
        super()._apply(fn, recurse)
        self._activate()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return all tensors, those of each language once, under ``vocabularies``."""
        result = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", args[1] if len(args) > 1 else "")
        for slot in self.slots:
            result.pop(f"{prefix}model.{slot.name}", None)
        return result

    @property
    def config(self) -> PretrainedConfig:
        """Config of the model, with the output language's sizes and token ids."""
        return self.model.config

    @property
    def generation_config(self) -> GenerationConfig | None:
        """Generation config of the output language."""
        return getattr(self.model, "generation_config", None)

    @property
    def device(self) -> torch.device:
        """Device of the main input table."""
        return self.slots.by_name[self.slots.main].tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the main input table."""
        return self.slots.by_name[self.slots.main].tensor.dtype

    @property
    def is_activation_checkpointing(self) -> bool:
        """Whether the model recomputes activations in the backward pass."""
        return getattr(self.model, _present(self.model, "is_activation_checkpointing", "is_gradient_checkpointing"))

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Recompute activations in the backward pass; the arguments are those of the model's own method."""
        name = _present(self.model, "activation_checkpointing_enable", "gradient_checkpointing_enable")
        getattr(self.model, name)(activation_checkpointing_kwargs, **kwargs)

    def activation_checkpointing_disable(self) -> None:
        """Keep activations again."""
        name = _present(self.model, "activation_checkpointing_disable", "gradient_checkpointing_disable")
        getattr(self.model, name)()

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Do the same, under the name that transformers had for it before."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs, **kwargs)

    gradient_checkpointing_disable = activation_checkpointing_disable
    is_gradient_checkpointing = is_activation_checkpointing

    def enable_input_require_grads(self) -> None:
        """Let gradients flow through frozen input tables, as adapters with gradient checkpointing need."""
        self.model.enable_input_require_grads()

    def can_generate(self) -> bool:
        """Whether the model writes text."""
        return self.model.can_generate()

    def get_input_embeddings(self) -> nn.Module:
        """Return the input embeddings, with the output language's table."""
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the output head, with the output language's rows."""
        return self.model.get_output_embeddings()


def _present(model: nn.Module, name: str, old_name: str) -> str:
    """Return the name that this version of transformers uses: the old one warns where there is a new one."""
    return name if hasattr(type(model), name) else old_name


def _module_name(language: str) -> str:
    """Return the name of a language's tensors in ``vocabularies``: some codes (``to``) are taken by ``nn.Module``."""
    return f"language_{language}"


def _name_live_tensors(heads: nn.Module, state_dict: dict[str, Any], prefix: str, *_rest: Any) -> None:
    """Give a state that is about to be loaded the model's own names of the active tensors too."""
    assert isinstance(heads, LanguageSet)
    language = heads._language(heads.output_language)
    for group in language.tensors.groups:
        stored = state_dict.get(f"{prefix}vocabularies.{_module_name(language.name)}.{group[0].replace('.', '/')}")
        for name in group:
            if stored is not None:
                state_dict.setdefault(f"{prefix}model.{name}", stored)


def _activate_again(heads: nn.Module, _incompatible: Any) -> None:
    """Hang the active tensors in again after loading, which may have made new ones."""
    assert isinstance(heads, LanguageSet)
    heads._activate()
