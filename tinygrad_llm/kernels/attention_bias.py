"""The twin of `ops/attention_bias.py`: the same NumPy, on the sequences of a batch in the threads of our own pool.

The gradient of the bias has an entry for each score, so the scores are made as a whole in either case, and there is
nothing to gain from blocks; but a product for each head is small, and BLAS with threads of its own is slow at small
ones (see `products.py`). Each head is computed as in the reference, and so the bits are the same.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.layout import same_float
from tinygrad_llm.kernels.products import LEAST
from tinygrad_llm.kernels.scaled_attention import heads_first
from tinygrad_llm.ops.attention_bias import biased_attention, check_bias
from tinygrad_llm.ops.scaled_attention import check_mask, check_shapes


def forward_parts(low, high, parts, given, options, y, vjps):
    """Write y and the vjps of some parts, (axis, begin, end, of): of so many sequences or key heads."""
    for number in range(low, high):
        part = parts[number]
        cut(y, part)[...], vjps[number] = biased_attention.reference(*(cut(a, part) for a in given), **options)


def backward_parts(low, high, parts, vjps, dy, gradients):
    """Write the gradients of some parts."""
    for number in range(low, high):
        part = parts[number]
        for whole, gradient in zip(gradients, vjps[number](cut(dy, part)), strict=True):
            cut(whole, part)[...] = gradient()


def cut(a, part):
    """The part of an array that broadcasts to four axes; all of it where it is broadcast. None stays None."""
    axis, begin, end, of = part
    if a is None or a.ndim < 4 - axis or a.shape[axis - 4] == 1 < of:
        return a
    each = a.shape[axis - 4] // of  # query heads to a key head
    return a[(slice(None),) * (a.ndim - 4 + axis) + (slice(begin * each, end * each),)]


@biased_attention.kernel
def _(q, k, v, bias, mask=None, causal=False, scale=None):
    if not same_float(q, k, v, bias) or not q.size * k.size * v.size:
        return NotImplemented
    check_shapes(q, k, v)
    batch, heads, queries, _ = q.shape
    kv_heads, keys = k.shape[1:3]
    scores = (batch, heads, queries, keys)
    check_bias(bias, scores)
    if mask is not None:
        mask = check_mask(mask, scores)
    axis, units = (0, batch) if batch >= kv_heads else (1, kv_heads)
    work = batch * heads * queries * keys * (k.shape[3] + v.shape[3])
    count = min(threads.thread_count(), units, work // LEAST)
    if count < 2:
        return NotImplemented
    parts = [(axis, units * n // count, units * (n + 1) // count, units) for n in range(count)]
    vjps, options = [None] * count, {"causal": causal, "scale": scale}
    y = heads_first(batch, heads, queries, v.shape[3], q.dtype)
    with threads.one_blas_thread():
        threads.run(forward_parts, count, parts, (q, k, v, bias, mask), options, y, vjps)

    def vjp(dy):
        dq, dk, dv = (heads_first(a.shape[0], a.shape[1], a.shape[2], a.shape[3], a.dtype) for a in (q, k, v))
        dbias = np.empty(scores, q.dtype)
        with threads.one_blas_thread():
            threads.run(backward_parts, count, parts, vjps, dy, (dq, dk, dv, dbias))
        return dq, dk, dv, dbias

    return y, vjp
