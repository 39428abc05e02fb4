"""Two heads on one model: each is that of an ordinary model, and together they train, save, load and resume as one."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils import extract_model_from_parallel
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel, BertConfig, TrainingArguments

import hf_vocab_extend  # noqa: F401  (tells the Auto classes)
from hf_vocab_extend.adaptation.mini_model.joint import MiniJointConfig, MiniJointModel
from hf_vocab_extend.adaptation.mini_model.record import bottom_moved, read_record, table_hashes
from hf_vocab_extend.errors import InvalidOptionError, UnsupportedModelError

from .adapting import V, trainer_for
from .mini_models import computed_in_bfloat16
from .models import build

pytestmark = pytest.mark.usefixtures("one_thread")

N_LAYERS, LAYER = 3, 2
LAYERS = {"num_hidden_layers": N_LAYERS}
DEEP = {
    "bert": LAYERS,
    "roberta": LAYERS,
    "distilbert": {"n_layers": N_LAYERS},
    "modernbert": {**LAYERS, "global_attn_every_n_layers": 2},
    "llama": LAYERS,
    "gpt2": {"n_layer": N_LAYERS},
    "qwen2": LAYERS,
    "gemma2": {**LAYERS, "query_pre_attn_scalar": 8, "sliding_window": 4},
    "gemma3": {**LAYERS, "sliding_window": 4},
}
MASKED = ("bert", "roberta", "distilbert", "modernbert")


def deep(name: str, tied: bool = True, dropout: float = 0.0, **options: object):
    """A model of three layers whose norms differ from each other."""
    plain = build(name, V, tied, **{**DEEP[name], **options}).config
    rates = {key: dropout for key in vars(plain) if "drop" in key and isinstance(getattr(plain, key), float)}
    model = build(name, V, tied, **{**DEEP[name], **rates, **options})
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def joined(name: str, tied: bool = True, dropout: float = 0.0, **options: object) -> MiniJointModel:
    """A joint model whose second head differs from the first."""
    joint = MiniJointModel.from_model(deep(name, tied, dropout), LAYER, **options)
    generator = torch.Generator().manual_seed(6)
    for parameter in joint.mini_head.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return joint


def batch(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Two texts, one of them padded, with labels: some for masked models, all for others."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, V, (2, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    if name in MASKED:
        labels = labels.masked_fill(torch.rand(ids.shape, generator=generator) < 0.6, -100)
        labels[:, 1] = ids[:, 1]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("name", DEEP)
def test_each_head_is_that_of_an_ordinary_model_to_the_bit(name):
    joint, inputs = joined(name), batch(name)
    ordinary = {"use_cache": False} if name not in MASKED else {}
    with torch.no_grad():
        both, full = joint(**inputs), joint.primary(**inputs, **ordinary)
        mini = joint.cut()
        small = mini(**inputs, **ordinary)
    assert torch.equal(both.logits, full.logits)
    assert torch.equal(both.primary_loss, full.loss)
    assert torch.equal(both.mini_logits, small.logits)
    assert torch.equal(both.mini_loss, small.loss)
    torch.testing.assert_close(both.loss, (full.loss + small.loss) / 2, rtol=1e-6, atol=0)
    assert not torch.equal(both.logits, both.mini_logits)
    assert type(mini) is type(joint.primary)


@pytest.mark.parametrize("unwrapped", [True, False])
def test_heads_stand_on_a_model_that_a_trainer_computed_in_bfloat16(unwrapped):
    """It leaves a forward bound to that model, which a view must not call: both heads would be the first."""
    model, inputs = deep("llama"), batch("llama")
    expected = MiniJointModel.from_model(copy.deepcopy(model), 2).eval()(**inputs)
    computed_in_bfloat16(model)
    if unwrapped:
        extract_model_from_parallel(model, keep_fp32_wrapper=False)
    before = vars(model)["forward"]
    joint = MiniJointModel.from_model(model, 2).eval()
    assert vars(model)["forward"] is before, "the wrapper is the caller's: it stays"
    both = joint(**inputs)
    close = {"rtol": 1e-6, "atol": 1e-6} if unwrapped else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(both.logits, expected.logits, **close)
    torch.testing.assert_close(both.mini_logits, expected.mini_logits, **close)
    assert not torch.allclose(expected.logits, expected.mini_logits, **close)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", DEEP)
def test_gradients_are_the_sums_of_those_of_two_models(name, tied):
    joint = joined(name, tied, mini_weight=0.25).train()
    inputs = batch(name)
    full = copy.deepcopy(joint.primary).train()
    small = copy.deepcopy(joint.cut()).train().requires_grad_(True)
    loss = joint(**inputs).loss
    loss.backward()
    naive = 0.75 * full(**inputs).loss + 0.25 * small(**inputs).loss
    naive.backward()
    torch.testing.assert_close(loss, naive, rtol=1e-5, atol=1e-6)
    fulls, smalls = dict(full.named_parameters()), dict(small.named_parameters())
    heads = dict(joint.mini_head.named_parameters())
    for key, parameter in joint.primary.named_parameters():
        expected = fulls[key].grad
        if expected is None:  # a bias that an untied BERT does not read
            assert parameter.grad is None
            continue
        if key in smalls and key not in heads:
            expected = expected + smalls[key].grad
        torch.testing.assert_close(
            parameter.grad, expected, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: key + text
        )
    assert heads
    for key, parameter in heads.items():
        torch.testing.assert_close(parameter.grad, smalls[key].grad, rtol=1e-4, atol=1e-6)


def flops(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> dict[str, int]:
    """Operations of a forward pass, all and those of matrices that write tokens."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs)
    return counter.get_total_flops()


