"""The callback on a Trainer: frozen rows bitwise, clean optimizer states, true learning rates, nothing left behind."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Trainer, TrainerCallback

from hf_vocab_extend import (
    Stage,
    VocabExtensionCallback,
    VocabExtensionTrainer,
    factorize_embeddings,
    parameter_groups,
)
from hf_vocab_extend.adaptation.learning_rates import StageRates
from hf_vocab_extend.errors import (
    InvalidOptionError,
    MissingResourceError,
    TokenizerMismatchError,
    UnsupportedModelError,
)

from .adapting import NEW, V, copy_of, examples, extended, moved_rows, trainer_for, without_dropout
from .models import build

ROWS = list(NEW)
OLD_ROWS = list(range(V - len(ROWS)))
CHECKPOINTING = {"activation_checkpointing": True}


pytestmark = pytest.mark.usefixtures("one_thread")


class Watch(TrainerCallback):
    """Calls a function before each step of the optimizer."""

    def __init__(self, look: Any) -> None:
        self.look = look

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look."""
        self.look(state.global_step, kwargs)


def run(model: torch.nn.Module, folder: Path, stages: object, **options: object) -> VocabExtensionCallback:
    callback = VocabExtensionCallback(extended(model), stages=stages, measures=False)
    trainer_for(model, folder, callback, **options).train()
    return callback


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama", "t5", "bart", "gemma3n_text"])
def test_only_new_rows_move(name: str, tied: bool, tmp_path: Path) -> None:
    model = without_dropout(name, tied)
    before = copy_of(model)
    run(model, tmp_path, Stage("new_rows"), max_steps=3)
    moved = moved_rows(model, before)
    assert moved
    assert {tuple(rows) for rows in moved.values()} <= {tuple(ROWS), tuple(row for row in ROWS if row < V - 5)}
    assert all("embed" in key or "lm_head" in key or "wte" in key or "shared" in key or "cls" in key for key in moved)


