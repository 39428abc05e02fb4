"""Factorised models train: Trainer with a resume, peft, generation, compilation, checkpointing, learning rates."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments

from hf_vocab_extend import factorize_embeddings, merge_factorized
from hf_vocab_extend.errors import InvalidOptionError, UnsupportedModelError
from hf_vocab_extend.modeling.factorized import factorized_modules, is_factorized
from hf_vocab_extend.modeling.masked_positions import masked_positions_only
from hf_vocab_extend.surgery.low_rank import SCALINGS
from hf_vocab_extend.surgery.parameter_groups import factorized_parameter_groups

from .models import build, logits

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated"),  # peft asks for it
]
V, RANK = 97, 7
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [90, 4, 33, 61, 17, 5, 96, 2]])
ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "gpt2", "llama", "gemma", "qwen2", "opt", "t5", "bart")
OWN_TARGETS = {"distilbert": ["q_lin", "v_lin"], "marian": ["q_proj", "v_proj"]}
"""Of the types that peft knows no targets for."""
GENERATORS = ("gpt2", "llama", "gemma", "qwen2", "opt", "t5", "bart", "marian")


def _factorised(name: str, **options: object) -> torch.nn.Module:
    return factorize_embeddings(build(name, V), RANK, **options)


def _trainer(model: torch.nn.Module, folder: Path, **options: object) -> Trainer:
    data = [{"input_ids": row, "labels": row} for row in torch.randint(3, V, (8, 6), generator=_generator())]
    arguments = TrainingArguments(
        folder,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    return Trainer(model=model, args=arguments, train_dataset=data)


def _without_dropout(model: torch.nn.Module) -> torch.nn.Module:
    for module in model.train().modules():
        for key, value in vars(module).items():
            if isinstance(value, float) and (key == "p" or "drop" in key):
                setattr(module, key, 0.0)
    return model


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_trainer_trains_both_matrices_and_resumes(name, tmp_path):
    model = _factorised(name)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    _trainer(model, tmp_path, max_steps=4, save_steps=2).train()
    end = model.state_dict()
    moved = {key for key in start if not torch.equal(start[key], end[key])}
    names = {key for layer in factorized_modules(model) for key in (f"{layer}.weight", f"{layer}.projection")}
    assert names <= moved
    resumed = _factorised(name)
    _trainer(resumed, tmp_path, max_steps=4).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for key, value in resumed.state_dict().items():
        torch.testing.assert_close(value, end[key], rtol=1e-4, atol=1e-5)
    embeddings, head = resumed.get_input_embeddings(), resumed.get_output_embeddings()
    assert head.weight is embeddings.weight
    assert head.projection is embeddings.projection


def test_label_smoothing_shifts_the_labels_of_a_decoder(tmp_path):
    inputs = {"input_ids": IDS, "labels": IDS}
    model = build("llama", V)
    expected = _trainer(model, tmp_path, label_smoothing_factor=0.1).compute_loss(model, dict(inputs))
    factorize_embeddings(model, 16)
    found = _trainer(model, tmp_path, label_smoothing_factor=0.1).compute_loss(model, dict(inputs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GENERATORS)
def test_what_is_generated_is_what_the_merged_model_generates(name):
    model = _factorised(name)
    options = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    found = model.generate(IDS, **options)
    beams = model.generate(IDS, num_beams=2, **options)
    merge_factorized(model)
    assert torch.equal(model.generate(IDS, **options), found)
    assert torch.equal(model.generate(IDS, num_beams=2, **options), beams)


@pytest.mark.parametrize(("name", "targets"), [(name, OWN_TARGETS.get(name)) for name in (*ARCHITECTURES, "marian")])
def test_peft_finds_its_usual_targets_and_can_train_the_tables(name, targets, tmp_path):
    model = _factorised(name)
    expected = logits(model, IDS)
    table = next(key.rpartition(".")[2] for key in factorized_modules(model))
    wrapped = get_peft_model(model, LoraConfig(target_modules=targets, r=2, modules_to_save=[table]))
    torch.testing.assert_close(logits(wrapped, IDS), expected)
    trained = {key for key, value in wrapped.named_parameters() if value.requires_grad}
    assert any("lora" in key for key in trained)
    assert any("modules_to_save" in key and "projection" in key for key in trained)
    for key, value in wrapped.named_parameters():
        if "lora" in key or "modules_to_save" in key:
            value.data.add_(0.01)
    changed = logits(wrapped, IDS)
    assert not torch.allclose(changed, expected)
    merged = wrapped.merge_and_unload()
    assert is_factorized(merged.get_input_embeddings())
    torch.testing.assert_close(logits(merged, IDS), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [RANK, 16])
def test_lora_on_the_products_themselves(rank):
    """It adds to the table, which a product cannot take in: the product is merged first, the adapter then."""
    model = factorize_embeddings(build("llama", V, tied=False), rank)
    wrapped = get_peft_model(model, LoraConfig(target_modules=["embed_tokens", "lm_head"], r=2))
    expected = logits(wrapped, IDS)
    for key, value in wrapped.named_parameters():
        if "lora" in key:
            value.data.add_(0.1)
    changed = logits(wrapped, IDS)
    assert not torch.allclose(changed, expected)
    with pytest.raises(RuntimeError, match="size|shape"):
        copy.deepcopy(wrapped).merge_and_unload()
    with pytest.raises(UnsupportedModelError, match=r"get_base_model\(\), and call model.merge_and_unload\(\) after"):
        merge_factorized(wrapped)
    merge_factorized(wrapped.get_base_model())
    torch.testing.assert_close(logits(wrapped, IDS), changed, rtol=1e-4, atol=1e-4)
    merged = wrapped.merge_and_unload()
    assert not factorized_modules(merged)
    torch.testing.assert_close(logits(merged, IDS), changed, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [RANK, 16])
def test_rows_trained_by_peft_are_refused_by_their_shape(rank):
    """Because peft looks up rows of ``weight`` itself, without the projection."""
    wrapped = get_peft_model(
        factorize_embeddings(build("llama", V), rank),
        LoraConfig(target_modules=["q_proj"], trainable_token_indices={"embed_tokens": [3, 4]}),
    )
    with pytest.raises(RuntimeError, match="size|shape"):
        wrapped(IDS)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_gradients_with_checkpointing_are_those_without(name):
    grads = []
    for checkpointing in (False, True):
        model = _without_dropout(_factorised(name))
        if checkpointing:
            model.activation_checkpointing_enable()
            model.enable_input_require_grads()
        model(input_ids=IDS, labels=IDS).loss.backward()
        layer = model.get_input_embeddings()
        grads.append((layer.weight.grad, layer.projection.grad))
    for plain, saved in zip(*grads, strict=True):
        torch.testing.assert_close(plain, saved, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "gemma"])
def test_compiled_models_compute_the_same(name):
    model = _factorised(name)
    expected = logits(model, IDS)
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factorised", [True, False])
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "albert", "electra", "modernbert", "esm"])
def test_logits_at_labels_only_give_the_same_loss_and_gradients(name, factorised):
    labels = torch.where(torch.arange(8) % 3 == 1, IDS, -100)
    model = _without_dropout(_factorised(name) if factorised else build(name, V))
    whole = model(input_ids=IDS, labels=labels)
    whole.loss.backward()
    grad = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    assert masked_positions_only(model) is model
    part = model(input_ids=IDS, labels=labels)
    part.loss.backward()
    assert part.logits.shape == (int((labels != -100).sum()), V)
    torch.testing.assert_close(part.loss, whole.loss)
    torch.testing.assert_close(model.get_input_embeddings().weight.grad, grad)
    torch.testing.assert_close(part.logits, whole.logits[labels != -100])
    copied = copy.deepcopy(model)
    assert copied(input_ids=IDS, labels=labels).logits.ndim == 2
    assert model(input_ids=IDS).logits.shape == (2, 8, V)
    assert model.eval()(input_ids=IDS, labels=labels).logits.shape == (2, 8, V)
    masked_positions_only(model.train(), wanted=False)
    assert model(input_ids=IDS, labels=labels).logits.shape == (2, 8, V)


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_logits_at_labels_only_is_for_masked_models(name):
    """BART's class is among those of masked models, but its decoder reads the labels, shifted."""
    with pytest.raises(UnsupportedModelError, match="no masked language model"):
        masked_positions_only(_factorised(name))


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("tied", [True, False])
def test_learning_rates_move_every_matrix_by_the_same_share(scaling, tied):
    model = factorize_embeddings(build("llama", V, tied), RANK, scaling=scaling)
    groups = factorized_parameter_groups(model, 1e-3, weight_decay=0.1)
    counted = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(counted) == sorted(map(id, model.parameters()))
    tables = [group for group in groups if group["name"].endswith((".weight", ".projection"))]
    assert len(tables) == (2 if tied else 4)
    for group in tables:
        layer = model.get_submodule(group["name"].rpartition(".")[0])
        dense = (layer.weight @ layer.projection).detach()
        share = group["lr"] / group["params"][0].detach().square().mean().sqrt()
        torch.testing.assert_close(share, 1e-3 / dense.square().mean().sqrt(), rtol=1e-3, atol=0)
        assert group["weight_decay"] == 0
    decays = {group["name"]: group["weight_decay"] for group in groups}
    assert {name: decays[name] for name in ("decay", "no_decay")} == {"decay": 0.1, "no_decay": 0.0}
    torch.optim.AdamW(groups).step()


def test_mistaken_groups_are_refused():
    with pytest.raises(UnsupportedModelError, match="No table"):
        factorized_parameter_groups(build("bert", V), 1e-3)
    with pytest.raises(InvalidOptionError, match="projection_lr is -1"):
        factorized_parameter_groups(_factorised("bert"), 1e-3, projection_lr=-1)
