"""Inputs and measured steps of ``benchmark_trans_tokenization.py``.

Each step runs in a process of its own, some under an interpreter that has the peer's packages and not ours.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from focus_workers import Measure

JOINER = "\u2014"
"""What the package puts between the tokens of a word."""


def read_pairs(data: Path, languages: list[str], limit: int | None = None) -> list[tuple[str, str]]:
    """Return English and target sentences of all languages, repeated if there are fewer than ``limit``."""
    pairs: list[tuple[str, str]] = []
    for language in languages:
        with gzip.open(data / f"eng_Latn-{language}.train.tsv.gz", "rt", encoding="utf-8") as file:
            rows = [line.rstrip("\n").split("\t") for line in file][1:]
        pairs += [(row[2], row[3]) for row in rows]
    return pairs if limit is None else list(islice(cycle(pairs), limit))


def make_tokenizer(folder: Path, family: str, texts: Iterator[str], size: int) -> None:
    """Train a byte-level tokenizer, or one that marks spaces as sentencepiece does, and write it."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    end = "<|endoftext|>"
    backend = Tokenizer(models.BPE(unk_token=None if family == "byte" else end))
    backend.normalizer = normalizers.NFC()
    alphabet: list[str] = []
    if family == "byte":
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=[end], initial_alphabet=alphabet, show_progress=False, max_token_length=24
    )
    backend.train_from_iterator(texts, trainer)
    options = {} if family == "byte" else {"unk_token": end}
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, **options).save_pretrained(folder)


def make_text(folder: Path, data: Path, languages: list[str], limit: int, family: str, size: int) -> None:
    """Write pairs and two tokenizers trained on them."""
    pairs = read_pairs(data, languages, limit)
    (folder / "pairs.tsv").write_text("".join(f"{left}\t{right}\n" for left, right in pairs), encoding="utf-8")
    unique = list(dict.fromkeys(pairs))
    make_tokenizer(folder / "source", family, (pair[0] for pair in unique), size)
    make_tokenizer(folder / "target", family, (pair[1] for pair in unique), size)


def _tokenizers(folder: Path) -> tuple:
    from transformers import PreTrainedTokenizerFast

    return tuple(PreTrainedTokenizerFast.from_pretrained(folder / name) for name in ("source", "target"))


def _context(folder: Path, counts: object, config: object) -> tuple:
    """Return a context in mode replace, with the tokens freed that the method wants to estimate, and the method."""
    import torch

    from hf_vocab_extend.methods.base import FitContext, Resources
    from hf_vocab_extend.methods.trans_tokenization import TransTokenization
    from hf_vocab_extend.plan import build_plan
    from hf_vocab_extend.prepare import free_reestimated

    source, target = _tokenizers(folder)
    method = TransTokenization(config)
    plan, shared = free_reestimated(build_plan(source, target, "replace"), method)
    return FitContext(
        plan=plan,
        source_tokenizer=source,
        target_tokenizer=target,
        resources=Resources(parallel=counts),
        generator=torch.Generator().manual_seed(0),
        trained=np.ones(plan.n_source, bool),
        device=torch.device("cpu"),
        shared=shared,
    ), method


def _write_table(folder: Path, counts: object) -> int:
    """Write the forward counts as the package's aligner does; return the number of rows."""
    source, target = _tokenizers(folder)
    words = []
    for tokenizer, units in ((source, counts.source), (target, counts.target)):
        tokens = tokenizer.convert_ids_to_tokens(units.pieces.tolist())
        bounds = units.offsets.tolist()
        words.append([tokens[start:end] for start, end in zip(bounds[:-1], bounds[1:], strict=True)])
    rows = []
    for left, right, count in zip(
        counts.source_index.tolist(), counts.target_index.tolist(), counts.forward.tolist(), strict=True
    ):
        rows.append(f"{JOINER.join(words[0][left])}\t{JOINER.join(words[1][right])}\t0\t{count!r}\n")
    (folder / "counts.tsv").write_text("".join(rows), encoding="utf-8")
    return len(rows)


