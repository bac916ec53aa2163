"""getitem and embedding: values, edges and messages. Gradients are checked in test_every_operation.py."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import embedding, getitem
from tinygrad_llm.ops.indexing import reads_once, scatter_rows


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def leaf(array):
    return tg.Tensor(array, requires_grad=True)


def test_embedding_looks_rows_up(rng):
    weight, ids = rng.standard_normal((5, 3)), np.array([[4, 0, 0], [1, 4, 3]])
    y = embedding(weight, ids).data
    assert y.shape == (2, 3, 3)
    for n in np.ndindex(ids.shape):
        np.testing.assert_array_equal(y[n], weight[ids[n]])


def test_embedding_sums_the_cotangents_of_repeated_ids(rng):
    weight, ids = leaf(rng.standard_normal((5, 3))), np.array([[4, 0, 0], [1, 4, 0]])
    dy = rng.standard_normal((2, 3, 3))
    embedding(weight, ids).backward(dy)
    np.testing.assert_allclose(weight.grad[0], dy[0, 1] + dy[0, 2] + dy[1, 2], rtol=1e-15)
    np.testing.assert_allclose(weight.grad[4], dy[0, 0] + dy[1, 1], rtol=1e-15)
    np.testing.assert_array_equal(weight.grad[1], dy[1, 0])
    np.testing.assert_array_equal(weight.grad[2:4], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint64, np.int16, np.int32, np.int64])
def test_embedding_takes_ids_of_every_integer_dtype(rng, dtype):
    weight, ids = leaf(rng.standard_normal((5, 3))), np.array([0, 3, 0], dtype)
    y = embedding(weight, ids)
    np.testing.assert_array_equal(y.data, weight.data[[0, 3, 0]])
    y.backward(np.ones(y.shape))
    np.testing.assert_array_equal(weight.grad, np.array([2.0, 0, 0, 1, 0])[:, None] * np.ones(3))


@pytest.mark.parametrize("ids", [np.array(2), np.zeros((2, 0), int), [1, 2], tg.Tensor(np.array([0, 1]))])
def test_embedding_takes_ids_of_every_shape(rng, ids):
    weight = leaf(rng.standard_normal((5, 3)))
    y = embedding(weight, ids)
    assert y.shape == (*np.shape(getattr(ids, "data", ids) if isinstance(ids, tg.Tensor) else ids), 3)
    y.backward(np.ones(y.shape))
    assert weight.grad.sum() == y.size


@pytest.mark.parametrize("bad", [-1, 5, 99])
def test_embedding_refuses_ids_outside_the_vocabulary(bad):
    with pytest.raises(IndexError, match=rf"embedding: id {bad} is outside the vocabulary of V=5 \(ids 0 to 4\)"):
        embedding(np.ones((5, 3)), np.array([0, bad, 4]))


@pytest.mark.parametrize("ids", [np.array([0.0, 1.0]), np.array([True])])
def test_embedding_refuses_ids_that_are_not_whole_numbers(ids):
    with pytest.raises(TypeError, match="embedding: ids must be whole numbers, not"):
        embedding(np.ones((5, 3)), ids)


def test_scatter_rows_agrees_with_adding_one_at_a_time(rng):
    ids, updates = rng.integers(0, 7, 100), rng.standard_normal((100, 2, 3))
    expected = np.zeros((8, 2, 3))
    for n, v in enumerate(ids):
        expected[v] += updates[n]
    np.testing.assert_allclose(scatter_rows(ids, updates, 8), expected, rtol=1e-13)


def test_scatter_rows_adds_equal_ids_in_the_order_in_which_they_came(rng):
    # the last bits of a sum depend on its order, so they show it: each row is the sum of its own updates, as they stand
    ids, updates = rng.integers(0, 3, 300), rng.standard_normal((300, 4)).astype(np.float32)
    total = scatter_rows.reference(ids, updates, 3)
    for v in range(3):
        np.testing.assert_array_equal(total[v], np.add.reduceat(updates[ids == v], [0])[0])


INDICES = [
    0,
    -1,
    np.int64(2),
    slice(1, 3),
    slice(None, None, -1),
    (slice(None), 2),
    (Ellipsis, 1),
    (None, 0, Ellipsis, None),
    (),
    Ellipsis,
    [0, 2, 0],
    np.array(1),
    np.array([[0, -1], [2, 2]]),
    np.array([], int),
    [],
    np.array([0, 2, 1], np.uint8),
    (slice(None), np.array([3, 3, -4])),
    (np.array([0, 0, 2]), np.array([1, 1, 3])),
    (np.array([0, 0]), slice(1, 3), np.array([1, -1])),
    (Ellipsis, [0, 0, 1]),
    np.array([True, False, True]),
    np.zeros((3, 4, 2), bool),
    (slice(None), np.array([True, False, False, True]), 0),
    (np.array([True, False, True]), np.array([1, 1])),
]


@pytest.mark.parametrize("index", INDICES, ids=repr)
def test_getitem_reads_and_its_gradient_counts_the_reads(rng, index):
    x = leaf(rng.standard_normal((3, 4, 2)))
    y = x[index]
    places = np.arange(x.size).reshape(x.shape)[np.asarray(index, int) if isinstance(index, list) else index]
    np.testing.assert_array_equal(y.data, x.data.ravel()[places])
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    expected = np.bincount(places.ravel(), weights=dy.ravel(), minlength=x.size).reshape(x.shape)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-14, atol=1e-15)


def test_getitem_takes_tensors_as_indices(rng):
    x, rows, columns = leaf(rng.standard_normal((3, 4))), tg.Tensor(np.array([0, 2])), tg.Tensor(np.array([1, 1]))
    np.testing.assert_array_equal(x[rows].data, x.data[[0, 2]])
    np.testing.assert_array_equal(x[rows, columns].data, x.data[[0, 2], [1, 1]])
    np.testing.assert_array_equal(x[tg.Tensor(x.data > 0)].data, x.data[x.data > 0])


def test_an_index_may_not_change_before_the_gradient_is_known():
    x, rows = leaf(np.ones((3, 4))), tg.Tensor(np.array([0, 2]))
    y = x[rows, 1:]
    with pytest.raises(ValueError, match="read-only"):
        rows.data[0] = 1
    y.backward(np.ones(y.shape))
    rows.data[0] = 1


def test_getitem_of_an_empty_axis():
    x = leaf(np.ones((0, 3)))
    y = x[np.zeros(0, int)]
    y.backward(np.ones((0, 3)))
    assert x.grad.shape == (0, 3)


def test_a_mask_without_entries_is_still_a_mask():
    assert getitem(np.ones((0, 3)), np.zeros((0, 3), bool)).shape == (0,)


@pytest.mark.parametrize("index", [[1.0], [0.0, 1.5], np.ones((1, 2))])
def test_floating_point_indices_are_refused(index):
    with pytest.raises(IndexError, match=r"getitem: .*integer"):
        getitem(np.ones((3, 4)), index)


def test_only_integer_arrays_can_read_a_place_twice():
    assert reads_once((0, slice(None), None, Ellipsis, np.array([True])))
    assert not reads_once(np.array([0]))
    assert not reads_once((slice(None), [0, 0]))


def test_getitem_says_what_is_out_of_bounds():
    with pytest.raises(IndexError, match=r"getitem: \(3, 4\): index 5 is out of bounds for axis 1 with size 4"):
        getitem(np.ones((3, 4)), (0, 5))
    with pytest.raises(IndexError, match=r"getitem: .* index 7 is out of bounds"):
        getitem(np.ones((3, 4)), np.array([0, 7]))
    with pytest.raises(IndexError, match=r"getitem: \(3,\)"):
        getitem(np.ones(3), 1.5)
