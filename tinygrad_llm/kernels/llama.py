"""The compiled twin of `models/llama.py`: a new token on its way through all blocks, in one call.

For one token a block is five products of a matrix and a vector, each as long as its matrix takes to read: some tens of
microseconds. To call them from Python, and to hand a part of each to other threads, takes as long again. Here the
threads stay: each works on its share of the rows of every matrix, and they `meet` where one needs what the others have
written. Results do not depend on their number, since no sum is cut.

Weights may be float32, stored as (out, in) as `nn/packing.py` leaves them, or in 8 or 4 bits (see `nn/quantized.py`).
What is read and written is found by `llama_plan.py`.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.generation.cache import LayerKV
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import exp, sigmoid
from tinygrad_llm.kernels.llama_plan import BIAS, DOWN, FLOAT, GATE, INT4, INT8, K_NORM, OUT, Q_NORM, QKV, UP, plan_for
from tinygrad_llm.kernels.meeting import meet, run_together, share
from tinygrad_llm.kernels.panels import copy_scaled, fill, inner
from tinygrad_llm.kernels.quantized import product_int4, product_int8, round_row
from tinygrad_llm.kernels.vector import matrix_at, row_of
from tinygrad_llm.models.llama import LlamaBlock, through_blocks
from tinygrad_llm.ops.rotations import cos_and_sin
from tinygrad_llm.tape import grad_enabled

LINE = 16
"""float32 numbers of a cache line, which two threads should not both write to."""

PIECE = 1 << 18
"""Weights of a block for each thread, below which waiting for each other costs more than it saves."""


@compiled(inline=True)
def vector_at(address, length, like):
    """The row of float32 numbers at an address."""
    return row_of(matrix_at(address, 4 * length, 1, length, like), 0)


@compiled(inline=True, reorder=True)
def rms_normed(x, gain, eps, y):
    """y may be x."""
    square = x.dtype.type(0)
    for c in range(len(x)):
        square += x[c] * x[c]
    r = x.dtype.type(1) / np.sqrt(square / x.dtype.type(len(x)) + eps)
    for c in range(len(x)):
        y[c] = x[c] * r * gain[c]


@compiled(inline=True)
def turned(x, cos, sin, y):
    """Rotary positions: y is x with each pair (i, i + D/2) turned by its angle. y may be x."""
    half = len(cos)
    first, second, y1, y2 = x[:half], x[half:], y[:half], y[half:]
    for i in range(half):
        a, b = first[i], second[i]
        y1[i] = a * cos[i] - b * sin[i]
        y2[i] = b * cos[i] + a * sin[i]


@compiled(inline=True, reorder=True)
def attend(q, keys, values, length, scale, weights, y):
    """``y = sum_s weights_s values_s`` over the first `length` rows, ``weights = softmax(scale keys q)``."""
    top, total = q.dtype.type(-np.inf), q.dtype.type(0)
    weights = weights[:length]
    for s in range(length):
        weights[s] = inner(row_of(keys, s), q) * scale
    for s in range(length):
        top = max(top, weights[s])
    for s in range(length):
        weights[s] = exp(weights[s] - top)
    for s in range(length):
        total += weights[s]
    fill(y, q.dtype.type(0))
    for s in range(length):
        value, weight = row_of(values, s), weights[s] / total
        for d in range(len(y)):
            y[d] += weight * value[d]


@compiled(inline=True)
def product(kind, place, groups, x, z, steps, totals, first, last, y):
    """Rows `first` to `last` of the matrix at a place, times x: into y, from its beginning."""
    values, scales, minimums = place[0], place[1], place[2]
    if kind == FLOAT:
        w = matrix_at(values, 4 * len(x), last, len(x), x)
        for f in range(first, last):
            y[f - first] = inner(row_of(w, f), x)
        return
    d = matrix_at(scales, 2 * groups, last, groups, np.empty(0, np.uint16))
    if kind == INT8:
        w8 = matrix_at(values, groups * INT8, last, groups * INT8, np.empty(0, np.int8))
        for f in range(first, last):
            y[f - first] = product_int8(row_of(w8, f), row_of(d, f), z, steps)
    else:
        m = matrix_at(minimums, 2 * groups, last, groups, np.empty(0, np.uint16))
        w4 = matrix_at(values, groups * INT4 // 2, last, groups * INT4 // 2, np.empty(0, np.uint8))
        for f in range(first, last):
            y[f - first] = product_int4(row_of(w4, f), row_of(d, f), row_of(m, f), z, steps, totals)


@compiled
def through_all(
    thread, count, meeting, kind, maps, vectors, stores, sizes, eps, cos, sin, scale, x, qkv, attended, hidden, finite
):
    """x (C,) becomes what the last block leaves; its keys and values become row `length` of the caches.

    For each layer l: maps[l] are the places of five matrices, vectors[l] those of gains and biases, and stores[l] those
    of the cached keys and values (Hkv, T, D), of which rows from `earliest` on are seen. qkv, attended and hidden are
    written by all threads and read by all.
    """
    heads, kv_heads, width, earliest, length, capacity = sizes
    channels, features = len(x), len(hidden)
    normed, gate, part = np.empty_like(x), np.empty_like(hidden), np.empty(len(qkv) + features + channels, x.dtype)
    seen = length + 1 - earliest
    weights = np.empty(seen, x.dtype)
    group = max(kind, 1)
    room = (max(channels, features, len(attended)) + 63) // 64 * 64
    z, steps, totals = np.empty(room, np.int16), np.empty(room // group, x.dtype), np.empty(room // group, x.dtype)
    for layer in range(len(maps)):
        keys, values = stores[layer, 0], stores[layer, 1]
        for number in range(5):
            given = normed
            first, last = share(features if number in (GATE, UP) else channels, LINE, thread, count)
            if number in (QKV, GATE):
                rms_normed(x, vector_at(vectors[layer, number // GATE], channels, x), eps, normed)
            if number == QKV:
                first_head, last_head = share(heads + 2 * kv_heads, 1, thread, count)
                first, last = first_head * width, last_head * width
            elif number == OUT:
                for head in range(*share(heads, 1, thread, count)):
                    start = 4 * (head * kv_heads // heads * capacity + earliest) * width
                    k = matrix_at(keys + start, 4 * width, seen, width, x)
                    v = matrix_at(values + start, 4 * width, seen, width, x)
                    here = slice(head * width, (head + 1) * width)
                    attend(qkv[here], k, v, seen, scale, weights, attended[here])
                if not meet(meeting, count):
                    return
                given = attended
            elif number == DOWN:
                given = hidden
            groups = (len(given) + 63) // 64 * 64 // group
            if kind != FLOAT and number != UP and not round_row(given, group, z, steps[:groups], totals):
                finite[0] = False
            product(kind, maps[layer, number], groups, given, z, steps, totals, first, last, part)
            if number == QKV:
                if vectors[layer, BIAS]:
                    bias = vector_at(vectors[layer, BIAS], len(qkv), x)
                    for f in range(last - first):
                        part[f] += bias[first + f]
                for head in range(first_head, last_head):
                    made = part[(head - first_head) * width : (head - first_head + 1) * width]
                    if head < heads + kv_heads and vectors[layer, Q_NORM]:
                        gain = vectors[layer, Q_NORM if head < heads else K_NORM]
                        rms_normed(made, vector_at(gain, width, x), eps, made)
                    if head < heads:
                        turned(made, cos, sin, qkv[head * width : (head + 1) * width])
                        continue
                    start = 4 * ((head - heads) % kv_heads) * capacity * width
                    store = keys if head < heads + kv_heads else values
                    row = row_of(matrix_at(store + start, 4 * width, length + 1, width, x), length)
                    if head < heads + kv_heads:
                        turned(made, cos, sin, row)
                    else:
                        copy_scaled(made, row, x.dtype.type(1))
            elif number == GATE:
                for f in range(last - first):
                    gate[f] = part[f]
            elif number == UP:
                for f in range(last - first):
                    hidden[first + f] = gate[f] * sigmoid(gate[f]) * part[f]
            else:
                for c in range(last - first):
                    x[first + c] += part[c]
            if number != GATE and not meet(meeting, count):
                return


# ---------------------------------------------------------------------------------------------------------------------


@through_blocks.kernel
def _(x, blocks, positions, mask, caches):
    """Declines all but one token of one sequence, in float32."""
    positions = np.asarray(positions)
    if grad_enabled() or mask is not None or x.shape[:2] != (1, 1) or x.dtype != np.float32 or positions.size != 1:
        return NotImplemented
    if not all(type(block) is LlamaBlock for block in blocks) or not all(type(c) is LayerKV for c in caches):
        return NotImplemented
    if len(blocks) != len(caches) or any(cache.length != caches[0].length for cache in caches):
        return NotImplemented
    plan = plan_for(blocks, caches)
    length, (_, kv_heads, capacity, width) = caches[0].length, caches[0].keys.shape
    if plan is None or plan.kind is None or x.shape != (1, 1, plan.channels) or length >= capacity:
        return NotImplemented
    attention, norm = blocks[0].attention, blocks[0].attention_norm
    head = np.empty((1, 1, 1, width), np.float32)
    cos, sin = cos_and_sin(head, positions, attention.base, attention.frequencies)
    y = x.reshape(-1).copy()
    qkv = np.empty((attention.heads + 2 * kv_heads) * width, np.float32)
    attended, hidden = np.empty(attention.heads * width, np.float32), np.empty(plan.features, np.float32)
    earliest = max(length + 1 - attention.window, 0) if attention.window else 0
    sizes = attention.heads, kv_heads, width, earliest, length, capacity
    numbers = np.float32(norm.eps), cos.reshape(-1), sin.reshape(-1), np.float32(attention.scale)
    finite = np.ones(1, np.bool_)
    arrays = plan.kind, plan.maps, plan.vectors, plan.stores, sizes, *numbers, y, qkv, attended, hidden, finite
    run_together(through_all, *arrays, most=max(1, plan.weights // PIECE))
    if not finite[0]:  # infinity and NaN have no whole number
        return NotImplemented
    for cache in caches:
        cache.length += 1
    return y.reshape(x.shape)
