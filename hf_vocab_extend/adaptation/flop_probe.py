"""See which matrix products a model computes, and which of their gradients, by running it on a few tokens.

A forward pass is watched operation by operation. What multiplies matrices is written down with its operands: which of
them depend on the tokens that are read, which are made of weights alone, and which need a gradient. No module is known
by its name, so adapters, swapped heads, tied tables and frozen parts are seen as they are.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import UnsupportedModelError
from ..evaluation.scoring import evaluation_mode
from ..modeling.reading import IGNORED
from ..surgery.config_tree import walk
from .mini_model.random_state import random_state_kept
from .shards import is_dtensor
from .tables import plain_model, unwrapped, vocabulary_tables

PARTS = ("body", "attention", "head", "positions")
"""Products with weights; of activations among themselves; with a table of tokens; of what no token enters."""
_Origin = frozenset[str] | None
"""Names of the parameters that a tensor is made of; None for one that depends on the tokens that are read."""

_OPERANDS = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "mv": (0, 1),
    "linear": (0, 1),
    "_grouped_mm": (0, 1),
    "grouped_mm_fallback": (0, 1),
    "addmm": (1, 2),
    "_addmm_activation": (1, 2),
    "baddbmm": (1, 2),
    "addmv": (1, 2),
}
"""Operation to the places of its factors; the rest of it is additions."""
_ATTENTION = re.compile(r"^_scaled_dot_product_(?!.*backward)")
_UNKNOWN = re.compile(
    r"conv(olution|\d|_depthwise|_tbc)|(^|_)(lstm|gru|rnn)(_|$)|int[48]pack|_int_mm|_scaled_(grouped_)?mm|fft|cdist|"
    r"_transformer_encoder|native_multi_head|^addbmm|^linalg_|quantized|dequantize"
)
"""Operations that multiply in a way that is not counted here."""
_OWN = frozenset({"aten", "prim", "prims"})
_SHAPES_ONLY = re.compile(r"_like$|^new_")


@dataclass
class Product:
    """A matrix product that a forward pass has computed.

    Attributes:
        part: One of :data:`PARTS`.
        flops: Floating point operations of it, two to a multiplication and its addition.
        activation: Those of the gradients of factors that depend on tokens, 0 if none is needed.
        weight: Those of the gradients of factors that are made of weights alone.
        recomputed: Whether gradient checkpointing computes it a second time.
    """

    part: str
    flops: int
    activation: int = 0
    weight: int = 0
    recomputed: bool = False


def check_countable(model: Any) -> None:
    """Raise for models whose products could not be seen; nothing is run.

    Raises:
        UnsupportedModelError: If the model has an encoder and a decoder, is quantised, sharded or without data.
    """
    plain, name = plain_model(model), type(plain_model(model)).__name__
    if getattr(plain.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} has an encoder and a decoder, which read texts of different length; FLOPs are counted for models "
            "that read one. Count its encoder alone (get_encoder())."
        )
    if getattr(plain, "is_quantized", False) or getattr(plain, "hf_quantizer", None) is not None:
        raise UnsupportedModelError(
            f"{name} is quantised: its products are computed by kernels of their own. Count the same model loaded "
            "without quantization_config."
        )
    for path, parameter in plain.named_parameters():
        if not parameter.is_floating_point() or parameter.element_size() < 2:
            raise UnsupportedModelError(
                f"'{path}' is of type {parameter.dtype}, a quantised weight. Count the model loaded in bfloat16 or "
                "float32."
            )
        flat = getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False)
        if flat or is_dtensor(parameter) or hasattr(parameter, "ds_id") or parameter.is_meta:
            raise UnsupportedModelError(
                f"'{path}' is sharded over processes or has no data here. Count FLOPs before the model is spread "
                "(training_flops on the loaded model)."
            )


def table_names(model: Any) -> frozenset[str]:
    """Return the names of all parameters that share storage with a table of tokens.

    Raises:
        UnsupportedModelError: If a vocabulary-sized tensor is of unknown kind.
    """
    found = {_storage(table.parameter) for table in vocabulary_tables(model)}
    inner = unwrapped(model)
    return frozenset(name for name, item in inner.named_parameters() if _storage(item) in found)


def seen_products(
    model: Any,
    tables: frozenset[str],
    batch_size: int,
    length: int,
    labelled: int,
    *,
    training: bool = True,
    trace: bool = True,
) -> list[Product]:
    """Run a model on ordinary tokens and return the products that it has computed.

    The modes, parameters and gradients of the model and the global random state are as before.

    Args:
        model: A model that :func:`check_countable` accepts.
        tables: What :func:`table_names` returned.
        batch_size: Number of sequences.
        length: Tokens of each.
        labelled: How many positions have a label, if in training.
        training: Whether to run in training mode, with labels and with gradients in mind.
        trace: Whether to tell parts and gradients. It keeps every tensor of the pass; without, the part of all is
            ``body`` and no gradient is counted.

    Raises:
        UnsupportedModelError: If it computes something that is not counted, or does not run on token ids alone.
    """
    inner, plain = unwrapped(model), plain_model(model)
    inputs = _inputs(plain, batch_size, length, labelled if training else None)
    watch = _Watch(dict(inner.named_parameters()) if trace else {}, inputs["input_ids"], trace)
    with ExitStack() as stack:
        stack.enter_context(_mode_of(inner, training))
        stack.enter_context(_marked_checkpoints(inner, watch))
        stack.enter_context(_seen_attention(inner))
        stack.enter_context(random_state_kept())
        stack.enter_context(torch.set_grad_enabled(training and trace))
        try:
            with watch:
                output = inner(**inputs)
        except UnsupportedModelError:
            raise
        except Exception as error:  # code of any author runs here
            raise UnsupportedModelError(
                f"{type(inner).__name__} does not run on {batch_size} x {length} token ids alone, so its FLOPs cannot "
                f"be counted ({type(error).__name__}: {error})."
            ) from error
    loss = getattr(output, "loss", None)
    root = loss if loss is not None else next(item for item in tree_leaves(output) if torch.is_tensor(item))
    return watch.products(_reachable(root), tables)


@dataclass
class _Seen:
    """A product with what is needed to tell its gradients after the pass."""

    flops: int
    output: torch.Tensor | None
    factors: tuple[tuple[_Origin, bool], ...]
    recomputed: bool = False

    def product(self, reachable: set[Any], tables: frozenset[str]) -> Product:
        """Return the product, given the nodes of the graph that lead to the loss, and the names of tables."""
        node = None if self.output is None else self.output.grad_fn
        found = Product(self._part(tables), self.flops, recomputed=self.recomputed)
        for origin, needed in self.factors:
            if needed and node in reachable:  # each factor's gradient is a product of the same size
                found.activation += self.flops if origin is None else 0
                found.weight += self.flops if origin is not None else 0
        return found

    def _part(self, tables: frozenset[str]) -> str:
        """Return what kind of product it is."""
        origins = [origin for origin, _ in self.factors]
        weights = [origin for origin in origins if origin is not None]
        if origins and not weights:
            return "attention"
        if len(weights) == len(origins) > 0:
            return "positions"
        return "head" if any(origin & tables for origin in weights) else "body"


class _Watch(TorchDispatchMode):
    """Writes down products, and of which parameters each tensor is made."""

    def __init__(self, parameters: dict[str, torch.Tensor], tokens: torch.Tensor, trace: bool) -> None:
        super().__init__()
        self.seen: list[_Seen] = []
        self._trace = trace
        self._names = {id(item): name for name, item in parameters.items()}
        self._kept: dict[int, torch.Tensor] = {id(tokens): tokens}  # an id is of one tensor while that is alive
        self._origins: dict[int, _Origin] = {id(item): frozenset({name}) for name, item in parameters.items()}
        self._origins[id(tokens)] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute as ever, and write down what was."""
        kwargs = kwargs or {}
        name = str(getattr(func, "overloadpacket", func)).rpartition(".")[2]
        tensors = _tensors((*args, *kwargs.values()))
        self._check(func, name, tensors)
        output = func(*args, **kwargs)
        results = _tensors((output,))
        for flops, factors in _factors(name.rstrip("_"), args, results):
            known = tuple((self._origins.get(id(item), frozenset()), needed) for item, needed in factors)
            self.seen.append(
                _Seen(flops, results[0], known)
                if self._trace
                else _Seen(flops, None, ((frozenset(), False), (None, False)))
            )
        if self._trace:
            origin = frozenset() if _SHAPES_ONLY.search(name) else self._joined(tensors)
            for item in results:
                self._kept[id(item)] = item
                self._origins[id(item)] = origin
        return output

    def products(self, reachable: set[Any], tables: frozenset[str]) -> list[Product]:
        """Return what was seen, given the nodes of the graph that lead to the loss, and the names of tables."""
        return [seen.product(reachable, tables) for seen in self.seen]

    def _joined(self, tensors: list[torch.Tensor]) -> _Origin:
        """Return of what a result of these tensors is made."""
        found: frozenset[str] = frozenset()
        for item in tensors:
            origin = self._origins.get(id(item), frozenset())
            if origin is None:
                return None
            found |= origin
        return found

    def _check(self, func: Any, name: str, tensors: list[torch.Tensor]) -> None:
        """Raise for an operation whose products are not known.

        Raises:
            UnsupportedModelError: It names the operation and the weight that it uses.
        """
        foreign = getattr(func, "namespace", "") not in _OWN and name not in _OPERANDS
        if not foreign and not _UNKNOWN.search(name):
            return
        weights = [self._names[id(item)] for item in tensors if id(item) in self._names]
        of_weights = f" with '{weights[0]}'" if weights else ""
        raise UnsupportedModelError(
            f"The model computes {func}{of_weights}, which is no matrix product: what convolutions, recurrences, "
            "quantised and custom kernels cost is not counted."
        )


