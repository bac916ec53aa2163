"""The number of threads, and work shared out among them."""

import os
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

import tinygrad_llm
from tinygrad_llm import pool, threads


@pytest.fixture
def unsettled(monkeypatch, tmp_path):
    """No number of threads yet, an empty environment, no container, and afterwards everything as it was."""
    before = threads.thread_count()
    monkeypatch.setattr(threads, "_threads", None)
    monkeypatch.setattr(threads, "_sharers", None)
    monkeypatch.setattr(threads, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(threads, "CONTROL", tmp_path / "control")
    for name in (*threads.SETTINGS, *threads.LOCAL_RANKS):
        monkeypatch.delenv(name, raising=False)
    yield monkeypatch
    threads.set_threads(before)


@pytest.fixture
def four_threads():
    before = threads.thread_count()
    threads.set_threads(4)
    yield
    threads.set_threads(before)


def blas_threads():
    return {pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"}


def test_our_setting_comes_before_those_of_blas(unsettled):
    unsettled.setenv("OMP_NUM_THREADS", "3")
    unsettled.setenv("OPENBLAS_NUM_THREADS", "2")
    assert threads._from_environment() == 2
    unsettled.setenv("TINYGRAD_LLM_THREADS", "1")
    assert threads.thread_count() == 1
    unsettled.setenv("TINYGRAD_LLM_THREADS", "2")
    assert threads.thread_count() == 1, "the first call settles it"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_nonsense_in_our_setting_is_an_error_and_in_that_of_blas_is_passed_over(unsettled, text):
    unsettled.setenv("OMP_NUM_THREADS", text)
    assert threads._from_environment() is None
    unsettled.setenv("TINYGRAD_LLM_THREADS", text)
    with pytest.raises(ValueError, match=f"TINYGRAD_LLM_THREADS='{text}'"):
        threads.thread_count()


def test_blas_gets_the_same_number(unsettled):
    threads.set_threads(1)
    assert threads.thread_count() == 1
    assert blas_threads() <= {1}
    with pytest.raises(ValueError, match="at least 1"):
        threads.set_threads(0)


def test_blas_has_one_thread_for_a_while():
    before = threads.thread_count()
    try:
        threads.set_threads(2)
        with threads.one_blas_thread():
            assert blas_threads() == {1}
        assert blas_threads() == {2}
    finally:
        threads.set_threads(before)


def test_hyperthreads_do_not_count_and_ranks_share(unsettled):
    unsettled.setattr(threads, "allowed_processors", lambda: list(range(8)))
    unsettled.setattr(threads.os, "cpu_count", lambda: 8)
    unsettled.setattr(threads, "_core", lambda processor: (str(processor // 2),))
    assert threads.default_threads() == 4
    unsettled.setenv("MPI_LOCALNRANKS", "2")
    assert threads.default_threads() == 2
    unsettled.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "16")
    assert threads.default_threads() == 1
    unsettled.setattr(threads.os, "cpu_count", lambda: 64)  # the launcher gave this rank 8 of 64: they are its own
    assert threads.default_threads() == 4
    threads.share_with(2)  # but MPI has seen another rank on them
    assert threads.default_threads() == 2


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/pod/box\n", {"pod/box/cpu.max": "250000 100000\n"}, 3),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n", "pod/cpu.max": "50000 100000\n"}, 1),
        ("0::/pod/box\n", {"pod/box/cpu.max": "400000 100000\n", "pod/cpu.max": "200000 100000\n"}, 2),
        ("0::/seen/from/outside\n", {"cpu.max": "600000 200000\n"}, 3),
        ("0::/box\n", {"box/cpu.max": "9900000 100000\n"}, 8),
        ("0::/box\n", {"other/cpu.max": "100000 100000\n", "box/memory.max": "7\n"}, 8),
        ("3:cpuset:/a\n2:cpu,cpuacct:/b\n0::/\n", {"cpu/b/cpu.cfs": "150000 50000"}, 3),
        ("2:cpu,cpuacct:/b\n", {"cpu/b/cpu.cfs": "-1 100000", "cpu/cpu.cfs": "200000 100000"}, 2),
        ("3:cpuset:/b\n", {"cpuset/b/cpu.cfs": "100000 100000", "cpu/b/cpu.cfs": "100000 100000"}, 8),
        ("\nnonsense\n0::/box\n", {"box/cpu.max": "nonsense", "cpu.max": "two 3"}, 8),
        (None, {"cpu.max": "100000 100000"}, 8),
    ],
)
def test_a_containers_processor_time_is_counted(unsettled, membership, files, expected):
    unsettled.setattr(threads, "allowed_processors", lambda: list(range(8)))
    unsettled.setattr(threads, "_core", lambda processor: (str(processor),))
    if membership is not None:
        threads.MEMBERSHIP.write_text(membership, encoding="utf-8")
    for name, text in files.items():
        file = threads.CONTROL / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.name == "cpu.cfs":
            for part, number in zip(("quota", "period"), text.split(), strict=True):
                file.with_name(f"cpu.cfs_{part}_us").write_text(f"{number}\n", encoding="utf-8")
        else:
            file.write_text(text, encoding="utf-8")
    assert threads.default_threads() == expected


