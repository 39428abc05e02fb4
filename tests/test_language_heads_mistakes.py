"""Options and names that are mistaken, of calls beside those on text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import errors

from hf_vocab_extend import LanguageHeads
from hf_vocab_extend.errors import BaseModelMismatchError, HubError, InvalidOptionError
from hf_vocab_extend.hub.card import render_card, split_front_matter
from hf_vocab_extend.modeling.language_files import LANGUAGE_FILE
from hf_vocab_extend.modeling.storage import is_replaced

from .language_models import EN_SIZE, SW_SIZE, heads, pair, random_ids, word_tokenizer


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folder_of_its_own_loads_in_a_shorter_type(tmp_path: Path, dtype: torch.dtype) -> None:
    both = heads("llama")
    with torch.no_grad():  # just above a tie of bfloat16; float16 rounds it onto the tie, which goes down
        both.model.model.norm.weight.fill_(1 + 2**-8 + 2**-13)
    both.save_pretrained(tmp_path / "out")
    again = LanguageHeads.from_pretrained(tmp_path / "out", dtype=dtype)
    assert again.languages == ("en", "sw")
    assert again.dtype == dtype


def test_a_folder_whose_language_is_of_another_depth(tmp_path: Path) -> None:
    heads("llama").save_pretrained(tmp_path / "out")
    file = tmp_path / "out" / "languages" / "sw" / LANGUAGE_FILE
    text = file.read_text("utf-8")
    structure = text.split('"structure": "')[1][:32]
    file.write_text(text.replace(structure, "0" * 32), "utf-8")
    with pytest.raises(BaseModelMismatchError, match="another architecture"):
        LanguageHeads.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.HFValidationError("bad name"), "has no such repository"),
        (errors.LocalEntryNotFoundError("not cached"), "does not give it"),
        (errors.OfflineModeIsEnabled("offline"), "does not give it"),
    ],
)
def test_a_mistyped_name_is_said_to_be_nowhere(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(HubError, match=rf"'me/swahli' is no folder here, and the Hub {said} \(.*{error}"):
        heads("llama").load_language("me/swahli")
    with pytest.raises(HubError, match="'swahli' is no folder here"):
        LanguageHeads.from_pretrained("swahli")


def test_a_language_that_was_removed_goes_from_the_folder(tmp_path: Path) -> None:
    both = heads("llama")
    both.save_pretrained(tmp_path / "out")
    (tmp_path / "out" / "languages" / "notes").mkdir()
    both.remove_language("sw")
    both.save_pretrained(tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out" / "languages").iterdir()] == ["notes"]
    front, _ = split_front_matter((tmp_path / "out" / "README.md").read_text("utf-8"))
    assert front["language"] == ["en"]
    assert LanguageHeads.from_pretrained(tmp_path / "out").languages == ("en",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model-00001-of-00002.safetensors", True),
        ("languages/sw/language_head.safetensors", True),
        ("languages/sw/tokenizer.json", True),
        ("languages/sw/notes.md", False),
        ("other/tokenizer.json", False),
        ("language_head.safetensors", False),
    ],
)
def test_files_of_an_earlier_push(name: str, expected: bool) -> None:
    assert is_replaced(name) == expected


def test_the_card_says_nothing_about_training_that_it_cannot_know(tmp_path: Path) -> None:
    both = LanguageHeads.from_model(*pair("llama")[:2])
    both.add_language("sw", word_tokenizer(SW_SIZE, "sw"), "mean", fallback="mean")
    report = both._language("sw").report
    assert report is not None
    assert "was not trained" in render_card(report, model_name="sw")
    with torch.no_grad():
        both.model.model.norm.weight.add_(0.5)
    both.save_language("sw", tmp_path / "sw")
    text = (tmp_path / "sw" / "README.md").read_text("utf-8")
    assert "How the rows were made" in text
    assert "was not trained" not in text
    assert "unchanged" not in text


def test_what_is_no_extension() -> None:
    base, tokenizer, _ = pair("llama")
    both = LanguageHeads.from_model(base, tokenizer)
    for extension in (None, 3, base):
        with pytest.raises(InvalidOptionError, match=f"extension is a {type(extension).__name__}"):
            both.add_language("sw", extension)
    assert both.languages == ("en",)


def test_one_language_to_train_by_its_name() -> None:
    both = heads("llama")
    both.freeze_body(train="sw")
    trained = {id(parameter) for parameter in both.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in both.language_parameters("sw")}


def test_nothing_left_to_learn_as_a_tuple() -> None:
    both = heads("llama")
    both.set_language(input="en", output="sw")
    ids = random_ids(min(EN_SIZE, SW_SIZE), 1)
    loss, logits = both(ids, language_ids=torch.zeros_like(ids), labels=ids, return_dict=False)[:2]
    assert loss.item() == 0
    assert logits.shape == (2, 7, SW_SIZE)


def test_an_unknown_option_of_a_push_stops_before_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    both = heads("llama")
    for call in ("save_language", "save_pretrained"):
        monkeypatch.setattr(both, call, lambda *_, **__: pytest.fail("saved"))
    with pytest.raises(InvalidOptionError, match="no option 'privat'. Options: private, token"):
        both.push_language("sw", "me/sw", privat=True)
    with pytest.raises(InvalidOptionError, match="no option 'overwrite'"):
        both.push_to_hub("me/sw", overwrite=True)
