"""attention: values, edges and messages. Gradients are checked in test_every_operation.py."""

import itertools
import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import attention
from tinygrad_llm.ops.scaled_attention import unseen


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def leaf(array):
    return tg.Tensor(array, requires_grad=True)


def draw(rng, batch=2, heads=2, kv_heads=None, queries=3, keys=3, width=4, value_width=None):
    kv_heads = kv_heads or heads
    return (
        rng.standard_normal((batch, heads, queries, width)),
        rng.standard_normal((batch, kv_heads, keys, width)),
        rng.standard_normal((batch, kv_heads, keys, value_width or width)),
    )


def by_loops(q, k, v, allowed, added=None, scale=None):
    """The definition, number by number; `allowed` and `added` are (B, H, T, S)."""
    (batch, heads, queries, width), keys, group = q.shape, k.shape[2], q.shape[1] // k.shape[1]
    scale = 1 / math.sqrt(width) if scale is None else scale
    y = np.zeros((batch, heads, queries, v.shape[3]))
    for b, h, t in itertools.product(range(batch), range(heads), range(queries)):
        weights = {}
        for s in range(keys):
            if allowed[b, h, t, s]:
                score = scale * math.fsum(q[b, h, t] * k[b, h // group, s])
                weights[s] = math.exp(score + (0 if added is None else added[b, h, t, s]))
        for s, weight in weights.items():
            y[b, h, t] += weight / math.fsum(weights.values()) * v[b, h // group, s]
    return y


def everything(q, k):
    return np.ones((*q.shape[:3], k.shape[2]), bool)


@pytest.mark.parametrize("scale", [None, 0.3, 0.0])
def test_is_a_weighted_mean_of_the_values(rng, scale):
    q, k, v = draw(rng, keys=5, value_width=2)
    expected = by_loops(q, k, v, everything(q, k), scale=scale)
    np.testing.assert_allclose(attention(q, k, v, scale=scale).data, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("queries", "keys"), [(3, 3), (1, 4), (2, 5), (4, 2), (3, 1), (1, 1)])
def test_causal_queries_end_with_the_keys(rng, queries, keys):
    q, k, v = draw(rng, queries=queries, keys=keys)
    allowed = everything(q, k)
    for t, s in itertools.product(range(queries), range(keys)):
        allowed[:, :, t, s] = s <= keys - queries + t
    y = attention(q, k, v, causal=True).data
    np.testing.assert_allclose(y, by_loops(q, k, v, allowed), rtol=1e-13, atol=1e-14)
    np.testing.assert_array_equal(y[:, :, : max(queries - keys, 0)], 0)


def test_decoding_one_token_at_a_time_is_the_same(rng):
    q, k, v = draw(rng, queries=5, keys=5)
    whole = attention(q, k, v, causal=True).data
    for t in range(5):
        step = attention(q[:, :, t : t + 1], k[:, :, : t + 1], v[:, :, : t + 1], causal=True).data
        np.testing.assert_allclose(step, whole[:, :, t : t + 1], rtol=1e-13, atol=1e-14)


def test_the_causal_mask_is_shared_so_nobody_may_write_to_it():
    hidden = unseen(2, 3, 0)
    assert hidden is unseen(2, 3, 0)
    np.testing.assert_array_equal(hidden, [[False, False, True], [False, False, False]])
    with pytest.raises(ValueError, match="read-only"):
        hidden[0, 2] = False


def test_what_is_hidden_does_not_matter_even_if_it_is_not_finite(rng):
    q, k, v = draw(rng, queries=3, keys=3)
    k[:, :, 2] = np.nan
    seen = attention(q, k, v, causal=True).data[:, :, :2]
    np.testing.assert_array_equal(seen, attention(q[:, :, :2], k[:, :, :2], v[:, :, :2], causal=True).data)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask_shape", [(2, 4, 3, 5), (2, 1, 3, 5), (2, 1, 1, 5), (1, 4, 3, 1), (3, 5), (5,), ()])
def test_boolean_and_added_masks_broadcast(rng, mask_shape, causal):
    q, k, v = draw(rng, heads=4, kv_heads=2, keys=5)
    allowed = everything(q, k)
    if causal:
        allowed &= np.arange(5) <= 2 + np.arange(3)[:, None]
    mask = rng.random(mask_shape) < 0.6
    y = attention(q, k, v, mask, causal=causal).data
    np.testing.assert_allclose(y, by_loops(q, k, v, allowed & mask), rtol=1e-13, atol=1e-14)
    added = rng.standard_normal(mask_shape)
    y = attention(q, k, v, added, causal=causal).data
    np.testing.assert_allclose(
        y, by_loops(q, k, v, allowed, np.broadcast_to(added, allowed.shape)), rtol=1e-13, atol=1e-14
    )
    hiding = np.where(mask, 0.0, -np.inf)
    np.testing.assert_allclose(
        attention(q, k, v, hiding, causal=causal).data, attention(q, k, v, mask, causal=causal).data, rtol=1e-14
    )


@pytest.mark.parametrize(("heads", "kv_heads"), [(6, 2), (4, 1), (4, 4)])
def test_grouped_heads_are_repeated_keys_and_values(rng, heads, kv_heads):
    q, k, v = map(leaf, draw(rng, heads=heads, kv_heads=kv_heads, queries=2))
    y = attention(q, k, v, causal=True)
    group = heads // kv_heads
    repeated = [leaf(np.repeat(x.data, group, axis=1)) for x in (k, v)]
    q2 = leaf(q.data)
    y2 = attention(q2, *repeated, causal=True)
    np.testing.assert_allclose(y.data, y2.data, rtol=1e-14, atol=1e-15)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    y2.backward(dy)
    np.testing.assert_allclose(q.grad, q2.grad, rtol=1e-13, atol=1e-14)
    for x, x2 in zip((k, v), repeated, strict=True):
        np.testing.assert_allclose(x.grad, x2.grad.reshape(2, kv_heads, group, 3, 4).sum(2), rtol=1e-13, atol=1e-14)


def hidden_masks():
    boolean = np.ones((2, 1, 3, 3), bool)
    boolean[0, :, 1] = False
    return {"boolean": boolean, "added": np.where(boolean, 0.0, -np.inf)}


@pytest.mark.parametrize("kind", ["boolean", "added"])
def test_a_query_that_sees_nothing_gets_and_gives_nothing(rng, kind):
    q, k, v = map(leaf, draw(rng))
    y = attention(q, k, v, hidden_masks()[kind])
    np.testing.assert_array_equal(y.data[0, :, 1], 0)
    assert (y.data[1] != 0).all()
    dy = np.zeros(y.shape)
    dy[0, :, 1] = rng.standard_normal((2, 4))  # only to the query that sees nothing
    y.backward(dy)
    for x in (q, k, v):
        np.testing.assert_array_equal(x.grad, 0)


def test_masked_keys_get_exactly_nothing(rng):
    q, k, v = map(leaf, draw(rng, keys=4))
    y = attention(q, k, v, np.array([True, True, False, True]))
    y.backward(rng.standard_normal(y.shape))
    for x in (k, v):
        np.testing.assert_array_equal(x.grad[:, :, 2], 0)
        assert (x.grad[:, :, [0, 1, 3]] != 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_ten_thousand(rng, dtype):
    q = np.full((1, 1, 2, 1), 100.0, dtype)
    k = np.array([100.0, -100.0, 100.0], dtype).reshape(1, 1, 3, 1)  # scores 1e4, -1e4, 1e4
    v = np.array([1.0, 2.0, 5.0], dtype).reshape(1, 1, 3, 1)
    q, k, v = map(leaf, (q, k, v))
    y = attention(q, k, v)
    np.testing.assert_allclose(y.data, np.full((1, 1, 2, 1), 3.0), rtol=1e-6)
    y.backward(np.ones(y.shape, dtype))
    np.testing.assert_allclose(v.grad.ravel(), [1.0, 0.0, 1.0])
    # ds = p (v - y) = 1/2 (-2, ., 2); dk = sum over both queries of ds q
    np.testing.assert_allclose(k.grad.ravel(), [-200.0, 0.0, 200.0], rtol=1e-5)
    np.testing.assert_allclose(q.grad, 0, atol=1e-4)


def test_hidden_scores_do_not_set_the_maximum():
    # exp(-1e4 - 1e4) underflows: had the maximum been taken before masking, nothing would be left of the row
    q, k = np.full((1, 1, 1, 1), 100.0), np.array([100.0, -100.0]).reshape(1, 1, 2, 1)
    y = attention(q, k, np.array([7.0, 3.0]).reshape(1, 1, 2, 1), np.array([False, True])).data
    np.testing.assert_array_equal(y, [[[[3.0]]]])


def test_one_key_is_copied(rng):
    q, k, v = map(leaf, draw(rng, queries=1, keys=1))
    y = attention(q, k, v, causal=True)
    np.testing.assert_array_equal(y.data, v.data)
    dy = rng.standard_normal(y.shape)
    y.backward(dy)
    np.testing.assert_array_equal(v.grad, dy)
    np.testing.assert_allclose(q.grad, 0, atol=1e-15)
    np.testing.assert_allclose(k.grad, 0, atol=1e-15)


@pytest.mark.parametrize(
    "empty", [{"batch": 0}, {"queries": 0}, {"keys": 0}, {"width": 0, "value_width": 2}, {"heads": 0}]
)
@pytest.mark.parametrize("causal", [False, True])
def test_an_axis_of_size_zero(rng, empty, causal):
    q, k, v = map(leaf, draw(rng, **{"kv_heads": 2, **empty}))
    y = attention(q, k, v, causal=causal)
    assert y.shape == (*q.shape[:3], v.shape[3])
    if "keys" in empty:
        np.testing.assert_array_equal(y.data, 0)
    y.backward(np.ones(y.shape))
    for x in (q, k, v):
        assert x.grad.shape == x.shape
        assert np.isfinite(x.grad).all()


def test_views_of_one_array_are_as_good_as_copies(rng):
    # what a model does: one projection gives (B, T, 3 H D), whose heads are strided views
    packed = rng.standard_normal((2, 5, 3, 4, 6))
    q, k, v = (packed[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
    np.testing.assert_allclose(
        attention(q, k, v, causal=True).data, attention(q.copy(), k.copy(), v.copy(), causal=True).data, rtol=1e-13
    )
    k, v = k[:, :2], v[:, :2]
    np.testing.assert_allclose(attention(q, k, v).data, by_loops(q, k, v, everything(q, k)), rtol=1e-12, atol=1e-13)


def test_the_vjp_can_be_called_again(rng):
    q, k, v = draw(rng)
    y, vjp = attention.reference(q, k, v, causal=True)
    dy = rng.standard_normal(y.shape)
    first, second = ([g() for g in vjp(dy)] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_mask_may_be_a_tensor_by_name(rng):
    q, k, v = draw(rng)
    mask = rng.random((3, 3)) < 0.5
    np.testing.assert_array_equal(attention(q, k, v, mask=tg.Tensor(mask)).data, attention(q, k, v, mask).data)


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((2, 4, 3, 8), (2, 3, 3, 8), (2, 3, 3, 8)),  # 4 heads over 3
        ((2, 4, 3, 8), (2, 4, 3, 6), (2, 4, 3, 6)),  # widths
        ((2, 4, 3, 8), (1, 4, 3, 8), (1, 4, 3, 8)),  # batches
        ((2, 4, 3, 8), (2, 4, 5, 8), (2, 4, 3, 8)),  # keys without values
        ((1, 4, 3, 8), (2, 4, 3, 8), (2, 4, 3, 8)),  # and the other way round
        ((2, 4, 3, 6), (2, 4, 3, 8), (2, 4, 3, 8)),
        ((2, 4, 3, 8), (2, 4, 3, 8), (2, 4, 5, 8)),
        ((4, 3, 8), (4, 3, 8), (4, 3, 8)),
        ((4, 3, 8), (1, 4, 3, 8), (1, 4, 3, 8)),  # axes: too few of one, too many of another
        ((1, 4, 3, 8), (4, 3, 8), (1, 4, 3, 8)),
        ((1, 4, 3, 8), (1, 4, 3, 8), (4, 3, 8)),
        ((1, 4, 3, 8, 1), (1, 4, 3, 8), (1, 4, 3, 8)),
        ((1, 4, 3, 8), (1, 4, 3, 8, 1), (1, 4, 3, 8)),
        ((1, 4, 3, 8), (1, 4, 3, 8, 1), (1, 4, 3, 8, 1)),
        ((1, 4, 3, 8), (1, 4, 3, 8), (1, 4, 3, 8, 1)),
        ((1, 3, 8), (1, 4, 3, 8), (1, 4, 3, 8)),
        ((1, 4, 3), (1, 4, 3), (1, 4, 3, 8)),
        ((1, 4, 3, 8, 1), (1, 4, 3, 8, 1), (1, 4, 3, 8)),
        ((1, 4, 3, 8, 1), (1, 4, 3, 8, 1), (1, 4, 3, 8, 1)),
        ((2, 4, 3, 8), (2, 0, 3, 8), (2, 0, 3, 8)),
    ],
)
def test_names_shapes_that_do_not_fit(q, k, v):
    with pytest.raises(ValueError, match=r"attention: q \(.*\), k \(.*\), v \(.*\): expected .* H a multiple of Hkv"):
        attention(np.ones(q), np.ones(k), np.ones(v))


@pytest.mark.parametrize("shape", [(2, 3), (3, 2, 3, 3), (1, 2, 2, 3, 3)])
def test_names_a_mask_that_does_not_fit(rng, shape):
    for mask in (np.ones(shape, bool), np.ones(shape)):
        with pytest.raises(ValueError, match=r"attention: a mask .* does not broadcast to \(B=2, H=2, T=3, S=3\)"):
            attention(*draw(rng), mask)


def test_refuses_a_mask_of_zeros_and_ones(rng):
    with pytest.raises(TypeError, match=r"attention: a mask is boolean .* or floating .*, not int64"):
        attention(*draw(rng), np.ones((3, 3), np.int64))
