"""Put a token table that was learned on a mini-model into the full model, or into a task model made of that."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..._logging import get_logger
from ...errors import (
    BaseModelMismatchError,
    InvalidOptionError,
    MissingResourceError,
    TokenizerMismatchError,
    UnsupportedModelError,
    VocabExtendWarning,
)
from ...low_rank_tables import rank_of
from ...origin import LEARNED_ON, Origin
from ...prepare import ROWS_IN_USE, highest_id, hub_name, public_name
from ...report import REPORT_FILE, ExtensionReport
from ...result import VocabExtension
from ...surgery.apply import write_tables
from ...surgery.journal import Journal
from ...surgery.positions import plan_position_shift
from ...surgery.sites import Site, Sites, describe, find_sites
from ...surgery.token_ids import IdMap, remap_token_ids
from ..locate import check_rows, locate_extension
from .given import check_model_given
from .learning import LearnedEmbeddings
from .plugged import Plugged, plan_of, read_plugged, take_out, token_settings, write_plugged
from .record import MiniRecord, bottom_moved, float16_note, read_record, table_hashes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = get_logger(__name__)


@dataclass(frozen=True, eq=False)
class _Donor:
    """Where a table comes from.

    Attributes:
        extension: The extension whose table it is; None if it is still to be learned.
        sites: Its sites.
        record: What its model was made from; None if that is not known.
        source: A model that has the table of the source language, if one is at hand.
    """

    extension: VocabExtension | None
    sites: Sites
    record: MiniRecord | None
    source: PreTrainedModel | None


def transplant_embeddings(
    mini: LearnedEmbeddings | VocabExtension | str | os.PathLike[str],
    model: PreTrainedModel,
    *,
    allow_moved: bool = False,
) -> VocabExtension:
    """Give a model the token tables that were learned on a mini-model of it; modifies the model in place.

    The last step of Marchisio et al. 2023 (arXiv 2212.10503). Input table, head and bias are written as they are
    (rounded to the model's type), whatever their number of rows; counts, token ids and positions in the configs follow
    as in ``extend_vocabulary``. A model without a head over the vocabulary takes the input table alone. Everything
    else stays bitwise as it is. A model that took a table before takes another one in its place.

    A language model whose bottom layers are not those of the cut takes the rows too, with a warning; those of a task
    model move while it is fine-tuned.

    A failed call leaves the model as it was. Parameters keep their identity, so build the optimizer afterwards.

    Args:
        mini: What :func:`~.learning.learn_embeddings` returned, an extension of a mini-model, or the folder in which
            one of both was saved.
        model: The model that the mini-model was cut from, or a task model that was fine-tuned from it while its token
            tables were frozen.
        allow_moved: Accept a model whose tables are not those that the mini-model was cut with; it warns.

    Returns:
        The model with tokenizer and mapping of the mini-model's extension; the report says where its rows were
        learned.

    Raises:
        InvalidOptionError: If ``model`` is the very model of the extension, a mini-model, or only a name.
        MissingResourceError: If it is not known which tables the extension's model had.
        TokenizerMismatchError: If the vocabulary of the model is not the one that the mini-model was cut with.
        BaseModelMismatchError: If the tables differ in width, or have moved since; the message says how far.
        UnsupportedModelError: If a table of the model has no counterpart, or is factorised.

    Example:
        >>> full = transplant_embeddings(learned, classifier)
        >>> full.save_pretrained("out")
    """
    check_model_given(model)
    donor = _donor(mini)
    extension = donor.extension
    assert extension is not None
    if extension.model is model:
        raise InvalidOptionError("The model is the one that the table was learned on. Give the full model.")
    fit = _fit(donor, model, allow_moved=allow_moved)
    report = _write(model, extension, donor.record, fit)
    logger.info("%s", report)
    return VocabExtension(model, extension.tokenizer, extension.mapping, report)


def check_transplant(
    mini: PreTrainedModel | VocabExtension, model: PreTrainedModel, *, allow_moved: bool = False
) -> None:
    """Raise if a table that is learned on a mini-model could not be put into a model; to be called before learning.

    Args:
        mini: What :func:`~.learning.learn_embeddings` shall be given.
        model: What :func:`transplant_embeddings` shall be given; it is not changed.
        allow_moved: As there.

    Raises:
        VocabExtendError: As :func:`transplant_embeddings` does.
    """
    if isinstance(mini, VocabExtension):
        donor = _donor(mini)
    else:
        record = read_record(mini) or MiniRecord.of(mini, "full", 0)
        donor = _Donor(None, find_sites(mini, 0), record, mini)
    _fit(donor, model, allow_moved=allow_moved)


class _Fit(NamedTuple):
    """How a table goes into a model: its sites, the learned one for each, and the table that it took before."""

    sites: Sites
    pairs: list[tuple[Site, Site]]
    plugged: Plugged | None


def _fit(donor: _Donor, model: PreTrainedModel, *, allow_moved: bool) -> _Fit:
    """Return how a table goes into a model.

    Raises:
        InvalidOptionError: If the model is a mini-model.
        UnsupportedModelError: If a table of the model has no counterpart, or is factorised.
        VocabExtendError: As :func:`_check_source` does.
    """
    if rank_of(model) is not None:
        raise UnsupportedModelError("The tables of the model are factorised. Load it with dense tables.")
    own = read_record(model)
    if own is not None and own.kind != "full":
        raise InvalidOptionError("This is the mini-model. Give the model that it was cut from.")
    sites = find_sites(model, 0)
    pairs = _pairs(sites, donor.sites)
    plugged, now = read_plugged(model), table_hashes(model)
    if donor.record is not None and not _differing(now, donor.record.source_tables):
        plugged = None  # the mini-model was cut after the model took its table
    _check_source(now, sites, donor, plugged, allow_moved=allow_moved)
    if donor.record is not None and sites.head is not None and bottom_moved(model, donor.record):
        warnings.warn(
            f"The {donor.record.bottom_layers} bottom layers of the model are not those with which the mini-model was "
            "cut, so the rows were learned for others. Cut the mini-model again, and train it."
            f"{float16_note(model.parameters())}",
            VocabExtendWarning,
            stacklevel=3,
        )
    return _Fit(sites, pairs, plugged)


def _donor(mini: Any) -> _Donor:
    """Return where a table comes from.

    Raises:
        InvalidOptionError: If it is nothing that holds one.
        UnsupportedModelError: If its tables are factorised, or a folder's model is of no class of transformers.
    """
    source = None
    if isinstance(mini, str | os.PathLike):
        extension = _load(mini)
    elif isinstance(mini, LearnedEmbeddings):
        extension, source = mini.extension, mini.source
    elif isinstance(mini, VocabExtension):
        extension = mini
    else:
        raise InvalidOptionError(
            f"mini is a {type(mini).__name__}. Give what learn_embeddings or extend_vocabulary returned, or the "
            "folder in which it was saved."
        )
    if rank_of(extension.model) is not None:
        raise UnsupportedModelError("The learned tables are factorised. Extend the mini-model without factorize=.")
    check_rows(extension.model, extension)
    sites = find_sites(extension.model, highest_id(extension.tokenizer) + 1)
    return _Donor(extension, sites, read_record(extension.model), source)


def _load(folder: str | os.PathLike[str]) -> VocabExtension:
    """Load a saved extension with the class of its model.

    Raises:
        MissingResourceError: If the folder holds no extension.
    """
    from transformers import AutoConfig

    from ...modeling.storage import load_model, local_folder

    path = local_folder(folder, revision=None, token=None)
    architectures = AutoConfig.from_pretrained(path).architectures or [""]
    if not (path / REPORT_FILE).is_file():
        raise MissingResourceError(
            f"'{public_name(os.fspath(folder))}' holds no table of another language ({REPORT_FILE}). Run "
            "learn_embeddings on what it holds first, and give what that saved."
        )
    return locate_extension(load_model(path, architectures[0]), None, path)


def _pairs(sites: Sites, learned: Sites) -> list[tuple[Site, Site]]:
    """Return for each site of a model the learned one that goes there.

    Raises:
        UnsupportedModelError: If there is none, or head and input table are one in only one of the models.
        BaseModelMismatchError: If they differ in width.
    """
    if sites.head is not None and learned.head is not None and sites.tied != learned.tied:
        which = ("shares its head with", "does not") if sites.tied else ("has a head beside", "shares them")
        raise UnsupportedModelError(
            f"The model {which[0]} the input table, and the model that the rows were learned on {which[1]}. Cut the "
            "mini-model from this model."
        )
    return [(site, _counterpart(site, learned)) for site in sites]


def _counterpart(site: Site, learned: Sites) -> Site:
    """Return the learned site that plays the same part."""
    same = [item for item in learned if site.role in item.roles]
    found = next((item for item in same if item.name == site.name), same[0] if len(same) == 1 else None)
    if found is None:
        raise UnsupportedModelError(
            f"'{site.name}' of the model is indexed by tokens, and the model that the rows were learned on has no "
            "such table. Learn them on a mini-model with the same head."
        )
    own, new = ([size for axis, size in enumerate(item.tensor.shape) if axis != item.axis] for item in (site, found))
    if own != new or site.axis != found.axis:
        raise BaseModelMismatchError(
            f"The learned rows of '{found.name}' have the width {_shown(new)}, those of the model {_shown(own)}. Give "
            "the model that the mini-model was cut from."
        )
    return found


def _shown(sizes: list[int]) -> str:
    """Return sizes as text."""
    return " x ".join(map(str, sizes)) or "1"


def _check_source(
    now: Mapping[str, str], sites: Sites, donor: _Donor, plugged: Plugged | None, *, allow_moved: bool
) -> None:
    """Raise unless a model has the tables that the mini-model was cut with, or took one in their place.

    Raises:
        MissingResourceError: If it is not known which tables those are.
        TokenizerMismatchError: If their number of rows differs.
        BaseModelMismatchError: If their values differ.
    """
    record, extension = donor.record, donor.extension
    if record is None and extension is not None and not allow_moved and read_plugged(extension.model) is not None:
        raise MissingResourceError(
            "The given model is a full one that took a learned table, and does not say which tables that was learned "
            "for. Give what learn_embeddings returned or saved."
        )
    if record is None and not allow_moved:
        raise MissingResourceError(
            "The model that the rows were learned on does not say with which tables it was cut, so it is not known "
            "whether they fit this one. Learn on what build_mini_model or MiniJointModel.cut gave, give "
            "learn_embeddings the model and the tokenizer, or pass allow_moved=True."
        )
    if record is not None:
        wanted = record.source_vocab_size
    else:
        assert extension is not None
        wanted = extension.report.sizes["source_rows"]
    n_rows = plugged.source_vocab_size if plugged is not None else sites.n_rows
    if n_rows != wanted:
        raise TokenizerMismatchError(
            f"The model has {n_rows} rows for its tokens, and the mini-model was cut from one with {wanted}. Give the "
            "model that it was cut from."
        )
    if record is None:
        return
    problem = _moved(now, sites, donor, record, plugged)
    if problem is None:
        return
    if not allow_moved:
        raise BaseModelMismatchError(
            f"{problem}. Freeze the token tables while fine-tuning, or cut the mini-model from the model as it is "
            f"now; allow_moved=True takes the rows all the same.{float16_note(site.table() for site in sites)}"
        )
    warnings.warn(f"{problem}: check the outputs before you rely on them.", VocabExtendWarning, stacklevel=4)


def _moved(
    now: Mapping[str, str], sites: Sites, donor: _Donor, record: MiniRecord, plugged: Plugged | None
) -> str | None:
    """Say how the tables of a model differ from those that a mini-model was cut with; None if they do not."""
    if plugged is not None:
        other = _differing(plugged.source_tables, record.source_tables)
        if other:
            return f"The model took a table of a mini-model that was cut from other tables ({', '.join(other)})"
        moved = _differing(now, plugged.tables)
        return f"The tables of the model ({', '.join(moved)}) moved after it took them" if moved else None
    moved = _differing(now, record.source_tables)
    if not moved:
        return None
    reference = _reference(donor, record)
    how_far = [_distance(site, reference[site.role]) for site in sites if site.role in reference.keys() & {*moved}]
    told = f": {'; '.join(how_far)}" if how_far else ""
    return f"The token tables of the model ({', '.join(moved)}) are not those that the mini-model was cut with{told}"


def _differing(now: Mapping[str, str], then: Mapping[str, str]) -> list[str]:
    """Return the tables of which both have a hash, and another one."""
    return [role for role, value in now.items() if role in then and then[role] != value]


def _reference(donor: _Donor, record: MiniRecord) -> dict[str, torch.Tensor]:
    """Return the source's tables by role, as far as they are still to be had; `(n_rows, width)` each."""
    if donor.source is not None:
        hashes = table_hashes(donor.source)
        kept = {role for role, value in hashes.items() if record.source_tables.get(role) == value}
        return {site.role: site.table() for site in find_sites(donor.source, 0) if site.role in kept}
    extension = donor.extension
    if extension is not None and extension.report.mode == "extend":  # the rows of the source's tokens did not train
        return {site.role: site.table()[: record.source_vocab_size] for site in donor.sites}
    return {}


def _distance(site: Site, reference: torch.Tensor) -> str:
    """Say how many rows of a table moved, and how far; both are rounded as for the hash."""
    own = site.table()[: len(reference)].detach().to("cpu", torch.bfloat16).float()
    apart = (own - reference.to("cpu", torch.bfloat16).float()).abs()
    n_rows = int((apart.reshape(len(apart), -1) > 0).any(1).sum())
    return f"{n_rows} of {len(own)} rows of '{site.name}' differ, by {float(apart.max()):.3g} at most"


def _write(model: PreTrainedModel, extension: VocabExtension, record: MiniRecord | None, fit: _Fit) -> ExtensionReport:
    """Write tables, sizes, positions and token ids, or nothing; return the report of the full model."""
    sites, pairs, plugged = fit
    plan = plan_of(extension)
    ids = IdMap(plan)
    counts = {site.field: learned.n_rows - learned.extra for site, learned in pairs}
    tensors: list[torch.Tensor | None] = [
        learned.tensor.detach().to(device=site.tensor.device, dtype=site.tensor.dtype, copy=True)
        for site, learned in pairs
    ]
    with Journal() as journal:
        if plugged is not None:
            take_out(model, sites, plugged, journal)
        before = token_settings(model)
        shift = plan_position_shift(model, sites, ids)
        write_tables(model, sites, tensors, counts=counts, ids=ids, shift=shift, journal=journal)
        notes = remap_token_ids(model, plan, extension.tokenizer, journal=journal)
        journal.set_attribute(model, ROWS_IN_USE, plan.n_target)
        source_tables = dict(record.source_tables) if record is not None else {}
        rows = record.source_vocab_size if record is not None else sites.n_rows
        if plugged is not None:
            source_tables, rows = plugged.source_tables | source_tables, plugged.source_vocab_size
        done = Plugged.after(model, before, source_vocab_size=rows, source_tables=source_tables)
        write_plugged(model, done, journal)
        return _report(model, extension.report, record, find_sites(model, 0), notes)


def _report(
    model: PreTrainedModel, report: ExtensionReport, record: MiniRecord | None, sites: Sites, notes: list[str]
) -> ExtensionReport:
    """Return the report of the full model: the mini-model's, without scores that are not its own."""
    origin = Origin.of_record(record.to_dict() if record is not None else None, transplanted=True)
    verb = "made" if report.training is None else "learned"
    told = f"The rows were {verb} on {origin} and put into this model (Marchisio et al. 2023, arXiv 2212.10503)."
    return replace(
        report,
        training=None if report.training is None else {**report.training, LEARNED_ON: origin.to_dict()},
        base_model=hub_name(model.config._name_or_path),
        base_revision=getattr(model.config, "_commit_hash", None),
        tables=tuple(describe(site) for site in sites),
        tied=sites.tied,
        notes=tuple(dict.fromkeys((*report.notes, *notes, told))),
        evaluations=(),
    )


__all__ = ["check_transplant", "transplant_embeddings"]
