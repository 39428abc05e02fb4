"""Models whose token tables are products of two small matrices; made by hf_vocab_extend.

A table `E (V, D)` is held as `F (V, R)`, the ``weight`` of its module, and `P (R, D)`, its ``projection``: embeddings
are `F[ids] P`, logits are `(h P^T) F^T`. Everything else is the stock model of transformers.

This file is saved beside the weights of such a model and needs nothing but torch and transformers. A folder that
holds it loads with ``AutoModelForX.from_pretrained(folder, trust_remote_code=True)``; with hf_vocab_extend installed
and imported, the same without ``trust_remote_code``. ``model.merge_factorized()`` gives the stock model back.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import CONFIG_MAPPING, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto import modeling_auto

MODEL_TYPE = "factorized_vocabulary"
"""What ``model_type`` says in a saved ``config.json``; in memory it stays that of the stock model."""
FORMAT = 1
"""Version of the ``factorization`` entry of ``config.json``."""
PREFIX = "Factorized"
_SISTERS: dict[type, type] = {}  # stock class to the one class made from it, so that copies and pickles find it


class FactorizedEmbedding(nn.Embedding):
    """A token table as a product; ``embedding_dim`` stays the width D that the model sees.

    Attributes:
        weight: F, shape `(V, R)`.
        projection: P, shape `(R, D)`.
    """

    projection: nn.Parameter

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return embeddings `(..., D)` of ids `(...)`."""
        rows = super().forward(input)
        return torch.matmul(rows, self.projection).to(rows.dtype)  # autocast must not narrow the residual stream

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f"{super().extra_repr()}, rank={self.weight.shape[1]}"


class FactorizedLinear(nn.Linear):
    """An output table as a product; ``in_features`` stays the width D that the model gives.

    Attributes:
        weight: F, shape `(V, R)`.
        projection: P, shape `(R, D)`.
    """

    projection: nn.Parameter

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return logits `(..., V)` of states `(..., D)`."""
        return super().forward(functional.linear(input, self.projection))

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f"{super().extra_repr()}, rank={self.weight.shape[1]}"


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {nn.Embedding: FactorizedEmbedding, nn.Linear: FactorizedLinear}


def is_factorized(module: nn.Module) -> bool:
    """Whether a module holds its table as a product, whichever copy of this file its class is from."""
    return isinstance(module, (nn.Embedding, nn.Linear)) and "projection" in module._parameters


def layer_class(dense: type[nn.Module]) -> type[nn.Module]:
    """Return the factorised sister of an embedding or linear class.

    The stock class comes first in the order of lookup, so that what it does around ``super().forward`` (a scale) is
    done around the product.
    """
    kind = next(kind for kind in _LAYERS if issubclass(dense, kind))
    if dense is kind:
        return _LAYERS[kind]
    if dense not in _SISTERS:
        _SISTERS[dense] = type(PREFIX + dense.__name__, (dense, _LAYERS[kind]), {"__module__": __name__})
    return _SISTERS[dense]


def dense_layer_class(module: nn.Module) -> type[nn.Module]:
    """Return the stock class of a factorised module."""
    return type(module).__bases__[0]


class FactorizedConfigMixin(PretrainedConfig):
    """What the config classes have in common: only what is written differs from the stock config.

    In memory ``model_type`` and ``to_dict()`` are the stock model's, because transformers, peft and others look up
    rules by them.
    """

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a config file and give its ``model_type`` the meaning that it has in memory."""
        fields, unused = super().get_config_dict(*args, **kwargs)
        return _readable(fields), unused

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the config as it is written: with a ``model_type`` that no stock class answers to."""
        fields = json.loads(super().to_json_string(use_diff))
        fields["base_model_type"] = self.model_type
        fields["model_type"] = MODEL_TYPE
        fields["auto_map"] = _auto_map(self.model_type, fields.get("architectures") or ())
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``config.json`` and this file beside it."""
        _check_stock(self.model_type, self.architectures or ())
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{__name__.rpartition('.')[2]}.py"
        if not target.exists() or not target.samefile(__file__):
            shutil.copyfile(__file__, target)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)


