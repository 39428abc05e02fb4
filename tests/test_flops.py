"""FLOPs of a training step against torch's own counter and against sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BitsAndBytesConfig, LongformerConfig, LongformerForMaskedLM

from hf_vocab_extend.adaptation.flops import Flops, inference_flops, training_flops
from hf_vocab_extend.adaptation.mini_model.joint import MiniJointModel
from hf_vocab_extend.adaptation.mini_model.layers import find_layer_stack
from hf_vocab_extend.adaptation.tables import vocabulary_tables
from hf_vocab_extend.errors import InvalidOptionError, UnsupportedModelError
from hf_vocab_extend.modeling.masked_positions import masked_positions_only

from .models import build

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {"gpt2": "n_layer", "distilbert": "n_layers"}
MASKED = ["bert", "roberta", "modernbert", "distilbert"]
CAUSAL = ["llama", "gpt2", "qwen2", "gemma"]
B, L = 3, 11


def model_of(name: str, **options: object) -> torch.nn.Module:
    """A model of two layers, with grouped heads and windows of attention where it has them."""
    options = {LAYERS.get(name, "num_hidden_layers"): 2, "attn_implementation": "eager", **options}
    if name == "modernbert":
        options |= {"global_attn_every_n_layers": 2, "local_attention": 4}
    return build(name, **options)


def train_only(model: torch.nn.Module, what: str) -> torch.nn.Module:
    """Set what is trained: everything, the tables alone, or the layers above the first and what follows them."""
    if what != "all":
        model.requires_grad_(False)
    if what == "tables":
        for table in vocabulary_tables(model):
            table.parameter.requires_grad_(True)
    if what == "top":
        stack = find_layer_stack(model)
        modules = dict(model.named_modules())
        for item in [*stack.modules[1:], *(modules[name] for name in stack.after if name in modules)]:
            item.requires_grad_(True)
    return model


def checkpointed(model: torch.nn.Module, reentrant: bool) -> torch.nn.Module:
    """Switch gradient checkpointing on, which transformers 5.2x has given another name."""
    name = "activation_checkpointing_enable"
    getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")({"use_reentrant": reentrant})
    return model


def counted(model: torch.nn.Module, labelled: int = B * L, backward: bool = True) -> int:
    """What torch counts of a step, or of a forward pass in evaluation."""
    ids = torch.arange(5, 5 + B * L).view(B, L)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = ids.clone()
    labels.view(-1)[labelled:] = -100
    with FlopCounterMode(display=False) as counter:
        if not backward:
            model.eval()
            with torch.no_grad():
                model(**inputs)
            return counter.get_total_flops()
        model.train()(**inputs, labels=labels).loss.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("what", ["all", "tables", "top"])
@pytest.mark.parametrize("name", [*MASKED, *CAUSAL])
def test_a_step_costs_what_torch_counts(name: str, what: str) -> None:
    model = train_only(model_of(name), what)
    assert training_flops(model, batch_size=B, length=L).total == counted(model)


@pytest.mark.parametrize("name", ["modernbert", "llama", "gpt2"])
def test_reading_costs_what_torch_counts(name: str) -> None:
    model = model_of(name)
    found = inference_flops(model, batch_size=B, length=L)
    assert found.total == found.forward == counted(model, backward=False)


@pytest.mark.parametrize("name", MASKED)
def test_the_head_runs_at_labels_only(name: str) -> None:
    model = masked_positions_only(train_only(model_of(name), "tables"))
    assert training_flops(model, batch_size=B, length=L, labelled_share=5 / 33).total == counted(model, labelled=5)


def test_only_the_head_is_cheaper_at_few_labels() -> None:
    model = masked_positions_only(model_of("roberta"))
    found = training_flops(model, batch_size=B, length=L, labelled_share=5 / 33)
    everywhere = training_flops(masked_positions_only(model, False), batch_size=B, length=L, labelled_share=5 / 33)
    assert found.by_part["head"] * 33 == everywhere.by_part["head"] * 5
    assert found.by_part["body"] == everywhere.by_part["body"]


def test_sparse_prediction_of_modernbert_is_seen() -> None:
    model = model_of("modernbert", sparse_prediction=True)
    assert training_flops(model, batch_size=B, length=L, labelled_share=5 / 33).total == counted(model, labelled=5)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    ("name", "what"), [("bert", "tables"), ("llama", "all"), ("llama", "top"), ("gpt2", "tables")]
)
def test_checkpointed_layers_are_computed_again(name: str, what: str, reentrant: bool) -> None:
    model = checkpointed(train_only(model_of(name), what), reentrant)
    found = training_flops(model, batch_size=B, length=L)
    assert found.total == counted(model)
    assert found.forward > found.recomputed > 0


def test_the_sum_by_hand() -> None:
    """BERT with tables trained: 6 products of layers, two of attention, the head's transform, and the head."""
    model = train_only(model_of("bert"), "tables")
    n, d, inner, v, layers = B * L, 16, 24, 97, 2
    linear = 2 * n * (4 * d * d + 2 * d * inner) * layers + 2 * n * d * d
    attention = 2 * 2 * B * L * L * d * layers
    head = 2 * n * d * v
    found = training_flops(model, batch_size=B, length=L)
    assert found.forward == linear + attention + head
    assert found.weight_gradients == head
    assert found.activation_gradients == linear + 2 * attention + head
    assert found.by_part == {"body": 2 * linear, "attention": 3 * attention, "head": 3 * head, "positions": 0}


