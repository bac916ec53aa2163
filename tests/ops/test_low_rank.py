"""lora: that it is a linear map with a changed weight, without making one. Gradients: test_every_operation.py."""

import tracemalloc

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm import Tensor, ops

B, T, C, R = 2, 5, 6, 2
PARTS = {
    "whole": ((0, 9),),
    "two of three": ((0, 4), (6, 9)),
    "all three": ((0, 4), (4, 6), (6, 9)),
    "middle": ((4, 6),),
}


def update(a, b, parts):
    """A B written out as a matrix of the shape of W."""
    whole, at = np.zeros((C, 9)), 0
    for number, (start, stop) in enumerate(parts):
        whole[:, start:stop] = a[:, number * R : (number + 1) * R] @ b[:, at : at + stop - start]
        at += stop - start
    return whole


@pytest.fixture(params=PARTS)
def case(request):
    rng, parts = np.random.default_rng(0), PARTS[request.param]
    a = rng.standard_normal((C, R * len(parts)))
    b = rng.standard_normal((R, sum(stop - start for start, stop in parts)))
    weight, bias = rng.standard_normal((C, 9)), rng.standard_normal(9)
    return rng.standard_normal((B, T, C)), weight, bias, a, b, parts, rng.standard_normal((B, T, 9))


def test_it_is_the_linear_map_with_a_changed_weight(case):
    x, weight, bias, a, b, parts, dy = case
    leaves = [Tensor(v, requires_grad=True) for v in (x, weight, bias, a, b)]
    y = ops.lora(leaves[0], ops.linear(*leaves[:3]), *leaves[3:], scale=0.7, parts=parts)
    changed = weight + 0.7 * update(a, b, parts)
    np.testing.assert_allclose(y.data, x @ changed + bias, rtol=0, atol=1e-12)
    y.backward(dy)
    np.testing.assert_allclose(leaves[0].grad, dy @ changed.T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(leaves[1].grad, np.einsum("btc,btf->cf", x, dy), rtol=0, atol=1e-12)
    np.testing.assert_allclose(leaves[2].grad, dy.sum((0, 1)), rtol=0, atol=1e-12)


def test_no_parts_means_all_columns(case):
    x, weight, bias, *_ = case
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((C, R)), rng.standard_normal((R, 9))
    base = x @ weight + bias
    np.testing.assert_array_equal(ops.lora(x, base, a, b).data, ops.lora(x, base, a, b, parts=((0, 9),)).data)


def test_columns_of_no_part_are_left_alone_to_the_bit(case):
    x, weight, bias, a, b, parts, _ = case
    base = x @ weight + bias
    y = ops.lora(x, base, a, b, parts=parts).data
    inside = np.zeros(9, bool)
    for start, stop in parts:
        inside[start:stop] = True
    np.testing.assert_array_equal(y[..., ~inside], base[..., ~inside])
    assert (y[..., inside] != base[..., inside]).all()


@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_no_gradient_of_the_size_of_a_frozen_weight_is_made(backend):
    size, rank, rows = 1200, 2, 3
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((size, size)).astype(np.float32)
    a, b = (Tensor(rng.standard_normal(s).astype(np.float32), requires_grad=True) for s in ((size, rank), (rank, size)))
    x = Tensor(rng.standard_normal((rows, size)).astype(np.float32), requires_grad=True)

    def most(frozen):
        w = Tensor(weight, requires_grad=not frozen)
        tracemalloc.start()
        try:
            ops.lora(x, ops.linear(x, w), a, b).sum().backward()
            return tracemalloc.get_traced_memory()[1], w.grad
        finally:
            tracemalloc.stop()

    with tg.use_backend(backend):
        most(True)  # so that all is loaded that is loaded once
        used, gradient = most(True)
        assert gradient is None
        assert used < weight.nbytes / 10
        used, gradient = most(False)
        assert gradient.shape == weight.shape
        assert used > weight.nbytes


@pytest.mark.parametrize(
    ("shapes", "parts", "message"),
    [
        (((3, 5), (3, 4), (6, 2), (2, 4)), (), "the last axis of x and the first of A"),
        (((3, 6), (2, 4), (6, 2), (2, 4)), (), "base .* must have the leading axes of x"),
        (((3, 6), (4,), (6, 2), (2, 4)), (), "base .* must have the leading axes of x"),
        (((3, 6), (3, 4), (6, 2), (3, 4)), (), r"B must be \(2, 4\)"),
        (((3, 6), (3, 4), (6, 2), (2, 3)), (), r"B must be \(2, 4\)"),
        (((3, 6), (3, 4), (6, 3), (1, 3)), ((0, 1), (2, 4)), "do not fit 2 parts"),
        (((3, 6), (3, 4), (6, 4), (2, 3)), ((2, 4), (0, 1)), "in order and apart"),
        (((3, 6), (3, 4), (6, 4), (2, 4)), ((0, 2), (1, 3)), "in order and apart"),
        (((3, 6), (3, 4), (6, 2), (2, 5)), ((0, 5),), "in order and apart"),
        (((3, 6), (3, 4), (6, 2), (2, 5)), ((-1, 4),), "in order and apart"),
        (((), (3, 4), (6, 2), (2, 4)), (), "the last axis of x"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, parts, message):
    with pytest.raises(ValueError, match=message):
        ops.lora(*map(np.ones, shapes), parts=parts)


def test_empty_batches_pass():
    leaves = [Tensor(np.ones(s), requires_grad=True) for s in ((0, 3, 6), (0, 3, 4), (6, 2), (2, 4))]
    y = ops.lora(*leaves)
    assert y.shape == (0, 3, 4)
    y.backward(np.ones((0, 3, 4)))
    assert [leaf.grad.shape for leaf in leaves] == [(0, 3, 6), (0, 3, 4), (6, 2), (2, 4)]
    assert not leaves[2].grad.any()