OPTIMIZERS = {
    "adamw": {"optim": "adamw_torch"},
    "fused": {"optim": "adamw_torch_fused"},
    "momentum": {"optim": "sgd", "optim_args": "momentum=0.9"},
    "adafactor": {"optim": "adafactor"},
    "accumulation": {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
    "bf16": {"bf16": True},
    "checkpointing": CHECKPOINTING | {"activation_checkpointing_kwargs": {"use_reentrant": True}},
    "checkpointing again": CHECKPOINTING | {"activation_checkpointing_kwargs": {"use_reentrant": False}},
    "compiled": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
}


@pytest.mark.parametrize(
    ("tied", "options"),
    [
        pytest.param(tied, options, id=f"{tied}-{name}", marks=[pytest.mark.slow] * (tied and name == "compiled"))
        for tied in (True, False)
        for name, options in OPTIMIZERS.items()
    ],
)
def test_frozen_values_stay_bitwise_in_every_stage(tied: bool, options: dict, tmp_path: Path) -> None:
    """Each stage against a copy at its beginning: all, then parts of it, with momentum left over from before."""
    model = without_dropout("llama", tied, num_hidden_layers=3)
    stages = [
        Stage("all", steps=2),
        Stage("new_rows", steps=2),
        Stage("first_layers:1", steps=2),
        Stage("new_head_rows", steps=2),
        Stage(("embeddings", "last_layers:1"), steps=2),
        Stage("body"),
    ]
    copies: dict[int, dict[str, torch.Tensor]] = {}

    class Copies(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            copies.setdefault(state.global_step // 2, copy_of(model))

    callback = VocabExtensionCallback(extended(model), stages=stages, measures=False)
    trainer_for(model, tmp_path, Copies(), callback, max_steps=12, **options).train()
    copies[6] = copy_of(model)
    table, head = "model.embed_tokens.weight", "model.embed_tokens.weight" if tied else "lm_head.weight"
    expected: list[Any] = [
        set(copies[0]),
        {table, head},
        {key for key in copies[0] if "layers.0." in key},
        {head},
        {table, head if tied else table} | {key for key in copies[0] if "layers.2." in key},
        set(copies[0]) - {table, head},
    ]
    for number, names in enumerate(expected):
        moved = _moved(copies[number], copies[number + 1])
        assert set(moved) == names
        if number in (1, 3):
            assert all(rows == ROWS for rows in moved.values())
    assert [entry["begin"] for entry in callback.history] == [0, 2, 4, 6, 8, 10]


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    differs = {key: (after[key] != before[key]).reshape(len(after[key]), -1).any(1) for key in before}
    return {key: rows.nonzero().flatten().tolist() for key, rows in differs.items() if rows.any()}


@pytest.mark.parametrize("rank", [None, 7])
def test_the_run_equals_a_loop_written_by_hand(rank: int | None, tmp_path: Path) -> None:
    """New rows, then all, AdamW with decay and clipping, one batch over and over."""
    one, two = without_dropout("llama", tied=False), without_dropout("llama", tied=False)
    if rank is not None:
        one, two = factorize_embeddings(one, rank), factorize_embeddings(two, rank)
    data = examples(1) * 8
    stages = [Stage("new_rows", steps=3), Stage("all", learning_rate=0.5, warmup=1)]
    run(one, tmp_path, stages, data=data, max_steps=6, max_grad_norm=0.5)
    batch = {key: torch.stack([item[key] for item in data[:2]]) for key in data[0]}
    tables = [item for key, item in two.named_parameters() if key in ("model.embed_tokens.weight", "lm_head.weight")]
    two.train()
    for stage, rates in (("rows", [1e-2] * 3), ("all", [2.5e-3, 5e-3, 5e-3])):
        trained = tables if stage == "rows" else list(two.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [item for item in trained if item.ndim > 1], "weight_decay": 0.1},
                {"params": [item for item in trained if item.ndim == 1], "weight_decay": 0.0},
            ]
        )
        for rate in rates:
            two(**batch).loss.backward()
            kept = [table.detach()[OLD_ROWS].clone() for table in tables]
            if stage == "rows":
                for table in tables:
                    table.grad[OLD_ROWS] = 0
            torch.nn.utils.clip_grad_norm_(trained, 0.5)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            two.zero_grad()
            if stage == "rows":
                for table, rows in zip(tables, kept, strict=True):
                    table.data[OLD_ROWS] = rows
    values = dict(two.named_parameters())
    for key, item in one.named_parameters():
        torch.testing.assert_close(item, values[key], rtol=1e-5, atol=1e-6)


def test_the_optimizer_forgets_what_was_frozen(tmp_path: Path) -> None:
    model = without_dropout("llama", tied=False)
    stages = [Stage("all", steps=3), Stage("new_rows", steps=2), Stage("all")]
    steps: list[dict[str, int]] = []

    def look(step: int, kwargs: Any) -> None:
        names = {id(item): key for key, item in model.named_parameters()}
        states = kwargs["optimizer"].state
        steps.append({names[id(item)]: int(state["step"]) for item, state in states.items()})

    callback = VocabExtensionCallback(extended(model), stages=stages, measures=False)
    trainer_for(model, tmp_path, callback, Watch(look), max_steps=7).train()
    tables = {"model.embed_tokens.weight", "lm_head.weight"}
    assert steps[2] == dict.fromkeys(dict(model.named_parameters()), 2)
    assert steps[3] == {}
    assert steps[4] == dict.fromkeys(tables, 1)
    assert steps[5] == {}
    assert set(steps[6].values()) == {1}


def _rates(folder: Path, model: Any, stages: object, kind: Any = Trainer, **options: object) -> tuple[Any, Any]:
    """Rates in the optimizer at each step, and those that the Trainer logged."""
    used: list[list[float]] = []
    callback = VocabExtensionCallback(extended(model), stages=stages, measures=False)
    watch = Watch(lambda step, kwargs: used.append([float(g["lr"]) for g in kwargs["optimizer"].param_groups]))
    trainer = trainer_for(model, folder, callback, watch, kind=kind, **options)
    trainer.train()
    return used, [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]


def test_rates_are_those_of_the_schedule_times_the_stage_and_logged_as_they_are(tmp_path: Path) -> None:
    model = without_dropout("llama")
    stages = [Stage("new_rows", steps=3, learning_rate=2), Stage("all", learning_rate=0.5, warmup=1)]
    used, logged = _rates(tmp_path, model, stages, lr_scheduler_type="linear")
    schedule = [1e-2 * (1 - step / 6) for step in range(6)]
    expected = [rate * factor for rate, factor in zip(schedule, (2, 2, 2, 0.25, 0.5, 0.5), strict=True)]
    assert [row[0] for row in used] == pytest.approx(expected)
    assert logged == pytest.approx(expected)


def test_schedules_that_build_on_the_last_rate_do_not_gather_the_factor(tmp_path: Path) -> None:
    model = without_dropout("llama")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    stages = [Stage("new_rows", steps=2, learning_rate=3), Stage("all", warmup=0)]
    used, logged = _rates(tmp_path, model, stages, max_steps=4, optimizers=(optimizer, schedule))
    assert [row[0] for row in used] == pytest.approx([3e-2, 1.5e-2, 2.5e-3, 1.25e-3])
    assert logged == pytest.approx([3e-2, 1.5e-2, 2.5e-3, 1.25e-3])


def test_a_plateau_schedule_keeps_its_own_rate(tmp_path: Path) -> None:
    model = without_dropout("llama")
    options = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1}
    stages = [Stage("new_rows", steps=2, learning_rate=3), Stage("all", warmup=0)]
    used, logged = _rates(tmp_path, model, stages, max_steps=4, metric_for_best_model="loss", **options)
    assert [row[0] for row in used] == pytest.approx([3e-2, 3e-2, 1e-2, 1e-2])
    assert logged == pytest.approx([3e-2, 3e-2, 1e-2, 1e-2])


