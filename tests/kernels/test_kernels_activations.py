"""The twins of activations against their references: sizes, memory layouts, limits, and any number of threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import ops, threads
from tinygrad_llm.tape import saved_arrays

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import activations, layout

CASES = {
    "gelu": (ops.gelu, {}),
    "exact gelu": (ops.gelu, {"approximate": False}),
    "silu": (ops.silu, {}),
    "tanh": (ops.tanh, {}),
    "sigmoid": (ops.sigmoid, {}),
    "relu": (ops.relu, {}),
    "softplus": (ops.softplus, {}),
}
each_case = pytest.mark.parametrize(("operation", "options"), CASES.values(), ids=CASES)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
shapes = st.sampled_from([(0,), (3, 0), (1,), (), (2,), (7,), (16,), (31,), (5, 13), (3, 2, 11), (127,), (1031,)])
seeds = st.integers(0, 2**32 - 1)


def both(operation, options, x, dy):
    """((value, gradient) of the kernel, the same of the reference)."""
    pairs = []
    for function in (operation.kernel, operation.reference):
        value, vjp = function(x, **options)
        pairs.append((value, vjp(dy)))
    return pairs


def compare(found, expected, rtol, atol):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


@each_case
@given(shape=shapes, seed=seeds, spread=st.sampled_from([0.01, 1, 30]))
def test_float64_agrees(operation, options, shape, seed, spread):
    rng = np.random.default_rng(seed)
    x, dy = np.asarray(spread * rng.standard_normal(shape)), np.asarray(rng.standard_normal(shape))
    found, expected = both(operation, options, x, dy)
    assert found[0].dtype == found[1].dtype == np.float64
    # a few roundings; and 1 - y^2, 1 - s are small differences of numbers near 1
    compare(found, expected, 1e-13, 1e-14)


@each_case
@given(shape=shapes, seed=seeds, spread=st.sampled_from([0.01, 1, 30]))
def test_float32_is_close_to_float64(operation, options, shape, seed, spread):
    rng = np.random.default_rng(seed)
    x = np.asarray(spread * rng.standard_normal(shape)).astype(np.float32)
    dy = np.asarray(rng.standard_normal(shape)).astype(np.float32)
    value, vjp = operation.kernel(x, **options)
    dx = vjp(dy)
    assert value.dtype == dx.dtype == np.float32
    value64, vjp64 = operation.reference(x.astype(np.float64), **options)
    # at most about 8 roundings; the absolute one is that of 1 - s, times x u' (gelu), which is below 8 where s < 1
    eps = np.finfo(np.float32).eps
    compare([value], [value64], 8 * eps, 2 * eps)
    compare([dx], [vjp64(dy.astype(np.float64))], 8 * eps, 8 * eps * float(np.abs(dy).max(initial=0)))


@each_case
@each_dtype
def test_limits_and_nan_as_in_the_reference(operation, options, dtype):
    special = np.array([np.nan, np.inf, -np.inf, 0, 1e4, -1e4, 80, -80, 1e-30, -1e-30], dtype)
    x = np.repeat(special, 19)
    for dy in (np.ones_like(x), np.tile(np.array([np.nan, 0, np.inf, -1, 2], dtype), 38)):
        with np.errstate(all="ignore"):
            found, expected = both(operation, options, x, dy)
        compare(found, expected, 1e-6 if dtype == np.float32 else 1e-14, 1e-36)


@each_case
@each_dtype
@given(seed=seeds)
def test_memory_layout_does_not_matter(operation, options, dtype, seed):
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, 6, 37)).astype(dtype)
    expected = both(operation, options, x, dy)[0]
    wide = np.zeros((6, 74), dtype)
    wide[:, ::2] = x
    moved = np.empty(6 * 37 * x.itemsize + 1, np.uint8)[1:].view(dtype).reshape(6, 37)  # at an odd address
    moved[...] = x
    for other in (wide[:, ::2], np.asfortranarray(x), x[::-1].copy()[::-1], moved):
        found = both(operation, options, other, np.asfortranarray(dy))[0]
        compare(found, expected, 0, 0)
    constant = both(operation, options, np.broadcast_to(x[0, 0], (6, 37)), np.broadcast_to(dy[0, 0], (6, 37)))[0]
    compare(constant, [np.full((6, 37), e[0, 0]) for e in expected], 4 * np.finfo(dtype).eps, np.finfo(dtype).eps)


@each_case
def test_threads_give_the_same_bits(operation, options, monkeypatch):
    monkeypatch.setattr(activations, "PIECE", 100)
    x, dy = np.random.default_rng(0).standard_normal((2, 1031)).astype(np.float32)
    results = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "_threads", count)
        results.append(both(operation, options, x, dy)[0])
    compare(*results, 0, 0)


@each_case
def test_writes_to_nothing_and_shares_nothing(operation, options):
    x, dy = np.random.default_rng(0).standard_normal((2, 50))
    before = x.copy(), dy.copy()
    value, vjp = operation.kernel(x, **options)
    kept = value.copy()
    dx = vjp(dy)
    for now, old in zip((x, dy, value), (*before, kept), strict=True):
        np.testing.assert_array_equal(now, old)
    assert not any(np.may_share_memory(dx, other) for other in (x, dy, value))
    assert not np.may_share_memory(value, x)
    np.testing.assert_array_equal(vjp(dy), dx)


@each_case
def test_keeps_one_array_for_the_vjp(operation, options):
    x = np.ones(50)
    value, vjp = operation.kernel(x, **options)
    (kept,) = saved_arrays(vjp)
    assert np.may_share_memory(kept, x if operation in (ops.gelu, ops.silu) else value)


@each_case
def test_declines_what_is_no_float(operation, options):
    for x in (1.0, np.ones(3, np.complex128), np.ones(3, np.float16), np.ones(3, int), np.ones(3, ">f4")):
        assert operation.kernel(x, **options) is NotImplemented


def test_a_piece_is_worth_a_thread():
    assert layout.PIECE >= 1 << 16


# -- bias_gelu ---------------------------------------------------------------------------------------------------------

each_form = pytest.mark.parametrize("approximate", [True, False])


def with_bias(function, x, bias, dy, approximate):
    value, vjp = function(x, bias, approximate=approximate)
    dx, db = vjp(dy)
    return value, dx, db() if callable(db) else db


@each_form
@given(rows=st.sampled_from([0, 1, 2, 63, 64, 65, 130]), columns=st.sampled_from([0, 1, 7, 16, 33]), seed=seeds)
def test_bias_gelu_agrees(approximate, rows, columns, seed):
    rng = np.random.default_rng(seed)
    x, dy = 3 * rng.standard_normal((rows, columns)), rng.standard_normal((rows, columns))
    bias = rng.standard_normal(columns)
    found = with_bias(ops.bias_gelu.kernel, x, bias, dy, approximate)
    compare(found, with_bias(ops.bias_gelu.reference, x, bias, dy, approximate), 1e-12, 1e-13)
    three = x.reshape(rows, 1, columns)  # more axes
    again = with_bias(ops.bias_gelu.kernel, three, bias, dy.reshape(three.shape), approximate)
    compare([again[0].reshape(x.shape), again[1].reshape(x.shape), again[2]], found, 0, 0)
    single = [a.astype(np.float32) for a in (x, bias, dy)]
    found = with_bias(ops.bias_gelu.kernel, *single, approximate)
    assert all(a.dtype == np.float32 for a in found)
    expected = with_bias(ops.bias_gelu.reference, *(a.astype(np.float64) for a in single), approximate)
    # as gelu's, with one more rounding, that of x + b; db adds up to 64 rows in a block, and up to 3 blocks
    eps = np.finfo(np.float32).eps
    largest = float(np.abs(dy).max(initial=1))
    compare(found[:1], expected[:1], 8 * eps, 16 * eps)
    compare(found[1:2], expected[1:2], 8 * eps, 16 * eps * largest)
    compare(found[2:], expected[2:], 8 * eps, 16 * eps * largest * np.sqrt(rows + 1))


@each_form
@each_dtype
def test_bias_gelu_in_any_layout_and_with_any_threads(approximate, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 300, 37)).astype(dtype)
    bias = rng.standard_normal(37).astype(dtype)
    expected = with_bias(ops.bias_gelu.kernel, x, bias, dy, approximate)
    odd = np.repeat(bias, 2)[::2]
    compare(
        with_bias(ops.bias_gelu.kernel, np.asfortranarray(x), odd, dy[::-1].copy()[::-1], approximate), expected, 0, 0
    )
    monkeypatch.setattr(layout, "PIECE", 100)
    for count in (1, 3):
        monkeypatch.setattr(threads, "_threads", count)
        compare(with_bias(ops.bias_gelu.kernel, x, bias, dy, approximate), expected, 0, 0)


@each_form
@each_dtype
def test_bias_gelu_limits_and_nan_as_in_the_reference(approximate, dtype):
    special = np.array([np.nan, np.inf, -np.inf, 0, 1e4, -1e4, 20, -5, 1e-30], dtype)
    x, bias = np.repeat(special, 9).reshape(9, 9), special
    with np.errstate(all="ignore"):
        found = with_bias(ops.bias_gelu.kernel, x, bias, np.ones_like(x), approximate)
        expected = with_bias(ops.bias_gelu.reference, x, bias, np.ones_like(x), approximate)
    eps = float(np.finfo(dtype).eps)
    compare(found, expected, 16 * eps, 16 * eps)


def test_bias_gelu_declines_and_refuses():
    x = np.ones((2, 3))
    assert ops.bias_gelu.kernel(x, np.ones(3, np.float32)) is NotImplemented
    assert ops.bias_gelu.kernel(x.astype(complex), np.ones(3, complex)) is NotImplemented
    with pytest.raises(ValueError, match=r"bias_gelu: x \(2, 3\) needs a bias"):
        ops.bias_gelu.kernel(x, np.ones(2))


def test_bias_gelu_keeps_its_inputs_alone():
    x, bias, dy = np.ones((5, 4)), np.ones(4), np.ones((5, 4))
    value, vjp = ops.bias_gelu.kernel(x, bias)
    assert all(np.may_share_memory(a, x) or np.may_share_memory(a, bias) for a in saved_arrays(vjp))
    dx, db = vjp(dy)
    arrays = [x, bias, dy, value, dx, db]
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    assert (x == 1).all()
    assert (bias == 1).all()
    assert (dy == 1).all()
