import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops
from tinygrad_llm.checking import derivation_steps

SMOOTH = {
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "silu": lambda x: x / (1 + math.exp(-x)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
EVERY = [*SMOOTH, "relu"]


def gelu_exact(x):
    return ops.gelu(x, approximate=False)


def gradient(operation, x, dy):
    leaf = Tensor(x, requires_grad=True)
    operation(leaf).backward(dy)
    return leaf.grad


@pytest.mark.parametrize("name", SMOOTH)
@given(x=st.floats(-8, 8))
def test_values_against_the_plain_formula(name, x):
    expected = SMOOTH[name](x)
    np.testing.assert_allclose(getattr(ops, name)(np.array([x])).data, [expected], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(getattr(ops, name)(x).data, expected, rtol=1e-9, atol=1e-13)  # a plain number


@given(x=st.floats(-8, 8))
def test_gelu_exact_is_x_times_the_normal_distribution_function(x):
    expected = x * 0.5 * (1 + math.erf(x / math.sqrt(2)))
    np.testing.assert_allclose(gelu_exact(np.array([x])).data, [expected], rtol=1e-12, atol=1e-14)
    assert abs(gelu_exact(x).item() - ops.gelu(x).item()) < 5e-4
    np.testing.assert_allclose(Tensor([x]).gelu(approximate=False).data, [expected], rtol=1e-12, atol=1e-14)


def test_gelu_forms_differ_where_they_should():
    np.testing.assert_allclose(gelu_exact(1.0).item(), 0.8413447460685429, rtol=1e-15)  # P(1), from tables
    np.testing.assert_allclose(ops.gelu(1.0).item(), 0.8411919906082768, rtol=1e-14)


@pytest.mark.parametrize(
    ("operation", "values", "slopes"),
    [
        (ops.tanh, [-1, 0, 1], [0, 1, 0]),
        (ops.sigmoid, [0, 0.5, 1], [0, 0.25, 0]),
        (ops.relu, [0, 0, 1e4], [0, 0, 1]),
        (ops.silu, [0, 0, 1e4], [0, 0.5, 1]),
        (ops.softplus, [0, math.log(2), 1e4], [0, 0.5, 1]),
        (ops.gelu, [0, 0, 1e4], [0, 0.5, 1]),
        (gelu_exact, [0, 0, 1e4], [0, 0.5, 1]),
    ],
    ids=["tanh", "sigmoid", "relu", "silu", "softplus", "gelu", "gelu_exact"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limits_and_zero(operation, values, slopes, dtype):
    """The limits at -1e4 and 1e4 are exact, nothing warns, and relu's kink has slope 0."""
    x = np.array([-1e4, 0, 1e4], dtype)
    y, dx = operation(x).data, gradient(operation, x, np.ones(3))
    assert y.dtype == dx.dtype == dtype
    tolerance = np.finfo(dtype).eps  # only log 2 is not a float
    np.testing.assert_allclose(y, values, rtol=tolerance, atol=0)
    np.testing.assert_allclose(dx, slopes, rtol=tolerance, atol=0)


def test_small_values_keep_their_relative_precision():
    np.testing.assert_allclose(ops.sigmoid(-100.0).item(), math.exp(-100), rtol=1e-14)
    np.testing.assert_allclose(ops.softplus(-100.0).item(), math.exp(-100), rtol=1e-14)
    np.testing.assert_allclose(gradient(ops.softplus, [-100.0], [1.0]), [math.exp(-100)], rtol=1e-14)
    np.testing.assert_allclose(gelu_exact(-10.0).item(), -10 * 7.61985302416047e-24, rtol=1e-13)  # Q(10), from tables


@given(x=st.floats(-700, 700))
def test_symmetries(x):
    s, opposite = ops.sigmoid(np.array([x, -x])).data
    np.testing.assert_allclose(s + opposite, 1, rtol=1e-15)
    up, down = ops.softplus(np.array([x, -x])).data
    np.testing.assert_allclose(up - down, x, rtol=1e-14, atol=1e-15)
    underflow = np.finfo(np.float64).tiny  # half of the smallest number there is rounds to 0
    np.testing.assert_allclose(ops.gelu(x).item() - ops.gelu(-x).item(), x, rtol=1e-15, atol=underflow)
    np.testing.assert_allclose(ops.silu(x).item() - ops.silu(-x).item(), x, rtol=1e-14, atol=underflow)


@pytest.mark.parametrize("name", [n for n in EVERY if n != "relu"])
def test_gradients_over_the_whole_range(name):
    assert tg.gradcheck(getattr(ops, name), np.array([-30.0, -8.0, -3.0, -1.0, 0.0, 0.5, 2.0, 5.0, 30.0]))


def test_gradients_of_gelu_exact_over_the_whole_range():
    assert tg.gradcheck(ops.gelu, np.array([-9.0, -3.0, -1.0, 0.0, 0.5, 2.0, 9.0]), approximate=False)


def test_relu():
    np.testing.assert_array_equal(ops.relu(np.array([-2.0, 3.0])).data, [0.0, 3.0])
    np.testing.assert_array_equal(gradient(ops.relu, [-2.0, 3.0, 0.0], [5.0, 7.0, 9.0]), [0.0, 7.0, 0.0])


@pytest.mark.parametrize("name", EVERY)
def test_shapes_dtypes_and_methods(name):
    for shape in ((), (0,), (2, 0), (3, 1)):
        for dtype in (np.float32, np.float64):
            x = np.full(shape, 0.5, dtype)
            y = getattr(ops, name)(x)
            assert (y.shape, y.dtype) == (shape, dtype)
            assert gradient(getattr(ops, name), x, np.ones(shape)).dtype == dtype
    assert getattr(Tensor([0.5]), name)().data == getattr(ops, name)(np.array([0.5])).data


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (3, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_exact_shapes_and_dtypes(shape, dtype):
    x = np.full(shape, 0.5, dtype)
    assert (gelu_exact(x).shape, gelu_exact(x).dtype) == (shape, dtype)
    assert gradient(gelu_exact, x, np.ones(shape)).dtype == dtype


def test_relu_has_slope_zero_at_its_kink_in_every_form_and_where_x_is_no_number():
    x, dy = np.array([-1.0, 0.0, -0.0, 2.0]), np.array([3.0, 5.0, 7.0, 9.0])
    for step in derivation_steps(ops.relu, "x", (x,), {}, dy):
        np.testing.assert_array_equal(step.value, [0, 0, 0, 9])
    assert gradient(ops.relu, np.array([np.nan]), np.array([1.0])) == 0
