"""The kernel of rotary position embedding against its reference."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import threads
from tinygrad_llm.ops import rotary

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import rotations as kernels

sizes = st.integers(0, 5)
pairs = st.sampled_from([0, 1, 2, 3, 8, 13, 16, 33, 64])
seeds = st.integers(0, 2**32 - 1)
layouts = st.integers(0, 6)


def laid_out(x, layout):
    """The same values (B, H, T, D) in another place of memory."""
    batch, heads, time, channels = x.shape
    if layout == 1:  # heads of a projection: rows of the tokens
        return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).transpose(0, 2, 1, 3)
    if layout == 2 and x.size:  # a part of a projection, at an odd place
        wide = np.full((batch, time, heads * channels + 3), np.nan, x.dtype)
        strides = (wide.strides[0], channels * x.itemsize, wide.strides[1], x.itemsize)
        part = np.lib.stride_tricks.as_strided(wide[..., 1:], x.shape, strides)
        part[...] = x
        return part
    if layout == 3:
        return np.asfortranarray(x)
    if layout == 4:
        return x[:, :, ::-1].copy()[:, :, ::-1]
    if layout == 5:
        return np.repeat(x, 2, axis=3)[..., ::2]
    if layout == 6:
        return np.ascontiguousarray(x.transpose(2, 1, 0, 3)).transpose(2, 1, 0, 3)
    return x


def both(function, x, positions, dy, **options):
    y, vjp = function(x, positions, **options)
    return y, vjp(dy)


@given(b=sizes, h=sizes, t=sizes, n=pairs, seed=seeds, x_layout=layouts, dy_layout=layouts, batched=st.booleans())
def test_equals_the_reference(b, h, t, n, seed, x_layout, dy_layout, batched):
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, b, h, t, 2 * n))
    x, dy = laid_out(x, x_layout), laid_out(dy, dy_layout)
    positions = rng.integers(-1000, 1000, (b, t) if batched else t)
    options = {"frequencies": rng.uniform(0, 2, n)} if seed % 2 else {"base": 77.0}
    if not x.size:
        assert rotary.kernel(x, positions, **options) is NotImplemented
        return
    found, expected = (both(f, x, positions, dy, **options) for f in (rotary.kernel, rotary.reference))
    for a, b_ in zip(found, expected, strict=True):
        assert a.shape == b_.shape
        np.testing.assert_allclose(a, b_, rtol=0, atol=1e-14 * max(1.0, float(np.abs(x).max())))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("layout", range(7))
def test_every_layout_of_several_heads(layout, batched):
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 2, 5, 34))
    positions = rng.integers(0, 100, (3, 5) if batched else 5)
    dy = laid_out(dy, 6 - layout)
    found, expected = (both(f, laid_out(x, layout), positions, dy) for f in (rotary.kernel, rotary.reference))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)


@given(t=st.integers(1, 40), n=st.sampled_from([1, 7, 16, 32]), seed=seeds)
def test_float32_is_as_exact_as_its_inputs(t, n, seed):
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((2, 2, 3, t, 2 * n)).astype(np.float32)
    positions = rng.integers(0, 10**6, t)
    found = both(rotary.kernel, x, positions, dy)
    expected = both(rotary.reference, x.astype(np.float64), positions, dy.astype(np.float64))
    for a, b, given_ in zip(found, expected, (x, dy), strict=True):
        assert a.dtype == np.float32
        # two products and a sum, and the rounding of cosine and sine
        np.testing.assert_allclose(a, b, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(given_).max())


def test_heads_of_a_projection_go_back_without_a_copy():
    tokens = np.arange(2 * 3 * 5 * 4.0).reshape(2, 3, 5, 4)  # B, T, H, D
    y, vjp = rotary.kernel(tokens.transpose(0, 2, 1, 3), np.arange(3))
    dx = vjp(np.ones((2, 5, 3, 4)))
    for a in (y, dx):
        assert a.shape == (2, 5, 3, 4)
        assert a.transpose(0, 2, 1, 3).flags.c_contiguous


def test_a_zero_stride_cotangent_and_input():
    x = np.broadcast_to(np.arange(4.0), (2, 3, 5, 4))
    for dy in (np.broadcast_to(np.float64(2), x.shape), np.broadcast_to(np.ones((3, 1, 1)), x.shape)):
        found, expected = (both(f, x, np.arange(5), dy) for f in (rotary.kernel, rotary.reference))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity(bad):
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 10))
    x[0, 1, 1, 2] = bad
    found, expected = (f(x, np.arange(3))[0] for f in (rotary.kernel, rotary.reference))
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert not np.isfinite(found).all()


def test_three_threads_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(kernels, "PIECE", 1)
    x, dy = np.random.default_rng(0).standard_normal((2, 3, 5, 7, 12)).astype(np.float32)
    monkeypatch.setattr(threads, "_threads", 1)
    one = both(rotary.kernel, x, np.arange(7), dy)
    monkeypatch.setattr(threads, "_threads", 3)
    for a, b in zip(one, both(rotary.kernel, x, np.arange(7), dy), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_declined_and_what_is_refused():
    x = np.ones((2, 3, 4, 6))
    assert rotary.kernel(x.astype(complex), np.arange(4)) is NotImplemented
    assert rotary.kernel(x.astype(np.float16), np.arange(4)) is NotImplemented
    with pytest.raises(ValueError, match=r"rotary: .* needs positions of shape \(T,\) or \(B, T\), not \(3,\)"):
        rotary.kernel(x, np.arange(3))


def test_inputs_stay_as_they_are_and_results_are_new():
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 6))
    before = x.copy(), dy.copy()
    leaf = tg.Tensor(x, requires_grad=True)
    with tg.use_backend("numba"):
        y = rotary(leaf, np.arange(4))
        y.backward(dy)
    assert not any(np.may_share_memory(a, b) for a in (y.data, leaf.grad) for b in (x, dy))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(dy, before[1])
