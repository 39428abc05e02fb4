"""What the batches of a Trainer hold: tokens, bytes of text, and the share of new tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import UnsupportedTokenizerError
from ..vocab.canonical import TokenKind, canonicalise
from .host import shadow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_METHOD = "get_batch_samples"
"""The method of the Trainer through which the batches of a step go, in the process that trains."""
_NAMES = ("tokens", "bytes", "new", "seen")


class BatchCounter:
    """Counts the tokens of the training batches.

    The batches are seen where the Trainer takes them from its dataloader, after workers, collators and packing: that
    works under gradient accumulation, ``torch.compile``, DistributedDataParallel, FSDP and after a resume. Around
    another loop, which has no such method, the model's forward calls in training mode are counted instead; under
    ``torch.compile`` that interrupts the graph once per call.

    Sums stay on the device and are read when they are asked for, so that no step waits for them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, new_ids: torch.Tensor, model: PreTrainedModel) -> None:
        """Prepare.

        Args:
            tokenizer: Says how many bytes of text each token stands for; special tokens stand for none.
            new_ids: Ids of the new tokens, shape `(n_new,)`.
            model: The model, for the hook.
        """
        self._model = model
        lengths = token_bytes(tokenizer)
        size = max(len(lengths), int(new_ids.max()) + 1 if len(new_ids) else 0)
        self._table = torch.zeros(size, 2, dtype=torch.long)
        self._table[: len(lengths), 0] = lengths
        self._table[new_ids, 1] = 1
        self._pad = tokenizer.pad_token_id
        self._sums = torch.zeros(4, dtype=torch.long, device=model.device)  # a launcher sums where its backend can
        self._before = dict.fromkeys(_NAMES[:2], 0)
        self._detach: Callable[[], None] | None = None

    def attach(self, trainer: Any | None) -> None:
        """Begin to count the batches of a Trainer; of the model where there is none."""
        if trainer is None or not hasattr(trainer, _METHOD):
            self._detach = self._model.register_forward_pre_hook(self._see_forward, with_kwargs=True).remove
            return

        def counted(take: Callable[..., Any]) -> Callable[..., Any]:
            def taken(*args: Any, **kwargs: Any) -> Any:
                found = take(*args, **kwargs)
                for batch in found[0]:
                    self.see(batch)
                return found

            return taken

        self._detach = shadow(trainer, _METHOD, counted)

    def detach(self) -> None:
        """Stop to count."""
        if self._detach is not None:
            self._detach()
            self._detach = None

    def see(self, batch: Any) -> None:
        """Count one batch, a mapping with ``input_ids`` and perhaps ``attention_mask``."""
        ids = batch.get("input_ids") if hasattr(batch, "get") else None
        if not isinstance(ids, torch.Tensor) or ids.is_floating_point():
            return
        mask = batch.get("attention_mask")
        if isinstance(mask, torch.Tensor) and mask.shape == ids.shape:
            kept = mask.to(torch.bool)
        else:
            kept = torch.ones_like(ids, dtype=torch.bool) if self._pad is None else ids != self._pad
        device = self._sums.device
        if self._table.device != device:
            self._table = self._table.to(device)
        ids, kept = ids.to(device), kept.to(device)
        found = (self._table[ids.clamp(max=len(self._table) - 1)] * kept.unsqueeze(-1)).reshape(-1, 2).sum(0)
        n_tokens = kept.sum()
        self._sums = self._sums + torch.stack([n_tokens, found[0], found[1], n_tokens])

    @torch.compiler.disable
    def _see_forward(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count the input of a forward call in training."""
        if model.training:
            self.see(kwargs or ({"input_ids": args[0]} if args else {}))

    def totals(self, *, keep: bool = False) -> dict[str, float]:
        """Return ``trained_tokens`` and ``trained_bytes`` so far, and ``new_token_share`` since the last call.

        All of all processes, which must call this together. The share is left out where no batch was seen since then;
        ``keep`` does not begin it anew.
        """
        sums = self._sums.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        tokens, n_bytes, new, seen = sums.tolist()
        if not keep:
            self._sums[2:] = 0
        found: dict[str, float] = {
            "trained_tokens": self._before["tokens"] + tokens,
            "trained_bytes": self._before["bytes"] + n_bytes,
        }
        if seen:
            found["new_token_share"] = new / seen
        return found

    def go_on_from(self, tokens: int, n_bytes: int) -> None:
        """Begin with what an interrupted run had counted, in all its processes."""
        self._before = {"tokens": tokens, "bytes": n_bytes}


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Return how many bytes of text each token stands for, int64, shape `(n_ids,)`; 0 for special tokens.

    A token that begins a word stands for the space before it, too (one that ends a word for the space after it, in the
    family that marks ends), so sums over a text are right within about one byte per line and mark. For a tokenizer of
    unknown family, the bytes of the decoded token are taken.
    """
    try:
        vocab = canonicalise(tokenizer)
    except UnsupportedTokenizerError:
        special = set(tokenizer.all_special_ids)
        names = [(index, str(tokenizer.decode([index]))) for index in range(len(tokenizer))]
        return torch.tensor([0 if index in special else len(text.encode("utf-8")) for index, text in names])
    lengths = torch.tensor([len(raw) for raw in vocab.raw], dtype=torch.long)
    spaces = torch.from_numpy((vocab.starts_word == 1) | (vocab.ends_word == 1)).long()
    of_text = torch.from_numpy(np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE))).long()
    return (lengths + spaces) * of_text


__all__ = ["BatchCounter", "token_bytes"]
