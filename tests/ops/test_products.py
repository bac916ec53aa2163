"""matmul, linear and einsum: values, edges and messages. Gradients are checked in test_every_operation.py."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import einsum, linear, matmul


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def leaf(array):
    return tg.Tensor(array, requires_grad=True)


def test_linear_is_a_dot_product_per_row_and_feature(rng):
    x, weight, bias = rng.standard_normal((2, 3, 4)), rng.standard_normal((4, 5)), rng.standard_normal(5)
    y = linear(x, weight, bias).data
    assert y.shape == (2, 3, 5)
    for b, t, f in np.ndindex(y.shape):
        assert y[b, t, f] == pytest.approx(sum(x[b, t, c] * weight[c, f] for c in range(4)) + bias[f], rel=1e-13)
    np.testing.assert_allclose(linear(x, weight).data, y - bias, atol=1e-14)


def test_linear_of_a_single_row(rng):
    x, weight, bias = leaf(rng.standard_normal(4)), leaf(rng.standard_normal((4, 2))), leaf(rng.standard_normal(2))
    y = linear(x, weight, bias)
    assert y.shape == (2,)
    dy = rng.standard_normal(2)
    y.backward(dy)
    np.testing.assert_allclose(weight.grad, np.outer(x.data, dy), rtol=1e-14)
    np.testing.assert_allclose(bias.grad, dy, rtol=1e-14)


@pytest.mark.parametrize(("x_shape", "features"), [((0, 3), 2), ((2, 0, 3), 2), ((2, 0), 3), ((2, 3), 0)])
def test_linear_with_an_axis_of_size_zero(x_shape, features):
    x, weight, bias = leaf(np.ones(x_shape)), leaf(np.ones((x_shape[-1], features))), leaf(np.full(features, 3.0))
    y = linear(x, weight, bias)
    assert y.shape == (*x_shape[:-1], features)
    np.testing.assert_array_equal(y.data, np.full(y.shape, 3.0 + x_shape[-1]))
    y.backward(np.ones(y.shape))
    rows = y.size // features if features else 0
    np.testing.assert_array_equal(weight.grad, np.full(weight.shape, rows if x.size else 0.0))
    np.testing.assert_array_equal(bias.grad, np.full(features, float(rows)))
    assert x.grad.shape == x_shape


def test_linear_defers_every_gradient(rng):
    _, vjp = linear.reference(rng.standard_normal((2, 3)), rng.standard_normal((3, 4)), rng.standard_normal(4))
    assert all(map(callable, vjp(rng.standard_normal((2, 4)))))


def test_linear_does_not_change_its_bias(rng):
    x, weight, bias = rng.standard_normal((2, 3)), rng.standard_normal((3, 3)), rng.standard_normal(3)
    old = bias.copy()
    linear(x, weight, bias)
    linear(x, weight, bias)
    np.testing.assert_array_equal(bias, old)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((2, 8, 64), (32, 128), None, r"linear: \(B=2, T=8, C=64\) @ \(C=32, F=128\): .* the same C"),
        ((2, 4), (4,), None, r"linear: \(T=2, C=4\) @ \(F=4\)"),
        ((2, 3), (4, 2), None, r"linear: \(T=2, C=3\) @ \(C=4, F=2\): .* the same C"),
        ((2, 4), (4, 3, 2), None, r"linear: \(T=2, C=4\) @ \(4, C=3, F=2\): .* the same C"),
        ((), (4, 2), None, "linear: .* the same C"),
        ((2, 4), (4, 3), (4,), r"linear: the weight \(C=4, F=3\) needs a bias \(F=3,\), not \(4,\)"),
        ((2, 4), (4, 3), (1,), r"needs a bias \(F=3,\), not \(1,\)"),
    ],
)
def test_linear_names_what_does_not_fit(x, weight, bias, message):
    arguments = [np.ones(x), np.ones(weight), *([] if bias is None else [np.ones(bias)])]
    with pytest.raises(ValueError, match=message):
        linear(*arguments)


MATMUL_SHAPES = [
    ((2, 3), (3, 4)),
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((2, 3), (3,)),
    ((5, 2, 3), (3, 4)),
    ((5, 2, 3), (3,)),
    ((3,), (5, 3, 4)),
    ((2, 3), (5, 3, 4)),
    ((5, 1, 2, 3), (6, 3, 4)),
    ((1, 2, 3), (4, 3, 1)),
    ((0, 2, 3), (3, 4)),
    ((2, 0), (0, 4)),
    ((5, 2, 0), (5, 0, 4)),
]


@pytest.mark.parametrize(("x", "y"), MATMUL_SHAPES)
def test_matmul_agrees_with_numpy_and_its_gradients_have_the_shapes_of_the_inputs(rng, x, y):
    x, y = leaf(rng.standard_normal(x)), leaf(rng.standard_normal(y))
    z = matmul(x, y)
    np.testing.assert_allclose(z.data, np.matmul(x.data, y.data), rtol=1e-13, atol=1e-14)
    dy = rng.standard_normal(z.shape)
    z.backward(dy)
    assert x.grad.shape == x.shape
    assert y.grad.shape == y.shape
    # z is linear in x and in y: along each of them, the directional derivative is z itself (Euler)
    assert float((x.grad * x.data).sum()) == pytest.approx(float((dy * z.data).sum()), rel=1e-10, abs=1e-12)
    assert float((y.grad * y.data).sum()) == pytest.approx(float((dy * z.data).sum()), rel=1e-10, abs=1e-12)


def test_matmul_operator(rng):
    x, y = rng.standard_normal((2, 3)), rng.standard_normal((3, 2))
    np.testing.assert_array_equal((tg.Tensor(x) @ y).data, x @ y)
    np.testing.assert_array_equal((x @ tg.Tensor(y)).data, x @ y)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((2, 8, 64), (32, 128), r"^matmul: \(B=2, T=8, C=64\) @ \(C=32, F=128\): inner sizes 64 and 32 differ$"),
        ((3,), (4,), r"inner sizes 3 and 4 differ"),
        ((2, 3), (5, 4, 3), r"\(B=5, C=4, F=3\): inner sizes 3 and 4 differ"),
        ((2, 3, 4), (3, 4, 5), r"batch axes \(2,\) and \(3,\) do not broadcast"),
        ((), (3, 4), "a number is not a matrix"),
        ((3, 4), (), "a number is not a matrix"),
    ],
)
def test_matmul_names_what_does_not_fit(x, y, message):
    with pytest.raises(ValueError, match=message):
        matmul(np.ones(x), np.ones(y))


EINSUMS = [
    ("ij,jk->ik", [(2, 3), (3, 4)]),
    (" ij , jk -> ki", [(2, 3), (3, 4)]),
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ba", [(2, 3)]),
    ("ij->", [(2, 3)]),
    ("ij,ij", [(2, 3), (2, 3)]),
    ("i,j->ij", [(2,), (3,)]),
    ("ii", [(3, 3)]),
    ("iij->ij", [(3, 3, 2)]),
    ("iijj,k->i", [(3, 3, 2, 2), (4,)]),
    ("ij,kj,k->i", [(2, 3), (4, 3), (4,)]),
    ("...ij,jk->...ik", [(2, 2, 3), (3, 2)]),
    ("...i,...i", [(4, 1, 2), (3, 2)]),
    ("...,...", [(3, 1), (1, 4)]),
    ("i...->...", [(3, 2)]),
    ("i,i->", [(1,), (3,)]),
    ("ij,jk->ik", [(2, 1), (1, 3)]),
    ("i,i->i", [(3,), (1,)]),
    (",->", [(), ()]),
    ("ij,jk->ik", [(0, 3), (3, 2)]),
    ("ij,jk->ik", [(2, 0), (0, 2)]),
]


@pytest.mark.parametrize(("subscripts", "shapes"), EINSUMS)
def test_einsum_agrees_with_numpy_and_with_numerical_gradients(rng, subscripts, shapes):
    xs = [rng.standard_normal(shape) for shape in shapes]
    np.testing.assert_allclose(einsum(subscripts, *xs).data, np.einsum(subscripts, *xs), rtol=1e-13, atol=1e-14)
    report = tg.gradcheck(lambda *tensors: einsum(subscripts, *tensors), *xs)
    assert report, str(report)


def test_einsum_takes_its_subscripts_by_name_too(rng):
    x = rng.standard_normal((2, 3))
    np.testing.assert_array_equal(einsum(x, x, subscripts="ij,kj->ik").data, einsum("ij,kj->ik", x, x).data)


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ij,jk", [(2, 3)], "einsum: 'ij,jk' describes 2 operands, but 1 were given"),
        ("ij", [(2, 3), (2, 3)], "einsum: 'ij' describes 1 operands, but 2 were given"),
        ("ij,jk", [(2, 3), (4, 3)], "j has the sizes 3 and 4"),
        ("ij->ii", [(2, 3)], "the output must name each of its axes once"),
        ("ij->k", [(2, 3)], "only axes of the operands"),
        ("ijk->i", [(2, 3)], r"'ijk' does not name the 2 axes of an operand of shape \(2, 3\)"),
        ("ij", [(2, 3, 4)], "'ij' does not name the 3 axes"),
        ("...ij", [(2,)], "'...ij' does not name the 1 axes"),
        ("...i,...i->...i", [(2, 3), (4, 3)], "has the sizes 2 and 4"),
    ],
)
def test_einsum_names_what_does_not_fit(subscripts, shapes, message):
    with pytest.raises(ValueError, match=message):
        einsum(subscripts, *map(np.ones, shapes))
