"""Compare WECHSEL with the package wechsel: rows for equal word vectors, and seconds.

    python scripts/benchmark_wechsel.py --peer-python /path/to/other/venv/bin/python --out scripts/results/wechsel.md

The peer's interpreter needs ``wechsel`` and its dependencies. Both sides read the same files and run in a process of
their own, with vectors, tokenizers and table loaded before the clock starts. The package estimates every token, so
ours is asked to estimate every token too.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from focus_workers import Measure, make_bytes, sample
from workers import Runner

WIDTH, K = 64, 10
MARGIN = 1e-6  # cosines that are closer than this may change places by rounding
SEED = 11


def make_fasttext(folder: Path) -> None:
    """Train fastText on both sides of the demo's text and write a dictionary of words of equal rank.

    Equal rows need no true dictionary.
    """
    import fasttext
    from tokenizers.pre_tokenizers import BertPreTokenizer

    cut, words = BertPreTokenizer(), []
    for name, column in (("source", 2), ("target", 3)):
        lines = [" ".join(word for word, _ in cut.pre_tokenize_str(line)) for line in sample(column)]
        (folder / "text.txt").write_text("\n".join(lines), encoding="utf-8")
        model = fasttext.train_unsupervised(
            str(folder / "text.txt"),
            model="cbow",
            dim=50,
            epoch=10,
            minn=3,
            maxn=5,
            thread=1,
            bucket=400_000,
            verbose=0,
        )
        model.save_model(str(folder / f"{name}.bin"))
        words.append([word for word in model.get_words() if word.isalpha()][:1500])
    pairs = "\n".join("\t".join(pair) for pair in zip(*words, strict=True))
    (folder / "dictionary.txt").write_text(pairs + "\n", encoding="utf-8")


def make_wordpiece(folder: Path) -> None:
    """Replace the tokenizers by WordPiece ones."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    for name, column in (("source", 2), ("target", 3)):
        backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=False)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=8000, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
        backend.train_from_iterator(sample(column), trainer)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
        tokenizer.save_pretrained(folder / name)


def make_large(folder: Path, n_source: int, n_target: int, n_words: int) -> None:
    """Write WordPiece tokenizers of invented syllables, and words of two or three of them with random vectors."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    random = np.random.default_rng(SEED)
    letters = np.asarray(list("abcdefghijklmnopqrstuvwxyz"))
    for name, size in (("source", n_source), ("target", n_target)):
        drawn = ["".join(row) for row in letters[random.integers(0, 26, (2 * size, 5))]]
        syllables = list(dict.fromkeys(drawn))[: size // 2]
        vocab = {"[PAD]": 0, "[UNK]": 1}
        for syllable in syllables:
            vocab[syllable], vocab["##" + syllable] = len(vocab), len(vocab) + 1
        backend = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
        tokenizer.save_pretrained(folder / name)
        picks = random.integers(0, len(syllables), (n_words, 3))
        words = list(dict.fromkeys("".join(syllables[i] for i in row[: 2 + row[0] % 2]) for row in picks))
        np.savez(
            folder / f"{name}.npz",
            words=np.asarray(words),
            vectors=random.standard_normal((len(words), 300), dtype=np.float32),
            frequencies=random.integers(1, 10_000, len(words)),
        )
        (folder / f"{name}.bin").unlink(missing_ok=True)
    both = [np.load(folder / f"{name}.npz")["words"][:5000] for name in ("source", "target")]
    pairs = "\n".join("\t".join(pair) for pair in zip(*both, strict=True))
    (folder / "dictionary.txt").write_text(pairs + "\n", encoding="utf-8")


def make_table(folder: Path, width: int) -> None:
    """Write a random source table."""
    n_rows = len(tokenizers_of(folder)[0])
    table = np.random.default_rng(SEED + 1).standard_normal((n_rows, width), dtype=np.float32)
    np.save(folder / "table.npy", table)


def tokenizers_of(folder: Path) -> list:
    """Load both tokenizers."""
    from transformers import PreTrainedTokenizerFast

    return [PreTrainedTokenizerFast.from_pretrained(folder / name) for name in ("source", "target")]


def peer_space(folder: Path, name: str) -> object:
    """Load vectors as the package takes them: a fastText model, or gensim's Word2Vec."""
    if (folder / f"{name}.bin").exists():
        import fasttext

        return fasttext.load_model(str(folder / f"{name}.bin"))
    from gensim.models import Word2Vec

    arrays = np.load(folder / f"{name}.npz")
    words, counts = arrays["words"].tolist(), arrays["frequencies"].tolist()
    model = Word2Vec(vector_size=arrays["vectors"].shape[1], min_count=1, sorted_vocab=0)
    model.build_vocab_from_freq(dict(zip(words, counts, strict=True)))
    places = {word: place for place, word in enumerate(words)}
    model.wv.vectors = arrays["vectors"][[places[word] for word in model.wv.index_to_key]]
    return model


