"""Texts side by side."""

import numpy as np
import pytest

from tinygrad_llm.data.padding import SORTED, batches_by_length, padded, shuffled_batches


def test_shorter_rows_are_filled_up_on_the_right():
    ids, mask = padded([np.array([1, 2, 3]), np.array([4]), np.array([0, 5])], 9)
    np.testing.assert_array_equal(ids, [[1, 2, 3], [4, 9, 9], [0, 5, 9]])
    assert mask.shape == (3, 1, 1, 3)
    np.testing.assert_array_equal(mask[:, 0, 0], [[True, True, True], [True, False, False], [True, True, False]])
    assert padded([np.array([1]), np.array([2, 3])])[0][0, 1] == 0


def test_batches_by_length_hold_so_many_tokens():
    rows = [np.zeros(n) for n in (3, 9, 1, 20, 4, 3, 0)]
    batches = list(batches_by_length(rows, 12))
    assert batches == [[3], [1], [4, 0, 5], [2, 6]]
    assert list(batches_by_length([np.zeros(0)] * 3, 2)) == [[0, 1], [2]]


@pytest.mark.parametrize(("count", "size"), [(0, 4), (1, 4), (7, 2), (8, 2), (500, 3), (3, 5)])
def test_shuffled_batches_have_each_place_once(count, size):
    lengths = np.random.default_rng(0).integers(1, 100, count)
    batches = shuffled_batches(lengths, size, np.random.default_rng(1))
    assert sorted(place for batch in batches for place in batch) == list(range(count))
    assert len(batches) == -(-count // size)
    assert sorted(len(batch) for batch in batches)[1:] == [size] * (len(batches) - 1 if batches else 0)


def test_shuffled_batches_are_of_about_equal_length_and_in_no_order():
    lengths = np.random.default_rng(0).permutation(4 * SORTED)
    batches = shuffled_batches(lengths, 4, np.random.default_rng(1))
    assert all(np.ptp(lengths[batch]) == 3 for batch in batches)
    firsts = [lengths[batch].min() for batch in batches]
    assert firsts != sorted(firsts)
    other = shuffled_batches(np.repeat(lengths, 2), 4, np.random.default_rng(1))
    assert {tuple(sorted(batch)) for batch in other} != {tuple(range(i, i + 4)) for i in range(0, 8 * SORTED, 4)}
    again = shuffled_batches(lengths, 4, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
