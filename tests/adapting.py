"""Tiny extended models in training: the last rows of every table are new."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

from hf_vocab_extend import VocabExtension
from hf_vocab_extend.mapping import RowKind, TokenMapping
from hf_vocab_extend.methods.mixture import Mixture

from .models import build
from .stub_extension import make_report

V, N_NEW = 97, 17
NEW = range(V - N_NEW, V)


def extended(model: PreTrainedModel, n_new: int = N_NEW) -> VocabExtension:
    """An extension of a model of the factories whose last rows are new, with one token per id."""
    n_rows = model.get_input_embeddings().weight.shape[0]
    kinds = np.full(n_rows, RowKind.SAME, np.uint8)
    kinds[n_rows - n_new :] = RowKind.METHOD
    names = ["<pad>", "<unk>", "<s>", *(f"w{index}" for index in range(3, n_rows))]
    backend = Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    own = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="<s>"
    )
    sources = [[] if row < n_rows - n_new else [(row % 7 + 3, 0.5), (3 + row % 5 + 8, 0.5)] for row in range(n_rows)]
    mapping = TokenMapping(names, names, kinds, Mixture.from_lists(sources, n_source=n_rows))
    report = make_report()
    sizes = {**report.sizes, "target_rows": n_rows, "target_tokens": n_rows, "new_tokens": n_new}
    return VocabExtension(model, own, mapping, dataclasses.replace(report, sizes=sizes))


def examples(n: int = 64, length: int = 6, n_rows: int = V) -> list[dict[str, torch.Tensor]]:
    """Random texts, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, n_rows, (n, length), generator=generator)
    return [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in rows]


def trainer_for(
    model: torch.nn.Module, folder: Path, *callbacks: object, kind: type[Trainer] = Trainer, **options: object
) -> Trainer:
    """A Trainer over random texts: 6 steps of AdamW with weight decay, without files."""
    gc.freeze()  # the Trainer collects garbage at each run, which takes longer than six steps
    optimizers = options.pop("optimizers", (None, None))
    data = options.pop("data", None) or examples()
    own = options.pop("processing_class", None)
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.1,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    arguments = TrainingArguments(folder, report_to=[], disable_tqdm=True, use_cpu=True, **{**settings, **options})
    return kind(
        model=model,
        args=arguments,
        train_dataset=data,
        eval_dataset=data[:4],
        callbacks=list(callbacks),
        optimizers=optimizers,
        processing_class=own,
    )


def without_dropout(name: str, tied: bool = True, **options: object) -> PreTrainedModel:
    """A model of the factories without dropout."""
    model = build(name, V, tied, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def copy_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The values of all parameters by name."""
    return {name: item.detach().clone() for name, item in model.named_parameters()}


def moved_rows(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    """Name to the rows (along the first axis) that differ bit by bit, of the parameters that changed."""
    found = {}
    for name, now in model.named_parameters():
        differs = (now.detach().reshape(len(now), -1) != before[name].reshape(len(now), -1)).any(1)
        if differs.any():
            found[name] = differs.nonzero().flatten().tolist()
    return found
