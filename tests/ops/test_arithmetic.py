import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops


def gradients(operation, *inputs, dy):
    """The gradients of the inputs, all of which are made Tensors that require one."""
    leaves = [Tensor(np.array(x), requires_grad=True) for x in inputs]
    operation(*leaves).backward(dy)
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize(
    ("operation", "value", "gx", "gy"),
    [
        (ops.add, 2.0, 10.0, 10.0),
        (ops.sub, 4.0, 10.0, -10.0),
        (ops.mul, -3.0, -10.0, 30.0),
        (ops.div, -3.0, -10.0, -30.0),  # 10 / y and -10 x / y^2
    ],
)
def test_known_numbers(operation, value, gx, gy):
    x, y = np.array([3.0]), np.array([-1.0])
    assert operation(x, y).data == value
    assert gradients(operation, x, y, dy=[10.0]) == [gx, gy]


def test_quotient_with_unequal_numbers():
    assert gradients(ops.div, [6.0], [4.0], dy=[8.0]) == [2.0, -3.0]  # 8/4 and -8 6/16


def test_broadcast_inputs_receive_the_sum_of_their_copies():
    gx, gy = gradients(ops.mul, np.ones((2, 3)), [[2.0], [5.0]], dy=[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(gx, [[2.0, 4.0, 6.0], [20.0, 25.0, 30.0]])
    np.testing.assert_array_equal(gy, [[6.0], [15.0]])


numbers = st.floats(0.5, 3.0)


@pytest.mark.parametrize("symbol", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow])
@given(x=numbers, y=numbers)
def test_tensor_operators_take_tensors_arrays_and_numbers_on_either_side(symbol, x, y):
    expected = symbol(np.array([x, y]), y)
    for other in (y, np.array([y, y]), Tensor([y, y])):
        np.testing.assert_allclose(symbol(Tensor([x, y]), other).data, expected, rtol=1e-15)
    reflected = symbol(y, np.array([x, y]))
    for other in (y, np.array([y, y]), Tensor([y, y])):
        result = symbol(other, Tensor([x, y]))
        assert isinstance(result, Tensor)
        np.testing.assert_allclose(result.data, reflected, rtol=1e-15)


@pytest.mark.parametrize("symbol", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow])
def test_gradients_when_the_other_side_is_a_number(symbol):
    x = np.array([0.7, 1.9])
    assert tg.gradcheck(lambda t: symbol(t, 1.5), x)
    assert tg.gradcheck(lambda t: symbol(1.5, t), x)
    assert tg.gradcheck(lambda t: symbol(t, 2), x)
    assert tg.gradcheck(lambda t: symbol(2, t), x)


@pytest.mark.parametrize("symbol", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow])
def test_numbers_keep_float32(symbol):
    x = Tensor(np.array([0.5, 2.0], np.float32), requires_grad=True)
    for value in (symbol(x, 1.5), symbol(x, 2), symbol(1.5, x), symbol(x, np.float64(1.5))):
        assert value.dtype == np.float32
        value.backward(np.ones(2))
        assert x.grad.dtype == np.float32
    for reference, inputs in ((ops.power.reference, (2.0, x.data)), (ops.div.reference, (2.0, x.data))):
        for gradient in reference(*inputs)[1](np.ones(2, np.float32)):
            assert gradient().dtype == np.float32


def test_neg():
    assert gradients(ops.neg, [3.0], dy=[2.0]) == [-2.0]
    np.testing.assert_array_equal((-Tensor([1.0, -2.0])).data, [-1.0, 2.0])


def test_a_square_of_itself():
    t = Tensor([3.0], requires_grad=True)
    (t * t + t).backward([1.0])
    assert t.grad == [7.0]


def test_empty_and_scalar():
    for operation in (ops.add, ops.sub, ops.mul, ops.div, ops.power):
        gx, gy = gradients(operation, np.ones((0, 3)), np.ones(3), dy=np.ones((0, 3)))
        assert gx.shape == (0, 3)
        np.testing.assert_array_equal(gy, [0.0, 0.0, 0.0])
        assert operation(Tensor(1.0), Tensor(1.0)).shape == ()
        assert operation(1.0, 1.0).shape == ()


@pytest.mark.parametrize("operation", [ops.add, ops.sub, ops.mul, ops.div, ops.power])
def test_shapes_that_do_not_broadcast_are_named(operation):
    with pytest.raises(ValueError, match=rf"{operation.name}: \(2, 3\) and \(4,\): axis -1 has sizes 3 and 4"):
        operation(np.ones((2, 3)), np.ones(4))


@pytest.mark.parametrize(
    ("y", "value", "slope"),
    [
        (0, [1, 1, 1], [0, 0, 0]),
        (1, [-2, 0, 3], [1, 1, 1]),
        (2, [4, 0, 9], [-4, 0, 6]),
        (3, [-8, 0, 27], [12, 0, 27]),
    ],
)
def test_whole_powers_of_zero_and_negative_numbers(y, value, slope):
    x = np.array([-2.0, 0.0, 3.0])
    for exponent in (y, float(y), np.full(3, float(y)), np.full(3, y)):
        t = Tensor(x, requires_grad=True)
        z = ops.power(t, exponent)
        z.backward([1.0, 1.0, 1.0])
        np.testing.assert_array_equal(z.data, value)
        np.testing.assert_array_equal(t.grad, slope)


def test_gradient_of_the_exponent_at_the_edges():
    # 0^y does not change with y > 0; 1^y = 1; a negative number has no real power near a whole exponent
    _, gy = gradients(ops.power, [0.0, 0.0, 1.0, 2.0, -2.0], [0.0, 2.0, 5.0, 3.0, 2.0], dy=np.ones(5))
    np.testing.assert_allclose(gy, [0.0, 0.0, 0.0, 8 * np.log(2), np.nan], rtol=1e-15)


@pytest.mark.parametrize("y", [2, 0.5, -0.5, 1.5, -1, 1, -2, 3, -1.5])
def test_power_by_a_number_agrees_with_power_by_an_array(y):
    x = np.linspace(0.1, 4, 7)
    by_number, by_array = Tensor(x, requires_grad=True), Tensor(x, requires_grad=True)
    dy = np.arange(7.0)
    (by_number**y).backward(dy)
    (by_array ** np.full(7, float(y))).backward(dy)
    np.testing.assert_allclose(by_number.grad, by_array.grad, rtol=1e-14)


def test_power_zero_of_infinity_has_slope_zero():
    for exponent in (0, np.zeros(1)):
        t = Tensor([np.inf], requires_grad=True)
        (t**exponent).backward([1.0])
        assert t.grad == [0.0]


def test_poles_warn():
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert np.isinf(ops.div(np.array([1.0]), np.array([0.0])).data)
    with pytest.warns(RuntimeWarning, match="divide by zero"):
        assert np.isinf(gradients(lambda t: t**0.5, [0.0], dy=[1.0])[0])


@pytest.mark.parametrize("x", [-0.5, -1.0, -3.0])
def test_a_power_of_a_negative_number_has_no_derivative_by_its_exponent(x):
    base, exponent = tg.Tensor(x, requires_grad=True), tg.Tensor(2.0, requires_grad=True)
    (base**exponent).backward()
    assert base.grad == 2 * x
    assert np.isnan(exponent.grad)
