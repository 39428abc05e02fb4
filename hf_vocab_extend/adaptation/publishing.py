"""Tokenizer, report, mapping and card in the folder that a Trainer pushes to the Hub."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import TrainerCallback

from .._logging import get_logger
from ..errors import HubError, MissingResourceError
from ..hub.card import fill_front_matter, has_own_prose, read_card
from ..hub.refusals import with_clear_errors
from ..hub.retries import Patience, bounded_session, patiently
from ..report import REPORT_FILE, ExtensionReport
from ..saving import CARD_FILE
from .checkpoints import CheckpointPart, write_card, write_companions
from .host import running_trainer
from .tables import plain_model

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from ..result import VocabExtension

logger = get_logger(__name__)

_BY_TRAINER = "This model card has been generated automatically according to the information the Trainer"
"""Stands in the cards that ``Trainer`` writes; they are not the user's prose."""

_CARD_OPTIONS = {
    "language": "language",
    "license": "license",
    "tags": "tags",
    "model_name": "model_name",
    "finetuned_from": "base_model",
    "tasks": "pipeline_tag",
    "dataset_tags": "datasets",
}
"""Options of ``Trainer.push_to_hub`` to those of :func:`~hf_vocab_extend.hub.card.render_card`."""
_LISTS = {"tags", "datasets"}


class UnwrittenToken(str):
    """A token that is there while a process lives, and empty where it is pickled.

    ``Trainer`` pickles its arguments into ``training_args.bin``, which goes into every checkpoint and to the Hub, with
    ``hub_token`` in plain text.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[type[str], tuple[str]]:
        return str, ("",)

    def __copy__(self) -> UnwrittenToken:
        return self

    def __deepcopy__(self, memo: Any) -> UnwrittenToken:
        return self


class PublishPart(TrainerCallback):
    """Keeps our card where a Trainer pushes: ``push_to_hub``, and ``push_to_hub=True`` with any ``hub_strategy``.

    ``Trainer.push_to_hub`` writes a card of its own over README.md after ``on_push_begin``; for the Trainer that is
    pushing, the method that does is replaced by one that writes ours.

    Attributes:
        extension: The extension; nothing is written without.
        checkpoints: Part that writes beside a checkpoint; the Trainer pushes before it tells of the save.
    """

    def __init__(self, extension: VocabExtension | None = None) -> None:
        self.extension = extension
        self.checkpoints: CheckpointPart | None = None

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the token out of the files that the Trainer writes."""
        if isinstance(args.hub_token, str):
            args.hub_token = UnwrittenToken(args.hub_token)

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write tokenizer, report, mapping and card into the folder that will be pushed."""
        trainer = running_trainer()
        if self.extension is None or trainer is None or not state.is_world_process_zero:
            return
        if self.checkpoints is not None:
            self.checkpoints.on_save(args, state, control, **kwargs)
        folder, model = Path(str(args.output_dir)), plain_model(kwargs["model"])
        report = _report_so_far(self.extension.report, folder / f"checkpoint-{state.global_step}", state.global_step)
        extension = replace(self.extension, model=model, report=report)

        def create_model_card(**options: Any) -> None:
            """Write our card in place of the Trainer's."""
            write_beside(trainer, extension, folder, options)

        vars(trainer)["create_model_card"] = create_model_card
        try:
            create_model_card()
        except HubError as error:  # in the middle of training: the push at the end says so again, as an error
            logger.warning("%s The card is left as it is for now.", error)


def _report_so_far(report: ExtensionReport, checkpoint: Path, step: int) -> ExtensionReport:
    """Return the report of a checkpoint of this step, where the extension's own does not tell of the run yet."""
    file = checkpoint / REPORT_FILE
    if (report.training or {}).get("steps") == step or not file.is_file():
        return report
    return ExtensionReport.from_json(file.read_text("utf-8"))


def write_beside(trainer: Any, extension: VocabExtension, folder: Path, options: dict[str, Any]) -> None:
    """Write tokenizer, report, mapping and card into the folder that a Trainer pushes.

    Args:
        trainer: The Trainer.
        extension: The extension, with the trained model and the report so far.
        folder: The Trainer's output folder.
        options: Options of ``Trainer.create_model_card``.

    Raises:
        HubError: If the Hub cannot say whether there is a card with text of the user's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_companions(extension, folder)
    readme, repo_id = folder / CARD_FILE, trainer.hub_model_id
    own = _own_card(read_card(readme))
    if repo_id is not None and not (own and has_own_prose(own)):
        remote = _own_card(_remote_card(repo_id, trainer.args.hub_token))
        own = fill_front_matter(remote, own or "") if remote is not None else own
    if own is None:
        readme.unlink(missing_ok=True)
    else:
        readme.write_bytes(own.encode("utf-8"))
    names = {} if repo_id is None else {"model_name": repo_id.rpartition("/")[2], "load_name": repo_id}
    write_card(trainer, extension, folder, **(names | _card_options(options)))


def _card_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return what the user gave to ``Trainer.push_to_hub`` as options of our card."""
    given = {_CARD_OPTIONS[key]: value for key, value in options.items() if key in _CARD_OPTIONS and value}
    for key in _LISTS & set(given):
        given[key] = [given[key]] if isinstance(given[key], str) else list(given[key])
    if isinstance(given.get("pipeline_tag"), list):
        given["pipeline_tag"] = given["pipeline_tag"][0]
    return given


def push_trained(extension: VocabExtension | None, repo_id: str, options: dict[str, Any]) -> CommitInfo:
    """Save, verify and push a trained extension by itself, in one commit.

    Args:
        extension: The extension, with the trained model.
        repo_id: ``user/name`` or ``name``.
        options: Options of :meth:`VocabExtension.push_to_hub`.

    Raises:
        MissingResourceError: If no extension is known yet.
        HubError: If the Hub refuses; the message says what to do.
    """
    if extension is None:
        raise MissingResourceError(
            "The callback knows no extension before training has begun. Pass extension=, or push after training."
        )
    return extension.push_to_hub(repo_id, **options)


def _own_card(text: str | None) -> str | None:
    """Return a card, None where the Trainer made it."""
    return None if text is None or _BY_TRAINER in text else text


def _remote_card(repo_id: str, token: str | None) -> str | None:
    """Return the README.md on the Hub, None if there is none.

    Raises:
        HubError: If the Hub cannot be asked.
    """
    api, patience = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=token), Patience()

    def read() -> str | None:
        with bounded_session(patience), tempfile.TemporaryDirectory() as scratch:
            try:
                path = patiently(lambda: api.hf_hub_download(repo_id, CARD_FILE, local_dir=scratch), patience)
            except LocalEntryNotFoundError:  # no answer
                raise
            except (EntryNotFoundError, RepositoryNotFoundError):
                return None
            return read_card(Path(path))

    return with_clear_errors(read, repo_id, token)


__all__ = ["PublishPart", "push_trained", "write_beside"]