def test_flops_of_a_masked_model_in_training_are_layers_once_and_heads_at_labels_only():
    joint, inputs = joined("bert").train(), batch("bert")
    width, n_labels = joint.primary.config.hidden_size, int((inputs["labels"] != -100).sum())
    states = torch.zeros(1, 9, width).expand(2, -1, -1)
    mask = torch.zeros(2, 1, 9, 9)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        joint.primary.bert.encoder.layer[0](states, mask)
    head = 2 * n_labels * width * (width + V)
    assert 0 < n_labels < inputs["labels"].numel() / 2
    assert flops(joint, inputs) == N_LAYERS * counter.get_total_flops() + 2 * head
    everywhere = 2 * inputs["labels"].numel() * width * (width + V)
    assert flops(joint.eval(), inputs) == N_LAYERS * counter.get_total_flops() + 2 * everywhere


def test_flops_of_a_causal_model_are_those_of_the_whole_and_one_head_more():
    joint, inputs = joined("gpt2"), batch("gpt2")
    whole = flops(joint.primary, {**inputs, "use_cache": False})
    assert flops(joint, inputs) == whole + 2 * inputs["labels"].numel() * joint.primary.config.n_embd * V


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_labelled_positions_alone_change_neither_losses_nor_gradients(name):
    some, all_of_them = joined(name).train(), joined(name, labelled_only=False).train()
    inputs = batch(name)
    few, many = some(**inputs), all_of_them(**inputs)
    n_labels = int((inputs["labels"] != -100).sum())
    assert few.logits.shape == few.mini_logits.shape == (n_labels, V)
    assert many.logits.shape == many.mini_logits.shape == (2, 9, V)
    few.loss.backward()
    many.loss.backward()
    torch.testing.assert_close(few.loss, many.loss)
    others = dict(all_of_them.named_parameters())
    for key, parameter in some.named_parameters():
        torch.testing.assert_close(parameter.grad, others[key].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_parts_of_a_step_add_up_to_the_step(name):
    """As the Trainer accumulates: each part is told how many labels the whole step has."""
    joint = joined(name).train()
    inputs = batch(name)
    whole = joint(**inputs)
    counted = inputs["labels"] if name in MASKED else inputs["labels"][:, 1:]
    total = (counted != -100).sum()
    parts = [joint(**{key: value[[row]] for key, value in inputs.items()}, num_items_in_batch=total) for row in (0, 1)]
    assert int((counted[0] != -100).sum()) != int((counted[1] != -100).sum())
    torch.testing.assert_close(parts[0].loss + parts[1].loss, whole.loss)


def test_a_batch_without_labels_gives_no_gradient_instead_of_none_numbers():
    joint, inputs = joined("bert").train(), batch("bert")
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    loss = joint(**inputs, num_items_in_batch=4).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(not parameter.grad.any() for parameter in joint.parameters())


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_accumulated_training_is_that_of_the_large_batch(tmp_path, name):
    """Batches have different numbers of labels, so a mean of means would differ."""
    data = [{key: value[row] for key, value in batch(name, seed).items()} for seed in range(12) for row in (0, 1)]
    models = [joined(name), joined(name)]
    large = {"per_device_train_batch_size": 4}
    small = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    for model, sizes in zip(models, (large, small), strict=True):
        options = {**sizes, "max_steps": 4, "optim": "sgd", "weight_decay": 0.0}
        trainer_for(model, tmp_path, data=data, **options).train()
    one, other = (dict(model.named_parameters()) for model in models)
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_run_that_is_taken_up_again_ends_like_the_whole_run(tmp_path, name):
    data = [{key: value[row] for key, value in batch(name, seed).items()} for seed in range(8) for row in (0, 1)]
    whole, again = joined(name, dropout=0.1), joined(name, dropout=0.1)
    before = {key: value.detach().clone() for key, value in whole.named_parameters()}
    options = {"save_strategy": "steps", "save_steps": 3, "data": data}
    trainer_for(whole, tmp_path / "whole", **options).train()
    checkpoint = str(tmp_path / "whole" / "checkpoint-3")
    trainer_for(again, tmp_path / "again", **options).train(resume_from_checkpoint=checkpoint)
    others = dict(again.named_parameters())
    for key, parameter in whole.named_parameters():
        assert torch.equal(parameter, others[key]), key
        assert not torch.equal(parameter, before[key]), key


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"bf16": True}], ids=["checkpointed", "bf16"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_training_with_less_memory_is_nearly_the_same(tmp_path, name, options):
    data = [{key: value[row] for key, value in batch(name).items()} for row in (0, 1)]
    names = set(TrainingArguments.__dataclass_fields__)
    if "gradient_checkpointing" in options and "activation_checkpointing" in names:
        options = {"activation_checkpointing": True}
    losses = []
    for more in ({}, options):
        trainer = trainer_for(joined(name), tmp_path, data=data, max_steps=3, **more)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=2e-2 if "bf16" in options else 1e-5)
    assert losses[0][0] > losses[0][-1]


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_give_the_same_gradients(reentrant):
    """Both ways to checkpoint: states are taken outside of what runs again."""
    inputs, grads = batch("bert"), []
    for checkpointed in (False, True):
        joint = joined("bert").train()
        if checkpointed:
            enable = getattr(joint, "activation_checkpointing_enable", None) or joint.gradient_checkpointing_enable
            enable({"use_reentrant": reentrant})
        joint(**inputs).loss.backward()
        grads.append({key: value.grad for key, value in joint.named_parameters()})
    for key, grad in grads[0].items():
        torch.testing.assert_close(grads[1][key], grad, rtol=1e-4, atol=1e-6)


