import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops
from tinygrad_llm.checking import derivation_steps


def gradient(operation, x, dy):
    leaf = Tensor(x, requires_grad=True)
    operation(leaf).backward(dy)
    return leaf.grad


@pytest.mark.parametrize(("operation", "scalar"), [(ops.exp, math.exp), (ops.log, math.log), (ops.sqrt, math.sqrt)])
@given(x=st.floats(1e-3, 100.0))
def test_values(operation, scalar, x):
    np.testing.assert_allclose(operation(x).data, scalar(x), rtol=1e-14)


@given(x=st.floats(0.01, 100.0), dy=st.floats(-5, 5))
def test_gradients_of_inverse_functions_undo_each_other(x, dy):
    np.testing.assert_allclose(gradient(lambda t: ops.exp(ops.log(t)), [x], [dy]), [dy], rtol=1e-12)
    np.testing.assert_allclose(gradient(lambda t: ops.sqrt(t) ** 2, [x], [dy]), [dy], rtol=1e-12)


def test_known_gradients():
    np.testing.assert_allclose(gradient(ops.exp, [0.0, 1.0], [3.0, 1.0]), [3.0, math.e], rtol=1e-15)
    np.testing.assert_allclose(gradient(ops.log, [4.0, 0.5], [2.0, 1.0]), [0.5, 2.0], rtol=1e-15)
    np.testing.assert_allclose(gradient(ops.sqrt, [4.0, 0.25], [2.0, 1.0]), [0.5, 1.0], rtol=1e-15)


def test_exp_underflows_to_zero_silently_and_overflows_with_a_warning():
    assert ops.exp(np.array([-1e4])).data == [0.0]
    assert gradient(ops.exp, [-1e4], [1.0]) == [0.0]
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert ops.exp(np.array([1e4])).data == [np.inf]


def test_poles_warn():
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert ops.log(np.array([0.0])).data == [-np.inf]
    with pytest.warns(RuntimeWarning, match="invalid value"):
        assert np.isnan(ops.sqrt(np.array([-1.0])).data)
    assert ops.sqrt(np.array([0.0])).data == [0.0]
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert gradient(ops.sqrt, [0.0], [1.0]) == [np.inf]


@pytest.mark.parametrize("operation", [ops.exp, ops.log, ops.sqrt])
def test_shapes_dtypes_and_methods(operation):
    for shape in ((), (0,), (2, 0), (3, 1)):
        for dtype in (np.float32, np.float64):
            x = np.full(shape, 2.0, dtype)
            assert operation(x).shape == shape
            assert operation(x).dtype == dtype
            assert gradient(operation, x, np.ones(shape)).dtype == dtype
    np.testing.assert_array_equal(getattr(Tensor([2.0]), operation.name)().data, operation(np.array([2.0])).data)


def test_gradcheck_over_several_magnitudes():
    for operation in (ops.exp, ops.log, ops.sqrt):
        assert tg.gradcheck(operation, np.array([0.3, 1.0, 4.0, 20.0]))


def test_the_power_series_of_exp_holds_at_zero_and_far_from_it():
    x = np.array([0.0, 20.0, -3.0])
    for step in derivation_steps(ops.exp, "x", (x,), {}, np.ones(3)):
        np.testing.assert_allclose(step.value, np.exp(x), rtol=1e-12)
