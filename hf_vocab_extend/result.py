"""What ``extend_vocabulary`` gives back, and how it reaches a folder or the Hub."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._logging import get_logger
from .describing import extension_lines, short_repr
from .evaluation.curves import write_curves
from .report import REPORT_FILE, ExtensionReport
from .saving import (
    CARD_FILE,
    SPARE_BYTES,
    ExtraFiles,
    check_extra_files,
    check_output_folder,
    model_bytes,
    save_tokenizer,
    staged_folder,
    write_extra_files,
)
from .scrub import without_private
from .side_files import side_files
from .surgery.factorize import saved_form
from .verify import verify_folder

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .mapping import TokenMapping

logger = get_logger(__name__)

MAPPING_FILE = "vocab_mapping.safetensors"


@dataclass(repr=False)
class VocabExtension:
    """An extended model with all that belongs to it.

    Attributes:
        model: The model; the same object that was given to ``extend_vocabulary``.
        tokenizer: Its new tokenizer.
        mapping: Where each row came from; ``mapping.explain("kitabu")``.
        report: What was done. Replace it by ``report.with_evaluations(...)`` or ``report.with_training(...)`` before
            saving, so that the card says so.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    mapping: TokenMapping
    report: ExtensionReport

    def __repr__(self) -> str:
        """Four lines: the model, what was done, how many rows are of which kind."""
        return short_repr(self, extension_lines(self))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        max_shard_size: str | int = "5GB",
        overwrite: bool = False,
        verify: bool = True,
        factorized: bool = False,
        extra_files: ExtraFiles | None = None,
        language: str | Sequence[str] | None = None,
        license: str | None = None,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a folder that plain ``from_pretrained`` loads: model, tokenizer, report, mapping and card.

        The folder is complete or not there at all; into one that exists, files move only when all of them are
        written and checked. Other files of such a folder stay, and so does the text around our part of its README.md.

        Args:
            save_directory: Where to write.
            max_shard_size: Largest size of one file of weights.
            overwrite: Write into a folder that is not empty.
            verify: Load the folder again and compare ids, tensors, ties, outputs and stop ids. It takes the memory of
                a second model.
            factorized: Write the tables of a factorised model as the two matrices that they are, with the code that
                loads them: smaller, and to be loaded with ``trust_remote_code=True`` or with this package imported. By
                default their product is written, which loads anywhere.
            extra_files: Files to write along: relative path to a file, or to its bytes. Those of the base model that
                do not depend on the vocabulary (modules of sentence-transformers, processors, licence) go along
                anyway, if they lie on this machine; the same path with other content here replaces one.
            language: Language codes for the card; by default those of the report.
            license: Licence for the card; by default what the base model's own README.md states, or none.
            card: More arguments of :func:`~hf_vocab_extend.hub.card.render_card`, for example ``model_name``.

        Raises:
            OutputFolderError: Before any work, if the folder is not empty, not writable, a file, or on a full disk.
            InvalidOptionError: Before any work, if an option of the card or an extra file is wrong, or if
                ``factorized`` is asked of a model with dense tables.
            VerificationError: If the folder does not load back equal. Nothing is left of it.
        """
        from .hub.card import card_of_folder, render_card

        extra_files = self._side_files() | dict(extra_files or {})
        check_extra_files(extra_files)
        n_bytes = model_bytes(self.model) + SPARE_BYTES
        path = check_output_folder(save_directory, n_bytes, overwrite=overwrite)
        options = self._card_options(path, language, license) | dict(card or {})
        render_card(self.report, **options)  # what is wrong with the card shows before any work
        with saved_form(self.model, factorized=factorized), staged_folder(path) as folder:
            self._write(folder, max_shard_size, extra_files)
            for note in verify_folder(folder, self.model, self.tokenizer) if verify else ():
                logger.warning("%s", note)
            (folder / CARD_FILE).write_bytes(card_of_folder(folder, **options).encode("utf-8"))
        logger.info("Saved to %s", path.name)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        **save_options: Any,
    ) -> CommitInfo:
        """Save, verify and upload in one commit; the repository is created if it does not exist.

        Args:
            repo_id: ``user/name`` or ``name``.
            private: Whether a new repository is private; None takes the organisation's default.
            token: A token, None for the saved one, False for none.
            revision: Branch to commit to; it is created if it does not exist.
            create_pr: Open a pull request instead of committing to the branch.
            commit_message: First line of the commit.
            save_options: Options of :meth:`save_pretrained`.

        Returns:
            The commit, with its address.

        Raises:
            HubError: If the Hub refuses; the message says what to do.
            VerificationError: If the saved folder does not load back equal. Nothing is uploaded then.
        """
        from .hub.push import check_repo_id, push_with_card

        name = check_repo_id(repo_id)
        with tempfile.TemporaryDirectory(prefix="hf_vocab_extend-") as scratch:
            folder = Path(scratch) / name.rpartition("/")[2]
            self.save_pretrained(folder, **save_options)
            given = {key: save_options[key] for key in ("language", "license") if save_options.get(key) is not None}
            return push_with_card(
                folder,
                repo_id,
                given | dict(save_options.get("card") or {}),
                private=private,
                token=token,
                revision=revision,
                create_pr=create_pr,
                commit_message=commit_message,
            )

    def _side_files(self) -> dict[str, Path]:
        """Return the files beside the base model that stay true, as far as they are on this machine."""
        from .prepare import hub_name

        name = self.model.config._name_or_path
        if not name or not (Path(name).is_dir() or hub_name(name)):
            return {}
        try:
            return side_files(name, local_only=True)
        except (OSError, ValueError) as error:  # they are an extra; the model is saved without
            logger.warning(
                "The files beside the base model cannot be read (%s) and are left out.", type(error).__name__
            )
            return {}

    def _write(self, folder: Path, max_shard_size: str | int, extra_files: ExtraFiles) -> None:
        """Write everything but the card."""
        self.model.save_pretrained(folder, max_shard_size=max_shard_size)
        write_vocabulary(self, folder)
        write_curves(self.report.training, folder)
        write_extra_files(extra_files, folder)

    def _card_options(self, path: Path, language: str | Sequence[str] | None, license: str | None) -> dict[str, Any]:
        """Return the arguments of ``render_card`` for a folder that will stand at ``path``."""
        from .hub.card import read_card, stated_license

        readme, base = path / CARD_FILE, self.model.config._name_or_path
        options = {
            "language": language,
            "model_name": path.name,
            "load_name": path.name,
            "existing": read_card(readme),
        }
        if license is not None:
            return options | {"license": license}
        if base and not stated_license(readme):
            return options | stated_license(Path(base) / CARD_FILE)
        return options


def write_vocabulary(extension: VocabExtension, folder: Path) -> ExtensionReport:
    """Write tokenizer, report and mapping of an extension; return the report as written, without private names."""
    save_tokenizer(extension.tokenizer, folder)
    report = ExtensionReport.from_dict(without_private(extension.report.to_dict()))
    (folder / REPORT_FILE).write_text(report.to_json(), "utf-8")
    extension.mapping.save(folder / MAPPING_FILE)
    return report
