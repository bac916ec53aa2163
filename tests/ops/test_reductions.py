import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import Tensor, ops
from tinygrad_llm.checking import derivation_steps


def gradient(operation, x, dy):
    leaf = Tensor(x, requires_grad=True)
    operation(leaf).backward(dy)
    return leaf.grad


def groups(shape, axis):
    """{index in the result with keepdims: indices in x reduced to it}, by plain counting."""
    reduced = range(len(shape)) if axis is None else [axis] if isinstance(axis, int) else axis
    reduced = {a % len(shape) for a in reduced}
    found = {}
    for index in itertools.product(*map(range, shape)):
        found.setdefault(tuple(0 if a in reduced else i for a, i in enumerate(index)), []).append(index)
    return found


@st.composite
def cases(draw):
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    n = len(shape)
    several = st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True)
    signed = several.map(lambda axes: tuple(a - n if i % 2 else a for i, a in enumerate(axes)))
    axis = draw(st.one_of(st.none(), st.integers(-n, n - 1), signed))
    return shape, axis, draw(st.booleans()), draw(st.integers(0, 1000))


@pytest.mark.parametrize(
    ("operation", "scalar", "share"),
    [
        (ops.sum, math.fsum, lambda values: [1.0] * len(values)),
        (ops.mean, lambda values: math.fsum(values) / len(values), lambda values: [1 / len(values)] * len(values)),
        (ops.max, max, lambda values: [(v == max(values)) / values.count(max(values)) for v in values]),
    ],
    ids=["sum", "mean", "max"],
)
@given(case=cases())
def test_values_and_gradients_group_by_group(operation, scalar, share, case):
    """Small whole numbers, so that max has many ties."""
    shape, axis, keepdims, seed = case
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 3, shape).astype(float)
    kept = {k: [float(x[i]) for i in indices] for k, indices in groups(shape, axis).items()}
    size = tuple(max(k[a] for k in kept) + 1 for a in range(len(shape)))
    expected, dy, dx = np.zeros(size), rng.standard_normal(size), np.zeros(shape)
    for k, indices in groups(shape, axis).items():
        expected[k] = scalar(kept[k])
        for i, part in zip(indices, share(kept[k]), strict=True):
            dx[i] = dy[k] * part
    z = operation(x, axis=axis, keepdims=keepdims)
    outer = size if keepdims else np.zeros(shape).sum(axis).shape
    assert z.shape == outer
    np.testing.assert_allclose(z.data, expected.reshape(outer), rtol=1e-14)
    found = gradient(lambda t: operation(t, axis=axis, keepdims=keepdims), x, dy.reshape(outer))
    np.testing.assert_allclose(found, dx, rtol=1e-14)


def test_max_ties_share_the_gradient():
    np.testing.assert_array_equal(gradient(ops.max, [2.0, 5.0, 5.0, 5.0], 3.0), [0.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(gradient(ops.max, [[-np.inf, -np.inf]], 1.0), [[0.5, 0.5]])


def test_max_of_nan_is_nan_and_the_gradient_goes_there():
    x = np.array([[1.0, np.nan, 3.0], [1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(ops.max(x, axis=1).data, [np.nan, 3.0])
    dx = gradient(lambda t: ops.max(t, axis=1), x, [5.0, 7.0])
    np.testing.assert_array_equal(dx, [[0.0, 5.0, 0.0], [0.0, 0.0, 7.0]])


def test_sum_over_nothing_is_zero():
    for axis, expected in ((0, np.zeros(3)), (None, 0.0), ((0, 1), 0.0), (1, np.zeros(0))):
        np.testing.assert_array_equal(ops.sum(np.ones((0, 3)), axis=axis).data, expected)
    assert gradient(lambda t: ops.sum(t, axis=0), np.ones((0, 3)), np.ones(3)).shape == (0, 3)


@pytest.mark.parametrize("operation", [ops.mean, ops.max], ids=["mean", "max"])
def test_mean_and_max_over_nothing_are_errors_naming_the_axis(operation):
    with pytest.raises(ValueError, match=rf"{operation.name}: axis 0 of shape \(0, 3\) has no elements"):
        operation(np.ones((0, 3)), axis=0)
    with pytest.raises(ValueError, match=rf"{operation.name}: axis \(-1, 0\) of shape \(2, 0\) has no elements"):
        operation(np.ones((2, 0)), axis=(-1, 0))
    with pytest.raises(ValueError, match=rf"{operation.name}: axis None of shape \(0,\) has no elements"):
        operation(np.ones(0))
    assert operation(np.ones((0, 3)), axis=1).shape == (0,)  # no rows, but each would have three entries
    assert gradient(lambda t: operation(t, axis=1), np.ones((0, 3)), np.ones(0)).shape == (0, 3)


@pytest.mark.parametrize("operation", [ops.sum, ops.mean, ops.max], ids=["sum", "mean", "max"])
def test_wrong_axes_and_scalars_and_dtypes(operation):
    with pytest.raises(ValueError, match=rf"{operation.name}: \(2, 3\): axis 2 is out of bounds"):
        operation(np.ones((2, 3)), axis=2)
    assert operation(Tensor(3.0)).item() == 3.0
    assert operation(3.0).item() == 3.0
    assert gradient(operation, 3.0, 2.0) == 2.0
    x = np.array([[1.0, 4.0]], np.float32)
    for axis in (None, 0, 1, -1, (0, 1)):
        assert operation(x, axis=axis).dtype == np.float32
        vjp = operation.reference(x, axis=axis)[1]
        assert vjp(np.ones(operation(x, axis=axis).shape, np.float32)).dtype == np.float32


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
def test_methods(name):
    x = np.arange(6.0).reshape(2, 3)
    for options in ({}, {"axis": -1}, {"axis": (0, 1), "keepdims": True}):
        expected = getattr(np, name)(x, **options)
        np.testing.assert_array_equal(getattr(Tensor(x), name)(**options).data, expected)


def test_the_gradient_of_sum_is_not_a_copy():
    dx = ops.sum.reference(np.ones((1000, 1000)), axis=1)[1](np.arange(1000.0))
    assert dx.strides[1] == 0


def test_the_last_form_of_the_gradient_of_max_divides_ties_as_the_vjp_does():
    steps = derivation_steps(ops.max, "x", (np.array([2.0, 5.0, 5.0, 5.0]),), {}, np.float64(6.0))
    for step in steps[-2:]:
        np.testing.assert_allclose(step.value, [0, 2, 2, 2], rtol=1e-15)
