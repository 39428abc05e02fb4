"""Measure trans-tokenization against the package trans-tokenizers.

    python scripts/benchmark_trans_tokenization.py --data /path/to/parallel \
        --peer-python /path/to/other/venv/bin/python --out scripts/results/trans_tokenization.md

``--data`` holds files ``eng_Latn-<language>.train.tsv.gz`` of four columns (id, corpus, English, target). The peer's
interpreter needs ``trans-tokenizers``. Every figure comes from a process of its own. Peak memory is what the step took
above what the process held before it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import torch
from trans_tokenization_workers import WORKERS, make_invented, make_text
from workers import HEADER, Runner

LANGUAGES = ["deu_Latn", "fin_Latn", "hin_Deva", "swh_Latn"]


def report_equality(runner: Runner, folder: Path, data: Path, family: str, language: str, pairs: int) -> None:
    """Compare the weights of every target token on equal counts."""
    make_text(folder, data, [language], pairs, family, 8_000)
    (folder / "options.json").write_text(json.dumps({"aligner": "ibm1", "smooth": True, "family": family}))
    counted = runner.run("ours_align", folder)
    runner.run("ours_map", folder)
    runner.run("peer_map", folder)
    ours = json.loads((folder / "ours.json").read_text(encoding="utf-8"))
    peer = json.loads((folder / "peer.json").read_text(encoding="utf-8"))
    single = set(json.loads((folder / "signs.json").read_text(encoding="utf-8")))
    runner.say(
        f"\n{family}, English to {language}: {pairs:,} pairs, {counted['rows']:,} counts of word pairs, "
        f"{counted['several']:,} of them with words of several tokens\n"
    )
    runner.say("| target tokens | number | largest difference of a weight | tokens that differ by more than 1e-6 |")
    runner.say("|---|---|---|---|")
    for name, part in (("with counts or the same spelling", "counted"), ("put together from related ones", "related")):
        gaps = [_gap(ours[token], row) for token, row in peer[part].items() if token in ours and token not in single]
        differ = sum(gap > 1e-6 for gap in gaps)
        runner.say(f"| {name} | {len(gaps):,} | {max(gaps, default=0.0):.1e} | {differ} |")
    missing = sum(token not in peer["counted"] and token not in peer["related"] for token in ours)
    runner.say(f"\n{missing} tokens have no weight there; {len(single & set(ours))} are single bytes, copied by value "
               "here and mixed there, or special.")  # fmt: skip


def _gap(left: dict[str, float], right: dict[str, float]) -> float:
    """Return the largest difference of two rows' weights."""
    return max(abs(left.get(key, 0.0) - right.get(key, 0.0)) for key in {*left, *right})


def report_stages(runner: Runner, folder: Path, data: Path, pairs: int, aligner: str) -> None:
    """Time every stage of 100,000 pairs, and the package's corresponding ones."""
    make_text(folder, data, LANGUAGES, pairs, "byte", 32_000)
    (folder / "options.json").write_text(json.dumps({"aligner": aligner, "smooth": False, "family": "byte"}))
    ours, mapped = runner.run("ours_align", folder), runner.run("ours_map", folder)
    prepared, peer = runner.run("peer_prepare", folder), runner.run("peer_map", folder)
    runner.say(f"\n## {ours['pairs']:,} pairs, byte-level tokenizers of 32,000 tokens, aligner {aligner}\n")
    runner.say("English to German, Finnish, Hindi and Swahili together.\n")
    for line in HEADER:
        runner.say(line)
    package, default = mapped["package"], mapped["default"]
    runner.row("ours: read the pairs as words", ours["read"])
    runner.row("for comparison: both tokenizers alone, no words, nothing kept", ours["floor"])
    runner.row(f"ours: align ({aligner}, both directions)", ours["align"])
    runner.row("ours: compare the vocabularies", package["plan"])
    runner.row(f"ours: of {ours['rows']:,} word counts, deal out those that count (the package's options)",
               package["distribute"])  # fmt: skip
    runner.row("ours: fit, from counts to weights of all tokens (the package's options)", package["fit"])
    runner.row("ours: fit (our defaults)", default["fit"])
    runner.row("package: create_aligned_corpus", prepared["prepare"])
    runner.row("package: map_tokens, without the tokens that nothing covers", peer["map"])
    for name, part in (("the package's options", package), ("our defaults", default)):
        said = []
        for key, unit in (("seconds", "seconds"), ("cpu", "CPU seconds")):
            there = prepared["prepare"][key] + peer["map"][key]
            here = ours["read"][key] + part["plan"][key] + part["fit"][key]
            said.append(f"{there:.1f} against {here:.1f} {unit} ({there / here:.1f} times)")
        runner.say(f"\nApart from the aligner, with {name}, all tokens included: {' and '.join(said)}.")


def report_related(runner: Runner, folder: Path, size: int) -> None:
    """Cover 40,000 tokens of a vocabulary of 250,000."""
    make_invented(folder, size)
    ours, peer = runner.run("ours_related", folder), runner.run("peer_related", folder)
    runner.say(f"\n## {ours['queries']:,} tokens without counts in a vocabulary of {ours['vocabulary']:,}\n")
    for line in HEADER:
        runner.say(line)
    runner.row(f"ours: {ours['covered']:,} put together from related tokens", ours)
    whole = peer["cpu_each"] * ours["queries"]
    runner.say(
        f"\nThe package's loop takes {peer['cpu_each']:.2f} CPU seconds for each token ({peer['sample']} measured): "
        f"{whole / 3600:.1f} hours for all, {whole / ours['cpu']:,.0f} times ours."
    )


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of parallel text")
    parser.add_argument("--peer-python", help="interpreter of an environment with trans-tokenizers")
    parser.add_argument("--parts", default="equality,stages,related", help="comma-separated")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--equal-pairs", type=int, default=10_000)
    parser.add_argument("--vocabulary", type=int, default=250_000)
    parser.add_argument("--aligner", default="ibm1", help="its time is shown apart")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.folder)))
        return
    if options.data is None or options.peer_python is None:
        parser.error("--data and --peer-python are needed")
    runner, parts = Runner(__file__, options.threads, options.peer_python), set(options.parts.split(","))
    runner.say(f"# Trans-tokenization, measured\n\n{options.threads} threads, torch {torch.__version__}, "
               f"Python {platform.python_version()}; load before: {os.getloadavg()[0]:.1f}")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "equality" in parts:
            runner.say("\n## Equality with trans-tokenizers on equal counts\n")
            runner.say("Words aligned by IBM Model 1, forward counts; its loop over tokens without counts runs on a "
                       "table that does not change while it runs.")  # fmt: skip
            for family, language in (("byte", "swh_Latn"), ("marked spaces", "deu_Latn")):
                report_equality(runner, folder, options.data, family, language, options.equal_pairs)
        if "stages" in parts:
            report_stages(runner, folder, options.data, options.pairs, options.aligner)
        if "related" in parts:
            report_related(runner, folder, options.vocabulary)
    if options.out:
        options.out.write_text("\n".join(runner.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
