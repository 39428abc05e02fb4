"""Factorised models in memory: every architecture computes what a dense model with the truncated table computes."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import DebertaConfig, DebertaForMaskedLM, PreTrainedModel

from hf_vocab_extend import factorize_embeddings, merge_factorized
from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, UnsupportedModelError
from hf_vocab_extend.modeling.factorized import factorized_modules, is_factorized
from hf_vocab_extend.surgery.journal import Journal
from hf_vocab_extend.surgery.low_rank import principal_basis
from hf_vocab_extend.surgery.sites import find_sites

from .models import BODIES, NESTED, SPECS, build, logits

V, RANK = 97, 7
REFUSED = {"mobilebert": "cls.predictions.dense.weight"}
"""Models that cannot be factorised, and the tensor that the message names."""
CASES = [
    (name, tied)
    for name in [*SPECS, *NESTED]
    for tied in (True, False)
    if name not in REFUSED and (tied or name not in BODIES)
]
RETIED = {"umt5"}
"""Models whose ``tie_weights()`` ties a head of its own, dense or not: their flag is arithmetic, too."""
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [90, 4, 33, 61, 17, 5, 96, 2]])


pytestmark = pytest.mark.usefixtures("one_thread")


def _truncated(table: torch.Tensor, rank: int) -> torch.Tensor:
    """The best approximation of that rank, by LAPACK."""
    left, values, right = torch.linalg.svd(table.double(), full_matrices=False)
    return (left[:, :rank] * values[:rank] @ right[:rank]).float()


def _with_truncated_tables(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    with torch.no_grad():
        for site in find_sites(model, V):
            if site.roles & {"input", "head"}:
                site.tensor.copy_(_truncated(site.table(), rank))
    return model


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_logits_are_those_of_the_truncated_table(name, tied):
    expected = logits(_with_truncated_tables(build(name, V, tied), RANK), IDS)
    model = build(name, V, tied)
    kinds = type(model), type(model.config)
    factorize_embeddings(model, RANK)
    assert is_factorized(model.get_input_embeddings())
    assert isinstance(model, kinds[0])
    assert isinstance(model.config, kinds[1])
    torch.testing.assert_close(logits(model, IDS), expected, rtol=1e-4, atol=1e-4)
    if tied or name not in RETIED:
        model.tie_weights()
        torch.testing.assert_close(logits(model, IDS), expected, rtol=1e-4, atol=1e-4)
    assert merge_factorized(model) is model
    assert (type(model), type(model.config)) == kinds
    assert not factorized_modules(model)
    torch.testing.assert_close(logits(model, IDS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "tied"), CASES)
def test_the_full_rank_is_the_dense_model_and_ties_stay(name, tied):
    model = build(name, V, tied)
    before = logits(model, IDS)
    weight, parameters = model.get_input_embeddings().weight, dict(model.named_parameters(remove_duplicate=False))
    keys = set(model.state_dict())
    sites = find_sites(model, V)
    head = sites.head or sites.input
    factorize_embeddings(model, sites.input.table().shape[1], head_rank=head.table().shape[1])
    torch.testing.assert_close(logits(model, IDS), before, rtol=1e-3, atol=1e-4)
    assert model.get_input_embeddings().weight is weight
    head = model.get_output_embeddings()
    if head is not None:
        layers = [module for module in factorized_modules(model).values() if isinstance(module, nn.Embedding)]
        assert any(head.weight is layer.weight for layer in layers) == sites.tied
        assert any(head.projection is layer.projection for layer in layers) == sites.tied
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[key] is parameters[key] for key in parameters)
    assert {*after} - {*parameters} == {f"{key}.projection" for key in factorized_modules(model)}
    merge_factorized(model)
    assert set(model.state_dict()) == keys
    assert model.get_input_embeddings().weight is weight


@pytest.mark.parametrize(("name", "tensor"), REFUSED.items())
def test_models_that_read_the_table_themselves_are_refused_by_name_and_untouched(name, tensor):
    model = build(name, V)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UnsupportedModelError, match=f"cannot be factorised.*{tensor}"):
        factorize_embeddings(model, RANK)
    assert not hasattr(model.config, "factorization")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_table_that_is_used_outside_of_its_layer_is_refused():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = DebertaForMaskedLM(DebertaConfig(vocab_size=V, legacy=False, **sizes)).eval()
    with pytest.raises(UnsupportedModelError, match="reads .*word_embeddings.weight itself"):
        factorize_embeddings(model, RANK)
    assert type(model) is DebertaForMaskedLM


class _OwnLookup(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return functional.embedding(ids, self.weight) * 2


def test_a_layer_that_looks_up_by_itself_is_refused():
    model = build("bert", V)
    model.bert.embeddings.word_embeddings.__class__ = _OwnLookup
    with pytest.raises(UnsupportedModelError, match="layer of its own kind"):
        factorize_embeddings(model, RANK)


@pytest.mark.parametrize("rank", [0, -1, 17, 98, 2.5, True, "7"])
def test_ranks_out_of_range_are_refused_with_the_limits(rank):
    model = build("bert", V)
    with pytest.raises(InvalidOptionError, match=r"The rank is .* whole ranks from 1 to 16\."):
        factorize_embeddings(model, rank)
    assert not factorized_modules(model)


def test_other_mistakes_are_named():
    model = build("bert", V)
    with pytest.raises(InvalidOptionError, match="scaling"):
        factorize_embeddings(model, RANK, scaling="fair")
    with pytest.raises(UnsupportedModelError, match="nothing to merge"):
        merge_factorized(model)
    with pytest.raises(UnsupportedModelError, match="not a transformers model"):
        factorize_embeddings(nn.Embedding(3, 4), 2)
    factorize_embeddings(model, RANK)
    with pytest.raises(UnsupportedModelError, match="factorised already"):
        factorize_embeddings(model, RANK)
    broken = build("bert", V)
    broken.get_input_embeddings().weight.data[3, 2] = float("nan")
    with pytest.raises(InvalidTableError, match="NaN"):
        factorize_embeddings(broken, RANK)


def test_heads_of_their_own_have_their_own_rank_and_a_share_chooses_one():
    model = build("llama", V, tied=False)
    table, head = model.get_input_embeddings().weight.clone(), model.lm_head.weight.clone()
    factorize_embeddings(model, 0.5, head_rank=5)
    values = torch.linalg.svdvals(table.double()).square()
    rank = model.get_input_embeddings().weight.shape[1]
    assert values[:rank].sum() >= 0.5 * values.sum() > values[: rank - 1].sum()
    assert model.lm_head.weight.shape == (V, 5)
    product = model.lm_head.weight @ model.lm_head.projection
    torch.testing.assert_close(product, _truncated(head, 5), rtol=1e-4, atol=1e-4)


def test_the_directions_of_another_table_serve():
    model, other = build("llama", V), torch.randn(300, 16, generator=torch.Generator().manual_seed(1))
    table = model.get_input_embeddings().weight.clone()
    factorize_embeddings(model, RANK, bases={"model.embed_tokens.weight": principal_basis(other)})
    layer = model.get_input_embeddings()
    _, _, right = torch.linalg.svd(other.double(), full_matrices=False)
    expected = table.double() @ right[:RANK].T @ right[:RANK]
    torch.testing.assert_close((layer.weight @ layer.projection).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "t5", "gemma"])
def test_a_journal_takes_everything_back(name):
    model = build(name, V, tied=name != "t5")
    before, kinds = logits(model, IDS), (type(model), type(model.config))
    state, ties = set(model.state_dict()), dict(model.all_tied_weights_keys)
    journal = Journal()
    factorize_embeddings(model, RANK, journal=journal)
    assert not torch.equal(logits(model, IDS), before)
    journal.undo()
    assert torch.equal(logits(model, IDS), before)
    assert (type(model), type(model.config)) == kinds
    assert set(model.state_dict()) == state
    assert model.all_tied_weights_keys == ties
    assert "factorization" not in vars(model.config)


@pytest.mark.parametrize(("name", "tied"), [("bert", True), ("llama", False), ("bart", True), ("gemma", True)])
def test_rows_can_be_added(name, tied):
    model = build(name, V, tied)
    factorize_embeddings(model, RANK)
    before = logits(model, IDS)
    layer = model.resize_token_embeddings(V + 6, mean_resizing=False)
    assert layer.weight.shape == (V + 6, RANK)
    assert model.config.vocab_size == V + 6
    assert is_factorized(model.get_output_embeddings())
    after = logits(model, IDS)
    assert after.shape[-1] == V + 6
    torch.testing.assert_close(after[..., :V], before)
    head = model.get_output_embeddings()
    assert (head.weight is layer.weight) == (head.projection is layer.projection) == tied
    merge_factorized(model)
    torch.testing.assert_close(logits(model, IDS), after, rtol=1e-4, atol=1e-4)


def test_copies_pickles_and_types():
    model = build("gpt2", V)
    factorize_embeddings(model, RANK)
    expected = logits(model, IDS)
    torch.testing.assert_close(logits(copy.deepcopy(model), IDS), expected)
    assert type(pickle.loads(pickle.dumps(model.config))) is type(model.config)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    torch.testing.assert_close(logits(torch.load(buffer, weights_only=False), IDS), expected)
    narrow = model.to(torch.bfloat16)
    assert {parameter.dtype for parameter in narrow.parameters()} == {torch.bfloat16}
    assert narrow(IDS).logits.dtype == torch.bfloat16


def test_autocast_does_not_narrow_the_embeddings():
    model = build("llama", V)
    factorize_embeddings(model, RANK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.get_input_embeddings()(IDS).dtype == torch.float32


def test_a_model_made_from_a_config_is_factorised():
    model = build("bert", V)
    factorize_embeddings(model, RANK)
    fresh = type(model)(copy.deepcopy(model.config))
    embeddings = fresh.get_input_embeddings()
    assert embeddings.weight.shape == (V, RANK)
    assert fresh.get_output_embeddings().projection is embeddings.projection
    spread = (embeddings.weight @ embeddings.projection).std()
    assert 0.005 < spread < 0.08  # initializer_range is 0.02
    with pytest.raises(ValueError, match="factorize_embeddings"):
        type(model)(build("bert", V).config)
