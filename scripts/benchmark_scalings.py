"""Measure how the singular values are best shared out between the two factors of a table, for training with AdamW.

    python scripts/benchmark_scalings.py --data DATA --out scalings.md

all-MiniLM-L6-v2's body gets a masked-language head (tied to its table, as BERT has it), the table is factorised at one
rank with each scaling, and all of it is trained for some steps on English text with one learning rate for everything.
The product of the factors is the same at the start, so all begin at the same loss. Dense stands for comparison.
"""

from __future__ import annotations

import argparse
import gzip
import platform
from pathlib import Path

import numpy as np
import torch
from transfer_data import MODEL, source_tokenizer
from transformers import BertForMaskedLM

from hf_vocab_extend import factorize_embeddings
from hf_vocab_extend.surgery.low_rank import SCALINGS

BATCH, LENGTH, MASKED, SEED = 16, 64, 0.15, 3


def blocks(data: Path, count: int) -> torch.Tensor:
    """Return blocks of English token ids, shape `(count, LENGTH)`."""
    with gzip.open(data / "mono" / "eng_Latn.train.txt.gz", "rt", encoding="utf-8") as file:
        lines = [line for line, _ in zip(file, range(60_000), strict=False)]
    ids = source_tokenizer()(lines, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    flat = np.concatenate([np.asarray(row, np.int64) for row in ids])
    return torch.from_numpy(flat[: count * LENGTH].reshape(count, LENGTH))


def loss_of(model: BertForMaskedLM, ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the loss on masked tokens."""
    masked = torch.rand(ids.shape, generator=generator) < MASKED
    labels = torch.where(masked, ids, -100)
    return model(input_ids=ids.masked_fill(masked, 103), labels=labels).loss


def train(data: torch.Tensor, held_out: torch.Tensor, scaling: str | None, rank: int, rate: float) -> list[float]:
    """Return the held-out loss before and after training."""
    torch.manual_seed(SEED)
    model = BertForMaskedLM.from_pretrained(MODEL, local_files_only=True)
    if scaling is not None:
        factorize_embeddings(model, rank, scaling=scaling)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    generator, losses = torch.Generator().manual_seed(SEED), [evaluate(model, held_out)]
    model.train()
    for ids in data.split(BATCH):
        loss_of(model, ids, generator).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return [*losses, evaluate(model, held_out)]


@torch.no_grad()
def evaluate(model: BertForMaskedLM, held_out: torch.Tensor) -> float:
    """Return the loss on held-out text, always with the same masks."""
    model.eval()
    fixed = torch.Generator().manual_seed(SEED)
    return float(torch.stack([loss_of(model, part, fixed) for part in held_out.split(64)]).mean())


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mono")
    parser.add_argument("--rank", type=int, default=100)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-5, 5e-4])
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    args = parser.parse_args()
    data = blocks(args.data, args.steps * BATCH + 128)
    lines = [
        "# Sharing out the singular values",
        "",
        f"all-MiniLM-L6-v2 with a tied masked-language head, rank {args.rank}, {args.steps} steps of {BATCH} x "
        f"{LENGTH} tokens, AdamW with one learning rate for all; loss on held-out text. torch {torch.__version__}, "
        f"Python {platform.python_version()}.",
        "",
        f"| scaling | before | {' | '.join(f'after, rate {rate:g}' for rate in args.rates)} |",
        "|---|---|" + "---|" * len(args.rates),
    ]
    for scaling in (*SCALINGS, None):
        found = [train(data[128:], data[:128], scaling, args.rank, rate) for rate in args.rates]
        cells = " | ".join(f"{after:.3f}" for _, after in found)
        lines.append(f"| {scaling or 'dense'} | {found[0][0]:.3f} | {cells} |")
        print(lines[-1], flush=True)
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