class FactorizedConfig(PretrainedConfig):
    """Stands for :data:`MODEL_TYPE` while a config is read; what it gives is a config of the stock type's sister."""

    model_type = MODEL_TYPE

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Return a config of the class that ``base_model_type`` asks for."""
        fields = _readable(config_dict)
        return config_class(CONFIG_MAPPING[fields["model_type"]]).from_dict(fields, **kwargs)


def _readable(fields: dict[str, Any]) -> dict[str, Any]:
    """Bring a saved config into the form that it has in memory."""
    if fields.get("model_type") != MODEL_TYPE:
        return fields
    written = fields.get("factorization", {}).get("format")
    if written != FORMAT or "base_model_type" not in fields:
        raise ValueError(
            f"This folder holds a factorised vocabulary in format {written}; this code reads format {FORMAT}. Load it "
            "with trust_remote_code=True, which uses the code of the folder, or with a newer hf_vocab_extend."
        )
    return {key: value for key, value in fields.items() if key != "base_model_type"} | {
        "model_type": fields["base_model_type"]
    }


def _stock_class(name: str) -> Any:
    """Return a class of transformers by name."""
    found = getattr(transformers, name, None)
    if not isinstance(found, type):
        raise AttributeError(f"transformers {transformers.__version__} has no class {name}")
    return found


def _check_stock(model_type: str, architectures: Iterable[str]) -> None:
    """Raise unless a fresh process will find the stock classes."""
    missing = [name for name in architectures if not hasattr(transformers, name)]
    if missing or model_type not in CONFIG_MAPPING:
        raise TypeError(
            f"{', '.join(missing) or model_type!r} is no class of transformers, so the factorised model cannot be "
            "loaded elsewhere. Call model.merge_factorized() and save the plain model."
        )


def _auto_classes(model_type: str) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Give every Auto class that knows a model type, with the names of the classes that it may give."""
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if name.startswith("AutoModel") and mapping is not None and model_type in mapping._model_mapping:
            found = mapping._model_mapping[model_type]
            yield auto, (found,) if isinstance(found, str) else tuple(found)


def _auto_map(model_type: str, architectures: Iterable[str]) -> dict[str, str]:
    """Return where the Auto classes find the classes of a saved folder."""
    module = __name__.rpartition(".")[2]
    references = {"AutoConfig": f"{module}.{FactorizedConfig.__name__}"}
    for auto, names in _auto_classes(model_type):
        chosen = next((name for name in names if name in architectures), names[0])
        references[auto.__name__] = f"{module}.{PREFIX}{chosen}"
    return references


_registered = False


def register() -> None:
    """Make the Auto classes of this process load factorised folders without ``trust_remote_code``."""
    global _registered
    if _registered:
        return
    _registered = True
    transformers.AutoConfig.register(MODEL_TYPE, FactorizedConfig, exist_ok=True)
    for dense, made in list(_SISTERS.items()):
        if issubclass(dense, PretrainedConfig):
            _register_models(dense, made)


def config_class(dense: type[PretrainedConfig]) -> type[PretrainedConfig]:
    """Return the factorised sister of a config class."""
    if dense not in _SISTERS:
        _SISTERS[dense] = type(PREFIX + dense.__name__, (FactorizedConfigMixin, dense), {"__module__": __name__})
        if _registered:
            _register_models(dense, _SISTERS[dense])
    return _SISTERS[dense]


def _register_models(dense: type[PretrainedConfig], made: type[PretrainedConfig]) -> None:
    """Tell every Auto class that knows a stock config which model classes belong to its sister."""
    for auto, names in _auto_classes(dense.model_type):
        classes: list[Any] = [getattr(transformers, name, None) for name in names]
        found = tuple(model_class(item) for item in classes if getattr(item, "config_class", None) is dense)
        if found:
            auto.register(made, found[0] if len(found) == 1 else found, exist_ok=True)


