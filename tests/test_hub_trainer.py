"""A Trainer's own pushes carry our card, mapping and report: at every save, at the end, by hand; and ours after."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from hf_vocab_extend import VocabExtensionCallback
from hf_vocab_extend.adaptation.publishing import UnwrittenToken
from hf_vocab_extend.adaptation.trainer import VocabExtensionTrainer
from hf_vocab_extend.errors import MissingResourceError
from hf_vocab_extend.hub.card import split_front_matter

from .adapting import extended, trainer_for
from .hub_server import WRITE_TOKEN, Failure, Hub
from .models import build

NAME = "me/trained"
OURS = {"README.md", "vocab_extension.json", "vocab_mapping.safetensors", "tokenizer.json", "model.safetensors"}


def pushing_trainer(folder: Path, kind: type[Trainer] = Trainer, **options):
    """A Trainer with our callback that may push."""
    extension = extended(build("llama", 97, True))
    callback = VocabExtensionCallback(extension, measures=False)
    settings = {"hub_model_id": NAME, "hub_token": WRITE_TOKEN, "max_steps": 2, "save_steps": 1}
    trainer = trainer_for(extension.model, folder / "out", callback, kind=kind, **(settings | options))
    return trainer, extension, callback


def check_card(text: str) -> None:
    """The card is ours, with the repository's name."""
    assert "hf_vocab_extend: begin" in text
    assert f'from_pretrained("{NAME}")' in text
    assert "generated automatically" not in text
    front, _ = split_front_matter(text)
    assert "vocabulary-extension" in front["tags"]
    assert front["library_name"] == "transformers"
    assert front["base_model"] == "org/base-model"


@pytest.mark.parametrize("kind", [Trainer, VocabExtensionTrainer])
def test_push_to_hub_keeps_our_card(kind: type[Trainer], hub: Hub, tmp_path: Path) -> None:
    trainer, extension, _ = pushing_trainer(tmp_path, kind)
    trainer.train()
    trainer.push_to_hub(language="sw", license="mit", tags="swahili", dataset_tags="org/data")
    tree = hub.repos[NAME].branches["main"]
    assert set(tree) >= OURS
    check_card(tree["README.md"].decode())
    front, _ = split_front_matter(tree["README.md"].decode())
    assert (front["language"], front["license"], front["datasets"]) == (["sw"], "mit", ["org/data"])
    assert "swahili" in front["tags"]
    model = AutoModelForCausalLM.from_pretrained(NAME, token=WRITE_TOKEN)
    for name, value in extension.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert AutoTokenizer.from_pretrained(NAME).get_vocab() == extension.tokenizer.get_vocab()


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_push_to_hub_in_the_arguments(strategy: str, hub: Hub, tmp_path: Path) -> None:
    trainer, _, _ = pushing_trainer(tmp_path, push_to_hub=True, hub_strategy=strategy, save_strategy="steps")
    trainer.train()
    if strategy == "end":
        assert hub.repos[NAME].commits == []
        trainer.save_model()
    else:
        check_card(hub.repos[NAME].branches["main"]["README.md"].decode())
    tree = hub.repos[NAME].branches["main"]
    assert set(tree) >= OURS
    check_card(tree["README.md"].decode())
    if strategy == "checkpoint":
        assert "last-checkpoint/model.safetensors" in tree
        assert "last-checkpoint/vocab_extension.json" in tree
    assert "was not trained" not in tree["README.md"].decode()
    # A push on saving is left out by the Trainer while the one before is under way.
    assert json.loads(tree["vocab_extension.json"])["training"]["steps"] in (1, 2)
    trainer.push_to_hub()
    assert json.loads(tree["vocab_extension.json"])["training"]["steps"] == 2
    check_card(tree["README.md"].decode())
    assert "training_args.bin" in tree
    for name, content in tree.items():
        assert WRITE_TOKEN.encode() not in content, name
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or WRITE_TOKEN.encode() not in path.read_bytes(), path


def test_own_prose_on_the_hub_stays(hub: Hub, tmp_path: Path) -> None:
    trainer, _, _ = pushing_trainer(tmp_path)
    trainer.push_to_hub()
    tree = hub.repos[NAME].branches["main"]
    tree["README.md"] = b"---\nlicense: mit\n---\n# Mine\n\nMy own words.\n"
    trainer, _, _ = pushing_trainer(tmp_path / "again")
    trainer.train()
    trainer.push_to_hub()
    card = tree["README.md"].decode()
    assert "My own words." in card
    assert split_front_matter(card)[0]["license"] == "mit"
    check_card(card)


def test_a_card_that_a_trainer_made_is_replaced(hub: Hub, tmp_path: Path) -> None:
    trainer, _, callback = pushing_trainer(tmp_path)
    trainer.remove_callback(callback)
    trainer.push_to_hub()
    tree = hub.repos[NAME].branches["main"]
    assert b"generated automatically" in tree["README.md"]
    trainer, _, _ = pushing_trainer(tmp_path)
    trainer.push_to_hub()
    check_card(tree["README.md"].decode())


def test_a_hub_that_does_not_answer_stops_the_push_not_the_training(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hf_vocab_extend.hub.retries.time.sleep", lambda seconds: None)
    trainer, _, _ = pushing_trainer(tmp_path, push_to_hub=True, save_strategy="steps")
    hub.failures = [Failure("HEAD .*README.md", 503)]
    trainer.train()
    assert "left as it is for now" in caplog.text
    assert WRITE_TOKEN not in caplog.text


def test_a_token_that_is_not_written() -> None:
    token = UnwrittenToken(WRITE_TOKEN)
    assert pickle.loads(pickle.dumps({"token": token})) == {"token": ""}
    assert copy.deepcopy(token) == copy.copy(token) == WRITE_TOKEN
    assert f"Bearer {token}" == f"Bearer {WRITE_TOKEN}"


def test_our_own_push_after_training(hub: Hub, tmp_path: Path) -> None:
    trainer, extension, callback = pushing_trainer(tmp_path)
    trainer.train()
    commit = callback.push_to_hub(NAME, token=WRITE_TOKEN, private=True)
    assert [entry.oid for entry in hub.repos[NAME].commits] == [commit.oid]
    tree = hub.repos[NAME].branches["main"]
    assert set(tree) >= OURS
    assert "training_args.bin" not in tree
    check_card(tree["README.md"].decode())
    assert not any(WRITE_TOKEN.encode() in content for content in tree.values())
    with pytest.raises(MissingResourceError, match="before training has begun"):
        VocabExtensionCallback(measures=False).push_to_hub(NAME)
