"""Measure what factorised tables cost and save in training: parameters, files, seconds of a step, memory.

    python scripts/benchmark_factorized.py --out factorized.md

A masked language model of XLM-R base's shape (12 layers, width 768, 250,002 tokens) with random weights is trained for
a few steps by AdamW, dense and at several ranks, each in a process of its own. The floor is the same model with a
table of 1,000 tokens: what the body alone costs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from focus_workers import Measure
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM
from workers import Runner

from hf_vocab_extend import factorize_embeddings
from hf_vocab_extend.modeling.masked_positions import masked_positions_only

RANKS = (100, 200, 400)
SEED, MASKED = 5, 0.15


def shape(n_tokens: int) -> XLMRobertaConfig:
    """XLM-R base."""
    return XLMRobertaConfig(
        vocab_size=n_tokens, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1
    )


def make(n_tokens: int, rank: int | None) -> XLMRobertaForMaskedLM:
    """Return a model with random weights; factors are of the right size and random, too."""
    torch.manual_seed(SEED)
    model = XLMRobertaForMaskedLM(shape(n_tokens))
    return model if rank is None else factorize_embeddings(model, rank)


def train(folder: Path) -> dict:
    """Train for a few steps; the first is not counted."""
    options = json.loads((folder / "options.json").read_text("utf-8"))
    model = make(options["tokens"], options["rank"])
    masked_positions_only(model, options["masked_only"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    generator = torch.Generator().manual_seed(SEED)
    seconds = []
    with Measure() as measure:
        for _ in range(options["steps"] + 1):
            ids = torch.randint(10, options["tokens"], (options["batch"], options["length"]), generator=generator)
            masked = torch.rand(ids.shape, generator=generator) < MASKED
            labels = torch.where(masked, ids, -100)
            start = time.perf_counter()
            model(input_ids=ids.masked_fill(masked, 5), labels=labels).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seconds.append(time.perf_counter() - start)
    return {
        "parameters": sum(item.numel() for item in model.parameters()),
        "table": model.get_input_embeddings().weight.numel()
        + getattr(model.get_input_embeddings(), "projection", torch.empty(0)).numel(),
        "step": statistics.median(seconds[1:]),
        "mib": measure.mib,
    }


WORKERS = {"train": train}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=250_002)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(WORKERS[args.worker](args.folder)))
        return
    runner = Runner(__file__, args.threads)
    runner.say(
        f"# Training steps with factorised tables\n\nXLM-R base's shape, {args.tokens:,} tokens, batches of "
        f"{args.batch} x {args.length} tokens, {MASKED:.0%} of them masked, AdamW, float32; median of {args.steps} "
        f"steps. {args.threads} threads, torch {torch.__version__}, Python {platform.python_version()}; load before: "
        f"{os.getloadavg()[0]:.1f}\n"
    )
    runner.say("| table | numbers in the table | in the model | float32 MiB | seconds per step | MiB in training |")
    runner.say("|---|---|---|---|---|---|")
    cases = [("dense", args.tokens, None, False)]
    cases += [(f"rank {rank}", args.tokens, rank, False) for rank in RANKS]
    cases += [(f"{label}, logits of masked positions only", *rest, True) for label, *rest, _ in cases[:2]]
    cases += [("floor: 1,000 tokens, dense", 1000, None, False)]
    for label, tokens, rank, masked_only in cases:
        with tempfile.TemporaryDirectory() as name:
            options = {"tokens": tokens, "rank": rank, "masked_only": masked_only}
            options |= {"batch": args.batch, "length": args.length, "steps": args.steps}
            (Path(name) / "options.json").write_text(json.dumps(options), "utf-8")
            found = runner.run("train", Path(name))
        runner.say(
            f"| {label} | {found['table']:,} | {found['parameters']:,} | {found['parameters'] * 4 / 2**20:,.0f} | "
            f"{found['step']:.2f} | {found['mib']:,.0f} |"
        )
    if args.out:
        args.out.write_text("\n".join(runner.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
