"""Mini-models that imitate the full model: the loss against one computed by hand, and what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, Trainer, TrainingArguments

from hf_vocab_extend.adaptation.mini_model.building import build_mini_model
from hf_vocab_extend.adaptation.mini_model.imitation import Imitation
from hf_vocab_extend.adaptation.mini_model.post_training import MiniModelCallback, train_mini_model
from hf_vocab_extend.errors import InvalidOptionError, UnsupportedModelError
from hf_vocab_extend.modeling.masked_positions import masked_positions_only

from .factories import english
from .test_mini_post_training import CPU, SHORT, full

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("bert", "modernbert", "gpt2", "llama")
LINES = english(60)


def without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def batch_for(model: PreTrainedModel, n: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 60, (n, 7), generator=generator)
    labels = torch.where(torch.rand(ids.shape, generator=generator) < 0.4, ids, -100)
    labels[:, 1] = ids[:, 1]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def head_input(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into the output layer, and the logits, at every position."""
    kept: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    hook.remove()
    return kept[0], logits


def naive(mini: PreTrainedModel, model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The loss, position by position."""
    own, own_logits = head_input(mini, batch)
    with torch.no_grad():
        want, want_logits = head_input(model.eval(), batch)
    distance = sum((a - b) ** 2 for a, b in zip(own.flatten(), want.flatten(), strict=True)) / want.numel()
    spread = sum((b - want.mean()) ** 2 for b in want.flatten()) / (want.numel() - 1)
    divergences = []
    for row, column in (batch["labels"] != -100).nonzero().tolist():
        p, q = want_logits[row, column].softmax(-1), own_logits[row, column].softmax(-1)
        divergences.append((p * (p / q).log()).sum())
    return distance / spread + torch.stack(divergences).mean()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at_labels", [False, True])
def test_the_loss_is_the_distance_from_the_full_model(name: str, at_labels: bool) -> None:
    model, _ = full(name)
    mini = without_dropout(build_mini_model(model, 1, 1)).train()
    batch = batch_for(model)
    plain = mini(**batch).loss
    expected = naive(mini, model, batch)
    gradients = torch.autograd.grad(expected, [item for item in mini.parameters() if item.requires_grad])
    if at_labels and name in ("bert", "modernbert"):
        masked_positions_only(mini)
    imitation = Imitation(mini, model.train())
    loss = mini(**batch).loss
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    found = torch.autograd.grad(loss, [item for item in mini.parameters() if item.requires_grad])
    for one, two in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)
    assert model.training, "the full model's mode is the caller's"
    assert all(item.grad is None for item in model.parameters())
    assert torch.equal(mini.eval()(**batch).loss, mini(**batch).loss)
    torch.testing.assert_close(mini(**batch).loss, plain), "in evaluation the loss is that of the text"
    imitation.remove()
    if name in ("bert", "modernbert"):
        masked_positions_only(mini, False)
    torch.testing.assert_close(mini.train()(**batch).loss, plain)
    hooks = [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in (*mini.modules(), model)]
    assert not any(hooks)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_training_brings_the_mini_model_near_and_leaves_the_full_one(name: str, tmp_path: Path) -> None:
    model, own = full(name)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # layers that do something: those of an untrained model hardly change their input
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mini = build_mini_model(model, 2, 1)
    batch = batch_for(model)
    start = float(naive(mini.eval(), model, batch).detach())
    options: dict[str, Any] = {**SHORT, "steps": 40, "block_size": 16, "batch_size": 8}
    trained = train_mini_model(mini, LINES, tmp_path, model=model, tokenizer=own, training_arguments=CPU, **options)
    assert float(naive(mini.eval(), model, batch).detach()) < 0.7 * start
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert trained.alignment is not None
    text = build_mini_model(model, 2, 1)
    alone = train_mini_model(
        text, LINES, tmp_path / "b", model=model, tokenizer=own, training_arguments=CPU, imitate=False, **options
    )
    assert trained.cost.flops > 1.4 * alone.cost.flops, "the forward passes of the full model are counted"


def test_small_batches_add_up_to_a_large_one(tmp_path: Path) -> None:
    model, _ = full("llama")
    minis = [without_dropout(build_mini_model(model, 1, 1)) for _ in range(2)]
    rows = [{key: value[i] for key, value in batch_for(model, 4).items()} for i in range(4)]
    for row in rows:  # as many labels in each, or a mean of means would not be the mean
        row["labels"] = row["input_ids"]
    for mini, (size, times) in zip(minis, ((4, 1), (2, 2)), strict=True):
        arguments = TrainingArguments(
            tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=times,
            learning_rate=1e-2, optim="sgd", max_grad_norm=0.0, save_strategy="no", report_to=[],
            lr_scheduler_type="constant", **CPU,
        )  # fmt: skip
        callback = MiniModelCallback(model, imitate=True)
        Trainer(mini, arguments, train_dataset=rows, callbacks=[callback]).train()
    spreads = []
    for one, two in zip(minis[0].parameters(), minis[1].parameters(), strict=True):
        spreads.append(float((one - two).detach().abs().max()))
    # the variance is that of each batch, so that small batches weigh their distances a little otherwise
    moved = max(
        float((one - two).detach().abs().max())
        for one, two in zip(minis[0].parameters(), build_mini_model(model, 1, 1).parameters(), strict=True)
    )
    assert max(spreads) < 0.1 * moved


def test_bad_input(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 1, 1)
    with pytest.raises(InvalidOptionError, match="Give model="):
        MiniModelCallback(imitate=True)
    with pytest.raises(InvalidOptionError, match="Give model="):
        train_mini_model(mini, LINES, tmp_path, tokenizer=own, imitate=True, **SHORT)
    with pytest.raises(UnsupportedModelError, match="AutoModelForMaskedLM"):
        Imitation(mini, model.base_model)


def test_an_interrupted_training_leaves_no_hooks(tmp_path: Path) -> None:
    model, own = full("bert")
    mini = build_mini_model(model, 1, 1)

    class Stop(MiniModelCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    stop = Stop(model)
    with pytest.raises(KeyboardInterrupt):
        train_mini_model(
            mini, LINES, tmp_path, model=model, tokenizer=own, callbacks=[stop], training_arguments=CPU, **SHORT
        )
    for module in (mini, mini.get_output_embeddings(), model, model.get_output_embeddings()):
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
