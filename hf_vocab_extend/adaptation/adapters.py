"""Adapters of peft on an extended model: the right arguments, saved so that the new vocabulary comes back.

Measured with peft 0.21: an adapter of a model whose tables changed but kept their size holds no table by default, so
that a reload gives other logits by tens; ``trainable_token_indices`` given as a list trains the input rows only;
``modules_to_save`` on a tied model unties it when merged unless ``ensure_weight_tying`` is set; and a head whose rows
train through ``trainable_token_indices`` is computed without its bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from .._logging import get_logger
from ..errors import InvalidOptionError, UnsupportedModelError
from ..result import VocabExtension
from ..surgery.sites import Sites, scan_sites
from .rows import new_row_ids
from .tables import plain_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = get_logger(__name__)

_PEFT_NAMES = ("embed_tokens", "lm_head")
"""Names by which peft knows a table: it ties copies only if one of them is among those to save, even of no module."""
TABLES = ("new_rows", "full", "none")
"""What of the tables trains beside LoRA on the body."""


def lora_arguments(
    model: PreTrainedModel | VocabExtension, *, tables: str = "new_rows", r: int = 16, **options: Any
) -> dict[str, Any]:
    """Return the arguments of peft's ``LoraConfig`` for an extended model.

    LoRA goes on every linear layer that is no table of tokens. Of the tables, either the rows of new tokens train as
    they are (``trainable_token_indices``, for the head too where it has a table of its own), or all rows
    (``modules_to_save``, which keeps tied tables tied), or none.

    Args:
        model: What ``extend_vocabulary`` returned, or a model loaded from the folder of a saved extension (only
            ``tables="new_rows"`` needs to know the extension).
        tables: ``"new_rows"``, ``"full"`` or ``"none"``.
        r: Rank of LoRA.
        options: More arguments of ``LoraConfig``; they replace those found here. ``lora_alpha`` is ``2 * r`` by
            default.

    Returns:
        Keyword arguments for ``LoraConfig``.

    Raises:
        InvalidOptionError: If ``tables`` is unknown, or there are no new rows.
        UnsupportedModelError: If peft cannot train the tables of this model so; the message says what to take.
        MissingResourceError: If the extension of a model is needed and not found.

    Example:
        >>> from peft import LoraConfig, get_peft_model
        >>> peft_model = get_peft_model(extension.model, LoraConfig(**lora_arguments(extension)))
    """
    if tables not in TABLES:
        raise InvalidOptionError(f"tables is '{tables}'. Take {', '.join(TABLES)}.")
    base = plain_model(model.model if isinstance(model, VocabExtension) else model)
    sites = scan_sites(base)
    linear = body_layers(base, sites)
    arguments: dict[str, Any] = {"r": r, "lora_alpha": 2 * r, "target_modules": linear}
    if linear and all(type(base.get_submodule(name)).__name__ == "Conv1D" for name in _paths(base, linear)):
        arguments["fan_in_fan_out"] = True
    if tables != "none":
        modules = _table_modules(base, sites)
        arguments |= _ARGUMENTS[tables](base, sites, modules, model)
    return arguments | options


def body_layers(model: PreTrainedModel, sites: Sites | None = None) -> list[str]:
    """Return names for ``target_modules`` that match every linear layer of a model but its tables of tokens.

    The last part of a path stands for all layers of that name, unless a table has the same one.

    Args:
        model: The model, without peft.
        sites: Its tables, if they are known already.
    """
    from transformers.pytorch_utils import Conv1D

    sites = scan_sites(model) if sites is None else sites
    tables = {id(alias.module) for site in sites for alias in site.aliases}
    taken = {_last(name) for name, module in model.named_modules() if id(module) in tables}
    paths = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and id(module) not in tables
    ]
    return sorted({name if _last(name) in taken else _last(name) for name in paths})


def _last(name: str) -> str:
    """Return the last part of a dotted name."""
    return name.rpartition(".")[2]


def _paths(model: nn.Module, targets: list[str]) -> list[str]:
    """Return the paths of the modules that names for ``target_modules`` match."""
    return [name for name, _ in model.named_modules() if name in targets or _last(name) in targets]


def _table_modules(model: PreTrainedModel, sites: Sites) -> dict[str, tuple[str, nn.Module]]:
    """Return path and module of the input table, and of the head where the model has one, by role.

    Raises:
        UnsupportedModelError: If the input table hangs at several places that peft would train apart.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found = {"input": model.get_input_embeddings(), "head": model.get_output_embeddings()}
    modules = {role: (names[id(module)], module) for role, module in found.items() if module is not None}
    if _n_places(sites) > 1 and not sites.tied:
        raise UnsupportedModelError(
            f"The input table of {type(model).__name__} hangs at {_n_places(sites)} places and its head has a table "
            "of its own: peft would train the places apart. Train without peft, or with tables='none'."
        )
    return modules


