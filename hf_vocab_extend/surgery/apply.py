"""Place rows into every vocabulary-sized tensor of a model: all of them, or none.

Rows are written into the existing Parameters, so modules (scaled embedding classes among them), hooks and ties
survive. Everything is computed and checked before the first write, and every write can be taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import InvalidOptionError, InvalidTableError, TokenizerMismatchError
from ..plan import MatchKind, VocabPlan
from .checks import check_values
from .config_tree import all_configs, fields_of, main_config, text_configs
from .journal import Journal
from .positions import PositionShift, plan_position_shift, write_position_shift
from .registry import COUNT_ATTRIBUTES, OTHER_MODALITY
from .row_layout import lay_out
from .sites import Site, Sites, describe
from .ties import make_flag_truthful
from .token_ids import IdMap

_ROWS_PER_BLOCK = 1 << 14
NewRows = Callable[[torch.Tensor, Site], torch.Tensor]
"""Takes a table `(n_source_rows, width)` and its site, gives float32 rows `(n_new, width)`, in the plan's order."""
PadRow = Callable[[torch.Tensor, Site], torch.Tensor]
"""Takes a table `(n_source_rows, width)` and its site, gives the row `(width,)` of ids without a token."""


@torch.no_grad()
def apply_rows(
    model: PreTrainedModel,
    sites: Sites,
    plan: VocabPlan,
    new_rows: NewRows,
    *,
    pad_row: PadRow,
    pad_to_multiple_of: int | None = None,
    journal: Journal | None = None,
) -> list[dict[str, object]]:
    """Give a model the rows of a plan, in place.

    In mode ``extend`` the ids of the source keep their rows bit by bit; a table grows to `n_target` rows and never
    shrinks, and padding rows that no token claims stay as they are. In mode ``replace`` a table has `n_target` rows
    afterwards. Both are rounded up to ``pad_to_multiple_of``. Rows are computed in float32 and cast once.

    Args:
        model: The model; it keeps its modules, Parameters, types, devices and ``requires_grad``.
        sites: What :func:`~.sites.find_sites` found on this model.
        plan: Which target row comes from which source row.
        new_rows: Called once per storage. A table shorter than the input table is shown with its mean row appended,
            a longer one without its last rows, so that all have the same `n_source_rows`.
        pad_row: Called once per storage that has ids without a token.
        pad_to_multiple_of: Round the number of rows up to a multiple of this.
        journal: Where to note the writes, for a caller whose own later failure must take them back too.

    Returns:
        Name, role, shape, type and aliases of each storage, as plain data.

    Raises:
        InvalidOptionError: If ``pad_to_multiple_of`` is not positive.
        TokenizerMismatchError: If the plan has more source ids than the input table has rows.
        InvalidTableError: If a computed row is NaN or infinite, or ``new_rows`` gives another shape.
        UnsupportedModelError: If the position embeddings depend on the padding id and cannot follow it.
    """
    if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
        raise InvalidOptionError(f"pad_to_multiple_of is {pad_to_multiple_of}; it must be at least 1.")
    if plan.n_source > sites.n_rows:
        raise TokenizerMismatchError(
            f"The plan has more tokens than the model has rows: {plan.n_source} source ids, {sites.n_rows} rows. "
            "Pass the tokenizer that belongs to this model with tokenizer=."
        )
    counts = new_counts(sites, plan, pad_to_multiple_of)
    ids = IdMap(plan)
    shift = plan_position_shift(model, sites, ids)
    tensors = [_compute(site, sites, plan, counts[site.field] + site.extra, new_rows, pad_row) for site in sites]
    with journal or Journal() as journal:
        write_tables(model, sites, tensors, counts=counts, ids=ids, shift=shift, journal=journal)
    return [describe(site) for site in sites]


def write_tables(
    model: PreTrainedModel,
    sites: Sites,
    tensors: Sequence[torch.Tensor | None],
    *,
    counts: dict[str, int],
    ids: IdMap,
    shift: PositionShift | None,
    journal: Journal,
) -> None:
    """Put computed tensors behind all sites, and let sizes, padding ids, positions and configs follow.

    Args:
        model: The model.
        sites: Its sites.
        tensors: One for each site, in the site's layout; None for one that stays.
        counts: New value of each vocabulary field.
        ids: Where padding ids go.
        shift: New position tables, if padding moves.
        journal: Where to note the writes.
    """
    for site, tensor in zip(sites, tensors, strict=True):
        write_site(site, tensor, journal)
    _write_padding_ids(model, sites, ids, journal)
    if shift is not None:
        write_position_shift(model, shift, journal)
    _write_counts(model, counts, journal)
    make_flag_truthful(model, sites, journal)


