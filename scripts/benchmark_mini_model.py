"""Measure mini-model adaptation: quality of the full model against the arithmetic and the time that a language costs.

    python scripts/reference_models.py --data DATA --out reference --only deep joint minilm
    python scripts/benchmark_mini_model.py --data DATA --models reference --work runs --out mini_model.md
    python scripts/benchmark_mini_model.py ... --shard 0/2 & python scripts/benchmark_mini_model.py ... --shard 1/2

Two primary models, three languages, two starts, four routes. A route learns a new embedding table on the text of a
language with the body frozen: through the whole model (standard), through its bottom layers and a few new ones that
were trained on English text (MiniPost) or to imitate the full model (imitation), or through the bottom layers of a
model that was trained with a second head (MiniJoint). Each run may spend the same arithmetic. On the way the table is
put into the full model, and held-out text is scored there. Then the tables are swapped into task models that have
seen English labels only. Each run is kept in a file of its own, so that the table goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from benchmark_training import held_out
from mini_model_report import write_report
from reference_models import BATCH, BLOCK
from reference_models import train_tokenizer as train_bpe
from transfer_data import Language, read_table
from transfer_data import train_tokenizer as train_wordpiece
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast, TrainerCallback

from hf_vocab_extend import (
    MiniJointModel,
    TaskModel,
    TrainingOptions,
    bits_per_byte,
    build_mini_model,
    extend_vocabulary,
    learn_embeddings,
    train_classifier,
    train_mini_model,
    train_tagger,
    training_flops,
    transplant_embeddings,
)
from hf_vocab_extend.adaptation.tables import vocabulary_tables
from hf_vocab_extend.modeling.masked_positions import masked_positions_only

CODES = ("sw", "hi", "de")
STARTS = ("random", "trans_tokenization")
ROUTES = ("standard", "minipost", "imitation", "minijoint")
MASKED, WARMUP = 0.15, 0.03
SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0)
"""Where the held-out text is scored, as shares of the arithmetic."""


@dataclass(frozen=True)
class Family:
    """A primary model and how it is cut.

    Attributes:
        plain: Folder of the primary model of the standard route and of MiniPost.
        joint: Folder of the model with two heads.
        bottom: Layers of the mini-models.
        new: New layers of MiniPost.
        post_steps: Steps that those are trained on English, once.
        steps: Steps of the standard route.
        vocabulary: Tokens of a language's own tokenizer.
        rates: Learning rate of the table by start and route; found on Swahili's dev file with 60 steps.
        topic_epochs: Passes over the labelled documents.
    """

    plain: str
    joint: str
    bottom: int
    new: int
    post_steps: dict[str, int]
    steps: int
    vocabulary: int
    rates: dict[tuple[str, str], float]
    topic_epochs: int


RATES = {(start, route): 1e-3 for start in STARTS for route in ROUTES} | {("random", "standard"): 3e-3}
FAMILIES = {
    "deep": Family("deep", "joint", 4, 2, {"minipost": 600, "imitation": 400}, 200, 8_000, RATES, 8),
    "minilm": Family("minilm", "minilm", 3, 1, {"minipost": 100, "imitation": 100}, 40, 16_000, RATES, 3),
}


@dataclass(frozen=True)
class Run:
    """One way to learn one table."""

    family: str
    code: str
    start: str
    route: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.family}-{self.code}-{self.start}-{self.route}-{self.seed}"


def all_runs(seeds: int) -> list[Run]:
    """Return the runs, one seed after the other."""
    return [
        Run(family, code, start, route, seed)
        for seed in range(seeds)
        for family in FAMILIES
        for code in CODES
        for start in STARTS
        for route in ROUTES
    ]


class Curve(TrainerCallback):
    """Puts the table into the full model at the wanted steps and scores it there."""

    def __init__(self, learning: Any, full: Any, tokenizer: Any, texts: list[str], steps: set[int]) -> None:
        self.learning, self.full, self.tokenizer, self.texts, self.steps = learning, full, tokenizer, texts, steps
        self.points: dict[int, tuple[float, float]] = {}
        self.began = self.away = 0.0

    @torch.no_grad()
    def plug(self) -> None:
        """Copy every tensor of the vocabulary."""
        if self.full is not self.learning:
            here = {table.roles: table.parameter for table in vocabulary_tables(self.full)}
            for table in vocabulary_tables(self.learning):
                here[table.roles].copy_(table.parameter)

    def measure(self, step: int) -> None:
        """Note bits per byte and the seconds of training so far."""
        start = time.perf_counter()
        self.plug()
        score = bits_per_byte(self.full, self.tokenizer, self.texts, max_length=BLOCK, passes=1).bits_per_byte
        self.points[step] = (score, start - self.began - self.away if step else 0.0)
        self.away += time.perf_counter() - start

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the start, then begin to count."""
        self.measure(0)
        self.began, self.away = time.perf_counter(), 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where a point is wanted."""
        if state.global_step in self.steps:
            self.measure(state.global_step)


@torch.no_grad()
def redraw(extension: Any, source: torch.Tensor, seed: int) -> None:
    """Draw every row but the special tokens' from the normal distribution of the source rows, as the paper's start."""
    table = vocabulary_tables(extension.model)[0].parameter
    generator = torch.Generator().manual_seed(seed)
    fresh = source.mean(0) + source.std(0) * torch.randn(table.shape, generator=generator)
    keep = torch.tensor(extension.tokenizer.all_special_ids)
    fresh[keep] = table[keep]
    table.copy_(fresh)
    for other in vocabulary_tables(extension.model)[1:]:
        other.parameter.zero_()  # the output bias


class Bench:
    """Makes primaries, minis and runs in one folder."""

    def __init__(self, data: Path, models: Path, work: Path, scale: float) -> None:
        self.data, self.models, self.work, self.scale = data, models, work, scale
        self.languages = {code: Language(data, code) for code in CODES}
        (work / "runs").mkdir(parents=True, exist_ok=True)

    def source_tokenizer(self, family: str) -> Any:
        """Load the tokenizer of a primary."""
        return AutoTokenizer.from_pretrained(self.models / FAMILIES[family].plain)

    def tokenizer(self, family: str, code: str) -> PreTrainedTokenizerFast:
        """Return a language's own tokenizer, trained on its text alone."""
        folder = self.work / f"tokenizer-{family}-{code}"
        if not folder.is_dir():
            text = self.languages[code].text
            made = (
                train_bpe("masked", text) if family == "deep" else train_wordpiece(text, FAMILIES[family].vocabulary)
            )
            made.save_pretrained(folder)
        return AutoTokenizer.from_pretrained(folder)

    def primary(self, family: str, route: str) -> Any:
        """Load the full model of a route."""
        own = FAMILIES[family]
        folder = self.models / (own.joint if route == "minijoint" else own.plain)
        if (json.loads((folder / "config.json").read_text("utf-8"))["model_type"]) == "mini_joint":
            return MiniJointModel.from_pretrained(folder).primary
        return AutoModelForMaskedLM.from_pretrained(folder)

    def learner(self, family: str, route: str) -> Any:
        """Return the model that a route learns through, with storage of its own."""
        own = FAMILIES[family]
        if route == "standard":
            return self.primary(family, route)
        if route == "minijoint":
            return copy.deepcopy(MiniJointModel.from_pretrained(self.models / own.joint).cut())
        return AutoModelForMaskedLM.from_pretrained(self.post(family, route))

    def post(self, family: str, route: str) -> Path:
        """Return the folder of MiniPost's mini-model; it is trained on English at the first call."""
        own, folder = FAMILIES[family], self.work / f"{route}-{family}"
        if (folder / "facts.json").is_file():
            return folder
        full, tokenizer = self.primary(family, "standard"), self.source_tokenizer(family)
        mini = build_mini_model(full, own.bottom, own.new, seed=0)
        text = list(dict.fromkeys(line for code in ("sw", "hi") for line in self.languages[code].english_text))
        random.Random(0).shuffle(text)
        steps = max(2, round(own.post_steps[route] * self.scale))
        options = self.options(steps, 2e-3 if family == "deep" else 1e-3, 0, lr_scheduler_type="cosine")
        trained = train_mini_model(
            mini, text, self.work / f"post-{route}-{family}", options, model=full, tokenizer=tokenizer,
            texts=held_out(self.data, "eng_Latn"), imitate=route == "imitation",
        )  # fmt: skip
        mini.save_pretrained(folder)
        facts = {"alignment": trained.alignment.to_dict(), "cost": trained.cost.to_dict()}
        (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        print(f"{route}-{family}", json.dumps(facts), flush=True)
        return folder

    def options(self, steps: int, rate: float, seed: int, **more: Any) -> TrainingOptions:
        """Return how everything here trains."""
        arguments = {
            "use_cpu": not torch.cuda.is_available(),
            "save_strategy": "no",
            "disable_tqdm": True,
            "logging_strategy": "no",
            "adam_beta2": 0.98,
            "lr_scheduler_type": "constant_with_warmup",
        }
        return TrainingOptions(
            block_size=BLOCK,
            steps=steps,
            learning_rate=rate,
            warmup=WARMUP,
            weight_decay=0.01,
            batch_size=BATCH,
            bf16=True,
            evaluations=0,
            held_out=0,
            seed=seed,
            training_arguments=arguments | more,
        )

    def start(self, run: Run) -> Any:
        """Extend the model that is learned through."""
        language, model = self.languages[run.code], self.learner(run.family, run.route)
        source = vocabulary_tables(model)[0].parameter.detach().clone()
        extension = extend_vocabulary(
            model,
            self.tokenizer(run.family, run.code),
            "normal" if run.start == "random" else run.start,
            tokenizer=self.source_tokenizer(run.family),
            mode="replace",
            seed=run.seed,
            **({} if run.start == "random" else {"parallel": language.pairs[::2]}),
        )
        if run.start == "random":
            redraw(extension, source, run.seed)
        return extension

    def flops(self, model: Any) -> float:
        """Return the floating-point operations of one step that learns a table, body frozen."""
        probe = copy.deepcopy(model)
        tables = {id(table.parameter) for table in vocabulary_tables(probe)}
        for parameter in probe.parameters():
            parameter.requires_grad_(id(parameter) in tables)
        masked_positions_only(probe)
        return training_flops(probe, batch_size=BATCH, length=BLOCK, labelled_share=MASKED).total

    def run(self, run: Run) -> dict[str, Any]:
        """Learn one table and return what was measured."""
        own, language = FAMILIES[run.family], self.languages[run.code]
        began = time.perf_counter()
        extension = self.start(run)
        seconds_start = time.perf_counter() - began
        full = extension
        if run.route != "standard":
            full = transplant_embeddings(extension, self.primary(run.family, run.route))
        lines = list(language.text)
        random.Random(run.seed).shuffle(lines)
        texts = held_out(self.data, language.name)
        steps = max(2, round(own.steps * self.scale * self.flops(full.model) / self.flops(extension.model)))
        rate = own.rates[run.start, run.route]
        wanted = {round(share * steps) for share in SHARES}
        curve = Curve(extension.model, full.model, full.tokenizer, texts, wanted)
        learned = learn_embeddings(
            extension, None, lines, self.work / "trainer" / run.name, self.options(steps, rate, run.seed),
            callbacks=[curve],
        )  # fmt: skip
        cost, points = learned.cost, sorted(curve.points)
        learned.save_pretrained(self.work / "tables" / run.name, overwrite=True)
        return {
            "family": run.family,
            "language": run.code,
            "start": run.start,
            "route": run.route,
            "seed": run.seed,
            "steps": points,
            "flops": [round(step * cost.flops / cost.steps) for step in points],
            "seconds": [round(curve.points[step][1], 2) for step in points],
            "bits_per_byte": [round(curve.points[step][0], 5) for step in points],
            "cost": cost.to_dict(),
            "seconds_start": round(seconds_start, 1),
            "learning_rate": rate,
        }

    def task_model(self, family: str, route: str, task: str) -> TaskModel:
        """Return the primary of a route fine-tuned on English labels, embeddings frozen."""
        own = FAMILIES[family]
        folder = self.work / "tasks" / f"{own.joint if route == 'minijoint' else own.plain}-{task}"
        if not folder.is_dir():
            model, tokenizer = self.primary(family, route), self.source_tokenizer(family)
            examples, train = TASKS[task](self.data, "eng_Latn.train"), TRAINERS[task]
            options = {"batch_size": 16, "seed": 0, "learning_rate": 2e-4, "bf16": True, "training_arguments": QUIET}
            epochs = own.topic_epochs if task == "topic" else 2
            made = train(model, tokenizer, examples[:3000], self.work / "trainer" / task, epochs=epochs, **options)
            made.save_pretrained(folder)
        return TaskModel.from_pretrained(folder)

    def score_tasks(self, kinds: list[tuple[str, str]], runs: list[Run]) -> None:
        """Fine-tune each primary once a task, and score it with every table that was learned for it."""
        (self.work / "scores").mkdir(exist_ok=True)
        for family, route in kinds:
            for task, read in TASKS.items():
                file = self.work / "scores" / f"{family}-{route}-{task}.json"
                if file.is_file():
                    continue
                model = self.task_model(family, route, task)
                names = {"en": "eng_Latn.test"} | {code: f"{self.languages[code].name}.test" for code in CODES}
                names = {code: name for code, name in names.items() if read(self.data, name)}
                found = {
                    f"{family}-{route}-{task}-{code}": self.cell(family, route, task, "untouched", code, scores)
                    for code, scores in ((code, model.evaluate(read(self.data, name))) for code, name in names.items())
                }
                for run in runs:
                    folder = self.work / "tables" / run.name
                    if (run.family, run.route) == (family, route) and run.code in names and folder.is_dir():
                        # what learned through the full model itself bears no record of another one
                        swapped = model.with_embeddings(folder, allow_moved=route == "standard")
                        scores = swapped.evaluate(read(self.data, names[run.code]))
                        found[f"{run.name}-{task}"] = self.cell(family, route, task, run.start, run.code, scores)
                file.write_text(json.dumps(found), encoding="utf-8")
                print(file.stem, {name: round(cell["accuracy"], 3) for name, cell in found.items()}, flush=True)

    @staticmethod
    def cell(family: str, route: str, task: str, start: str, code: str, scores: dict[str, float]) -> dict[str, Any]:
        """Return one figure with what it belongs to."""
        return {"family": family, "route": route, "task": task, "start": start, "language": code, **scores}

    def facts(self) -> dict[str, Any]:
        """Return what the report says of the models."""
        found: dict[str, Any] = {}
        for name in dict.fromkeys(name for own in FAMILIES.values() for name in (own.plain, own.joint)):
            file = self.models / name / "training.json"
            if file.is_file():
                found[name] = json.loads(file.read_text("utf-8"))
        for family in FAMILIES:
            for route in ("minipost", "imitation"):
                file = self.work / f"{route}-{family}" / "facts.json"
                if file.is_file():
                    found[f"{route}-{family}"] = json.loads(file.read_text("utf-8"))
        return found


def topics(data: Path, name: str) -> list[tuple[str, str]]:
    """Read the labels and texts of a file."""
    return [(row["label"], row["text"]) for row in read_table(data / "topic" / f"{name}.tsv.gz")]


def tagged(data: Path, name: str) -> list[tuple[list[str], list[str]]]:
    """Read the words and tags of a file; nothing where there is none."""
    if not (data / "pos" / f"{name}.jsonl.gz").is_file():
        return []
    with gzip.open(data / "pos" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(row["tokens"], row["upos"]) for row in rows]


TASKS = {"topic": topics, "tags": tagged}
TRAINERS: dict[str, Any] = {"topic": train_classifier, "tags": train_tagger}
QUIET = {"use_cpu": not torch.cuda.is_available(), "disable_tqdm": True, "logging_strategy": "no"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mono, parallel, topic and pos")
    parser.add_argument("--models", type=Path, required=True, help="folder of reference_models.py")
    parser.add_argument("--work", type=Path, required=True, help="folder for mini-models, tables and runs")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all numbers of steps")
    parser.add_argument("--shard", default="0/1", help="i/n: every nth run from the ith on")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--only", help="runs whose name holds this")
    parser.add_argument(
        "--tasks", action="store_true", help="swap the learned tables into task models, and score them"
    )
    parser.add_argument("--report", action="store_true", help="write the report of the runs that are there")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    bench, kept = Bench(args.data, args.models, args.work, args.scale), args.out.with_suffix(".json")
    done, tasks = {}, {}
    if kept.is_file():
        known = json.loads(kept.read_text("utf-8"))
        done, tasks = {run["name"]: run for run in known["runs"]}, known["tasks"]
    index, count = (int(part) for part in args.shard.split("/"))
    runs = [run for run in all_runs(args.seeds) if not args.only or args.only in run.name]
    for run in runs[index::count] if not (args.report or args.tasks) else ():
        file = args.work / "runs" / f"{run.name}.json"
        if run.name in done or file.is_file():
            continue
        found = {"name": run.name, "threads": torch.get_num_threads(), **bench.run(run)}
        file.write_text(json.dumps(found), encoding="utf-8")
        print(run.name, found["bits_per_byte"], f"{found['seconds'][-1]:.0f} s", flush=True)
    if args.tasks:
        bench.score_tasks([(family, route) for family in FAMILIES for route in ROUTES], runs)
    for file in sorted((args.work / "runs").glob("*.json")):
        found = json.loads(file.read_text("utf-8"))
        done[found["name"]] = found
    for file in sorted((args.work / "scores").glob("*.json")):
        tasks |= json.loads(file.read_text("utf-8"))
    write_report(args.out, done, tasks, bench.facts())


if __name__ == "__main__":
    main()
