"""Training the new layers of a mini-model: what moves, by how much, what is measured, and what is refused."""

from __future__ import annotations

import copy
import gc
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from hf_vocab_extend import bits_per_byte
from hf_vocab_extend.adaptation.host import running_trainer
from hf_vocab_extend.adaptation.mini_model.alignment import check_alignment
from hf_vocab_extend.adaptation.mini_model.building import build_mini_model
from hf_vocab_extend.adaptation.mini_model.post_training import MiniModelCallback, train_mini_model
from hf_vocab_extend.adaptation.mini_model.record import read_record, write_record
from hf_vocab_extend.adaptation.training import train_language_model
from hf_vocab_extend.errors import (
    BaseModelMismatchError,
    InvalidOptionError,
    MissingResourceError,
    UnsupportedModelError,
    VerificationError,
    VocabExtendWarning,
)

from .factories import english, tokenizer
from .models import build
from .tiny_models import n_rows, special_ids

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = {"bert": "bert-uncased", "modernbert": "bert-uncased", "gpt2": "gpt2", "llama": "llama3"}
TRAINED = {
    "bert": ("bert.encoder.layer.2.", "cls.predictions.transform."),
    "modernbert": ("model.layers.2.", "model.final_norm.", "head."),
    "gpt2": ("transformer.h.2.", "transformer.ln_f."),
    "llama": ("model.layers.2.", "model.norm."),
}
CPU = {"use_cpu": True, "disable_tqdm": True}
SHORT = {"steps": 3, "block_size": 24, "held_out": 4, "batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.1}
LINES = english(60)


@pytest.fixture(autouse=True)
def _quick_collection() -> Iterator[None]:
    """The Trainer collects garbage at each run, which takes longer than a few steps."""
    gc.freeze()
    yield
    gc.unfreeze()


def full(name: str, seed: int = 0) -> tuple[PreTrainedModel, Any]:
    """A model of three layers, biases and norms with values of their own."""
    own = tokenizer(OWN[name])
    sizes = {"n_layer": 3, "n_positions": 64} if name == "gpt2" else {"num_hidden_layers": 3}
    sizes |= {} if name == "gpt2" else {"max_position_embeddings": 64}
    model = build(name, n_rows(own), **sizes, **special_ids(own))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return model, own


def values(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: item.detach().clone() for name, item in model.named_parameters()}


def moved(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, item in model.named_parameters() if not torch.equal(item, before[name])}


def flags(model: torch.nn.Module) -> dict[str, bool]:
    return {name: item.requires_grad for name, item in model.named_parameters()}


def batches(own: Any, n: int = 8) -> list[dict[str, torch.Tensor]]:
    """Texts of twelve tokens, every one of which but the first is to be predicted."""
    ids = [own(line)["input_ids"][:12] for line in LINES]
    rows = [torch.tensor(row) for row in ids if len(row) == 12][:n]
    labels = [torch.cat([torch.tensor([-100]), row[1:]]) for row in rows]
    return [
        {"input_ids": row, "labels": own_labels, "attention_mask": torch.ones_like(row)}
        for row, own_labels in zip(rows, labels, strict=True)
    ]


def trainer_of(model: Any, own: Any, folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    optimizers = options.pop("optimizers", (None, None))
    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "weight_decay": 0.1}
    settings |= {"save_strategy": "no", "report_to": "none", "lr_scheduler_type": "constant", **CPU}
    data = batches(own)
    return Trainer(
        model=model,
        args=TrainingArguments(folder, **(settings | options)),
        train_dataset=data,
        eval_dataset=data[:2],
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


@pytest.mark.parametrize("name", OWN)
def test_new_layers_train_and_what_is_shared_stays_bitwise(name: str, tmp_path: Path) -> None:
    model, own = full(name)
    mini = build_mini_model(model, 2, 1)
    before, whole, flags_before = values(mini), values(model), flags(mini)
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state())  # noqa: NPY002
    trained = train_mini_model(mini, LINES, tmp_path, model=model, tokenizer=own, training_arguments=CPU, **SHORT)
    expected = {key for key in before if key.startswith(TRAINED[name])}
    assert moved(mini, before) == expected
    assert moved(model, whole) == set()
    assert flags(mini) == flags_before == {key: key in expected for key in before}
    assert all(flags(model).values())
    assert not any(module.training for module in mini.modules())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), states[2])
    assert list(tmp_path.iterdir()) == []
    assert (trained.model, trained.run.steps, trained.cost.steps) == (mini, 3, 3)
    assert trained.alignment.mini.texts == 4
    assert "_masked_position_hooks" not in vars(mini)
    assert mini.config.use_cache == model.config.use_cache if hasattr(model.config, "use_cache") else True


