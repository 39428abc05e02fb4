"""Interrupted and resumed runs equal unbroken ones; the best model comes back; extensions are found beside models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from hf_vocab_extend import Stage, VocabExtension, VocabExtensionCallback, VocabExtensionTrainer
from hf_vocab_extend.adaptation.locate import locate_extension
from hf_vocab_extend.errors import MissingResourceError, TokenizerMismatchError

from .adapting import N_NEW, copy_of, extended, moved_rows, trainer_for, without_dropout
from .stub_extension import make_extension

QUIET = {"measures": False}


pytestmark = pytest.mark.usefixtures("one_thread")


class _Stop(TrainerCallback):
    """Interrupts after a number of steps, when the checkpoint of that step is written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Interrupt."""
        if state.global_step == self.step:
            raise KeyboardInterrupt


STAGES = {
    "steps": [Stage("new_rows", steps=3), Stage(("embeddings", "last_layers:1"), steps=3, learning_rate=0.5), Stage()],
    "shares": "gradual",
    "tokens": [Stage("new_rows", tokens=30), Stage("head", tokens=40, warmup=0.5), Stage("body")],
}


@pytest.mark.parametrize("stages", STAGES.values(), ids=list(STAGES))
@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_resumed_run_equals_an_unbroken_one(stages: Any, step: int, tmp_path: Path) -> None:
    """In the middle of a stage, and between two."""
    options = {"max_steps": 10, "save_strategy": "steps", "save_steps": step, "lr_scheduler_type": "linear"}
    whole = without_dropout("llama", tied=False)
    callback = VocabExtensionCallback(extended(whole), stages=stages, **QUIET)
    trainer_for(whole, tmp_path / "whole", callback, **options).train()

    first = without_dropout("llama", tied=False)
    one = VocabExtensionCallback(extended(first), stages=stages, **QUIET)
    with pytest.raises(KeyboardInterrupt):
        trainer_for(first, tmp_path / "broken", one, _Stop(step), **options).train()
    second = without_dropout("llama", tied=False)
    two = VocabExtensionCallback(extended(second), stages=stages, **QUIET)
    trainer = trainer_for(second, tmp_path / "broken", two, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "broken" / f"checkpoint-{step}"))
    assert trainer.state.global_step == 10
    assert two.history == callback.history
    assert not moved_rows(second, copy_of(whole))


def test_a_run_that_restores_its_callbacks_resumes_too(tmp_path: Path) -> None:
    """The Trainer then makes callbacks anew from saved arguments: ours has none that it could lose."""
    options = {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "restore_callback_states_from_checkpoint": True,
    }
    models = [without_dropout("llama") for _ in range(2)]
    for model in models:
        callback = VocabExtensionCallback(extended(model), stages=[Stage("new_rows", steps=3), Stage()], **QUIET)
        trainer = trainer_for(model, tmp_path, callback, kind=VocabExtensionTrainer, **options)
        trainer.train(resume_from_checkpoint=None if model is models[0] else str(tmp_path / "checkpoint-2"))
        assert [entry["begin"] for entry in callback.history] == [0, 3]
    assert not moved_rows(models[1], copy_of(models[0]))


def test_a_checkpoint_without_stages_goes_on_in_the_stage_of_its_step(tmp_path: Path) -> None:
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    model = without_dropout("llama")
    trainer_for(model, tmp_path, **options).train()
    again = without_dropout("llama")
    callback = VocabExtensionCallback(extended(again), stages=[Stage("all", steps=1), Stage("new_rows")], **QUIET)
    trainer = trainer_for(again, tmp_path, callback, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [entry["begin"] for entry in callback.history] == [1]
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert set(moved_rows(again, copy_of(trained))) == {"model.embed_tokens.weight"}


def test_the_best_model_may_be_of_an_earlier_stage(tmp_path: Path) -> None:
    model = without_dropout("llama", tied=False)
    options = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    callback = VocabExtensionCallback(extended(model), stages=[Stage("new_rows", steps=2), Stage("head")], **QUIET)
    trainer = trainer_for(
        model, tmp_path, callback, load_best_model_at_end=True, greater_is_better=True, max_steps=4, **options
    )
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text("utf-8"))
    assert state["stateful_callbacks"]["hf_vocab_extend"]["history"] == callback.history
    best = AutoModelForCausalLM.from_pretrained(trainer.state.best_model_checkpoint)
    assert not moved_rows(model, copy_of(best))
    assert all(item.requires_grad for item in model.parameters())


def _saved_extension() -> VocabExtension:
    """A tiny BERT whose report tells its rows."""
    made = make_extension()
    n_rows = made.model.get_input_embeddings().weight.shape[0]
    made.report = replace(made.report, sizes={**made.report.sizes, "target_rows": n_rows})
    return made


def test_the_extension_is_found_where_the_model_is_from(tmp_path: Path) -> None:
    made = _saved_extension()
    made.save_pretrained(tmp_path / "model", verify=False)
    model = type(made.model).from_pretrained(tmp_path / "model")
    found = locate_extension(model)
    assert found.model is model
    assert found.report == made.report
    assert (found.mapping.kinds == made.mapping.kinds).all()
    assert len(found.tokenizer) == len(made.tokenizer)
    callback = VocabExtensionCallback(stages="embeddings_first")
    assert callback.find_extension(model, made.tokenizer).tokenizer is made.tokenizer
    given = VocabExtensionCallback(tmp_path / "model").find_extension(made.model, None)
    assert given.report == made.report
    (tmp_path / "model" / "vocab_mapping.safetensors").unlink()
    with pytest.raises(MissingResourceError, match=r"'model' holds no vocab_mapping.safetensors"):
        locate_extension(model)


def test_a_model_that_was_resized_afterwards_is_refused(tmp_path: Path) -> None:
    made = _saved_extension()
    made.save_pretrained(tmp_path / "model", verify=False)
    model = type(made.model).from_pretrained(tmp_path / "model")
    rows = model.get_input_embeddings().weight.shape[0]
    model.resize_token_embeddings(rows + N_NEW, mean_resizing=False)
    with pytest.raises(TokenizerMismatchError, match=f"{rows + N_NEW} rows and the extension {rows}"):
        locate_extension(model)


def test_a_name_that_is_nowhere_says_what_to_pass() -> None:
    model = without_dropout("llama")
    model.config._name_or_path = "nobody/nothing"
    with pytest.raises(MissingResourceError, match="extension="):
        locate_extension(model)
    assert torch.is_tensor(model.lm_head.weight)
