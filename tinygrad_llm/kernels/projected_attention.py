"""Compiled twin of `ops/projected_attention.py`: attention that reads qkv, and writes dqkv, in place."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.layout import same_float
from tinygrad_llm.kernels.scaled_attention import Heads, heads_first
from tinygrad_llm.ops.projected_attention import heads_of, self_attention, split_heads


@self_attention.kernel
def _(qkv, heads, mask=None, causal=False, scale=None):
    if not same_float(qkv) or not qkv.size:
        return NotImplemented
    q, k, v = split_heads(qkv, heads)
    batch, _, time, width = q.shape
    call = Heads(q, k, v, mask, causal, scale)
    y = heads_first(batch, heads, time, width, q.dtype)
    call.forward(y)

    def vjp(dy):
        dqkv = np.empty((batch, time, 3 * heads * width), q.dtype)
        call.backward(y, heads_of(dy, heads), *split_heads(dqkv, heads))
        return dqkv

    return y.swapaxes(1, 2).reshape(batch, time, heads * width), vjp