def test_the_alignment_is_that_of_both_models_on_the_texts(tmp_path: Path) -> None:
    model, own = full("llama")
    mini, texts = build_mini_model(model, 2, 1), english(70)[60:]
    trained = train_mini_model(
        mini, LINES, tmp_path, model=model, tokenizer=own, texts=texts, training_arguments=CPU, **SHORT
    )
    small, large = (bits_per_byte(each, own, texts).bits_per_byte for each in (mini, model))
    assert trained.alignment.mini.bits_per_byte == small
    assert trained.alignment.full.bits_per_byte == large
    assert trained.alignments == [
        {"step": 3, "bits_per_byte_mini": small, "bits_per_byte_full": large, "alignment_gap": small - large}
    ]


def test_a_mini_model_learns_text(tmp_path: Path) -> None:
    model, own = full("llama")
    mini, text = build_mini_model(model, 2, 1), english(40)[:12]
    before = check_alignment(mini, model, own, text).gap
    options = SHORT | {"steps": 40, "learning_rate": 2e-2, "held_out": 0, "imitate": False}
    trained = train_mini_model(
        mini, text, tmp_path, model=model, tokenizer=own, texts=text, training_arguments=CPU, **options
    )
    assert trained.alignment.gap < before - 0.2


def test_without_a_full_model_nothing_is_measured(tmp_path: Path) -> None:
    model, own = full("bert")
    trained = train_mini_model(
        build_mini_model(model, 2, 1), LINES, tmp_path, tokenizer=own, training_arguments=CPU, **SHORT
    )
    assert trained.alignment is None
    assert trained.alignments == []


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_step_is_that_of_the_whole_models_gradient(name: str, tmp_path: Path) -> None:
    model, own = full(name)
    mini = build_mini_model(model, 2, 1)
    mini.eval()
    for module in mini.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for field in ("attention_probs_dropout_prob", "attn_pdrop"):
        setattr(mini.config, field, 0.0)
    twin = copy.deepcopy(mini)
    for parameter in twin.parameters():
        parameter.requires_grad_(True)
    data = batches(own, 8)
    ids = torch.stack([one["input_ids"] for one in data])
    logits = twin(input_ids=ids).logits
    given = logits[:, 1:] if name == "bert" else logits[:, :-1]
    chosen = torch.log_softmax(given, -1).gather(-1, ids[:, 1:].unsqueeze(-1))
    loss = -chosen.mean()
    loss.backward()
    before = values(mini)
    options = {"max_steps": 1, "per_device_train_batch_size": 8, "optim": "sgd", "weight_decay": 0.0}
    trainer = trainer_of(mini, own, tmp_path, MiniModelCallback(model), max_grad_norm=0.0, **options)
    assert trainer.train().training_loss == pytest.approx(loss.item(), rel=1e-5)
    for key, now in mini.named_parameters():
        step = 1e-2 * twin.get_parameter(key).grad if key.startswith(TRAINED[name]) else torch.zeros_like(now)
        torch.testing.assert_close(before[key] - now, step, rtol=1e-3, atol=1e-7)


def test_a_mini_model_that_was_loaded_trains_as_the_one_that_was_built(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 2, 1)
    mini.save_pretrained(tmp_path / "mini")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "mini")
    before = values(loaded)
    for each in (mini, loaded):
        trainer = trainer_of(each, own, tmp_path, MiniModelCallback(model))
        trainer.train()
        held = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
        assert held == len([key for key in before if key.startswith(TRAINED["bert"])])
    assert moved(loaded, before) == {key for key in before if key.startswith(TRAINED["bert"])}
    assert moved(loaded, values(mini)) == set()
    assert all(flags(loaded).values())  # as they were


