"""The example cards are what the code renders today."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "model_cards").glob("*.json"))


def load_script():
    spec = importlib.util.spec_from_file_location("render_model_cards", ROOT / "scripts" / "render_model_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_cards_are_up_to_date(example: Path) -> None:
    assert example.with_suffix(".md").read_text("utf-8") == load_script().render(example), (
        "run: python scripts/render_model_cards.py"
    )
