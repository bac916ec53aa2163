"""Compiled twin of `ops/scaled_attention.py`: in blocks that stay in the cache, so that no (T, S) array is ever made.

A unit of work is a key head with the query heads that share it: nothing is added up across units. Its keys and values
are copied once into panels that the product of `kernels/vector.py` can read; queries follow in blocks. Forward, the
scores of a block with all its keys become exponentials in place, and the sum of a row divides its y at the end. Of each
row are kept the maximum `top` and the factor ``weight = 1/sum``: from them the vjp recomputes
``p = exp(scores - top) weight``, block by block, as Dao et al. 2022 (arXiv:2205.14135) do. Memory is linear in T.

What causality or a window hides is not computed, but for the corners of blocks. A NaN or an infinity in a value that
no query may see therefore need not spread as it does in the reference, where it is multiplied by 0.

An array comes as its place, ``(address, *strides)`` of (B, H, T, D): see `matrix_at`.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import exp
from tinygrad_llm.kernels.layout import same_float
from tinygrad_llm.kernels.panels import (
    copy_back,
    copy_rows,
    copy_transposed,
    exponentials,
    fill,
    inner,
    multiply,
    rounded,
)
from tinygrad_llm.kernels.vector import ROWS, allocate, block_columns, matrix_at, row_of, rows_from
from tinygrad_llm.ops.scaled_attention import attention, check_mask, check_shapes, check_window

QUERIES = 32
"""Query rows of a block: a multiple of `ROWS`."""

KEYS = 64
"""Keys of a block of the vjp: a multiple of the columns of a block of a product."""


@compiled(inline=True)
def visible(t, queries, keys, causal):
    """How many keys, from the first, query t may see."""
    return min(max(keys - queries + t + 1, 0), keys) if causal else keys


@compiled(inline=True)
def earliest(t, queries, keys, window):
    """The first key that query t may see: the window has all `keys` where there is none."""
    return max(keys - queries + t + 1 - window, 0)


@compiled(inline=True)
def first_row(s, start, queries, keys, causal):
    """The first row of the block at query `start` that sees key s, rounded down to a multiple of `ROWS`."""
    return max(s - keys + queries - start, 0) // ROWS * ROWS if causal else 0


@compiled(inline=True)
def part_of(place, batch, head, start, end, columns, like):
    """Rows start to end of one head of the array at a place."""
    address, batches, heads, rows, _ = place
    return matrix_at(address + batch * batches + head * heads + start * rows, rows, end - start, columns, like)


@compiled(inline=True)
def add_row(x, y):
    for s in range(len(x)):
        x[s] += y[s]


@compiled
def attention_forward(low, high, parts, sizes, q, k, v, mask, masked, causal, window, scale, y, top, weight):
    """Units (batch, key head, part); a part takes every parts-th block of queries."""
    heads, kv_heads, queries, keys, width, value_width = sizes
    step = block_columns(top)
    columns = rounded(value_width, step)
    panels = allocate(rounded(keys, step) * width // step, step, top)
    values = allocate(keys, columns, top)
    rows = allocate(QUERIES, rounded(width, step), top)
    scores = allocate(QUERIES, rounded(keys, step) + step, top)  # a little more, lest rows compete for places in cache
    means = allocate(QUERIES, columns, top)
    tops, weights = np.empty(QUERIES, top.dtype), np.empty(QUERIES, top.dtype)
    hidden = top.dtype.type(-np.inf)
    for unit in range(low, high):
        batch, shared, part = unit // parts // kv_heads, unit // parts % kv_heads, unit % parts
        copy_transposed(part_of(k, batch, shared, 0, keys, width, top), panels)
        copy_rows(part_of(v, batch, shared, 0, keys, value_width, top), values, top.dtype.type(1))
        for head in range(shared * heads // kv_heads, (shared + 1) * heads // kv_heads):
            for start in range(part * QUERIES, queries, parts * QUERIES):
                end = min(start + QUERIES, queries)
                copy_rows(part_of(q, batch, head, start, end, width, top), rows, scale)
                before = earliest(start, queries, keys, window) // step * step
                for s in range(before, visible(end - 1, queries, keys, causal), step):
                    panel = rows_from(panels, s // step * width)
                    above = first_row(s, start, queries, keys, causal)
                    multiply(rows, above, end - start, panel, 0, width, step, scores, 0, s, False)
                added = part_of(mask, batch, head, start, end, keys, top)
                for i in range(0, end - start, ROWS):
                    last = min(start + i + ROWS, end)
                    before = earliest(start + i, queries, keys, window) // step * step
                    depth = visible(last - 1, queries, keys, causal)
                    padded = rounded(depth, step)
                    for t in range(start + i, last):
                        row = row_of(scores, t - start)
                        seen = visible(t, queries, keys, causal)
                        if masked:
                            add_row(row[:seen], row_of(added, t - start))
                        fill(row[before : earliest(t, queries, keys, window)], hidden)
                        fill(row[seen:padded], hidden)
                    exponentials(scores, i, last - start, before, padded, tops, weights)
                    multiply(scores, i, i + ROWS, values, before, depth, columns, means, 0, 0, False)
                copy_weighted(means, weights, part_of(y, batch, head, start, end, value_width, top))
                for i in range(end - start):
                    top[batch, head, start + i], weight[batch, head, start + i] = tops[i], weights[i]


@compiled(inline=True)
def copy_weighted(means, weights, y):
    for i in range(len(y)):
        if weights[i] != 0:
            weights[i] = 1 / weights[i]
        source, target, factor = row_of(means, i), row_of(y, i), weights[i]
        for d in range(len(target)):
            target[d] = source[d] * factor


@compiled
def attention_backward(
    low, high, parts, sizes, q, k, v, mask, masked, causal, window, scale, y, top, weight, dy, dq, dk, dv
):
    """Units as forward; dk and dv have the parts in front, since every part adds to all keys."""
    heads, kv_heads, queries, keys, width, value_width = sizes
    step = block_columns(top)
    key_columns, value_columns, length = rounded(width, step), rounded(value_width, step), rounded(keys, step)
    key_panels = allocate(length * width // step, step, top)
    value_panels = allocate(length * value_width // step, step, top)
    key_rows = allocate(length, key_columns, top)
    query_rows = allocate(QUERIES, key_columns, top)
    dy_rows = allocate(QUERIES, value_columns, top)
    p = allocate(QUERIES, KEYS + step, top)
    ds = allocate(QUERIES, KEYS + step, top)
    p_columns, ds_columns = p.T, ds.T
    dq_rows = allocate(QUERIES, key_columns, top)
    dk_rows = allocate(length, key_columns, top)
    dv_rows = allocate(length, value_columns, top)
    along = np.empty(QUERIES, top.dtype)
    zero, one, hidden = top.dtype.type(0), top.dtype.type(1), top.dtype.type(-np.inf)
    batches = top.shape[0]
    for unit in range(low, high):
        batch, shared, part = unit // parts // kv_heads, unit // parts % kv_heads, unit % parts
        copy_transposed(part_of(k, batch, shared, 0, keys, width, top), key_panels)
        copy_transposed(part_of(v, batch, shared, 0, keys, value_width, top), value_panels)
        copy_rows(part_of(k, batch, shared, 0, keys, width, top), key_rows, one)
        dk_rows[:] = 0
        dv_rows[:] = 0
        for head in range(shared * heads // kv_heads, (shared + 1) * heads // kv_heads):
            for start in range(part * QUERIES, queries, parts * QUERIES):
                end = min(start + QUERIES, queries)
                count = end - start
                copy_rows(part_of(q, batch, head, start, end, width, top), query_rows, scale)
                copy_rows(part_of(dy, batch, head, start, end, value_width, top), dy_rows, one)
                outputs = part_of(y, batch, head, start, end, value_width, top)
                for i in range(count):
                    along[i] = inner(row_of(outputs, i), row_of(dy_rows, i))
                added = part_of(mask, batch, head, start, end, keys, top)
                dq_rows[:] = 0
                before, whole = earliest(start, queries, keys, window), visible(end - 1, queries, keys, causal)
                for first in range(before // KEYS * KEYS, whole, KEYS):
                    last = min(first + KEYS, whole)
                    padded = rounded(last - first, step)
                    for s in range(first, last, step):
                        key_panel = rows_from(key_panels, s // step * width)
                        value_panel = rows_from(value_panels, s // step * value_width)
                        above = first_row(s, start, queries, keys, causal)
                        multiply(query_rows, above, count, key_panel, 0, width, step, p, 0, s - first, False)
                        multiply(dy_rows, above, count, value_panel, 0, value_width, step, ds, 0, s - first, False)
                    for i in range(count):
                        t = start + i
                        p_row, ds_row = row_of(p, i), row_of(ds, i)
                        seen = min(max(visible(t, queries, keys, causal) - first, 0), KEYS)
                        passed = min(max(earliest(t, queries, keys, window) - first, 0), KEYS)
                        if masked:
                            add_row(p_row[:seen], row_of(added, i)[first:])
                        fill(p_row[:passed], hidden)
                        fill(p_row[seen:padded], hidden)
                        fill(ds_row[seen:padded], zero)
                        score_gradients(p_row[:padded], ds_row, top[batch, head, t], weight[batch, head, t], along[i])
                    for s in range(first, last, ROWS):
                        above, i = first_row(s, start, queries, keys, causal), s - first
                        end_row = i + ROWS
                        multiply(p_columns, i, end_row, dy_rows, above, count, value_columns, dv_rows, first, 0, True)
                        multiply(ds_columns, i, end_row, query_rows, above, count, key_columns, dk_rows, first, 0, True)
                    here = rows_from(key_rows, first)
                    for i in range(first_row(first, start, queries, keys, causal), count, ROWS):
                        depth = min(visible(min(start + i + ROWS, end) - 1, queries, keys, causal), last) - first
                        multiply(ds, i, i + ROWS, here, 0, depth, key_columns, dq_rows, 0, 0, True)
                copy_back(dq_rows, part_of(dq, batch, head, start, end, width, top), scale)
        copy_back(dk_rows, part_of(dk, part * batches + batch, shared, 0, keys, width, top), one)
        copy_back(dv_rows, part_of(dv, part * batches + batch, shared, 0, keys, value_width, top), one)


@compiled(inline=True)
def score_gradients(p, ds, top, weight, along):
    """Of a row of scores in p and of dp in ds: the probabilities, and ``ds = p (dp - rowsum(dy y))``."""
    step = block_columns(p)
    for begin in range(0, len(p), step):
        p_part, ds_part = p[begin : begin + step], ds[begin : begin + step]
        for s in range(step):
            p_part[s] = exp(p_part[s] - top) * weight
            ds_part[s] = p_part[s] * (ds_part[s] - along)


# ---------------------------------------------------------------------------------------------------------------------


def rows_in_place(a):
    """The array, or a copy of it if its last axis is not contiguous."""
    return a if a.strides[-1] == a.itemsize else np.ascontiguousarray(a)


def place(a):
    """(address, strides in bytes) of a four-dimensional array of contiguous rows."""
    return (a.ctypes.data, *a.strides)


def additive(mask, shape, dtype):
    """A mask as what is added to the scores, whose shape (B, H, T, S) is given: 0 or -inf for a boolean one."""
    mask = np.where(mask, dtype.type(0), dtype.type(-np.inf)) if mask.dtype == bool else mask.astype(dtype, copy=False)
    mask = np.ascontiguousarray(np.broadcast_to(mask, (*mask.shape[:-1], shape[-1])))
    return np.broadcast_to(mask, shape)


def heads_first(batch, heads, rows, width, dtype):
    """An uninitialised (B, H, T, D) array whose memory is (B, T, H, D): the heads of a row can be joined in place."""
    return np.empty((batch, rows, heads, width), dtype).transpose(0, 2, 1, 3)


class Heads:
    """One call of the compiled functions: sizes, how the work is cut, and what the vjp needs."""

    def __init__(self, q, k, v, mask, causal, scale, window=0):
        batch, heads, queries, width = q.shape
        kv_heads, keys = k.shape[1:3]
        self.q, self.k, self.v, self.causal = rows_in_place(q), rows_in_place(k), rows_in_place(v), bool(causal)
        self.window = min(window or keys, keys)
        self.scale = q.dtype.type(1 / math.sqrt(width) if scale is None else scale)
        self.mask = None
        if mask is not None:
            mask = check_mask(mask, (batch, heads, queries, keys))
            self.mask = additive(mask, (batch, heads, queries, keys), q.dtype)
        self.sizes = heads, kv_heads, queries, keys, width, v.shape[3]
        self.top, self.weight = np.empty((2, batch, heads, queries), q.dtype)
        # few heads are cut into parts, the same for any number of threads, which the sums over parts depend on
        self.parts = max(1, min(PARTS // (batch * kv_heads), queries // LEAST_QUERIES))
        self.units = batch * kv_heads * self.parts
        work = heads // kv_heads * queries * min(keys, self.window + QUERIES) * (width + v.shape[3]) // self.parts
        self.least = max(1, LEAST_WORK // work)

    def run(self, function, y, *others):
        """Share the units out over the threads."""
        mask = self.q[:1, :1] if self.mask is None else self.mask  # any place will do if there is no mask
        given = place(self.q), place(self.k), place(self.v), place(mask), self.mask is not None
        seen = self.causal, self.window, self.scale
        arrays = (place(y), self.top, self.weight, *map(place, others))
        threads.run(function, self.units, self.parts, self.sizes, *given, *seen, *arrays, least=self.least)

    def forward(self, y):
        """Write y (B, H, T, D) into an array of contiguous rows."""
        self.run(attention_forward, y)

    def backward(self, y, dy, dq, dk, dv):
        """Write the gradients into arrays of contiguous rows."""
        dy = rows_in_place(dy)
        if self.parts == 1:
            self.run(attention_backward, y, dy, dq, dk, dv)
            return
        batch, kv_heads, keys, width = dk.shape
        dks = np.empty((self.parts * batch, kv_heads, keys, width), dk.dtype)
        dvs = np.empty((self.parts * batch, kv_heads, keys, dv.shape[3]), dv.dtype)
        self.run(attention_backward, y, dy, dq, dks, dvs)
        np.sum(dks.reshape(self.parts, *dk.shape), axis=0, out=dk)
        np.sum(dvs.reshape(self.parts, *dv.shape), axis=0, out=dv)


PARTS = 8
"""Units that there should be at least, if need be by cutting the queries of each head into parts."""

LEAST_QUERIES = 256
"""Queries of a head below which it is not worth copying its keys and values for a part."""

LEAST_WORK = 1 << 20
"""Multiplications below which a piece of work is not given to another thread."""


@attention.kernel
def _(q, k, v, mask=None, causal=False, scale=None, window=0):
    if not same_float(q, k, v) or not q.size * k.size * v.size:
        return NotImplemented
    check_shapes(q, k, v)
    check_window(window, causal)
    batch, heads, queries, _ = q.shape
    call = Heads(q, k, v, mask, causal, scale, int(window))
    y = heads_first(batch, heads, queries, v.shape[3], q.dtype)
    call.forward(y)

    def vjp(dy):
        dq, dk, dv = (heads_first(a.shape[0], a.shape[1], a.shape[2], a.shape[3], a.dtype) for a in (q, k, v))
        call.backward(y, dy, dq, dk, dv)
        return dq, dk, dv

    return y, vjp
