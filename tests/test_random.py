"""Named streams: the same everywhere, and different for every name."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import random

names = st.lists(st.text(max_size=4) | st.integers(-(10**20), 10**20), max_size=4)


def draw(generator):
    return generator.integers(0, 2**63, size=4).tolist()


@given(seed=st.integers(), names=names)
def test_a_stream_is_the_same_whenever_it_is_asked_for(seed, names):
    assert draw(random.stream(seed, *names)) == draw(random.stream(seed, *names))


@given(first=st.tuples(st.integers(), names), second=st.tuples(st.integers(), names))
def test_different_names_give_different_streams(first, second):
    same = first == second
    assert (draw(random.stream(first[0], *first[1])) == draw(random.stream(second[0], *second[1]))) == same


def test_names_that_look_alike_are_different():
    alike = [(1, "a"), ("1", "a"), ("1a",), ("ab", "c"), ("a", "bc"), ("abc",), (), ("",), ("", ""), (11,), (1, 1)]
    assert len({tuple(draw(random.stream(0, *names))) for names in alike}) == len(alike)
    assert draw(random.stream(0, np.int64(3))) == draw(random.stream(0, 3))


def test_the_numbers_are_these_on_every_platform():
    assert random.stream(7, "batch", 120).integers(0, 1000, size=5).tolist() == [504, 445, 103, 913, 312]


def test_a_wrong_name_is_refused():
    with pytest.raises(TypeError, match=r"got 1.5 \(float\); write it as text"):
        random.stream(0, 1.5)


def test_a_scope_counts_its_draws_and_gives_the_outer_one_back():
    with random.scope(3, "outer"):
        assert draw(random.next_stream("dropout")) == draw(random.stream(3, "outer", "dropout", 0))
        with random.scope(4, "inner", 9):
            assert draw(random.next_stream("dropout")) == draw(random.stream(4, "inner", 9, "dropout", 0))
        assert draw(random.next_stream("noise")) == draw(random.stream(3, "outer", "noise", 1))


def test_a_scope_ends_with_an_error_too():
    before = random.get_state()
    with pytest.raises(RuntimeError), random.scope(1):
        raise RuntimeError
    assert random.get_state() == before


def test_outside_of_any_scope_there_is_one_with_seed_0_for_all_threads():
    before = random.get_state()
    assert before[0] == 0
    random.next_stream("dropout")
    thread = threading.Thread(target=random.next_stream, args=("dropout",))
    thread.start()
    thread.join()
    assert random.get_state()[2] == before[2] + 2


def test_draws_can_be_replayed():
    with random.scope(1, "a"):
        random.next_stream("x")
        state = random.get_state()
        first = draw(random.next_stream("x"))
        after = random.get_state()
    with random.scope(9):
        random.next_stream("y")
        with random.replayed(state):
            assert draw(random.next_stream("x")) == first
            assert random.get_state() == after
        assert random.get_state() == (9, (), 1)


def test_replaying_in_one_thread_leaves_the_others_alone():
    inside, leave = threading.Event(), threading.Event()

    def replay():
        with random.replayed((7, ("z",), 3)):
            inside.set()
            leave.wait(10)

    before = random.get_state()
    thread = threading.Thread(target=replay)
    thread.start()
    inside.wait(10)
    assert random.get_state() == before
    leave.set()
    thread.join()


def test_a_part_draws_the_same_whatever_was_drawn_before_it():
    def drawn(before):
        with random.scope(3, "step"):
            number = random.next_number()
            with random.within(number, "first"):
                for _ in range(before):
                    random.next_stream("x")
            with random.within(number, "block", 1):
                return random.next_stream("x").random()

    assert drawn(0) == drawn(5) == random.stream(3, "step", 0, "block", 1, "x", 0).random()


def test_each_pass_through_a_model_draws_anew():
    with random.scope(3, "step"):
        passes = []
        for _ in range(2):
            with random.within(random.next_number(), "block", 1):
                passes.append(random.next_stream("x").random())
    assert passes[0] != passes[1]
