"""The twins of `ops/quantized.py` and `nn/quantized.py`: products with small weights, and the search for scales."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import threads
from tinygrad_llm.nn.quantized import fitted, levels, quantized
from tinygrad_llm.ops.quantized import dequantized, quantized_gradient, quantized_product

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import quantized as kernels
from tinygrad_llm.ops import quantized as operation

kinds = pytest.mark.parametrize("kind", ["int8", "int4"])
seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from([1, 2, 31, 32, 33, 63, 64, 65, 97, 128, 200, 576])


@st.composite
def products(draw, rows):
    """x (N, C) and w (F, C) whose groups are of very different sizes."""
    rng = np.random.default_rng(draw(seeds))
    n, f, c = draw(rows), draw(st.sampled_from([0, 1, 2, 3, 17, 64])), draw(sizes)
    w = rng.standard_normal((f, c)) * np.exp(rng.uniform(-5, 5, (f, 1))) + draw(st.sampled_from([0, 0, 0.5]))
    x = rng.standard_normal((n, 2 * c)) * np.exp(rng.uniform(-5, 5, 2 * c))
    x[draw(st.integers(0, n)) :] *= 0
    return x.astype(np.float32)[:, draw(st.sampled_from([slice(0, c), slice(c, 2 * c), slice(0, 2 * c, 2)]))], w


def close(x, matrix, y, group):
    """Within the rounding of x to 16 bits in its groups, and of float32 sums."""
    w, x = dequantized(*matrix).astype(np.float64), x.astype(np.float64)
    padded = np.zeros((len(x), w.shape[1]))
    padded[:, : x.shape[1]] = x
    exact = padded @ w.T
    steps = np.repeat(np.abs(padded.reshape(len(x), -1, group)).max(-1) / 32767, group, axis=1)
    # int4 rounds x where it meets q, not m: d q is at most w - m, of which the group's range is a bound
    size = np.abs(w)
    if matrix.minimums is not None:
        size = 2 * size.reshape(len(w), w.shape[1] // 32, 32).max(-1).repeat(32, axis=1)
    bound = (0.501 * steps) @ size.T + 3e-7 * (w.shape[1] / 16 + 8) * (np.abs(padded) @ size.T)
    assert y.dtype == np.float32
    assert y.shape == exact.shape
    assert (np.abs(y - exact) <= bound + 1e-30).all()


@kinds
@given(pair=products(st.integers(1, kernels.FEW)))
def test_few_rows(kind, pair):
    x, w = pair
    matrix = quantized(w, kind)
    close(x, matrix, quantized_product.kernel(x, *matrix), kernels.GROUPS[kind])


@kinds
@given(pair=products(st.integers(kernels.FEW + 1, 20)))
def test_many_rows_use_the_float32_weights(kind, pair, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", 1000)
    x, w = pair
    matrix = quantized(w, kind)
    y = quantized_product.kernel(x, *matrix)
    size = np.abs(x).astype(np.float64) @ np.abs(dequantized(*matrix)[:, : x.shape[1]]).T
    expected = x.astype(np.float64) @ dequantized(*matrix)[:, : x.shape[1]].T
    assert (np.abs(y - expected) <= 1.2e-7 * (x.shape[1] + 4) * size + 1e-30).all()


@kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_to_the_reference(kind, bad):
    w = np.random.default_rng(0).standard_normal((6, 70)).astype(np.float32)
    x = np.ones((2, 70), np.float32)
    matrix = quantized(w, kind)
    assert quantized_product.kernel(x, *matrix) is not NotImplemented
    x[1, 66] = bad
    assert quantized_product.kernel(x, *matrix) is NotImplemented
    assert quantized_product.kernel(x.astype(np.float64), *matrix) is NotImplemented
    assert quantized_product.kernel(x[:0], *matrix) is NotImplemented


@kinds
@given(pair=products(st.integers(1, 12)))
def test_any_number_of_threads_gives_the_same_bits(kind, pair, monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 1)
    x, w = pair
    matrix = quantized(w, kind)
    one, three = with_threads(1, x, matrix), with_threads(3, x, matrix)
    np.testing.assert_array_equal(one, three)


def with_threads(count, x, matrix):
    before = threads.thread_count()
    try:
        threads.set_threads(count)
        return quantized_product.kernel(x, *matrix)
    finally:
        threads.set_threads(before)


@kinds
@pytest.mark.parametrize("rows", [9, 33, 70, 128])
@pytest.mark.parametrize(("features", "inputs"), [(1000, 576), (401, 1536), (2000, 97), (97, 2000), (1, 3000)])
def test_any_number_of_threads_gives_the_same_bits_of_many_rows(kind, features, inputs, rows, monkeypatch):
    monkeypatch.setattr(kernels, "CHUNK", 1 << 18)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, inputs)).astype(np.float32)
    matrix = quantized(rng.standard_normal((features, inputs)), kind)
    one = with_threads(1, x, matrix)
    expected = x.astype(np.float64) @ dequantized(*matrix)[:, :inputs].T
    np.testing.assert_allclose(one, expected, rtol=0, atol=1e-6 * inputs)
    for count in (2, 3, 5):
        np.testing.assert_array_equal(one, with_threads(count, x, matrix))


@kinds
def test_the_largest_whole_numbers_do_not_overflow(kind):
    w = np.full((3, 640), 5.0, np.float32)
    w[:, ::2] *= -1 if kind == "int4" else 1
    x = np.full((1, 640), 1e30, np.float32)
    x[:, ::2] *= -1 if kind == "int4" else 1
    matrix = quantized(w, kind)
    exact = x.astype(np.float64) @ dequantized(*matrix).T.astype(np.float64)
    np.testing.assert_allclose(quantized_product.kernel(x, *matrix), exact, rtol=1e-5)


@given(seeds, st.integers(0, 40), st.sampled_from([1e-10, 1.0, 1e10]))
def test_scales_are_as_good_as_those_of_the_reference(seed, count, size):
    rng = np.random.default_rng(seed)
    groups = (size * (rng.standard_normal((count, 32)) + rng.choice([0, 2], (count, 1)))).astype(np.float32)
    groups[: count // 4] = groups[: count // 4, :1]

    def error(d, m):
        assert d.shape == m.shape == (count,)
        back = levels(groups, d[:, None], m[:, None]) * d[:, None] + m[:, None]
        return np.square((groups - back) / size).sum(-1, dtype=np.float64)

    ours, expected = error(*fitted.kernel(groups)), error(*fitted.reference(groups))
    # a level that lies between two whole numbers may go either way; what is compared is the error that is left
    assert (ours <= 1.02 * expected + 1e-10).all()
    assert (expected <= 1.02 * ours + 1e-10).all()


def test_arrays_of_another_layout_are_declined():
    groups = np.ones((4, 64), np.float32)
    assert fitted.kernel(groups[:, ::2]) is NotImplemented
    assert fitted.kernel(groups.astype(np.float64)) is NotImplemented
    values, scales, minimums = quantized(np.ones((4, 64), np.float32), "int4")
    x = np.ones((1, 64), np.float32)
    assert quantized_product.kernel(x, values[::2], scales[::2], minimums[::2]) is NotImplemented


@kinds
@given(pair=products(st.integers(1, 20)), seed=seeds)
def test_the_gradient_is_the_product_with_the_matrix_it_stands_for(kind, pair, seed):
    x, w = pair
    matrix, rng = quantized(w, kind), np.random.default_rng(seed)
    dy = rng.standard_normal((len(x), 2 * len(w))).astype(np.float32)[:, rng.integers(1, 3) :: 2][:, : len(w)]
    if not dy.size or dy.shape[1] < len(w):
        dy = np.ones((len(x), len(w)), np.float32)
    expanded = dequantized(*matrix)[:, : w.shape[1]].astype(np.float64)
    expected, size = dy @ expanded, np.abs(dy).astype(np.float64) @ np.abs(expanded)
    by_kernel = quantized_gradient.kernel(dy, w.shape[1], *matrix)
    if by_kernel is NotImplemented:
        assert not dy.size
        return
    for dx in (by_kernel, quantized_gradient.reference(dy, w.shape[1], *matrix)):
        assert dx.dtype == np.float32
        assert dx.shape == expected.shape
        assert (np.abs(dx - expected) <= 1.2e-7 * (len(w) + 4) * size + 1e-30).all()


@kinds
def test_the_gradient_in_many_parts_and_by_any_number_of_threads(kind, monkeypatch):
    rng = np.random.default_rng(0)
    matrix = quantized(rng.standard_normal((300, 1000)), kind)
    dy = rng.standard_normal((200, 300)).astype(np.float32)
    exact = dy.astype(np.float64) @ dequantized(*matrix)[:, :1000]
    found = []
    before = threads.thread_count()
    try:
        for count in (1, 2, 3):
            threads.set_threads(count)
            found.append(quantized_gradient.kernel(dy, 1000, *matrix))
    finally:
        threads.set_threads(before)
    np.testing.assert_allclose(found[0], exact, rtol=0, atol=1e-4)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)
    monkeypatch.setattr(kernels, "CHUNK", 1)
    np.testing.assert_allclose(quantized_gradient.kernel(dy, 1000, *matrix), exact, rtol=0, atol=1e-4)
    monkeypatch.setattr(operation, "EXPANDED", 300 * 64 * 3)
    np.testing.assert_allclose(quantized_gradient.reference(dy, 1000, *matrix), exact, rtol=0, atol=1e-4)


def test_a_gradient_of_other_numbers_is_declined():
    matrix = quantized(np.ones((4, 64), np.float32), "int8")
    assert quantized_gradient.kernel(np.ones((2, 4)), 64, *matrix) is NotImplemented
    assert quantized_gradient.kernel(np.ones((0, 4), np.float32), 64, *matrix) is NotImplemented
