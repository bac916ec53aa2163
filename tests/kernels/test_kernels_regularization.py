"""The twin of dropout draws the reference's own numbers, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import ops, random, threads
from tinygrad_llm.tape import saved_arrays

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

import numba

from tinygrad_llm.kernels import regularization
from tinygrad_llm.kernels.compiled import REORDER

# not kept on disk, where it would outlive a change of the functions that it calls
compiled = numba.njit(error_model="numpy", fastmath=REORDER)

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
GROUP = regularization.BLOCKS * regularization.HALVES
shapes = st.sampled_from(
    [(), (0,), (1,), (7,), (8,), (9,), (3, 5), (2, 0), (GROUP - 1,), (GROUP,), (GROUP + 1,), (3, 7, 101)]
)
keys = st.integers(0, 2**63 - 1)
probabilities = st.one_of(st.sampled_from([0, 0.0, 0.1, 0.5, 2.0**-24, 1 - 2.0**-24]), st.floats(0, 0.999999))


def run(function, x, p, key, dy):
    value, vjp = function(x, p, key)
    return value, vjp(dy)


@compiled
def blocks(first, second, words):
    for i in range(len(words)):
        a, b, c, d = regularization.philox(np.uint64(i + 1), first, second)
        words[i, 0], words[i, 1], words[i, 2], words[i, 3] = a, b, c, d


@given(key=keys)
def test_philox_is_numpy_s(key):
    first, second = random.stream(key, "dropout").bit_generator.state["state"]["key"]
    words = np.empty((20, 4), np.uint64)
    blocks(first, second, words)
    np.testing.assert_array_equal(words.ravel(), random.stream(key, "dropout").bit_generator.random_raw(80))


@each_dtype
@given(shape=shapes, p=probabilities, key=keys)
def test_the_same_bits_as_the_reference(dtype, shape, p, key):
    rng = np.random.default_rng(key % 1000)
    x, dy = np.asarray(rng.standard_normal(shape), dtype), np.asarray(rng.standard_normal(shape), dtype)
    found = run(ops.dropout.kernel, x, p, key, dy)
    for a, b in zip(found, run(ops.dropout.reference, x, p, key, dy), strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(a, b, strict=True)


def test_at_the_very_edge_of_what_is_kept():
    key = 11
    drawn = random.stream(key, "dropout").random(4000, np.float32)
    x = np.ones(4000, np.float32)
    halves = random.stream(key, "dropout").bit_generator.random_raw(2000).astype("<u8").view("<u4")
    equal = np.flatnonzero(halves & 0xFF == 0)  # their lowest bits, which a float32 does not have, are 0 already
    assert len(equal) > 5
    for index in [*equal, *range(0, 4000, 97)]:
        p = float(drawn[index])
        for edge in (p, np.nextafter(p, 1), np.nextafter(p, 0), float(np.nextafter(drawn[index], np.float32(1)))):
            found = ops.dropout.kernel(x, float(edge), key)[0]
            np.testing.assert_array_equal(found, ops.dropout.reference(x, float(edge), key)[0])
        assert ops.dropout.kernel(x, p, key)[0][index] > 0
        assert ops.dropout.kernel(x, float(np.nextafter(drawn[index], np.float32(1))), key)[0][index] == 0


@each_dtype
def test_nan_and_infinity_as_in_the_reference(dtype):
    x = np.tile(np.array([np.nan, np.inf, -np.inf, 0, 1], dtype), 200)
    with np.errstate(invalid="ignore"):
        expected = run(ops.dropout.reference, x, 0.5, 3, x)
    for a, b in zip(run(ops.dropout.kernel, x, 0.5, 3, x), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@each_dtype
def test_memory_layout_does_not_matter(dtype):
    x = np.random.default_rng(0).standard_normal((30, 41)).astype(dtype)
    expected = run(ops.dropout.reference, x, 0.3, 9, x)
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    constant = np.broadcast_to(x[:1], x.shape)
    for other in (wide, np.asfortranarray(x), x[::-1].copy()[::-1]):
        for a, b in zip(run(ops.dropout.kernel, other, 0.3, 9, other), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    expected = run(ops.dropout.reference, constant, 0.3, 9, constant)
    for a, b in zip(run(ops.dropout.kernel, constant, 0.3, 9, constant), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_any_number_of_threads_draws_the_same(monkeypatch):
    monkeypatch.setattr(regularization, "PIECE", 2 * GROUP)
    x = np.random.default_rng(0).standard_normal(9 * GROUP + 3).astype(np.float32)
    expected = run(ops.dropout.reference, x, 0.3, 9, x)
    for count in (1, 3):
        monkeypatch.setattr(threads, "_threads", count)
        for a, b in zip(run(ops.dropout.kernel, x, 0.3, 9, x), expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_keeps_a_byte_for_each_element_and_writes_to_nothing():
    x = np.random.default_rng(0).standard_normal(1000)
    before, dy = x.copy(), np.ones(1000)
    value, vjp = ops.dropout.kernel(x, 0.5, 1)
    kept = value.copy()
    dx = vjp(dy)
    assert not any(np.may_share_memory(dx, a) for a in (x, value, dy))
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(value, kept)
    assert (dy == 1).all()
    masks = [a for a in saved_arrays(vjp) if a.size > 1]
    assert [(a.dtype, a.size) for a in masks] == [(np.dtype(bool), 1000)]


def test_declines_and_refuses():
    x = np.ones(5)
    for p in (-0.1, 1, 1.0, np.nan, np.float64(0.5), np.float32(0.5)):
        assert ops.dropout.kernel(x, p, 0) is NotImplemented
    for other in (np.ones(3, complex), np.ones(3, np.float16), np.ones(3, int), 1.0):
        assert ops.dropout.kernel(other, 0.5, 0) is NotImplemented
    with pytest.raises(TypeError):
        ops.dropout.kernel(x, 0.5, "key")
