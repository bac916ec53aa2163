"""What is measured of the machine, and how the numbers follow from the times."""

import numpy as np
import pytest

from tinygrad_llm.study import machine
from tinygrad_llm.study.machine import Machine, available_memory, measure_machine
from tinygrad_llm.threads import set_threads, thread_count


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(machine, "GEMM_SIZE", 16)
    monkeypatch.setattr(machine, "STREAM_BYTES", 4096)


def test_the_measurement_runs(small):
    found = measure_machine(0.01)
    assert 0 < found.gemm < np.inf
    assert 0 < found.bandwidth < np.inf
    assert found.threads == thread_count()
    assert found.processor


def test_rates_are_counts_over_thebest_time(small, monkeypatch):
    monkeypatch.setattr(machine, "best_time", lambda work, seconds: 0.5)
    found = measure_machine()
    assert found.gemm == 2 * 2 * 16**3
    assert found.bandwidth == 2 * 3 * 4096


@pytest.mark.parametrize("count", [1, 3])
def test_every_part_of_the_arrays_is_streamed(small, monkeypatch, count):
    rng = np.random.default_rng(0)
    made = []

    def ones(size, dtype):
        made.append(rng.standard_normal(size).astype(dtype))
        return made[-1]

    checks = []

    def best_time(work, seconds):
        work()
        a, b, c = made
        checks.append((np.array_equal(b, a), np.array_equal(c, a + b)))
        return 1.0

    monkeypatch.setattr(machine.np, "ones", ones)
    monkeypatch.setattr(machine, "best_time", best_time)
    before = thread_count()
    set_threads(count)
    try:
        machine._bandwidth(0.0)
    finally:
        set_threads(before)
    assert checks == [(True, False), (True, True)]


def test_the_faster_of_copy_and_addition_counts(small, monkeypatch):
    times = iter([1.0, 100.0])
    monkeypatch.setattr(machine, "best_time", lambda work, seconds: next(times))
    assert machine._bandwidth(0.0) == 2 * 4096


def test_the_best_of_at_least_three_runs_counts_after_one_that_does_not(monkeypatch):
    clock, calls = [0.0], []
    durations = iter([99.0, 5.0, 2.0, 4.0])

    def work():
        calls.append(1)
        clock[0] += next(durations)

    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])
    assert machine.best_time(work, 1.0) == 2.0
    assert len(calls) == 4


def test_runs_go_on_until_the_time_is_over(monkeypatch):
    clock, calls = [0.0], []

    def work():
        calls.append(1)
        clock[0] += 1.0

    monkeypatch.setattr(machine.time, "perf_counter", lambda: clock[0])
    machine.best_time(work, 7.5)
    assert len(calls) == 1 + 8


def test_the_roofline_is_the_larger_of_two_times():
    found = Machine(gemm=100.0, bandwidth=10.0, threads=1, processor="p")
    assert found.bound(operations=500.0, moved=20.0) == 5.0
    assert found.bound(operations=100.0, moved=20.0) == 2.0
    assert found.bound(0, 0) == 0.0


def test_it_says_what_it_is():
    assert str(Machine(123e9, 31.26e9, 1, "Some CPU")) == (
        "Some CPU, 1 thread: 123 GFLOP/s in matrix products (float32), 31.3 GB/s of memory"
    )
    assert "2 threads" in str(Machine(1e9, 1e9, 2, "p"))


def test_memory_is_counted():
    memory = available_memory()
    assert memory is None or 1 << 20 < memory < 1 << 50


def test_where_nothing_tells_it_there_is_a_fallback(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(machine.Path, "read_text", missing)
    assert available_memory() is None
    assert machine.processor_name()


def test_meminfo_is_in_kilobytes(monkeypatch):
    monkeypatch.setattr(machine.Path, "read_text", lambda *_, **__: "MemTotal: 9 kB\nMemAvailable:   123 kB\n")
    assert available_memory() == 123 * 1024
