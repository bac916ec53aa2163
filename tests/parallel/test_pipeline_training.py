"""`mpiexec -n N tinygrad-llm train --pp 2`: the same bytes as without it, also where the mesh changes."""

import hashlib
import subprocess
import sys

import pytest
from launching import mpirun

MODULE = ["-m", "tinygrad_llm"]
SMALL = [
    *("--context", "16", "--batch-size", "2", "--accumulate", "4", "--vocab-size", "280", "--layers", "4"),
    *("--channels", "16", "--optimizer", "adamw", "--dropout", "0.1", "--validate-every", "2"),
    *("--checkpoint-every", "2", "--warmup", "0", "--schedule", "constant", "--threads", "1"),
]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"Line {i} says that {i} times {i} is {i * i}.\n" for i in range(300)), encoding="utf-8")
    return path


def digest(run):
    files = run / "model.safetensors", sorted(run.glob("checkpoints/*/optimizer.safetensors"))[-1]
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


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


@pytest.mark.parametrize(
    ("ranks", "options", "told"),
    [
        (2, ["--pp", "2"], "2, of which each has 1 of 2 parts of the layers (1f1b)"),
        (2, ["--pp", "2", "--pipeline", "interleaved"], "has 1 of 2 parts of the layers (interleaved)"),
        (4, ["--dp", "2", "--pp", "2"], "4, of which each has 1 of 2 parts of the layers (1f1b) and computes 1 of 2"),
        (4, ["--pp", "4", "--pipeline", "gpipe"], "has 1 of 4 parts"),
    ],
)
def test_a_pipeline_leaves_the_bytes_of_one_process(ranks, options, told, text, reference, tmp_path):
    run = tmp_path / "run"
    done = train(ranks, text, run, *options)
    assert done.returncode == 0, done.stderr
    assert digest(run) == digest(reference)
    assert told in done.stdout


def test_a_run_goes_on_on_another_mesh_and_what_it_does_is_drawn(text, reference, tmp_path):
    run, trace = tmp_path / "run", tmp_path / "trace.json"
    first = train(4, text, run, "--dp", "2", "--pp", "2", steps=2)
    assert first.returncode == 0, first.stderr
    options = ["--pp", "2", "--pipeline", "zb-h1", "--trace", trace]
    second = mpirun(2, MODULE, "train", "--resume", "--steps", "4", "--out", run, *options)
    assert second.returncode == 0, second.stderr
    assert digest(run) == digest(reference)
    drawn = alone("schedule", "zb-h1", "--stages", 2, "--microbatches", 4, "--trace", trace)
    assert "executed" in drawn
    assert "held at most  2 on each rank" in drawn.split("executed")[1]


@pytest.mark.parametrize(
    ("ranks", "options", "message"),
    [
        (2, ["--pp", "4"], "needs 4 ranks, and there are 2; start it with: mpiexec -n 4"),
        (4, ["--pp", "2"], "mpiexec has started 4 processes, and --dp 1 --pp 2 uses 2: give --dp 2, or start fewer"),
        (2, ["--pp", "2", "--zero", "1"], "--zero 1: the ranks of a pipeline divide the layers; give --zero 0"),
        (2, ["--pp", "2", "--pipeline", "interleaved", "--chunks", "3"], "6 stages need as many layers"),
        (3, ["--pp", "3", "--pipeline", "interleaved", "--chunks", "1"], "4 passes of a step are not a multiple of"),
        (2, ["--pp", "2", "--chunks", "0"], "--chunks 0: must be at least 1"),
        (2, ["--pp", "2", "--model", "bert"], "--pp: a pipeline runs GPT and Llama, and this is a Bert; give --pp 1"),
        (2, ["--dp", "2", "--trace", "x.json"], "--trace: it is the stages of a pipeline that are traced"),
    ],
)
def test_what_cannot_be_a_pipeline_is_one_line(ranks, options, message, text, tmp_path):
    done = train(ranks, text, tmp_path / "run", *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