def _factors(
    name: str, args: Any, results: list[torch.Tensor]
) -> Iterator[tuple[int, list[tuple[torch.Tensor, bool]]]]:
    """Give the products of an operation: FLOPs, and the two factors with whether each needs a gradient."""
    if name in _OPERANDS:
        first, second = (args[place] for place in _OPERANDS[name])
        flops = 2 * results[0].numel() * first.shape[-1]
        yield flops, [(first, first.requires_grad), (second, second.requires_grad)]
    elif _ATTENTION.search(name):
        query, key, value = args[:3]
        n_scores = math.prod(query.shape[:-1]) * key.shape[-2]
        scored = query.requires_grad or key.requires_grad
        yield 2 * n_scores * query.shape[-1], [(query, query.requires_grad), (key, key.requires_grad)]
        yield 2 * n_scores * value.shape[-1], [(query, scored), (value, value.requires_grad)]


def _tensors(values: Any) -> list[torch.Tensor]:
    """Return the tensors among arguments or results of an operation, also those in lists of them."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [item for item in value if isinstance(item, torch.Tensor)]
    return found


def _storage(tensor: torch.Tensor) -> int:
    """Return what tensors of one storage have in common."""
    return tensor.untyped_storage().data_ptr()


def _reachable(root: torch.Tensor) -> set[Any]:
    """Return the nodes of the graph through which a backward pass goes."""
    found: set[Any] = set()
    waiting = [root.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return found


def _inputs(plain: Any, batch_size: int, length: int, labelled: int | None) -> dict[str, Any]:
    """Return a batch of ordinary tokens, of which the first ``labelled`` have a label."""
    config, device = plain.config, plain.device
    fields = [item for _, part in walk(config) for item in vars(part).items()]
    special = {value for name, value in fields if name.endswith("token_id") and isinstance(value, int)}
    ordinary = torch.tensor([number for number in range(64 + len(special)) if number not in special][:64])
    size = plain.get_input_embeddings().weight.shape[0]
    ordinary = ordinary[ordinary < size]
    draws = torch.randint(len(ordinary), (batch_size, length), generator=torch.Generator().manual_seed(0))
    ids = ordinary[draws].to(device)
    known = inspect.signature(type(plain).forward).parameters  # launchers wrap that of the object
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "use_cache" in known:
        inputs["use_cache"] = False
    if "token_type_ids" in known and hasattr(config, "vision_config"):  # such models refuse to train without
        inputs["token_type_ids"] = torch.zeros_like(ids)
    if labelled is not None and "labels" in known and plain.get_output_embeddings() is not None:
        labels = torch.full_like(ids, IGNORED)
        labels.view(-1)[:labelled] = ids.view(-1)[:labelled]
        inputs["labels"] = labels
    return inputs


@contextmanager
def _mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a model in training or evaluation mode, and every module back in its own."""
    with evaluation_mode(model):
        model.train(training)
        yield


