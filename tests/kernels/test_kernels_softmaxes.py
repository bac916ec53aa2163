"""The twins of softmax, log_softmax and logsumexp against their references, along the last axis."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import ops, threads
from tinygrad_llm.tape import saved_arrays

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import layout, softmaxes

CASES = {
    "softmax": (ops.softmax, {}),
    "log_softmax": (ops.log_softmax, {}),
    "logsumexp": (ops.logsumexp, {}),
    "logsumexp, kept": (ops.logsumexp, {"keepdims": True}),
}
each_case = pytest.mark.parametrize(("operation", "options"), CASES.values(), ids=CASES)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
shapes = st.sampled_from([(1,), (7,), (1, 1), (4, 1), (3, 16), (2, 3, 5), (5, 31), (2, 257), (3, 1031)])
seeds = st.integers(0, 2**32 - 1)


def run(function, options, x, dy_seed=0):
    """(value, gradient) for a random cotangent."""
    value, vjp = function(x, **options)
    dy = np.random.default_rng(dy_seed).standard_normal(np.shape(value)).astype(x.dtype)
    return value, vjp(dy)


def compare(found, expected, rtol, atol):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


def masked(rng, shape, spread):
    """Random logits, of which some, and sometimes whole rows, are -inf."""
    x = spread * rng.standard_normal(shape)
    x[rng.random(shape) < 0.2] = -np.inf
    x[..., :1][rng.random((*shape[:-1], 1)) < 0.2] = -np.inf
    return np.where(rng.random((*shape[:-1], 1)) < 0.2, -np.inf, x)


@each_case
@given(shape=shapes, seed=seeds, spread=st.sampled_from([0.01, 1, 30]), masks=st.booleans())
def test_float64_agrees(operation, options, shape, seed, spread, masks):
    rng = np.random.default_rng(seed)
    x = masked(rng, shape, spread) if masks else spread * rng.standard_normal(shape)
    found, expected = run(operation.kernel, options, x), run(operation.reference, options, x)
    assert found[0].dtype == found[1].dtype == np.float64
    compare(found, expected, 1e-12, 1e-13)


@each_case
@given(shape=shapes, seed=seeds, spread=st.sampled_from([0.01, 1, 30]), masks=st.booleans())
def test_float32_is_close_to_float64(operation, options, shape, seed, spread, masks):
    rng = np.random.default_rng(seed)
    x = (masked(rng, shape, spread) if masks else spread * rng.standard_normal(shape)).astype(np.float32)
    value, vjp = operation.kernel(x, **options)
    value64, vjp64 = operation.reference(x.astype(np.float64), **options)
    dy = rng.standard_normal(value.shape).astype(np.float32)
    dx = vjp(dy)
    assert value.dtype == dx.dtype == np.float32
    # x - top is rounded, which the exponential makes a relative error; sums have at most 1031 terms in 16 lanes
    eps = np.finfo(np.float32).eps
    size = max(1, float(np.abs(x[np.isfinite(x)]).max(initial=0)))
    relative = eps * (8 + size)
    compare([value], [value64], relative, eps * size)
    row = np.abs(dy).sum(-1, keepdims=True) if dy.shape == x.shape else np.abs(dy).reshape(*x.shape[:-1], 1)
    assert (np.abs(dx - vjp64(dy.astype(np.float64))) <= relative * row).all()


@each_case
@each_dtype
def test_odd_rows_as_in_the_reference(operation, options, dtype):
    nan, inf = np.nan, np.inf
    rows = [[nan, 1, 2], [nan] * 3, [-inf] * 3, [-inf, nan, -inf], [-inf, 5, -inf], [1e4, -1e4, 0], [inf, 1, 2],
            [-1e4, -1e4, -1e4], [7, 7, 7], [inf, -inf, nan], [3, -80, -inf], [1e30, -1e30, 1e30]]  # fmt: skip
    for copies in (1, 17):
        x = np.tile(np.array(rows, dtype), copies)
        with np.errstate(all="ignore"):
            found, expected = run(operation.kernel, options, x), run(operation.reference, options, x)
        eps = float(np.finfo(dtype).eps)
        compare(found, expected, 16 * eps, 16 * eps)


@each_case
def test_what_is_masked_is_exactly_nothing(operation, options):
    x = np.array([[0.0, -np.inf, 3.0], [-np.inf] * 3], np.float32)
    value, dx = run(operation.kernel, options, x)
    assert dx[0, 1] == (run(operation.reference, options, x)[1])[0, 1]
    assert (dx[1] == 0).all()
    assert {"softmax": 0, "log_softmax": -np.inf, "logsumexp": -np.inf}[operation.name] == value.reshape(-1)[-1]


@each_case
@each_dtype
@given(seed=seeds)
def test_memory_layout_does_not_matter(operation, options, dtype, seed):
    x = np.random.default_rng(seed).standard_normal((6, 37)).astype(dtype)
    expected = run(operation.kernel, options, x)
    wide = np.zeros((6, 74), dtype)
    wide[:, ::2] = x
    moved = np.empty(6 * 37 * x.itemsize + 1, np.uint8)[1:].view(dtype).reshape(6, 37)
    moved[...] = x
    for other in (wide[:, ::2], np.asfortranarray(x), x[::-1].copy()[::-1], moved, x.reshape(2, 3, 37)):
        found = run(operation.kernel, options, other)
        compare([f.reshape(e.shape) for f, e in zip(found, expected, strict=True)], expected, 0, 0)
    constant = np.broadcast_to(x[:, :1], x.shape)
    compare(run(operation.kernel, options, constant), run(operation.kernel, options, constant.copy()), 0, 0)
    value, vjp = operation.kernel(x, **options)
    one = np.broadcast_to(x.dtype.type(0.5), value.shape)
    compare([vjp(one)], [vjp(one.copy())], 0, 0)


@each_case
def test_threads_give_the_same_bits(operation, options, monkeypatch):
    monkeypatch.setattr(layout, "PIECE", 100)
    x = np.random.default_rng(0).standard_normal((29, 67)).astype(np.float32)
    results = []
    for count in (1, 3):
        monkeypatch.setattr(threads, "_threads", count)
        results.append(run(operation.kernel, options, x))
    compare(*results, 0, 0)


@each_case
def test_keeps_one_large_array_and_writes_to_none(operation, options):
    x = np.random.default_rng(0).standard_normal((5, 40))
    before = x.copy()
    value, vjp = operation.kernel(x, **options)
    kept = [a for a in saved_arrays(vjp) if a.size == x.size]
    assert all(np.may_share_memory(a, x if operation is ops.logsumexp else value) for a in kept)
    dy, old = np.ones(value.shape), value.copy()
    dx = vjp(dy)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(value, old)
    assert (dy == 1).all()
    assert not any(np.may_share_memory(dx, a) for a in (x, value, dy))
    np.testing.assert_array_equal(vjp(dy), dx)


@each_case
def test_the_last_axis_by_either_name_and_no_other(operation, options):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    expected = run(operation.reference, options, x)
    compare(run(operation.kernel, {**options, "axis": 2}, x), expected, 1e-12, 1e-13)
    for axis in (0, 1, -2, -3, (2,), None):
        assert operation.kernel(x, **options, axis=axis) is NotImplemented


@each_case
def test_declines_what_it_does_not_handle(operation, options):
    for x in (2.0, np.ones(()), np.ones((3, 0)), np.ones((0, 3)), np.ones(3, complex), np.ones(3, np.float16)):
        assert operation.kernel(x, **options) is NotImplemented


def test_a_long_row_of_one_value():
    x = np.full((1, 50257), 1e4, np.float32)
    assert ops.logsumexp.kernel(x)[0].item() == pytest.approx(1e4 + np.log(50257), rel=1e-6)
    np.testing.assert_allclose(softmaxes.softmax.kernel(x)[0], 1 / 50257, rtol=1e-5)
