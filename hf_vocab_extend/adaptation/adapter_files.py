"""Adapters in a folder, with the vocabulary that they were trained on."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .._optional import require
from ..errors import InvalidOptionError, MissingResourceError, TokenizerMismatchError, UnsupportedModelError
from ..hub.card import read_card, render_card
from ..mapping import TokenMapping
from ..report import REPORT_FILE, ExtensionReport
from ..result import MAPPING_FILE, VocabExtension, write_vocabulary
from ..saving import CARD_FILE, SPARE_BYTES, check_output_folder, staged_folder
from ..surgery.apply import write_site
from ..surgery.config_tree import TOP, all_configs
from ..surgery.journal import Journal
from ..surgery.registry import VOCABULARY_FIELDS
from ..surgery.sites import Sites, scan_sites
from .locate import find_report
from .tables import plain_model

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

WEIGHTS_FILE = "adapter_model.safetensors"
VOCABULARY_FILE = "vocab_tables.safetensors"
"""Tensors of the vocabulary that peft's file does not hold, and the config, for a base without the vocabulary."""
_WRAPPED = (".token_adapter.base_layer", ".original_module", ".modules_to_save", "")
"""Where peft keeps a table that it has wrapped; the frozen one before the trained copy."""
_ID_FIELD = re.compile(r"_token_(id|ids|index)$")
_PROSE = """
# {name}

An adapter for {base}, with a vocabulary of its own. It needs `peft` and `hf_vocab_extend`:

```python
from transformers import {loader}
from hf_vocab_extend import load_adapter

model = load_adapter({loader}.from_pretrained("{base}"), "{name}")
```
"""


def save_adapter(
    model: PeftModel,
    save_directory: str | os.PathLike[str],
    extension: VocabExtension,
    *,
    overwrite: bool = False,
    **card: Any,
) -> None:
    """Save an adapter so that its vocabulary comes back, whatever base it is put on again.

    Where the base model, as its name leads to it, lacks the vocabulary, the tables go along (peft's
    ``save_embedding_layers``; what of the vocabulary peft leaves out, such as biases, in a file beside): plain
    ``PeftModel.from_pretrained`` finds them on a base with as many rows, and :func:`load_adapter` on any. Tokenizer,
    report, mapping and card lie in the folder too.

    Args:
        model: The model of peft, on the model of ``extension``.
        save_directory: A new or empty folder; it is complete or not there.
        extension: The extension that the adapter was trained on.
        overwrite: Write into a folder that is not empty.
        card: Options of :func:`~hf_vocab_extend.hub.card.render_card`.

    Raises:
        OutputFolderError: Before any work, if the folder cannot be written to.
        InvalidOptionError: If the model is none of peft, or not the one of the extension.
    """
    base = _base_of(model, extension)
    path = check_output_folder(save_directory, SPARE_BYTES, overwrite=overwrite)
    options = {"existing": read_card(path / CARD_FILE)} | card
    lacking = not _has_vocabulary(base, extension)
    with staged_folder(path) as folder:
        model.save_pretrained(str(folder), save_embedding_layers=lacking and not _trains_whole_tables(model))
        report = write_vocabulary(extension, folder)
        if lacking:
            _write_rest(model, base, report, folder)
        (folder / CARD_FILE).write_bytes(_card(base, report, path.name, options).encode("utf-8"))


def load_adapter(
    model: PreTrainedModel, adapter_directory: str | os.PathLike[str], *, is_trainable: bool = False, **options: Any
) -> PeftModel:
    """Put a saved adapter on a model, and its vocabulary, if the model lacks it.

    Args:
        model: The base model as it was before its vocabulary was extended, or the extended one. It is changed.
        adapter_directory: A folder that :func:`save_adapter` wrote. Its tokenizer lies there too.
        is_trainable: Load it to train on.
        options: More options of ``PeftModel.from_pretrained``.

    Returns:
        The model of peft.

    Raises:
        MissingResourceError: If the folder holds no such adapter.
        TokenizerMismatchError: If the model is another one than the adapter was made for.
    """
    peft = require("peft", "peft")
    folder = Path(adapter_directory)
    missing = [name for name in ("adapter_config.json", WEIGHTS_FILE, REPORT_FILE) if not (folder / name).is_file()]
    if missing:
        raise MissingResourceError(
            f"'{folder.name}' holds no {' and no '.join(missing)}. Give a folder that save_adapter wrote."
        )
    report = ExtensionReport.from_json((folder / REPORT_FILE).read_text("utf-8"))
    if (folder / VOCABULARY_FILE).is_file():
        _restore_vocabulary(model, report, folder)
    table: Any = model.get_input_embeddings()
    rows = table.weight.shape[0]
    if rows != report.sizes["target_rows"]:
        raise TokenizerMismatchError(
            f"The model has {rows} rows and the adapter was trained on {report.sizes['target_rows']}; its folder "
            "holds no tables, because its base model has them. Load that one: "
            f"{json.loads((folder / 'adapter_config.json').read_text('utf-8')).get('base_model_name_or_path')}."
        )
    return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable, **options)


