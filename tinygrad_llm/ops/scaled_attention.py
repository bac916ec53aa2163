"""Scaled dot-product attention."""

from __future__ import annotations

import functools
import math

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.samples import normal


@functools.lru_cache(maxsize=16)
def causal_bias(queries, keys, dtype):
    """(T, S): 0 where query t may see key s, ``s <= S - T + t``, else -inf. Built once per size, and read-only."""
    bias = np.where(np.tri(queries, keys, keys - queries, dtype=bool), 0.0, -np.inf).astype(dtype)
    bias.flags.writeable = False
    return bias


def hide(scores, mask, causal):
    """Write -inf over the scores (..., T, S) that `mask` or causality forbids, or add a floating-point mask; in place."""
    if causal:
        scores += causal_bias(*scores.shape[-2:], scores.real.dtype)
    if mask is None:
        return
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bf":
        raise TypeError(
            f"attention: a mask is boolean (True: may attend) or floating (added to the scores), not {mask.dtype}"
        )
    try:
        mask = np.broadcast_to(mask, scores.shape)
    except ValueError:
        wanted = named_shape(scores.shape, "BHTS")
        raise ValueError(f"attention: a mask of shape {mask.shape} does not broadcast to {wanted}") from None
    if mask.dtype == bool:
        np.copyto(scores, -np.inf, where=~mask)
    else:
        scores += mask


def softmax_rows(scores):
    """Softmax over the last axis, in place. A row with nothing but -inf (or nothing at all) becomes zeros.

    Subtracting the row's maximum changes nothing, as exp(m) cancels, and leaves no exponent above 0. For a row of -inf
    there is no maximum to subtract: with 0 instead every exp is 0, and so is the sum, which is then not divided by.
    """
    top = scores.real.max(-1, keepdims=True, initial=-np.inf)
    top[top == -np.inf] = 0
    scores -= top
    np.exp(scores, out=scores)
    total = scores @ np.ones((scores.shape[-1], 1), scores.dtype)  # the sum of each row; BLAS adds fastest
    total[total == 0] = 1
    scores /= total
    return scores


@op
def attention(q, k, v, mask=None, causal=False, scale=None):
    """``z = softmax(scale q k^T + mask) v``"""
    check_shapes(q, k, v)
    batch, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    if scale is None:
        scale = 1 / math.sqrt(max(width, 1))

    def grouped(a):
        """(B, H, T, X) as (B, Hkv, G T, X): the queries of the G heads that share a key head, one below the other."""
        return a.reshape(batch, kv_heads, heads // kv_heads * queries, a.shape[-1])

    qs = grouped(q * scale)
    scores = (qs @ k.swapaxes(-1, -2)).reshape(batch, heads, queries, keys)
    hide(scores, mask, causal)
    p = grouped(softmax_rows(scores))
    z = p @ v

    def vjp(dz):
        dz = grouped(dz)
        ds = dz @ v.swapaxes(-1, -2)
        ds -= np.vecdot(dz, z)[..., None]
        ds *= p

        def dq():
            return (ds @ k).reshape(q.shape) * scale

        def dk():
            return ds.swapaxes(-1, -2) @ qs

        def dv():
            return p.swapaxes(-1, -2) @ dz

        return dq, dk, dv

    return z.reshape(batch, heads, queries, v.shape[-1]), vjp


def check_shapes(q, k, v):
    """Raise ValueError unless q (B, H, T, D), k (B, Hkv, S, D) and v (B, Hkv, S, any) fit together."""
    if q.ndim == k.ndim == v.ndim == 4:
        fits = q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3] and k.shape[:3] == v.shape[:3]
        if fits and k.shape[1] and q.shape[1] % k.shape[1] == 0:
            return
    shapes = f"q {named_shape(q.shape, 'BHTD')}, k {named_shape(k.shape, 'BHSD')}, v {named_shape(v.shape, 'BHSD')}"
    raise ValueError(f"attention: {shapes}: expected q (B, H, T, D) and k, v (B, Hkv, S, D), H a multiple of Hkv")


@attention.sample
def _(rng, shape=(1, 2, 3, 2)):
    return tuple(normal(rng, shape) for _ in range(3)), {}
