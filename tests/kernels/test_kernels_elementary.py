"""exp, tanh and their like inside compiled loops: errors over the whole range, and what is not a number or infinite."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

import numba

from tinygrad_llm.kernels import elementary
from tinygrad_llm.kernels.compiled import REORDER

# not kept on disk, where it would outlive a change of the functions that it calls
compiled = numba.njit(error_model="numpy", fastmath=REORDER)


@compiled
def exps(x, y):
    for i in range(len(x)):
        y[i] = elementary.exp(x[i])


@compiled
def expm1s(x, y):
    for i in range(len(x)):
        y[i] = elementary.expm1(x[i])


@compiled
def exp2s(x, y):
    for i in range(len(x)):
        y[i] = elementary.exp2(x[i])


@compiled
def fallings(x, y):
    for i in range(len(x)):
        y[i] = elementary.falling(x[i])


@compiled
def tanhs(x, y):
    for i in range(len(x)):
        y[i] = elementary.tanh(x[i])


@compiled
def sigmoids(x, y):
    for i in range(len(x)):
        y[i] = elementary.sigmoid(x[i])


@compiled
def softpluses(x, y):
    for i in range(len(x)):
        y[i] = elementary.softplus(x[i])


@compiled
def normals(x, y):
    for i in range(len(x)):
        y[i] = elementary.normal(x[i])[0]


@compiled
def densities(x, y):
    for i in range(len(x)):
        y[i] = elementary.normal(x[i])[1]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-abs(x)))


def normal(x):
    return np.array([math.erfc(-float(each) / math.sqrt(2)) / 2 for each in x])


def density(x):
    return np.exp(-x * x / 2)


CASES = {  # compiled, true, range and relative error in float32, the same in float64
    "exp": (exps, np.exp, (-87.3, 88.722), 9e-8, (-708.3, 709.78), 2e-16),
    "exp2": (exp2s, np.exp2, (-126, 127.999), 1e-7, (-1022, 1023.999), 2e-16),
    "falling": (fallings, lambda t: 1 / (1 + np.exp2(t)), (-126, 126), 2e-7, (-1022, 1020), 4e-16),
    "expm1": (expm1s, np.expm1, (-80, 80), 2e-7, (-80, 80), 4e-16),
    "tanh": (tanhs, np.tanh, (-100, 100), 2e-7, (-100, 100), 4e-16),
    "sigmoid": (sigmoids, sigmoid, (-87, 100), 2e-7, (-700, 100), 4e-16),
    "softplus": (softpluses, softplus, (-87, 100), 3e-7, (-700, 700), 6e-16),
    "normal": (normals, normal, (-4, 14), 9e-7, (-4, 40), 4e-15),
    "density": (densities, density, (-4, 4), 9e-7, (-4, 4), 2e-15),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
FINE = np.finfo(np.longdouble).eps < 1e-18


def applied(function, x):
    y = np.empty_like(x)
    function(x, y)
    return y


def relative_errors(y, expected):
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = abs(y - expected) / abs(expected)
    return np.where(y == expected, 0, errors)


def floats_between(low, high, step):
    """Every step-th of the float32 from `low` to `high`: read as whole numbers, their bits are in order."""
    top, bottom = np.float32(high).view(np.int32), np.float32(-low).view(np.int32)
    positive = np.arange(0, top, step, dtype=np.int32).view(np.float32)
    negative = -np.arange(0, bottom, step, dtype=np.int32).view(np.float32)
    return np.concatenate([negative[::-1], positive])


@each_case
def test_float32_error_on_a_dense_sample_of_all_numbers(case):
    function, true, span, bound, _, _ = case
    x = floats_between(*span, 60013 if true is normal else 1009)
    y, expected = applied(function, x), true(x.astype(np.float64))
    assert y.dtype == np.float32
    errors = np.where(abs(expected) < 1.2e-38, 0, relative_errors(y, expected))  # below, float32 has fewer digits
    assert errors.max() < bound, (x[errors.argmax()], errors.max())


@each_case
@given(seed=st.integers(0, 2**32 - 1))
def test_float64_error(case, seed):
    function, true, _, _, (low, high), bound = case
    rng = np.random.default_rng(seed)
    near = min(5, high)
    tiny = rng.uniform(-1, 1, 500) * 10.0 ** rng.uniform(-300, 0, 500)
    x = np.concatenate([rng.uniform(low, high, 1000), rng.uniform(max(low, -near), near, 1000), tiny])
    expected = true(x.astype(np.longdouble))
    errors = relative_errors(applied(function, x), expected)
    assert errors.max() < bound + (0 if FINE else 2.3e-16), (x[errors.argmax()], errors.max())


@given(x=st.floats(-38.5, 9))
def test_tails_of_the_normal_distribution(x):
    y = applied(normals, np.array([x])).item()
    expected = math.erfc(-x / math.sqrt(2)) / 2
    if expected > 1e-300:  # x^2/2 is rounded, and so the exponent
        assert y == pytest.approx(expected, rel=2e-15 + 4e-16 * x * x)
    if x > -13:
        y = applied(normals, np.array([x], np.float32)).item()
        x = float(np.float32(x))
        assert y == pytest.approx(math.erfc(-x / math.sqrt(2)) / 2, rel=4e-7 + 2e-7 * x * x)


LIMITS = {  # at -inf, -1e30, 0, 1e30, inf
    "exp": (0, 0, 1, np.inf, np.inf),
    "exp2": (0, 0, 1, np.inf, np.inf),
    "falling": (1, 1, 0.5, 0, 0),
    "tanh": (-1, -1, 0, 1, 1),
    "sigmoid": (0, 0, 0.5, 1, 1),
    "softplus": (0, 0, math.log(2), 1e30, np.inf),
    "normal": (0, 0, 0.5, 1, 1),
    "density": (0, 0, 1, 0, 0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LIMITS)
def test_limits(name, dtype):
    # sixteen of each, and some more: the loop over whole vectors, and after it the rest
    x = np.repeat(np.array([-np.inf, -1e30, 0, 1e30, np.inf, 0], dtype), 16)[:-5]
    y = applied(CASES[name][0], x)
    assert y.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(y, np.repeat([*LIMITS[name], LIMITS[name][2]], 16)[:-5], rtol=eps, atol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", [exps, tanhs, sigmoids, softpluses])
def test_nan_stays(function, dtype):
    x = np.ones(37, dtype)
    x[[3, 20, 36]] = np.nan
    np.testing.assert_array_equal(np.isnan(applied(function, x)), np.isnan(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp2_of_whole_numbers_is_exact(dtype):
    info = np.finfo(dtype)
    t = np.arange(info.minexp, info.maxexp).astype(dtype)
    np.testing.assert_array_equal(applied(exp2s, t), np.ldexp(dtype(1), t.astype(int)))
    t = np.array([info.minexp - 1, info.maxexp, 1e9, -1e9], dtype)
    np.testing.assert_array_equal(applied(exp2s, t), [0, np.inf, np.inf, 0])


def test_exp32_at_the_ends_of_its_range():
    x = np.array([-87.4, -87.2, 88.72, 88.73], np.float32)
    y = applied(exps, x)
    assert y[0] == 0
    assert y[1] == pytest.approx(math.exp(np.float32(-87.2)), rel=1e-7)
    assert y[2] == pytest.approx(math.exp(np.float32(88.72)), rel=1e-7)
    assert y[3] == np.inf


def test_exp64_at_the_ends_of_its_range():
    x = np.concatenate([np.linspace(-746, -708, 501), np.linspace(709, 710, 301)])
    with np.errstate(all="ignore"):
        expected = np.exp(x)
    y = applied(exps, x)
    smallest = 5e-324
    np.testing.assert_allclose(y, expected, rtol=5e-16, atol=smallest)
    assert y[0] == 0
    assert y[-1] == np.inf
    assert np.isfinite(y[x < 709.78]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_with_fewer_digits_stay(dtype):
    tiny = np.finfo(dtype).smallest_subnormal * np.arange(-50, 51).astype(dtype)
    np.testing.assert_allclose(applied(tanhs, tiny), tiny, rtol=0, atol=float(np.finfo(dtype).smallest_subnormal))
    np.testing.assert_array_equal(applied(exps, tiny), np.ones(101, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tanh_is_monotonic_and_odd_to_its_accuracy(dtype):
    x = np.linspace(0, 12, 10001).astype(dtype)
    x = np.concatenate([-x[:0:-1], x])
    y = applied(tanhs, x)
    eps = np.finfo(dtype).eps
    assert (np.diff(y) >= -eps).all()
    np.testing.assert_allclose(y, -y[::-1], rtol=4 * eps, atol=0)
