import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops

EVERY = [ops.softmax, ops.log_softmax, ops.logsumexp]
rows = st.lists(st.floats(-20, 20), min_size=1, max_size=6)


def gradient(operation, x, dy, **options):
    leaf = Tensor(x, requires_grad=True)
    operation(leaf, **options).backward(dy)
    return leaf.grad


@given(row=rows, shift=st.floats(-100, 100))
def test_values_against_the_plain_formula_and_shifted(row, shift):
    exponentials = [math.exp(v) for v in row]
    total = math.fsum(exponentials)
    p = [e / total for e in exponentials]
    x = np.array(row) + shift
    np.testing.assert_allclose(ops.softmax(x).data, p, rtol=1e-12, atol=0)
    np.testing.assert_allclose(ops.softmax(x).data.sum(), 1, rtol=1e-14)
    np.testing.assert_allclose(ops.log_softmax(x).data, [v - math.log(total) for v in row], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ops.logsumexp(x).data, math.log(total) + shift, rtol=1e-13, atol=1e-13)


@given(row=rows, seed=st.integers(0, 1000))
def test_gradients_against_the_dense_jacobians(row, seed):
    x, dy = np.array(row), np.random.default_rng(seed).standard_normal(len(row))
    e = np.exp(x - x.max())
    p = e / e.sum()
    np.testing.assert_allclose(gradient(ops.softmax, x, dy), (np.diag(p) - np.outer(p, p)) @ dy, rtol=0, atol=1e-14)
    eye = np.eye(len(row))
    np.testing.assert_allclose(
        gradient(ops.log_softmax, x, dy), (eye - np.outer(p, np.ones(len(row)))) @ dy, atol=1e-13
    )
    np.testing.assert_allclose(gradient(ops.logsumexp, x, 3.0), 3 * p, atol=1e-14)


