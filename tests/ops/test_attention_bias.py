"""biased_attention: values, edges and messages. Gradients are checked in test_every_operation.py."""

import itertools
import math

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import attention, biased_attention


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw(rng, heads=2, kv_heads=2, queries=3, keys=4, width=3, value_width=2):
    return (
        rng.standard_normal((2, heads, queries, width)),
        rng.standard_normal((2, kv_heads, keys, width)),
        rng.standard_normal((2, kv_heads, keys, value_width)),
    )


def by_loops(q, k, v, bias, allowed, scale):
    """The definition, number by number; bias and allowed are (B, H, T, S)."""
    (batch, heads, queries, _), keys, group = q.shape, k.shape[2], q.shape[1] // k.shape[1]
    y = np.zeros((batch, heads, queries, v.shape[3]))
    for b, h, t in itertools.product(range(batch), range(heads), range(queries)):
        seen = [s for s in range(keys) if allowed[b, h, t, s]]
        weights = [math.exp(scale * math.fsum(q[b, h, t] * k[b, h // group, s]) + bias[b, h, t, s]) for s in seen]
        for s, weight in zip(seen, weights, strict=True):
            y[b, h, t] += weight / math.fsum(weights) * v[b, h // group, s]
    return y


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1.0), (None, 1 / math.sqrt(3)), (0.4, 0.4), (0.0, 0.0)])
@pytest.mark.parametrize("shape", [(2, 4, 3, 4), (1, 4, 3, 4), (2, 1, 1, 4), (4, 3, 1), (3, 4), (4,), ()])
def test_the_bias_is_added_to_the_scaled_scores(rng, shape, scale, factor):
    q, k, v = draw(rng, heads=4)
    bias = rng.standard_normal(shape)
    full, allowed = np.broadcast_to(bias, (2, 4, 3, 4)), np.ones((2, 4, 3, 4), bool)
    y = biased_attention(q, k, v, bias, scale=scale).data
    np.testing.assert_allclose(y, by_loops(q, k, v, full, allowed, factor), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("queries", "keys"), [(3, 4), (1, 5), (4, 2)])
def test_masks_and_causality_hide_whatever_the_bias(rng, queries, keys):
    q, k, v = draw(rng, queries=queries, keys=keys)
    bias, mask = 5 * rng.standard_normal((1, 2, queries, keys)), rng.random((2, 1, 1, keys)) < 0.7
    last = keys - queries + np.arange(queries)[:, None]
    allowed = np.broadcast_to(mask & (np.arange(keys) <= last), (2, 2, queries, keys))
    y = biased_attention(q, k, v, bias, mask, causal=True, scale=1.0).data
    expected = by_loops(q, k, v, np.broadcast_to(bias, allowed.shape), allowed, 1.0)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
    added = biased_attention(q, k, v, bias, np.where(mask, 0.0, -np.inf), causal=True, scale=1.0).data
    np.testing.assert_allclose(added, y, rtol=1e-14)


def test_a_bias_that_needs_no_gradient_is_an_added_mask(rng):
    q, k, v = draw(rng)
    bias = rng.standard_normal((1, 2, 3, 4))
    y, expected = biased_attention(q, k, v, bias).data, attention(q, k, v, mask=bias).data
    np.testing.assert_allclose(y, expected, rtol=1e-14, atol=1e-15)


def test_a_query_that_sees_nothing_gives_the_bias_no_gradient(rng):
    q, k, v = draw(rng)
    mask = np.ones((2, 1, 3, 4), bool)
    mask[0, 0, 1] = False
    bias = tg.Tensor(rng.standard_normal((2, 2, 3, 4)), requires_grad=True)
    y = biased_attention(q, k, v, bias, mask)
    np.testing.assert_array_equal(y.data[0, :, 1], 0)
    y.backward(rng.standard_normal(y.shape))
    np.testing.assert_array_equal(bias.grad[0, :, 1], 0)
    assert (bias.grad[1] != 0).all()
    np.testing.assert_allclose(bias.grad.sum(-1), 0, atol=1e-14)  # a constant added to all scores of a row is nothing


def test_a_bias_is_shared_by_the_batch_and_receives_the_sum(rng):
    q, k, v = draw(rng)
    one, each = rng.standard_normal((1, 2, 3, 4)), tg.Tensor(np.empty((2, 2, 3, 4)), requires_grad=True)
    each.data[:] = one
    shared = tg.Tensor(one, requires_grad=True)
    dy = rng.standard_normal((2, 2, 3, 2))
    for bias in (shared, each):
        biased_attention(q, k, v, bias).backward(dy)
    assert shared.grad.shape == (1, 2, 3, 4)
    np.testing.assert_allclose(shared.grad, each.grad.sum(0, keepdims=True), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_biases_are_safe(rng, size):
    q, k, v = draw(rng)
    bias = np.zeros((1, 2, 3, 4))
    bias[..., 1] = size
    y = biased_attention(q, k, v, bias).data
    if size > 0:
        np.testing.assert_allclose(y, np.broadcast_to(v[:, :, 1:2], y.shape), rtol=1e-14)
    else:
        others = [0, 2, 3]
        np.testing.assert_allclose(y, attention(q, k[:, :, others], v[:, :, others]).data, rtol=1e-13)


@pytest.mark.parametrize("queries", [0, 2])
@pytest.mark.parametrize("keys", [0, 3])
def test_sizes_of_nothing(rng, queries, keys):
    q, k, v = draw(rng, queries=queries, keys=keys)
    bias = tg.Tensor(np.zeros((1, 2, queries, keys)), requires_grad=True)
    y = biased_attention(q, k, v, bias)
    assert y.shape == (2, 2, queries, 2)
    y.backward(np.ones(y.shape))
    assert bias.grad.shape == (1, 2, queries, keys)


def test_mistakes_are_named(rng):
    q, k, v = draw(rng)
    with pytest.raises(ValueError, match=r"bias of shape \(1, 2, 3, 3\) does not broadcast to \(B=2, H=2, T=3, S=4\)"):
        biased_attention(q, k, v, np.zeros((1, 2, 3, 3)))
    with pytest.raises(ValueError, match=r"a bias of shape \(1, 1, 1, 1, 4\) does not broadcast"):
        biased_attention(q, k, v, np.zeros((1, 1, 1, 1, 4)))
    with pytest.raises(TypeError, match="the bias is a floating-point array, not int64"):
        biased_attention(q, k, v, np.zeros((3, 4), np.int64))
    with pytest.raises(TypeError, match="the bias is a floating-point array, not NoneType"):
        biased_attention(q, k, v, None)
    with pytest.raises(ValueError, match="does not broadcast"):
        biased_attention(q, k, v, np.zeros((3, 4)), np.ones((5, 4), bool))


def test_gradients_may_be_asked_for_in_any_order_and_changed(rng):
    q, k, v = draw(rng)
    _, vjp = biased_attention.reference(q, k, v, rng.standard_normal((2, 2, 3, 4)))
    dy = rng.standard_normal((2, 2, 3, 2))
    expected = [gradient() for gradient in vjp(dy)]
    deferred = vjp(dy)
    deferred[3]()[...] = 0  # as the tape does when it adds to a gradient that it was given
    for gradient, wanted in zip(deferred, expected, strict=True):
        np.testing.assert_array_equal(gradient(), wanted)
