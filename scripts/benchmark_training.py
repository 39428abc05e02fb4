"""Measure what each start is worth in continued pretraining: bits per byte of held-out text against steps.

    python scripts/reference_models.py --data DATA --out reference
    python scripts/benchmark_training.py --data DATA --models reference --work runs --out training.md
    python scripts/benchmark_training.py ... --shard 0/2 & python scripts/benchmark_training.py ... --shard 1/2

The small reference models, which have read English only, get 6,000 new tokens, started by each method, and are
trained on text of the new language: the causal one on Swahili and on Hindi, the masked one on Swahili. Each run is
kept in a file of its own, so that the table goes on where it was stopped; runs of the report beside ``--out`` are not
made again either.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reference_models import BATCH, BLOCK
from training_report import write_report
from transfer_data import Language
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_vocab_extend import extend_tokenizer, extend_vocabulary
from hf_vocab_extend.adaptation.collators import make_collator
from hf_vocab_extend.adaptation.data import packed_blocks
from hf_vocab_extend.evaluation.bits_per_byte import bits_per_byte
from hf_vocab_extend.modeling.masked_positions import masked_positions_only
from hf_vocab_extend.resources.corpus import open_corpus

NEW_TOKENS, STEPS, RATE, WARMUP, HELD_OUT_BYTES = 6_000, 96, 1e-3, 6, 20_000
SHARES = (0.0, 0.01, 0.03, 0.1, 0.3, 0.6, 1.0)
"""Where the held-out text is measured, as shares of the budget."""
SETTINGS = (("causal", "sw"), ("masked", "sw"), ("causal", "hi"))
STAGES = "embeddings_first"
BEST = "trans_tokenization"
AUTO = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}


def pairs(language: Language) -> dict[str, Any]:
    return {"parallel": language.pairs[::2]}


METHODS: dict[str, Callable[[Language], dict[str, Any]]] = {
    "random": lambda language: {},
    "trans_tokenization": pairs,
    "subword": lambda language: {},
    "ofa": pairs,
    "focus": lambda language: {"corpus": language.text},
    "mean": lambda language: {},
    "wechsel": lambda language: {
        "dictionary": language.dictionary,
        "word_vectors": (open_corpus(language.english_text), open_corpus(language.text)),
    },
    "hyperofa": pairs,
}
"""What each method is given; ``random`` is the method ``normal`` with the run's seed."""
UNTOUCHED = "no extension"


@dataclass(frozen=True)
class Run:
    """One training run."""

    kind: str
    code: str
    start: str
    stages: bool
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        staged = "-staged" if self.stages else ""
        return f"{self.kind}-{self.code}-{self.start.replace(' ', '_')}{staged}-{self.seed}"


def all_runs(seeds: int) -> list[Run]:
    """Return the runs, one seed after the other."""
    plain = [(start, False) for start in (*METHODS, UNTOUCHED)] + [("random", True), (BEST, True)]
    return [
        Run(kind, code, start, staged, seed)
        for seed in range(seeds)
        for kind, code in SETTINGS
        for start, staged in plain
    ]