def test_below_the_lowest_trained_layer_there_are_no_gradients() -> None:
    model = train_only(model_of("bert"), "top")
    n, d, inner, v = B * L, 16, 24, 97
    layer, attention, transform = 2 * n * (4 * d * d + 2 * d * inner), 4 * B * L * L * d, 2 * n * d * d
    found = training_flops(model, batch_size=B, length=L)
    assert found.weight_gradients == layer + transform
    first = 2 * n * 3 * d * d  # queries, keys and values of the lowest trained layer hand nothing down
    assert found.activation_gradients == layer - first + 2 * attention + transform + 2 * n * d * v


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_implementations_of_attention_cost_the_same(name: str) -> None:
    eager, fused = (training_flops(model_of(name, attn_implementation=item), length=L) for item in ("eager", "sdpa"))
    assert eager == fused


def test_kernels_of_other_packages_are_seen_through() -> None:
    model = model_of("llama")
    expected = training_flops(model, length=L)
    model.config._attn_implementation_internal = "flash_attention_2"
    assert training_flops(model, length=L) == expected
    assert model.config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("name", ["albert", "deberta_v2", "xlnet", "opt", "bloom", "gemma2"])
def test_other_architectures(name: str) -> None:
    model = build(name, attn_implementation="eager")
    assert training_flops(model, batch_size=B, length=L).total == counted(model)


def test_experts_count_as_often_as_tokens_come_to_them() -> None:
    model = build("mixtral", num_local_experts=4, num_experts_per_tok=2, attn_implementation="eager")
    n, d, inner = B * L, 16, 24
    experts, router, projections = 2 * (2 * n * 3 * d * inner), 2 * n * d * 4, 2 * n * (2 * d * d + 2 * d * 8)
    assert inference_flops(model, batch_size=B, length=L).by_part["body"] == experts + router + projections


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for the old name
def test_adapters_are_seen() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        model_of("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[90, 91])
    )
    assert training_flops(model, batch_size=B, length=L).total == counted(model)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_two_heads_cost_the_bottom_layers_once(name: str) -> None:
    """The middle head of a masked model runs at labels only, of its own accord."""
    joint = MiniJointModel.from_model(model_of(name), layer=1)
    found = training_flops(joint, batch_size=B, length=L, labelled_share=5 / 33)
    assert found.total == counted(joint, labelled=5)
    assert found.by_part["attention"] == training_flops(joint.model, batch_size=B, length=L).by_part["attention"]


def test_what_hangs_off_the_loss_has_no_gradients() -> None:
    model = build("bert_body", attn_implementation="eager")
    found = training_flops(model, length=L)
    attention, pooler = 4 * L * L * 16, 2 * 16 * 16
    assert found.forward - found.weight_gradients == attention + pooler


def test_nothing_of_the_model_changes() -> None:
    model = masked_positions_only(train_only(model_of("bert"), "tables"))
    model.bert.encoder.train()
    checkpointed(model, reentrant=False)
    before = {name: item.clone() for name, item in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    function = model.bert.encoder.layer[0]._gradient_checkpointing_func
    state = torch.get_rng_state()
    training_flops(model, length=L)
    assert all(torch.equal(item, before[name]) for name, item in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.bert.encoder.layer[0]._gradient_checkpointing_func is function


def test_flops_add_up() -> None:
    one = Flops(6, 5, 4, 3, {"body": 10, "attention": 0, "head": 8, "positions": 0})
    assert (one + one).to_dict() == (one * 2).to_dict() == (2 * one).to_dict()
    assert sum([one, one], Flops()) == 2 * one
    assert sum(one.by_part.values()) == one.total == one.to_dict()["total"]


@pytest.mark.parametrize(
    ("make", "fact"),
    [
        (lambda: build("mamba"), r"aten\.convolution.*backbone\.layers\.0\.mixer\.conv1d"),
        (lambda: build("t5"), "an encoder and a decoder"),
        (lambda: _with_integers(build("llama")), "q_proj.weight' is of type torch.int8"),
        (lambda: _marked_as_quantised(build("llama")), "is quantised"),
        (lambda: build("bert").to("meta"), "has no data here"),
        (lambda: _without_attention(build("bert")), "no product of activations"),
        (lambda: _longformer(), "in blocks"),
        (lambda: torch.nn.Linear(2, 2), "no tables"),
    ],
    ids=["mamba", "seq2seq", "int8", "quantised", "meta", "no attention", "blocks", "no model"],
)
def test_what_cannot_be_counted_is_named(make: object, fact: str) -> None:
    with pytest.raises(UnsupportedModelError, match=fact):
        training_flops(make(), length=40)


def _with_integers(model: torch.nn.Module) -> torch.nn.Module:
    weight = model.model.layers[0].self_attn.q_proj.weight.detach().to(torch.int8)
    model.model.layers[0].self_attn.q_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model


def _marked_as_quantised(model: torch.nn.Module) -> torch.nn.Module:
    model.is_quantized, model.config.quantization_config = True, BitsAndBytesConfig(load_in_8bit=True)
    return model


def _without_attention(model: torch.nn.Module) -> torch.nn.Module:
    model.bert.encoder.layer = torch.nn.ModuleList()
    return model


def _longformer() -> torch.nn.Module:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LongformerForMaskedLM(LongformerConfig(vocab_size=97, attention_window=[16], **sizes)).eval()


@pytest.mark.parametrize("bad", [{"length": 0}, {"batch_size": 0}, {"labelled_share": 1.1}, {"labelled_share": -0.1}])
def test_sizes_that_make_no_sense(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidOptionError):
        training_flops(build("bert"), **{"length": L, **bad})


def test_a_length_that_the_model_does_not_read() -> None:
    with pytest.raises(UnsupportedModelError, match="does not run on 1 x 41"):
        training_flops(build("bert"), length=41)
