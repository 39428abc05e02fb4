"""Refuse models that use a token table in a way that a product of two matrices does not serve.

Shapes cannot tell: some models multiply by ``embeddings.weight`` outside of the embedding. So a few tokens are read
and every use of the tables is watched.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from .._logging import get_logger
from ..errors import UnsupportedModelError
from .config_tree import main_config
from .sites import Alias, Site

logger = get_logger(__name__)
_N_TOKENS = 8
_LOOKUPS = frozenset({"embedding", "linear"})
"""The functions that a layer of the two known kinds calls."""
_LOOKS = frozenset(
    {
        "dtype",
        "device",
        "shape",
        "ndim",
        "is_cuda",
        "requires_grad",
        "is_meta",
        "layout",
        "is_leaf",
        "size",
        "dim",
        "numel",
        "is_floating_point",
        "data_ptr",
        "__get__",
        "__len__",
    }
)
"""Functions that read no value of a tensor."""


def check_uses(model: PreTrainedModel, tables: Sequence[Site]) -> None:
    """Raise if a model uses a table otherwise than through the layer that holds it.

    Raises:
        UnsupportedModelError: The message names the table.
    """
    aliases = [alias for site in tables for alias in site.aliases]
    odd = [alias.name for alias in aliases if not _leaves_the_table_to_its_base(type(alias.module))]
    if odd:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be factorised: {', '.join(odd)} is read by a layer of its own kind "
            f"({type(aliases[0].module).__name__}). Leave out the rank (factorize=None)."
        )
    found = _watch(model, aliases)
    if found:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be factorised: it reads {', '.join(sorted(found))} itself, without the "
            "layer that holds it. Leave out the rank (factorize=None)."
        )


def _leaves_the_table_to_its_base(kind: type[nn.Module]) -> bool:
    """Whether every forward of a layer class calls that of the class below."""
    for item in inspect.getmro(kind):
        if item in (nn.Embedding, nn.Linear):
            return True
        forward = vars(item).get("forward")
        code = getattr(forward, "__code__", None)
        if forward is not None and (code is None or "super" not in code.co_names):
            return False
    return False


class _Watch(TorchFunctionMode):
    """Notes which of some tensors are used otherwise than by the lookup or product of a layer that holds them."""

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.running: list[nn.Module] = []
        self.found: set[str] = set()

    @staticmethod
    def layers(aliases: Sequence[Alias]) -> list[nn.Module]:
        """Return the layers that hold the tables, each once."""
        return list({id(alias.module): alias.module for alias in aliases}.values())

    def attach(self, module: nn.Module) -> list[RemovableHandle]:
        """Be told when a layer runs."""

        def enter(module: nn.Module, _: Any) -> None:
            self.running.append(module)

        def leave(*_: Any) -> None:
            self.running.pop()

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at the arguments and call on."""
        name = getattr(func, "__name__", "")
        if not _is_look(func) and not (self.running and name in _LOOKUPS):
            used = {self.names.get(id(item)) for item in _tensors((args, kwargs))} - {None}
            self.found |= {str(name) for name in used}
        return func(*args, **(kwargs or {}))


def _is_look(func: Callable[..., Any]) -> bool:
    """Whether a function only looks at type, shape or place of a tensor."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _LOOKS
    return name in _LOOKS


def _tensors(item: Any) -> Iterable[torch.Tensor]:
    """Give the tensors in nested arguments."""
    if isinstance(item, torch.Tensor):
        yield item
    elif isinstance(item, (list, tuple)):
        for part in item:
            yield from _tensors(part)
    elif isinstance(item, dict):
        yield from _tensors(list(item.values()))


def _watch(model: PreTrainedModel, aliases: Sequence[Alias]) -> set[str]:
    """Return the names of the tables that a forward pass over a few tokens uses outside of their layers."""
    watch = _Watch({id(alias.tensor): alias.name for alias in aliases})
    hooks = [hook for module in watch.layers(aliases) for hook in watch.attach(module)]
    was_training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), watch:
            model(**_inputs(model))
    except Exception as error:  # a model that reads more than text: judged by its layers alone
        logger.info("%s does not run on text alone (%s)", type(model).__name__, error)
    finally:
        for hook in hooks:
            hook.remove()
        for module in was_training:
            module.training = True
    return watch.found


def _inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return a few tokens, an end of text last, because some models look for it."""
    table = model.get_input_embeddings().weight
    assert isinstance(table, torch.Tensor)
    end = getattr(main_config(model.config), "eos_token_id", None)
    ids = torch.arange(_N_TOKENS, device=table.device).clamp(max=len(table) - 1)[None]
    if isinstance(end, int) and 0 <= end < len(table):
        ids = torch.where(ids == end, ids.new_tensor(len(table) - 1), ids)
        ids[0, -1] = end
    inputs = {"input_ids": ids}
    if getattr(model.config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    return inputs


__all__ = ["check_uses"]