def test_two_processes_find_no_unused_parameter():
    """What DistributedDataParallel asks: every parameter gets a gradient from one forward pass."""
    for name in ("bert", "modernbert", "gpt2"):
        joint = joined(name).train()
        joint(**batch(name)).loss.backward()
        assert [key for key, value in joint.named_parameters() if value.grad is None] == []
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(joint)
        for _ in range(2):
            wrapped(**batch("gpt2")).loss.backward()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "llama", "gpt2", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_loaded_bit_by_bit(tmp_path, name, tied):
    joint = joined(name, tied, mini_weight=0.3)
    joint.save_pretrained(tmp_path)
    for loaded in (MiniJointModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert type(loaded) is MiniJointModel
        assert type(loaded.primary) is type(joint.primary)
        own, others = joint.state_dict(), loaded.state_dict()
        assert own.keys() == others.keys()
        assert all(torch.equal(own[key], others[key]) for key in own)
        assert loaded.config.mini_weight == 0.3
        inputs = batch(name)
        with torch.no_grad():
            one, other = joint(**inputs), loaded(**inputs)
        for key in ("loss", "logits", "mini_logits"):
            assert torch.equal(one[key], other[key])
    table, head = loaded.get_input_embeddings().weight, loaded.get_output_embeddings().weight
    assert (table.data_ptr() == head.data_ptr()) == tied
    names = load_file(tmp_path / "model.safetensors").keys()
    assert sum(value.shape[:1] == (V,) and value.ndim == 2 for value in map(own.get, names)) == (1 if tied else 2)


def test_half_precision_and_settings_of_generation_are_kept(tmp_path):
    model = deep("llama").to(torch.bfloat16)
    model.generation_config.max_new_tokens = 7
    joint = MiniJointModel.from_model(model, LAYER)
    assert {value.dtype for value in joint.parameters()} == {torch.bfloat16}
    joint.save_pretrained(tmp_path)
    loaded = MiniJointModel.from_pretrained(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}
    assert loaded.primary.generation_config.max_new_tokens == 7
    eager = MiniJointModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert eager.primary.config._attn_implementation == "eager"


def test_a_fresh_process_finds_the_class_by_the_folder_alone(tmp_path):
    joint = joined("bert")
    joint.primary.config._name_or_path = "/home/someone/bert"
    joint.save_pretrained(tmp_path)
    assert "someone" not in (tmp_path / "config.json").read_text("utf-8")
    script = (
        "import sys, hf_vocab_extend; from transformers import AutoConfig, AutoModel;"
        "loaded = [name for name in sys.modules if 'mini_model' in name];"
        f"print(len(loaded), type(AutoConfig.from_pretrained({str(tmp_path)!r})).__name__,"
        f" type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.split() == ["0", "MiniJointConfig", "MiniJointModel"]
    assert isinstance(AutoConfig.from_pretrained(tmp_path), MiniJointConfig)


def test_the_primary_and_the_cut_are_ordinary_checkpoints(tmp_path):
    joint = joined("bert")
    mini = joint.cut()
    for part, n_layers in ((joint.primary, N_LAYERS), (mini, LAYER)):
        part.save_pretrained(tmp_path / str(n_layers))
        loaded = type(part).from_pretrained(tmp_path / str(n_layers))
        assert loaded.config.num_hidden_layers == n_layers == len(loaded.bert.encoder.layer)
        inputs = batch("bert")
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).logits, part(**inputs).logits)
    record = read_record(loaded)
    assert (record.kind, record.bottom_layers, record.new_layers) == ("joint", LAYER, 0)
    assert (record.source_vocab_size, record.width) == (V, joint.primary.config.hidden_size)
    assert record.source_tables == table_hashes(joint.primary)
    assert read_record(joint.primary) is None
    assert not bottom_moved(loaded, record)
    with torch.no_grad():
        joint.primary.bert.encoder.layer[LAYER - 1].output.dense.bias[0] += 1
    assert bottom_moved(mini, record)


