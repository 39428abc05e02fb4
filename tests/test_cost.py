"""What a run of the Trainer has cost: counted batch by batch, whatever the run looks like."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from hf_vocab_extend import VocabExtensionCallback
from hf_vocab_extend.adaptation import cost as cost_module
from hf_vocab_extend.adaptation.cost import COST_FILE, Cost, CostMeter
from hf_vocab_extend.adaptation.flops import flop_profile, training_flops
from hf_vocab_extend.adaptation.peak_memory import PeakMemory
from hf_vocab_extend.errors import InvalidOptionError
from hf_vocab_extend.modeling.masked_positions import masked_positions_only

from .adapting import examples, extended, trainer_for
from .models import build

pytestmark = pytest.mark.usefixtures("one_thread")


def some_cost(**changes: object) -> Cost:
    values = {"flops": 10, "seconds": 1.5, "peak_bytes": 7, "tokens": 4, "steps": 2, "memory": "cuda"}
    return Cost(**{**values, "flops_by_part": {"body": 6, "head": 4}, **changes})


def test_costs_add_up() -> None:
    other = some_cost(flops=1, peak_bytes=9, processes=2, apart_seconds=0.5, flops_by_part={"head": 1})
    total = some_cost() + other
    assert (total.flops, total.seconds, total.peak_bytes, total.tokens, total.steps) == (11, 3.0, 9, 8, 4)
    assert (total.apart_seconds, total.processes, total.memory) == (0.5, 2, "cuda")
    assert total.flops_by_part == {"body": 6, "head": 5}
    assert sum([some_cost(), other]) == total == some_cost() + Cost() + other


def test_what_is_not_known_stays_so() -> None:
    total = some_cost() + some_cost(flops=None, memory="resident", flops_by_part={})
    assert total.flops is None
    assert total.flops_by_part == {}
    assert total.memory == "mixed"
    assert (some_cost(peak_bytes=None) + some_cost(peak_bytes=None)).peak_bytes is None


def test_a_cost_is_plain_data() -> None:
    assert Cost.from_dict(json.loads(json.dumps(some_cost().to_dict()))) == some_cost()
    with pytest.raises(InvalidOptionError, match="'watts' is no field"):
        Cost.from_dict({**some_cost().to_dict(), "watts": 3})
    with pytest.raises(TypeError):
        some_cost() + 3


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "10 FLOP, 1.5 s, 7 B device memory, 4 tokens in 2 steps"),
        (
            {"flops": 12_345 * 10**9, "seconds": 204.4, "peak_bytes": 1_400_000_000, "memory": "resident"},
            "12.3 TFLOP, 204 s, 1.3 GiB resident, 4 tokens in 2 steps",
        ),
        ({"flops": None, "peak_bytes": None}, "FLOPs not known, 1.5 s, 4 tokens in 2 steps"),
        ({"tokens": 99_999, "steps": 1}, "10 FLOP, 1.5 s, 7 B device memory, 99,999 tokens in 1 step"),
        (
            {"tokens": 614_400, "seconds": 5_400, "processes": 4},
            "10 FLOP, 90 min, 7 B device memory, 0.614 M tokens in 2 steps on 4 processes",
        ),
        (
            {"flops": 10**27, "seconds": 36_000_000, "tokens": 123_456 * 10**6},
            "1,000,000 ZFLOP, 10,000 h, 7 B device memory, 123,456 M tokens in 2 steps",
        ),
        ({"peak_bytes": 1023, "memory": "mixed"}, "10 FLOP, 1.5 s, 1,023 B memory, 4 tokens in 2 steps"),
        ({"peak_bytes": 1024**4 - 1}, "10 FLOP, 1.5 s, 1 TiB device memory, 4 tokens in 2 steps"),
    ],
)
def test_a_cost_as_text_has_units(changes: dict, text: str) -> None:
    assert str(some_cost(**changes)) == text


def padded(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Texts filled up to the longest of a batch; padding has no label."""
    length = max(len(item["input_ids"]) for item in batch)
    found = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {
        name: torch.stack(
            [torch.nn.functional.pad(item[name], (0, length - len(item[name])), value=value) for item in batch]
        )
        for name, value in found.items()
    }


