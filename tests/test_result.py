"""Saving: whole or not at all, verified by loading again, and refused before any work where it cannot succeed."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
)

from hf_vocab_extend.adaptation.cost import Cost
from hf_vocab_extend.adaptation.mini_model.learning import LearnedEmbeddings
from hf_vocab_extend.adaptation.mini_model.post_training import MiniTraining
from hf_vocab_extend.adaptation.training import TrainingRun
from hf_vocab_extend.errors import InvalidOptionError, OutputFolderError
from hf_vocab_extend.mapping import TokenMapping
from hf_vocab_extend.report import ExtensionReport

from .factories import tokenizer
from .stub_extension import make_bert, make_extension, make_report, saved_with
from .tiny_models import MODELS, make_llama


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_folder_loads_as_the_same(name: str, tmp_path: Path) -> None:
    make, auto = MODELS[name]
    model, own = make()
    extension = saved_with(model, own, tmp_path / "out")
    loaded = auto.from_pretrained(tmp_path / "out")
    assert type(loaded) is type(model)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Watoto 12 walisoma  kitabu!"
    assert again(text)["input_ids"] == own(text)["input_ids"]
    assert (
        ExtensionReport.from_json((tmp_path / "out" / "vocab_extension.json").read_text("utf-8")) == extension.report
    )
    mapping = TokenMapping.load(tmp_path / "out" / "vocab_mapping.safetensors")
    assert mapping.counts() == extension.mapping.counts()
    assert (tmp_path / "out" / "README.md").is_file()
    assert sorted(os.listdir(tmp_path)) == ["out"]


def test_a_fresh_process_gets_equal_outputs(tmp_path: Path) -> None:
    model = make_bert()
    saved_with(model, tokenizer("bert-uncased"), tmp_path / "out")
    code = (
        "import torch, transformers as t\n"
        "m = t.AutoModelForMaskedLM.from_pretrained('out')\n"
        "x = t.AutoTokenizer.from_pretrained('out')('Habari ya leo', return_tensors='pt')\n"
        "torch.save((x['input_ids'], m(**x).logits), 'logits.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    ids, logits = torch.load(tmp_path / "logits.pt")
    assert ids.tolist() == tokenizer("bert-uncased")(["Habari ya leo"])["input_ids"]
    with torch.no_grad():
        # Sums of another number of threads differ in the last bits.
        assert torch.allclose(model(ids).logits, logits, rtol=0, atol=1e-6)


def test_the_class_name_is_one_that_transformers_4_and_5_know(tmp_path: Path) -> None:
    saved_with(make_bert(), tokenizer("bert-uncased"), tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["model_input_names"] == tokenizer("bert-uncased").model_input_names


def test_a_native_tokenizer_class_keeps_its_inputs(tmp_path: Path) -> None:
    saved_with(make_bert(), tokenizer("bert-uncased"), tmp_path / "first")
    settings = json.loads((tmp_path / "first" / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if key != "model_input_names"}
    (tmp_path / "first" / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "BertTokenizer"})
    )
    native = AutoTokenizer.from_pretrained(tmp_path / "first")
    assert type(native).__name__ == "BertTokenizer"
    saved_with(make_bert(), native, tmp_path / "second")
    again = AutoTokenizer.from_pretrained(tmp_path / "second")
    assert again("a b", "c").keys() == native("a b", "c").keys()
    assert again("Habari", "Yako").data == native("Habari", "Yako").data
    assert str(tmp_path) not in (tmp_path / "second" / "tokenizer_config.json").read_text()


def test_shards(tmp_path: Path) -> None:
    model = make_llama(tokenizer("llama3"))
    saved_with(model, tokenizer("llama3"), tmp_path / "out", max_shard_size="20KB")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    saved_with(model, tokenizer("llama3"), tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").glob("model*")] == ["model.safetensors"]


def test_extra_files_and_their_bad_input(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    files = {"modules.json": tmp_path / "modules.json", "1_Pooling/config.json": b"{}"}
    make_extension().save_pretrained(tmp_path / "out", extra_files=files)
    assert (tmp_path / "out" / "modules.json").read_text() == "[]"
    assert (tmp_path / "out" / "1_Pooling" / "config.json").read_text() == "{}"
    for name, content in {"../x": b"", "/x": b"", "": b"", "README.md": b"", "gone": tmp_path / "gone"}.items():
        with pytest.raises(InvalidOptionError, match="extra_files"):
            make_extension().save_pretrained(tmp_path / "bad", extra_files={name: content})
    with pytest.raises(InvalidOptionError, match=r"config\.json"):
        make_extension().save_pretrained(tmp_path / "bad", extra_files={"config.json": b"{}"})
    assert not (tmp_path / "bad").exists()


def test_overwrite_keeps_other_files_prose_and_keys(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    make_extension().save_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "vocab.txt").write_text("of an older tokenizer")
    card = (folder / "README.md").read_text("utf-8")
    card = card.replace("---\n\n#", "author: A. N. Other\n---\n\n#").replace("# out", "# My title\n\nMy words.")
    (folder / "README.md").write_text(card + "\n## After\n\nMore words.\n", "utf-8")
    make_extension(languages=("ha",)).save_pretrained(folder, overwrite=True)
    text = (folder / "README.md").read_text("utf-8")
    for own in ("author: A. N. Other", "# My title", "My words.", "## After", "More words.", "- ha"):
        assert own in text, own
    assert text.count("hf_vocab_extend: begin") == 1
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "vocab.txt").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_two_saves_are_the_same_bytes(tmp_path: Path) -> None:
    extension = make_extension()
    extension.save_pretrained(tmp_path / "out")
    first = contents(tmp_path / "out")
    extension.save_pretrained(tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out") == first


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the model is written at all."""

    def refuse(*arguments, **options) -> None:
        raise AssertionError("the model was written before the folder was checked")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", refuse)


