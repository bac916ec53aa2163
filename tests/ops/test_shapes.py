import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import Tensor, ops
from tinygrad_llm.checking import derivation_steps

COUNT = np.arange(24.0).reshape(2, 3, 4)


def gradient(operation, x, dy):
    leaf = Tensor(x, requires_grad=True)
    operation(leaf).backward(dy)
    return leaf.grad


def returns_home(operation, x):
    """Moving values: a cotangent that equals the result must come back as x, entry by entry."""
    np.testing.assert_array_equal(gradient(operation, x, operation(x).data), x)


@pytest.mark.parametrize("shape", [(24,), (4, 6), (-1, 2), [3, 8], np.array([2, 12]), 24, (1, 24, 1)])
def test_reshape(shape):
    np.testing.assert_array_equal(ops.reshape(COUNT, shape).data, COUNT.reshape(shape))
    returns_home(lambda x: ops.reshape(x, shape), COUNT)


def test_reshape_method_and_edges():
    assert Tensor(COUNT).reshape(4, -1).shape == (4, 6)
    assert Tensor(COUNT).reshape((4, 6)).shape == (4, 6)
    assert ops.reshape(np.ones(1), ()).shape == ()
    assert ops.reshape(np.ones((0, 3)), (3, 0)).shape == (3, 0)
    assert np.shares_memory(ops.reshape(COUNT, -1).data, COUNT)
    with pytest.raises(ValueError, match=r"reshape: \(2, 3, 4\), which is 24 elements, does not fit into \(5, 5\)"):
        ops.reshape(COUNT, (5, 5))
    with pytest.raises(ValueError, match=r"reshape: .* does not fit into \(-1, 7\)"):
        ops.reshape(COUNT, (-1, 7))
    with pytest.raises(TypeError, match=r"reshape: .* cannot be interpreted as an integer"):
        ops.reshape(COUNT, (4.0, 6.0))


@pytest.mark.parametrize("axes", [None, (0, 1, 2), (1, 2, 0), (2, 0, 1), (-1, 0, 1), [1, 0, -1]])
def test_transpose(axes):
    np.testing.assert_array_equal(ops.transpose(COUNT, axes).data, COUNT.transpose(axes))
    returns_home(lambda x: ops.transpose(x, axes), COUNT)


def test_transpose_method_and_errors():
    assert Tensor(COUNT).T.shape == (4, 3, 2)
    assert Tensor(COUNT).transpose().shape == (4, 3, 2)
    assert Tensor(COUNT).transpose(1, 2, 0).shape == (3, 4, 2)
    assert Tensor(COUNT).transpose((1, 2, 0)).shape == (3, 4, 2)
    assert ops.transpose(np.float64(3.0)).shape == ()
    for axes in ((0, 1), (0, 1, 1), (0, 1, 3), (0, 1, -4), 0):
        with pytest.raises(ValueError, match=r"are not a permutation of the 3 axes of \(2, 3, 4\)"):
            ops.transpose(COUNT, axes)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