@pytest.mark.parametrize("when", ["by the Trainer", "with the optimizer"])
def test_schedules_of_any_kind_go_on(when: str) -> None:
    """One without the attributes of torch's, as accelerate wraps it for DeepSpeed, or one that an engine steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rates, taken = StageRates(optimizer, object()), []
    group = optimizer.param_groups[0]
    for step in range(1, 5):
        rates.scale(0.5, 1.0)
        taken.append(group["lr"])
        if when == "with the optimizer":
            group["lr"] = 1.0 + step
        rates.report()
        if when == "by the Trainer":
            group["lr"] = 1.0 + step
        rates.put_back()
    assert taken == [0.5, 1.0, 1.5, 2.0]


def test_groups_have_rates_of_their_own(tmp_path: Path) -> None:
    rate = {"tables": 2, "head": 0.5, "body": 0.1}
    stages = [Stage("new_rows", steps=1, learning_rate={"tables": 4}), Stage("all", learning_rate=rate, warmup=0)]
    model = without_dropout("llama", tied=False)
    used, logged = _rates(tmp_path, model, stages, VocabExtensionTrainer, max_steps=2)
    assert used[0] == pytest.approx([4e-2, 1e-2, 1e-2, 1e-2])
    assert used[1] == pytest.approx([2e-2, 1e-3, 5e-3, 1e-3])
    optimizer = torch.optim.AdamW(parameter_groups(model, 1e-2, factors={"body": 0.1}))
    used, _ = _rates(tmp_path, model, stages, max_steps=2, optimizers=(optimizer, None))
    assert sorted(used[0]) == pytest.approx([1e-3, 1e-3, 1e-2, 4e-2])


def test_rates_by_group_need_groups(tmp_path: Path) -> None:
    model = without_dropout("llama")
    stages = Stage("all", learning_rate={"body": 0.1})
    with pytest.raises(InvalidOptionError, match="VocabExtensionTrainer"):
        run(model, tmp_path, stages)
    assert all(item.requires_grad for item in model.parameters())


def test_a_head_trains_over_checkpointed_layers_and_a_body_over_frozen_embeddings(tmp_path: Path) -> None:
    """Reentrant checkpointing loses the gradients of layers whose inputs need none."""
    model = without_dropout("llama", tied=False, num_hidden_layers=2)
    before = copy_of(model)
    options = CHECKPOINTING | {"activation_checkpointing_kwargs": {"use_reentrant": True}}
    run(model, tmp_path, Stage(("body", "head")), **options)
    assert set(moved_rows(model, before)) == set(before) - {"model.embed_tokens.weight"}


class Stop(TrainerCallback):
    """Interrupts after three steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Interrupt."""
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("kind", [Trainer, VocabExtensionTrainer])
def test_nothing_is_left_behind(stop: bool, kind: type[Trainer], tmp_path: Path) -> None:
    model = without_dropout("llama", tied=False)
    model.model.norm.requires_grad_(False)
    required = {key: item.requires_grad for key, item in model.named_parameters()}
    callback = VocabExtensionCallback(
        extended(model), stages=[Stage("new_rows", tokens=20), Stage("body")], measures=False
    )
    options = CHECKPOINTING | {"activation_checkpointing_kwargs": {"use_reentrant": True}}
    trainer = trainer_for(model, tmp_path, callback, *([Stop()] if stop else []), kind=kind, **options)
    if stop:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
    else:
        trainer.train()
    assert {key: item.requires_grad for key, item in model.named_parameters()} == required
    assert not any(item._post_accumulate_grad_hooks or item._backward_hooks for item in model.parameters())
    bare = without_dropout("llama", tied=False)
    trainer_for(bare, tmp_path, **options).train()  # transformers itself leaves hooks where activations are dropped
    for module, other in zip(model.modules(), bare.modules(), strict=True):
        assert len(module._forward_hooks) == len(other._forward_hooks)
    assert trainer.args.include_num_input_tokens_seen == "no"
    assert not {"_run_epoch", "_evaluate", "_finalize_training"} & set(vars(trainer))
    assert callback.history[1]["begin"] == 2
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2)
    trainer.pop_callback(Stop)
    assert trainer.train().global_step == 6


def test_what_was_frozen_before_stays_frozen(tmp_path: Path) -> None:
    model = without_dropout("llama", tied=False)
    model.lm_head.requires_grad_(False)
    before = copy_of(model)
    run(model, tmp_path, "gradual", max_steps=20)
    assert set(before) - set(moved_rows(model, before)) == {"lm_head.weight"}


def test_without_stages_everything_trains_as_without_the_callback(tmp_path: Path) -> None:
    one, two = without_dropout("gpt2"), without_dropout("gpt2")
    run(one, tmp_path, None)
    trainer_for(two, tmp_path).train()
    assert all(torch.equal(item, other) for item, other in zip(one.parameters(), two.parameters(), strict=True))


def test_the_model_must_be_that_of_the_extension(tmp_path: Path) -> None:
    model = without_dropout("llama")
    with pytest.raises(MissingResourceError, match="extension="):
        trainer_for(model, tmp_path, VocabExtensionCallback()).train()
    other = extended(build("llama", 99))
    with pytest.raises(TokenizerMismatchError, match="97 rows and the extension 99"):
        trainer_for(model, tmp_path, VocabExtensionCallback(other)).train()
    with pytest.raises(UnsupportedModelError):
        VocabExtensionCallback(other).find_extension(torch.nn.Linear(2, 2), None)
    assert all(item.requires_grad for item in model.parameters())


def test_what_is_no_extension_is_refused_at_once() -> None:
    with pytest.raises(InvalidOptionError, match="extension is a Linear.*of LanguageHeads"):
        VocabExtensionCallback(torch.nn.Linear(2, 2))  # type: ignore[arg-type]


def test_the_extension_gets_the_model_that_was_trained(tmp_path: Path) -> None:
    """One that was loaded apart from the model would be saved, and pushed, untrained."""
    model, apart = without_dropout("llama"), extended(without_dropout("llama"))
    callback = VocabExtensionCallback(apart, stages="new_rows", measures=False)
    trainer_for(model, tmp_path, callback, max_steps=1).train()
    assert callback.extension is not None
    assert callback.extension.model is model
    assert callback.extension.report.training["steps"] == 1
    assert apart.report.training is None


@pytest.mark.parametrize("interrupted", [False, True])
def test_save_model_writes_the_extension_beside_the_weights(interrupted: bool, tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if interrupted and state.global_step == 1:
                raise KeyboardInterrupt

    extension = extended(without_dropout("llama"))
    callback = VocabExtensionCallback(extension, measures=False)
    trainer = trainer_for(
        extension.model, tmp_path / "out", callback, Stop(), max_steps=2, processing_class=extension.tokenizer
    )
    with pytest.raises(KeyboardInterrupt) if interrupted else nullcontext():
        trainer.train()
    for folder in (None, str(tmp_path / "other")):
        trainer.save_model(folder)
        path = Path(folder or tmp_path / "out")
        settings = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert set(settings) >= {"padding_side", "truncation_side"}
        report = json.loads((path / "vocab_extension.json").read_text("utf-8"))
        assert report["training"]["steps"] == (1 if interrupted else 2)
        assert {"README.md", "vocab_mapping.safetensors"} <= {item.name for item in path.iterdir()}


def test_a_wrong_card_is_said_before_training(tmp_path: Path) -> None:
    model = without_dropout("llama")
    before = copy_of(model)
    callback = VocabExtensionCallback(extended(model), measures=False, card={"licence": "mit"})
    with pytest.raises(InvalidOptionError, match="licence"):
        trainer_for(model, tmp_path, callback).train()
    (tmp_path / "README.md").write_text("---\n- my: [own\n---\n")
    with pytest.raises(InvalidOptionError, match="README"):
        trainer_for(model, tmp_path, VocabExtensionCallback(extended(model), measures=False)).train()
    assert not moved_rows(model, before)
    assert (tmp_path / "README.md").read_text() == "---\n- my: [own\n---\n"


def test_a_method_that_the_user_put_on_the_trainer_comes_back(tmp_path: Path) -> None:
    extension = extended(without_dropout("llama"))
    trainer = trainer_for(extension.model, tmp_path, VocabExtensionCallback(extension), max_steps=1)
    own = trainer.get_batch_samples
    vars(trainer)["get_batch_samples"] = own
    trainer.train()
    assert vars(trainer)["get_batch_samples"] is own


def test_stop_ids_are_those_of_the_extended_model(tmp_path: Path) -> None:
    """The Trainer aligns ids with the tokenizer whenever training begins; an extension leaves it nothing to align."""
    model = without_dropout("llama")
    model.generation_config = GenerationConfig(eos_token_id=[2, 90], pad_token_id=0, bos_token_id=2)
    model.config.bos_token_id = 2
    extension = extended(model)
    callback = VocabExtensionCallback(extension, stages="new_rows", measures=False)
    trainer = trainer_for(model, tmp_path, callback, max_steps=1, processing_class=extension.tokenizer)
    for _ in range(2):
        trainer.train()
    assert model.generation_config.eos_token_id == [2, 90]
    assert model.config.eos_token_id == 2
