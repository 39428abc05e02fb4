"""Small extensions to distil, and the tables that must not move."""

from __future__ import annotations

import copy
from functools import cache

import torch
from transformers import BertModel, PreTrainedModel, PreTrainedTokenizerBase

from hf_vocab_extend import VocabExtension, extend_tokenizer, extend_vocabulary
from hf_vocab_extend.adaptation.rows import new_row_ids

from .factories import sample_pairs, swahili, tokenizer
from .stub_extension import make_bert
from .tiny_models import make_llama

PAIRS = [pair for pair in sample_pairs()[:150]]
CASES = {
    "bert": "bert-uncased",
    "bert without head": "bert-uncased",
    "llama": "llama3",
    "llama tied": "llama3",
}
MODES = [("bert", "extend"), ("bert without head", "replace"), ("llama", "replace"), ("llama tied", "extend")]
"""Each case in one mode, and each mode with and without a table of the head's own."""


@cache
def grown(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer with 60 Swahili tokens more."""
    return extend_tokenizer(tokenizer(name), swahili(150), num_new_tokens=60)


def base_model(case: str) -> PreTrainedModel:
    """The untouched model of a case, the same at every call."""
    torch.manual_seed(5)
    if case == "bert":
        model = make_bert()
    elif case == "bert without head":
        model = BertModel(make_bert().config).eval()
    else:
        model = make_llama(tokenizer("llama3"), tied="tied" in case)
    with torch.no_grad():  # the start of training is nearly zero, and everything would match everything
        for item in {
            id(item): item for item in (model.get_input_embeddings(), model.get_output_embeddings())
        }.values():
            if item is not None:
                item.weight.normal_(std=0.5)
    return model


def extended(case: str, mode: str = "extend") -> tuple[VocabExtension, PreTrainedModel, PreTrainedTokenizerBase]:
    """An extension, the untouched model, and its tokenizer."""
    model, own = base_model(case), tokenizer(CASES[case])
    target = grown(CASES[case])
    extension = extend_vocabulary(copy.deepcopy(model), target, "subword", tokenizer=own, mode=mode)
    if mode == "replace":
        assert extension.report.mode == "replace"
    return extension, model, own


def frozen_state(extension: VocabExtension) -> dict[str, torch.Tensor]:
    """Copies of everything but the new rows of the input table and the head."""
    state = {name: tensor.detach().clone() for name, tensor in extension.model.state_dict().items()}
    ids = new_row_ids(extension)
    n_rows = extension.model.get_input_embeddings().weight.shape[0]
    for tensor in state.values():
        if tensor.ndim == 2 and tensor.shape[0] == n_rows:
            tensor[ids] = 0
    return state


def assert_same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    """Raise unless two states are equal bit by bit."""
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
