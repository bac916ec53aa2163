"""Threads that wait for each other inside compiled code."""

import time

import numpy as np
import pytest

from tinygrad_llm import threads

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

import numba

from tinygrad_llm.kernels.meeting import ARRIVED, meet, run_together, share, watch


@pytest.fixture(autouse=True)
def four_threads():
    before = threads.thread_count()
    threads.set_threads(4)
    yield
    threads.set_threads(before)


@numba.njit(nogil=True)  # not kept on disk, where it would contain what `meet` once was
def sums_of_neighbours(thread, count, meeting, x, y):
    """Each round every thread writes what it reads of two others: only with meetings between is it a sum of rounds."""
    for _ in range(len(y)):
        total = x[thread] + x[(thread + 1) % count]
        if not meet(meeting, count):
            return
        x[thread] = total % 1000003
        if not meet(meeting, count):
            return
    y[thread] = x[thread]


@pytest.mark.parametrize("most", [1, 2, 4])
def test_nobody_goes_on_before_all_have_come(most):
    x, y = np.arange(4), np.zeros(200, np.int64)
    run_together(sums_of_neighbours, x, y, most=most)
    expected = np.arange(most)
    for _ in range(200):
        expected = (expected + np.roll(expected, -1)) % 1000003
    np.testing.assert_array_equal(y[:most], expected)


def wait_for_others(meeting, count):
    """Until they wait for us."""
    while meeting[ARRIVED] < count - 1:
        time.sleep(0.001)


@pytest.mark.parametrize("failing", [0, 1, 3])
def test_if_one_fails_the_others_do_not_wait_for_it(failing):
    seen = []

    def kernel(thread, count, meeting):
        if thread == failing:
            wait_for_others(meeting, count)
            raise MemoryError("no room")
        seen.append(meet(meeting, count))

    with pytest.raises(MemoryError, match="no room"):
        run_together(kernel, most=4)
    assert seen == [False] * 3
    x, y = np.arange(4), np.zeros(4, np.int64)
    run_together(sums_of_neighbours, x, y, most=4)  # the threads still work
    assert y.any()


def test_an_interrupt_leaves_nobody_waiting():
    left = []

    def kernel(thread, count, meeting):
        if thread == 0:
            wait_for_others(meeting, count)
            raise KeyboardInterrupt
        left.append(meet(meeting, count))

    with pytest.raises(KeyboardInterrupt):
        run_together(kernel, most=3)
    assert left == [False] * 2


def test_inside_another_there_is_one_thread():
    counts = []

    def outer(thread, count, meeting):
        if thread == 0:
            run_together(lambda inner, number, _: counts.append(number), most=4)

    run_together(outer, most=4)
    assert counts == [1]


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 100])
@pytest.mark.parametrize("step", [1, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_cover_everything_once(length, step, count):
    shares = [share(length, step, thread, count) for thread in range(count)]
    assert [i for first, last in shares for i in range(first, last)] == list(range(length))
    assert all(first % step == 0 for first, last in shares if first < last)


def test_a_part_that_nobody_has_begun_is_not_waited_for():
    begun = []

    def kernel(thread, count, meeting):
        begun.append(thread)
        if thread == 0:
            raise KeyboardInterrupt
        time.sleep(0.05)
        assert not meet(meeting, count)

    with pytest.raises(KeyboardInterrupt):
        run_together(kernel, most=4)
    time.sleep(0.2)
    assert len(begun) == len(set(begun)) <= 4


@pytest.mark.parametrize("value", [0, 5])
def test_watching_ends_at_once_when_the_number_is_another(value):
    numbers = np.zeros(32, np.int64)
    numbers[16] = 7
    assert watch(numbers, 16, value) is None
    watch(numbers, 16, 7)  # after a while, though nobody writes
