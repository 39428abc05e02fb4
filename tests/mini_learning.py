"""Tiny full models with their tokenizers, a tokenizer of another language, and a very short training on it."""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedModel

from hf_vocab_extend.adaptation.mini_model.building import build_mini_model
from hf_vocab_extend.adaptation.mini_model.learning import LearnedEmbeddings, learn_embeddings

from . import factories
from .models import DECODERS, build
from .tiny_models import n_rows

SOURCE = {
    "bert": "bert-uncased",
    "xlm_roberta": "xlmr",
    "distilbert": "bert-cased",
    "modernbert": "bert-cased",
    "gpt2": "gpt2",
    "llama": "llama2",
}
"""Architecture to the family of its tokenizer."""
LAYERS = {"distilbert": "n_layers", "gpt2": "n_layer"}
TASKS = {"classification": AutoModelForSequenceClassification, "tagging": AutoModelForTokenClassification}


@pytest.fixture
def no_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without a picture of the curves: it takes longer than the training."""
    monkeypatch.setattr("hf_vocab_extend.adaptation.checkpoints.write_curves", lambda *args: None)


@cache
def swahili_tokenizer(family: str = "xlmr", size: int = 400) -> Any:
    """A tokenizer of Swahili alone."""
    return factories.TOKENIZERS[family](size, factories.swahili())


def source_tokenizer(name: str) -> Any:
    """The tokenizer of a full model."""
    return factories.tokenizer(SOURCE[name])


def full_model(name: str = "bert", *, tied: bool = True, **options: Any) -> PreTrainedModel:
    """A language model of three layers that belongs to its tokenizer, the same at every call."""
    own = source_tokenizer(name)
    options = {LAYERS.get(name, "num_hidden_layers"): 3, **options}
    roles = {"modernbert": ("bos", "eos", "pad", "cls", "sep")}.get(name, ("bos", "eos"))
    if name in DECODERS or name == "modernbert":
        options = {f"{role}_token_id": getattr(own, f"{role}_token_id") for role in roles} | options
    return build(name, n_rows(own), tied, **options)


def mini_of(model: PreTrainedModel, num_layers: int = 1, new_layers: int = 1, *, dropout: bool = True) -> Any:
    """A mini-model of it, in evaluation mode."""
    mini = build_mini_model(model, num_layers, new_layers).eval()
    for module in mini.modules():
        if isinstance(module, torch.nn.Dropout) and not dropout:
            module.p = 0.0
    return mini


def learn(mini: Any, folder: Path, source: str, new_tokenizer: Any = None, **options: Any) -> LearnedEmbeddings:
    """Learn a Swahili table in two steps; the source is the name of the full model."""
    settings = {"use_cpu": True, "disable_tqdm": True, "logging_strategy": "no", "lr_scheduler_type": "constant"}
    given: dict[str, Any] = {
        "steps": 2,
        "block_size": 16,
        "batch_size": 2,
        "learning_rate": 1e-2,
        "warmup": 0.0,
        "held_out": 0,
        "method": "subword",
        "tokenizer": source_tokenizer(source),
        "training_arguments": settings,
    }
    new_tokenizer = swahili_tokenizer() if new_tokenizer is None else new_tokenizer
    return learn_embeddings(mini, new_tokenizer, factories.swahili(40), folder, **(given | options))


def task_model(model: PreTrainedModel, task: str = "classification") -> PreTrainedModel:
    """A task model with the body of a language model, whose layers were then moved as fine-tuning does."""
    made = TASKS[task].from_config(model.config).eval()
    made.load_state_dict(model.state_dict(), strict=False)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if ".0." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.01)
    return made


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all values, buffers included."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_same_state(
    now: dict[str, torch.Tensor], then: dict[str, torch.Tensor], but: Set[str] = frozenset()
) -> None:
    """Every tensor has the same bits, but for some."""
    assert now.keys() == then.keys()
    for name in now.keys() - but:
        assert now[name].dtype == then[name].dtype, name
        assert torch.equal(now[name], then[name]), name