def ours_align(folder: Path) -> dict:
    """Read and align the pairs, stage by stage; write the counts for all."""
    from hf_vocab_extend.resources.alignment import AlignerOptions, UnitCounts, read_bitext
    from hf_vocab_extend.resources.alignment.aligners import align
    from hf_vocab_extend.resources.alignment.counts import vocab_fingerprint

    options = json.loads((folder / "options.json").read_text())
    source, target = _tokenizers(folder)
    pairs = [line.split("\t") for line in (folder / "pairs.tsv").read_text(encoding="utf-8").splitlines()]
    with Measure() as floor:
        for side, tokenizer in enumerate((source, target)):
            texts = [pair[side] for pair in pairs]
            for start in range(0, len(texts), 4096):
                tokenizer.backend_tokenizer.encode_batch_fast(texts[start : start + 4096], add_special_tokens=False)
    del pairs, texts
    with Measure() as read:
        bitext = read_bitext(folder / "pairs.tsv", source, target, unit="word")
    with Measure() as aligned:
        links = align(bitext, AlignerOptions(aligner=options["aligner"]))
    arrays = links.source_index, links.target_index, links.forward, links.backward
    prints = vocab_fingerprint(source), vocab_fingerprint(target)
    counts = UnitCounts(bitext.source, bitext.target, *arrays, len(bitext), *prints)
    counts.save(folder / "counts.safetensors")
    n_rows = _write_table(folder, counts)
    several = int(((counts.source.lengths[arrays[0]] > 1) | (counts.target.lengths[arrays[1]] > 1)).sum())
    return {"read": read.to_dict(), "align": aligned.to_dict(), "pairs": len(bitext), "rows": n_rows,
            "several": several, "floor": floor.to_dict()}  # fmt: skip


def ours_map(folder: Path) -> dict:
    """Time the steps from counts of words to weights, with the options of the package and with our defaults."""
    from hf_vocab_extend.methods.distribution import choose_links, distribute
    from hf_vocab_extend.methods.trans_tokenization import TransTokenizationConfig
    from hf_vocab_extend.resources.alignment import UnitCounts

    counts = UnitCounts.load(folder / "counts.safetensors")
    # the package doubles word starts for sentencepiece sources only
    boost = 1.0 if json.loads((folder / "options.json").read_text())["family"] == "byte" else 2.0
    package = TransTokenizationConfig.package(start_boost=boost)
    found = {}
    for name, config in (("package", package), ("default", TransTokenizationConfig())):
        with Measure() as planned:
            context, method = _context(folder, counts, config)
        plan = context.plan
        with Measure() as dealt:
            links = choose_links(counts, config.direction, config.min_count, config.min_share)
            distribute(counts, config.distribution, links, n_target=plan.n_target, n_source=plan.n_source)
        with Measure() as fitted:
            mixture = method.fit(context)
        found[name] = {"plan": planned.to_dict(), "distribute": dealt.to_dict(), "fit": fitted.to_dict(),
                       "covered": int(mixture.covered.sum()), "new": len(plan.new_ids)}  # fmt: skip
        if name == "package":
            _write_weights(folder, context, mixture)
    return found


def _write_weights(folder: Path, context: object, mixture: object) -> None:
    """Write the weights of all target tokens by spelling, copies included, and which are single bytes or special."""
    rows, plan = {}, context.plan
    for token_id in plan.copied_ids.tolist():
        rows[plan.target.tokens[token_id]] = {plan.source.tokens[plan.source_ids[token_id]]: 1.0}
    for place, token_id in enumerate(plan.new_ids.tolist()):
        entries = mixture.row(place)
        if not entries and context.shared[place] >= 0:  # what the method leaves open is copied after all
            entries = [(int(context.shared[place]), 1.0)]
        rows[plan.target.tokens[token_id]] = {plan.source.tokens[key]: value for key, value in entries}
    (folder / "ours.json").write_text(json.dumps(rows), encoding="utf-8")
    bytes_ = [token for token, kind in zip(plan.target.tokens, plan.target.kinds, strict=True) if kind in (1, 2)]
    (folder / "signs.json").write_text(json.dumps(bytes_), encoding="utf-8")


def _peer() -> object:
    from transtokenizers import transtokenizers

    transtokenizers.tqdm = lambda items, **options: items
    return transtokenizers


