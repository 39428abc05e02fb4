"""Measure HyperOFA: how well rows that it has not seen are predicted, and how long it takes.

    python scripts/benchmark_hyperofa.py --data DATA --out scripts/results/hyperofa.md
    python scripts/benchmark_hyperofa.py --speed 100000

Quality: word vectors are trained on English text; of the tokens of all-MiniLM-L6-v2 that a word holds, a tenth is set
aside, and their rows are predicted from the others. Speed: synthetic bags and a synthetic table of the size asked for.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transfer_data import load_model, read_table, source_tokenizer

from hf_vocab_extend.methods.hypernetwork.bags import N_FEATURES, Bags, make_bags
from hf_vocab_extend.methods.hypernetwork.rows import HyperRows
from hf_vocab_extend.methods.hyperofa import HyperOfaConfig
from hf_vocab_extend.methods.neighbours import softmax_weights
from hf_vocab_extend.resources.alignment.ragged import offsets_of
from hf_vocab_extend.resources.corpus import open_corpus
from hf_vocab_extend.resources.fasttext import FastTextOptions
from hf_vocab_extend.resources.piece_incidence import piece_incidence
from hf_vocab_extend.resources.word_training import train_word_vectors
from hf_vocab_extend.surgery.trained import trained_rows
from hf_vocab_extend.vocab.canonical import TokenKind, canonicalise

CPU = torch.device("cpu")
SMALL_BILSTM = {"network": "bilstm", "layers": 1, "hidden": 256, "max_words": 64}
SMALL_SETFORMER = {"network": "setformer", "layers": 2, "hidden": 400, "heads": 5, "max_words": 64}
PAPER = {"base": "mean", "unit_words": False, "schedule": "linear", "norms": "none"}
PLAIN = {"network": "none", "norms": "none"}
IN_F = {"loss": "published", "loss_space": "F"}
ATTENTION = {"network": "attention"}
TUNED = {"features": True, "k": 50, "temperature": None}
ROWS: dict[str, dict[str, Any]] = {
    "mean row": {**PLAIN, "base": "mean"},
    "ridge regression on the mean word vector": {**PLAIN, "base": "ridge"},
    "ridge and neighbours": PLAIN,
    "the same, lengths of the neighbours": {"network": "none"},
    "**default**: and attention pooling": {},
    "with attention pooling, lengths as predicted": {**ATTENTION, "norms": "none"},
    "with attention pooling, with features": {**ATTENTION, "features": True},
    "with attention pooling, features, k=50, temperature tuned": {**ATTENTION, **TUNED},
    "ridge and neighbours, features, k=50, temperature tuned": {**PLAIN, **TUNED},
    "with attention pooling, cosine loss": {**ATTENTION, "loss": "cosine"},
    "with attention pooling, cosine and squared loss": {**ATTENTION, "loss": "cosine_squared"},
    "with attention pooling, absolute loss": {**ATTENTION, "loss": "absolute"},
    "with attention pooling, contrastive loss": {**ATTENTION, "loss": "contrastive"},
    "with attention pooling, published loss": {**ATTENTION, "loss": "published"},
    "with attention pooling, published loss in F": {**ATTENTION, **IN_F},
    "with attention pooling, squared loss in F": {**ATTENTION, "loss_space": "F"},
    "with attention pooling, rank 200": {**ATTENTION, "rank": 200},
    "with attention pooling, rank 100": {**ATTENTION, "rank": 100},
    "attention pooling alone": {**ATTENTION, "base": "mean", "norms": "none"},
    "ridge, neighbours and deep sets": {"network": "deepsets"},
    "deep sets alone": {"network": "deepsets", "base": "mean", "norms": "none"},
    "bilstm (1 x 256) alone, published loss in F": {**SMALL_BILSTM, **PAPER, **IN_F},
    "bilstm (1 x 256) alone, published loss in E": {**SMALL_BILSTM, **PAPER, "loss": "published"},
    "bilstm (1 x 256) alone, cosine loss in E": {**SMALL_BILSTM, **PAPER, "loss": "cosine"},
    "setformer (2 x 400) alone, published loss in F": {**SMALL_SETFORMER, **PAPER, **IN_F},
    "setformer (2 x 400) alone, cosine loss in E": {**SMALL_SETFORMER, **PAPER, "loss": "cosine"},
    "ridge, neighbours and bilstm (1 x 256)": SMALL_BILSTM,
}
"""Options by the name of the row. The paper's own sizes take days here; the small ones stand in for them."""