def test_the_cut_does_not_remember_what_was_put_into_the_primary():
    joint = joined("bert")
    joint.primary.config.mini_model = {"plugged": {"of": "another"}}
    assert "plugged" not in joint.cut().config.mini_model
    assert joint.primary.config.mini_model == {"plugged": {"of": "another"}}


@pytest.mark.parametrize("name", DEEP)
def test_the_cut_shares_storage_and_trains_nothing(name):
    joint = joined(name)
    flags = {key: value.requires_grad for key, value in joint.named_parameters()}
    mini = joint.cut()
    heads, full = dict(joint.mini_head.named_parameters()), dict(joint.primary.named_parameters())
    for key, parameter in mini.named_parameters():
        source = heads.get(key, full[key])
        assert parameter.data_ptr() == source.data_ptr()
        assert parameter is not source
        assert not parameter.requires_grad
    assert {key: value.requires_grad for key, value in joint.named_parameters()} == flags
    before = joint.get_input_embeddings().weight.clone()
    mini.resize_token_embeddings(V + 3)
    assert torch.equal(joint.get_input_embeddings().weight, before)


def test_from_scratch_draws_by_its_seed_alone():
    config = deep("bert").config
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    made = [MiniJointModel.from_scratch(config, 1, seed=seed, model_class="BertForMaskedLM") for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    one, same, other = (model.state_dict() for model in made)
    assert all(torch.equal(one[key], same[key]) for key in one)
    keys = [f"{part}cls.predictions.transform.dense.weight" for part in ("model.", "mini_head.")]
    assert all(not torch.equal(one[key], other[key]) for key in keys)
    assert not torch.equal(one[keys[0]], one[keys[1]])
    assert one[keys[1]].std() == pytest.approx(config.initializer_range, rel=0.3)
    assert made[0].primary.config is made[0].config.primary
    assert made[0].primary.config is not config


def test_a_second_head_begins_as_a_copy_or_fresh_and_the_model_keeps_its_values():
    model = deep("bert")
    before = copy.deepcopy(model.state_dict())
    model.resize_token_embeddings(V)
    copied, fresh = MiniJointModel.from_model(model, 1), MiniJointModel.from_model(model, 1, copy_head=False)
    assert copied.primary is model
    name = "cls.predictions.transform.dense.weight"
    own = model.get_parameter(name)
    assert torch.equal(copied.mini_head.get_parameter(name), own)
    assert copied.mini_head.get_parameter(name).data_ptr() != own.data_ptr()
    assert not torch.equal(fresh.mini_head.get_parameter(name), own)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_an_evaluation_by_the_trainer_sees_the_logits_of_the_primary(tmp_path):
    joint = joined("bert")
    data = [{key: value[row] for key, value in batch("bert", seed).items()} for seed in range(2) for row in (0, 1)]
    trainer = trainer_for(joint, tmp_path, data=data)
    predicted = trainer.predict(data)
    with torch.no_grad():
        expected = joint.primary(**{key: torch.stack([row[key] for row in data]) for key in data[0]}).logits
    assert predicted.predictions.shape == (4, 9, V)
    torch.testing.assert_close(torch.tensor(predicted.predictions), expected)


@pytest.mark.parametrize("layer", [0, -1, N_LAYERS, N_LAYERS + 1, 1.5, True, None])
def test_a_layer_out_of_range_is_refused(layer):
    with pytest.raises(InvalidOptionError, match="whole number from 1 to 2"):
        MiniJointModel.from_model(deep("bert"), layer)


@pytest.mark.parametrize("weight", [0, 1, -0.5, float("nan")])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(InvalidOptionError, match="mini_weight"):
        MiniJointModel.from_model(deep("bert"), 1, mini_weight=weight)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("albert", LAYERS, "one layer many times"),
        ("t5", {"num_layers": 2, "num_decoder_layers": 2}, "encoder"),
        ("bert_body", LAYERS, "no head"),
    ],
)
def test_models_that_cannot_have_two_heads_are_refused(name, options, message):
    with pytest.raises(UnsupportedModelError, match=message):
        MiniJointModel.from_model(build(name, V, **options), 1)


