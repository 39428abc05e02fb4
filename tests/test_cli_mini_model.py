"""``hf-vocab-extend cut``, ``learn`` and ``transplant``: from folders to folders that plain transformers loads."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import math
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_vocab_extend.adaptation.mini_model.building import build_mini_model
from hf_vocab_extend.adaptation.mini_model.joint import MiniJointModel
from hf_vocab_extend.adaptation.mini_model.learning import DEFAULTS, learn_embeddings
from hf_vocab_extend.adaptation.mini_model.record import read_record
from hf_vocab_extend.cli import learn as learn_command
from hf_vocab_extend.cli.common import python_defaults
from hf_vocab_extend.cli.config_file import add_config
from hf_vocab_extend.cli.main import build_parser, main
from hf_vocab_extend.cli.training import kept_for_resuming
from hf_vocab_extend.errors import InvalidOptionError, OutputFolderError

from .factories import english, swahili
from .mini_learning import (
    assert_same_state,
    full_model,
    source_tokenizer,
    state_of,
    swahili_tokenizer,
    task_model,
)

SHORT = ["--steps", "2", "--block-size", "16", "--batch-size", "2", "--held-out", "4", "--learning-rate", "1e-2"]
TABLE = "bert.embeddings.word_embeddings.weight"


@pytest.fixture(scope="module", autouse=True)
def no_drawings() -> Iterator[None]:
    """Train and save without a picture of the curves: it takes longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("adaptation.checkpoints", "result"):
            patch.setattr(f"hf_vocab_extend.{module}.write_curves", lambda *args: None)
        yield