def model_class(dense: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return the factorised sister of a model class.

    Its ``__name__`` stays the stock one, by which transformers picks losses, shifts of labels and pipelines; its
    ``__qualname__`` is the one that :func:`__getattr__` knows.
    """
    if dense not in _SISTERS:
        fields = {"__module__": __name__, "dense_class": dense, "config_class": config_class(_config_class_of(dense))}
        bases: tuple[type, ...] = (FactorizedModelMixin, dense)
        if issubclass(dense, GenerationMixin):  # a direct base, or the Auto classes would make a class of their own
            bases += (GenerationMixin,)
        made = type(dense.__name__, bases, fields)
        made.__qualname__ = PREFIX + dense.__name__
        _SISTERS[dense] = made
    return _SISTERS[dense]


def _config_class_of(dense: type[PreTrainedModel]) -> type[PretrainedConfig]:
    """Return the config class of a stock model class."""
    if dense.config_class is None:
        raise TypeError(f"{dense.__name__} names no config class, so its factorised sister cannot be made.")
    return dense.config_class


def __getattr__(name: str) -> type:
    """Make the sister of a stock class when its name is asked for: ``FactorizedBertModel``, ``FactorizedBertConfig``.

    Raises:
        AttributeError: If transformers has no such class.
    """
    if not name.startswith(PREFIX):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    dense = _stock_class(name.removeprefix(PREFIX))
    return config_class(dense) if issubclass(dense, PretrainedConfig) else model_class(dense)


class FactorizedModelMixin(PreTrainedModel):
    """What the model classes have in common: building from a config, resizing, initialising, merging."""

    dense_class: type[PreTrainedModel]
    """The stock class."""

    def __init__(self, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        if not getattr(config, "factorization", None):
            raise ValueError(
                f"The config of a {type(self).__qualname__} must say how its tables are factorised (entry "
                "'factorization'). Use factorize_embeddings on a stock model, or load a factorised folder."
            )
        sister, entries = type(config), ("factorization", "auto_map")
        kept = {name: vars(config).pop(name) for name in entries if name in vars(config)}
        config.__class__ = sister.__bases__[1]  # parts that are made by an Auto class shall be stock ones
        try:
            super().__init__(config, *args, **kwargs)
        finally:
            config.__class__ = sister
            vars(config).update(kept)
        _build_factors(self, config.factorization)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return cls.dense_class._can_set_attn_implementation()  # these two read the source file of the class

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return cls.dense_class._can_set_experts_implementation()

    def _init_weights(self, module: Any) -> None:
        super()._init_weights(module)
        if is_factorized(module):
            init.normal_(module.projection, std=len(module.projection) ** -0.5)

    def _get_resized_lm_head(self, old_lm_head: Any, *args: Any, **kwargs: Any) -> Any:
        """Give a head of its own more or fewer rows; the module stays."""
        made = super()._get_resized_lm_head(old_lm_head, *args, **kwargs)
        if made is old_lm_head or not is_factorized(old_lm_head):
            return made
        old_lm_head.weight.data = made.weight.data
        if old_lm_head.bias is not None:
            old_lm_head.bias.data = made.bias.data
        old_lm_head.out_features = made.out_features
        return old_lm_head

    def merge_factorized(self) -> PreTrainedModel:
        """Turn the model, in place, into the stock model with dense tables; the same logits within rounding.

        Returns:
            The model itself, now of the stock class.
        """
        merge_tables(self, setattr, delattr, _set_data)
        return self


def _set_data(tensor: torch.Tensor, data: torch.Tensor) -> None:
    """Put other data into a Parameter."""
    tensor.grad = None
    tensor.data = data


def factorized_modules(model: nn.Module) -> dict[str, Any]:
    """Return the factorised modules by name, every alias included."""
    return {name: module for name, module in model.named_modules(remove_duplicate=False) if is_factorized(module)}


@torch.no_grad()
def merge_tables(model: nn.Module, set_attribute: Callable, delete: Callable, set_data: Callable) -> None:
    """Replace every product by its value, and the classes by the stock ones.

    Args:
        model: A factorised model.
        set_attribute: Called as ``setattr``.
        delete: Called as ``delattr``.
        set_data: Called with a Parameter and its new data.
    """
    modules = list({id(module): module for module in factorized_modules(model).values()}.values())
    weights = {id(module.weight): module for module in modules}
    tables = {key: (m.weight.float() @ m.projection.float()).to(m.weight.dtype) for key, m in weights.items()}
    for key, table in tables.items():
        set_data(weights[key].weight, table)
    for module in modules:
        delete(module, "projection")
        set_attribute(module, "__class__", dense_layer_class(module))
    for part in [item for item in model.modules() if isinstance(item, PreTrainedModel)]:
        for name in {"_tied_weights_keys", "all_tied_weights_keys"} & set(vars(part)):
            pairs = getattr(part, name) or {}
            set_attribute(part, name, {k: v for k, v in pairs.items() if not k.endswith("projection")})
    for config in {id(item): item for item in map(_config_of, model.modules()) if item is not None}.values():
        for name in {"factorization", "auto_map"} & set(vars(config)):
            delete(config, name)
        set_attribute(config, "__class__", type(config).__bases__[1])
    set_attribute(model, "__class__", type(model).dense_class)  # type: ignore[attr-defined]


def _config_of(module: nn.Module) -> PretrainedConfig | None:
    """Return the config of a module if it is one of a factorised model."""
    config = getattr(module, "config", None)
    return config if isinstance(config, PretrainedConfig) and "factorization" in vars(config) else None


def _build_factors(model: PreTrainedModel, plan: dict[str, Any]) -> None:
    """Make the modules that a config names hold products, empty or random, and tie them as they were."""
    made: dict[tuple[int, int], tuple[nn.Parameter, nn.Parameter]] = {}
    for name, rank in named_ranks(model, plan).items():
        module = _find(model, name)
        if module is None:
            continue
        old = module.weight
        factors = made.get((id(old), rank)) or _empty_factors(old, rank)
        made[id(old), rank] = factors
        module.__class__ = layer_class(type(module))
        module.weight, module.projection = factors
    if not is_factorized(model.get_input_embeddings()):
        raise ValueError(
            f"The config names the tables {', '.join(plan.get('body', {}))}; {type(model).__name__} keeps its token "
            "table elsewhere. Load the folder as the class that it was saved from, merge it, and save it again."
        )
    declare_ties(model, setattr)


def named_ranks(model: PreTrainedModel, plan: dict[str, Any]) -> dict[str, int]:
    """Return the names of the factorised modules as they are in a model, each with its rank.

    Names of the body are relative to the base model, so that a folder saved from a model with a head loads into one
    without or with another head, and the other way round: a head that is tied to a product is a product.
    """
    prefix = body_prefix(model)
    ranks = {prefix + name: rank for name, rank in plan.get("body", {}).items()} | plan.get("head", {})
    for pair in model.all_tied_weights_keys.items():
        names = [name.removesuffix(".weight") for name in pair if name.endswith(".weight")]
        known = next((ranks[name] for name in names if name in ranks), None)
        if known is not None:
            ranks |= {name: known for name in names if name not in ranks}
    return ranks


def body_prefix(model: PreTrainedModel) -> str:
    """Return what the names of the base model's parts begin with in a model: ``bert.``, or nothing."""
    name = model.base_model_prefix
    return f"{name}." if name and isinstance(getattr(model, name, None), nn.Module) else ""


def _find(model: nn.Module, name: str) -> Any:
    """Return a token table by name, None if this model has none of that name."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return None
    return module if isinstance(module, (nn.Embedding, nn.Linear)) and not is_factorized(module) else None


def _empty_factors(table: torch.Tensor, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """Return factors with entries as large as a fresh table needs; without memory if the table has none."""
    projection = table.detach().new_empty(rank, table.shape[1]).normal_(std=rank**-0.5)
    spare = max(0, rank - table.shape[1])  # a full rank has a dimension more, or F could be taken for the table
    factor = functional.pad(table.detach()[:, :rank].clone(), (0, spare))
    return nn.Parameter(factor), nn.Parameter(projection)


def declare_ties(model: nn.Module, set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Declare that projections are tied wherever weights are, for saving, loading and ``tie_weights``.

    Args:
        model: A model whose modules are factorised already.
        set_attribute: Called as ``setattr``.
    """
    for part in [item for item in model.modules() if isinstance(item, PreTrainedModel)]:
        names = [name for name, _ in part.named_parameters(remove_duplicate=False) if name.endswith(".projection")]
        for attribute in ("_tied_weights_keys", "all_tied_weights_keys"):
            pairs = getattr(part, attribute, None) or {}
            added = dict(_projection_pairs(pairs, names))
            if added:
                set_attribute(part, attribute, {**pairs, **added})


def _projection_pairs(pairs: dict[str, str], names: list[str]) -> Iterator[tuple[str, str]]:
    """Give the ties of projections that follow from those of weights."""
    for target, source in pairs.items():
        if target.endswith("weight") and source.endswith("weight"):
            pair = f"{target[:-6]}projection", f"{source[:-6]}projection"
            if all(any(re.search(f"^{part}$", name) for name in names) for part in pair):
                yield pair
