"""``factorize=`` of extend_vocabulary: equal to dense tables at full rank, OFA's factor below, and saved both ways."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from hf_vocab_extend import extend_vocabulary, factorize_embeddings, merge_factorized
from hf_vocab_extend.cli.main import main
from hf_vocab_extend.errors import InvalidOptionError, UnsupportedModelError, VocabExtendWarning
from hf_vocab_extend.methods.base import FitContext, InitMethod
from hf_vocab_extend.methods.mixture import Mixture
from hf_vocab_extend.surgery.factorize import is_factorized_model, saved_form

from .factories import tokenizer
from .test_invariants import FAMILIES, WIDTH, forward, grown, head_is_tied, make_model, replacement, run

RANK = 5


@pytest.mark.filterwarnings("ignore:At rank 16 the factors hold")
@pytest.mark.parametrize("mode", ["extend", "replace"])
@pytest.mark.parametrize("tie", ["tied", "untied"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "clip"])
def test_full_rank_is_the_dense_extension(name: str, tie: str, mode: str) -> None:
    _, dense, _ = run(name, "subword", tie == "tied", mode)
    _, product, _ = run(name, "subword", tie == "tied", mode, factorize=WIDTH)
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(forward(product.model, ids), forward(dense.model, ids), atol=1e-5, rtol=1e-4)
    assert head_is_tied(product.model) == head_is_tied(dense.model)
    assert product.report.factorized_rank == WIDTH
    assert product.mapping.counts() == dense.mapping.counts()


def projector(table: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the projection onto the first right singular vectors, by LAPACK."""
    right = torch.linalg.svd(table.detach().double(), full_matrices=False)[2][:rank]
    return right.T @ right


@pytest.mark.parametrize("tie", ["tied", "untied"])
@pytest.mark.parametrize("mode", ["extend", "replace"])
def test_rows_are_mixtures_of_the_factor_of_the_source_table(mode: str, tie: str) -> None:
    """OFA factorises the source table and mixes rows of the factor; the mapping says with which weights."""
    before, extension, _ = run("xlmr", "subword", tie == "tied", mode, factorize=RANK)
    model, mapping = extension.model, extension.mapping
    sides = [(before.get_input_embeddings(), model.get_input_embeddings())]
    if tie == "untied":
        sides.append((before.get_output_embeddings(), model.get_output_embeddings()))
    for old, new in sides:
        source = old.weight.double() @ projector(old.weight, RANK)
        rows = new.weight.double() @ new.projection.double()
        weights = torch.zeros(len(rows), len(source), dtype=torch.float64)
        for index in range(len(rows)):
            for column, weight in mapping.mixture.row(index):
                weights[index, column] = weight
        if mode == "extend":  # rows that stayed: themselves, as far as the rank goes
            weights[: len(source)] = torch.eye(len(source), dtype=torch.float64)
        known = weights.sum(1) > 0
        assert int(known.sum()) > (len(source) if mode == "extend" else 100)
        assert torch.allclose((weights @ source)[known], rows[known], atol=1e-5)
        assert new.weight.shape == (len(rows), RANK)


def test_share_of_the_norm_in_place_of_a_rank() -> None:
    before, extension, _ = run("xlmr", "subword", True, "extend", factorize=0.7)
    values = torch.linalg.svdvals(before.get_input_embeddings().weight.double()).square()
    rank = extension.report.factorized_rank
    assert rank is not None
    assert values[:rank].sum() >= 0.7 * values.sum() > values[: rank - 1].sum()
    assert any(f"rank {rank}" in note and "is kept" in note for note in extension.report.notes)


@pytest.mark.parametrize(
    ("factorize", "words"),
    [(0, "whole ranks from 1 to 16"), (17, "whole ranks from 1 to 16"), (2.5, "whole ranks"), (0.0, "above 0"),
     (-0.5, "above 0"), (True, "whole ranks")],
)  # fmt: skip
def test_ranks_that_cannot_be(factorize: float, words: str) -> None:
    model = make_model("xlmr", True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InvalidOptionError, match=words):
        extend_vocabulary(model, grown("xlmr"), "subword", tokenizer=tokenizer("xlmr"), factorize=factorize)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_failure_while_factorising_takes_the_new_rows_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import hf_vocab_extend.surgery.factorize as factorize

    model = make_model("gpt2", True)
    before, kind, parameters = copy.deepcopy(model.state_dict()), type(model), list(model.parameters())

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(factorize, "_write_classes", fail)
    with pytest.raises(OSError, match="no"):
        extend_vocabulary(model, grown("gpt2"), "subword", tokenizer=tokenizer("gpt2"), factorize=RANK)
    assert type(model) is kind
    assert all(left is right for left, right in zip(parameters, model.parameters(), strict=True))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())


def test_a_factorised_model_can_be_extended_again_but_not_factorised_again() -> None:
    _, extension, target = run("gpt2", "subword", True, "extend", factorize=RANK)
    model = extension.model
    ids = torch.arange(3, 11)[None]
    expected, n_rows = forward(model, ids), model.get_input_embeddings().weight.shape[0]
    with pytest.raises(UnsupportedModelError, match="factorised already"):
        extend_vocabulary(model, replacement("gpt2"), "subword", tokenizer=target, factorize=RANK)
    again = extend_vocabulary(model, replacement("gpt2"), "subword", tokenizer=target)
    table = again.model.get_input_embeddings()
    assert table.weight.shape == (max(again.tokenizer.get_vocab().values()) + 1, RANK)
    assert len(table.weight) > n_rows
    torch.testing.assert_close(forward(again.model, ids)[..., :n_rows], expected, atol=1e-5, rtol=1e-4)
    assert again.report.factorized_rank == RANK


