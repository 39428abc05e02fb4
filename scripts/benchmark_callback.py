"""Seconds per training step with the callback, for each kind of stage, over those of the bare Trainer.

    python scripts/benchmark_callback.py --out scripts/results/callback.md

All variants of one model train in one process, taking turns block by block, so that a change of the machine's speed
meets all of them; the ratio is that of the medians of their steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_vocab_extend import Stage, VocabExtension, VocabExtensionCallback
from hf_vocab_extend.mapping import RowKind, TokenMapping
from hf_vocab_extend.methods.mixture import Mixture
from hf_vocab_extend.report import SIZES, ExtensionReport

MODELS = {"32k x 256": (32_000, 256), "120k x 384": (120_000, 384)}
NEW_SHARE = 0.25
VARIANTS: dict[str, Any] = {
    "bare Trainer": None,
    "no stages, no measures": {"stages": None, "measures": False},
    "no stages, measures": {"stages": None},
    "new rows": {"stages": Stage("new_rows"), "measures": False},
    "embeddings and head": {"stages": Stage(("embeddings", "head")), "measures": False},
    "two layers at each end, tables": {"stages": "2x2ls", "measures": False},
    "body": {"stages": Stage("body"), "measures": False},
    "body and new rows": {"stages": Stage(("body", "new_rows")), "measures": False},
}


class Clock(TrainerCallback):
    """Takes the time from the beginning of each step to that of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


def make_extension(n_rows: int, width: int) -> VocabExtension:
    """A small Llama whose last quarter of rows is new."""
    config = LlamaConfig(
        vocab_size=n_rows,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=6,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    names = ["<pad>", *(f"w{index}" for index in range(1, n_rows))]
    vocabulary = {name: index for index, name in enumerate(names)}
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="<pad>")), pad_token="<pad>"
    )
    kinds = np.full(n_rows, RowKind.SAME, np.uint8)
    kinds[int(n_rows * (1 - NEW_SHARE)) :] = RowKind.METHOD
    mapping = TokenMapping(names, names, kinds, Mixture.from_lists([[] for _ in names], n_source=n_rows))
    texts = dict.fromkeys(("version", "method", "method_reason", "fallback"), "benchmark")
    report = ExtensionReport.from_dict(
        texts
        | dict.fromkeys(("base_model", "base_revision", "source_tokenizer", "target_tokenizer", "coverage"))
        | dict.fromkeys(("fertility_before", "fertility_after"))
        | dict.fromkeys(("method_config", "counts_by_kind", "seconds_by_step", "versions"), {})
        | {"mode": "extend", "seed": 0, "languages": [], "tables": [], "tied": True, "notes": []}
        | {"sizes": dict.fromkeys(SIZES, n_rows)}
    )
    return VocabExtension(model, own, mapping, report)


def block(
    extension: VocabExtension, options: Any, data: list[Any], steps: int, kept: dict[str, torch.Tensor]
) -> list[float]:
    """Train a few steps from the same values; returns the seconds of all but the first."""
    extension.model.load_state_dict(kept)
    clock = Clock()
    callbacks: list[Any] = [clock]
    if options is not None:
        callbacks.append(VocabExtensionCallback(extension, **options))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps + 2,
            per_device_train_batch_size=4,
            learning_rate=1e-4,
            weight_decay=0.1,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
        )
        Trainer(model=extension.model, args=arguments, train_dataset=data, callbacks=callbacks).train()
    return clock.seconds[1:]


def measure(n_rows: int, width: int, steps: int, rounds: int, length: int) -> list[tuple[str, float, float]]:
    """Return the variants with their median seconds and the ratio to the bare Trainer."""
    extension = make_extension(n_rows, width)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1, n_rows, (4 * (steps + 4), length), generator=generator)
    data = [{"input_ids": row, "labels": row} for row in rows]
    kept = {name: value.clone() for name, value in extension.model.state_dict().items()}
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(rounds):
        order = list(VARIANTS.items())
        for name, options in order[number % len(order) :] + order[: number % len(order)]:
            seconds[name] += block(extension, options, data, steps, kept)
    bare = statistics.median(seconds["bare Trainer"])
    return [(name, statistics.median(found), statistics.median(found) / bare) for name, found in seconds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write.")
    parser.add_argument("--steps", type=int, default=6, help="Measured steps per block.")
    parser.add_argument("--rounds", type=int, default=3, help="Blocks per variant.")
    parser.add_argument("--length", type=int, default=128, help="Tokens per text; 4 texts per step.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        "# Overhead of the callback",
        "",
        "Llama of 6 layers, tied table, the last quarter of its rows new; AdamW with weight decay 0.1, "
        f"{options.threads} thread(s), {options.rounds} interleaved blocks of {options.steps} steps of "
        f"4 x {options.length} tokens; torch {torch.__version__}. Stages that freeze much are faster than the bare "
        "Trainer, which trains all.",
        "",
    ]
    for name in options.models:
        found = measure(*MODELS[name], options.steps, options.rounds, options.length)
        lines += [f"## {name}", "", "| variant | median ms per step | over the bare Trainer |", "|---|---|---|"]
        lines += [f"| {variant} | {1000 * seconds:,.0f} | {ratio:.3f} |" for variant, seconds, ratio in found]
        lines.append("")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines), "utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