def test_a_folder_that_is_not_empty_is_refused_before_any_work(tmp_path: Path, no_work: None) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputFolderError, match=r"not empty.*overwrite=True"):
        make_extension().save_pretrained(tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"x"}


@pytest.mark.parametrize("path", ["file", "file/below", "file/below/deep"])
def test_a_file_in_the_way_is_refused_before_any_work(path: str, tmp_path: Path, no_work: None) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputFolderError, match="'file' is a file"):
        make_extension().save_pretrained(tmp_path / path, overwrite=True)
    assert contents(tmp_path) == {"file": b"x"}


@pytest.mark.parametrize(
    "options", [{"card": {"licence": "mit"}}, {"extra_files": {"../x": b""}}, {"card": {"no_such": 1}}]
)
def test_bad_options_are_refused_before_any_work(options: dict, tmp_path: Path, no_work: None) -> None:
    with pytest.raises(InvalidOptionError):
        make_extension().save_pretrained(tmp_path / "out", **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("own", [b"---\na: [\n---\n", b"caf\xe9"])
def test_a_card_that_cannot_be_kept_is_refused_before_any_work(own: bytes, tmp_path: Path, no_work: None) -> None:
    (tmp_path / "README.md").write_bytes(own)
    with pytest.raises(InvalidOptionError, match="README"):
        make_extension().save_pretrained(tmp_path, overwrite=True)
    assert contents(tmp_path) == {"README.md": own}


def test_line_breaks_of_a_card_stay(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"# Mine\r\n\r\nWords.\r\n")
    make_extension().save_pretrained(tmp_path, overwrite=True)
    text = (tmp_path / "README.md").read_bytes()
    assert b"Words.\r\n" in text
    assert text.count(b"\n") == text.count(b"\r\n")


def test_a_full_disk_is_refused_before_any_work(
    tmp_path: Path, no_work: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 2**20))
    with pytest.raises(OutputFolderError, match=r"1 MiB free"):
        make_extension().save_pretrained(tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """A folder that this process may read and not write to, also when the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


@pytest.mark.parametrize("below", ["", "new", "new/deep"])
def test_a_read_only_folder_is_refused_before_any_work(below: str, no_work: None, read_only_folder: Path) -> None:
    extension = make_extension()
    with pytest.raises(OutputFolderError, match="cannot be written to"):
        extension.save_pretrained(read_only_folder / below)
    assert os.listdir(read_only_folder) == []


@contextmanager
def small_files() -> Iterator[None]:
    """Let every write beyond 4 KiB fail, as on a disk that fills up halfway; pytest's own log must stay outside."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    extension = make_extension()
    with pytest.raises(OutputFolderError, match="nothing was left"), small_files():
        extension.save_pretrained(tmp_path / "out")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["save_tokenizer", "verify_folder", "write_extra_files"])