def _n_places(sites: Sites) -> int:
    """Return at how many modules the input table hangs, the head aside."""
    return len({id(alias.module) for alias in sites.input.aliases if alias.role == "input"})


def _row_arguments(
    base: PreTrainedModel, sites: Sites, modules: dict[str, tuple[str, nn.Module]], given: Any
) -> dict[str, Any]:
    """Return the arguments that train the rows of new tokens."""
    for name, module in modules.values():
        if type(module).__name__ == "Linear" and getattr(module, "bias", None) is not None:
            raise UnsupportedModelError(
                f"The head '{name}' has a bias, which peft leaves out where rows of a head train alone. "
                + ("Take tables='none', or train without peft." if sites.tied else "Take tables='full'.")
            )
        if not isinstance(module, nn.Embedding | nn.Linear) or _is_factorized(module):
            raise UnsupportedModelError(
                f"The table '{name}' is a {type(module).__name__}, and peft trains rows of plain tables only. Take "
                "tables='full'" + (", or merge_factorized(model) first." if _is_factorized(module) else ".")
            )
    if not isinstance(given, VocabExtension):
        from .locate import locate_extension

        given = locate_extension(base)
    ids = new_row_ids(given).tolist()
    if not ids:
        raise InvalidOptionError("The extension has no new rows to train. Take tables='none' or 'full'.")
    wanted = ("input",) if sites.tied or "head" not in modules else ("input", "head")
    _note_rest(sites)
    return {"trainable_token_indices": {modules[role][0]: ids for role in wanted}}


def _full_arguments(
    base: PreTrainedModel, sites: Sites, modules: dict[str, tuple[str, nn.Module]], given: Any
) -> dict[str, Any]:
    """Return the arguments that train whole tables."""
    if sites.tied and any(_is_factorized(module) for _, module in modules.values()):
        raise UnsupportedModelError(
            "The tied tables are factorised, and peft ties plain ones only. Call merge_factorized(model) first, or "
            "take tables='none'."
        )
    _note_rest(sites)
    if sites.tied:
        name = modules["input"][0]
        head, module = modules.get("head", ("", None))
        if getattr(module, "bias", None) is not None:
            raise UnsupportedModelError(
                f"The head '{head}' shares the input table and has a bias, which peft leaves out of tied copies. Take "
                "tables='none', or train without peft: the stages of VocabExtensionCallback hold the body as well."
            )
        if _n_places(sites) > 1:
            raise UnsupportedModelError(
                f"The table '{name}' hangs at several places of {type(base).__name__}, which peft does not tie. Take "
                "tables='new_rows'."
            )
        known = _last(name) in _PEFT_NAMES
        return {"modules_to_save": [name] if known else [name, "lm_head"], "ensure_weight_tying": True}
    return {"modules_to_save": [name for name, _ in modules.values()]}


_ARGUMENTS = {"new_rows": _row_arguments, "full": _full_arguments}


def _is_factorized(module: nn.Module) -> bool:
    """Whether a table is kept as a product."""
    from ..modeling.factorized import is_factorized

    return is_factorized(module)


def _note_rest(sites: Sites) -> None:
    """Say which vocabulary-sized tensors stay as they are."""
    rest = [site.name for site in sites if not site.roles & {"input", "head", "bias"}]
    if rest:
        logger.info("These tensors of the vocabulary do not train under peft: %s.", ", ".join(rest))


__all__ = ["TABLES", "body_layers", "lora_arguments"]