def held_out(data: Path, name: str) -> list[str]:
    """Return evenly spaced lines of a test file, some HELD_OUT_BYTES in all."""
    with gzip.open(data / "mono" / f"{name}.test.txt.gz", "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n") for line in file]
    size = sum(len(line.encode()) for line in lines)
    return lines[:: max(size // HELD_OUT_BYTES, 1)]


class Curve(TrainerCallback):
    """Measures the held-out text at the wanted steps."""

    def __init__(self, model: Any, tokenizer: Any, texts: list[str], steps: list[int]) -> None:
        self.model, self.tokenizer, self.texts, self.steps = model, tokenizer, texts, steps
        self.points: dict[int, float] = {}
        self.seconds = 0.0

    def measure(self, step: int) -> None:
        """Measure now."""
        start = time.perf_counter()
        self.points[step] = score(self.model, self.tokenizer, self.texts)
        self.seconds += time.perf_counter() - start

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where a point is wanted."""
        if state.global_step in self.steps:
            self.measure(state.global_step)


def score(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Return bits per byte; of a masked model those of one word in seven, always the same ones."""
    return bits_per_byte(model, tokenizer, texts, max_length=BLOCK, passes=1).bits_per_byte


class Bench:
    """Makes starts and runs in one folder."""

    def __init__(self, data: Path, models: Path, work: Path) -> None:
        self.data, self.models, self.work = data, models, work
        self.languages = {code: Language(data, code) for _, code in SETTINGS}
        (work / "runs").mkdir(parents=True, exist_ok=True)

    def tokenizer(self, kind: str, code: str) -> Any:
        """Return the grown tokenizer of a model and language."""
        folder = self.work / f"tokenizer-{kind}-{code}"
        if not folder.is_dir():
            grown = extend_tokenizer(
                AutoTokenizer.from_pretrained(self.models / kind),
                self.languages[code].text,
                num_new_tokens=NEW_TOKENS,
            )
            grown.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)

    def start(self, run: Run) -> tuple[Any, Any, Any]:
        """Return model, tokenizer and, if the vocabulary was extended here, the extension."""
        source = self.models / run.kind
        tokenizer, auto = AutoTokenizer.from_pretrained(source), AUTO[run.kind]
        if run.start == UNTOUCHED:
            return auto.from_pretrained(source), tokenizer, None
        folder = self.work / "starts" / f"{run.kind}-{run.code}-{run.start}"
        if run.start == "random" or not folder.is_dir():
            method = "normal" if run.start == "random" else run.start
            extension = extend_vocabulary(
                auto.from_pretrained(source),
                self.tokenizer(run.kind, run.code),
                method,
                tokenizer=tokenizer,
                seed=run.seed,
                **METHODS[run.start](self.languages[run.code]),
            )
            if run.start == "random":
                return extension.model, extension.tokenizer, extension
            extension.save_pretrained(folder, verify=False)
        return auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder), None

    def run(self, run: Run) -> dict[str, Any]:
        """Train once and return what was measured."""
        began = time.perf_counter()
        model, tokenizer, extension = self.start(run)
        seconds_start = time.perf_counter() - began
        target = held_out(self.data, self.languages[run.code].name)
        english = held_out(self.data, "eng_Latn")
        retention = [score(model, tokenizer, english)]
        lines = list(self.languages[run.code].text)
        random.Random(run.seed).shuffle(lines)
        blocks = packed_blocks(tokenizer, lines, BLOCK, objective=run.kind)
        rows = list(itertools.islice(blocks, STEPS * BATCH))
        curve = Curve(model, tokenizer, target, [round(share * STEPS) for share in SHARES])
        curve.measure(0)
        began, curve.seconds = time.perf_counter(), 0.0
        self.train(run, model, tokenizer, extension, rows, curve)
        seconds = time.perf_counter() - began - curve.seconds
        return {
            "kind": run.kind,
            "language": run.code,
            "start": run.start,
            "stages": run.stages,
            "seed": run.seed,
            "steps": sorted(curve.points),
            "bits_per_byte": [round(curve.points[step], 5) for step in sorted(curve.points)],
            "english": [round(value, 5) for value in (*retention, score(model, tokenizer, english))],
            "bytes": sum(len(tokenizer.decode(row["input_ids"]).encode()) for row in rows),
            "seconds": round(seconds, 1),
            "seconds_start": round(seconds_start, 1),
        }

    def train(self, run: Run, model: Any, tokenizer: Any, extension: Any, rows: list[Any], curve: Curve) -> None:
        """Train a model in place."""
        arguments = TrainingArguments(
            output_dir=str(self.work / "trainer"),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="linear",
            warmup_steps=WARMUP,
            weight_decay=0.05,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            seed=run.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        callbacks: list[TrainerCallback] = [curve]
        if run.stages:
            from hf_vocab_extend import VocabExtensionCallback

            callbacks.append(VocabExtensionCallback(extension, stages=STAGES))
        if run.kind == "masked":
            masked_positions_only(model)
        trainer = Trainer(
            model,
            arguments,
            train_dataset=rows,
            data_collator=make_collator(run.kind, tokenizer, seed=run.seed),
            callbacks=callbacks,
            processing_class=tokenizer,
        )
        trainer.train()
        if run.kind == "masked":
            masked_positions_only(model, False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mono, parallel and dict")
    parser.add_argument("--models", type=Path, required=True, help="folder of reference_models.py")
    parser.add_argument("--work", type=Path, required=True, help="folder for starts and runs")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shard", default="0/1", help="i/n: every nth run from the ith on")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--only", help="runs whose name holds this")
    parser.add_argument("--report", action="store_true", help="write the report of the runs that are there")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    bench, kept = Bench(args.data, args.models, args.work), args.out.with_suffix(".json")
    done = {} if not kept.is_file() else {item["name"]: item for item in json.loads(kept.read_text("utf-8"))["runs"]}
    index, count = (int(part) for part in args.shard.split("/"))
    runs = [run for run in all_runs(args.seeds) if not args.only or args.only in run.name]
    for run in runs[index::count] if not args.report else ():
        file = args.work / "runs" / f"{run.name}.json"
        if run.name in done or file.is_file():
            continue
        found = {"name": run.name, "threads": torch.get_num_threads(), **bench.run(run)}
        file.write_text(json.dumps(found), encoding="utf-8")
        print(run.name, found["bits_per_byte"], found["english"], f"{found['seconds']:.0f} s", flush=True)
    for file in sorted((args.work / "runs").glob("*.json")):
        found = json.loads(file.read_text("utf-8"))
        done[found["name"]] = found
    facts = {kind: json.loads((args.models / kind / "training.json").read_text("utf-8")) for kind in AUTO}
    write_report(args.out, done, facts)


if __name__ == "__main__":
    main()
