#!/usr/bin/env python3
"""Render the example cards in model_cards/ from the reports beside them.

    python scripts/render_model_cards.py                     render all of them anew
    python scripts/render_model_cards.py --add NAME FOLDER   take the report of a saved folder as a new example

An example is NAME.json, with the report and the arguments of render_card, and NAME.md, the card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from hf_vocab_extend import ExtensionReport, render_card
from hf_vocab_extend.hub.card import stated_license

CARDS = Path(__file__).resolve().parent.parent / "model_cards"


def render(example: Path) -> str:
    """Return the card of an example."""
    data = json.loads(example.read_text("utf-8"))
    return render_card(ExtensionReport.from_dict(data["report"]), **data["card"])


def add(name: str, folder: Path) -> None:
    """Write an example from a folder that save_pretrained wrote."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    card = {
        "model_name": name,
        "load_name": f"user/{name}",
        "model_type": config["model_type"],
        "architecture": config["architectures"][0],
        **stated_license(folder / "README.md"),
    }
    if (folder / "modules.json").is_file():
        card["library_name"] = "sentence-transformers"
    report = json.loads((folder / "vocab_extension.json").read_text("utf-8"))
    text = json.dumps({"card": card, "report": report}, indent=2, ensure_ascii=False)
    (CARDS / f"{name}.json").write_text(text + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs=2, metavar=("NAME", "FOLDER"))
    arguments = parser.parse_args()
    if arguments.add:
        add(arguments.add[0], Path(arguments.add[1]))
    for example in sorted(CARDS.glob("*.json")):
        example.with_suffix(".md").write_text(render(example), "utf-8")
        print(f"Rendered {example.with_suffix('.md').name}")


if __name__ == "__main__":
    main()
