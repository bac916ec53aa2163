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


def test_abs():
    np.testing.assert_array_equal(ops.abs(np.array([-2.0, 0.0, 3.0])).data, [2.0, 0.0, 3.0])
    np.testing.assert_array_equal(gradient(ops.abs, [-2.0, 0.0, 3.0], [5.0, 7.0, 9.0]), [-5.0, 0.0, 9.0])
    np.testing.assert_array_equal(abs(Tensor([-1.5])).data, [1.5])
    np.testing.assert_array_equal(Tensor([-1.5]).abs().data, [1.5])
    assert ops.abs(-2.0).item() == 2.0


@pytest.mark.parametrize(
    ("bounds", "value", "dx"),
    [
        ({"low": -1}, [-1, -1, 0, 2, 3], [0, 1, 1, 1, 1]),
        ({"high": 2.0}, [-2, -1, 0, 2, 2], [1, 1, 1, 1, 0]),
        ({"low": -1.0, "high": 2}, [-1, -1, 0, 2, 2], [0, 1, 1, 1, 0]),
        ({"low": 2, "high": 0}, [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]),
        ({"low": np.array([-3.0, 0.0, 1.0, 2.0, 2.0])}, [-2, 0, 1, 2, 3], [1, 0, 0, 1, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_passes_the_gradient_inside_and_at_the_bounds(bounds, value, dx, dtype):
    x = np.array([-2, -1, 0, 2, 3], dtype)
    bounds = {k: b.astype(dtype) if isinstance(b, np.ndarray) else b for k, b in bounds.items()}
    y = ops.clip(x, **bounds)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y.data, value)
    dy = np.array([2.0, 3.0, 5.0, 7.0, 11.0])
    np.testing.assert_array_equal(gradient(lambda t: ops.clip(t, **bounds), x, dy), dy * dx)
    np.testing.assert_array_equal(Tensor(x).clip(**bounds).data, value)


def test_clip_needs_a_bound():
    with pytest.raises(ValueError, match="clip: neither low nor high"):
        ops.clip(np.ones(3))


def test_clip_bounds_have_no_gradient_and_say_so():
    low = Tensor(0.0, requires_grad=True)
    with pytest.raises(RuntimeError, match="clip: the gradient of input 'low' is not defined"):
        ops.clip(Tensor([1.0], requires_grad=True), low).backward([1.0])


@given(condition=st.lists(st.booleans(), min_size=3, max_size=3))
def test_where(condition):
    x, y = Tensor([1.0, 2.0, 3.0], requires_grad=True), Tensor([[10.0], [20.0]], requires_grad=True)
    z = ops.where(Tensor(np.array(condition)), x, y)
    expected = [[a if c else b for c, a in zip(condition, [1.0, 2.0, 3.0], strict=True)] for b in (10.0, 20.0)]
    np.testing.assert_array_equal(z.data, expected)
    dy = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    z.backward(dy)
    chosen = np.array(condition)
    np.testing.assert_array_equal(x.grad, (dy * chosen).sum(0))
    np.testing.assert_array_equal(y.grad, (dy * ~chosen).sum(1, keepdims=True))


def test_where_with_numbers_keeps_float32():
    x = Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    condition = np.array([True, False])
    for z, dx in ((ops.where(condition, x, 0.5), [1.0, 0.0]), (ops.where(condition, -1, x), [0.0, 1.0])):
        assert z.dtype == np.float32
        x.zero_grad()
        z.backward([1.0, 1.0])
        assert x.grad.dtype == np.float32
        np.testing.assert_array_equal(x.grad, dx)


def test_where_gives_what_was_not_chosen_exactly_zero():
    x, y = Tensor([np.nan, 1.0], requires_grad=True), Tensor([3.0, np.inf], requires_grad=True)
    z = ops.where(np.array([False, True]), x, y)
    np.testing.assert_array_equal(z.data, [3.0, 1.0])
    z.backward([5.0, 7.0])
    np.testing.assert_array_equal(x.grad, [0.0, 7.0])
    np.testing.assert_array_equal(y.grad, [5.0, 0.0])


def test_where_names_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"where: \(2,\) and \(2, 3\) and \(3,\): axis -1 has sizes 2 and 3"):
        ops.where(np.array([True, False]), np.ones((2, 3)), np.ones(3))


@pytest.mark.parametrize("operation", [ops.abs, lambda t: ops.clip(t, -1, 1), lambda t: ops.where(True, t, 0.0)])
def test_empty_and_scalar(operation):
    for shape in ((), (0,), (2, 0)):
        assert operation(np.ones(shape, np.float32)).shape == shape
        assert gradient(operation, np.ones(shape, np.float32), np.ones(shape)).dtype == np.float32


def test_every_form_of_the_gradient_of_clip_passes_at_the_bounds():
    x, dy = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), np.array([3.0, 5.0, 7.0, 9.0, 11.0])
    for step in derivation_steps(ops.clip, "x", (x,), {"low": -1.0, "high": 1.0}, dy):
        np.testing.assert_array_equal(step.value, [0, 5, 7, 9, 0])


def test_the_last_form_of_the_gradient_of_abs_is_defined_at_zero():
    steps = derivation_steps(ops.abs, "x", (np.array([0.0, -2.0]),), {}, np.array([3.0, 5.0]))
    for step in steps[-2:]:
        np.testing.assert_array_equal(step.value, [0, -5])