def peer(folder: Path, pieces: str) -> dict:
    """Run the package; keep its rows and, for each, its neighbours."""
    import wechsel

    in_32_bits = wechsel.orthogonal_procrustes
    if pieces.endswith("64"):
        wechsel.orthogonal_procrustes = lambda *sides: in_32_bits(*[side.astype(np.float64) for side in sides])
    tokenizers, table = tokenizers_of(folder), np.load(folder / "table.npy")
    spaces = [peer_space(folder, name) for name in ("source", "target")]
    with Measure() as measure:
        method = wechsel.WECHSEL(*spaces, bilingual_dictionary=str(folder / "dictionary.txt"))
        rows, info = method.apply(*tokenizers, table, use_subword_info=pieces.startswith("ngrams"), neighbors=K)
    vocabs = [tokenizer.get_vocab() for tokenizer in tokenizers]
    neighbours = np.full((len(rows), K), -1, np.int64)
    for token, (sources, _, _) in info.sources.items():
        neighbours[vocabs[1][token]] = [vocabs[0][source] for source in sources]
    np.save(folder / "peer.npy", rows)
    np.save(folder / "peer_neighbours.npy", neighbours)
    return measure.to_dict()


def ours(folder: Path, pieces: str) -> dict:
    """Run ours on the same, with every token of the target to be estimated."""
    from hf_vocab_extend.methods.base import FitContext, Resources
    from hf_vocab_extend.methods.wechsel import Wechsel, WechselConfig
    from hf_vocab_extend.plan import MatchKind, VocabPlan
    from hf_vocab_extend.resources.word_vectors import read_word_vectors
    from hf_vocab_extend.vocab.canonical import canonicalise

    tokenizers, table = tokenizers_of(folder), torch.from_numpy(np.load(folder / "table.npy"))
    suffix = "bin" if (folder / "source.bin").exists() else "npz"
    spaces = tuple(read_word_vectors(folder / f"{name}.{suffix}") for name in ("source", "target"))
    with Measure() as measure:
        source, target = (canonicalise(tokenizer) for tokenizer in tokenizers)
        nothing = np.full(len(target), -1, np.int64), np.full(len(target), MatchKind.NEW, np.uint8)
        context = FitContext(
            plan=VocabPlan("replace", source, target, *nothing),
            source_tokenizer=tokenizers[0],
            target_tokenizer=tokenizers[1],
            resources=Resources(word_vectors=spaces, dictionary=folder / "dictionary.txt"),
            generator=torch.Generator().manual_seed(0),
            trained=np.ones(len(table), bool),
            device=torch.device("cpu"),
        )
        method = Wechsel(WechselConfig(k=K, pieces=pieces.removesuffix("64")))
        mixture = method.fit(context)
        rows = mixture.rows(table)
    np.save(folder / "margins.npy", margins(context, *spaces, method.config.piece_options()))
    np.save(folder / "ours.npy", rows.numpy())
    np.save(folder / "ours_covered.npy", mixture.covered)
    neighbours = np.full((mixture.n_rows, K), -1, np.int64)
    owners = np.repeat(np.arange(mixture.n_rows), np.diff(mixture.offsets))
    neighbours[owners, np.arange(len(owners)) - mixture.offsets[owners]] = mixture.columns
    np.save(folder / "ours_neighbours.npy", neighbours)
    return measure.to_dict()


def margins(context: object, source: object, target: object, options: object) -> np.ndarray:
    """Return by how much the cosine of the last neighbour exceeds that of the first one left out, in 64 bits."""
    from hf_vocab_extend.resources.parallel import open_pairs
    from hf_vocab_extend.resources.piece_vectors import piece_vectors
    from hf_vocab_extend.resources.procrustes import find_correspondences, procrustes

    left = piece_vectors(source, context.source_tokenizer, context.plan.source, options)
    right = piece_vectors(target, context.target_tokenizer, context.plan.target, options)
    found = find_correspondences(source, target, open_pairs(context.resources.dictionary))
    left = torch.from_numpy(left.astype(np.float64) @ procrustes(source, target, found))
    left, right = (torch.nn.functional.normalize(side) for side in (left, torch.from_numpy(right).double()))
    left = left[left.any(1)]
    top = torch.cat([(part @ left.T).topk(K + 1).values for part in right.split(1024)])
    return (top[:, K - 1] - top[:, K]).numpy()


