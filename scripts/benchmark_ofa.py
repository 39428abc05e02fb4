"""Time and memory of OFA at the size of its paper, each step beside its floor, measured in one process.

    python scripts/benchmark_ofa.py --out scripts/results/ofa.md

Source: 250,002 pieces; target: 100,000 and 400,000; 200,000 word vectors of 100 dimensions. Pieces and words are made
of invented syllables; the target of 400,000 holds all pieces of the source, as the paper's does. About as many pieces
occur in words as the paper reports: near 100,000 of the source, near 80,000 of the new ones of the larger target.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from workers import Runner

SEED, DIM, WIDTH = 5, 100, 768
N_SOURCE, N_WORDS = 250_002, 200_000
TARGETS = {"small": 100_000, "large": 400_000}
LETTERS, VOWELS = "bcdfghjklmnprstvwyz", "aeiou"
SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
MARK = "\u2581"


def invented_words(random: np.random.Generator, count: int, known: set[str]) -> list[str]:
    """Make words of two to four syllables that are not known yet; some syllables are far more frequent than others."""
    onsets = [first + second for first in LETTERS for second in ("", "r", "l")]
    syllables = [onset + vowel + coda for onset in onsets for vowel in VOWELS for coda in ("", "n", "s")]
    random.shuffle(syllables)
    shares = 1 / np.arange(10, len(syllables) + 10)
    words: dict[str, None] = {}
    while len(words) < count:
        drawn = random.choice(len(syllables), (count, 4), p=shares / shares.sum()).tolist()
        lengths = random.integers(2, 5, count).tolist()
        texts = ("".join(syllables[index] for index in row[:n]) for row, n in zip(drawn, lengths, strict=True))
        words.update(dict.fromkeys(text for text in texts if text not in known))
    return list(words)[:count]


def parts_of(words: list[str], random: np.random.Generator) -> list[str]:
    """Return beginnings and ends of words, as pieces."""
    cuts = random.integers(2, 7, len(words)).tolist()
    beginnings = (MARK + word[:cut] for word, cut in zip(words, cuts, strict=True))
    ends = (word[cut:] for word, cut in zip(words, cuts, strict=True))
    return [piece for pair in zip(beginnings, ends, strict=True) for piece in pair if len(piece) > 1]


def make_pieces(random: np.random.Generator, words: list[str], share: float, size: int, held: list[str]) -> list[str]:
    """Make a vocabulary: pieces that it must hold, letters, a share of the words, parts of words, and foreign words.

    Args:
        random: Draws.
        words: The words of the space.
        share: Of the words, how many are pieces of their own.
        size: Number of pieces.
        held: Pieces that come first.
    """
    chosen = random.permutation(len(words))[: int(share * len(words))].tolist()
    own = [MARK + words[index] for index in chosen]
    own += [MARK + words[index].capitalize() for index in chosen[: len(chosen) // 10]]
    letters = [MARK, *LETTERS, *VOWELS, *LETTERS.upper(), *VOWELS.upper()]
    pieces = dict.fromkeys(chain(held, letters, own, parts_of(words[: size // 4], random)))
    pieces = dict.fromkeys(list(pieces)[: size - len(SPECIALS)])
    missing = size - len(SPECIALS) - len(pieces)
    foreign = invented_words(random, 2 * missing + 1, {piece.lstrip(MARK) for piece in pieces} | set(words))
    return [*pieces, *(MARK + word for word in foreign[:missing])]


def write_tokenizer(path: Path, pieces: list[str], random: np.random.Generator) -> None:
    """Write a Unigram tokenizer as XLM-R's: one space mark in front of each word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    scores = (-8 - 8 * random.random(len(pieces))).tolist()
    vocab = [(token, 0.0) for token in SPECIALS] + list(zip(pieces, scores, strict=True))
    backend = Tokenizer(models.Unigram(vocab, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    backend.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    names = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIALS, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(path)


def make_inputs(folder: Path) -> None:
    """Write words, their vectors and the three tokenizers."""
    random = np.random.default_rng(SEED)
    words = invented_words(random, N_WORDS, set())
    topics = random.standard_normal((2000, DIM), dtype=np.float32)  # words are not scattered evenly
    vectors = topics[random.integers(0, len(topics), N_WORDS)]
    vectors += random.standard_normal((N_WORDS, DIM), dtype=np.float32)
    np.savez(folder / "words.npz", words=np.asarray(words), vectors=vectors)
    source = make_pieces(random, words, 0.33, N_SOURCE, [])
    small = make_pieces(random, words, 0.2, TARGETS["small"], source[:30_000])
    large = make_pieces(random, words, 0.66, TARGETS["large"], source)
    for name, pieces in (("source", source), ("small", small), ("large", large)):
        write_tokenizer(folder / name, pieces, random)


def peak() -> float:
    """Peak resident memory of this process, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Clock:
    """Seconds and CPU seconds of named steps."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, work: Callable[[], object]) -> object:
        """Do the work and remember what it took."""
        start, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.steps[name] = time.perf_counter() - start, time.process_time() - cpu
        return result


def product(queries: torch.Tensor, candidates: torch.Tensor) -> None:
    """Multiply all queries with all candidates, in tiles that stay in the cache."""
    tile = torch.empty(1024 * 2048)
    for columns in candidates.split(2048):
        right = columns.T
        for rows in queries.split(1024):
            torch.mm(rows, right, out=tile[: len(rows) * len(columns)].view(len(rows), len(columns)))


def read_context(folder: Path, size: str) -> object:
    """Load what OFA starts from."""
    from transformers import PreTrainedTokenizerFast

    from hf_vocab_extend.methods.base import FitContext, Resources
    from hf_vocab_extend.plan import build_plan

    source, target = (PreTrainedTokenizerFast.from_pretrained(folder / name) for name in ("source", size))
    plan = build_plan(source, target, mode="replace")
    return FitContext(
        plan=plan,
        source_tokenizer=source,
        target_tokenizer=target,
        resources=Resources(word_vectors=folder / "words.npz"),
        generator=torch.Generator().manual_seed(0),
        trained=np.ones(plan.n_source, bool),
        device=torch.device("cpu"),
    )


def encode(words: list[str], backend: object) -> None:
    """Let a tokenizer cut each word with and without a capital letter, and read nothing of what it says.

    These tokenizers cut the other two forms, with a space in front, alike.
    """
    for start in range(0, len(words), 20_000):
        block = words[start : start + 20_000]
        backend.encode_batch_fast([*block, *(word.capitalize() for word in block)], add_special_tokens=False)


def watch(clock: Clock, seen: dict) -> None:
    """Let the parts of a fit tell what they took, and keep what the floors need."""
    from hf_vocab_extend.methods import ofa
    from hf_vocab_extend.resources.piece_incidence import Incidence

    cut, search, average = ofa.piece_incidence, ofa.softmax_weights, Incidence.mean
    sides = iter(("source", "target"))

    def watched_cut(*given: object, **options: object) -> object:
        seen["side"] = next(sides)
        return clock(f"cut {seen['side']}", lambda: cut(*given, **options))

    def watched_mean(incidence: Incidence, *given: object) -> np.ndarray:
        seen[f"incidence {seen['side']}"] = incidence
        return clock(f"mean {seen['side']}", lambda: average(incidence, *given))

    def watched_search(queries: np.ndarray, candidates: np.ndarray, *given: object, **options: object) -> object:
        seen["queries"], seen["candidates"] = queries, candidates
        return clock("search", lambda: search(queries, candidates, *given, **options))

    ofa.piece_incidence, ofa.softmax_weights, Incidence.mean = watched_cut, watched_search, watched_mean


def floors(clock: Clock, seen: dict, context: object, mixture: object, table: torch.Tensor) -> None:
    """Measure the least that each step can take."""
    arrays = np.load(context.resources.word_vectors)
    words, vectors = arrays["words"].tolist(), torch.from_numpy(arrays["vectors"])
    for side in ("source", "target"):
        backend = getattr(context, f"{side}_tokenizer").backend_tokenizer
        clock(f"floor of cut {side}", lambda backend=backend: encode(words, backend))
        part = seen[f"incidence {side}"]
        matrix = torch.sparse_csr_tensor(
            torch.from_numpy(part.offsets),
            torch.from_numpy(part.words.astype(np.int64)),
            torch.from_numpy(part.counts).float(),
            (part.n_pieces, part.n_words),
        )
        clock(f"floor of mean {side}", lambda matrix=matrix: matrix @ vectors)
    queries, candidates = (torch.from_numpy(seen[name][seen[name].any(1)]) for name in ("queries", "candidates"))
    clock("floor of search", lambda: product(queries, candidates))
    entries, buffer = torch.from_numpy(mixture.columns.astype(np.int64)).split(1000), torch.empty(1000, WIDTH)
    clock("floor of rows", lambda: [torch.index_select(table, 0, p, out=buffer[: len(p)]) for p in entries][:0])


def fit(size: str) -> Callable[[Path], dict]:
    """Return the worker for one size of target."""

    def worker(folder: Path) -> dict:
        from hf_vocab_extend.methods.ofa import Ofa

        context, clock, seen = read_context(folder, size), Clock(), {}
        table = torch.randn(context.n_source, WIDTH, generator=torch.Generator().manual_seed(1))
        before = peak()
        watch(clock, seen)
        mixture = clock("fit", lambda: Ofa().fit(context))
        after_fit = peak()
        clock("rows", lambda: mixture.rows(table))
        after_rows = peak()
        floors(clock, seen, context, mixture, table)
        return {
            "steps": clock.steps,
            "peaks": [before, after_fit, after_rows],
            "new": mixture.n_rows,
            "covered": int(mixture.covered.sum()),
            "pool": len(seen["candidates"]),
            "entries": [len(seen[f"incidence {side}"].words) for side in ("source", "target")],
        }

    return worker


WORKERS: dict[str, Callable[[Path], dict]] = {size: fit(size) for size in TARGETS}
STEPS = {
    "cut source": "words cut by the source tokenizer",
    "cut target": "words cut by the target tokenizer",
    "mean source": "vectors of source pieces",
    "mean target": "vectors of new pieces",
    "search": "nearest neighbours and weights",
    "rows": f"rows of a table of {WIDTH}",
}
FLOORS = {
    "cut source": "`encode_batch_fast` of the same strings alone",
    "cut target": "the same",
    "mean source": "one float32 CSR product",
    "mean target": "the same",
    "search": "product of the same rows, in tiles",
    "rows": "gather of the same rows",
}


def report(runner: Runner, folder: Path) -> None:
    """Run both sizes and say what they took."""
    for size, count in TARGETS.items():
        found = runner.run(size, folder)
        runner.say(f"## {N_SOURCE:,} source and {count:,} target pieces")
        runner.say()
        runner.say(
            f"{found['covered']:,} of {found['new']:,} new pieces occur in words, and {found['pool']:,} source "
            f"pieces; {found['entries'][0]:,} and {found['entries'][1]:,} pairs of piece and word."
        )
        runner.say()
        runner.say("| step | seconds | CPU s | floor | seconds | CPU s | CPU s / floor |")
        runner.say("|---|---|---|---|---|---|---|")
        for name, label in STEPS.items():
            (wall, cpu), (least, floor) = found["steps"][name], found["steps"][f"floor of {name}"]
            runner.say(
                f"| {label} | {wall:.2f} | {cpu:.2f} | {FLOORS[name]} | {least:.2f} | {floor:.2f} "
                f"| {cpu / max(floor, 1e-9):.2f} |"
            )
        runner.say(f"| all, with the rest | {total(found, 0):.2f} | {total(found, 1):.2f} | | | | |")
        runner.say()
        before, after_fit, after_rows = found["peaks"]
        runner.say(
            f"Peak resident memory of the process: {after_rows:.2f} GiB; {after_fit:.2f} GiB before the rows, "
            f"{before:.2f} GiB with plan, tokenizers and the {WIDTH}-wide table before OFA began."
        )
        runner.say()


def total(found: dict, column: int) -> float:
    """Return what fit and rows took together: seconds (0) or CPU seconds (1)."""
    return found["steps"]["fit"][column] + found["steps"]["rows"][column]


PUBLISHED = """## The published code

Figures given for it: 14 to 32 minutes for each rank at 400,000 target pieces; 96 to 108 CPU s and 9 GiB for each SVD
of the source table (here: `benchmark_svd.py`); 21 to 25 CPU s for each tokenizer to map words to pieces."""


def main() -> None:
    """Make the inputs, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        os.environ["HF_VOCAB_EXTEND_CACHE"] = str(options.folder / "cache")
        print(json.dumps(WORKERS[options.worker](options.folder)))
        return
    runner = Runner(__file__, options.threads)
    runner.say("# OFA at the size of its paper")
    runner.say()
    runner.say(
        f"{time.strftime('%Y-%m-%d')}, {options.threads} thread(s), 2 cores shared with other work (ratios of CPU "
        f"seconds are the firm figures), torch {torch.__version__}, Python {platform.python_version()}: "
        "`python scripts/benchmark_ofa.py`."
    )
    runner.say()
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder))
        report(runner, Path(folder))
    runner.say(PUBLISHED)
    if options.out:
        options.out.write_text("\n".join(runner.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
