"""`mpiexec -n N tinygrad-llm train --tp 2`: the losses of one process, and runs that go on on any mesh."""

import json
import subprocess
import sys

import numpy as np
import pytest
from launching import mpirun

from tinygrad_llm.models import GPT

MODULE = ["-m", "tinygrad_llm"]
SMALL = [
    *("--context", "16", "--batch-size", "2", "--accumulate", "4", "--vocab-size", "281", "--layers", "2"),
    *("--channels", "16", "--heads", "2", "--optimizer", "sgd", "--dropout", "0.1", "--validate-every", "2"),
    *("--checkpoint-every", "2", "--warmup", "0", "--schedule", "constant", "--learning-rate", "0.1", "--threads", "1"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"Line {i} says that {i} times {i} is {i * i}.\n" for i in range(300)), encoding="utf-8")
    return path


def alone(*arguments):
    command = [sys.executable, *MODULE, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="module")
def reference(text, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "reference"
    alone("train", *SMALL, "--steps", 4, "--data", text, "--out", run)
    return run


def train(ranks, text, run, *options, steps=4):
    return mpirun(ranks, MODULE, "train", *SMALL, "--steps", steps, "--data", text, "--out", run, *options)


def numbers(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = "loss", "gradient_norm", "validation_loss"
    return {(name, row["step"]): row[name] for row in rows for name in names if name in row}


def assert_same(run, reference):
    known = numbers(run)  # a run that ended early has measured there too
    assert {place: known[place] for place in numbers(reference)} == pytest.approx(numbers(reference), rel=1e-5)
    found, expected = (GPT.from_pretrained(folder).state_dict() for folder in (run, reference))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("ranks", "options", "told"),
    [
        (2, ["--tp", "2"], "2, of which each has 1 of 2 parts of every matrix"),
        (4, ["--tp", "2", "--dp", "2", "--zero", "3", "--sequence-parallel"], "of every matrix and computes 1 of 2"),
        (4, ["--tp", "2", "--pp", "2"], "has 1 of 2 parts of the layers (1f1b) and has 1 of 2 parts of every matrix"),
    ],
)
def test_training_by_parts_of_matrices_is_that_of_one_process(ranks, options, told, text, reference, tmp_path):
    run = tmp_path / "run"
    done = train(ranks, text, run, *options)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
    assert_same(run, reference)


def test_a_run_goes_on_on_another_mesh_and_alone(text, reference, tmp_path):
    run = tmp_path / "run"
    first = train(2, text, run, "--tp", "2", "--sequence-parallel", steps=2)
    assert first.returncode == 0, first.stderr
    second = mpirun(2, MODULE, "train", "--resume", "--steps", "3", "--out", run, "--pp", "2")
    assert second.returncode == 0, second.stderr
    alone("train", "--resume", "--steps", "4", "--threads", "1", "--out", run)
    assert_same(run, reference)


def test_a_run_that_one_process_began_goes_on_by_parts(text, reference, tmp_path):
    run = tmp_path / "run"
    alone("train", *SMALL, "--steps", 2, "--data", text, "--out", run)
    second = mpirun(2, MODULE, "train", "--resume", "--steps", "4", "--out", run, "--tp", "2")
    assert second.returncode == 0, second.stderr
    assert_same(run, reference)


@pytest.mark.parametrize(
    ("ranks", "options", "message"),
    [
        (4, ["--tp", "2"], "mpiexec has started 4 processes, and --dp 1 --tp 2 uses 2: give --dp 2, or start fewer"),
        (3, ["--tp", "3"], "--tp 3: 2 heads cannot be shared out evenly; give a --tp that divides them"),
        (2, ["--tp", "2", "--model", "bert"], "--tp: tensor parallel runs GPT and Llama, and this is a Bert"),
        (2, ["--dp", "2", "--sequence-parallel"], "--sequence-parallel: it is the ranks of --tp"),
    ],
)
def test_a_mesh_that_cannot_be_is_one_line(ranks, options, message, text, tmp_path):
    done = train(ranks, text, tmp_path / "run", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
