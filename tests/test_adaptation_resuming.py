"""Which checkpoint a training goes on from: the newest that is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_vocab_extend.adaptation.resuming import checkpoint_to_resume
from hf_vocab_extend.errors import OutputFolderError

CUTS = {
    "no trainer_state.json": "trainer_state.json is missing",
    "trainer_state.json": "trainer_state.json cannot be read",
    "no model.safetensors": "its weights are missing",
    "model.safetensors": "model.safetensors is cut short",
}


def checkpoint(folder: Path, step: int) -> Path:
    """What the Trainer writes, as far as it is looked at."""
    made = folder / f"checkpoint-{step}"
    made.mkdir()
    save_file({"weight": torch.zeros(8, 8)}, made / "model.safetensors")
    (made / "trainer_state.json").write_text('{"global_step": 1}')
    return made


def cut_off(folder: Path, cut: str) -> None:
    """Take a file away, or its second half."""
    path = folder / cut.removeprefix("no ")
    half = path.read_bytes()[: path.stat().st_size // 2]
    path.unlink()
    if not cut.startswith("no "):
        path.write_bytes(half)


@pytest.mark.parametrize("cut", CUTS)
def test_a_half_written_checkpoint_is_passed_over(cut, tmp_path, caplog):
    old, new = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert checkpoint_to_resume(tmp_path, True) == str(new)
    assert not caplog.text
    cut_off(new, cut)
    assert checkpoint_to_resume(tmp_path, True) == str(old)
    assert f"checkpoint-10 is not complete ({CUTS[cut]}): passed over" in caplog.text
    assert "goes on from checkpoint-9" in caplog.text
    cut_off(old, cut)
    with pytest.raises(OutputFolderError, match=r"no complete checkpoint: checkpoint-10 is not .*Remove the folder"):
        checkpoint_to_resume(tmp_path, True)


def test_a_shard_that_its_index_names_must_be_there(tmp_path):
    made = checkpoint(tmp_path, 1)
    (made / "model.safetensors").rename(made / "model-00001-of-00002.safetensors")
    shards = '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    (made / "model.safetensors.index.json").write_text(shards)
    with pytest.raises(OutputFolderError, match="model-00002-of-00002.safetensors is missing"):
        checkpoint_to_resume(tmp_path, True)
    save_file({"b": torch.zeros(1)}, made / "model-00002-of-00002.safetensors")
    assert checkpoint_to_resume(tmp_path, True) == str(made)


def test_checkpoints_of_launchers_hold_their_weights_in_folders(tmp_path):
    for step, name in ((1, "pytorch_model_fsdp_0"), (2, "global_step2")):
        made = checkpoint(tmp_path, step)
        (made / "model.safetensors").unlink()
        (made / name).mkdir()
        assert checkpoint_to_resume(tmp_path, True) == str(made)


def test_without_a_checkpoint_it_begins_anew_and_says_so(tmp_path, caplog):
    assert checkpoint_to_resume(tmp_path / "none", False) is None
    assert not caplog.text
    assert checkpoint_to_resume(tmp_path / "none", True) is None
    assert "'none' holds no checkpoint to resume from: the training begins anew." in caplog.text
    assert caplog.records[0].levelname == "WARNING"
    checkpoint(tmp_path, 1)
    with pytest.raises(OutputFolderError, match=r"Set resume \(--resume\)"):
        checkpoint_to_resume(tmp_path, False)
