"""The command line: help without cost, defaults of Python, one line per error, and every command on real files."""

from __future__ import annotations

import inspect
import io
import json
import logging
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from hf_vocab_extend import __version__, extend_tokenizer, extend_vocabulary, merge_tokenizers
from hf_vocab_extend.cli import common
from hf_vocab_extend.cli import extend as extend_command
from hf_vocab_extend.cli import grow as grow_command
from hf_vocab_extend.cli import merge as merge_command
from hf_vocab_extend.cli import push as push_command
from hf_vocab_extend.cli.main import COMMANDS, build_parser, main
from hf_vocab_extend.errors import InvalidOptionError
from hf_vocab_extend.hub.push import push_folder
from hf_vocab_extend.plan import build_plan
from hf_vocab_extend.result import VocabExtension

from .factories import swahili, tokenizer

NAMES = [command.name for command in COMMANDS]
EXAMPLES = [example for command in COMMANDS for example in command.examples]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny English encoder with the files of sentence-transformers."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    own = tokenizer("bert-uncased")
    config = BertConfig(
        vocab_size=len(own), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    BertModel(config).save_pretrained(folder)
    own.save_pretrained(folder)
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}]))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Swahili lines as JSON."""
    path = tmp_path_factory.mktemp("corpus") / "sw.jsonl"
    path.write_text("\n".join(json.dumps({"body": line}) for line in swahili(300)))
    return path


def run(capsys: pytest.CaptureFixture[str], *argv: Any) -> tuple[int, str, str]:
    """Run a command; return the exit code, standard output and standard error."""
    code = main([str(item) for item in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_command_has_examples_and_each_parses() -> None:
    assert all(command.examples for command in COMMANDS)
    assert NAMES == [
        "plan",
        "extend",
        "train",
        "grow",
        "merge",
        "align",
        "distill",
        "cut",
        "learn",
        "transplant",
        "eval",
        "fertility",
        "methods",
        "card",
        "push",
        "demo",
    ]
    for example in EXAMPLES:
        words = shlex.split(example)
        assert words[0] == "hf-vocab-extend"
        args = build_parser().parse_args(words[1:])
        assert args.command == words[1]
        assert any(example in command.examples for command in COMMANDS if command.name == args.command)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([name, "--help"] for name in NAMES)], ids=" ".join)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    code = (
        "import sys\nfrom hf_vocab_extend.cli.main import main\ncode = main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'huggingface_hub'} & set(sys.modules)\n"
        "sys.exit(code if not heavy else str(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("examples:" in done.stdout) or (__version__ in done.stdout)


def test_help_of_a_command_shows_its_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        code, out, _ = run(capsys, command.name, "--help")
        assert code == 0
        assert all(example in out for example in command.examples)


FUNCTIONS = [
    ("extend", "extend_vocabulary", extend_vocabulary),
    ("vocab.growing", "extend_tokenizer", extend_tokenizer),
    ("vocab.merging", "merge_tokenizers", merge_tokenizers),
    ("plan", "build_plan", build_plan),
    ("hub.push", "push_folder", push_folder),
    ("result", "save_pretrained", VocabExtension.save_pretrained),
]


@pytest.mark.parametrize(("module", "name", "function"), FUNCTIONS, ids=[item[1] for item in FUNCTIONS])
def test_defaults_in_the_help_are_those_of_python(module: str, name: str, function: Any) -> None:
    defaults = {key: item.default for key, item in inspect.signature(function).parameters.items()}
    shown = common.python_defaults(module, name)
    assert shown
    assert shown == {key: defaults[key] for key in shown}
    simple = (str, int, float, bool, type(None))
    assert set(shown) == {key for key, value in defaults.items() if isinstance(value, simple)}


LEFT_OUT = {  # parameters that the command line has in another form, or that take no file
    extend_vocabulary: {"model", "new_tokenizer", "method", "tokenizer", "corpus", "sources"}
    | {"parallel", "dictionary", "word_vectors", "token_vectors", "helper_model"},
    extend_tokenizer: {"tokenizer", "corpus", "num_new_tokens"},
    merge_tokenizers: {"tokenizer", "other", "corpus", "return_report"},
    push_folder: {"folder", "repo_id", "patience"},
    VocabExtension.save_pretrained: {"self", "save_directory", "extra_files", "language", "card"},
}
OPTIONS = {
    extend_vocabulary: ("extend", extend_command.CALL_OPTIONS),
    extend_tokenizer: ("grow", grow_command.OPTIONS),
    merge_tokenizers: ("merge", merge_command.OPTIONS),
    push_folder: ("push", push_command.OPTIONS),
    VocabExtension.save_pretrained: ("extend", extend_command.FOLDER_OPTIONS),
}


@pytest.mark.parametrize("function", OPTIONS, ids=lambda function: function.__name__)
def test_every_option_of_python_is_one_of_the_command_line(function: Any) -> None:
    command, options = OPTIONS[function]
    assert set(inspect.signature(function).parameters) - LEFT_OUT[function] == set(options)
    parser = build_parser()._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr, index]
    actions = {action.dest: action for action in parser._actions}
    for option in options:
        assert option in actions
        assert actions[option].default == "==SUPPRESS=="  # not given, not passed on


def test_grow_fertility_plan_extend_and_card_in_a_row(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_folder: Path, corpus_file: Path
) -> None:
    corpus = ["--corpus", corpus_file, "--text-column", "body"]
    grown, out_folder = tmp_path / "grown", tmp_path / "out"

    code, out, err = run(capsys, "grow", model_folder, grown, *corpus, "--num-new-tokens", 80, "--format", "json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["added"] == 80
    assert answer["fertility_after"]["tokens_per_word"] < answer["fertility_before"]["tokens_per_word"]
    assert len(AutoTokenizer.from_pretrained(grown)) == answer["tokens"] == len(tokenizer("bert-uncased")) + 80

    code, out, err = run(capsys, "fertility", model_folder, grown, *corpus)
    assert code == 0, err
    assert "tokens per word" in out
    code, out, err = run(capsys, "--format", "json", "fertility", grown, *corpus)
    assert json.loads(out)[0]["tokens_per_word"] == pytest.approx(answer["fertility_after"]["tokens_per_word"])

    code, out, err = run(capsys, "plan", model_folder, grown, "--format", "json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["kinds"]["new"]["count"] == 80
    assert plan["merged"] is False
    code, out, err = run(capsys, "plan", model_folder, grown)
    assert "new" in out
    assert "80" in out

    options = ["--method", "subword", "--language", "sw", "--seed", 3, "--license", "apache-2.0"]
    code, out, err = run(capsys, "extend", model_folder, grown, out_folder, *corpus, *options, "--format", "json")
    assert code == 0, err
    report = json.loads(out)["report"]
    assert (report["method"], report["seed"], report["languages"]) == ("subword", 3, ["sw"])
    assert AutoModel.from_pretrained(out_folder).get_input_embeddings().weight.shape[0] == plan["target"]["ids"]
    assert (out_folder / "1_Pooling" / "config.json").is_file()
    assert (out_folder / "modules.json").is_file()

    readme = out_folder / "README.md"
    readme.write_text(readme.read_text() + "\nMy own words.\n")
    code, out, err = run(capsys, "card", out_folder, "--language", "swh")
    assert code == 0, err
    assert "swh" in readme.read_text()
    assert "My own words." in readme.read_text()
    code, out, err = run(capsys, "card", out_folder, "--language", "swh", "--stdout")
    assert out.rstrip() == readme.read_text().rstrip()


def test_merge_takes_a_tokenizer_or_a_word_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_folder: Path
) -> None:
    (tmp_path / "words.txt").write_text("kitabu\nwatoto\n")
    words = ["merge", model_folder, tmp_path / "words.txt", tmp_path / "a", "--words", "--format", "json"]
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert json.loads(out)["added"] == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "a").tokenize("kitabu watoto") == ["kitabu", "watoto"]
    tokenizer("gpt2").save_pretrained(tmp_path / "other")
    code, out, err = run(capsys, "merge", model_folder, tmp_path / "other", tmp_path / "b", "--max-new-tokens", 20)
    assert code == 0, err
    assert "already present" in out


def test_extend_merges_a_foreign_tokenizer_and_takes_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_folder: Path
) -> None:
    tokenizer("gpt2").save_pretrained(tmp_path / "other")
    data = "\n".join(swahili(50)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    argv = ["extend", model_folder, tmp_path / "other", tmp_path / "out", "--corpus", "-", "--method", "mean"]
    code, out, err = run(capsys, *argv)
    assert code == 0, err
    assert "Saved to" in out
    code, out, err = run(capsys, "plan", model_folder, tmp_path / "other")
    assert "merged into the source" in out
    code, out, err = run(capsys, "plan", model_folder, tmp_path / "other", "--mode", "replace")
    assert "mode replace" in out


def test_methods_shows_every_method_with_the_defaults_of_its_config(capsys: pytest.CaptureFixture[str]) -> None:
    from hf_vocab_extend.methods import get_method_class, list_methods

    code, out, _ = run(capsys, "methods", "--format", "json")
    assert code == 0
    data = json.loads(out)
    assert [item["name"] for item in data] == list_methods()
    for item in data:
        config = get_method_class(item["name"]).config_class().to_dict()
        assert {name: option["default"] for name, option in item["options"].items()} == json.loads(json.dumps(config))
    code, out, _ = run(capsys, "methods", "focus")
    assert "corpus" in out
    assert "temperature" in out


def test_push_passes_on_what_was_given(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def fake(folder: str, repo_id: str, **options: Any) -> Any:
        seen.append((folder, repo_id, options))
        repo_url = SimpleNamespace(repo_id=repo_id)
        return SimpleNamespace(commit_url="https://example.org/c", pr_url=None, oid="abc", repo_url=repo_url)

    monkeypatch.setattr("hf_vocab_extend.hub.push.push_folder", fake)
    assert run(capsys, "push", "folder", "me/x")[0] == 0
    code, out, err = run(capsys, "push", "folder", "me/x", "--private", "--token", "SECRET", "--create-pr")
    assert "SECRET" not in out + err
    run(capsys, "push", "folder", "me/x", "--no-private", "--revision", "dev", "--commit-message", "text")
    run(capsys, "push", "folder", "me/x", "--public", "--message", "text")
    _, out, _ = run(capsys, "push", "folder", "me/x", "--format", "json")
    assert json.loads(out) == {
        "repo_id": "me/x",
        "commit_url": "https://example.org/c",
        "pr_url": None,
        "oid": "abc",
    }
    assert [item[2] for item in seen] == [
        {},
        {"private": True, "token": "SECRET", "create_pr": True},
        {"private": False, "revision": "dev", "commit_message": "text"},
        {"private": False, "commit_message": "text"},
        {},
    ]


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*args: Any, **options: Any) -> Any:
        warnings.warn("first\nsecond", UserWarning, stacklevel=2)
        logging.getLogger("hf_vocab_extend.hub").warning("third")
        raise KeyboardInterrupt("nothing was sent")

    monkeypatch.setattr("hf_vocab_extend.hub.push.push_folder", warn)
    shown, handlers = warnings.showwarning, list(logging.getLogger("hf_vocab_extend").handlers)
    code, _, err = run(capsys, "push", "folder", "me/x")
    assert code == 130
    assert err.splitlines() == ["warning: first second", "warning: third", "nothing was sent"]
    assert warnings.showwarning is shown
    assert logging.getLogger("hf_vocab_extend").handlers == handlers


BAD_CALLS = {
    "no model": (["extend", "{tmp}/none", "{model}", "{tmp}/out"], 1, "could be loaded from"),
    "no corpus": (["fertility", "{model}", "--corpus", "{tmp}/none.txt"], 1, "no file or folder"),
    "not utf-8": (["fertility", "{model}", "--corpus", "{tmp}/latin.txt"], 1, "line 1, byte 2 is 0xf1"),
    "full folder": (["extend", "{model}", "{model}", "{tmp}"], 1, "is not empty"),
    "unknown method": (["extend", "{model}", "{model}", "{tmp}/out", "--method", "focsu"], 1, "Did you mean 'focus'"),
    "no resource": (["extend", "{model}", "{model}", "{tmp}/out", "--method", "focus"], 1, "needs corpus="),
    "unknown option": (
        ["extend", "{model}", "{model}", "{tmp}/out", "--method", "focus", "--set", "dims=3"],
        1,
        "'dim",
    ),
    "option alone": (["extend", "{model}", "{model}", "{tmp}/out", "--set", "dim=3"], 1, "name it with --method"),
    "no sign": (["extend", "{model}", "{model}", "{tmp}/out", "--method", "focus", "--set", "dim"], 1, "key=value"),
    "broken config": (
        ["extend", "{model}", "{model}", "{tmp}/out", "--config", "{tmp}/latin.txt"],
        1,
        "cannot be read",
    ),
    "no .model": (["plan", "{model}", "{tmp}/none.model"], 1, "There is no file"),
    "broken json": (["plan", "{model}", "{tmp}/broken.json"], 1, "No tokenizer could be loaded"),
    "no report": (["card", "{model}"], 1, "holds no vocab_extension.json"),
    "no folder": (["push", "{tmp}/none", "me/x"], 1, "holds no config.json"),
    "unknown command": (["grwo"], 2, "invalid choice"),
    "missing argument": (["grow", "{model}"], 2, "required"),
    "wrong type": (["grow", "{model}", "{tmp}/out", "--corpus", "x", "--num-new-tokens", "many"], 2, "invalid int"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls_are_one_line_and_a_hint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_folder: Path, case: str
) -> None:
    (tmp_path / "latin.txt").write_bytes("ma\xf1".encode("latin-1"))
    (tmp_path / "broken.json").write_text("{")
    argv, expected, message = BAD_CALLS[case]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(capsys, *(item.format(tmp=tmp_path, model=model_folder) for item in argv))
    assert code == expected
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before
    if expected == 1:
        error, hint = [line for line in err.splitlines() if line.startswith(("error: ", "hint: "))]
        assert message in error
        assert argv[0] in hint


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, _, err = run(capsys, "card", tmp_path, "--debug")
    assert "Traceback" in err
    assert "InvalidOptionError" in err


def test_the_output_folder_is_checked_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (grow_command, merge_command, extend_command):
        monkeypatch.setattr(module, "load_tokenizer", lambda *args, **options: pytest.fail("loaded"))
    (tmp_path / "file.txt").write_text("maji\n")
    common_end = ["--corpus", tmp_path / "file.txt"]
    for argv in (
        ["grow", "model", tmp_path, "--num-new-tokens", 5],
        ["merge", "model", "other", tmp_path],
        ["extend", "model", "other", tmp_path],
    ):
        code, _, err = run(capsys, *argv, *common_end)
        assert code == 1
        assert "is not empty" in err


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "Interrupted."),
        (RuntimeError("odd"), 1, "error: unexpected RuntimeError: odd"),
        (InvalidOptionError("first\nsecond"), 1, "error: first second"),
    ],
)
def test_exit_codes_of_what_a_command_raises(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, message: str
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise raised

    monkeypatch.setattr("hf_vocab_extend.hub.push.push_folder", fail)
    found, out, err = run(capsys, "push", "folder", "me/x")
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("method", "file", "assignments", "expected"),
    [
        (None, None, [], None),
        ("focus", None, [], "focus"),
        (None, {"method": "subword"}, [], "subword"),
        ("focus", {"dim": 50}, ["epochs=2"], {"dim": 50, "epochs": 2}),
        (None, {"method": "focus", "dim": 50}, ["dim=60"], {"dim": 60}),
    ],
)
def test_methods_by_file_and_by_assignment(
    tmp_path: Path, method: str | None, file: dict[str, Any] | None, assignments: list[str], expected: Any
) -> None:
    path = None
    if file is not None:
        path = tmp_path / "method.json"
        path.write_text(json.dumps(file))
    found = common.method_config(method, path and str(path), assignments)
    if isinstance(expected, dict):
        assert {key: getattr(found, key) for key in expected} == expected
    else:
        assert found == expected


def test_a_closed_pipe_is_no_traceback(model_folder: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m hf_vocab_extend.cli.main methods --format json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("[")
    assert "Traceback" not in done.stderr
