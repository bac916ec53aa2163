"""`mpiexec -n N tinygrad-llm train`: the same bytes as without it, also where the number of ranks changes."""

import hashlib
import json
import subprocess
import sys

import pytest
from launching import mpirun

MODULE = ["-m", "tinygrad_llm"]
SMALL = [
    *("--steps", "6", "--context", "16", "--batch-size", "2", "--accumulate", "4", "--vocab-size", "280"),
    *("--layers", "2", "--channels", "16", "--optimizer", "adamw", "--dropout", "0.1", "--validate-every", "3"),
    *("--checkpoint-every", "2", "--warmup", "0", "--schedule", "constant", "--threads", "1"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"Line {i} says that {i} times {i} is {i * i}.\n" for i in range(300)), encoding="utf-8")
    return path


def digest(run):
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ("model.safetensors",)} | {
        "optimizer": hashlib.sha256(
            sorted(run.glob("checkpoints/*/optimizer.safetensors"))[-1].read_bytes()
        ).hexdigest()
    }


@pytest.fixture(scope="module")
def reference(text, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "reference"
    command = [sys.executable, "-m", "tinygrad_llm", "train", *SMALL, "--data", str(text), "--out", str(run)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return run


def train(ranks, text, run, *options):
    return mpirun(ranks, MODULE, "train", *SMALL, "--data", str(text), "--out", str(run), *options)


@pytest.mark.parametrize(("ranks", "zero"), [(2, 0), (2, 2), (4, 1), (4, 3)])
def test_a_run_of_several_ranks_leaves_the_bytes_of_one(ranks, zero, text, reference, tmp_path):
    run = tmp_path / "run"
    done = train(ranks, text, run, "--dp", str(ranks), "--zero", str(zero))
    assert done.returncode == 0, done.stderr
    assert digest(run) == digest(reference)
    assert done.stdout.count("step 6/6") == 2, "one rank shows what all do"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = [json.loads(line) for line in (reference / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in (*rows, *expected):
        row.pop("seconds", None)
    assert rows == expected


def test_a_run_goes_on_with_another_number_of_ranks(text, reference, tmp_path):
    run = tmp_path / "run"
    steps = [option if option != "6" else "2" for option in SMALL]
    first = mpirun(4, MODULE, "train", *steps, "--data", str(text), "--out", str(run), "--dp", "4", "--zero", "3")
    assert first.returncode == 0, first.stderr
    second = mpirun(2, MODULE, "train", "--resume", "--steps", "4", "--out", str(run), "--dp", "2")
    assert second.returncode == 0, second.stderr
    command = [sys.executable, "-m", "tinygrad_llm", "train", "--resume", "--steps", "6", "--out", str(run)]
    subprocess.run([*command, "--threads", "1"], check=True, capture_output=True, timeout=120)
    assert digest(run) == digest(reference)


@pytest.mark.parametrize(
    ("ranks", "options", "message"),
    [
        (2, [], "mpiexec has started 2 processes, and --dp 1 uses 1: give --dp 2, or start fewer"),
        (2, ["--dp", "4"], "needs 4 ranks, and there are 2; start it with: mpiexec -n 4"),
        (2, ["--dp", "2", "--zero", "4"], "--zero 4: must be 0, 1, 2 or 3"),
        (
            3,
            ["--dp", "3"],
            "--dp 3: the 4 passes of a step cannot be shared out evenly; let --accumulate be a multiple",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_one_line(ranks, options, message, text, tmp_path):
    done = train(ranks, text, tmp_path / "run", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
    assert not (tmp_path / "run").exists(), "nothing is written before"
