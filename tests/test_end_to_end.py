"""The run that a user types, from raw text to the Hub and back by name: every command, on packaged text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "end_to_end.sh"


@pytest.mark.slow
def test_from_raw_text_to_the_hub_and_back(tmp_path: Path) -> None:
    small = {"PYTHON": sys.executable, "LINES": "1500", "SOURCE_STEPS": "20", "STEPS": "10", "OMP_NUM_THREADS": "1"}
    environment = {key: value for key, value in os.environ.items() if key not in ("HF_ENDPOINT", "HF_TOKEN")}
    done = subprocess.run(
        ["bash", str(SCRIPT), str(tmp_path / "run")],
        env=environment | small,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "me/llama-sw: LlamaForCausalLM" in done.stdout
    assert "bitwise those of the folder that was pushed" in done.stdout
    assert "me/llama-sw main" in done.stdout.splitlines()[-1], "one commit, to the main branch"
    assert done.stdout.count("me/llama-sw main") == 1
    assert "Traceback" not in done.stderr
    card = (tmp_path / "run" / "trained" / "README.md").read_text("utf-8")
    assert "bits per byte" in card
    assert "was not trained" not in card


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", "utf-8")
    environment = os.environ | {"PYTHON": sys.executable, "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(["bash", str(SCRIPT), str(tmp_path)], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"'{tmp_path}' is not empty. Name a new folder: scripts/end_to_end.sh FOLDER"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
