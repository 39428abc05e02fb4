"""Hydra: one body, several vocabularies, each a tokenizer with its input table, output head and biases.

Remy et al., Trans-Tokenization and Cross-lingual Vocabulary Transfers, COLM 2024 (arXiv 2408.04303): a Hydra LLM reads
the tokens of every language in one sequence and writes those of one; labels of other languages are masked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import InvalidOptionError
from ..plan import Mode
from .body import body_parameters, check_same_body
from .language import check_fits, check_new_name, check_positions, language_of_extension
from .slots import alias_clone
from .stored_heads import StoredHeads

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..methods.base import InitMethod, MethodConfig
    from ..result import VocabExtension


class LanguageHeads(StoredHeads):
    """One model with several named vocabularies.

    At any time the model has the tables, heads, biases and token ids of the *output* language: ``.model`` then is an
    ordinary transformers model of that language, and only that head's logits are computed. The *input* language says
    how plain ids are read. A text that mixes languages comes with ``language_ids``: for each id, the index in
    ``.languages`` of the tokenizer that it is of. Ids are always those of their own tokenizer.

    A peft adapter goes onto the body, ``get_peft_model(heads.model, config)``, and is saved and loaded by peft.
    """

    @classmethod
    def from_model(
        cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, language: str = "en"
    ) -> LanguageHeads:
        """Take a model with its own vocabulary as the first language. The model is not changed.

        Args:
            model: A transformers model, or one with a peft adapter on its body.
            tokenizer: Its tokenizer.
            language: Name of its language.

        Raises:
            UnsupportedModelError: If a vocabulary-sized tensor cannot be handled; the message names it.
            TokenizerMismatchError: If model and tokenizer do not belong together.
        """
        return cls(model, tokenizer, language)

    def add_language(
        self,
        name: str,
        extension: VocabExtension | PreTrainedTokenizerBase,
        method: str | MethodConfig | InitMethod = "auto",
        *,
        mode: Mode = "replace",
        allow_other_body: bool = False,
        **options: Any,
    ) -> None:
        """Add a language; the active ones stay as they are.

        Args:
            name: Its name.
            extension: What ``extend_vocabulary`` gave for another copy of the model; or only a tokenizer, then the
                rows are made here from those of the base language, without a copy of the model.
            method: With a tokenizer: the method of ``extend_vocabulary``.
            mode: With a tokenizer: ``replace`` takes it as it is, ``extend`` adds it to the base vocabulary.
            allow_other_body: Accept an extension whose body was trained further; it warns.
            options: With a tokenizer: more arguments of ``extend_vocabulary``, for example ``parallel``.

        Raises:
            InvalidOptionError: If the name is taken or no name, or the extension changed this very model.
            BaseModelMismatchError: If the extension was made for another model.
            UnsupportedModelError: If the languages cannot share one body.
        """
        check_new_name(name, list(self.languages))
        made = self._extended(name, extension, method, mode, options)
        if made.model is self.model:
            raise InvalidOptionError(
                "extend_vocabulary changed the very model that holds the base language. Extend another copy of it, or "
                "give add_language the tokenizer and the method instead."
            )
        language, settings, body = language_of_extension(name, made)
        check_fits(language, self.slots)
        check_same_body(self._fingerprint(), body, name, allow_other_body=allow_other_body)
        self._admit(language, settings)

    def _extended(
        self, name: str, extension: Any, method: str | MethodConfig | InitMethod, mode: Mode, options: dict[str, Any]
    ) -> VocabExtension:
        """Return the extension itself, or make it from a tokenizer on a clone that shares every number."""
        from ..extend import extend_vocabulary
        from ..result import VocabExtension

        if isinstance(extension, VocabExtension):
            if options or method != "auto" or mode != "replace":
                raise InvalidOptionError("Method, mode and options go with a tokenizer; an extension has its own.")
            return extension
        if isinstance(extension, str | os.PathLike):
            raise InvalidOptionError(
                f"extension is the name '{os.path.basename(extension)}'. A saved language is loaded by "
                "load_language, a tokenizer by AutoTokenizer.from_pretrained."
            )
        if not callable(getattr(extension, "get_vocab", None)):
            raise InvalidOptionError(
                f"extension is a {type(extension).__name__}. Give what extend_vocabulary returned, or a tokenizer."
            )
        with self.using(self.base_language):
            if mode == "replace":
                modules = self.model.named_modules()
                padded = [path for path, module in modules if type(vars(module).get("padding_idx")) is int]
                check_positions(self.model, dict.fromkeys(padded, extension.pad_token_id), name)
            clone = alias_clone(self.model)
        own = self.tokenizers[self.base_language]
        return extend_vocabulary(clone, extension, method, tokenizer=own, mode=mode, **({"languages": name} | options))

    def language_parameters(self, name: str) -> list[nn.Parameter]:
        """Return the Parameters of one language.

        Raises:
            InvalidOptionError: If it is not here.
        """
        return list(self._language(name).tensors.parameters())

    def freeze_body(self, *, train: str | Sequence[str] | None = None) -> None:
        """Let only vocabularies be trained; adapters of peft stay as they are.

        Args:
            train: Language or languages to train; by default all. The others are frozen too.

        Raises:
            InvalidOptionError: If one is not here; nothing is changed.
        """
        chosen = self.languages if train is None else (train,) if isinstance(train, str) else tuple(train)
        for name in chosen:
            self._language(name)
        for _, parameter in body_parameters(self.model, self._vocabulary_ids()):
            parameter.requires_grad_(False)
        for name in self.languages:
            for parameter in self.language_parameters(name):
                parameter.requires_grad_(name in chosen)
