"""The tree in which the gradients of a step's parts are added."""

import numpy as np
import pytest

from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim.pairwise import PairwiseSum, take_gradients


def parts_of(count, seed=0):
    return list(
        np.random.default_rng(seed).standard_normal((count, 50)).astype(np.float32) * 10.0 ** np.arange(50) ** 0.5
    )


def tree(parts):
    """The sum by its definition: the left subtree has the largest power of two of parts."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return tree(parts[:half]) + tree(parts[half:])


def pairwise(parts):
    sums = PairwiseSum()
    for part in parts:
        sums.add([part.copy()])
    (total,) = sums.finish()
    return total


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 13, 16])
def test_the_sum_is_that_of_the_tree(count):
    parts = parts_of(count)
    np.testing.assert_array_equal(pairwise(parts), tree(parts))


@pytest.mark.parametrize(("ranks", "each"), [(2, 1), (2, 4), (4, 1), (4, 2), (8, 1)])
def test_ranks_that_share_the_parts_have_the_same_bits(ranks, each):
    parts = parts_of(ranks * each)
    contiguous = [pairwise(parts[rank * each : (rank + 1) * each]) for rank in range(ranks)]
    np.testing.assert_array_equal(pairwise(contiguous), pairwise(parts))
    rounds = [pairwise(parts[number * ranks : (number + 1) * ranks]) for number in range(each)]
    np.testing.assert_array_equal(pairwise(rounds), pairwise(parts))


def test_in_order_the_bits_would_differ():
    parts = parts_of(8)
    assert (sum(parts[1:], parts[0]) != pairwise(parts)).any()


def test_an_array_may_be_missing_in_some_parts():
    sums = PairwiseSum()
    for number in range(5):
        sums.add([np.full(2, 1.0 + number) if number in (1, 4) else None, None])
    one, other = sums.finish()
    assert one.tolist() == [7.0, 7.0]
    assert other is None


def test_it_can_be_used_again():
    sums = PairwiseSum()
    assert sums.finish() == []
    for _ in range(2):
        for _ in range(3):
            sums.add([np.ones(2)])
        assert sums.finish()[0].tolist() == [3.0, 3.0]


def test_gradients_are_taken_from_the_parameters():
    one, other = Parameter(np.zeros(2)), Parameter(np.zeros(2))
    one.grad = gradient = np.ones(2)
    assert take_gradients([one, other])[0] is gradient
    assert one.grad is None
    assert take_gradients([one, other]) == [None, None]
