"""Rows that are held: bitwise the same under every optimizer, on either axis, with clean moments and norms."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import distributed, nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh
from transformers.optimization import Adafactor

from hf_vocab_extend.adaptation.freezing import RowKeeper
from hf_vocab_extend.adaptation.optimizer_state import base_optimizer, fill_state, set_decay_aside
from hf_vocab_extend.errors import InvalidOptionError, UnsupportedModelError, VerificationError

N, WIDTH = 60, 6
TAIL = torch.arange(50, 60)
SCATTERED = torch.arange(0, N, 3)
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=0.1, foreach=False, fused=False),
    "foreach": lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=0.1, foreach=True),
    "fused": lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=0.1, fused=True),
    "adam": lambda params: torch.optim.Adam(params, lr=0.1, weight_decay=0.1),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adafactor": lambda params: Adafactor(
        params, lr=0.1, relative_step=False, scale_parameter=False, weight_decay=0.1
    ),
    "adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1, weight_decay=0.1),
}


class Tied(nn.Module):
    """A table that is the head as well, with a bias, and a table with tokens on the second axis."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(N, WIDTH, generator=generator))
        self.bias = nn.Parameter(torch.randn(N, generator=generator))
        self.columns = nn.Parameter(torch.randn(WIDTH, N, generator=generator))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Loss of predicting the tokens from themselves."""
        hidden = self.table[ids]
        return nn.functional.cross_entropy(hidden @ self.table.T + self.bias + hidden @ self.columns, ids)


def frozen(ids: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(N, dtype=torch.bool)
    mask[ids] = False
    return mask


def keeper_of(model: Tied, ids: torch.Tensor) -> RowKeeper:
    return RowKeeper(
        {
            "table": (model.table, ids, 0),
            "head": (model.table, ids, 0),
            "bias": (model.bias, ids, 0),
            "columns": (model.columns, ids, 1),
        }
    )


def train(model: Tied, optimizer: torch.optim.Optimizer, after: Callable[[], None], steps: int = 4) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(2):  # gradients are accumulated
            model(torch.randint(N, (16,), generator=generator)).backward()
        optimizer.step()
        after()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ids", [TAIL, SCATTERED, TAIL[:0], torch.arange(N)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_held_rows_stay_bitwise_and_others_move(name: str, ids: torch.Tensor, dtype: torch.dtype) -> None:
    model = Tied().to(dtype)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    keeper = keeper_of(model, ids)
    keeper.hold()
    train(model, OPTIMIZERS[name](list(model.parameters())), keeper.restore)
    keeper.check()
    held = frozen(ids)
    for key, value in model.named_parameters():
        now, then = (value.T, before[key].T) if key == "columns" else (value, before[key])
        assert torch.equal(now[held], then[held])
        assert not len(ids) or not torch.equal(now[~held], then[~held])


def test_without_writing_back_rows_move() -> None:
    model = Tied()
    keeper = keeper_of(model, TAIL)
    keeper.hold()
    train(model, OPTIMIZERS["adamw"](list(model.parameters())), lambda: None, steps=1)
    with pytest.raises(VerificationError, match="50 of table, 50 of bias, 50 of columns"):
        keeper.check()
    keeper.restore()
    keeper.check()


def test_gradients_are_those_of_what_trains() -> None:
    model, other = Tied(), Tied()
    keeper = keeper_of(model, TAIL)
    keeper.hold()
    ids = torch.arange(40, 60)
    model(ids).backward()
    other(ids).backward()
    expected = other.table.grad.clone()
    expected[frozen(TAIL)] = 0
    assert torch.equal(model.table.grad, expected)
    assert not model.columns.grad[:, frozen(TAIL)].any()
    assert torch.equal(model.columns.grad[:, TAIL], other.columns.grad[:, TAIL])
    keeper.release()
    model.zero_grad()
    model(ids).backward()
    assert torch.equal(model.table.grad, other.table.grad)
    assert keeper.held_bytes == 0


def test_a_gradient_that_is_there_already_is_cleaned() -> None:
    model = Tied()
    model(torch.arange(N)).backward()
    keeper_of(model, TAIL).hold()
    assert not model.table.grad[frozen(TAIL)].any()


@pytest.mark.parametrize("name", ["adamw", "fused"])
def test_moments_of_held_rows_are_zero(name: str) -> None:
    model = Tied()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    keeper = keeper_of(model, TAIL)
    keeper.hold()
    train(model, optimizer, keeper.restore)
    moments = [value for value in optimizer.state[model.table].values() if value.shape == model.table.shape]
    assert moments
    for moment in moments:
        assert not moment[frozen(TAIL)].any()
        assert moment[TAIL].any()


def test_only_frozen_rows_are_copied() -> None:
    model = Tied()
    keeper = keeper_of(model, TAIL)
    assert keeper.n_frozen == {"table": 50, "bias": 50, "columns": 50}
    keeper.hold()
    assert keeper.held_bytes == 4 * (50 * WIDTH + 50 + 50 * WIDTH)
    model.table.requires_grad_(False)
    keeper.hold()
    assert keeper.held_bytes == 4 * (50 + 50 * WIDTH)


def test_bits_are_compared_not_values() -> None:
    table = nn.Parameter(torch.tensor([[0.0], [float("nan")], [1.0]]))
    keeper = RowKeeper({"table": (table, torch.tensor([2]), 0)})
    keeper.hold()
    keeper.check()
    with torch.no_grad():
        table[0] = -0.0
    with pytest.raises(VerificationError, match="1 of table"):
        keeper.check()


def test_bad_entries_are_refused() -> None:
    model = Tied()
    for ids in (torch.tensor([N]), torch.tensor([-1])):
        with pytest.raises(InvalidOptionError, match="has 60 rows"):
            RowKeeper({"table": (model.table, ids, 0)})
    with pytest.raises(InvalidOptionError, match="axis 2"):
        RowKeeper({"table": (model.table, TAIL, 2)})
    with pytest.raises(InvalidOptionError, match="one parameter"):
        RowKeeper({"table": (model.table, TAIL, 0), "head": (model.table, SCATTERED, 0)})


def test_parameters_without_rows_are_refused() -> None:
    placeholder, flat = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.zeros(9))
    placeholder.ds_id = 1
    flat._is_flat_param = True
    for parameter, remedy in ((placeholder, "ZeRO-2"), (flat, "FSDP2")):
        with pytest.raises(UnsupportedModelError, match=remedy):
            RowKeeper({"table": (parameter, TAIL[:0], 0)})
    with pytest.raises(UnsupportedModelError, match="meta"):
        RowKeeper({"table": (nn.Parameter(torch.zeros(3, 2, device="meta")), TAIL[:0], 0)})


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process group of this process alone."""
    for name, value in {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("placements", [[Shard(0)], [Shard(1)], [Replicate()]])
@pytest.mark.usefixtures("group")
def test_spread_parameters_are_held(placements: list[object]) -> None:
    mesh = init_device_mesh("cpu", (1,))
    table = nn.Parameter(distribute_tensor(torch.randn(N, WIDTH), mesh, placements))
    before = table.full_tensor().detach().clone()
    keeper = RowKeeper({"table": (table, TAIL, 0)})
    keeper.hold()
    optimizer = OPTIMIZERS["adamw"]([table])
    table.sum().backward()
    assert not table.grad.full_tensor()[frozen(TAIL)].any()
    optimizer.step()
    keeper.restore()
    keeper.check()
    assert torch.equal(table.full_tensor()[frozen(TAIL)], before[frozen(TAIL)])
    assert not torch.equal(table.full_tensor()[TAIL], before[TAIL])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_filled_state_is_that_of_a_new_optimizer(name: str) -> None:
    models = [Tied(), Tied()]
    optimizers = [OPTIMIZERS[name](list(model.parameters())) for model in models]
    models[0].table.grad = torch.full_like(models[0].table, 3.0)
    before = {key: value.detach().clone() for key, value in models[0].named_parameters()}
    n_fresh = fill_state(optimizers[0])
    assert n_fresh == (0 if name == "adagrad" else 3)
    assert fill_state(optimizers[0]) in (0, 3)
    assert torch.equal(models[0].table.grad, torch.full_like(models[0].table, 3.0))
    for key, value in models[0].named_parameters():
        assert torch.equal(value, before[key])
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, lambda: None)
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_weight_decay_is_set_aside_and_given_back() -> None:
    model = Tied()
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    set_decay_aside(optimizer, True)
    set_decay_aside(optimizer, True)
    assert optimizer.param_groups[0]["weight_decay"] == 0
    again = OPTIMIZERS["adamw"](list(model.parameters()))
    again.load_state_dict(optimizer.state_dict())
    set_decay_aside(again, False)
    assert again.param_groups[0]["weight_decay"] == 0.1
    assert base_optimizer(again) is again