def test_alignment_is_measured_at_evaluations_and_logged(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 2, 1)
    callback = MiniModelCallback(model, texts=LINES[:3], tokenizer=own, passes=1)
    options = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 5, "logging_strategy": "no"}
    trainer = trainer_of(mini, own, tmp_path, callback, **options)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_alignment_gap" in entry]
    assert [entry["step"] for entry in callback.alignments] == [2, 4, 5]
    assert [entry["step"] for entry in logged] == [2, 4, 5]
    assert [entry["eval_alignment_gap"] for entry in logged] == [each["alignment_gap"] for each in callback.alignments]
    assert len({entry["bits_per_byte_mini"] for entry in callback.alignments}) == 3
    assert callback.alignment == check_alignment(mini, model, own, LINES[:3], passes=1)
    trainer.evaluate()  # after the run, nothing is measured
    assert len(callback.alignments) == 3


def test_measuring_leaves_training_as_it_is(tmp_path: Path) -> None:
    model, own = full("bert")
    results = []
    for texts in (None, LINES[:3]):
        mini = build_mini_model(model, 2, 1)
        callback = MiniModelCallback(model, texts=texts, tokenizer=own, passes=1)
        trainer_of(mini, own, tmp_path, callback, eval_strategy="steps", eval_steps=1).train()
        results.append(mini)
    assert moved(results[0], values(results[1])) == set()


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    model, own = full("bert")
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = build_mini_model(model, 2, 1)
    trainer_of(whole, own, tmp_path, MiniModelCallback(model), **options).train()
    part, before = build_mini_model(model, 2, 1), values(model)
    resumed = trainer_of(part, own, tmp_path, MiniModelCallback(model), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert moved(part, values(whole)) == set()
    assert moved(model, before) == set()


def test_a_checkpoint_of_another_model_is_not_written_into_the_full_model(tmp_path: Path) -> None:
    """The Trainer loads in place; bottom layers that were trained on since, under frozen tables, would be lost."""
    model, own = full("bert")
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer_of(build_mini_model(model, 2, 1), own, tmp_path, MiniModelCallback(model), **options).train()
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.bias.add_(1)
    mini, before = build_mini_model(model, 2, 1), values(model)
    resumed = trainer_of(mini, own, tmp_path, MiniModelCallback(model), **options | {"max_steps": 4})
    with pytest.raises(BaseModelMismatchError, match="output.dense.bias"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert moved(model, before) == set()
    shared = dict(model.named_parameters())
    apart = [name for name, item in mini.named_parameters() if item.data_ptr() != shared[name].data_ptr()]
    assert all(name.startswith(("bert.encoder.layer.2.", "cls.predictions.transform.")) for name in apart)


def test_saving_keeps_the_record(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 2, 1)
    options = SHORT | {"steps": 1, "held_out": 0}
    trained = train_mini_model(mini, LINES, tmp_path / "work", tokenizer=own, training_arguments=CPU, **options)
    trained.save_pretrained(tmp_path / "out")
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert read_record(loaded) == read_record(mini)
    assert moved(loaded, values(mini)) == set()


class Meddler(TrainerCallback):
    """Does something after the first step."""

    def __init__(self, what: Any) -> None:
        self.what = what

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Do it."""
        self.what(kwargs["model"])


def test_what_is_shared_and_moves_is_told(tmp_path: Path) -> None:
    model, own = full("gpt2")
    mini = build_mini_model(model, 2, 1)
    before = flags(mini)
    meddler = Meddler(lambda it: it.transformer.h[1].mlp.c_fc.bias[3:4].add_(1e-6))
    with pytest.raises(VerificationError, match=r"1 parameters .* moved \(transformer.h.1.mlp.c_fc.bias"):
        trainer_of(mini, own, tmp_path, meddler, MiniModelCallback(model)).train()
    assert flags(mini) == before


def test_flags_come_back_after_an_error(tmp_path: Path) -> None:
    model, own = full("gpt2")
    mini = build_mini_model(model, 2, 1)
    mini.requires_grad_(True)

    def fail(it: Any) -> None:
        assert not it.transformer.wte.weight.requires_grad
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer_of(mini, own, tmp_path, Meddler(fail), MiniModelCallback(model)).train()
    assert all(flags(mini).values())


def test_an_optimizer_over_what_is_shared_is_refused(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 2, 1)
    mini.requires_grad_(True)
    before = values(mini)
    late = trainer_of(mini, own, tmp_path)
    late.add_callback(MiniModelCallback(model))
    optimizer = torch.optim.AdamW(mini.parameters(), lr=1e-2)
    given = trainer_of(mini, own, tmp_path, MiniModelCallback(model), optimizers=(optimizer, None))
    mini.requires_grad_(True)
    for trainer in (late, given):
        with pytest.raises(InvalidOptionError, match=r"holds \d+ parameters that the mini-model shares"):
            trainer.train()
    assert moved(mini, before) == set()
    assert all(flags(mini).values())


def test_sharded_weights_are_refused(tmp_path: Path) -> None:
    model, own = full("bert")

    class Sharded(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """Say what a launcher would."""
            running_trainer().is_fsdp_enabled = True

    trainer = trainer_of(build_mini_model(model, 2, 1), own, tmp_path, Sharded(), MiniModelCallback(model))
    with pytest.raises(InvalidOptionError, match="without FSDP"):
        trainer.train()


def test_only_a_mini_model_of_this_model_trains(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 2, 1)
    with pytest.raises(UnsupportedModelError, match="build_mini_model"):
        trainer_of(model, own, tmp_path, MiniModelCallback(model))
    other, _ = full("bert", seed=1)
    with pytest.raises(BaseModelMismatchError, match=r"\d+ of \d+ parameters .* differ"):
        trainer_of(mini, own, tmp_path, MiniModelCallback(other))
    joint = copy.deepcopy(mini)
    write_record(joint, replace(read_record(mini), kind="joint", new_layers=0))
    with pytest.raises(InvalidOptionError, match="two heads"):
        train_mini_model(joint, LINES, tmp_path, tokenizer=own)


def test_a_table_that_moved_since_the_cut_is_refused(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 2, 1)
    with torch.no_grad():
        model.get_input_embeddings().weight[9] += 0.5  # one storage: the mini-model's moves with it
    with pytest.raises(BaseModelMismatchError, match=r"tables of this mini-model \(input\)"):
        train_mini_model(mini, LINES, tmp_path, model=model, tokenizer=own)


def test_bottom_layers_that_moved_are_told(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 2, 1)
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.bias[0] += 1
    with pytest.warns(VocabExtendWarning, match="The 2 bottom layers of this mini-model") as told:
        train_mini_model(mini, LINES, tmp_path, tokenizer=own, training_arguments=CPU, **SHORT)
    assert told[0].filename == __file__


def test_an_interrupted_training_leaves_no_trace(tmp_path: Path) -> None:
    model, own = full("llama")
    before, ids = flags(model), torch.tensor([[5, 9, 30, 17]])
    expected = model(ids).logits

    def fail(it: Any) -> None:
        assert "_original_forward" in vars(it)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_language_model(
            model,
            LINES,
            tmp_path,
            tokenizer=own,
            bf16=True,
            training_arguments=CPU,
            callbacks=[Meddler(fail)],
            **SHORT,
        )
    assert model.config.use_cache
    assert "_original_forward" not in vars(model)
    assert flags(model) == before
    assert torch.equal(model.eval()(ids).logits, expected)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"stages": "embeddings"}, InvalidOptionError, "stages is 'embeddings'"),
        ({"lora": 4}, InvalidOptionError, "lora is 4"),
        ({"stepz": 4}, InvalidOptionError, "train_mini_model has no such option: stepz"),
        ({"tokenizer": None}, MissingResourceError, "tokenizer="),
    ],
)
def test_bad_options(options: dict[str, Any], kind: type[Exception], message: str, tmp_path: Path) -> None:
    model, own = full("bert")
    with pytest.raises(kind, match=message):
        train_mini_model(build_mini_model(model, 2, 1), LINES, tmp_path, **({"tokenizer": own} | options))


@pytest.mark.parametrize("texts", ["one string", [], [""]])
def test_texts_are_a_list_with_text(texts: Any) -> None:
    with pytest.raises(InvalidOptionError, match="Texts are a list"):
        MiniModelCallback(full("bert")[0], texts=texts)
    with pytest.raises(InvalidOptionError, match="model="):
        MiniModelCallback(texts=["text"])