def peer_prepare(folder: Path) -> dict:
    """The package's preparation of the text for its aligner."""
    os.environ["TT_HOME"] = str(folder / "package")
    peer = _peer()
    lines = (folder / "pairs.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [tuple(line.split("\t")) for line in lines]
    peer.get_dataset_iterator = lambda *names: iter(pairs)
    with Measure() as measure:
        peer.create_aligned_corpus("en", "xx", str(folder / "source"), str(folder / "target"), ["pairs"])
    return {"prepare": measure.to_dict()}


class _Frozen(defaultdict):
    """A table of translations that does not see what is added to it: the package's loop then depends on no order."""

    def __init__(self, table: dict) -> None:
        super().__init__(lambda: defaultdict(int), table)
        self.added: dict = {}

    def __setitem__(self, key: str, value: object) -> None:
        self.added[key] = value

    def __missing__(self, key: str) -> object:
        return self.added[key]


def peer_map(folder: Path) -> dict:
    """The package's mapping of tokens, and, for small vocabularies, of those that no pair covers."""
    peer = _peer()
    names = str(folder / "source"), str(folder / "target")
    with Measure() as mapped:
        table, _ = peer.map_tokens(str(folder / "counts.tsv"), *names)
    found = {"map": mapped.to_dict(), "covered": len(table)}
    if json.loads((folder / "options.json").read_text())["smooth"]:
        frozen = _Frozen(dict(table))
        with Measure() as smoothed:
            peer.smooth_mapping(names[1], frozen)
        found |= {"smooth": smoothed.to_dict(), "smoothed": len(frozen.added)}
        parts = {"counted": table, "related": frozen.added}
        weights = {
            name: {
                token: {key: value / sum(row.values()) for key, value in row.items()} for token, row in rows.items()
            }
            for name, rows in parts.items()
        }
        (folder / "peer.json").write_text(json.dumps(weights), encoding="utf-8")
    return found


SMALL_SAMPLE = 25


def _invented(folder: Path) -> tuple[list[str], np.ndarray]:
    """Return the tokens of an invented vocabulary and which of them nothing covers."""
    vocab = json.loads((folder / "target" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    tokens = [token for token in vocab if not token.startswith("[")]
    order = np.random.default_rng(5).permutation(len(tokens))
    open_ = np.zeros(len(tokens), bool)
    open_[order[:40_000]] = True
    return tokens, open_


def make_invented(folder: Path, size: int) -> None:
    """Write a tokenizer of invented words of realistic lengths that share beginnings and parts."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    random = np.random.default_rng(4)
    syllables = ["".join(pair) for pair in zip(*(random.choice(list(part), 90) for part in
                 ("bdfghjklmnprstvwz", "aeiou")), strict=True)]  # fmt: skip
    words: dict[str, int] = {"[UNK]": 0}
    while len(words) < size:
        word = "".join(random.choice(syllables, random.integers(1, 7)))
        words.setdefault(word[: len(word) - int(random.integers(0, 2))], len(words))
    backend = Tokenizer(models.WordPiece(vocab=words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(folder / "target")


def ours_related(folder: Path) -> dict:
    """Cover 40,000 tokens of a large vocabulary from the others."""
    from hf_vocab_extend.methods.distribution import PieceCounts
    from hf_vocab_extend.methods.uncovered import cover
    from hf_vocab_extend.plan import build_plan

    target = _tokenizers_target(folder)
    vocab = build_plan(target, target, "replace").target
    tokens, open_ = _invented(folder)
    ids = np.asarray(target.convert_tokens_to_ids(tokens))
    known = np.repeat(ids[~open_], 5)
    random = np.random.default_rng(6)
    counts = PieceCounts.from_entries(
        known, random.integers(0, 30_000, len(known)), random.random(len(known)) + 0.1,
        n_target=len(vocab), n_source=30_000,
    )  # fmt: skip
    queries = np.sort(ids[open_])
    with Measure() as measure:
        found = cover(counts, vocab, queries, np.ones(30_000), spelling="token", whole=True)
    return {**measure.to_dict(), "queries": len(queries), "covered": int((np.diff(found.offsets) > 0).sum()),
            "vocabulary": len(vocab)}  # fmt: skip


def _tokenizers_target(folder: Path) -> object:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder / "target")


def peer_related(folder: Path) -> dict:
    """The package's loop on the same vocabulary for a few tokens; the time without any is taken off."""
    peer = _peer()
    tokens, open_ = _invented(folder)
    random = np.random.default_rng(6)
    names = [token for token, is_open in zip(tokens, open_, strict=True) if not is_open]
    sources = random.integers(0, 30_000, (len(names), 5)).tolist()
    table = {name: {f"s{key}": 7 for key in row} for name, row in zip(names, sources, strict=True)}
    sample = [token for token, is_open in zip(tokens, open_, strict=True) if is_open]
    seconds = {}
    for n in (0, SMALL_SAMPLE):
        rest = {token: {"s0": 7} for token in sample[n:]}
        frozen = _Frozen({**table, **rest, "[UNK]": {"s0": 1}})
        with Measure() as measure:
            peer.smooth_mapping(str(folder / "target"), frozen)
        seconds[n] = measure.cpu
    return {"cpu_each": (seconds[SMALL_SAMPLE] - seconds[0]) / SMALL_SAMPLE, "sample": SMALL_SAMPLE}


WORKERS: dict[str, Callable[[Path], dict]] = {
    worker.__name__: worker for worker in (ours_align, ours_map, ours_related, peer_prepare, peer_map, peer_related)
}
