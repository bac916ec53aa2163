"""Measuring the pieces of a training step, and the report of ``tinygrad-llm plan --measure``."""

import subprocess

import pytest

from tinygrad_llm.cli.main import main
from tinygrad_llm.models import GPTConfig
from tinygrad_llm.parallel.plan_models import ModelSizes
from tinygrad_llm.parallel.plan_own import OwnMachine, step_products
from tinygrad_llm.parallel.plan_setup import FLOAT32, Setup
from tinygrad_llm.study import calibration, machine, own_step
from tinygrad_llm.threads import thread_count

TINY = GPTConfig(vocab_size=260, context=8, channels=8, layers=1, heads=2)


def test_every_piece_is_measured(monkeypatch):
    monkeypatch.setattr(machine, "GEMM_SIZE", 32)
    monkeypatch.setattr(machine, "STREAM_BYTES", 4096)
    before = thread_count()
    found = calibration.measure_for(TINY, 2, 1, seconds=0.05)
    assert thread_count() == before
    assert set(found.products) == set(step_products(ModelSizes.of(TINY), Setup(8, batch_size=2, precision=FLOAT32)))
    for rate in (found.gemm, found.memory, found.stream, found.attention, *found.products.values()):
        assert 1e3 < rate < 1e15
    assert found.step >= 0
    assert found.layer >= 0
    assert found.latency == 0


def test_calls_are_what_layers_add(monkeypatch):
    monkeypatch.setattr(calibration, "measure_machine", lambda seconds: machine.Machine(1e9, 1e9, 1, ""))
    monkeypatch.setattr(calibration, "measure_step", lambda config, batch, seconds: (3 + 0.5 * config.layers, None))
    monkeypatch.setattr(calibration, "best_time", lambda work, seconds: work() or 0.5)
    monkeypatch.setattr(calibration, "product_rate", lambda m, k, n, seconds: m * 100.0)
    found = calibration.measure_for(TINY, 2, 1)
    assert (found.layer, found.step) == (0.5, 3)
    assert found.attention == 7 * 16 * 8 * 8 / 0.5
    assert found.stream == 16 * 4 * (5 * 32 + 8 * 8) / 0.5
    assert found.products[(16, 8, 260)] == 1600


def test_a_step_is_really_trained():
    seconds, model = calibration.measure_step(TINY, 2, 0.01)
    assert 0 < seconds < 10
    assert model.final_norm.gain.grad is not None


def test_without_ranks_it_is_said_why(monkeypatch):
    monkeypatch.setattr(calibration, "launcher", lambda: None)
    with pytest.raises(RuntimeError, match=r"there is no mpiexec; pip install 'tinygrad-llm\[mpi\]' brings one"):
        calibration.measure_link(100)
    monkeypatch.setattr(calibration, "launcher", lambda: "mpiexec")

    def result(status, output="", error=""):
        done = subprocess.CompletedProcess([], status, output, error)
        monkeypatch.setattr(calibration.subprocess, "run", lambda *arguments, **options: done)

    result(1, error="first\nno libmpi\n")
    with pytest.raises(RuntimeError, match="two ranks could not be started: no libmpi"):
        calibration.measure_link(100)
    result(0, output="nothing")
    with pytest.raises(RuntimeError, match="two ranks could not be measured"):
        calibration.measure_link(100)
    result(0, output='some remark\n{"latency": 2e-6, "rate": 3e9}\n')
    assert calibration.measure_link(100) == (2e-6, 3e9)


@pytest.fixture
def measured(monkeypatch):
    """Measurements without measuring; what was asked for."""
    asked = []

    def pieces(config, batch, threads):
        asked.append((config.channels, batch, threads))
        return OwnMachine(1e9, 1e9, 1e9, 1e9, layer=1e-3)

    real = calibration.measure_step
    monkeypatch.setattr(own_step, "measure_for", pieces)
    monkeypatch.setattr(own_step, "measure_step", lambda config, batch, _: (0.5, real(config, batch, 0.001)[1]))
    monkeypatch.setattr(own_step, "measure_link", lambda size: (1e-5, 2e9))
    monkeypatch.setattr(own_step, "thread_count", lambda: 2)
    return asked


SIZES = ["--layers=2", "--channels=16", "--heads=2", "--vocab-size=260", "--time=8", "--batch-size=4"]


def test_the_report(capsys, measured):
    assert main(["plan", "--measure", *SIZES]) == 0
    output = capsys.readouterr().out
    for part in (
        "model       GPT, L=2 C=16 H=2 V=260: ",
        "4 sequences of 8, float32, AdamW",
        "one process: ",
        "measured 500 ms: the prediction is 9",
        "% less",
        "are kept for backward; by the formula",
        "two ranks, 1 thread and 2 sequences each: ",
        "communication",
        "(10 µs and 2 GB/s for a message; nothing of it hidden)",
    ):
        assert part in output
    assert measured == [(16, 4, 2), (16, 2, 1)]


def test_what_it_says_where_there_are_no_two_ranks(capsys, measured, monkeypatch):
    assert main(["plan", "--measure", *SIZES[:-1], "--batch-size=1"]) == 0
    assert "two ranks: not predicted, as one sequence cannot be shared out" in capsys.readouterr().out

    def nothing(size):
        raise RuntimeError("there is no mpiexec")

    monkeypatch.setattr(own_step, "measure_link", nothing)
    assert main(["plan", "--measure", *SIZES]) == 0
    assert capsys.readouterr().out.endswith("two ranks: not predicted: there is no mpiexec\n")


@pytest.mark.parametrize("options", [["gpt2"], ["--architecture=llama"], ["--json=x.json"], ["--kv-heads=1"]])
def test_only_a_gpt_of_our_own_is_measured(capsys, options):
    assert main(["plan", "--measure", *options]) == 1
    assert capsys.readouterr().err.count("\n") == 1
