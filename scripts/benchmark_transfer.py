"""Measure what each method gives before any training: retrieval and topic accuracy of five languages.

    python scripts/benchmark_transfer.py --data DATA --out transfer.md            # the test files
    python scripts/benchmark_transfer.py --data DATA --ablation --out ablation.md  # choices, on the dev files

all-MiniLM-L6-v2 gets a new tokenizer of 16,000 tokens for each language, in place of its own, trained on that
language's training text; its rows come from the method, and nothing is trained. Then sentences of the language are
looked up among their English translations, which the untouched model embeds, and a linear classifier of topics that
has seen English only is asked about the language. Every result is kept beside the report, so that a run goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transfer_data import LANGUAGES, Judge, Language, load_model, source_tokenizer, train_tokenizer
from transformers import AutoTokenizer

from hf_vocab_extend import extend_vocabulary
from hf_vocab_extend.methods.base import MethodConfig
from hf_vocab_extend.methods.ofa import OfaConfig
from hf_vocab_extend.methods.trans_tokenization import TransTokenizationConfig
from hf_vocab_extend.resources.corpus import open_corpus

CORPORA = ("bible", "tico19", "xquad", "tatoeba", "stories")
Row = tuple[Any, Callable[[Language], dict[str, Any]]]


def tt(**options: Any) -> MethodConfig:
    return TransTokenizationConfig(**options)


def pairs(language: Language) -> dict[str, Any]:
    return {"parallel": language.pairs}


def pairs_and_words(language: Language) -> dict[str, Any]:
    return {"parallel": language.pairs, "dictionary": language.dictionary}


def words(language: Language) -> dict[str, Any]:
    return {"dictionary": language.dictionary}


def by_corpus(language: Language) -> dict[str, Any]:
    rows = language.parallel("train")
    bible = [(english, target) for corpus, english, target in rows if corpus == "bible"]
    return {"parallel": {"bible": bible, "other": [row[1:] for row in rows if row[0] != "bible"]}}


ROWS: dict[str, Row] = {
    "no extension": (None, lambda language: {}),
    "subword": ("subword", lambda language: {}),
    "focus": ("focus", lambda language: {"corpus": language.text}),
    "wechsel": (
        "wechsel",
        lambda language: {
            "dictionary": language.dictionary,
            "word_vectors": (open_corpus(language.english_text), open_corpus(language.text)),
        },
    ),
    "ofa": ("ofa", pairs),
    'ofa, match_norms, shared="estimate"': (OfaConfig(match_norms=True, shared="estimate"), pairs),
    "hyperofa": ("hyperofa", pairs),
    "trans_tokenization, options of its package": (TransTokenizationConfig.package(), pairs),
    "trans_tokenization": ("trans_tokenization", pairs),
    "trans_tokenization and dictionary": ("trans_tokenization", pairs_and_words),
    'trans_tokenization, shared="none"': (tt(shared="none"), pairs),
    "trans_tokenization, dictionary alone": ("trans_tokenization", words),
}
"""Method and what it is given, by the name of the row."""

RANKS = (100, 200)
FACTORIZED = ("ofa", "hyperofa", "trans_tokenization")


def at_rank(give: Callable[[Language], dict[str, Any]], rank: int) -> Callable[[Language], dict[str, Any]]:
    return lambda language: {**give(language), "factorize": rank}


for name in FACTORIZED:
    ROWS |= {f"{name}, rank {rank}": (name, at_rank(pairs, rank)) for rank in RANKS}

ABLATION: dict[str, Row] = {
    "default": (tt(), pairs),
    "unit=word": (tt(unit="word"), pairs),
    "source_discount=0, match_norms=False": (tt(source_discount=0.0, match_norms=False), pairs),
    "source_discount=0": (tt(source_discount=0.0), pairs),
    "source_discount=0.4": (tt(source_discount=0.4), pairs),
    "match_norms=False": (tt(match_norms=False), pairs),
    "min_share=0": (tt(min_share=0.0), pairs),
    "power=1.5": (tt(power=1.5), pairs),
    "blend=1": (tt(blend=1.0), pairs),
    "shared=copy": (tt(shared="copy"), pairs),
    "shared=none": (tt(shared="none"), pairs),
    "uncovered=none": (tt(uncovered="none"), pairs),
    "and dictionary": (tt(), pairs_and_words),
    "Bible and other text apart": (tt(), by_corpus),
}
"""What the defaults of trans-tokenization were chosen by: one change each."""


def measure(language: Language, tokenizer, judge: Judge, row: Row) -> dict[str, Any]:
    """Extend the model by one row's method and score it."""
    method, resources = row
    model, used = load_model(), source_tokenizer()
    start = time.perf_counter()
    counts: dict[str, int] = {}
    if method is not None:
        given = resources(language)
        extension = extend_vocabulary(model, tokenizer, method, tokenizer=used, mode="replace", **given)
        used, counts = extension.tokenizer, extension.report.counts_by_kind
    seconds = time.perf_counter() - start
    return {
        "retrieval": judge.retrieval(model, used),
        "topic": judge.topic(model, used),
        "seconds": seconds,
        "rows": counts,
    }