def test_known_numbers():
    x = np.log([1.0, 2.0, 5.0])
    np.testing.assert_allclose(ops.softmax(x).data, [1 / 8, 2 / 8, 5 / 8], rtol=1e-15)
    np.testing.assert_allclose(ops.logsumexp(x).item(), math.log(8), rtol=1e-15)
    np.testing.assert_allclose(ops.softmax([1, 1]).data, [0.5, 0.5])  # whole numbers are converted
    # p (dy - dy.p) with dy.p = (8 + 0 + 0) / 8
    np.testing.assert_allclose(gradient(ops.softmax, x, [8.0, 0.0, 0.0]), [7 / 8, -2 / 8, -5 / 8], rtol=1e-15)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_every_axis(axis):
    x = np.random.default_rng(0).standard_normal((2, 3, 4))
    e = np.exp(x)
    s = e.sum(axis, keepdims=True)
    np.testing.assert_allclose(ops.softmax(x, axis=axis).data, e / s, rtol=1e-14)
    np.testing.assert_allclose(ops.log_softmax(x, axis=axis).data, np.log(e / s), rtol=1e-13)
    np.testing.assert_allclose(ops.logsumexp(x, axis=axis, keepdims=True).data, np.log(s), rtol=1e-13)
    np.testing.assert_allclose(ops.logsumexp(x, axis=axis).data, np.log(s).squeeze(axis), rtol=1e-13)
    for operation in EVERY:
        assert tg.gradcheck(operation, x, axis=axis)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_logits_are_exact_and_silent(dtype):
    x = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype)
    third, half = 1 / 3, 0.5
    p, y, z = ops.softmax(x), ops.log_softmax(x), ops.logsumexp(x)
    assert p.dtype == y.dtype == z.dtype == dtype
    tolerance = 2 * np.finfo(dtype).eps
    np.testing.assert_allclose(p.data, [[1, 0, 0], [third] * 3, [half, half, 0]], rtol=tolerance)
    log3, log2 = math.log(3), math.log(2)
    np.testing.assert_allclose(y.data, [[0, -2e4, -1e4], [-log3] * 3, [-log2, -log2, -2e4 - log2]], rtol=tolerance)
    np.testing.assert_allclose(z.data, [1e4, -1e4 + log3, 1e4 + log2], rtol=tolerance)
    dy = np.array([[3.0, 5.0, 7.0], [3.0, 0.0, 0.0], [3.0, 1.0, 9.0]])
    dp = gradient(ops.softmax, x, dy)
    np.testing.assert_allclose(dp, [[0, 0, 0], [2 / 3, -1 / 3, -1 / 3], [half, -half, 0]], atol=4 * tolerance)
    dl = gradient(ops.log_softmax, x, dy)
    np.testing.assert_allclose(dl, [[-12, 5, 7], [2, -1, -1], [-3.5, -5.5, 9]], rtol=4 * tolerance)
    dz = gradient(ops.logsumexp, x, [2.0, 3.0, 4.0])
    np.testing.assert_allclose(dz, [[2, 0, 0], [1, 1, 1], [2, 2, 0]], rtol=tolerance)
    assert dp.dtype == dl.dtype == dz.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masked_entries_and_fully_masked_rows(dtype):
    x = np.array([[-np.inf, 0.0, 0.0], [-np.inf] * 3], dtype)
    dy = np.array([[3.0, 5.0, 7.0], [3.0, 5.0, 7.0]])
    np.testing.assert_array_equal(ops.softmax(x).data, [[0, 0.5, 0.5], [0, 0, 0]])
    np.testing.assert_array_equal(gradient(ops.softmax, x, dy), [[0, -0.5, 0.5], [0, 0, 0]])
    np.testing.assert_array_equal(ops.logsumexp(x).data, np.array([math.log(2), -np.inf], dtype))
    np.testing.assert_array_equal(gradient(ops.logsumexp, x, [4.0, 4.0]), [[0, 2, 2], [0, 0, 0]])
    log2 = dtype(math.log(2))
    np.testing.assert_array_equal(ops.log_softmax(x).data, [[-np.inf, -log2, -log2], [-np.inf] * 3])
    tolerance = 16 * np.finfo(dtype).eps
    np.testing.assert_allclose(gradient(ops.log_softmax, x, dy), [[3, -2.5, -0.5], [0, 0, 0]], rtol=tolerance)
    for operation in EVERY:
        assert operation(x).dtype == dtype


@pytest.mark.parametrize("operation", EVERY)
def test_rows_without_entries_and_no_rows(operation):
    kept = operation is not ops.logsumexp
    for shape in ((2, 0), (0, 3), (0,)):
        y = operation(np.ones(shape, np.float32))
        assert y.shape == (shape if kept else shape[:-1])
        assert y.dtype == np.float32
        assert gradient(operation, np.ones(shape, np.float32), np.ones(y.shape)).shape == shape
    if not kept:
        np.testing.assert_array_equal(operation(np.ones((2, 0))).data, [-np.inf, -np.inf])


@pytest.mark.parametrize("operation", EVERY)
def test_one_entry_does_not_move_and_wrong_axes_are_named(operation):
    x = np.array([[5.0], [-1e4]])
    expected = {"softmax": [[1], [1]], "log_softmax": [[0], [0]], "logsumexp": [5, -1e4]}[operation.name]
    np.testing.assert_array_equal(operation(x).data, expected)
    if operation is not ops.logsumexp:
        np.testing.assert_array_equal(gradient(operation, x, [[3.0], [5.0]]), [[0], [0]])
    with pytest.raises(ValueError, match=rf"{operation.name}: \(2, 1\): axis 2 is out of bounds"):
        operation(x, axis=2)


@pytest.mark.parametrize("operation", EVERY)
def test_methods(operation):
    x = np.random.default_rng(0).standard_normal((2, 3))
    np.testing.assert_array_equal(getattr(Tensor(x), operation.name)(axis=0).data, operation(x, axis=0).data)
