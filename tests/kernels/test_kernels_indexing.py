"""The kernel behind the gradients of lookups against its reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import threads
from tinygrad_llm.ops.indexing import scatter_rows

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import indexing as kernels

seeds = st.integers(0, 2**32 - 1)


def one_at_a_time(ids, updates, count):
    total = np.zeros((count, *updates.shape[1:]), updates.dtype)
    for n, v in enumerate(ids):
        total[v] += updates[n]
    return total


@given(
    n=st.sampled_from([0, 1, 2, 7, 130]),
    row=st.sampled_from([(), (0,), (1,), (3,), (31,), (32,), (33,), (97,), (2, 3)]),
    count=st.sampled_from([1, 2, 9, 300]),
    seed=seeds,
    dtype=st.sampled_from([np.float32, np.float64]),
    kind=st.sampled_from([np.uint8, np.int32, np.int64]),
)
def test_rows_are_added_in_the_order_in_which_they_come(n, row, count, seed, dtype, kind):
    rng = np.random.default_rng(seed)
    ids, updates = rng.integers(0, min(count, 256), n).astype(kind), rng.standard_normal((n, *row)).astype(dtype)
    found = scatter_rows.kernel(ids, updates, count)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, one_at_a_time(ids, updates, count))  # to the last bit
    tolerance = n * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(found, scatter_rows.reference(ids, updates, count), rtol=0, atol=4 * tolerance)


@pytest.mark.parametrize("layout", ["transposed", "reversed", "zero strides", "every other"])
def test_updates_may_lie_anyhow_in_memory(layout):
    rng = np.random.default_rng(0)
    ids, updates = rng.integers(0, 4, 30), rng.standard_normal((30, 40))
    updates = {
        "transposed": np.asfortranarray(updates),
        "reversed": updates[::-1],
        "zero strides": np.broadcast_to(updates[:1], (30, 40)),
        "every other": updates[:, ::2],
    }[layout]
    before = updates.copy()
    np.testing.assert_array_equal(scatter_rows.kernel(ids, updates, 4), one_at_a_time(ids, updates, 4))
    np.testing.assert_array_equal(updates, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_row(bad):
    updates = np.ones((5, 3))
    updates[2, 1] = bad
    ids = np.array([1, 1, 0, 0, 2])
    np.testing.assert_array_equal(scatter_rows.kernel(ids, updates, 4), scatter_rows.reference(ids, updates, 4))


def test_as_many_threads_as_there_are_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 1)
    rng = np.random.default_rng(0)
    ids, updates = rng.integers(0, 5, 200), rng.standard_normal((200, 5 * kernels.LINE + 3)).astype(np.float32)
    found = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "_threads", count)
        found.append(scatter_rows.kernel(ids, updates, 5))
    np.testing.assert_array_equal(*found)
    np.testing.assert_array_equal(found[0], one_at_a_time(ids, updates, 5))


def test_what_is_declined():
    ids, updates = np.array([0, 1]), np.ones((2, 3))
    for odd in (updates.astype(complex), updates.astype(np.float16), updates.astype(int)):
        assert scatter_rows.kernel(ids, odd, 2) is NotImplemented
