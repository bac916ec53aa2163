"""self_attention: its value by attention's, and messages. Gradients are checked in test_every_operation.py."""

import numpy as np
import pytest

import tinygrad_llm as tg
from tinygrad_llm.ops import attention, self_attention


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_is_attention_of_thirds_split_into_heads(heads):
    rng = np.random.default_rng(0)
    qkv, dy = rng.standard_normal((2, 5, 24)), rng.standard_normal((2, 5, 8))
    width = 8 // heads
    mask = rng.random((2, 1, 1, 5)) < 0.7
    y, vjp = self_attention.reference(qkv, heads, mask, causal=True, scale=0.4)
    dqkv = vjp(dy)
    for h in range(heads):
        own = [slice(third * 8 + h * width, third * 8 + (h + 1) * width) for third in range(3)]
        q, k, v = (qkv[:, None, :, part] for part in own)
        expected, gradients = attention.reference(q, k, v, mask, causal=True, scale=0.4)
        np.testing.assert_allclose(y[:, :, own[0]], expected[:, 0], rtol=1e-13)
        for part, gradient in zip(own, gradients(dy[:, None, :, own[0]]), strict=True):
            np.testing.assert_allclose(dqkv[:, :, part], gradient()[:, 0], rtol=1e-12, atol=1e-14)


def test_sees_everything_unless_told_otherwise():
    qkv = np.random.default_rng(0).standard_normal((1, 3, 6))
    changed = qkv.copy()
    changed[0, 2] += 1
    assert (self_attention(qkv, 2).data[0, 0] != self_attention(changed, 2).data[0, 0]).any()
    before, after = (self_attention(x, 2, causal=True).data for x in (qkv, changed))
    np.testing.assert_array_equal(before[0, :2], after[0, :2])


@pytest.mark.parametrize("shape", [(0, 3, 6), (2, 0, 6), (2, 3, 0)])
def test_an_axis_of_size_zero(shape):
    qkv = tg.Tensor(np.ones(shape), requires_grad=True)
    y = self_attention(qkv, 2, causal=True)
    assert y.shape == (*shape[:2], shape[2] // 3)
    y.backward(np.ones(y.shape))
    assert qkv.grad.shape == shape


@pytest.mark.parametrize(("shape", "heads"), [((3, 6), 1), ((2, 3, 7), 1), ((2, 3, 6), 4), ((2, 3, 6), 0), ((6,), 2)])
def test_what_does_not_fit(shape, heads):
    with pytest.raises(ValueError, match=rf"^self_attention: qkv .*, heads {heads}: expected qkv \(B, T, 3 C\)"):
        self_attention(np.ones(shape), heads)