def call(*argv: Any) -> tuple[int, str, str]:
    """Run a command; return exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(item) for item in argv])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Namespace:
    """Folders of a model, of what was made of it without the command line, and of texts."""
    root = tmp_path_factory.mktemp("mini")
    model = full_model("bert").eval()
    moved = full_model("bert")
    with torch.no_grad():
        moved.get_input_embeddings().weight[7:10] += 0.25
    models = {
        "full": model,
        "task": task_model(model),
        "moved": moved,
        "two_heads": MiniJointModel.from_model(model, 1),
    }
    for name, each in models.items():
        each.save_pretrained(root / name)
        source_tokenizer("bert").save_pretrained(root / name)
    swahili_tokenizer().save_pretrained(root / "sw")
    (root / "en.txt").write_text("\n".join(english(60)), "utf-8")
    (root / "sw.txt").write_text("\n".join(swahili(60)), "utf-8")
    (root / "used").mkdir()
    (root / "used" / "mine.txt").write_text("mine")
    return Namespace(root=root, en=root / "en.txt", sw_text=root / "sw.txt", sw=root / "sw", model=model)


@pytest.fixture(scope="module")
def mini(places: Namespace) -> Namespace:
    """What ``cut`` wrote and said."""
    out = places.root / "mini"
    argv = ["cut", places.root / "full", "--corpus", places.en, "--out", out, "--layers", 1, "--new-layers", 1]
    code, answer, err = call(*argv, *SHORT, "--format", "json")
    assert code == 0, err
    return Namespace(folder=out, data=json.loads(answer), err=err)


@pytest.fixture(scope="module")
def table(places: Namespace, mini: Namespace) -> Namespace:
    """What ``learn`` wrote and said, without a model to put it into."""
    out = places.root / "table"
    code, answer, err = call(*_learn(places, mini.folder, out), "--format", "json")
    assert code == 0, err
    return Namespace(folder=out, data=json.loads(answer))


def _learn(places: Namespace, start: Path, out: Path) -> list[Any]:
    """A call of ``learn``."""
    return ["learn", start, "--tokenizer", places.sw, "--corpus", places.sw_text, "--out", out, "--method", "subword",
            "--language", "sw", *SHORT]  # fmt: skip


def test_a_cut_mini_model_loads_by_itself_and_shares_its_bottom(places: Namespace, mini: Namespace) -> None:
    loaded = AutoModelForMaskedLM.from_pretrained(mini.folder)
    full, own = places.model.state_dict(), loaded.state_dict()
    shared = [name for name in own if ".layer.1." not in name and "cls.predictions.transform" not in name]
    assert {TABLE, "bert.encoder.layer.0.output.dense.weight"} <= set(shared)
    assert all(torch.equal(own[name], full[name]) for name in shared)
    fresh = build_mini_model(places.model, 1, 1).state_dict()
    name = "bert.encoder.layer.1.output.dense.weight"
    assert not torch.equal(own[name], fresh[name])
    assert not torch.equal(own[name], full[name])
    record = read_record(loaded)
    assert (record.kind, record.bottom_layers, record.new_layers) == ("post", 1, 1)
    text = "the tokenizer lies beside it"
    assert AutoTokenizer.from_pretrained(mini.folder)(text)["input_ids"] == source_tokenizer("bert")(text)["input_ids"]
    assert not Path(f"{mini.folder}.work").exists()


def test_cut_answers_with_alignment_and_cost(mini: Namespace) -> None:
    alignment, cost = mini.data["alignment"], mini.data["cost"]
    gap = alignment["mini"]["bits_per_byte"] - alignment["full"]["bits_per_byte"]
    assert alignment["gap"] == gap
    assert math.isfinite(gap)
    assert (cost["steps"], cost["tokens"]) == (2, 2 * 2 * 16)
    assert cost["flops"] > 0
    assert "not an extended one" not in mini.err


def test_a_learned_table_stands_on_the_same_body(places: Namespace, mini: Namespace, table: Namespace) -> None:
    before, after = (AutoModelForMaskedLM.from_pretrained(item.folder).state_dict() for item in (mini, table))
    tables = {name for name in after if after[name].shape != before[name].shape}
    assert TABLE in tables
    assert_same_state({**after, **{name: before[name] for name in tables}}, before)
    assert after[TABLE].shape[0] == len(swahili_tokenizer())
    assert table.data["cost"]["flops"] > 0
    assert table.data["report"]["training"]["cost"] == table.data["cost"]
    assert {"start", "end"} == set(table.data["measures"])
    assert "language:" in (table.folder / "README.md").read_text("utf-8")


def test_learning_into_a_task_model_is_learning_and_transplanting(
    places: Namespace, mini: Namespace, table: Namespace, tmp_path: Path
) -> None:
    code, answer, err = call(*_learn(places, mini.folder, tmp_path / "one"), "--into", places.root / "task")
    assert code == 0, err
    for told in ("steps: 2", "floating-point operations: ", "bits per byte of target: ", "with the learned table"):
        assert told in answer
    code, _, err = call(
        "transplant", table.folder, "--into", places.root / "task", "--out", tmp_path / "two", "--overwrite"
    )
    assert code == 0, err
    one, two, task = (
        AutoModelForSequenceClassification.from_pretrained(folder)
        for folder in (tmp_path / "one", tmp_path / "two", places.root / "task")
    )
    assert_same_state(state_of(one), state_of(two))
    assert_same_state({**state_of(one), TABLE: task.state_dict()[TABLE]}, state_of(task))
    assert torch.equal(one.state_dict()[TABLE], AutoModelForMaskedLM.from_pretrained(table.folder).state_dict()[TABLE])
    words = "habari ya asubuhi"
    assert AutoTokenizer.from_pretrained(tmp_path / "one").tokenize(words) == swahili_tokenizer().tokenize(words)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["one", "two"]


def test_a_saved_table_is_trained_on(places: Namespace, table: Namespace, tmp_path: Path) -> None:
    code, answer, err = call("learn", table.folder, "--corpus", places.sw_text, "--out", tmp_path / "more", *SHORT)
    assert code == 0, err
    before, after = (
        AutoModelForMaskedLM.from_pretrained(folder).state_dict() for folder in (table.folder, tmp_path / "more")
    )
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert changed <= {TABLE, "cls.predictions.bias", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}


def test_a_model_with_two_heads_is_cut_without_text(places: Namespace, tmp_path: Path) -> None:
    joint = places.root / "two_heads"
    code, answer, err = call("cut", joint, "--out", tmp_path / "mini", "--eval-corpus", places.en)
    assert code == 0, err
    assert "layers: 1 of the full model, 0 new" in answer
    assert "bits per byte of source text: " in answer
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "mini")
    assert_same_state(state_of(loaded), state_of(MiniJointModel.from_pretrained(joint).cut()))
    assert read_record(loaded).kind == "joint"
    for more in (["--layers", 1], ["--corpus", places.en], ["--steps", 5]):
        code, _, err = call("cut", joint, "--out", tmp_path / "other", *more)
        assert code == 1
        assert f"{more[0]} has no meaning here" in err
    assert [item.name for item in tmp_path.iterdir()] == ["mini"]


CUT = ["cut", "{root}/full", "--out", "{tmp}/out", *SHORT]
LEARN = ["learn", "{root}/mini", "--out", "{tmp}/out", "--corpus", "{root}/sw.txt", "--method", "subword", *SHORT]
NEW = ["--tokenizer", "{root}/sw"]
BAD_CALLS = {
    "too many layers": ([*CUT, "--corpus", "{root}/en.txt"], "--layers=4 and --new-layers=2 make 6 layers"),
    "no layer": ([*CUT, "--corpus", "{root}/en.txt", "--layers", "0"], "--layers is 0"),
    "no corpus to cut": (CUT, "Give --corpus in the language of the model"),
    "corpus is not there": ([*CUT, "--corpus", "{root}/none.txt"], "no file or folder"),
    "evaluation text is not there": (
        [*CUT, "--corpus", "{root}/en.txt", "--eval-corpus", "{root}/none.txt"],
        "no file or folder",
    ),
    "cut into a full folder": (["cut", "{root}/full", "--out", "{root}/used"], "is not empty"),
    "a task model is cut": (
        [
            "cut",
            "{root}/task",
            "--out",
            "{tmp}/out",
            "--corpus",
            "{root}/en.txt",
            "--layers",
            "1",
            "--new-layers",
            "1",
        ],
        "BertForSequenceClassification",
    ),
    "option out of range": ([*CUT, "--corpus", "{root}/en.txt", "--batch-size", "0"], "batch_size is 0"),
    "no corpus to learn": (["learn", "{root}/mini", *NEW, "--out", "{tmp}/out"], "Give --corpus"),
    "no tokenizer": (LEARN, "Give --tokenizer"),
    "learn into a full folder": ([*LEARN[:3], "{root}/used", *LEARN[4:], *NEW], "is not empty"),
    "embeddings have moved": ([*LEARN, *NEW, "--into", "{root}/moved"], "3 of 508 rows of"),
    "allowed for nothing": ([*LEARN, *NEW, "--allow-moved"], "--allow-moved goes with --into"),
    "learn on two heads": (["learn", "{root}/two_heads", *LEARN[2:], *NEW], "hf-vocab-extend cut"),
    "method for a learned table": (["learn", "{root}/table", *LEARN[2:]], "method"),
    "transplant into moved embeddings": (
        ["transplant", "{root}/table", "--into", "{root}/moved", "--out", "{tmp}/out"],
        "--allow-moved takes the rows",
    ),
    "transplant of no table": (
        ["transplant", "{root}/mini", "--into", "{root}/full", "--out", "{tmp}/out"],
        "Run hf-vocab-extend learn on what it holds first",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_say_one_line_and_leave_nothing(
    places: Namespace, table: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    argv, message = BAD_CALLS[case]
    if case not in ("method for a learned table", "a task model is cut"):
        for name in ("mini_model.learning.learn_embeddings", "mini_model.post_training.train_mini_model"):
            monkeypatch.setattr(f"hf_vocab_extend.adaptation.{name}", lambda *args, **more: pytest.fail("it trains"))
    before = sorted([*places.root.rglob("*"), *tmp_path.rglob("*")])
    code, out, err = call(*(item.format(root=places.root, tmp=tmp_path) for item in argv))
    assert code == 1
    assert out == ""
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "unexpected" not in error
    assert "=True" not in error
    assert sorted([*places.root.rglob("*"), *tmp_path.rglob("*")]) == before


@pytest.mark.filterwarnings("always::hf_vocab_extend.errors.VocabExtendWarning")
def test_moved_embeddings_are_taken_when_that_is_said(places: Namespace, table: Namespace, tmp_path: Path) -> None:
    code, _, err = call(
        "transplant", table.folder, "--into", places.root / "moved", "--out", tmp_path / "out", "--allow-moved"
    )
    assert code == 0, err
    assert "warning: The token tables of the model (input) are not those that the mini-model was cut with" in err


def test_an_error_in_the_training_leaves_nothing(
    places: Namespace, mini: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(start: Any, new: Any, corpus: Any, work: Path, *args: Any, **options: Any) -> None:
        work.mkdir()
        (work / "log.json").write_text("{}")
        raise OutputFolderError("the disk is full")

    monkeypatch.setattr("hf_vocab_extend.adaptation.mini_model.learning.learn_embeddings", fail)
    code, _, err = call(*_learn(places, mini.folder, tmp_path / "out"))
    assert code == 1
    assert "the disk is full" in err
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_a_broken_run_are_kept(tmp_path: Path) -> None:
    args, output = Namespace(), tmp_path / "out"
    for files, broken, kept in (([], True, []), (["checkpoint-1"], True, ["out.work"]), (["checkpoint-1"], False, [])):
        with contextlib.suppress(KeyboardInterrupt), kept_for_resuming(args, output) as work:
            for name in files:
                (work / name).mkdir(parents=True, exist_ok=True)
            if broken:
                raise KeyboardInterrupt
        assert [item.name for item in tmp_path.iterdir()] == kept
    own = Namespace(work_folder=str(tmp_path / "own"))
    with kept_for_resuming(own, output) as work:
        work.mkdir()
    assert work.is_dir()


def test_options_of_a_file_and_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "learn.yaml"
    file.write_text(
        "tokenizer: ./sw\ncorpus: sw.txt\nparallel: pairs.tsv\npair_columns: [en, sw]\nset: [dim=3, epochs=1]\n"
        "method: focus\nsteps: 5\ninto: ./full\nno-verify: true\n"
    )
    args = build_parser().parse_args(["learn", "mini", "--out", "o", "--config", str(file), "--steps", "9"])
    add_config(args, learn_command.add_arguments)
    assert (args.mini, args.out, args.tokenizer, args.into) == ("mini", "o", "./sw", "./full")
    assert (args.pair_columns, args.assignments, args.steps) == (["en", "sw"], ["dim=3", "epochs=1"], 9)
    assert args.verify is False
    file.write_text("out: elsewhere\n")
    with pytest.raises(InvalidOptionError, match="'out', which is no option"):
        add_config(args, learn_command.add_arguments)


def test_defaults_in_the_help_are_those_of_python() -> None:
    shown = python_defaults(learn_command.LEARNING, "DEFAULTS")
    assert shown == {"learning_rate": DEFAULTS.learning_rate, "warmup": DEFAULTS.warmup, "evaluations": 0}
    functions = (("building", build_mini_model), ("learning", learn_embeddings))
    for module, function in functions:
        found = python_defaults(f"adaptation.mini_model.{module}", function.__name__)
        parameters = inspect.signature(function).parameters
        assert found
        assert found == {name: parameters[name].default for name in found}
    _, text, _ = call("learn", "--help")
    assert "(default: 0.0007)" in text
    assert "(default: replace)" in text
