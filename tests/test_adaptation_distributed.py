"""Staged training in two processes against one: losses, gradients' norms, frozen rows, final weights, resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from .adapting import NEW
from .distributed_training import RUNS, STEPS, carry_out

ROOT = Path(__file__).resolve().parents[1]
SHARDED = "(Shard(dim=0),)"
QUICK = {
    "tied": "tied",
    "untied_resumed": "untied",
    "masked": "masked",
    "fsdp_tied": "tied",
    "fsdp_untied_resumed": "untied",
    "fsdp_modern": "modern",
}
"""A run in two processes, and the run in one process that it must equal."""
SLOW = {
    "tied_accumulated": "tied",
    "tied_checkpointed": "tied_checkpointed",
    "tied_bf16": "tied_bf16",
    "fsdp_tied_bf16": "tied_bf16",
    "fsdp_untied_sharded_resumed": "untied",
    "fsdp_tied_accumulated": "tied",
    "loaded_tied": "tied",
    "loaded_untied": "untied",
}


def launch(folder: Path, names: list[str]) -> None:
    """Carry runs out in two processes, in one launch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.distributed_training", str(folder), *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


class Runs:
    """Runs in one process and in two, each carried out once."""

    def __init__(self, folder: Path, pairs: dict[str, str]) -> None:
        self.folders = {1: folder / "one", 2: folder / "two"}
        for path in self.folders.values():
            path.mkdir()
        for name in sorted(set(pairs.values())):
            carry_out(name, self.folders[1])
        launch(self.folders[2], list(pairs))

    def told(self, processes: int, name: str) -> dict[str, Any]:
        """Return the losses and norms of a run, and how it was spread."""
        return json.loads((self.folders[processes] / f"{name}.json").read_text("utf-8"))

    def values(self, processes: int, name: str) -> dict[str, dict[str, torch.Tensor]]:
        """Return all values before training, before the second stage and at the end."""
        return torch.load(self.folders[processes] / f"{name}.pt", weights_only=True)

    def saved(self, name: str) -> dict[str, torch.Tensor]:
        """Return what the Trainer saved in two processes."""
        return load_file(self.folders[2] / name / "saved" / "model.safetensors")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("quick"), QUICK)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("slow"), SLOW)


def moved_rows(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, set[int]]:
    """Name to the rows that differ in any bit, of what differs."""
    found = {}
    for name, now in after.items():
        differs = (now.reshape(len(now), -1) != before[name].reshape(len(now), -1)).any(1)
        if differs.any():
            found[name] = set(differs.nonzero().flatten().tolist())
    return found


def check_equal(runs: Runs, name: str, alone: str, tolerance: float) -> None:
    """Compare a run in two processes with the one in a single process."""
    one, two = runs.told(1, alone), runs.told(2, name)
    assert len(one["losses"]) == STEPS
    torch.testing.assert_close(two["losses"], one["losses"], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(two["norms"], one["norms"], rtol=10 * tolerance, atol=tolerance)
    expected, found = runs.values(1, alone), runs.values(2, name)
    for moment in ("begin", "between", "end"):
        for key, value in found[moment].items():
            # Sums over two processes are rounded otherwise, and Adam divides small gradients by their own size.
            difference = (value - expected[moment][key]).abs().max()
            assert difference <= 30 * tolerance, (moment, key)


def check_measures(runs: Runs, name: str, alone: str) -> None:
    """Compare what was measured: texts are dealt to the processes under DDP, and batches are those of all of them."""
    one, two = runs.told(1, alone)["measures"], runs.told(2, name)["measures"]
    assert [entry["step"] for entry in one] == [0, STEPS]
    assert one[1]["trained_tokens"] > 0
    for expected, found in zip(one, two, strict=True):
        for key in set(expected) - {"seconds"}:
            assert found[key] == pytest.approx(expected[key], rel=1e-3), key
        assert "bits_per_byte_target" in found


def check_frozen(runs: Runs, name: str) -> None:
    """The first stage moves the new rows of tables and nothing else; the second moves all tables and the body."""
    values = runs.values(2, name)
    if values["between"]:
        moved = moved_rows(values["begin"], values["between"])
        assert moved
        assert all(rows == set(NEW) for rows in moved.values())
    assert set(moved_rows(values["begin"], values["end"])) == set(values["end"])


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_equal_one(name: str, quick: Runs) -> None:
    check_equal(quick, name, QUICK[name], 1e-4)


@pytest.mark.parametrize("name", ["tied", "fsdp_tied"])
def test_measures_of_two_processes_equal_those_of_one(name: str, quick: Runs) -> None:
    check_measures(quick, name, QUICK[name])


@pytest.mark.parametrize("name", QUICK)
def test_frozen_rows_are_bitwise_equal_in_two_processes(name: str, quick: Runs) -> None:
    check_frozen(quick, name)


@pytest.mark.parametrize("name", QUICK)
def test_runs_are_spread_as_their_names_say(name: str, quick: Runs) -> None:
    told = quick.told(2, name)
    assert (told["placements"] == [SHARDED]) == name.startswith("fsdp")
    assert (told["wrapper"] == "DistributedDataParallel") == (not name.startswith("fsdp"))


@pytest.mark.parametrize("name", QUICK)
def test_saved_model_is_whole(name: str, quick: Runs) -> None:
    values, saved = quick.values(2, name)["end"], quick.saved(name)
    assert set(values) <= set(saved)
    for key in values:
        assert torch.equal(saved[key], values[key])
    twice = set(saved) - set(values)  # FSDP2 gathers a tied table under both of its names
    assert not twice or name.startswith("fsdp")
    for key in twice:
        assert any(torch.equal(saved[key], value) for value in values.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_two_processes_equal_one_in_other_settings(name: str, slow: Runs) -> None:
    check_equal(slow, name, SLOW[name], 2e-2 if "bf16" in name else 1e-4)
    check_frozen(slow, name)
    assert (slow.told(2, name)["placements"] == [SHARDED]) == ("fsdp" in name or "loaded" in name)
    assert name in RUNS