def test_other_mistakes_are_told():
    joint, inputs = joined("bert"), batch("bert")
    labels = inputs.pop("labels")
    assert joint(**inputs).loss is None
    with pytest.raises(InvalidOptionError, match="no labels"):
        joint.train()(**inputs)
    with pytest.raises(InvalidOptionError, match="output_hidden_states"):
        joint(**inputs, labels=labels, output_hidden_states=True)
    with pytest.raises(InvalidOptionError, match="BertForNothing"):
        MiniJointModel.from_scratch(BertConfig(num_hidden_layers=2), 1, model_class="BertForNothing")
    with pytest.raises(InvalidOptionError, match="None"):
        MiniJointModel(MiniJointConfig())
    with pytest.raises(UnsupportedModelError, match="Linear"):
        MiniJointModel.from_model(torch.nn.Linear(2, 2), 1)
    assert joint.primary.config.output_hidden_states is False


def test_a_model_whose_config_asks_for_more_outputs_still_trains():
    joint = joined("llama").train()
    expected = joint(**batch("llama")).loss
    joint.primary.config.output_hidden_states = True
    for _ in range(2):
        assert torch.equal(joint(**batch("llama")).loss, expected)


def test_positions_that_cannot_be_chosen_are_told_with_the_remedy(monkeypatch):
    model = deep("bert")
    plain = type(model.cls).forward

    def forward(self, states):
        return plain(self, states - states.mean(1, keepdim=True))

    monkeypatch.setattr(type(model.cls), "forward", forward)
    with pytest.raises(UnsupportedModelError, match="labelled_only=False"):
        MiniJointModel.from_model(model, LAYER)
    joint = MiniJointModel.from_model(model, LAYER, labelled_only=False)
    assert joint.train()(**batch("bert")).logits.shape == (2, 9, V)