def adapter_extension(model: PreTrainedModel, adapter_directory: str | os.PathLike[str]) -> VocabExtension:
    """Return the extension that lies in the folder of a saved adapter, with a model."""
    from transformers import AutoTokenizer

    folder = Path(adapter_directory)
    report = ExtensionReport.from_json((folder / REPORT_FILE).read_text("utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    return VocabExtension(model, tokenizer, TokenMapping.load(folder / MAPPING_FILE), report)


def _base_of(model: nn.Module, extension: VocabExtension) -> PreTrainedModel:
    """Return the model inside one of peft.

    Raises:
        InvalidOptionError: If there is none, or another one than that of the extension.
    """
    if not hasattr(model, "peft_config"):
        raise InvalidOptionError(
            f"A {type(model).__name__} is no model of peft. Save it with extension.save_pretrained."
        )
    base = plain_model(model)
    if base is not extension.model:
        raise InvalidOptionError(
            "The model of peft does not stand on the model of the extension. Make it with "
            "get_peft_model(extension.model, ...)."
        )
    return base


def _has_vocabulary(base: PreTrainedModel, extension: VocabExtension) -> bool:
    """Whether the name of a model leads to one that has the extension's vocabulary."""
    try:
        found = find_report(str(getattr(base.config, "_name_or_path", "") or ""))
    except (MissingResourceError, InvalidOptionError):
        return False
    same = ("mode", "method", "sizes", "counts_by_kind", "seed", "distillations")
    return all(getattr(found, name) == getattr(extension.report, name) for name in same)


def _trains_whole_tables(model: nn.Module) -> bool:
    """Whether the adapter holds the tables of its own accord (``modules_to_save``)."""
    base = plain_model(model)
    return type(base.get_input_embeddings()).__name__ == "ModulesToSaveWrapper"


def _keys(name: str) -> list[str]:
    """Return the keys under which peft's file may hold a tensor."""
    module, _, attribute = name.rpartition(".")
    return [f"base_model.model.{module}{wrapper}.{attribute}" for wrapper in _WRAPPED]


def _write_rest(model: nn.Module, base: PreTrainedModel, report: ExtensionReport, folder: Path) -> None:
    """Write what of the vocabulary peft's file lacks, and the config."""
    with safe_open(str(folder / WEIGHTS_FILE), "pt") as file:
        held = set(file.keys())
    state = model.state_dict()
    tensors = {}
    for table in report.tables:
        names = [table["name"], *table.get("aliases", ())]
        if any(key in held for name in names for key in _keys(name)):
            continue
        found = [key for name in names for key in _live_keys(name) if key in state]
        if not found:
            raise InvalidOptionError(
                f"The report of the extension names the table '{table['name']}', which the model lacks. Save it with "
                "the extension that it was made from."
            )
        tensors[table["name"]] = state[found[0]].detach().cpu().contiguous().clone()
    padding = {
        name: module.padding_idx
        for name, module in _plain_names(base).items()
        if isinstance(vars(module).get("padding_idx"), int)
    }
    generation = getattr(base, "generation_config", None)
    header = {
        "config": base.config.to_dict(),
        "generation": generation.to_dict() if generation is not None else {},
        "padding": padding,
    }
    save_file(tensors, str(folder / VOCABULARY_FILE), metadata={"vocabulary": json.dumps(header, default=str)})


def _live_keys(name: str) -> list[str]:
    """Return the keys under which the state of a model of peft may hold a tensor; trained copies bear a name."""
    return [key.replace(".modules_to_save.", ".modules_to_save.default.") for key in _keys(name)]


def _plain_names(base: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by the names that they have without peft."""
    found = {}
    for name, module in base.named_modules():
        for wrapper in (".token_adapter.base_layer", ".original_module", ".base_layer"):
            name = name.removesuffix(wrapper)
        found[name] = module
    return found


def _restore_vocabulary(model: PreTrainedModel, report: ExtensionReport, folder: Path) -> None:
    """Give a base model the tables and ids of the extension, all or nothing."""
    sites = scan_sites(model)
    tensors = _stored_tables(sites, report, folder)
    with safe_open(str(folder / VOCABULARY_FILE), "pt") as file:
        header = json.loads(file.metadata()["vocabulary"])
    modules = dict(model.named_modules())
    with torch.no_grad(), Journal() as journal:
        for site, tensor in tensors:
            write_site(site, tensor.to(site.tensor), journal)
        for name, index in header["padding"].items():
            if name in modules and vars(modules[name]).get("padding_idx") not in (None, index):
                _check_positions(modules[name])
                journal.set_attribute(modules[name], "padding_idx", index)
        for place, config in all_configs(model):
            _update(place, config, header["config"], journal)
        if getattr(model, "generation_config", None) is not None:
            _update(TOP, model.generation_config, header["generation"], journal)


def _stored_tables(sites: Sites, report: ExtensionReport, folder: Path) -> list[tuple[Any, torch.Tensor]]:
    """Return the stored tensor of each site."""
    stored: dict[str, torch.Tensor] = {}
    for file_name in (WEIGHTS_FILE, VOCABULARY_FILE):
        with safe_open(str(folder / file_name), "pt") as file:
            keys = set(file.keys())
            for table in report.tables:
                names = [table["name"], *table.get("aliases", ())]
                found = [key for name in names for key in [*_keys(name), name] if key in keys]
                if found:
                    stored.setdefault(table["name"], file.get_tensor(found[0]))
    by_name = {alias.name: site for site in sites for alias in site.aliases}
    pairs = []
    for name, tensor in stored.items():
        site = by_name.get(name)
        if site is None or _other_sizes(tensor, site.axis) != _other_sizes(site.tensor, site.axis):
            raise TokenizerMismatchError(
                f"The adapter's table '{name}' {tuple(tensor.shape)} does not fit this model. Load the base model "
                "that the adapter was made for."
            )
        pairs.append((site, tensor))
    return pairs


def _other_sizes(tensor: torch.Tensor, axis: int) -> list[int]:
    """Return the shape without the axis of tokens."""
    return [size for index, size in enumerate(tensor.shape) if index != axis]


def _check_positions(module: nn.Module) -> None:
    """Raise if a padding id that changes would move the positions of a model."""
    if hasattr(module, "position_embeddings"):
        raise UnsupportedModelError(
            "The extension moved the padding id, on which the positions of this model depend. Load the extended model "
            "itself, saved with extension.save_pretrained, and put the adapter on it."
        )


def _update(path: str, config: Any, saved: dict[str, Any], journal: Journal) -> None:
    """Bring the counts and special ids of a config to those of a saved one."""
    for part in path.partition(f"{TOP}.")[2].split("."):
        saved = saved.get(part, {}) if part else saved
    for key, value in saved.items():
        told = key in VOCABULARY_FIELDS or _ID_FIELD.search(key) is not None
        if told and hasattr(config, key) and getattr(config, key) != value:
            journal.set_attribute(config, key, value)


def _card(base: PreTrainedModel, report: ExtensionReport, name: str, options: dict[str, Any]) -> str:
    """Return the text of the card; text of the user's own that an earlier one holds stays."""
    from ..auto_class import find_auto_class

    auto = find_auto_class(base.config.model_type, type(base).__name__)
    loader = auto.name if auto else type(base).__name__
    prose = _PROSE.format(name=name, base=report.base_model or "the base model", loader=loader)
    options = options | {"existing": options.get("existing") or prose}
    return render_card(report, **({"model_name": name, "library_name": "peft"} | options))


__all__ = ["adapter_extension", "load_adapter", "save_adapter"]
