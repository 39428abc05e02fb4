"""Counts of translations between units: merged, scaled, saved and loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from ...errors import AlignmentError, InvalidOptionError, OutputFolderError, TokenizerMismatchError
from ...vocab.pipeline import backend_of
from .units import Units, UnitTable

FORMAT = "hf_vocab_extend.unit_counts"
FORMAT_VERSION = 1


def vocab_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of a vocabulary (hexadecimal): every token with its id, added ones included."""
    vocab = backend_of(tokenizer).get_vocab(with_added_tokens=True)
    digest = hashlib.sha256()
    for token, index in sorted(vocab.items(), key=lambda item: item[1]):
        digest.update(f"{index}\t{len(token)}\t{token}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class UnitCounts:
    """How often a source unit and a target unit are translations of each other.

    Attributes:
        source: Unique units of the source side.
        target: Unique units of the target side.
        source_index: Source unit of each link, int32, shape `(n_links,)`.
        target_index: Target unit of each link, int32, shape `(n_links,)`. Links are unique, ascending by
            ``(source_index, target_index)``.
        forward: Expected count under the model p(target | source), float64, shape `(n_links,)`.
        backward: The same under p(source | target); all zero where only one direction is known.
        n_pairs: Pairs that were counted.
        source_vocab: Fingerprint of the source tokenizer's vocabulary, see :func:`vocab_fingerprint`.
        target_vocab: Of the target tokenizer's.
        info: What made the counts (aligner, unit, options), JSON-safe.
    """

    source: Units
    target: Units
    source_index: np.ndarray
    target_index: np.ndarray
    forward: np.ndarray
    backward: np.ndarray
    n_pairs: int
    source_vocab: str
    target_vocab: str
    info: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of links."""
        return len(self.source_index)

    @property
    def counts(self) -> np.ndarray:
        """Count of each link, both directions summed, float64, shape `(n_links,)`."""
        return self.forward + self.backward

    def __repr__(self) -> str:
        return (
            f"UnitCounts({len(self.source)} source units, {len(self.target)} target units, {len(self)} links, "
            f"{self.n_pairs} pairs)"
        )

    def check_tokenizers(
        self, source_tokenizer: PreTrainedTokenizerBase, target_tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Raise unless the counts were made with tokenizers of these vocabularies.

        Raises:
            TokenizerMismatchError: It says which side differs.
        """
        sides = (("source", self.source_vocab, source_tokenizer), ("target", self.target_vocab, target_tokenizer))
        for side, expected, tokenizer in sides:
            found = vocab_fingerprint(tokenizer)
            if found != expected:
                raise TokenizerMismatchError(
                    f"The counts were made with another {side} tokenizer: its vocabulary has the fingerprint "
                    f"{expected[:12]}, the one given {found[:12]}. Count the text again with this tokenizer."
                )

    def scaled(self, weight: float) -> UnitCounts:
        """Return the counts times a positive number (a language that should count more, or less).

        Raises:
            InvalidOptionError: If the weight is not a positive finite number.
        """
        if not (np.isfinite(weight) and weight > 0):
            raise InvalidOptionError(f"The weight of counts is {weight}. Give a positive finite number.")
        return dataclasses.replace(self, forward=self.forward * weight, backward=self.backward * weight)

    def __add__(self, other: UnitCounts) -> UnitCounts:
        """Return the sum of two countings, for example of two shards of one corpus.

        Units of the first keep their numbers, new ones of the second follow. ``info`` keeps what both agree on.

        Raises:
            TokenizerMismatchError: If they were made with different vocabularies.
        """
        if not isinstance(other, UnitCounts):
            return NotImplemented
        ours, theirs = (self.source_vocab, self.target_vocab), (other.source_vocab, other.target_vocab)
        for side, left, right in zip(("source", "target"), ours, theirs, strict=True):
            if left != right:
                raise TokenizerMismatchError(
                    f"The two countings have different {side} vocabularies (fingerprints {left[:12]} and "
                    f"{right[:12]}), so their units mean different things. Count both with the same tokenizers."
                )
        source, source_places = _joined(self.source, other.source)
        target, target_places = _joined(self.target, other.target)
        links = sum_links(
            np.concatenate([self.source_index, source_places[other.source_index]]),
            np.concatenate([self.target_index, target_places[other.target_index]]),
            np.concatenate([self.forward, other.forward]),
            np.concatenate([self.backward, other.backward]),
        )
        return UnitCounts(
            source,
            target,
            *links,
            n_pairs=self.n_pairs + other.n_pairs,
            source_vocab=self.source_vocab,
            target_vocab=self.target_vocab,
            info=_common_info(self.info, other.info),
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the counts to one safetensors file, by rename: no half file is ever left.

        Returns:
            Where it lies.

        Raises:
            OutputFolderError: If the file cannot be written.
        """
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(self.arrays(), part, metadata=self.metadata())
            part.replace(path)
        except (OSError, SafetensorError) as error:
            raise OutputFolderError(
                f"The counts cannot be written to '{path}' ({error}). Choose another place."
            ) from error
        finally:
            if part.exists():
                part.unlink()
        return path

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name, as :meth:`save` writes them."""
        arrays = {name: getattr(self, name) for name in ("source_index", "target_index", "forward", "backward")}
        for side in ("source", "target"):
            units = getattr(self, side)
            arrays |= {f"{side}_{name}": getattr(units, name) for name in ("offsets", "pieces", "frequency")}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def metadata(self) -> dict[str, str]:
        """Return all that is no array, as :meth:`save` writes it."""
        plain = {name: getattr(self, name) for name in ("n_pairs", "source_vocab", "target_vocab", "info")}
        return {"format": FORMAT, "counts": json.dumps({"version": FORMAT_VERSION, **plain}, sort_keys=True)}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> UnitCounts:
        """Read counts that :meth:`save` wrote.

        Raises:
            AlignmentError: If there is no such file, or it holds no counts.
        """
        path = Path(path)
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise AlignmentError(f"'{path}' cannot be read as counts ({error}). Count the text again.") from error
        return cls.from_arrays(arrays, metadata, f"'{path}'")

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], metadata: dict[str, str], name: str) -> UnitCounts:
        """Build counts from what :meth:`arrays` and :meth:`metadata` gave.

        Raises:
            AlignmentError: If it is of another kind or version, or its parts do not fit together.
        """
        if metadata.get("format") != FORMAT:
            raise AlignmentError(
                f"{name} is a safetensors file without translation counts. Pass one of UnitCounts.save."
            )
        plain = json.loads(metadata["counts"])
        version = plain.pop("version")
        if version != FORMAT_VERSION:
            raise AlignmentError(
                f"{name} holds counts of format {version}; this version reads format {FORMAT_VERSION}. Count again."
            )
        parts = ("offsets", "pieces", "frequency")
        source, target = (Units(*(arrays[f"{side}_{part}"] for part in parts)) for side in ("source", "target"))
        links = {key: arrays[key] for key in ("source_index", "target_index", "forward", "backward")}
        _check_links(source, target, list(links.values()), name)
        return cls(source, target, **links, **plain)  # type: ignore[arg-type]


LinkArrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Source unit, target unit, forward and backward count of links, as :func:`sum_links` returns them."""


def sum_links(
    source_index: np.ndarray, target_index: np.ndarray, forward: np.ndarray, backward: np.ndarray
) -> LinkArrays:
    """Add up links of the same two units.

    Args:
        source_index: Source unit of each link, shape `(n,)`.
        target_index: Target unit of each link, shape `(n,)`.
        forward: Count in one direction, shape `(n,)`.
        backward: Count in the other direction, shape `(n,)`.

    Returns:
        The same four for unique links, ascending by ``(source_index, target_index)``: int32, int32, float64, float64.
    """
    width = int(target_index.max(initial=0)) + 1
    keys, inverse = np.unique(source_index.astype(np.int64) * width + target_index, return_inverse=True)
    sums = [
        np.bincount(inverse, weights=values, minlength=len(keys)).astype(np.float64) for values in (forward, backward)
    ]
    return (keys // width).astype(np.int32), (keys % width).astype(np.int32), sums[0], sums[1]


def sum_parts(parts: Sequence[LinkArrays]) -> LinkArrays:
    """Add up the links of several parts of a text; no part gives no links."""
    if not parts:
        return np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0), np.empty(0)
    source, target, forward, backward = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return sum_links(source, target, forward, backward)


def _joined(left: Units, right: Units) -> tuple[Units, np.ndarray]:
    """Return the units of both, and the new number of each unit of the second, int32."""
    table = UnitTable()
    own = table.add(left.pieces, left.offsets)
    places = table.add(right.pieces, right.offsets)
    frequency = np.zeros(len(table), np.int64)
    np.add.at(frequency, own, left.frequency)
    np.add.at(frequency, places, right.frequency)
    return table.units(frequency), places


def _common_info(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Return what two descriptions agree on, in the first one's order; numbers of skipped things are added."""
    both = {key: value for key, value in left.items() if key in right and right[key] == value}
    added = {
        key: value + right[key]
        for key, value in left.items()
        if key.startswith("n_") and isinstance(value, int) and isinstance(right.get(key), int)
    }
    return {key: {**both, **added}[key] for key in left if key in both or key in added}


def _check_links(source: Units, target: Units, links: list[np.ndarray], name: str) -> None:
    """Raise if arrays that belong together differ in length or point outside each other."""
    lengths = {len(array) for array in links}
    indices_fit = all(
        not len(index) or 0 <= int(index.min()) <= int(index.max()) < len(units)
        for index, units in zip(links[:2], (source, target), strict=True)
    )
    units_fit = all(
        len(units.offsets) == len(units) + 1 and units.offsets[0] == 0 and units.offsets[-1] == len(units.pieces)
        for units in (source, target)
    )
    if len(lengths) != 1 or not indices_fit or not units_fit:
        raise AlignmentError(f"The parts of {name} do not fit together. Count the text again.")


__all__ = ["LinkArrays", "UnitCounts", "Units", "sum_links", "sum_parts", "vocab_fingerprint"]
