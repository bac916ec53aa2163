"""The kernels of attention and self-attention against their references."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tinygrad_llm as tg
from tinygrad_llm import threads
from tinygrad_llm.ops import attention, self_attention

pytest.importorskip("tinygrad_llm.kernels.compiled", reason="no kernels here", exc_type=ImportError)

from tinygrad_llm.kernels import scaled_attention as kernels

lengths = st.sampled_from([1, 2, 7, 8, 9, 31, 32, 33, 63, 64, 65, 70, 97, 130])
widths = st.sampled_from([1, 3, 8, 15, 16, 17, 32, 33, 40])
few = st.integers(1, 3)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([np.float32, np.float64])
masks = st.sampled_from([None, "padding", "nothing", "boolean", "rows", "added", "added64", "column"])
scales = st.sampled_from([None, 0.3, -1.0, 0.0])
windows = st.sampled_from([0, 1, 2, 5, 31, 33, 64, 65, 90, 200])


def laid_out(x, layout):
    """The same values (B, H, T, D) in another place of memory."""
    batch, heads, time, width = x.shape
    if layout == 1:  # heads of a projection: rows of the tokens, with others between them, at an odd place
        wide = np.full((batch, time, 3, heads, width), np.nan, x.dtype).transpose(2, 0, 3, 1, 4)
        wide[1] = x
        return wide[1]
    if layout == 2:
        return np.asfortranarray(x)
    if layout == 3:
        return x[:, ::-1, ::-1].copy()[:, ::-1, ::-1]
    if layout == 4:
        return np.repeat(x, 2, axis=3)[..., ::2]
    if layout == 5:
        return np.broadcast_to(x[:1, :, :1], x.shape)  # other values, one row for all
    return x


def a_mask(rng, kind, batch, heads, queries, keys, dtype):
    """Of each kind that broadcasts to (B, H, T, S)."""
    if kind == "padding":
        return np.arange(keys) < rng.integers(0, keys + 1, (batch, 1, 1, 1))
    if kind == "nothing":
        return np.zeros((1, 1, 1, 1), bool)
    if kind == "boolean":
        return rng.random((batch, heads, queries, keys)) < 0.5
    if kind == "rows":
        return rng.random((heads, queries, 1)) < 0.7
    if kind in ("added", "added64"):
        added = rng.standard_normal((queries, keys)).astype(dtype if kind == "added" else np.float64)
        added[rng.random(added.shape) < 0.2] = -np.inf
        return added
    if kind == "column":
        return np.asfortranarray(rng.random((queries, keys)) < 0.8)
    return None


def both(function, *inputs, dy, **options):
    """The value and the gradients, deferred ones called."""
    y, vjp = function(*inputs, **options)
    found = vjp(dy)
    return [y, *(g() if callable(g) else g for g in (found if isinstance(found, tuple) else (found,)))]


def compare(found, expected, terms, dtype, factor=1.0):
    """Equal up to rounding: of exponentials and of sums of so many terms, relative to the largest entry or factor."""
    rounding = 32 * np.sqrt(terms) * np.finfo(dtype).eps
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        magnitude = max(factor, float(np.abs(b[np.isfinite(b)]).max(initial=0.0)))
        np.testing.assert_allclose(a, b, rtol=0, atol=rounding * magnitude)


def double(*arrays):
    return [a.astype(np.float64) for a in arrays]


def agree(batch, kv_heads, group, queries, keys, width, value_width, kind, causal, window, scale, dtype, cut, seed):
    """Kernel and reference have the same y and gradients, and y is 0 where there is nothing to see."""
    rng = np.random.default_rng(seed)
    heads = kv_heads * group
    shapes = (batch, heads, queries, width), (batch, kv_heads, keys, width), (batch, kv_heads, keys, value_width)
    q, k, v, dy = (
        laid_out(rng.standard_normal(shape).astype(dtype), rng.integers(6))
        for shape in (*shapes, (batch, heads, queries, value_width))
    )
    mask = a_mask(rng, kind, batch, heads, queries, keys, dtype)
    before = [a.copy() for a in (q, k, v, dy)]
    with mock.patch.object(kernels, "LEAST_QUERIES", 32 if cut else 256):
        found = both(attention.kernel, q, k, v, mask, causal, scale, window, dy=dy)
    expected = both(attention.reference, *double(q, k, v), mask, causal, scale, window, dy=dy.astype(np.float64))
    compare(found, expected, max(keys, width, value_width, queries * group), dtype)
    for a, b in zip((q, k, v, dy), before, strict=True):
        np.testing.assert_array_equal(a, b)
    if kind in ("nothing", "padding", "boolean") or (causal and queries > keys):
        blind = (
            np.ones((batch, heads, queries, keys), bool)
            if mask is None or mask.dtype != bool
            else np.broadcast_to(mask, (batch, heads, queries, keys))
        )
        seen = blind & ~(causal & ~np.tri(queries, keys, keys - queries, dtype=bool))
        if window:
            seen &= ~np.tri(queries, keys, keys - queries - window, dtype=bool)
        nothing = ~seen.any(-1)
        assert not found[0][nothing].any()
        assert not found[1][nothing].any()


@given(few, few, few, lengths, lengths, widths, widths, masks, st.booleans(), scales, dtypes, st.booleans(), seeds)
@example(2, 2, 2, 70, 97, 33, 40, None, True, None, np.float32, True, 0)
@example(1, 1, 2, 130, 65, 16, 8, None, True, None, np.float64, True, 0)
@example(2, 1, 1, 65, 130, 17, 32, "padding", True, 0.3, np.float64, False, 1)
@example(1, 2, 1, 33, 64, 8, 33, "added", False, None, np.float32, True, 2)
@example(2, 2, 1, 40, 70, 8, 8, "boolean", True, None, np.float64, True, 3)
@example(1, 3, 1, 9, 8, 3, 3, "nothing", True, None, np.float64, False, 4)
def test_equals_the_reference(
    batch, kv_heads, group, queries, keys, width, value_width, kind, causal, scale, dtype, cut, seed
):
    agree(batch, kv_heads, group, queries, keys, width, value_width, kind, causal, 0, scale, dtype, cut, seed)


@given(few, few, few, lengths, lengths, widths, masks, windows, dtypes, st.booleans(), seeds)
@example(1, 1, 1, 130, 130, 8, None, 1, np.float32, True, 0)
@example(1, 2, 2, 130, 130, 17, None, 2, np.float64, True, 1)
@example(2, 1, 2, 97, 130, 8, None, 33, np.float32, False, 2)
@example(1, 1, 1, 130, 70, 16, None, 31, np.float64, True, 3)
@example(1, 2, 1, 70, 97, 8, "padding", 5, np.float64, False, 4)
@example(1, 1, 2, 97, 97, 8, "added", 31, np.float32, True, 5)
@example(2, 1, 1, 65, 130, 3, "boolean", 65, np.float64, False, 6)
@example(1, 1, 1, 64, 64, 8, None, 200, np.float64, False, 7)
@example(1, 1, 1, 1, 130, 8, None, 2, np.float32, False, 8)
def test_equals_the_reference_with_a_window(
    batch, kv_heads, group, queries, keys, width, kind, window, dtype, cut, seed
):
    agree(batch, kv_heads, group, queries, keys, width, width, kind, True, window, None, dtype, cut, seed)


@given(few, st.sampled_from([1, 9, 33, 70]), few, st.sampled_from([1, 8, 17, 32]), masks, st.booleans(), dtypes, seeds)
@example(2, 70, 2, 32, None, True, np.float32, 0)
def test_self_attention_equals_its_reference(batch, time, heads, width, kind, causal, dtype, seed):
    rng = np.random.default_rng(seed)
    qkv = rng.standard_normal((batch, time, 3 * heads * width)).astype(dtype)
    dy = rng.standard_normal((batch, time, heads * width)).astype(dtype)
    if rng.random() < 0.5:
        qkv, dy = np.asfortranarray(qkv), np.broadcast_to(dy[:1], dy.shape)
    mask = a_mask(rng, kind, batch, heads, time, time, dtype)
    found = both(self_attention.kernel, qkv, heads, mask, causal, dy=dy)
    expected = both(self_attention.reference, qkv.astype(np.float64), heads, mask, causal, dy=dy.astype(np.float64))
    compare(found, expected, max(time, width), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_ten_thousand(dtype):
    rng = np.random.default_rng(0)
    q, k = 100 * np.sign(rng.standard_normal((2, 1, 2, 40, 1))).astype(dtype)
    v, dy = rng.standard_normal((2, 1, 2, 40, 3)).astype(dtype)
    found = both(attention.kernel, q, k, v, causal=True, dy=dy)
    expected = both(attention.reference, *double(q, k, v), causal=True, dy=dy.astype(np.float64))
    compare(found, expected, 40, dtype, factor=100)  # gradients of q and k are sums of terms with a factor of 100


@given(st.sampled_from(["q", "k", "v", "dy"]), st.sampled_from([np.nan, np.inf, -np.inf]), dtypes, seeds)
def test_nan_and_infinity_spread_as_in_the_reference(where, value, dtype, seed):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal((1, 2, 35, 8)).astype(dtype) for name in ("q", "k", "v", "dy")}
    arrays[where][0, 1, rng.integers(35), 3] = value
    dy = arrays.pop("dy")
    with np.errstate(invalid="ignore"):
        found = both(attention.kernel, *arrays.values(), dy=dy)
        expected = both(attention.reference, *arrays.values(), dy=dy)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # which are infinite, and that the others are near


places = st.integers(0, 69)


@given(st.sampled_from(["q", "k", "v"]), st.sampled_from([np.nan, np.inf, -np.inf]), places, windows, seeds)
def test_nan_and_infinity_of_visible_tokens_are_not_lost(where, value, place, window, seed):
    rng = np.random.default_rng(seed)
    arrays = {name: rng.standard_normal((1, 1, 70, 8)) for name in ("q", "k", "v")}
    arrays[where][0, 0, place, 3] = value
    q, k, v = arrays.values()
    with np.errstate(invalid="ignore"):
        y = attention.kernel(q, k, v, causal=True, window=window)[0]
        whole = attention.reference(q, k, v, causal=True, window=window)[0]
        for t in range(70):
            seen = slice(max(0, t + 1 - (window or 70)), t + 1)
            alone = attention.reference(q[:, :, t : t + 1], k[:, :, seen], v[:, :, seen])[0]
            assert np.isnan(y[:, :, t : t + 1])[np.isnan(alone)].all()
    spared = np.isfinite(whole)
    np.testing.assert_allclose(y[spared], whole[spared], rtol=1e-12, atol=1e-13)


def test_keys_before_the_window_are_not_read():
    q, k, v, dy = np.random.default_rng(0).standard_normal((4, 1, 1, 300, 8))
    k[:, :, :160], v[:, :, :160] = np.nan, np.nan
    found = both(attention.kernel, q, k, v, causal=True, window=30, dy=dy)
    last = [a[:, :, 224:] for a in (q, k, v, dy)]  # whose keys lie in other blocks, all of them
    expected = both(attention.reference, last[0], *(a[:, :, 195:] for a in (k, v)), None, True, None, 30, dy=last[3])
    np.testing.assert_allclose(found[0][:, :, 224:], expected[0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(found[1][:, :, 224:], expected[1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("window", [0, 20])
@pytest.mark.parametrize("least", [32, 256])
def test_three_threads_give_the_same_bits(monkeypatch, least, window):
    monkeypatch.setattr(kernels, "LEAST_WORK", 1)
    monkeypatch.setattr(kernels, "LEAST_QUERIES", least)
    q, k, v, dy = np.random.default_rng(0).standard_normal((4, 2, 3, 70, 17)).astype(np.float32)
    monkeypatch.setattr(threads, "_threads", 1)
    one = both(attention.kernel, q, k, v, causal=True, window=window, dy=dy)
    monkeypatch.setattr(threads, "_threads", 3)
    for a, b in zip(one, both(attention.kernel, q, k, v, causal=True, window=window, dy=dy), strict=True):
        np.testing.assert_array_equal(a, b)


def test_work_is_cut_when_heads_are_few():
    def parts(batch, kv_heads, queries):
        q = np.ones((batch, 2 * kv_heads, queries, 4), np.float32)
        return kernels.Heads(q, q[:, :kv_heads], q[:, :kv_heads], None, True, None).parts

    assert [parts(1, 1, 255), parts(1, 1, 600), parts(1, 1, 5000), parts(2, 2, 5000), parts(3, 3, 5000)] == [
        1,
        2,
        8,
        2,
        1,
    ]


def test_heads_are_joined_without_a_copy():
    q = np.ones((2, 3, 5, 4), np.float32)
    y, vjp = attention.kernel(q, q, q)
    for array in (y, *vjp(y)):
        assert np.may_share_memory(array.transpose(0, 2, 1, 3).reshape(2, 5, 12), array)


def test_nothing_as_large_as_the_scores_is_kept():
    q = np.ones((1, 1, 600, 4), np.float32)
    for mask in (None, np.ones((1, 1, 1, 600), bool)):
        call = kernels.Heads(q, q, q, mask, False, None)
        kept = [a if a.base is None else a.base for a in vars(call).values() if isinstance(a, np.ndarray) and a.ndim]
        assert max(a.size for a in kept) <= q.size


def test_what_is_declined_and_what_is_refused():
    x = np.ones((2, 2, 3, 6))
    assert attention.kernel(x.astype(complex), x, x) is NotImplemented
    assert attention.kernel(*[x.astype(np.float16)] * 3) is NotImplemented
    assert attention.kernel(x.astype(np.float32), x, x) is NotImplemented
    assert attention.kernel(x[:, :, :0], x, x) is NotImplemented
    assert attention.kernel(x, x[:, :, :0], x[:, :, :0]) is NotImplemented
    with pytest.raises(ValueError, match=r"attention: q \(.*\), k \(.*\), v \(.*\): expected .* H a multiple of Hkv"):
        attention.kernel(x, x[:, :, :, :5], x)
    with pytest.raises(ValueError, match=r"attention: a mask .* does not broadcast to \(B=2, H=2, T=3, S=3\)"):
        attention.kernel(x, x, x, np.ones((2, 3), bool))
    with pytest.raises(TypeError, match=r"attention: a mask is boolean .* or floating .*, not int64"):
        attention.kernel(x, x, x, np.ones((3, 3), np.int64))
    for window in (-1, 2.0):
        with pytest.raises(ValueError, match=r"attention: window=.*: expected a whole number"):
            attention.kernel(x, x, x, causal=True, window=window)
    with pytest.raises(ValueError, match="causal attention with it"):
        attention.kernel(x, x, x, window=2)
    assert self_attention.kernel(np.ones((2, 3, 6), complex), 2) is NotImplemented
    assert self_attention.kernel(np.ones((2, 0, 6)), 2) is NotImplemented
    with pytest.raises(ValueError, match=r"self_attention: qkv \(2, 3, 6\), heads 4: expected"):
        self_attention.kernel(np.ones((2, 3, 6)), 4)


def test_gradients_share_no_memory():
    qkv, dy = np.random.default_rng(0).standard_normal((2, 2, 4, 12))
    leaf = tg.Tensor(qkv, requires_grad=True)
    with tg.use_backend("numba"):
        y = self_attention(leaf, 2, causal=True)
        y.backward(np.ascontiguousarray(dy[..., :4]))
    assert not any(np.may_share_memory(a, b) for a in (y.data, leaf.grad) for b in (qkv, dy))
