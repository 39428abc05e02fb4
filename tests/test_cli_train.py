"""``hf-vocab-extend train``: from text to a trained folder."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_vocab_extend import TrainingOptions, extend_vocabulary, train_language_model
from hf_vocab_extend.adaptation.rows import new_row_ids
from hf_vocab_extend.adaptation.training import _block_size, _check_merges, n_devices
from hf_vocab_extend.adaptation.training_data import DataOptions, make_training_data
from hf_vocab_extend.cli.config_file import read_config
from hf_vocab_extend.cli.main import main
from hf_vocab_extend.cli.train import _add_config
from hf_vocab_extend.cli.training import summary
from hf_vocab_extend.errors import InvalidOptionError, OutputFolderError

from .factories import english, gpt2_like, llama3_like, swahili
from .models import build
from .tiny_models import make_llama

SHORT = ("--block-size", "32", "--batch-size", "4", "--evaluations", "1", "--held-out", "8", "--warmup", "0.1")

PEFT_READS_AN_OLD_NAME = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Namespace:
    """Folders of a model and of its extension, and texts."""
    root = tmp_path_factory.mktemp("train")
    tok = llama3_like()
    model = make_llama(tok)
    model.save_pretrained(root / "plain")
    tok.save_pretrained(root / "plain")
    extension = extend_vocabulary(model, gpt2_like(lines=swahili()), tokenizer=tok, method="subword")
    extension.save_pretrained(root / "extended")
    (root / "sw.txt").write_text("\n".join(swahili(150)), "utf-8")
    (root / "en.txt").write_text("\n".join(english(150)), "utf-8")
    return Namespace(
        root=root, plain=root / "plain", extended=root / "extended", sw=root / "sw.txt", en=root / "en.txt"
    )


def train(capsys, *argv):
    """Run the command; return exit code, standard output and standard error."""
    code = main(["train", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_from_folder_to_folder(places, tmp_path, capsys):
    out = tmp_path / "out"
    code, answer, err = train(
        capsys, places.extended, out, "--corpus", places.sw, "--replay", places.en, "--steps", 4,
        "--stages", "new_rows", "--learning-rate", 1e-2, *SHORT, "--format", "json",
    )  # fmt: skip
    assert code == 0, err
    data = json.loads(answer)
    start, end = data["measures"]["start"], data["measures"]["end"]
    assert end["bits_per_byte_target"] < start["bits_per_byte_target"]
    assert "bits_per_byte_source" in end
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (places.extended, out))
    report = json.loads((out / "vocab_extension.json").read_text("utf-8"))
    n_old = report["sizes"]["source_rows"]
    assert torch.equal(before.lm_head.weight[:n_old], after.lm_head.weight[:n_old])
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert report["training"]["objective"] == "causal"
    assert report["training"]["replay_share"] == 0.1
    assert AutoTokenizer.from_pretrained(out)("habari")["input_ids"]
    assert "training" in (out / "README.md").read_text("utf-8").lower()
    assert not Path(f"{out}.work").exists()


def test_resumed_run_equals_an_unbroken_one(places, tmp_path):
    text = places.sw.read_text("utf-8").splitlines()
    model = AutoModelForCausalLM.from_pretrained(places.plain)
    tok = AutoTokenizer.from_pretrained(places.plain)
    options = TrainingOptions(steps=4, block_size=32, batch_size=4, evaluations=2, held_out=8, learning_rate=1e-2)
    whole = train_language_model(model, text, tmp_path / "a", options, tokenizer=tok)
    again = AutoModelForCausalLM.from_pretrained(places.plain)
    resumed = tmp_path / "b"
    resumed.mkdir()
    (tmp_path / "a" / "checkpoint-2").rename(resumed / "checkpoint-2")
    with pytest.raises(OutputFolderError, match="resume"):
        train_language_model(again, text, resumed, options, tokenizer=tok)
    run = train_language_model(again, text, resumed, options, tokenizer=tok, resume=True)
    for one, other in zip(whole.model.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(one, other)


@PEFT_READS_AN_OLD_NAME
def test_plain_model_lora_and_streaming(places, tmp_path, capsys):
    out = tmp_path / "out"
    code, answer, err = train(
        capsys, places.plain, out, "--corpus", places.sw, "--replay", places.en, "--steps", 2, "--streaming",
        "--lora", 2, *SHORT,
    )  # fmt: skip
    assert code == 0, err
    assert "Saved to" in answer
    assert "steps: 2" in answer
    assert "total_flos" not in answer
    assert "no card and no report are written" in " ".join(err.split())
    assert "pin_memory" not in err
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (places.plain, out))
    assert torch.equal(before.model.embed_tokens.weight, after.model.embed_tokens.weight)
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)
    code, _, err = train(capsys, places.plain, tmp_path / "no", "--corpus", places.sw, "--stages", "new_rows", *SHORT)
    assert code == 1
    assert "Extend it first" in err
    assert not (tmp_path / "no").exists()


@PEFT_READS_AN_OLD_NAME
def test_lora_and_new_rows_of_an_extension(places, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(places.extended)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = train_language_model(
        model, swahili(150), tmp_path / "work", steps=2, block_size=32, batch_size=4, evaluations=1, held_out=8,
        learning_rate=1e-2, lora=2,
    )  # fmt: skip
    assert run.measures[-1]["step"] == 2
    assert run.extension.report.training["lora_rank"] == 2
    run.save_pretrained(tmp_path / "out")
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    new = new_row_ids(run.extension)
    old = torch.ones(len(before["lm_head.weight"]), dtype=torch.bool)
    old[new] = False
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(before[name][old], after[name][old])
        assert not torch.equal(before[name][new], after[name][new])
    _measured_as_by_hand(run.measures[-1], before, after, new, old)
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])


def _measured_as_by_hand(measured, before, after, new, old):
    """Drift and lengths of new rows, which peft holds apart from the frozen table, and of old ones."""
    tables = {"input": "model.embed_tokens.weight", "head": "lm_head.weight"}
    if "drift_new_tied" in measured:
        tables = {"tied": "lm_head.weight"}
    for label, name in tables.items():
        for kind, rows in (("new", new), ("old", old)):
            one, other = before[name][rows], after[name][rows]
            assert measured[f"drift_{kind}_{label}"] == pytest.approx(float((other - one).norm() / one.norm()))
            assert measured[f"norm_{kind}_{label}"] == pytest.approx(float(other.norm(dim=1).mean()))
        assert measured[f"drift_new_{label}"] > 1e-3


def test_the_answer_is_short():
    start = {"bits_per_byte_target": 3.0, "trained_tokens": 0}
    end = {"bits_per_byte_target": 2.5, "trained_tokens": 12345, "seconds": 6.78}
    metrics = {"train_loss": 4.0, "eval_loss": 3.5, "total_flos": 1e15, "eval_samples_per_second": 9.0}
    assert summary(Namespace(metrics=metrics, measures=[start, end], steps=1200)) == [
        "steps: 1,200",
        "tokens: 12,345",
        "seconds: 6.8",
        "loss in training: 4.0000",
        "loss on held-out text: 3.5000",
        "bits per byte of target: 3.0000 -> 2.5000",
    ]


def test_config_file_and_command_line(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("corpus: sw.txt\nblock_size: 64\nlearning-rate: 1e-4\nbf16: true\nlanguage: [sw]\nsteps: 5\n")
    args = Namespace(config=str(file), steps=9)
    _add_config(args)
    assert (args.corpus, args.block_size, args.learning_rate, args.bf16, args.language) == (
        "sw.txt",
        64,
        1e-4,
        True,
        ["sw"],
    )
    assert args.steps == 9
    (tmp_path / "t.toml").write_text('stages = [{train = ["new_rows"], steps = 2}, {train = ["all"]}]\n')
    args = Namespace(config=str(tmp_path / "t.toml"))
    _add_config(args)
    assert json.loads(args.stages)[0]["steps"] == 2


@pytest.mark.parametrize("text", ["learning_rat: 1", "steps: many", "bf16: 3", "model: x", "- steps", "steps: ["])
def test_config_mistakes(tmp_path, text):
    file = tmp_path / "train.yaml"
    file.write_text(text)
    with pytest.raises(InvalidOptionError):
        _add_config(Namespace(config=str(file)))
    with pytest.raises(InvalidOptionError, match="yaml"):
        read_config(str(tmp_path / "train.ini"))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1, "epochs": 1},
        {"streaming": True},
        {"steps": 0},
        {"warmup": 2},
        {"stages": "none"},
        {"lora": 0},
        {"lora_tables": "some"},
    ],
)
def test_options_out_of_range(changes):
    with pytest.raises(InvalidOptionError):
        TrainingOptions(**changes)


def test_files_of_others_in_the_default_work_folder_are_kept(places, tmp_path, capsys):
    own = tmp_path / "out.work"
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    code, _, err = train(capsys, places.extended, tmp_path / "out", "--corpus", places.sw, "--steps", 1, *SHORT)
    assert code == 1
    assert "--work-folder" in err
    assert (own / "thesis.txt").read_text() == "mine"


def test_what_cannot_work_is_said_before_text_is_read(places, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hf_vocab_extend.adaptation.training.make_training_data", None)
    code, _, err = train(
        capsys, places.extended, tmp_path / "out", "--corpus", places.sw, "--push-to-hub", "a/b/c", *SHORT
    )
    assert code == 1
    assert "no name of a repository" in err
    code, _, err = train(
        capsys, places.extended, tmp_path / "out", "--corpus", places.sw, "--stages", '{"train": "re:none"}'
    )
    assert code == 1
    assert "'re:none' fits no parameter" in err
    for sharded in ("is_fsdp_enabled", "is_deepspeed_enabled"):
        trainer = Namespace(**{"is_fsdp_enabled": False, "is_deepspeed_enabled": False, sharded: True})
        _check_merges(trainer, None)
        with pytest.raises(InvalidOptionError, match="leave lora out"):
            _check_merges(trainer, object())


def test_batches_of_one_process_on_several_devices_count(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert n_devices(TrainingOptions()) == 4
    assert n_devices(TrainingOptions(training_arguments={"use_cpu": True})) == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert n_devices(TrainingOptions()) == 2


def test_blocks_are_no_longer_than_the_model_reads():
    tok = gpt2_like()
    tok.model_max_length = 10**30
    model = build("roberta", len(tok), max_position_embeddings=66, pad_token_id=1)
    assert _block_size(model, tok) == 64  # places are counted from the padding id


def test_replay_goes_on_from_pass_to_pass():
    tok = gpt2_like()
    how = DataOptions("causal", 32, replay_share=0.3, held_out=0)
    data = make_training_data(tok, swahili(60), how, replay=[f"[en] {line}" for line in english(500)], passes=3)
    n_target = data.facts["examples"]
    replayed = []
    for epoch in range(3):
        data.train.set_epoch(epoch)
        replayed += [tuple(data.train[index]["input_ids"]) for index in range(n_target, len(data.train))]
    assert len(set(replayed)) == len(replayed)
    texts = [tok.decode(row) for row in replayed]
    target = [tok.decode(data.train[index]["input_ids"]) for index in range(n_target)]
    ours, theirs = (sum(len(text.encode()) for text in part) for part in (texts[: len(texts) // 3], target))
    assert ours / (ours + theirs) == pytest.approx(0.3, abs=0.05)
    assert len({data.train[index]["draw"] for index in range(len(data.train))}) == len(data.train)
