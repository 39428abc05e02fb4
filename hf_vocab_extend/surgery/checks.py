"""Refuse models that surgery would damage, before anything is computed."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import InvalidTableError, UnsupportedModelError

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_ROWS_PER_BLOCK = 1 << 14
_NAMED_ROWS = 5


def check_model(model: object) -> None:
    """Raise unless the object is a plain, unquantised transformers model without adapters.

    Raises:
        UnsupportedModelError: The message says what to pass instead.
    """
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"A {type(model).__name__} is not a transformers model. Pass the PreTrainedModel itself: of a "
            "SentenceTransformer model[0].auto_model, of a PEFT model model.merge_and_unload(), of a wrapper .module."
        )
    quantised = getattr(model, "hf_quantizer", None) or getattr(model.config, "quantization_config", None)
    if quantised is not None:
        raise UnsupportedModelError(
            f"{type(model).__name__} is quantised. Load it without quantization_config (dtype='auto'), extend it, "
            "and quantise the result."
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} carries an adapter, whose rows would not follow. Merge it into the weights or "
            "delete it first."
        )


def check_plain(name: str, tensor: torch.Tensor) -> None:
    """Raise unless a vocabulary-sized tensor holds its own plain floats.

    Raises:
        UnsupportedModelError: If it is on the meta device, sharded, quantised or a tensor subclass.
    """
    if tensor.device.type == "meta":
        raise UnsupportedModelError(
            f"'{name}' is on the meta device: it has no data, or is offloaded. Load the model on the CPU, without "
            "device_map."
        )
    if hasattr(tensor, "ds_shape") or hasattr(tensor, "ds_id") or getattr(tensor, "_is_flat_param", False):
        raise UnsupportedModelError(_sharded(name, "a parameter of ZeRO-3 or FSDP"))
    kind = type(tensor.data)
    if kind.__name__ == "DTensor" or tensor.numel() == 0:
        raise UnsupportedModelError(_sharded(name, kind.__name__ if tensor.numel() else "an empty shard"))
    if kind is not torch.Tensor or tensor.dtype not in FLOATS:
        raise UnsupportedModelError(
            f"'{name}' holds {tensor.dtype} in a {kind.__name__}, not plain floating-point rows (quantised?). "
            "Load the model in float32, float16 or bfloat16."
        )
    if not isinstance(tensor, nn.Parameter) and tensor.requires_grad and not tensor.is_leaf:
        raise UnsupportedModelError(f"'{name}' is computed from other tensors. Remove the reparametrisation first.")


def _sharded(name: str, what: str) -> str:
    return (
        f"'{name}' is {what}: its rows are spread over processes. Extend the model in one process, before Trainer, "
        "FSDP or DeepSpeed, save it, and load the saved model there."
    )


def check_values(name: str, table: torch.Tensor, *, ids: torch.Tensor | None = None) -> None:
    """Raise if a table `(n_rows, width)` holds NaN or infinite values.

    Args:
        name: Name for the message.
        table: The rows.
        ids: Row numbers for the message, shape `(n_rows,)`; positions if None.

    Raises:
        InvalidTableError: The message names the tensor and the first rows.
    """
    bad: list[int] = []
    for start in range(0, table.shape[0], _ROWS_PER_BLOCK):
        block = table[start : start + _ROWS_PER_BLOCK]
        if not torch.isfinite(block.sum(dtype=torch.float32)):  # one pass; the exact look only if it fails
            rows = (~torch.isfinite(block)).any(dim=1).nonzero().flatten() + start
            bad.extend(rows.tolist())
    if bad:
        numbers = bad if ids is None else ids[bad].tolist()
        shown = ", ".join(map(str, numbers[:_NAMED_ROWS])) + (", ..." if len(bad) > _NAMED_ROWS else "")
        raise InvalidTableError(
            f"'{name}' holds NaN or infinite values in {len(bad)} rows ({shown}). "
            "Repair the checkpoint, or load it in the type that it was trained in."
        )