def english(data: Path) -> list[str]:
    """Return English training lines."""
    with gzip.open(data / "mono" / "eng_Latn.train.txt.gz", "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    for path in sorted((data / "parallel").glob("eng_Latn-*.train.tsv.gz")):
        lines += [row["eng_Latn"] for row in read_table(path)]
    return list(dict.fromkeys(lines))


class Judge:
    """Holds rows of MiniLM's table back and scores predictions of them."""

    def __init__(self, data: Path, dim: int) -> None:
        tokenizer = source_tokenizer()
        options = FastTextOptions(
            dim=dim,
            epochs=20,
            min_count=3,
            window=5,
            negatives=10,
            min_ngram=5,
            max_ngram=5,
            buckets=200_000,
            threads=1,
        )
        space = train_word_vectors(tokenizer, open_corpus(english(data)), [], options)
        vocab = canonicalise(tokenizer)
        self.table = load_model().get_input_embeddings().weight.detach().float()
        incidence = piece_incidence(space, tokenizer, vocab)
        plain = np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
        self.ids = np.flatnonzero(incidence.covered & plain & trained_rows(self.table, vocab))
        order = np.random.default_rng(0).permutation(len(self.ids))
        n_test = len(order) // 10
        self.test, self.known = np.sort(self.ids[order[:n_test]]), np.sort(self.ids[order[n_test:]])
        self.source = make_bags(space, incidence, vocab, self.known)
        self.target = make_bags(space, incidence, vocab, self.test)
        self.mean = self.table[self.known].mean(0)
        self.all = torch.nn.functional.normalize(self.table[self.ids] - self.mean, dim=1)
        self.summary = (
            f"{len(space):,} words of {dim} dimensions hold {len(self.ids):,} of the {len(vocab):,} tokens, "
            f"half of them in {np.median(self.source.sizes):.0f} word; {len(self.test):,} are set aside."
        )

    def score(self, rows: torch.Tensor) -> str:
        """Return cosine, cosine of what differs from the mean row, median rank of the true token, and norm ratio."""
        true = self.table[self.test]
        plain = torch.cosine_similarity(rows, true).mean()
        centred = torch.cosine_similarity(rows - self.mean, true - self.mean).mean()
        scores = torch.nn.functional.normalize(rows - self.mean, dim=1) @ self.all.T
        own = scores[torch.arange(len(rows)), torch.from_numpy(np.searchsorted(self.ids, self.test))]
        rank = (scores > own[:, None]).sum(1).add(1).median()
        norm = rows.norm(dim=1).mean() / true.norm(dim=1).mean()
        return f"{plain:.3f} | {centred:.3f} | {int(rank)} | {norm:.2f}"

    def ofa(self) -> torch.Tensor:
        """Return the mixture of the 10 nearest tokens, as OFA has it."""
        means = [
            torch.nn.functional.embedding_bag(
                torch.from_numpy(bags.words), bags.table, torch.from_numpy(bags.offsets), mode="mean",
                include_last_offset=True,
            )
            for bags in (self.target, self.source)
        ]  # fmt: skip
        return softmax_weights(*means, 10, temperature=0.1).rows(self.table[self.known])

    def predict(self, options: dict[str, Any]) -> tuple[torch.Tensor, int | None]:
        """Return predictions, and after how many passes the network was best."""
        config = HyperOfaConfig(**options)
        covered = np.ones(len(self.test), bool)
        rows = HyperRows(covered, self.known, self.source, self.target, config, config.rank, 0, CPU)
        found = rows.rows(self.table)
        history = next(iter(rows.predictors.values())).history
        return found, history.best if history.cosines else None


def quality(data: Path, dim: int, chosen: list[str]) -> list[str]:
    """Return the table of quality."""
    judge = Judge(data, dim)
    lines = [judge.summary, ""]
    lines += [
        "| row | cosine | centred cosine | median rank | norm ratio | best pass | seconds |",
        "|---|" + "---|" * 6,
    ]
    lines.append(f"| OFA (k=10, temperature 0.1) | {judge.score(judge.ofa())} | | |")
    print(lines[0], lines[-1], sep="\n", flush=True)
    for name, options in ROWS.items():
        if chosen and not any(part in name for part in chosen):
            continue
        start = time.perf_counter()
        rows, best = judge.predict(options)
        seconds = time.perf_counter() - start
        lines.append(f"| {name} | {judge.score(rows)} | {'' if best is None else best} | {seconds:.0f} |")
        print(lines[-1], flush=True)
    return lines


def synthetic(n: int, n_words: int, dim: int, seed: int) -> Bags:
    """Return bags of log-normal sizes from 1 to 256: half in up to 7 words, one in ten in more than 50."""
    random = np.random.default_rng(seed)
    sizes = np.clip(np.exp(random.normal(2.0, 1.5, n)), 1, 256).astype(np.int64)
    table = np.random.default_rng(1).standard_normal((n_words, dim)).astype(np.float32)
    words = random.integers(0, n_words, sizes.sum())
    features = random.standard_normal((n, N_FEATURES)).astype(np.float32)
    shares = 1 / random.integers(1, 5, len(words)).astype(np.float32)
    return Bags(offsets_of(sizes), words, shares, features, torch.from_numpy(table))


def speed(n: int, options: dict[str, Any]) -> list[str]:
    """Return seconds to learn from `n` tokens and to predict as many."""
    source, target = synthetic(n, 200_000, 200, 0), synthetic(n, 200_000, 200, 2)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(200, 200, generator=generator)
    table = source.pooled() @ mixing + torch.randn(n, 200, generator=generator)
    rows = HyperRows(np.ones(n, bool), np.arange(n), source, target, HyperOfaConfig(**options), None, 0, CPU)
    start = time.perf_counter()
    rows.rows(table)
    total = time.perf_counter() - start
    predictor = next(iter(rows.predictors.values()))
    start = time.perf_counter()
    predictor(target, CPU, 0)
    predicting = time.perf_counter() - start
    passes = len(predictor.history.losses)
    return [
        f"{n:,} source tokens in {source.sizes.mean():.1f} words each (median {np.median(source.sizes):.0f}), 200,000 "
        f"words of 200 dimensions, rows of 200 numbers, {torch.get_num_threads()} threads: learnt in "
        f"{total - predicting:.0f} s ({passes} passes), {n:,} tokens predicted in {predicting:.0f} s."
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the text")
    parser.add_argument("--dim", type=int, default=100, help="dimensions of the word vectors")
    parser.add_argument("--rows", nargs="*", default=[], help="only rows whose name holds one of these")
    parser.add_argument("--speed", type=int, help="number of tokens to measure speed at")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the lines here")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = speed(args.speed, ATTENTION) if args.speed else quality(args.data, args.dim, args.rows)
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
