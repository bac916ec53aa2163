"""The README's way from the documentation to a conversation, on a tiny model."""

import io
import re
import shlex
import sys
from pathlib import Path

import pytest

from tinygrad_llm.cli.main import main

README = Path(__file__).parents[2] / "README.md"
SMALL = {
    "train": "--steps 2 --layers 1 --channels 16 --vocab-size 1500",
    "dataset": "",
    "finetune": "--steps 2 --answered 2",
    "chat": "--max-tokens 3",
}
"""What makes each of them quick."""


def commands():
    section = README.read_text(encoding="utf-8").split("## Fine-tuning")[1]
    block = re.search(r"(?:    tinygrad-llm .*\n)+", section)
    return [shlex.split(line)[1:] for line in block[0].splitlines()]


def test_the_four_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert [command[0] for command in commands()] == ["train", "dataset", "finetune", "chat"]
    for command in commands():
        monkeypatch.setattr(sys, "stdin", io.StringIO("What is `csv.Dialect` for?\n"))
        assert main([*command, *shlex.split(SMALL[command[0]])]) == 0, command
    shown = capsys.readouterr().out
    assert "next        tinygrad-llm chat tuned" in shown
    assert "exact match" in shown


@pytest.mark.parametrize(
    "command", re.findall(r"^    tinygrad-llm (\S+)", README.read_text(encoding="utf-8"), re.MULTILINE)
)
def test_every_command_of_the_readme_exists(command, capsys):
    assert main([command, "--help"]) == 0
