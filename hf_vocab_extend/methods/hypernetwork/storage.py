"""Trained hypernetworks on disk: a folder that holds one sub-folder for each table."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..._logging import get_logger
from ...errors import InvalidOptionError, InvalidTableError, OutputFolderError

logger = get_logger(__name__)

FACTS, TENSORS = "hypernetwork.json", "hypernetwork.safetensors"
_FORMAT = 1
_KEY_LENGTH = 16


@dataclass(eq=False)
class Shelf:
    """Predictors of one space of words and one rank, each in a sub-folder named after its table.

    Attributes:
        folder: Where they lie; need not exist.
        space: Key of the words that source tokens are in, see :meth:`~.bags.Bags.fingerprint`.
        rank: Rank that was asked for; None for the full width.
        found: What lies there, by the key of the table.
        is_used: Whether anything lay there when it was opened.
    """

    folder: Path
    space: str
    rank: int | None
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_used: bool = False

    @classmethod
    def open(cls, folder: str, space: str, rank: int | None) -> Shelf:
        """Read what a folder holds, before any work.

        Raises:
            InvalidTableError: If a predictor in it is of another space of words, or cannot be read.
            InvalidOptionError: If one is of another rank.
            OutputFolderError: If the folder is a file, or holds other things.
        """
        path = Path(folder).expanduser()
        shelf = cls(path, space, rank)
        if not path.exists():
            return shelf
        if not path.is_dir():
            raise OutputFolderError(f"'{path.name}' is a file. Name a folder for trained hypernetworks.")
        for entry in sorted(path.iterdir()):
            if entry.name.startswith("."):
                continue
            if not (entry / FACTS).is_file():
                raise OutputFolderError(
                    f"The folder '{path.name}' holds '{entry.name}', which is no hypernetwork. Name an empty folder."
                )
            facts = _read_facts(entry)
            shelf._check(facts, path.name)
            shelf.found[facts["table"]] = facts
        shelf.is_used = bool(shelf.found)
        return shelf

    def _check(self, facts: dict[str, Any], name: str) -> None:
        """Raise unless a predictor is of this space and rank."""
        if facts["space"] != self.space:
            raise InvalidTableError(
                f"The hypernetwork in '{name}' was made for another space of words: {facts['n_tokens']} source tokens "
                "in other words, or in the same words with other vectors. Bring the word vectors that it was trained "
                "with, or name another folder to train a new one."
            )
        if facts["rank"] != self.rank:
            shown = ["the full width" if rank is None else f"rank {rank}" for rank in (facts["rank"], self.rank)]
            raise InvalidOptionError(
                f"The hypernetwork in '{name}' was made for {shown[0]}, and {shown[1]} is asked for. Ask for its "
                "rank, or name another folder to train a new one."
            )

    def find(self, table: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return tensors and facts of the predictor of a table; None if the folder was empty before this run.

        Raises:
            InvalidTableError: If it was not, and holds none of this table, or the file cannot be read.
        """
        if table in self.found:
            path = self.folder / table[:_KEY_LENGTH] / TENSORS
            try:
                return load_file(path), self.found[table]
            except (SafetensorError, OSError) as error:
                raise InvalidTableError(
                    f"The hypernetwork {path.parent.name} in '{self.folder.name}' cannot be read ({error}). Remove "
                    "it, and it is trained again."
                ) from error
        if self.is_used:
            raise InvalidTableError(
                f"The hypernetwork in '{self.folder.name}' was made for another table: the source rows of this model "
                "are not those that it has learnt. Name another folder to train a new one."
            )
        return None

    def keep(self, table: str, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Write a predictor: beside its place first, then by rename. In many processes only the first one writes.

        Raises:
            OutputFolderError: If the folder cannot be written.
        """
        facts = {
            "format": _FORMAT,
            "space": self.space,
            "table": table,
            "rank": self.rank,
            **facts,
        }
        self.found[table] = facts
        if int(os.environ.get("RANK", "0")) != 0:
            return
        place = self.folder / table[:_KEY_LENGTH]
        temporary = self.folder / f".{place.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
        try:
            temporary.mkdir(parents=True)
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary / TENSORS)
            (temporary / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            temporary.rename(place)
        except OSError as error:
            raise OutputFolderError(
                f"The hypernetwork cannot be written to '{self.folder.name}' ({error}). Name a folder with free space."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        logger.info("The hypernetwork lies in %s", place)


def _read_facts(entry: Path) -> dict[str, Any]:
    """Return the plain data of a predictor.

    Raises:
        InvalidTableError: If it cannot be read, or a newer version wrote it.
    """
    try:
        facts = json.loads((entry / FACTS).read_text(encoding="utf-8"))
        if facts["format"] > _FORMAT:
            raise InvalidTableError(
                f"The hypernetwork {entry.name} has the format {facts['format']}; this version reads up to {_FORMAT}. "
                "Install a newer version of hf_vocab_extend."
            )
        wanted = {"space", "table", "rank", "n_tokens", "config"} - facts.keys()
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InvalidTableError):
            raise
        wanted = {str(error)}
    if wanted:
        raise InvalidTableError(
            f"The file {FACTS} of the hypernetwork {entry.name} cannot be read ({', '.join(sorted(wanted))}). "
            "Remove that folder, and it is trained again."
        )
    return facts


__all__ = ["FACTS", "TENSORS", "Shelf"]
