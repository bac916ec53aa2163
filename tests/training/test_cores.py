"""When training says that other processes take its cores."""

import pytest

from tinygrad_llm.training import cores

STAT = """cpu  999999 0 0 0 0 0 0 0 0 0
cpu0 100 20 30 4000 500 6 7 8 90 90
cpu1 1000 0 0 7 0 0 0 0 1000 0
cpu10 5000 0 0 0 0 0 0 0 0 0
intr 12345
"""


@pytest.fixture
def ticking(monkeypatch):
    """Clocks that the test moves: seconds, CPU seconds of this process, and of all processes."""
    clocks = {"wall": 100.0, "own": 50.0, "all": 1000.0}
    monkeypatch.setattr(cores.time, "monotonic", lambda: clocks["wall"])
    monkeypatch.setattr(cores.time, "process_time", lambda: clocks["own"])
    monkeypatch.setattr(cores, "busy_seconds", lambda processors: clocks["all"])
    monkeypatch.setattr(cores, "allowed_processors", lambda: [0, 1])
    monkeypatch.setattr(cores, "thread_count", lambda: 2)

    def move(wall, own, others):
        clocks["wall"] += wall
        clocks["own"] += own
        clocks["all"] += own + others

    return move


def test_other_processes_are_told_of_once(ticking):
    shared = cores.SharedCores()
    ticking(9.0, 9.0, 9.0)
    assert shared.remark() == "", "too early"
    ticking(1.0, 1.0, 1.0)
    assert shared.remark() == (
        "note        other processes use 1.0 of the 2 cores, and 2 threads often wait for each other then; "
        "--threads 1 is likely faster"
    )
    ticking(20.0, 20.0, 20.0)
    assert shared.remark() == ""


def test_what_others_do_counts_from_one_judgement_to_the_next(ticking):
    ticking(0.0, 0.0, 500.0)
    shared = cores.SharedCores()
    for _ in range(3):
        ticking(10.0, 17.0, 2.4)
        assert shared.remark() == ""
    ticking(10.0, 5.0, 5.0)
    assert "use 0.5 of the 2 cores" in shared.remark()


@pytest.mark.parametrize(
    ("processors", "threads", "others", "fewer"), [(8, 4, 4.2, None), (8, 4, 5.5, 2), (8, 4, 4.5, 3), (4, 4, 9.0, 1)]
)
def test_so_many_threads_as_there_are_cores_left(ticking, monkeypatch, processors, threads, others, fewer):
    monkeypatch.setattr(cores, "allowed_processors", lambda: list(range(processors)))
    monkeypatch.setattr(cores, "thread_count", lambda: threads)
    shared = cores.SharedCores()
    ticking(10.0, 3.0, 10 * others)
    said = shared.remark()
    assert said.endswith(f"--threads {fewer} is likely faster") if fewer else said == ""


def test_one_thread_waits_for_none(ticking, monkeypatch):
    monkeypatch.setattr(cores, "thread_count", lambda: 1)
    shared = cores.SharedCores()
    ticking(10.0, 1.0, 20.0)
    assert shared.remark() == ""


def test_where_nothing_tells_nothing_is_said(ticking, monkeypatch):
    monkeypatch.setattr(cores, "busy_seconds", lambda processors: None)
    shared = cores.SharedCores()
    ticking(10.0, 1.0, 20.0)
    assert shared.remark() == ""


def test_busy_seconds_are_those_of_the_given_processors(monkeypatch):
    monkeypatch.setattr(cores.Path, "read_text", lambda *_, **__: STAT)
    monkeypatch.setattr(cores.os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name], raising=False)
    assert cores.busy_seconds([0]) == 1.71
    assert cores.busy_seconds([0, 1]) == 11.71


def test_without_proc_there_are_no_busy_seconds(monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(cores.Path, "read_text", missing)
    assert cores.busy_seconds([0]) is None
