"""The kernels of swiglu and geglu against their references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinygrad_llm import ops, threads

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import gated as kernels

each_unit = pytest.mark.parametrize("unit", [ops.swiglu, ops.geglu], ids=lambda o: o.name)
shapes = st.sampled_from([(), (0,), (1,), (2, 0), (7,), (16, 16), (5, 31), (3, 2, 97), (1, 1000)])
seeds = st.integers(0, 2**32 - 1)
layouts = st.lists(st.integers(0, 4), min_size=3, max_size=3)


def laid_out(a, layout):
    """The same values in another place of memory."""
    if layout == 1:  # not aligned to a vector
        return np.concatenate((np.zeros(1, a.dtype), a.ravel()))[1:].reshape(a.shape)
    if layout == 2 and a.ndim:
        return np.asfortranarray(a)
    if layout == 3 and a.ndim:  # one half of a projection
        return np.concatenate((a, a + 1), axis=-1)[..., : a.shape[-1]]
    if layout == 4 and a.ndim:
        return a[::-1].copy()[::-1]
    return a


def both(function, gate, up, dy):
    y, vjp = function(gate, up)
    return [y, *(g() if callable(g) else g for g in vjp(dy))]


@each_unit
@given(shape=shapes, seed=seeds, layout=layouts, scale=st.sampled_from([1.0, 10.0, 1e4]))
def test_equals_the_reference(unit, shape, seed, layout, scale):
    arrays = np.random.default_rng(seed).standard_normal((3, *shape))
    arrays[0] *= scale
    gate, up, dy = (laid_out(a, each) for a, each in zip((arrays[i, ...] for i in range(3)), layout, strict=True))
    for a, b in zip(both(unit.kernel, gate, up, dy), both(unit.reference, gate, up, dy), strict=True):
        assert a.shape == b.shape
        # the reference takes 1 + tanh, which cancels where the gate is far below 0: relative to the gate
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14 * max(1, np.abs(gate).max(initial=0)))


@each_unit
@given(shape=shapes, seed=seeds, scale=st.sampled_from([1.0, 10.0, 1e4]))
def test_float32_is_as_exact_as_its_inputs(unit, shape, seed, scale):
    arrays = np.random.default_rng(seed).standard_normal((3, *shape)).astype(np.float32)
    arrays[0] *= np.float32(scale)
    arrays = [arrays[i, ...] for i in range(3)]  # arrays also where the shape is ()
    doubles = [a.astype(np.float64) for a in arrays]
    found, expected = both(unit.kernel, *arrays), both(unit.reference, *doubles)
    gate, up, dy = (np.abs(a) for a in doubles)
    bounds = gate * up, dy * up * np.maximum(1, gate), dy * gate  # of each result, before the gate closes
    for a, b, bound in zip(found, expected, bounds, strict=True):
        assert a.dtype == np.float32
        # the exponential, and fewer than a dozen roundings
        assert (np.abs(a - b) <= 16 * np.finfo(np.float32).eps * bound + 1e-38).all()


@each_unit
def test_nan_and_infinity(unit):
    values = np.array([np.nan, np.inf, -np.inf, 1.0, 0.0])
    gate, up, dy = (a.ravel() for a in np.meshgrid(values, values, values))
    with np.errstate(invalid="ignore"):
        found, expected = both(unit.kernel, gate, up, dy), both(unit.reference, gate, up, dy)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_geglu_of_ones_is_gelu(dtype):
    gate = np.append(np.linspace(-12, 12, 1001), [-1e4, 1e4]).astype(dtype)
    ones = np.ones_like(gate)
    y, dgate, dup = both(ops.geglu.kernel, gate, ones, ones)
    expected, slope = both_of_gelu(gate)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(dup, expected)
    np.testing.assert_allclose(dgate, slope, rtol=4 * np.finfo(dtype).eps)


def test_a_large_gate_is_open_though_its_cube_overflows():
    large = np.array([1e4, 1e13, 1e18], np.float32)
    ones = np.ones_like(large)
    for gradient in (both(ops.geglu.kernel, large, ones, ones)[1], both_of_gelu(large)[1]):
        np.testing.assert_array_equal(gradient, 1)


def both_of_gelu(x):
    y, vjp = ops.gelu.kernel(x)
    return y, vjp(np.ones_like(x))


@each_unit
def test_three_threads_give_the_same_bits(unit, monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 1)
    arrays = np.random.default_rng(0).standard_normal((3, 41, 37)).astype(np.float32)
    monkeypatch.setattr(threads, "_threads", 1)
    one = both(unit.kernel, *arrays)
    monkeypatch.setattr(threads, "_threads", 3)
    for a, b in zip(one, both(unit.kernel, *arrays), strict=True):
        np.testing.assert_array_equal(a, b)


@each_unit
def test_what_is_declined_and_what_is_refused(unit):
    a = np.ones((2, 3))
    assert unit.kernel(a.astype(complex), a.astype(complex)) is NotImplemented
    assert unit.kernel(a, a.astype(np.float32)) is NotImplemented
    assert unit.kernel(a, 2.0) is NotImplemented
    with pytest.raises(ValueError, match=rf"{unit.name}: gate \(2, 3\) and up \(3,\) differ in shape"):
        unit.kernel(a, np.ones(3))
