"""The compiled twin of `ops/products.py`: few rows times a large matrix, in either layout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import ops, threads, use_backend
from tinygrad_llm.ops.products import product

pytest.importorskip("numba", reason="kernels need Numba")
try:
    from tinygrad_llm.kernels import products
except ImportError as error:
    pytest.skip(str(error), allow_module_level=True)

sizes = st.sampled_from([0, 1, 2, 3, 5, 16, 63, 64, 65, 97, 128, 200])


@pytest.fixture(autouse=True)
def small_matrices(monkeypatch):
    """Matrices small enough for tests are left to BLAS otherwise, and are not worth a second thread."""
    monkeypatch.setattr(products, "LARGE", 0)
    monkeypatch.setattr(products, "PIECE", 1)


@st.composite
def factors(draw, dtype):
    """x (M, K) and y (K, N): y lies row by row, or column by column; x any way."""
    m, k, n = draw(st.integers(0, products.FEW)), draw(sizes), draw(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = rng.standard_normal((k, n)).astype(dtype)
    if draw(st.booleans()):
        y = np.ascontiguousarray(y.T).T
    x = rng.standard_normal((m, 2 * k + 1)).astype(dtype)
    x = draw(st.sampled_from([x[:, :k], x[:, 1 : k + 1], x[:, : 2 * k : 2], np.asfortranarray(x[:, :k])]))
    return x, y


@given(factors(np.float64))
def test_it_is_the_product(pair):
    x, y = pair
    z = product.kernel(x, y)
    assert z is not NotImplemented
    assert z.dtype == np.float64
    bound = 1e-15 * (len(y) + 1) * (np.abs(x) @ np.abs(y))  # each of K terms is rounded twice
    assert (np.abs(z - x @ y) <= bound + 1e-300).all()


@given(factors(np.float32))
def test_float32_is_as_exact_as_its_sum_allows(pair):
    x, y = pair
    z = product.kernel(x, y)
    assert z.dtype == np.float32
    exact = x.astype(np.float64) @ y.astype(np.float64)
    bound = 6e-8 * (len(y) + 2) * (np.abs(x).astype(np.float64) @ np.abs(y))
    assert (np.abs(z - exact) <= bound + 1e-40).all()


@given(factors(np.float32), st.data())
def test_infinity_and_nan_reach_the_results_that_they_enter(pair, data):
    x, y = (a.copy(order="K") for a in pair)
    for a in (x, y):
        if a.size:
            at = tuple(data.draw(st.integers(0, n - 1)) for n in a.shape)
            a[at] = data.draw(st.sampled_from([np.inf, -np.inf, np.nan, 0]))
    with np.errstate(invalid="ignore"):
        expected = np.einsum("mk,kn->mn", x, y, dtype=np.float64)
    z = product.kernel(x, y)
    np.testing.assert_array_equal(np.isnan(z), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(z) * np.sign(z), np.isinf(expected) * np.sign(expected))


@given(factors(np.float32))
def test_any_number_of_threads_gives_the_same_bits(pair):
    before = threads.thread_count()
    results = []
    try:
        for count in (1, 3):
            threads.set_threads(count)
            results.append(product.kernel(*pair))
    finally:
        threads.set_threads(before)
    np.testing.assert_array_equal(results[0], results[1])


def test_what_belongs_to_blas_is_declined(monkeypatch):
    x, y = np.ones((2, 30), np.float32), np.ones((30, 40), np.float32)
    assert product.kernel(x, y) is not NotImplemented
    many = np.ones((products.FEW + 1, 30), np.float32)
    every_other = np.ones((30, 80), np.float32)[:, ::2]
    for left, right in [(many, y), (x, every_other), (x, y.astype(np.float64)), (x.astype(complex), y.astype(complex))]:
        assert product.kernel(left, right) is NotImplemented
    assert product.kernel(x, y[:-1]) is NotImplemented  # the reference says what is wrong
    monkeypatch.setattr(products, "LARGE", 1201)
    assert product.kernel(x, y) is NotImplemented
    monkeypatch.setattr(products, "LARGE", 1200)
    assert product.kernel(x, y) is not NotImplemented


def test_linear_and_matmul_use_it_forward_and_backward(monkeypatch):
    calls = []
    kernel = product.kernel.function
    monkeypatch.setattr(product.kernel, "_function", lambda x, y: calls.append((x.shape, y.shape)) or kernel(x, y))
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((1, 2, 30)), rng.standard_normal((30, 40)), rng.standard_normal(40)
    dy = rng.standard_normal((1, 2, 40))
    for operation, args, expected in [(ops.linear, (x, w, b), x @ w + b), (ops.matmul, (x, w), x @ w)]:
        calls.clear()
        with use_backend("numba"):
            value, vjp = operation.reference(*args)
            dx = vjp(dy)[0]()
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(dx, dy @ w.T, rtol=1e-13, atol=1e-13)
        assert calls == [((2, 30), (30, 40)), ((2, 40), (40, 30))]