def run(language: Language, rows: dict[str, Row], split: str, size: int, kept: Path) -> dict[str, Any]:
    """Measure all rows of a language; what is in the file of kept results is not measured again."""
    done: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    missing = [name for name in rows if f"{language.code}: {name}" not in done]
    if not missing:
        return done
    folder = kept.parent / f"tokenizer-{language.code}-{size}"  # one for all rows, also of a run that goes on later
    if not folder.is_dir():
        train_tokenizer(language.text, size).save_pretrained(folder)
    tokenizer, judge = AutoTokenizer.from_pretrained(folder), Judge(language, split)
    for name in missing:
        done[f"{language.code}: {name}"] = found = measure(language, tokenizer, judge, rows[name])
        kept.write_text(json.dumps(done, indent=1), encoding="utf-8")
        print(language.code, name, {corpus: np.round(r1, 3).tolist() for corpus, r1 in found["retrieval"].items()})
    return done


def report(done: dict[str, Any], codes: list[str], rows: dict[str, Row]) -> list[str]:
    """Return the tables."""
    lines = []
    for code in codes:
        found = {name: done[f"{code}: {name}"] for name in rows}
        corpora = [corpus for corpus in CORPORA if corpus in next(iter(found.values()))["retrieval"]]
        lines += ["", f"## {LANGUAGES[code]}", ""]
        lines.append(f"| row | {' | '.join(corpora)} | mean | topic | seconds |")
        lines.append("|---|" + "---|" * (len(corpora) + 3))
        for name, result in found.items():
            scores = result["retrieval"]
            cells = [f"{scores[corpus][0]:.3f} / {scores[corpus][1]:.3f}" for corpus in corpora]
            mean = np.mean([scores[corpus] for corpus in corpora])
            lines.append(
                f"| {name} | {' | '.join(cells)} | {mean:.3f} | {result['topic']:.3f} | {result['seconds']:.0f} |"
            )
    means = {
        name: np.mean([np.mean(list(done[f"{code}: {name}"]["retrieval"].values())) for code in codes])
        for name in rows
    }
    lines += ["", "## Mean over languages, corpora and directions", "", "| row | R@1 | topic |", "|---|---|---|"]
    for name, mean in means.items():
        topic = np.mean([done[f"{code}: {name}"]["topic"] for code in codes])
        lines.append(f"| {name} | {mean:.3f} | {topic:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with parallel, mono, topic and dict")
    parser.add_argument("--languages", nargs="+", default=list(LANGUAGES), choices=list(LANGUAGES))
    parser.add_argument("--ablation", action="store_true", help="vary options of trans-tokenization, on the dev files")
    parser.add_argument("--rows", nargs="+", help="only these rows")
    parser.add_argument("--size", type=int, default=16_000, help="tokens of the new tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes; results beside it as .json")
    args = parser.parse_args()
    split, table = ("dev", ABLATION) if args.ablation else ("test", ROWS)
    rows = {name: table[name] for name in args.rows or table}
    done: dict[str, Any] = {}
    for code in args.languages:
        done |= run(Language(args.data, code), rows, split, args.size, args.out.with_suffix(".json"))
    lines = [
        f"R@1 on the {split} files: target to English / English to target. all-MiniLM-L6-v2, a tokenizer of "
        f"{args.size:,} tokens for each language in place of its own, nothing trained.",
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads.",
    ]
    args.out.write_text("\n".join(lines + report(done, args.languages, rows)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