def test_an_interrupted_save_leaves_an_existing_folder_untouched(
    where: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_extension().save_pretrained(tmp_path)
    before = contents(tmp_path)

    def stop(*arguments) -> None:
        raise error

    monkeypatch.setattr(f"hf_vocab_extend.result.{where}", stop)
    with pytest.raises(type(error)):
        make_extension(languages=("ha",)).save_pretrained(tmp_path, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_a_failure_while_files_move_moves_them_back(
    after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_extension().save_pretrained(tmp_path)
    before = contents(tmp_path)
    real, calls = os.replace, []

    def fail_once(source, target) -> None:
        calls.append(target)
        if len(calls) == after + 1:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OutputFolderError, match="No space left"):
        make_extension(languages=("ha",)).save_pretrained(tmp_path, overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    saved_with(make_llama(tokenizer("llama2")).to(dtype), tokenizer("llama2"), tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype is dtype


def test_licence_of_a_local_base_model_and_no_other(tmp_path: Path) -> None:
    make_bert().save_pretrained(tmp_path / "base")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    make_extension(loaded).save_pretrained(tmp_path / "plain")
    assert "license" not in (tmp_path / "plain" / "README.md").read_text()
    front = "---\nlicense: other\nlicense_name: a\nlicense_link: https://example.org/l\nlanguage: en\n---\n# Base\n"
    (tmp_path / "base" / "README.md").write_text(front)
    make_extension(loaded).save_pretrained(tmp_path / "stated")
    card = (tmp_path / "stated" / "README.md").read_text()
    for line in ("license: other", "license_name: a", "license_link: https://example.org/l"):
        assert line in card
    text = (tmp_path / "stated" / "README.md").read_text().replace("license: other", "license: mine")
    (tmp_path / "stated" / "README.md").write_text(text)
    make_extension(loaded).save_pretrained(tmp_path / "stated", overwrite=True)
    assert "license: mine" in (tmp_path / "stated" / "README.md").read_text()
    make_extension(loaded).save_pretrained(tmp_path / "given", license="mit")
    card = (tmp_path / "given" / "README.md").read_text()
    assert "license: mit" in card
    assert "license_name" not in card


def test_nothing_published_names_this_machine(tmp_path: Path) -> None:
    make_bert().save_pretrained(tmp_path / "base")
    tokenizer("bert-uncased").save_pretrained(tmp_path / "base")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "base")
    own = AutoTokenizer.from_pretrained(tmp_path / "base")
    report = make_report(base_model=str(tmp_path / "base"), notes=(f"read {tmp_path}/corpus.txt",))
    extension = make_extension(model, own)
    extension.report = report
    extension.save_pretrained(tmp_path / "out")
    for name, content in contents(tmp_path / "out").items():
        assert str(tmp_path).encode() not in content, name


def test_a_short_repr() -> None:
    assert repr(make_extension(make_bert())).splitlines() == [
        "<VocabExtension",
        f"  BertForMaskedLM, 1 layer, {make_bert().config.vocab_size} x 16 token rows",
        "  mode extend for sw, method subword, fallback subword",
        "  480 -> 500 tokens; rows: same 480, method 17, fallback 2, random 1>",
    ]
    run = TrainingRun(make_bert(), tokenizer("bert-uncased"), None, {"train_loss": 2.5}, [{}] * 9999, True, 3)
    assert repr(run).splitlines()[2:] == ["  3 steps, measured 9999 times", "  loss in training 2.5000>"]
    cost = Cost(2_000, 1.0, None, 64, 3)
    extension = make_extension(make_bert())
    parts = (
        dataclasses.replace(run, extension=extension),
        LearnedEmbeddings(extension, run, cost),
        MiniTraining(run, None, cost),
    )
    for part in parts:
        assert 2 < len(repr(part).splitlines()) <= 7
        assert len(repr(part)) < 500
    assert all(str(cost) in repr(part) for part in parts[1:])
    assert "Linear" in repr(make_extension(torch.nn.Linear(2, 3))), "a model without a config does no harm"