def new_counts(sites: Sites, plan: VocabPlan, pad_to_multiple_of: int | None) -> dict[str, int]:
    """Return the new value of each vocabulary field.

    Mode ``replace``: `n_target`. Mode ``extend``: as before, or as many as the highest id that gets a row needs; ids
    that stay need none, as a second table may lack their rows on purpose (Gemma 3n's has none for audio). A field is
    read off the tables that it counts, not off the config, which may be stale.
    """
    multiple = pad_to_multiple_of or 1
    placed = np.flatnonzero((plan.kinds != MatchKind.SAME) & (plan.kinds != MatchKind.HOLE))
    needed = int(placed[-1]) + 1 if len(placed) else 0
    counts = {}
    for field in {site.field for site in sites}:
        before = max(site.n_rows - site.extra for site in sites if site.field == field)
        wanted = max(before, needed) if plan.mode == "extend" else plan.n_target
        counts[field] = -(-wanted // multiple) * multiple
    return counts


def _compute(
    site: Site, sites: Sites, plan: VocabPlan, n_after: int, new_rows: NewRows, pad_row: PadRow
) -> torch.Tensor | None:
    """Return the new tensor of a site in its own layout, type and device; None if it stays as it is."""
    layout = lay_out(plan, site.n_rows, n_after)
    if layout.is_unchanged:
        return None
    table = site.table()
    shown = _as_long_as(table, sites.n_rows)
    result = table.new_empty(layout.n_rows, table.shape[1])
    result[: layout.n_kept] = table[: layout.n_kept]
    for start in range(0, len(layout.copied), _ROWS_PER_BLOCK):
        part = slice(start, start + _ROWS_PER_BLOCK)
        result[_index(layout.copied[part], table)] = table[_index(layout.sources[part], table)]
    if len(layout.new):
        rows = _checked(new_rows(shown, site), (len(layout.new), table.shape[1]), site)
        _place(result, layout.new, rows, site)
    if len(layout.padded):
        row = _checked(pad_row(shown, site).reshape(1, -1), (1, table.shape[1]), site)
        _place(result, layout.padded, row.expand(len(layout.padded), -1), site)
    return site.restore_layout(result)


def _index(ids: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """Bring ids to the device of a table."""
    return torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int64)).to(like.device)


def _as_long_as(table: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Cut a table, or append its mean, so that it has as many rows as the input table."""
    missing = n_rows - table.shape[0]
    if missing <= 0:
        return table[:n_rows]
    mean = table.mean(0, keepdim=True, dtype=torch.float32).to(table.dtype)
    return torch.cat([table, mean.expand(missing, -1)])


def _checked(rows: torch.Tensor, shape: tuple[int, int], site: Site) -> torch.Tensor:
    """Raise unless rows have the right shape."""
    if tuple(rows.shape) != shape:
        raise InvalidTableError(f"Rows for '{site.name}' have the shape {tuple(rows.shape)}; expected {shape}.")
    return rows


def _place(result: torch.Tensor, ids: np.ndarray, rows: torch.Tensor, site: Site) -> None:
    """Cast rows once, check them, and put them into a result that no one has seen yet."""
    cast = rows.to(device=result.device, dtype=result.dtype)
    check_values(f"{site.name} (computed rows)", cast, ids=torch.from_numpy(np.ascontiguousarray(ids)))
    result[_index(ids, result)] = cast


def write_site(site: Site, tensor: torch.Tensor | None, journal: Journal) -> None:
    """Put a new tensor behind every alias of a site and tell the modules their new sizes."""
    if tensor is None:
        return
    for live in {id(alias.tensor): alias.tensor for alias in site.aliases}.values():
        journal.set_data(live, tensor)
    for alias in site.aliases:
        kind = next((kind for kind in (nn.Embedding, nn.Linear) if isinstance(alias.module, kind)), None)
        name = _SIZE_ATTRIBUTES.get((kind, alias.attribute, site.axis))
        if name is not None:
            journal.set_attribute(alias.module, name, tensor.shape[site.axis])


_SIZE_ATTRIBUTES: dict[tuple[type[nn.Module] | None, str, int], str] = {
    (nn.Embedding, "weight", 0): "num_embeddings",
    (nn.Linear, "weight", 0): "out_features",
    (nn.Linear, "weight", 1): "in_features",
}
"""Attribute that repeats the length of an axis, by kind of layer, parameter and axis."""


def _write_padding_ids(model: PreTrainedModel, sites: Sites, ids: IdMap, journal: Journal) -> None:
    """Move ``padding_idx`` of the token tables, and of modules that repeat it, in mode ``replace``."""
    if ids.is_identity:
        return
    tables = {id(alias.module) for site in sites for alias in site.aliases}
    for name, module in model.named_modules():
        old = vars(module).get("padding_idx")
        is_other_table = isinstance(module, nn.Embedding) and id(module) not in tables
        if type(old) is int and not is_other_table and not OTHER_MODALITY.search(name):
            journal.set_attribute(module, "padding_idx", ids.find(old, role="pad"))


def _write_counts(model: PreTrainedModel, counts: dict[str, int], journal: Journal) -> None:
    """Update row counts in every config and in every module that repeats one."""
    main = main_config(model.config)
    before = fields_of(main)
    changed = {name: count for name, count in counts.items() if before.get(name) != count}
    old_size = before.get("vocab_size", -1)
    for config in text_configs(all_configs(model), old_size):
        for name, value in fields_of(config).items():
            wanted = changed.get(name, changed.get("vocab_size") if value == old_size else None)
            if wanted is not None:
                journal.set_attribute(config, name, wanted)
    for module in model.modules():
        for name in COUNT_ATTRIBUTES:
            field = name if name in before else "vocab_size"
            if field in changed and vars(module).get(name) == before[field]:
                journal.set_attribute(module, name, changed[field])