@contextmanager
def _seen_attention(model: nn.Module) -> Iterator[None]:
    """Let attention go through operations of torch where it is set to kernels of other packages, or to flex."""
    before: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        own = getattr(config, "_attn_implementation_internal", None)
        if own not in (None, "eager", "sdpa"):
            before[id(config)] = (config, own)
    try:
        for config, _ in before.values():
            config._attn_implementation_internal = "sdpa" if getattr(model, "_supports_sdpa", True) else "eager"
        yield
    finally:
        for config, own in before.values():
            config._attn_implementation_internal = own


@contextmanager
def _marked_checkpoints(model: nn.Module, watch: _Watch) -> Iterator[None]:
    """Compute checkpointed layers once, marking the products that a backward pass would compute again.

    Like torch, which stops to compute again when it has all that the backward pass asks for, unless reentrant.
    """

    def marking(own: Any) -> Callable[..., Any]:
        reentrant = getattr(own, "keywords", {}).get("use_reentrant", True)

        def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            begin = end = len(watch.seen)

            def pack(tensor: torch.Tensor) -> None:
                nonlocal end
                end = len(watch.seen)

            needed = any(torch.is_tensor(item) and item.requires_grad for item in args)
            if reentrant and not needed:
                with torch.no_grad():
                    return function(*args, **kwargs)
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda _: torch.empty(0)):
                output = function(*args, **kwargs)
            for item in watch.seen[begin : len(watch.seen) if reentrant else end]:
                item.recomputed = True
            return output

        return run

    name = "_gradient_checkpointing_func"
    before = [(module, vars(module)[name]) for module in model.modules() if name in vars(module)]
    try:
        for module, own in before:
            setattr(module, name, marking(own))
        yield
    finally:
        for module, own in before:
            setattr(module, name, own)


__all__ = ["PARTS", "Product", "check_countable", "seen_products", "table_names"]