def test_ranks_share_a_containers_processor_time(unsettled, tmp_path):
    unsettled.setattr(threads, "allowed_processors", lambda: list(range(8)))
    unsettled.setattr(threads.os, "cpu_count", lambda: 8)
    unsettled.setattr(threads, "_core", lambda processor: (str(processor),))
    unsettled.setattr(threads, "_control_groups", lambda: [tmp_path])
    (tmp_path / "cpu.max").write_text("350000 100000", encoding="utf-8")
    unsettled.setenv("MPI_LOCALNRANKS", "2")
    assert threads.default_threads() == 2


def covered(low, high, seen, calls):
    seen[low:high] += 1
    calls.append((low, high, threading.current_thread()))


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 1001])
@pytest.mark.parametrize("least", [1, 2, 300, 5000])
def test_every_unit_is_worked_on_once(four_threads, length, least):
    seen, calls = np.zeros(length, int), []
    threads.run(covered, length, seen, calls, least=least)
    assert (seen == 1).all()
    assert len({thread for _, _, thread in calls}) <= len(calls) <= 4
    assert all(high - low >= least for low, high, _ in calls) or len(calls) == 1
    assert len(calls) == max(1, min(4, length // least))


def test_an_error_in_any_piece_is_raised_and_the_workers_go_on(four_threads):
    def failing(low, high, where):
        if low <= where < high:
            raise ValueError(f"unit {where}")

    for where in (0, 9):
        with pytest.raises(ValueError, match=f"unit {where}"):
            threads.run(failing, 10, where)
    seen = np.zeros(10, int)
    threads.run(covered, 10, seen, [])
    assert (seen == 1).all()


class Interrupted:
    """A lock at whose first acquisition a signal arrives, before it or after it, and its handler raises an error."""

    def __init__(self, after, error):
        self.lock, self.left, self.after, self.error = threading.Lock(), 1, after, error
        self.lock.acquire()
        self.release = self.lock.release

    def acquire(self):
        self.left -= 1
        if self.left < 0 or self.after:
            self.lock.acquire()
        if self.left == 0:
            raise self.error


def slowly(low, high, seen, begun):
    """The piece of the calling thread waits for the others to begin, and they take longer."""
    if low:
        begun.append(low)
        time.sleep(0.05)
    else:
        while len(begun) < 3:
            time.sleep(0.001)
    seen[low:high] += 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_waits_for_what_is_being_written(four_threads, monkeypatch, after, error):
    real = pool.Piece

    def piece(*arguments):
        made = real(*arguments)
        made._end = Interrupted(after, error)
        return made

    seen = np.zeros(8, int)
    monkeypatch.setattr(pool, "watch", lambda *numbers: None)
    monkeypatch.setattr(pool, "Piece", piece)
    with pytest.raises(error):
        threads.run(slowly, 8, seen, [])
    assert (seen == 1).all()
    monkeypatch.setattr(pool, "Piece", real)
    threads.run(slowly, 8, seen, [])
    assert (seen == 2).all()


def test_an_interrupt_in_the_own_piece_waits_for_the_others_and_drops_what_nobody_has_begun(four_threads):
    seen, begun = np.zeros(8, int), []

    def interrupted(low, high):
        if low:
            return slowly(low, high, seen, begun)
        while not begun:
            time.sleep(0.001)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads.run(interrupted, 8)
    written, pieces = seen.copy(), len(begun)
    assert written.sum() == 2 * pieces
    time.sleep(0.1)
    np.testing.assert_array_equal(seen, written)
    assert len(begun) == pieces, "what was not begun is not done afterwards either"


def test_an_interrupt_while_the_work_is_given_out_leaves_nothing_for_later(four_threads, monkeypatch):
    def interrupted(piece):
        raise KeyboardInterrupt

    threads.run(covered, 8, np.zeros(8, int), [])
    monkeypatch.setattr(pool._workers[1], "give", interrupted)
    seen = np.zeros(8, int)
    with pytest.raises(KeyboardInterrupt):
        threads.run(covered, 8, seen, [])
    written = seen.copy()
    assert written.sum() in (0, 2), "of the first worker's piece all or nothing"
    time.sleep(0.1)
    np.testing.assert_array_equal(seen, written)


def test_what_others_have_not_begun_is_done_by_who_is_ready(four_threads, monkeypatch):
    threads.run(covered, 8, np.zeros(8, int), [])
    for worker in pool._workers:
        monkeypatch.setattr(worker, "give", lambda piece: None)  # as if their processors were taken
    seen, calls = np.zeros(8, int), []
    threads.run(covered, 8, seen, calls)
    assert (seen == 1).all()
    assert {thread for _, _, thread in calls} == {threading.current_thread()}
    assert len(calls) == 4


def test_both_sides_look_at_the_pieces_that_are_still_missing(four_threads, monkeypatch):
    looked = []
    threads.run(covered, 8, np.zeros(8, int), [])
    given = [worker.given for worker in pool._workers[:3]]
    here = threading.current_thread()

    def watch(numbers, place, value):
        if threading.current_thread() is here:
            looked.append((place, value))

    monkeypatch.setattr(pool, "watch", watch)
    threads.run(slowly, 8, np.zeros(8, int), [])
    assert set(looked) <= {(pool.FINISHED, number) for number in given}
    for worker, number in zip(pool._workers, given, strict=False):
        assert worker.numbers[pool.POSTED] == worker.given == number + 1
        deadline = time.monotonic() + 5
        while worker.numbers[pool.FINISHED] != number + 1 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert worker.numbers[pool.FINISHED] == number + 1


@pytest.mark.parametrize("failing", [False, True])
def test_the_others_are_told_when_the_calling_thread_leaves(four_threads, failing):
    told = threading.Event()

    def part(thread, count):
        assert not told.is_set() or thread
        if thread:
            assert told.wait(20), "they would wait for ever"
        elif failing:
            raise KeyError(thread)

    if failing:
        with pytest.raises(KeyError):
            threads.together(part, told.set, 4)
    else:
        threads.together(part, told.set, 4)
    assert told.is_set()


def test_a_worker_keeps_no_arrays(four_threads):
    class Held:
        pass

    held = Held()
    reference = weakref.ref(held)
    threads.run(lambda low, high, thing: None, 8, held)
    del held
    deadline = time.monotonic() + 5
    while reference() is not None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert reference() is None


def test_a_run_inside_a_run_and_runs_from_two_threads_are_whole(four_threads):
    seen = np.zeros((8, 10), int)

    def outer(low, high):
        for i in range(low, high):
            threads.run(covered, 10, seen[i], [])

    threads.run(outer, 8)
    assert (seen == 1).all()
    others = [threading.Thread(target=outer, args=(i, i + 1)) for i in range(8)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert (seen == 2).all()


@pytest.mark.parametrize("sharing", [threads.run, threads.together])
def test_an_interrupt_between_two_calls_leaves_the_pool_free(four_threads, sharing):
    """Signals are looked at when a call returns: here one has arrived each time that a C function does."""

    def interrupt(frame, event, function):
        if event == "c_return" and frame.f_code is sharing.__code__:
            returned.append(function)
            if len(returned) == number:
                raise KeyboardInterrupt

    given = (lambda low, high: None, 8) if sharing is threads.run else (lambda thread, count: None, lambda: None, 4)
    for number in range(1, 20):
        returned = []
        try:
            sys.setprofile(interrupt)
            sharing(*given)
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        assert not threads._busy.locked(), returned[-1]
        if len(returned) < number:
            break
    assert 3 < number < 19, "every one had its turn"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork_the_child_starts_workers_of_its_own():
    code = """
import os
import threading
import numpy as np
import tinygrad_llm
from tinygrad_llm import pool, threads
def work(low, high, seen): seen[low:high] += 1
threads.set_threads(2)
seen = np.zeros(10)
threads.run(work, 10, seen)
threads._busy.acquire()  # as if another thread were in there
child = os.fork()
if child:
    threads._busy.release()
barrier = threading.Barrier(2)
threads.together(lambda thread, count: barrier.wait(20), lambda: None, 2)
threads.run(work, 10, seen)
if child == 0:
    os._exit(0 if (seen == 2).all() else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60).returncode == 0


def test_blas_is_told_how_to_wait_unless_the_user_has_decided():
    code = "import tinygrad_llm, os; print(os.environ['OPENBLAS_THREAD_TIMEOUT'])"

    def setting(**environment):
        given = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=given | environment, capture_output=True, text=True, timeout=60).stdout

    assert setting() == f"{threads.PAUSE}\n"
    assert setting(OPENBLAS_THREAD_TIMEOUT="20") == "20\n"
    source = Path(tinygrad_llm.__file__).read_text(encoding="utf-8")
    first = next(line for line in source.splitlines() if line.startswith("from tinygrad_llm"))
    assert first.startswith("from tinygrad_llm import threads"), "before anything that imports NumPy"