def ragged() -> list[dict[str, torch.Tensor]]:
    """Texts of 2 to 6 tokens, every other token with a label."""
    found = []
    for index, item in enumerate(examples(15)):
        short = {name: value[: 2 + index % 5].clone() for name, value in item.items()}
        short["labels"][::2] = -100
        found.append(short)
    return found


def test_every_batch_counts_as_it_is(tmp_path: Path) -> None:
    """Padding, gradient accumulation, a short last batch, and a head at labels only."""
    model, meter, seen = masked_positions_only(build("bert")), CostMeter(), []

    def collate(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        seen.append(padded(batch))
        return seen[-1]

    trainer = trainer_for(
        model, tmp_path, meter, data=ragged(), max_steps=-1, num_train_epochs=1, gradient_accumulation_steps=3
    )
    trainer.data_collator = collate
    trainer.train()
    shapes = [batch["input_ids"].shape for batch in seen]
    labels = [int((batch["labels"] != -100).sum()) for batch in seen]
    assert len(set(shapes)) > 2
    assert meter.cost.steps == trainer.state.global_step == 3
    assert meter.cost.tokens == sum(shape.numel() for shape in shapes)
    assert meter.cost.labelled_tokens == sum(labels)
    profile = flop_profile(model, length=6)
    steps = [profile.at(*shape, n) for shape, n in zip(shapes, labels, strict=True)]
    assert meter.cost.flops == sum(step.total for step in steps)
    assert meter.cost.flops_by_part["head"] == sum(step.by_part["head"] for step in steps)
    assert sum(meter.cost.flops_by_part.values()) == meter.cost.flops


def test_mixed_precision_costs_the_same(tmp_path: Path) -> None:
    model, meter = masked_positions_only(build("bert")), CostMeter()
    trainer_for(model, tmp_path, meter, max_steps=2, bf16=True, data=ragged()[4:5] * 4).train()
    step = training_flops(model, batch_size=2, length=6, labelled_share=0.5)
    assert meter.cost.flops_by_part == (2 * step).by_part


def test_a_resumed_run_adds_up(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    whole, first, second = CostMeter(), CostMeter(), CostMeter()
    trainer_for(build("bert"), tmp_path / "whole", whole).train()
    trainer_for(build("bert"), tmp_path / "cut", first, max_steps=4, **options).train()
    written = Cost.from_dict(json.loads((tmp_path / "cut/checkpoint-4" / COST_FILE).read_text()))
    assert (written.steps, written.tokens, written.flops) == (4, first.cost.tokens, first.cost.flops)
    trainer_for(build("bert"), tmp_path / "cut", second, **options).train(resume_from_checkpoint=True)
    for name in ("flops", "tokens", "labelled_tokens", "steps", "flops_by_part"):
        assert getattr(second.cost, name) == getattr(whole.cost, name)
    assert second.cost.seconds > written.seconds


def test_a_checkpoint_without_cost_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer_for(build("bert"), tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    meter = CostMeter()
    with caplog.at_level(logging.WARNING):
        trainer_for(build("bert"), tmp_path, meter, max_steps=3).train(resume_from_checkpoint=True)
    assert meter.cost.steps == 1
    assert f"{COST_FILE} is not in checkpoint-2" in caplog.text


def test_stages_cost_what_they_train(tmp_path: Path) -> None:
    """The meter stands before and after the callback that freezes: the order does not matter."""
    model, first, last = build("bert"), CostMeter(), CostMeter()
    full = training_flops(model, batch_size=2, length=6).total
    model.requires_grad_(False)
    model.bert.embeddings.word_embeddings.weight.requires_grad_(True)
    tables = training_flops(model, batch_size=2, length=6).total
    model.requires_grad_(True)
    stages = [{"name": "a", "train": "embeddings", "steps": 2}, {"name": "b", "train": "all"}]
    callback = VocabExtensionCallback(extended(model), stages=stages, measures=False)
    trainer_for(model, tmp_path, first, callback, last, data=examples(16)).train()
    assert first.cost.flops == last.cost.flops == 2 * tables + 4 * full


def test_figures_are_those_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = CostMeter()
    trainer = trainer_for(build("bert"), tmp_path, meter, max_steps=2)
    trainer.train()
    one = meter.cost
    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 2))
    trainer.train()
    assert meter.cost.processes == 2
    for name in ("flops", "tokens", "labelled_tokens"):
        assert getattr(meter.cost, name) == 2 * getattr(one, name)
    assert meter.cost.steps == one.steps


def test_a_model_that_cannot_be_counted_is_trained_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    meter = CostMeter()
    with caplog.at_level(logging.WARNING):
        trainer_for(build("mamba"), tmp_path, meter, max_steps=3).train()
    assert meter.cost.flops is None
    assert (meter.cost.steps, meter.cost.tokens, meter.cost.flops_by_part) == (3, 36, {})
    assert "convolution" in meter.why_not_counted
    assert caplog.text.count("FLOPs of this training are not known") == 1


def test_training_is_the_same_with_a_meter(tmp_path: Path) -> None:
    plain, watched = build("bert"), build("bert")
    meter, options = CostMeter(), {"eval_strategy": "steps", "eval_steps": 2}
    trainer_for(plain, tmp_path, **options).train()
    trainer = trainer_for(watched, tmp_path, meter, **options)
    trainer.train()
    for (name, one), other in zip(plain.named_parameters(), watched.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert "get_batch_samples" not in vars(trainer)
    assert meter.cost.tokens == 6 * 2 * 6  # evaluations count nothing


def test_an_exception_lets_the_trainer_go(tmp_path: Path) -> None:
    meter = CostMeter()
    trainer = trainer_for(
        build("bert"), tmp_path, meter, data=[*examples(2), {"labels": torch.zeros(6)}, *examples(1)]
    )
    with pytest.raises(Exception, match=r".+"):
        trainer.train()
    assert "get_batch_samples" not in vars(trainer)
    assert meter.cost.steps <= 1


def test_seconds_are_those_of_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps with an evaluation between them; the clock moves by 1, 2, 4, 8, ... seconds."""
    times = itertools.accumulate((2**index for index in itertools.count()), initial=0)
    monkeypatch.setattr(cost_module.time, "perf_counter", lambda: next(times))
    clock = cost_module._Clock()
    clock.start()
    clock.begin_step()  # 1: the first batch is read
    clock.end_step()  # 2: the step
    clock.set_apart()
    clock.begin_step()  # 4: the evaluation
    clock.end_step()  # 8: the step
    clock.begin_step()  # 16: the next batch is read
    clock.end_step()  # 32: the step
    clock.stop()  # 64: what follows the last step
    assert (clock.training, clock.apart) == (1 + 2 + 8 + 16 + 32, 4 + 64)


def test_evaluations_and_checkpoints_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(cost_module.time, "perf_counter", lambda: now[0])
    meter = CostMeter()
    trainer = trainer_for(
        build("bert"), tmp_path, meter, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=6
    )
    for name, seconds in {"training_step": 1.0, "evaluate": 100.0, "_save_checkpoint": 1000.0}.items():
        monkeypatch.setattr(trainer, name, _slow(getattr(trainer, name), now, seconds))
    trainer.train()
    assert meter.cost.seconds == 6.0
    assert meter.cost.apart_seconds == 2 * 100 + 1000


def _slow(method: object, now: list[float], seconds: float) -> object:
    def slow(*args: object, **kwargs: object) -> object:
        now[0] += seconds
        return method(*args, **kwargs)

    return slow


def test_peak_memory_begins_anew() -> None:
    size = 64 * 2**20
    torch.ones(size, dtype=torch.int8)
    memory = PeakMemory(torch.device("cpu"))
    before = memory.peak()
    if memory.kind != "resident":
        pytest.skip("this system does not begin its peak anew")
    torch.ones(size, dtype=torch.int8)
    assert memory.peak() - before > 0.9 * size
    memory.stop()
    stopped = memory.peak()
    torch.ones(2 * size, dtype=torch.int8)
    assert memory.peak() == stopped
