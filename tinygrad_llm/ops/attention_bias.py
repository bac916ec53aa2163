"""Attention with a bias of the scores that is learned: relative positions."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.samples import normal
from tinygrad_llm.ops.scaled_attention import (
    attention,
    check_mask,
    check_shapes,
    hide,
    qkv,
    score_gradient_forms,
    softmax_jacobian,
    softmax_rows,
    written_out,
)


@op
def biased_attention(q, k, v, bias, mask=None, causal=False, scale=None):
    """``y = softmax(scale q k^T + bias) v``: `attention` whose scores have a bias that is differentiated.

    q (B, H, T, D), k (B, Hkv, S, D), v (B, Hkv, S, any width) and the options are those of `attention`; the bias
    broadcasts to (B, H, T, S), and is mostly (1, H, T, S), one for all sequences of the batch. In each head::

        scores_ts = scale q_t . k_s + bias_ts     p_ts = exp(scores_ts) / sum_r exp(scores_tr)     y_t = sum_s p_ts v_s

    T5 makes the bias of t and s from their distance ``s - t``, and takes ``scale = 1``.

    Saves what `attention` does; of the bias nothing, as the probabilities p tell all. The scores are a sum, so the bias
    receives their gradient as it is, and q and k receive what they do without a bias::

        dp = dy v^T     ds = p (dp - rowsum(dy y))     dbias = ds     dq = scale ds k     dk = scale ds^T q
        dv = p^T dy

    summed over what the bias is broadcast along, such as the batch. Where a query may not attend, ``p = 0``, and so is
    the gradient of the bias. Numerics: those of `attention`. Cost: one pass over (B, H, T, S) more forward, one
    backward and the sum. Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1.
    """
    check_shapes(q, k, v)
    shape = batch, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    check_bias(bias, (batch, heads, queries, keys))
    if scale is None:
        scale = 1 / math.sqrt(max(width, 1))

    def grouped(a):
        """(B, H, T, X) as (B, Hkv, G T, X), as in `attention`."""
        return a.reshape(batch, kv_heads, heads // kv_heads * queries, a.shape[-1])

    qs = grouped(q if scale == 1 else q * scale)
    scores = (qs @ k.swapaxes(-1, -2)).reshape(batch, heads, queries, keys) + bias
    hide(scores, mask, causal)
    p = grouped(softmax_rows(scores))
    y = p @ v

    def vjp(dy):
        dy = grouped(dy)
        ds = dy @ v.swapaxes(-1, -2)  # so far this is dp
        ds -= np.vecdot(dy, y)[..., None]
        ds *= p

        def dq():
            return (ds @ k).reshape(shape) * scale

        def dk():
            return ds.swapaxes(-1, -2) @ qs

        def dv():
            return p.swapaxes(-1, -2) @ dy

        def dbias():
            return ds.reshape(batch, heads, queries, keys).copy()  # dq and dk may still need ds

        return dq, dk, dv, dbias

    return y.reshape(batch, heads, queries, v.shape[-1]), vjp


def check_bias(bias, wanted):
    """TypeError or ValueError unless the bias can be added to scores of shape `wanted`."""
    if not isinstance(bias, np.ndarray) or bias.dtype.kind not in "fc":
        kind = getattr(bias, "dtype", type(bias).__name__)
        raise TypeError(f"biased_attention: the bias is a floating-point array, not {kind}")
    if bias.ndim > 4 or any(n not in (1, m) for n, m in zip(bias.shape[::-1], wanted[::-1], strict=False)):
        raise ValueError(
            f"biased_attention: a bias of shape {bias.shape} does not broadcast to {named_shape(wanted, 'BHTS')}"
        )


# ---------------------------------------------------------------------------------------------------------------------
# The derivations. Their subscripts are those of `attention`: b, h, t and u queries, s and r keys, e channels.


def added(bias, mask, q, k):
    """What is added to the scores: the bias, and -inf where the boolean mask forbids."""
    if mask is None:
        return bias
    mask = check_mask(mask, (*q.shape[:3], k.shape[2]))
    return np.where(mask, bias, -np.inf) if mask.dtype == bool else bias + mask


@biased_attention.derivation("q")
def _(q, k, v, bias, dy, mask=None, causal=False, scale=None):
    yield from attention.derivations["q"](q, k, v, dy, added(bias, mask, q, k), causal, scale)


@biased_attention.derivation("k")
def _(q, k, v, bias, dy, mask=None, causal=False, scale=None):
    yield from attention.derivations["k"](q, k, v, dy, added(bias, mask, q, k), causal, scale)


@biased_attention.derivation("v")
def _(q, k, v, bias, dy, mask=None, causal=False, scale=None):
    yield from attention.derivations["v"](q, k, v, dy, added(bias, mask, q, k), causal, scale)


@biased_attention.derivation("bias")
def _(q, k, v, bias, dy, mask=None, causal=False, scale=None):
    _, v, p, _ = written_out(q, k, v, added(bias, mask, q, k), causal, scale)
    by_score = np.einsum("bhtsr,bhse->bhter", softmax_jacobian(p), v)  # ∂y_te/∂scores_tr
    jacobian = np.einsum("bhter,tu->bhteur", by_score, np.eye(q.shape[2]))
    yield (
        "`dbias_ur = sum_te dy_te ∂y_te/∂bias_ur`; chain rule from `y_te = sum_s p_ts v_se` over the softmax, "
        "`∂p_ts/∂scores_tr = p_ts (delta_sr - p_tr)`, to `scores_tr = scale q_t . k_r + bias_tr`, which has `bias_ur` "
        "in row `t = u` only, and there with the factor 1; summed at last over what the bias is broadcast along",
        np.einsum("bhte,bhteur->bhur", dy, jacobian),
    )
    for why, ds in score_gradient_forms(dy, p, v):
        yield why + "; and `dbias = ds`, as the scores are a sum", ds


@biased_attention.sample
def _(rng, shape=(2, 2, 3, 2)):
    return (*qkv(rng, shape, keys=3), normal(rng, (1, shape[1], shape[2], 3))), {"scale": 1.0}


@biased_attention.sample
def _(rng, shape=(1, 2, 2, 2)):  # causal, behind two keys of a cache
    keys = shape[2] + 2
    return (*qkv(rng, shape, keys), normal(rng, (1, shape[1], shape[2], keys))), {"causal": True}


@biased_attention.sample
def _(rng, shape=(2, 2, 3, 2)):  # key padding, and a bias of each sequence
    mask = np.arange(4) < rng.integers(0, 5, (shape[0], 1, 1, 1))
    return (*qkv(rng, shape, keys=4), normal(rng, (*shape[:3], 4)), mask), {}


@biased_attention.sample
def _(rng, shape=(1, 4, 2, 2)):  # grouped heads, values wider than keys, a bias without the axis of the batch
    q, k, _ = qkv(rng, shape, keys=3, kv_heads=2)
    return (q, k, normal(rng, (shape[0], 2, 3, 3)), normal(rng, (shape[1], 1, 3))), {"scale": 0.7, "causal": True}


@biased_attention.sample
def _(rng, shape=(1, 2, 2, 2)):  # a mask to be added, which receives no gradient
    mask = normal(rng, (shape[2], 3))
    mask[-1, -1] = -np.inf
    return (*qkv(rng, shape, keys=3), normal(rng, (1, shape[1], shape[2], 3)), mask), {"scale": 1.0}
