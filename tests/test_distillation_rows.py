"""Rows apart from their table: the model computes the same, Adam holds rows only, the guard keeps the best."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from hf_vocab_extend import extend_vocabulary, factorize_embeddings
from hf_vocab_extend.adaptation.distillation.compact_rows import CompactRows
from hf_vocab_extend.adaptation.distillation.guard import Guard, translation_scores
from hf_vocab_extend.adaptation.distillation.loop import Schedule, run_steps
from hf_vocab_extend.adaptation.distillation.row_adam import RowAdam
from hf_vocab_extend.adaptation.distillation.sampling import balanced_batches, clusters_of
from hf_vocab_extend.adaptation.distillation.translation_loss import translation_loss
from hf_vocab_extend.adaptation.rows import new_row_ids
from hf_vocab_extend.errors import InvalidOptionError, InvalidTableError, VocabExtendWarning

from .distilling import CASES, extended, grown
from .factories import tokenizer
from .models import logits
from .tiny_models import SMALL, n_rows, special_ids

IDS = torch.tensor([[3, 520, 7, 541, 9, 530]])


def some_ids(extension) -> torch.Tensor:
    """A text of old and new ids."""
    new = new_row_ids(extension)
    return torch.stack([torch.arange(4, 10), new[:6], torch.tensor([5, int(new[3]), 6, int(new[-1]), 7, 8])])


def gemma() -> object:
    """An extension of a model whose embedding class scales what it looks up."""
    own = tokenizer("gemma")
    config = Gemma3TextConfig(vocab_size=n_rows(own), num_key_value_heads=1, head_dim=8, **SMALL, **special_ids(own))
    torch.manual_seed(1)
    return extend_vocabulary(Gemma3ForCausalLM(config).eval(), grown("gemma"), "subword", tokenizer=own)


def factorized() -> object:
    extension = extended("bert")[0]
    extension.model = factorize_embeddings(extension.model, 8)
    return extension


MAKERS = {case: (lambda case=case: extended(case)[0]) for case in CASES} | {"gemma": gemma, "factorized": factorized}


@pytest.mark.parametrize("case", MAKERS)
def test_a_model_with_rows_in_place_computes_what_it_computes_with_rows_written(case: str) -> None:
    extension = MAKERS[case]()
    model, ids = extension.model, some_ids(extension)
    before = logits(model, ids)
    rows = CompactRows(model, new_row_ids(extension), with_head=True)
    with rows.in_place():
        assert torch.allclose(logits(model, ids), before, atol=1e-5)
    with torch.no_grad():
        for item in rows.parameters():
            item.normal_()
    with rows.in_place():
        moved = logits(model, ids)
        with rows.out_of_place():
            old_text = logits(model, ids[:1])[..., :400]
    assert not torch.allclose(moved, before, atol=1e-3)
    assert torch.allclose(old_text, before[:1, ..., :400], atol=1e-5)
    assert torch.allclose(logits(model, ids), before)  # nothing was written so far
    rows.write()
    assert torch.allclose(logits(model, ids), moved, atol=1e-5)


@pytest.mark.parametrize("case", ["llama", "llama tied", "bert"])
def test_gradients_are_those_of_the_whole_table(case: str) -> None:
    extension = extended(case)[0]
    model, ids, new = extension.model, some_ids(extension), new_row_ids(extension)
    naive = copy.deepcopy(model)
    naive(input_ids=ids).logits.square().sum().backward()
    rows = CompactRows(model, new, with_head=True)
    with rows.in_place():
        model(input_ids=ids).logits.square().sum().backward()
    tables = [naive.get_input_embeddings().weight] + (
        [naive.get_output_embeddings().weight] if rows.head is not None else []
    )
    for table, own in zip(tables, rows.parameters(), strict=True):
        assert own.grad.shape == (len(new), table.shape[1])
        assert torch.allclose(own.grad, table.grad[new], rtol=1e-3, atol=1e-3 * float(table.grad.abs().max()))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_logits_at_some_places_are_those_of_all_places() -> None:
    extension = extended("llama")[0]
    rows, ids = CompactRows(extension.model, new_row_ids(extension), with_head=True), some_ids(extension)
    places = torch.zeros(ids.shape, dtype=torch.bool)
    places[0, 2] = places[2, 4] = True
    with rows.in_place(), torch.no_grad():
        whole = extension.model(input_ids=ids).logits
        with rows.logits_at(places):
            some = extension.model(input_ids=ids).logits
    assert torch.allclose(some[0], whole[places], atol=1e-6)


def test_flags_modes_and_hooks_are_given_back_also_after_an_error() -> None:
    extension = extended("llama")[0]
    model = extension.model.train()
    model.model.norm.weight.requires_grad_(False)
    model.lm_head.eval()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    rows = CompactRows(model, new_row_ids(extension), with_head=True)

    def broken_off() -> None:
        with rows.in_place():
            assert not any(parameter.requires_grad for parameter in model.parameters())
            assert not any(module.training for module in model.modules())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert modes == [module.training for module in model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_rows_that_are_not_finite_are_never_written() -> None:
    extension = extended("bert")[0]
    before = {name: tensor.clone() for name, tensor in extension.model.state_dict().items()}
    rows = CompactRows(extension.model, new_row_ids(extension))
    with torch.no_grad():
        rows.input[0, 0] = torch.nan
    with pytest.raises(InvalidTableError, match="not finite"):
        rows.write()
    assert all(torch.equal(tensor, before[name]) for name, tensor in extension.model.state_dict().items())


def test_adam_holds_two_moments_and_a_count_for_the_rows_alone() -> None:
    extension = extended("bert")[0]
    new = new_row_ids(extension)
    rows = CompactRows(extension.model, new)
    optimizer = RowAdam(rows.parameters(), learning_rate=0.1)
    width = rows.input.shape[1]
    state = [tensor for pair in optimizer.moments for tensor in pair] + optimizer.steps + optimizer._start
    assert sum(tensor.numel() for tensor in state) == 2 * len(new) * width + len(new)
    assert len(new) < extension.model.get_input_embeddings().weight.shape[0] / 4


def test_adam_is_that_of_torch_for_rows_that_are_always_touched_and_rests_where_they_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    ours = nn.Parameter(torch.randn(4, 3, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    start = ours.detach().clone()
    optimizer, naive = RowAdam([ours], learning_rate=0.05), torch.optim.Adam([theirs], lr=0.05)
    for _ in range(5):
        gradient = torch.randn(4, 3, generator=generator)
        gradient[3] = 0
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        naive.step()
    assert torch.allclose(ours, theirs, atol=1e-6)
    ours.grad = torch.zeros(4, 3)
    ours.grad[1] = 1.0
    before = ours.detach().clone()
    optimizer.step()
    assert torch.equal(ours[[0, 2, 3]], before[[0, 2, 3]])
    assert not torch.equal(ours[1], before[1])
    assert torch.equal(ours[3], start[3])


def test_batches_hold_shares_and_every_item_before_one_comes_again() -> None:
    groups = [0] * 90 + [1] * 10
    for balance, share in ((1.0, 0.5), (0.0, 0.1)):
        batches = balanced_batches(groups, 8, balance, torch.Generator().manual_seed(0))
        drawn = [next(batches) for _ in range(25)]
        assert all(len(batch) == 8 for batch in drawn)
        flat = [index for batch in drawn for index in batch]
        assert abs(sum(index >= 90 for index in flat) / len(flat) - share) < 0.02
        small = [index for index in flat if index >= 90]
        assert sorted(small[:10]) == list(range(90, 100))


def test_clusters_part_texts_of_other_words() -> None:
    table = torch.eye(12)
    rows = [[0, 1, 2], [1, 2, 0], [2, 0]] * 4 + [[8, 9], [9, 8, 10]] * 4
    found = clusters_of(rows, table, torch.Generator().manual_seed(0))
    assert not set(found[:12]) & set(found[12:])


def test_the_loss_is_that_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(2)
    bank = nn.functional.normalize(torch.randn(9, 5, generator=generator), dim=1)
    bank[7] = bank[2]  # the same sentence twice: neither is a contrast to the other
    found = nn.functional.normalize(torch.randn(4, 5, generator=generator), dim=1)
    partners = torch.tensor([2, 5, 7, 0])
    result = translation_loss(found, bank, partners, temperature=0.2, contrast=0.7)
    total = 0.0
    for row, partner in enumerate(partners.tolist()):
        cosine = float(found[row] @ bank[partner])
        others = [j for j in range(9) if j == partner or float(bank[j] @ bank[partner]) < 0.95]
        forward = -cosine / 0.2 + math.log(sum(math.exp(float(found[row] @ bank[j]) / 0.2) for j in others))
        batch = [j for j in range(4) if j == row or float(bank[partners[j]] @ bank[partner]) < 0.95]
        backward = -cosine / 0.2 + math.log(sum(math.exp(float(found[j] @ bank[partner]) / 0.2) for j in batch))
        total += (1 - cosine + 0.7 * (forward + backward) / 2) / 4
    assert math.isclose(float(result), total, rel_tol=1e-5)


SCHEDULE = {"steps": 6, "learning_rate": 0.1, "average": 0.0, "anchor": 0.0, "evaluate_every": 2}


def run(scores: list[dict[str, float]], losses: list[float] | None = None, **changes):
    """Run a few steps on a loss that moves every row, with given scores."""
    rows = CompactRows(extended("bert")[0].model, torch.arange(508, 568))
    start = rows.input.detach().clone()
    given = iter(scores)
    guard = Guard(lambda: next(given), tolerance=0.01, patience=changes.pop("patience", None))
    values = losses or [1.0] * 6
    kept = []

    def backward(step: int) -> float:
        rows.input.grad = torch.ones_like(rows.input)
        kept.append(rows.input.detach().clone())
        return values[step]

    outcome = run_steps(rows, backward, guard, Schedule(**SCHEDULE | changes))
    return rows.input.detach(), start, kept, guard, outcome


def test_the_guard_keeps_the_best_rows_in_which_no_corpus_has_fallen() -> None:
    scores = [{"a": 0.5, "b": 0.5}, {"a": 0.7, "b": 0.5}, {"a": 0.9, "b": 0.48}, {"a": 0.6, "b": 0.5}]
    rows, start, kept, guard, outcome = run(scores)
    assert guard.best_step == 2
    assert torch.equal(rows, kept[2])
    assert outcome.steps == 6


def test_the_start_stays_where_nothing_is_better_and_patience_ends_the_run() -> None:
    rows, start, _, guard, outcome = run([{"a": 0.5}] + [{"a": 0.4}] * 3, patience=2)
    assert guard.best_step == 0
    assert torch.equal(rows, start)
    assert outcome.steps == 4
    rows, start, _, guard, _ = run([{"a": 0.5}] + [{"a": math.nan}] * 3)
    assert torch.equal(rows, start)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_best() -> None:
    with pytest.warns(VocabExtendWarning, match="step 4 is nan"):
        rows, _, kept, guard, outcome = run([{"a": 0.5}, {"a": 0.6}], [1.0, 1.0, 1.0, math.nan])
    assert (outcome.steps, guard.best_step) == (3, 2)
    assert torch.equal(rows, kept[2])


def test_the_average_is_what_is_looked_at_and_kept() -> None:
    plain = run([{"a": 0.1 * step} for step in range(5)])[0]
    rows, start, _, _, _ = run([{"a": 0.1 * step} for step in range(5)], average=0.9)
    assert (rows < start).all()
    assert (rows > plain).all()


@pytest.mark.parametrize("change", [{"steps": 0}, {"learning_rate": math.nan}, {"average": 1.0}, {"anchor": -1.0}])
def test_a_schedule_out_of_range_is_refused(change: dict) -> None:
    with pytest.raises(InvalidOptionError, match=next(iter(change))):
        Schedule(**SCHEDULE | change)


def test_scores_by_corpus() -> None:
    vectors = nn.functional.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    scores = translation_scores(vectors, torch.cat([vectors[:3], vectors[[4, 3, 5]]]), ["a"] * 3 + ["b"] * 3)
    assert scores["a"] == 1.0
    assert scores["b"] < 1.0