@given(sizes=st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_concatenate(axis, sizes):
    rng = np.random.default_rng(0)
    xs = []
    for size in sizes:
        shape = [2, 3, 4]
        shape[axis] = size
        xs.append(rng.standard_normal(shape))
    leaves = [Tensor(x, requires_grad=True) for x in xs]
    y = ops.concatenate(*leaves, axis=axis)
    np.testing.assert_array_equal(y.data, np.concatenate(xs, axis))
    y.backward(y.data)
    for leaf in leaves:
        np.testing.assert_array_equal(leaf.grad, leaf.data)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
@pytest.mark.parametrize("count", [1, 3])
def test_stack(axis, count):
    leaves = [Tensor(COUNT + 100 * i, requires_grad=True) for i in range(count)]
    y = ops.stack(*leaves, axis=axis)
    np.testing.assert_array_equal(y.data, np.stack([t.data for t in leaves], axis))
    y.backward(y.data)
    for leaf in leaves:
        np.testing.assert_array_equal(leaf.grad, leaf.data)


@pytest.mark.parametrize("join", [ops.concatenate, ops.stack])
def test_joining_takes_a_list_constants_and_the_same_tensor_twice(join):
    t = Tensor([1.0, 2.0], requires_grad=True)
    y = join([t, np.array([5.0, 6.0]), t])
    assert y.size == 6
    y.backward(np.arange(6.0).reshape(y.shape))
    np.testing.assert_array_equal(t.grad, [0.0 + 4.0, 1.0 + 5.0])


def test_joining_errors_name_the_shapes():
    with pytest.raises(ValueError, match=r"concatenate: \(2, 3\) and \(2, 4\): .* along dimension 1"):
        ops.concatenate(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"stack: \(2, 3\) and \(2, 4\): .* same shape"):
        ops.stack(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="concatenate: no arrays given"):
        ops.concatenate([])
    with pytest.raises(ValueError, match="stack: no arrays given"):
        ops.stack()
    with pytest.raises(ValueError, match=r"concatenate: .*axis 2 is out of bounds"):
        ops.concatenate(np.ones((2, 3)), axis=2)


@pytest.mark.parametrize(
    ("sections", "axis"),
    [
        (1, 0),
        (2, 0),
        (3, 1),
        (4, -1),
        ([1], 1),
        ([1, 3], 2),
        ((0, 0, 2), -2),
        (np.array([-1]), 1),
        ([2, 9], 1),
        ([], 0),
    ],
)
def test_split(sections, axis):
    x = Tensor(COUNT, requires_grad=True)
    pieces = ops.split(x, sections, axis=axis)
    assert isinstance(pieces, tuple)
    expected = np.split(COUNT, sections, axis)
    for piece, part in zip(pieces, expected, strict=True):
        np.testing.assert_array_equal(piece.data, part)
    joined = ops.concatenate(*pieces, axis=axis)
    joined.backward(COUNT * COUNT)
    np.testing.assert_array_equal(x.grad, COUNT * COUNT)


def test_split_fills_zeros_for_an_unused_piece():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    first, _, last = ops.split(x, 3)
    (first * 10 + last * 20).backward([1.0])
    np.testing.assert_array_equal(x.grad, [10.0, 0.0, 20.0])


def test_split_errors():
    with pytest.raises(ValueError, match=r"split: axis 1 of \(2, 3, 4\) has size 3, which 2 does not divide"):
        ops.split(COUNT, 2, axis=1)
    with pytest.raises(ValueError, match=r"split: axis 0 of \(2, 3, 4\) has size 2, which 0 does not divide"):
        ops.split(COUNT, 0)
    with pytest.raises(ValueError, match=r"split: the indices \[3 1\] do not ascend.*\(2, 3, 4\)"):
        ops.split(COUNT, [3, 1], axis=2)
    with pytest.raises(ValueError, match=r"split: \(2, 3, 4\): axis 3 is out of bounds"):
        ops.split(COUNT, 2, axis=3)


@pytest.mark.parametrize("widths", [0, 2, (1, 0), ((1, 2), (0, 0), (3, 1)), [[1], [0], [2]], np.array([[0, 1]])])
@pytest.mark.parametrize("value", [0.0, -7, -np.inf])
def test_pad(widths, value):
    y = ops.pad(COUNT, widths, value=value)
    np.testing.assert_array_equal(y.data, np.pad(COUNT, widths, constant_values=value))
    leaf = Tensor(COUNT, requires_grad=True)
    ops.pad(leaf, widths, value).backward(np.pad(COUNT, widths, constant_values=99.0))  # what is outside is dropped
    np.testing.assert_array_equal(leaf.grad, COUNT)


def test_pad_edges():
    np.testing.assert_array_equal(ops.pad(np.ones((0, 1)), 1, value=5).data, [[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]])
    assert gradient(lambda t: ops.pad(t, 1), np.ones((0, 1)), np.ones((2, 3))).shape == (0, 1)
    with pytest.raises(ValueError, match=r"pad: widths of shape \(3, 2\) do not fit x of shape \(2, 2\)"):
        ops.pad(np.ones((2, 2)), ((1, 1), (1, 1), (1, 1)))
    with pytest.raises(ValueError, match=r"pad: \(2, 2\): .*negative"):
        ops.pad(np.ones((2, 2)), -1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: ops.reshape(x, (3, 2)),
        ops.transpose,
        lambda x: ops.concatenate(x, x),
        lambda x: ops.stack(x, x),
        lambda x: ops.split(x, 2)[1],
        lambda x: ops.pad(x, 1, value=0.5),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes(operation, dtype):
    y = operation(np.ones((2, 3), dtype))
    assert y.dtype == dtype
    assert gradient(operation, np.ones((2, 3), dtype), np.ones(y.shape)).dtype == dtype


def test_the_derivation_of_a_transpose_reverses_the_axes_if_none_are_given():
    x, dy = np.random.default_rng(0).standard_normal((2, 3, 4)), np.random.default_rng(1).standard_normal((4, 3, 2))
    for step in derivation_steps(ops.transpose, "x", (x,), {}, dy):
        np.testing.assert_array_equal(step.value, dy.T)