def test_random_rows_of_rank_one_differ() -> None:
    """A factor of one column is no bias: its random rows are drawn, not set to the mean."""
    _, extension, target = run("gpt2", "subword", True, "extend", factorize=1)
    again = extend_vocabulary(extension.model, replacement("gpt2"), "normal", tokenizer=target)
    rows = again.model.get_input_embeddings().weight[-20:, 0]
    assert len(rows.unique()) > 15


def test_a_product_larger_than_the_table_is_told() -> None:
    with pytest.warns(VocabExtendWarning, match="nothing is saved"):
        run("gpt2", "subword", True, "extend", factorize=WIDTH)


class LongMeans(InitMethod):
    """Every new row is the mean of a few source rows, as long as those are on average."""

    name = "long_means"
    summary = "A test."

    def fit(self, context: FitContext) -> Mixture:
        """Return the mixture."""
        n_new = len(context.plan.new_ids)
        entries = [[((7 * row + step) % 90 + 5, 0.25) for step in (0, 11, 23, 31)] for row in range(n_new)]
        return replace(Mixture.from_lists(entries, n_source=context.n_source), norm_matched=np.ones(n_new, bool))


@pytest.mark.parametrize("tie", ["tied", "untied"])
def test_rows_of_a_factorised_model_get_their_lengths_in_the_model(tie: str) -> None:
    """Rows of `F` are as long as those of `F P` only if `P` is a rotation."""
    product = factorize_embeddings(make_model("gpt2", tie == "tied"), RANK, scaling="published")
    dense = merge_factorized(copy.deepcopy(product))
    for model in (product, dense):
        extend_vocabulary(model, replacement("gpt2"), LongMeans(), tokenizer=tokenizer("gpt2"))
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(forward(product, ids), forward(dense, ids), atol=1e-5, rtol=1e-4)
    merge_factorized(product)
    for own, other in zip(product.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


def state_of(model: PreTrainedModel) -> dict[str, tuple[int, torch.Tensor]]:
    """Identity and a copy of every Parameter."""
    return {name: (id(item), item.detach().clone()) for name, item in model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("tie", ["tied", "untied"])
def test_saved_dense_or_as_factors(tmp_path: Path, tie: str) -> None:
    _, extension, _ = run("llama3", "subword", tie == "tied", "extend", factorize=RANK)
    model, ids = extension.model, torch.arange(3, 20)[None]
    before, fields, expected = state_of(model), model.config.to_dict(), forward(model, ids)
    extension.save_pretrained(tmp_path / "dense")
    extension.save_pretrained(tmp_path / "factors", factorized=True)
    after = state_of(model)
    assert before.keys() == after.keys()
    assert all(before[name][0] == after[name][0] and torch.equal(before[name][1], after[name][1]) for name in before)
    changed = {"architectures", "dtype"}  # by every save_pretrained
    assert {k: v for k, v in model.config.to_dict().items() if k not in changed} == {
        k: v for k, v in fields.items() if k not in changed
    }
    assert is_factorized_model(model)
    assert torch.equal(forward(model, ids), expected)

    dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    assert not is_factorized_model(dense)
    assert "factorization" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    assert not (tmp_path / "dense" / "factorized.py").exists()
    torch.testing.assert_close(forward(dense, ids), expected, atol=1e-5, rtol=1e-4)
    factors = AutoModelForCausalLM.from_pretrained(tmp_path / "factors", trust_remote_code=True)
    assert torch.equal(forward(factors, ids), expected)
    assert factors.get_input_embeddings().weight.shape[1] == RANK

    cards = {name: (tmp_path / name / "README.md").read_text("utf-8") for name in ("dense", "factors")}
    for loader in ("AutoTokenizer", "AutoModelForCausalLM"):  # both read config.json, which names the code
        assert f'{loader}.from_pretrained("factors", trust_remote_code=True)' in cards["factors"]
    assert "trust_remote_code" not in cards["dense"]
    for card in cards.values():
        assert "product of rank 5" in card
        assert "rows are unchanged" not in card


def test_factors_are_not_to_be_had_of_a_dense_model(tmp_path: Path) -> None:
    _, extension, _ = run("llama3", "subword", True, "extend")
    with pytest.raises(InvalidOptionError, match="the model's tables are dense"):
        extension.save_pretrained(tmp_path / "out", factorized=True)
    assert not (tmp_path / "out").exists()


def interrupt(model: PreTrainedModel) -> None:
    """Be interrupted while the model has its dense form."""
    with saved_form(model, factorized=False):
        assert not is_factorized_model(model)
        raise KeyboardInterrupt


def test_an_interrupted_save_leaves_the_model_factorised() -> None:
    _, extension, _ = run("t5", "subword", False, "extend", factorize=RANK)
    before = state_of(extension.model)
    with pytest.raises(KeyboardInterrupt):
        interrupt(extension.model)
    assert is_factorized_model(extension.model)
    after = state_of(extension.model)
    assert all(before[name][0] == after[name][0] and torch.equal(before[name][1], after[name][1]) for name in before)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model("bert-uncased", True).save_pretrained(tmp_path / "model")
    tokenizer("bert-uncased").save_pretrained(tmp_path / "model")
    grown("bert-uncased").save_pretrained(tmp_path / "new")
    argv = ["extend", str(tmp_path / "model"), str(tmp_path / "new"), str(tmp_path / "out"), "--method", "subword"]
    assert main([*argv, "--factorized"]) != 0
    assert "--factorize" in capsys.readouterr().err
    assert main([*argv, "--factorize", "4", "--factorized"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "factorized_vocabulary"
    assert config["base_model_type"] == "bert"
