"""The compiled twin of `ops/products.py`: few rows times a large matrix, in either layout."""

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import ops, pool, threads, use_backend
from tinygrad_llm.ops.products import product, sum_rows

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import meeting, products

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


@pytest.fixture
def parts_for_three(monkeypatch):
    monkeypatch.setattr(products, "LEAST", 1)
    before = threads.thread_count()
    threads.set_threads(3)
    yield
    threads.set_threads(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_parts_of_a_product_are_the_product(parts_for_three, dtype, data):
    m, k, n = (data.draw(sizes) for _ in range(3))
    m += products.FEW + 1
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x, y = rng.standard_normal((m, 2 * k)).astype(dtype), rng.standard_normal((k, 2 * n)).astype(dtype)
    x = data.draw(st.sampled_from([x[:, :k], x[:, ::2], np.asfortranarray(x[:, :k])]))
    y = data.draw(st.sampled_from([y[:, :n], y[:, ::2], np.asfortranarray(y[:, :n])]))
    exact = x.astype(np.float64) @ y.astype(np.float64)
    bound = np.finfo(dtype).eps * (k + 1) * (np.abs(x).astype(np.float64) @ np.abs(y)) + 1e-300
    out = np.full((m, n), np.nan, dtype) if data.draw(st.booleans()) else None
    z = product(x, y, out=out)
    kernel = product.kernel(x, y, out=out)
    for result in (z, kernel) if kernel is not NotImplemented else (z,):
        assert result.dtype == dtype
        assert out is None or result is out
        assert (np.abs(result - exact) <= bound).all()


def test_every_thread_has_a_part_and_blas_one_thread(parts_for_three, monkeypatch):
    seen = []
    for name in ("rows_of_product", "columns_of_product"):
        real = getattr(products, name)

        def spy(low, high, *arrays, name=name, real=real):
            blas = {
                library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"
            }
            seen.append((name, low, high, blas))
            real(low, high, *arrays)

        monkeypatch.setattr(products, name, spy)
    tall, wide = np.ones((96, 8), np.float32), np.ones((8, 500), np.float32)
    product.kernel(tall, wide[:, :96])
    assert sorted(seen) == [("rows_of_product", low, low + 2, {1}) for low in (0, 2, 4)]
    seen.clear()
    product.kernel(tall, wide)
    assert [name for name, *_ in seen] == ["columns_of_product"] * 3
    assert max(high for _, _, high, _ in seen) == 32


def test_with_products_the_pool_looks_before_it_sleeps():
    assert pool.watch is meeting.watch


@pytest.mark.parametrize("shape", [(112, 48), (96, 49), (96, 1), (1, 96, 48), (96,)])
def test_a_result_of_another_shape_is_left_to_numpy(parts_for_three, shape):
    x, y = np.ones((96, 8), np.float32), np.ones((8, 48), np.float32)
    assert product.kernel(x, y, out=np.empty(shape, np.float32)) is NotImplemented


def test_a_result_in_place_of_a_factor(parts_for_three):
    rng = np.random.default_rng(0)
    for factor in (0, 1):
        x, y = rng.standard_normal((2, 96, 96))
        expected = x @ y
        np.testing.assert_allclose(product(x, y, out=(x, y)[factor]), expected, rtol=0, atol=1e-11)


def test_one_thread_and_small_products_are_left_to_blas(parts_for_three, monkeypatch):
    x, y = np.ones((20, 30), np.float32), np.ones((30, 20), np.float32)
    assert product.kernel(x, y) is not NotImplemented
    assert product.kernel(x, y, out=np.empty((20, 20))) is NotImplemented
    monkeypatch.setattr(products, "LEAST", 6001)
    assert product.kernel(x, y) is NotImplemented
    monkeypatch.setattr(products, "LEAST", 1)
    threads.set_threads(1)
    assert product.kernel(x, y) is NotImplemented


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(shape=st.tuples(sizes, sizes), order=st.sampled_from(["C", "F", "every other"]), count=st.sampled_from([1, 3]))
def test_sums_of_rows(dtype, shape, order, count):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((shape[0], 2 * shape[1])).astype(dtype)
    a = a[:, ::2] if order == "every other" else np.asarray(a[:, : shape[1]], order=order)
    before = threads.thread_count()
    threads.set_threads(count)
    try:
        total = sum_rows.kernel(a)
    finally:
        threads.set_threads(before)
    exact = a.astype(np.float64).sum(0)
    assert total.dtype == dtype
    assert total.shape == exact.shape
    assert (np.abs(total - exact) <= np.finfo(dtype).eps * len(a) * np.abs(a).sum(0, dtype=np.float64)).all()
    np.testing.assert_array_equal(sum_rows.kernel(a.reshape(1, *a.shape)), total)


def test_sums_of_complex_rows_are_declined():
    assert sum_rows.kernel(np.ones((3, 4), complex)) is NotImplemented


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
    monkeypatch.setattr(
        product.kernel, "_function", lambda x, y, out=None: calls.append((x.shape, y.shape)) or kernel(x, y)
    )
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
