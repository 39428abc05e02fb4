"""What part of a parameter this process stores: plain tensors and the DTensors of FSDP2."""

from __future__ import annotations

import torch
from torch.distributed import tensor as distributed_tensor

from ..errors import UnsupportedModelError


def local_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this process stores, sharing its memory and outside of autograd."""
    tensor = tensor.detach()
    if is_dtensor(tensor):
        with torch.no_grad():
            return tensor.to_local()  # type: ignore[attr-defined]
    return tensor


def is_dtensor(tensor: torch.Tensor) -> bool:
    """Whether a tensor is spread over processes."""
    return torch.distributed.is_available() and isinstance(tensor, distributed_tensor.DTensor)


def global_rows(name: str, tensor: torch.Tensor, axis: int) -> range:
    """Tell which rows of the whole tensor this process stores.

    Args:
        name: Name of the tensor, for messages.
        tensor: A plain tensor or a DTensor with placements ``Replicate()`` and at most one ``Shard``.
        axis: The axis that counts rows.

    Returns:
        The rows, all of them if another axis is sharded.

    Raises:
        UnsupportedModelError: If the tensor is a flat parameter or a placeholder, or is sharded otherwise.
    """
    _check_whole(name, tensor)
    n_rows = tensor.shape[axis]
    if not is_dtensor(tensor):
        return range(n_rows)
    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    rows, cuts = range(n_rows), 0
    for dimension, placement in enumerate(placements):
        # A strided shard (tensor parallelism under FSDP) is a kind of Shard in some versions of torch.
        known = type(placement) in (distributed_tensor.Shard, distributed_tensor.Replicate)
        cuts += type(placement) is distributed_tensor.Shard
        if not known or cuts > 1:
            raise UnsupportedModelError(
                f"'{name}' is spread over processes as {placements}: which rows a process holds cannot be told. "
                "Use FSDP2 alone, or all parameters trainable (no stage that freezes rows)."
            )
        if placement.is_shard(axis):
            size = -(-n_rows // mesh.size(dimension))
            start = min(mesh.get_local_rank(dimension) * size, n_rows)
            rows = range(start, min(start + size, n_rows))
    if local_tensor(tensor).shape[axis] != len(rows):
        raise UnsupportedModelError(
            f"'{name}' holds {local_tensor(tensor).shape[axis]} rows on this process where {len(rows)} are expected: "
            "it is not cut into equal parts. Use FSDP2 with its default placement (the first axis)."
        )
    return rows


def _check_whole(name: str, tensor: torch.Tensor) -> None:
    """Refuse a parameter in which rows mean nothing."""
    if hasattr(tensor, "ds_id") or hasattr(tensor, "ds_tensor"):
        raise UnsupportedModelError(
            f"'{name}' is a placeholder of DeepSpeed ZeRO-3: its rows lie in pieces elsewhere and cannot be held. "
            "Use ZeRO-2 or FSDP2 (fsdp_version: 2)."
        )
    if getattr(tensor, "_is_flat_param", False) or getattr(tensor, "_fsdp_flattened", False):
        raise UnsupportedModelError(
            f"'{name}' is flattened by FSDP1: rows cannot be told in it. Use FSDP2 "
            "(fsdp_config={'version': 2} or fsdp_version: 2 in the file of accelerate)."
        )
    if tensor.is_meta:
        raise UnsupportedModelError(
            f"'{name}' is on the meta device and has no rows yet. Load the model with its weights first."
        )


__all__ = ["global_rows", "is_dtensor", "local_tensor"]
