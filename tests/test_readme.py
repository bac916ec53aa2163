"""The README's code runs and prints what it says."""

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", README, re.DOTALL)
PYTHON = [code for kind, code in BLOCKS if kind == "python"]


def run(code):
    result = subprocess.run(
        [sys.executable, "-W", "error", "-"], input=code, cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


SHOWN = [(code, shown) for (kind, code), (after, shown) in pairwise(BLOCKS) if (kind, after) == ("python", "text")]


@pytest.mark.parametrize(("code", "shown"), SHOWN, ids=["operation", "why", "gradcheck"])
def test_the_code_prints_what_is_shown(code, shown):
    # everything but rounding errors and the last digits, which differ between machines
    blurred = [re.sub(r"-?\d\.\d+e[+-]\d\d|(?<=\.\d{10})\d+", "#", text) for text in (run(code), shown)]
    assert blurred[0] == blurred[1]


def test_the_library_example_learns():
    (code,) = [c for c in PYTHON if "Tokenizer.train" in c]
    assert float(run(code)) < 0.5


def test_the_derivation_is_the_one_in_the_source():
    (code,) = [c for c in PYTHON if ".derivation(" in c]
    (source,) = re.findall(r"from\s+\[`ops/\w+\.py`\]\((tinygrad_llm/ops/\w+\.py)\)", README)
    assert code.strip() in (ROOT / source).read_text(encoding="utf-8")


def test_files_that_are_named_exist():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).exists() or target.endswith("/kernels"), target  # all works without them
    tree = README.split("## What is where")[1].split("##")[0]
    above: list[str] = []
    for line in tree.splitlines():
        if match := re.match(r"( +)(\S+)", line):
            depth = len(match[1]) // 2 - 2
            above[depth:] = [match[2]]
            # without the kernels everything works, and so do the tests
            assert ROOT.joinpath(*above).exists() or match[2] == "kernels/", line


@pytest.mark.parametrize(
    ("script", "file"),
    [
        *(("readme_table", file) for file in ("speeds", "tokenizer", "pretrained")),
        ("readme_architectures", "architectures"),
    ],
    ids=lambda name: name,
)
def test_the_numbers_are_those_of_the_file(script, file):
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), str(ROOT / "benchmarks" / f"{file}.json")]
    made = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True).stdout
    assert made in README


def test_the_scores_of_fine_tuning_are_those_of_the_file():
    report = json.loads((ROOT / "benchmarks" / "inflections.json").read_text(encoding="utf-8"))
    before, after = report["before"], report["after"]
    for name, score in (("exact match", "exact_match"), ("token F1", "token_f1")):
        assert f"| {name} | {100 * before[score]:.1f} % | {100 * after[score]:.1f} % |" in README
    assert f"| loss, nats per answer token | {before['loss']:.2f} | {after['loss']:.2f} |" in README
    cost = report["training"]
    assert f"{cost['median_step_seconds']:.1f} seconds a\nstep, and {cost['peak_memory_bytes'] / 1e9:.2f} GB" in README
