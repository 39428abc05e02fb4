"""Measure what row distillation adds, before any other training: retrieval and topic accuracy of five languages.

    python scripts/benchmark_distillation.py --data DATA --out distillation.md
    python scripts/benchmark_distillation.py --data DATA --causal reference/causal --out distillation.md

all-MiniLM-L6-v2 gets a new tokenizer of 16,000 tokens for each language in place of its own. Its new rows start from a
method and are then refined: from parallel text, or from text alone, as in Token Distillation (arXiv 2505.20133).
Training pairs of the data are used for steps, dev pairs for the guard, test pairs for the table. With ``--causal``, a
small causal model gets 6,000 Swahili tokens, and bits per byte of held-out text are measured. Every result is kept
beside the report, so that a run goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_transfer import CORPORA
from focus_workers import Measure
from transfer_data import LANGUAGES, Judge, Language, load_model, source_tokenizer, train_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_vocab_extend import (
    VocabExtension,
    bits_per_byte,
    distill_parallel,
    distill_tokens,
    extend_tokenizer,
    extend_vocabulary,
)

SIZE, NEW_TOKENS, DEV_PAIRS, HELD_OUT_BYTES = 16_000, 6_000, 250, 20_000
STARTS = {"trans_tokenization": lambda language: {"parallel": language.pairs}, "subword": lambda language: {}}


def by_corpus(language: Language, split: str, limit: int | None = None) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of a split by corpus, at most so many of each."""
    found: dict[str, list[tuple[str, str]]] = {}
    for corpus, english, target in language.parallel(split):
        found.setdefault(corpus, []).append((english, target))
    return {corpus: items[:limit] for corpus, items in found.items()}


def parallel(steps: int) -> Callable[[VocabExtension, Language], None]:
    def refine(extension: VocabExtension, language: Language) -> None:
        distill_parallel(
            extension,
            load_model(),
            source_tokenizer(),
            by_corpus(language, "train"),
            dev_pairs=by_corpus(language, "dev", DEV_PAIRS),
            steps=steps,
        )

    return refine


def tokens(steps: int) -> Callable[[VocabExtension, Language], None]:
    def refine(extension: VocabExtension, language: Language) -> None:
        distill_tokens(extension, load_model(), language.text, tokenizer=source_tokenizer(), steps=steps)

    return refine


Row = tuple[str, Callable[[VocabExtension, Language], None] | None]
ROWS: dict[str, Row] = {
    "trans_tokenization": ("trans_tokenization", None),
    "trans_tokenization, then (b) parallel, 60 steps": ("trans_tokenization", parallel(60)),
    "trans_tokenization, then (b) parallel, 120 steps": ("trans_tokenization", parallel(120)),
    "subword": ("subword", None),
    "subword, then (a) tokens, 60 steps": ("subword", tokens(60)),
    "subword, then (b) parallel, 60 steps": ("subword", parallel(60)),
}
"""Start and what follows, by the name of the row."""
FIRST = {"sw": ("trans_tokenization", "trans_tokenization, then (b) parallel, 120 steps")}
THEN = ("trans_tokenization", "trans_tokenization, then (b) parallel, 60 steps")
"""Rows that are measured before all others: by language, and of languages that are not named."""


class Bench:
    """Everything of one language that rows share."""

    def __init__(self, data: Path, code: str, kept: Path) -> None:
        self.language = Language(data, code)
        folder = kept.parent / f"tokenizer-{code}-{SIZE}"  # one for all rows, also of a run that goes on later
        if not folder.is_dir():
            train_tokenizer(self.language.text, SIZE).save_pretrained(folder)
        self.tokenizer, self.judge = AutoTokenizer.from_pretrained(folder), Judge(self.language, "test")
        self.starts: dict[str, VocabExtension] = {}

    def measure(self, row: Row) -> dict[str, Any]:
        """Return scores, seconds and memory of a row; seconds and memory are those of the distillation."""
        start, refine = row
        if start not in self.starts:
            given = STARTS[start](self.language)
            self.starts[start] = extend_vocabulary(
                load_model(), self.tokenizer, start, tokenizer=source_tokenizer(), mode="replace", **given
            )
        extension = copy.deepcopy(self.starts[start])
        with Measure() as measured:
            if refine is not None:
                refine(extension, self.language)
        return {
            "retrieval": self.judge.retrieval(extension.model, extension.tokenizer),
            "topic": self.judge.topic(extension.model, extension.tokenizer),
            **measured.to_dict(),
            "said": extension.report.distillations,
        }