def confused(tokenizer: object, pieces: str) -> np.ndarray:
    """Return the tokens that the package gives the vector of something else, bool, shape `(n_tokens,)`.

    Special tokens; by n-grams what is no text by itself (parts of characters are decoded to U+FFFD, WordPiece keeps
    its ``##``); by words the pieces of fastText's own word for an end of line.
    """
    from hf_vocab_extend.resources.piece_vectors import piece_texts
    from hf_vocab_extend.vocab.canonical import TokenKind, canonicalise

    vocab = canonicalise(tokenizer)
    found = ~np.isin(vocab.kinds, (TokenKind.NORMAL, TokenKind.BYTE))
    if pieces == "ngrams":
        texts = piece_texts(vocab)
        found |= np.asarray(
            [not text or "##" in (token or "") for text, token in zip(texts, vocab.tokens, strict=True)]
        )
    else:
        found[
            [index for text in ("</s>", " </s>") for index in tokenizer(text, add_special_tokens=False)["input_ids"]]
        ] = True
    return found


class Report(Runner):
    """Runs workers in one folder and collects the lines."""

    def __init__(self, peer_python: str, folder: Path, threads: int) -> None:
        super().__init__(__file__, threads, peer_python)
        self.folder = folder

    def compare(self, label: str, pieces: str) -> None:
        """Run both and compare rows."""
        left, right = (self.run(name, self.folder, "--pieces", pieces) for name in WORKERS)
        rows, peer_rows = np.load(self.folder / "ours.npy"), np.load(self.folder / "peer.npy")
        neighbours, covered = np.load(self.folder / "peer_neighbours.npy"), np.load(self.folder / "ours_covered.npy")
        source, target = (confused(tokenizer, pieces.removesuffix("64")) for tokenizer in tokenizers_of(self.folder))
        mixed = source[np.hstack([neighbours, np.load(self.folder / "ours_neighbours.npy")])].any(1)
        fair = (neighbours >= 0).all(1) & ~target & ~mixed
        decided = np.load(self.folder / "margins.npy") > MARGIN
        both = fair & covered & decided
        gap = np.abs(rows[both] - peer_rows[both]).max(1)
        self.say(
            f"- {label}: {len(rows)} tokens; {int(both.sum())} compared, largest difference {gap.max():.1e}, "
            f"{int((gap > 1e-5).sum())} rows differ by more than 1e-5, {int((gap > 1e-6).sum())} by more than 1e-6. "
            f"Covered by the package alone: {int((fair & ~covered).sum())}. Left out of the comparison: "
            f"{int((target & (neighbours[:, 0] >= 0)).sum())} tokens that it gives the vector of something else, "
            f"{int((~target & (neighbours >= 0).all(1) & mixed).sum())} that one of the two mixes from such, "
            f"{int((fair & covered & ~decided).sum())} whose last neighbour and next one are within {MARGIN:.0e}."
        )
        self.seconds(left, right)

    def seconds(self, left: dict, right: dict) -> None:
        """Say what both took."""
        self.say(
            f"  - ours {left['seconds']:.2f} s ({left['cpu']:.2f} CPU s, {left['mib']:.0f} MiB), the package "
            f"{right['seconds']:.2f} s ({right['cpu']:.2f} CPU s, {right['mib']:.0f} MiB): "
            f"{right['seconds'] / left['seconds']:.1f} times the seconds, {right['cpu'] / left['cpu']:.1f} times the "
            "CPU seconds."
        )


WORKERS: dict[str, Callable[[Path, str], dict]] = {"ours": ours, "peer": peer}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="interpreter of an environment with wechsel")
    parser.add_argument("--parts", default="equality,large", help="comma-separated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where to write the report")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pieces", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(WORKERS[options.worker](options.folder, options.pieces)))
        return
    if not options.peer_python:
        parser.error("--peer-python is needed")
    with tempfile.TemporaryDirectory() as name:
        report = Report(options.peer_python, Path(name), options.threads)
        report.say("# WECHSEL against the package wechsel\n")
        report.say(f"{options.threads} thread, torch {torch.__version__}, Python {platform.python_version()}.\n")
        if "equality" in options.parts:
            report.say("## Equal rows for equal word vectors\n")
            make_fasttext(report.folder)
            make_bytes(report.folder)
            make_table(report.folder, WIDTH)
            report.say(
                "The package computes its rotation in 32 bits; where it says 64, that one step of it was given "
                "64-bit numbers.\n"
            )
            report.compare("byte-level BPE, English to Swahili, n-grams", "ngrams")
            report.compare("the same, 64", "ngrams64")
            report.compare("byte-level BPE, English to Swahili, words", "words")
            report.compare("the same, 64", "words64")
            make_wordpiece(report.folder)
            make_table(report.folder, WIDTH)
            report.compare("WordPiece, English to Swahili, words", "words")
            report.compare("the same, 64", "words64")
        if "large" in options.parts:
            report.say("\n## Invented words: 30,000 source tokens, 16,000 target tokens, 2 x 100,000 words of 300\n")
            make_large(report.folder, 30_000, 16_000, 100_000)
            make_table(report.folder, 768)
            report.compare("WordPiece, words", "words")
    if options.out:
        options.out.write_text("\n".join(report.lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
