"""What launchers are told and what they are refused, on stand-ins for Trainers; the distributed tests run them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_vocab_extend.adaptation.launchers import LAUNCHERS, check_launch, launcher_of, prepare_launch
from hf_vocab_extend.errors import InvalidOptionError, VocabExtendWarning

from .models import build


def arguments(**options: Any) -> Any:
    settings = {"ddp_find_unused_parameters": None, "weight_decay": 0.0, "n_gpu": 0, "activation_checkpointing": False}
    return SimpleNamespace(**{**settings, **options})


def trainer(kind: str, zero: int = 2, **options: Any) -> Any:
    state = SimpleNamespace(
        deepspeed_plugin=SimpleNamespace(zero_stage=zero),
        fsdp_plugin=SimpleNamespace(transformer_cls_names_to_wrap=None),
    )
    accelerator = SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind.rstrip("12")),
        is_fsdp2=kind == "FSDP2",
        state=state,
        ddp_handler=SimpleNamespace(find_unused_parameters=False),
    )
    return SimpleNamespace(accelerator=accelerator, **options)


def wrapped(find: bool, static: bool = False) -> Any:
    return trainer("MULTI_GPU", model_wrapped=SimpleNamespace(find_unused_parameters=find, static_graph=static))


@pytest.mark.parametrize(
    ("kind", "zero", "expected"),
    [
        ("NO", 0, "single"),
        ("MULTI_GPU", 0, "ddp"),
        ("MULTI_CPU", 0, "ddp"),
        ("FSDP2", 0, "fsdp2"),
        ("FSDP1", 0, "fsdp1"),
        ("DEEPSPEED", 1, "zero"),
        ("DEEPSPEED", 2, "zero"),
        ("DEEPSPEED", 3, "zero3"),
        ("MEGATRON_LM", 0, "megatron"),
    ],
)
def test_launchers_are_told_apart(kind: str, zero: int, expected: str) -> None:
    assert launcher_of(arguments(), trainer(kind, zero)) is LAUNCHERS[expected]


def test_one_process_and_special_trainers() -> None:
    assert launcher_of(arguments(), None) is LAUNCHERS["single"]
    assert launcher_of(arguments(n_gpu=2), trainer("NO")) is LAUNCHERS["data_parallel"]
    loaded = trainer("MULTI_GPU", is_distributed_loading_by_transformers=True)
    assert launcher_of(arguments(), loaded) is LAUNCHERS["sharded_at_load"]
    assert launcher_of(arguments(), trainer("XLA", is_fsdp_xla_enabled=True)) is LAUNCHERS["fsdp_xla"]


@pytest.mark.parametrize(
    ("kind", "zero", "remedy"),
    [("FSDP1", 0, "Use FSDP2"), ("DEEPSPEED", 3, "ZeRO-2"), ("MEGATRON_LM", 0, "Use FSDP2")],
)
def test_what_cannot_freeze_is_refused_with_the_remedy(kind: str, zero: int, remedy: str) -> None:
    with pytest.raises(InvalidOptionError, match=remedy):
        check_launch(arguments(), trainer(kind, zero), freezes=True)
    check_launch(arguments(), trainer(kind, zero), freezes=False)


def test_ddp_looks_for_frozen_parameters_unless_told_otherwise() -> None:
    args, host = arguments(), trainer("MULTI_GPU")
    prepare_launch(args, host, freezes=False)
    assert not host.accelerator.ddp_handler.find_unused_parameters
    prepare_launch(args, host)
    assert host.accelerator.ddp_handler.find_unused_parameters
    assert args.ddp_find_unused_parameters
    told, other = arguments(ddp_find_unused_parameters=False), trainer("MULTI_GPU")
    prepare_launch(told, other)
    assert not other.accelerator.ddp_handler.find_unused_parameters


def test_ddp_that_cannot_freeze_is_refused() -> None:
    check_launch(arguments(), wrapped(True), freezes=True)
    with pytest.raises(InvalidOptionError, match="ddp_find_unused_parameters=True"):
        check_launch(arguments(), wrapped(False), freezes=True)
    with pytest.raises(InvalidOptionError, match="ddp_static_graph"):
        check_launch(arguments(), wrapped(True, static=True), freezes=True)
    reentrant = arguments(activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(InvalidOptionError, match="use_reentrant"):
        check_launch(reentrant, wrapped(True), freezes=True)


def test_zero_only_widens_and_pauses_decay() -> None:
    host = trainer("DEEPSPEED", 2)
    with pytest.raises(InvalidOptionError, match="FSDP2 or DDP"):
        check_launch(arguments(), host, freezes=True, widens=False)
    with pytest.warns(VocabExtendWarning, match="weight_decay=0.1"):
        launcher = check_launch(arguments(weight_decay=0.1), host, freezes=True)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], weight_decay=0.1)
    launcher.begin_stage(None, optimizer, True)
    assert optimizer.param_groups[0]["weight_decay"] == 0
    launcher.begin_stage(None, optimizer, False)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("name", "tied", "expected"),
    [
        ("modernbert", True, ["ModernBertEncoderLayer"]),
        ("modernbert", False, None),
        ("llama", True, None),
        ("bert_body", True, None),
    ],
)
def test_tied_tables_stay_out_of_inner_groups(name: str, tied: bool, expected: list[str] | None) -> None:
    host = trainer("FSDP2", model=build(name, tied=tied))
    prepare_launch(arguments(), host)
    assert host.accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap == expected


def test_a_head_bias_with_two_holders_is_refused_under_fsdp2() -> None:
    with pytest.raises(InvalidOptionError, match="Use DDP"):
        prepare_launch(arguments(), trainer("FSDP2", model=build("bert")))
