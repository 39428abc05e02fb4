"""The README's example runs and prints what the README says."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def test_the_example_prints_what_stands_below_it(tmp_path, monkeypatch, capsys) -> None:
    code, shown = re.search(
        r"Twelve lines:\n\n```python\n(.*?)```\n\n```text\n(.*?)```", README.read_text("utf-8"), re.S
    ).groups()
    assert len([line for line in code.splitlines() if line]) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()

    def lasting(lines: list[str]) -> list[str]:
        return [line for line in lines if not line.startswith("seconds:")]

    assert lasting(printed) == lasting(shown.splitlines())
    assert (tmp_path / "MiniLM-sw" / "README.md").is_file()


def test_every_command_of_the_readme_parses() -> None:
    import shlex

    from hf_vocab_extend.cli.main import build_parser

    blocks = re.findall(r"```bash\n(.*?)```", README.read_text("utf-8"), re.S)
    commands = [
        shlex.split(line, comments=True)
        for block in blocks
        for line in block.splitlines()
        if line.startswith("hf-vocab-extend ")
    ]
    assert len(commands) >= 4
    for command in commands:
        assert build_parser().parse_args(command[1:]).command == command[1]