def causal_tokens(**options: Any) -> Callable[[VocabExtension, Language, Any, Any], None]:
    def refine(extension: VocabExtension, language: Language, model: Any, tokenizer: Any) -> None:
        distill_tokens(extension, model, language.text, tokenizer=tokenizer, steps=100, **options)

    return refine


def causal_parallel(extension: VocabExtension, language: Language, model: Any, tokenizer: Any) -> None:
    train, dev = by_corpus(language, "train"), by_corpus(language, "dev", DEV_PAIRS // 5)
    distill_parallel(extension, model, tokenizer, train, dev_pairs=dev, steps=60, batch_size=32)


CAUSAL: dict[str, tuple[str, Any]] = {
    "subword": ("subword", None),
    "subword, then (a) tokens": ("subword", causal_tokens()),
    "subword, then (a) tokens, states alone": ("subword", causal_tokens(next_token=False)),
    "subword, then (b) parallel": ("subword", causal_parallel),
    "trans_tokenization": ("trans_tokenization", None),
    "trans_tokenization, then (a) tokens": ("trans_tokenization", causal_tokens()),
    "trans_tokenization, then (b) parallel": ("trans_tokenization", causal_parallel),
}
"""Start, and what follows; None for nothing."""


def causal_row(args: argparse.Namespace, start: str, refine: Any) -> dict[str, Any]:
    """Return the bits per byte of held-out Swahili after one start and one refinement, with what it cost."""
    language = Language(args.data, "sw")
    tokenizer = AutoTokenizer.from_pretrained(args.causal)
    model = AutoModelForCausalLM.from_pretrained(args.causal)
    grown = extend_tokenizer(tokenizer, language.text, num_new_tokens=NEW_TOKENS)
    extension = extend_vocabulary(copy.deepcopy(model), grown, start, tokenizer=tokenizer, **STARTS[start](language))
    with Measure() as measured:
        if refine is not None:
            refine(extension, language, model, tokenizer)
    texts, size = [], 0
    for _, _, target in language.parallel("test")[::7]:
        if size < HELD_OUT_BYTES:
            texts.append(target)
            size += len(target.encode())
    found = bits_per_byte(extension.model, extension.tokenizer, texts)
    return {"bits_per_byte": found.bits_per_byte, **measured.to_dict(), "said": extension.report.distillations}


def causal_lines(done: dict[str, Any]) -> list[str]:
    """Return the table of the causal model."""
    found = {key.partition(": ")[2]: value for key, value in done.items() if key.startswith("causal: ")}
    if not found:
        return []
    lines = ["", "## A causal model: bits per byte of held-out Swahili", "", "| row | bits per byte | seconds | MiB |"]
    lines.append("|---|---|---|---|")
    for name, result in found.items():
        cost = f"{result['seconds']:.0f} | {result['mib']:.0f}" if result["said"] else " | "
        lines.append(f"| {name} | {result['bits_per_byte']:.4f} | {cost} |")
    return lines


def run(args: argparse.Namespace, kept: Path) -> dict[str, Any]:
    """Measure what is missing; the rows that matter most come first, for all languages."""
    done: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    benches: dict[str, Bench] = {}
    names = [name for name in ROWS if name in args.rows]
    first = {code: FIRST.get(code, THEN) for code in args.languages}
    order = [(code, name) for code in args.languages for name in names if name in first[code]]
    order += [(code, name) for code in args.languages for name in names if name not in first[code]]
    for code, name in order:
        key = f"{code}: {name}"
        if key in done:
            continue
        if code not in benches:
            benches[code] = Bench(args.data, code, kept)
        done[key] = found = benches[code].measure(ROWS[name])
        keep(done, kept)
        print(key, {corpus: np.round(r1, 3).tolist() for corpus, r1 in found["retrieval"].items()}, flush=True)
    if args.causal is not None:
        for name, row in CAUSAL.items():
            key = f"causal: {name}"
            if key not in done:
                done[key] = causal_row(args, *row)
                keep(done, kept)
                print(key, done[key]["bits_per_byte"], flush=True)
    return done


def keep(done: dict[str, Any], kept: Path) -> None:
    """Write the results that there are; seconds and memory of what was given by a method are not of interest."""
    kept.write_text(json.dumps(done, indent=1), encoding="utf-8")


def report(done: dict[str, Any], codes: list[str], rows: list[str]) -> list[str]:
    """Return the tables."""
    lines = []
    for code in codes:
        found = {name: done[f"{code}: {name}"] for name in rows if f"{code}: {name}" in done}
        if not found:
            continue
        corpora = [corpus for corpus in CORPORA if corpus in next(iter(found.values()))["retrieval"]]
        lines += ["", f"## {LANGUAGES[code]}", ""]
        lines.append(f"| row | {' | '.join(corpora)} | mean | topic | seconds | CPU seconds | peak MiB |")
        lines.append("|---|" + "---|" * (len(corpora) + 5))
        for name, result in found.items():
            scores = result["retrieval"]
            cells = [f"{scores[corpus][0]:.3f} / {scores[corpus][1]:.3f}" for corpus in corpora]
            cost = [f"{result[key]:.0f}" for key in ("seconds", "cpu", "mib")] if result["said"] else ["", "", ""]
            mean = np.mean([scores[corpus] for corpus in corpora])
            cells += [f"{mean:.3f}", f"{result['topic']:.3f}", *cost]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    shared = [name for name in rows if all(f"{code}: {name}" in done for code in codes)]
    if shared:
        lines += ["", "## Mean over languages, corpora and directions", "", "| row | R@1 | topic |", "|---|---|---|"]
    for name in shared:
        mean = np.mean([np.mean(list(done[f"{code}: {name}"]["retrieval"].values())) for code in codes])
        topic = np.mean([done[f"{code}: {name}"]["topic"] for code in codes])
        lines.append(f"| {name} | {mean:.3f} | {topic:.3f} |")
    return lines + guard_lines(done, codes) + causal_lines(done)


def guard_lines(done: dict[str, Any], codes: list[str]) -> list[str]:
    """Return what the guard has seen."""
    lines = ["", "## The guard, on dev text", "", "| run | kept step | before | after |", "|---|---|---|---|"]
    for key, result in done.items():
        if key.partition(":")[0] in codes:
            for said in result["said"]:
                before, after = (
                    ", ".join(f"{name} {value:.3f}" for name, value in said[when].items())
                    for when in ("held_out_before", "held_out_after")
                )
                lines.append(f"| {key} | {said['kept_step']} of {said['steps']} | {before} | {after} |")
    return lines if len(lines) > 5 else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with parallel, mono, topic and dict")
    parser.add_argument("--languages", nargs="*", default=list(LANGUAGES), choices=list(LANGUAGES))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), help="only these rows")
    parser.add_argument("--causal", type=Path, help="folder of a small causal model that has read English")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes; results beside it as .json")
    args = parser.parse_args()
    done = run(args, args.out.with_suffix(".json"))
    lines = [
        "R@1 on the test files: target to English / English to target. all-MiniLM-L6-v2, a tokenizer of "
        f"{SIZE:,} tokens for each language in place of its own; nothing but its new rows was refined. "
        "Seconds, and peak memory above what was held before, are those of the distillation.",
        "",
        f"`python scripts/benchmark_distillation.py --data DATA --languages {' '.join(args.languages)} --out X.md`; "
        f"rows: {'; '.join(args.rows)}.",
        "",
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads.",
    ]
    args.out.write_text("\n".join(lines + report(done, args.languages, args.rows)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
