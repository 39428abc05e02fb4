"""Saving, loading and pushing one language, or all of them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

from ..errors import BaseModelMismatchError
from ..prepare import hub_name
from .body import check_same_body, check_same_structure
from .language import check_fits, check_new_name
from .language_card import heads_card, language_card
from .language_files import BaseModel, StoredLanguage, load_tokenizer, read_language
from .mixed_text import MixedText
from .storage import LANGUAGES_FOLDER, is_replaced, load_model, local_folder, push, read_heads_file, save_all, save_one

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class StoredHeads(MixedText):
    """What :class:`~hf_vocab_extend.modeling.language_heads.LanguageHeads` does with folders and the Hub."""

    def save_language(
        self,
        name: str,
        save_directory: str | os.PathLike[str],
        *,
        base_model: str | None = None,
        overwrite: bool = False,
        verify: bool = True,
        **card: Any,
    ) -> None:
        """Write one language: tokenizer, tensors, what says which base model they are for, and a card.

        Args:
            name: The language.
            save_directory: Where to write; complete or not there at all.
            base_model: Hub id of the base model, if the model was loaded from a local folder.
            overwrite: Write into a folder that is not empty.
            verify: Load the folder again and compare.
            card: Keys of the card's front matter, for example ``license``.

        Raises:
            InvalidOptionError: If the language is not here.
            OutputFolderError: If the folder cannot be written to, or holds files and ``overwrite`` is False.
            VerificationError: If the folder does not load back equal.
        """
        language = self._language(name)
        base, settings = self._base_model(base_model), self._settings_of(name)
        save_one(save_directory, language, settings, base, overwrite=overwrite, verify=verify, card=card)

    def load_language(
        self,
        name_or_path: str | os.PathLike[str],
        *,
        name: str | None = None,
        allow_other_body: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> str:
        """Add a language that :meth:`save_language` wrote; the active ones stay as they are.

        Args:
            name_or_path: A folder, or a name on the Hub.
            name: Name to give it here; by default its own.
            allow_other_body: Accept it although this body has other values than the one that it was made for, because
                it was trained further; it warns.
            revision: Branch or commit on the Hub.
            token: A token, None for the saved one, False for none.

        Returns:
            Its name.

        Raises:
            InvalidOptionError: If the folder holds no language, or the name is taken.
            BaseModelMismatchError: If it was made for another base model.
            InvalidTableError: If a file is cut short.
        """
        stored = read_language(local_folder(name_or_path, revision=revision, token=token), name)
        self._check_base(stored)
        check_same_body(self._fingerprint(), stored.base.body, stored.language.name, allow_other_body=allow_other_body)
        self._admit(stored.language, stored.language.settings)
        return stored.language.name

    def _check_base(self, stored: StoredLanguage) -> None:
        """Raise unless a language can be taken in and is for this class of model.

        Raises:
            InvalidOptionError: If its name is taken.
            BaseModelMismatchError: If it was made for another class, or its rows do not fit.
        """
        language, base = stored.language, stored.base
        check_new_name(language.name, list(self.languages))
        own = (self.config.model_type, type(self.model).__name__)
        if own != (base.model_type, base.architecture):
            raise BaseModelMismatchError(
                f"Language '{language.name}' was made for a {base.architecture} ({base.name or 'a local folder'}), "
                f"this model is a {own[1]}. Load the base model that it names."
            )
        check_fits(language, self.slots)

    def push_language(self, name: str, repo_id: str, *, base_model: str | None = None, **options: Any) -> CommitInfo:
        """Save one language and upload it in one commit: a small repository that names its base model.

        Args:
            name: The language.
            repo_id: ``user/name`` or ``name``.
            base_model: Hub id of the base model, if the model was loaded from a local folder.
            options: ``private``, ``token``, ``revision``, ``create_pr``, ``commit_message``.

        Raises:
            InvalidOptionError: If the language is not here, or an option is unknown.
            HubError: If the Hub refuses; the message says what to do.
        """
        language, base = self._language(name), self._base_model(base_model)
        return push(
            repo_id,
            lambda folder: self.save_language(name, folder, base_model=base_model),
            lambda full_name, existing: language_card(language, base, full_name, existing),
            **({"commit_message": f"Vocabulary for {name}"} | options),
        )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: str | int = "5GB",
        overwrite: bool = False,
        verify: bool = True,
    ) -> None:
        """Write the model with its own vocabulary, and every other language in a folder below it.

        Plain ``from_pretrained`` of transformers loads the folder as the base model. A peft adapter is not in it:
        save that with peft.

        Args:
            save_directory: Where to write; complete or not there at all.
            max_shard_size: Largest size of one file of weights.
            overwrite: Write into a folder that is not empty.
            verify: Load the languages again and compare.

        Raises:
            OutputFolderError: If the folder cannot be written to, or holds files and ``overwrite`` is False.
            VerificationError: If a language does not load back equal.
        """
        active = self.input_language, self.output_language
        settings = {name: self._settings_of(name) for name in self.languages}
        with self.using(self.base_language):
            save_all(
                save_directory,
                self.model,
                self._entries,
                settings,
                self._base_model(None),
                active=active,
                max_shard_size=max_shard_size,
                overwrite=overwrite,
                verify=verify,
            )

    def push_to_hub(self, repo_id: str, **options: Any) -> CommitInfo:
        """Save everything and upload it in one commit; the options are those of :meth:`push_language`."""
        entries, base = list(self._entries.values()), self._base_model(None)
        return push(
            repo_id,
            self.save_pretrained,
            lambda full_name, existing: heads_card(entries, base, full_name, existing),
            replaces=is_replaced,
            **({"commit_message": "Model with several vocabularies"} | options),
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        **model_options: Any,
    ) -> Self:
        """Load what :meth:`save_pretrained` wrote, with the same languages active.

        Args:
            name_or_path: A folder, or a name on the Hub.
            revision: Branch or commit on the Hub.
            token: A token, None for the saved one, False for none.
            model_options: Arguments of the model's ``from_pretrained``, for example ``dtype``.

        Raises:
            InvalidOptionError: If the folder was not written by :meth:`save_pretrained`.
            InvalidTableError: If a file is cut short.
        """
        folder = local_folder(name_or_path, revision=revision, token=token)
        content = read_heads_file(folder)
        model = load_model(folder, content["architecture"], **model_options)
        heads = cls(model, load_tokenizer(folder), content["base_language"])
        heads._origin = content["base_model"], content["base_revision"]
        for name in content["languages"]:
            # They were saved with this body: loaded in another type, its values are rounded twice and may differ.
            stored = read_language(folder / LANGUAGES_FOLDER / name, None)
            heads._check_base(stored)
            check_same_structure(heads._fingerprint(), stored.base.body, name)
            heads._admit(stored.language, stored.language.settings)
        heads.set_language(input=content["input"], output=content["output"])
        return heads

    def _base_model(self, name: str | None) -> BaseModel:
        """Return what the languages are said to belong to."""
        known = (hub_name(self.config._name_or_path), getattr(self.config, "_commit_hash", None))
        found, revision = self._origin or known
        return BaseModel(
            name or found,
            revision if name in (None, found) else None,
            self.base_language,
            self.config.model_type,
            type(self.model).__name__,
            self._fingerprint(),
        )
