"""The compiled twin of `models/llama.py`: a new token on its way through all blocks, in one call.

For one token a block is five products of a matrix and a vector, each as long as its matrix takes to read: some tens of
microseconds. To call them from Python, and to hand a part of each to other threads, takes as long again. Here the
threads stay: each works on its share of the rows of every matrix, and they `meet` where one needs what the others have
written. Results do not depend on their number, since no sum is cut.

Weights may be float32, stored as (out, in) as `nn/packing.py` leaves them, or in 8 or 4 bits (see `nn/quantized.py`).
"""

from __future__ import annotations

import math
import operator
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from tinygrad_llm.generation.cache import LayerKV
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import exp, sigmoid
from tinygrad_llm.kernels.meeting import meet, run_together, share
from tinygrad_llm.kernels.panels import copy_scaled, fill, inner
from tinygrad_llm.kernels.quantized import product_int4, product_int8, round_row
from tinygrad_llm.kernels.vector import matrix_at, row_of
from tinygrad_llm.models.llama import GatedMLP, LlamaBlock, RotaryAttention, through_blocks
from tinygrad_llm.nn.layers import Linear, RMSNorm
from tinygrad_llm.nn.quantized import GROUPS, Quantized, QuantizedLinear
from tinygrad_llm.ops.rotations import cos_and_sin
from tinygrad_llm.tape import grad_enabled

FLOAT, INT8, INT4 = 0, GROUPS["int8"], GROUPS["int4"]
"""How weights are stored: for those in fewer bits, how many share a scale."""

QKV, OUT, GATE, UP, DOWN = range(5)
"""The products of a block, in their order."""

LINE = 16
"""float32 numbers of a cache line, which two threads should not both write to."""

PIECE = 1 << 18
"""Weights of a block for each thread, below which waiting for each other costs more than it saves."""


@compiled(inline=True, reorder=True)
def rms_normed(x, gain, eps, y):
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
    thread, count, meeting, kind, maps, gains, stores, sizes, eps, cos, sin, scale, x, qkv, attended, hidden, finite
):
    """x (C,) becomes what the last block leaves; its keys and values become row `length` of the caches.

    For each layer l: maps[l] are the places of five matrices, gains[l] those of two gains, and stores[l] those of the
    cached keys and values (Hkv, T, D). qkv, attended and hidden are written by all threads and read by all.
    """
    heads, kv_heads, width, length, capacity = sizes
    channels, features = len(x), len(hidden)
    normed, part, gate = np.empty(channels, x.dtype), np.empty(len(qkv) + features, x.dtype), np.empty_like(hidden)
    weights = np.empty(length + 1, x.dtype)
    group = max(kind, 1)
    room = (max(channels, features, len(attended)) + 63) // 64 * 64
    z, steps, totals = np.empty(room, np.int16), np.empty(room // group, x.dtype), np.empty(room // group, x.dtype)
    for layer in range(len(maps)):
        keys, values = stores[layer, 0], stores[layer, 1]
        for number in range(5):
            given = normed
            first, last = share(features if number in (GATE, UP) else channels, LINE, thread, count)
            if number in (QKV, GATE):
                gain = matrix_at(gains[layer, number // GATE], 4 * channels, 1, channels, x)
                rms_normed(x, row_of(gain, 0), eps, normed)
            if number == QKV:
                first_head, last_head = share(heads + 2 * kv_heads, 1, thread, count)
                first, last = first_head * width, last_head * width
            elif number == OUT:
                for head in range(*share(heads, 1, thread, count)):
                    start = 4 * (head * kv_heads // heads) * capacity * width
                    k = matrix_at(keys + start, 4 * width, length + 1, width, x)
                    v = matrix_at(values + start, 4 * width, length + 1, width, x)
                    here = slice(head * width, (head + 1) * width)
                    attend(qkv[here], k, v, length + 1, scale, weights, attended[here])
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
                for head in range(first_head, last_head):
                    made = part[(head - first_head) * width : (head - first_head + 1) * width]
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


MAPS = "attention.qkv", "attention.out", "mlp.gate", "mlp.up", "mlp.down"
UNITS = {"attention": RotaryAttention, "mlp": GatedMLP, "attention_norm": RMSNorm, "mlp_norm": RMSNorm}
NUMBERS = (
    "attention.heads",
    "attention.kv_heads",
    "attention.base",
    "attention.frequencies",
    "attention.scale",
    "attention.window",
    "attention.q_norm",
    "attention.k_norm",
    "attention_norm.eps",
    "mlp_norm.eps",
)
GAINS = "attention_norm.gain.data", "mlp_norm.gain.data"
OTHERS = (*(f"{name}.bias" for name in MAPS), *GAINS, *MAPS, *UNITS, *NUMBERS)
FLOATS = attrgetter(*(f"{name}.weight.data" for name in MAPS), *OTHERS)
SMALLER = attrgetter(*(f"{name}.weight" for name in MAPS), *OTHERS)
"""What a block has: five weights, five biases, two gains, five maps, four units, ten numbers. A quantised weight has
no data."""

ENDS = 0, 5, 10, 12, 17, 21, 31, 33
"""Where each sort ends; keys and values are the last."""


class Plan(NamedTuple):
    """Where everything is that the blocks of a model read and write for a token."""

    held: list[Any]
    kind: int | None
    maps: Any
    gains: Any
    stores: Any
    channels: int
    features: int
    weights: int


def plan_of(held):
    """The plan for what blocks and caches have; its kind is None if the compiled function cannot read that."""
    weights, biases, gains, maps, units, numbers, stores = (
        [layer[low:high] for layer in held] for low, high in pairwise(ENDS)
    )
    kinds = {kind_of(weight) for layer in weights for weight in layer}
    arrays = [a for group in (*gains, *stores) for a in group]
    usual = (
        len(kinds) == 1
        and None not in kinds
        and all(bias is None for layer in biases for bias in layer)
        and all(type(linear) in (Linear, QuantizedLinear) for layer in maps for linear in layer)
        and all([type(unit) for unit in layer] == [*UNITS.values()] for layer in units)
        and all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays)
        and fit_together(weights, maps, gains, numbers, stores)
    )
    if not usual:
        return Plan(held, None, None, None, None, 0, 0, 0)
    kind = kinds.pop()
    places = np.array([[[0 if a is None else a.ctypes.data for a in parts(w)] for w in layer] for layer in weights])
    read, written = (np.array([[a.ctypes.data for a in group] for group in groups]) for groups in (gains, stores))
    sizes = [matrix_shape(w, linear) for w, linear in zip(weights[0], maps[0], strict=True)]
    channels, features = sizes[DOWN]
    return Plan(held, kind, places, read, written, channels, features, sum(map(math.prod, sizes)))


def fit_together(weights, maps, gains, numbers, stores):
    """Whether all layers have the same numbers and sizes, those of the first cache: nothing is checked afterwards."""
    heads, kv_heads, _, frequencies, _, window, q_norm, k_norm, eps, other_eps = numbers[0]
    if frequencies is not None or window or q_norm is not None or k_norm is not None:
        return False
    _, _, capacity, width = stores[0][0].shape
    channels, features = matrix_shape(weights[0][DOWN], maps[0][DOWN])
    expected = [
        ((heads + 2 * kv_heads) * width, channels),
        (channels, heads * width),
        *[(features, channels)] * 2,
        (channels, features),
        *[(channels,)] * 2,
        *[(1, kv_heads, capacity, width)] * 2,
    ]
    found = [
        [*map(matrix_shape, *layer[:2]), *(a.shape for group in layer[2:] for a in group)]
        for layer in zip(weights, maps, gains, stores, strict=True)
    ]
    return len(set(numbers)) == 1 and eps == other_eps and all(shapes == expected for shapes in found)


def matrix_shape(weight, linear):
    """(out, in), however it is stored."""
    return weight.shape[::-1] if isinstance(weight, np.ndarray) else (len(weight.values), linear.inputs)


def parts(weight):
    """The arrays of a weight: numbers, scales, minimums."""
    return (weight, None, None) if isinstance(weight, np.ndarray) else weight


def kind_of(weight):
    """`FLOAT`, `INT8` or `INT4`; None for what the compiled function cannot read."""
    if isinstance(weight, np.ndarray):
        return FLOAT if weight.dtype == np.float32 and weight.flags.f_contiguous else None
    if not isinstance(weight, Quantized) or not all(a is None or a.flags.c_contiguous for a in weight):
        return None
    return INT8 if weight.minimums is None else INT4


_plans: WeakKeyDictionary[LayerKV, Plan] = WeakKeyDictionary()
"""The plan made last for the sequence whose first layer's cache this is."""


def plan_for(blocks, caches):
    """The plan, made anew if something has been replaced since; None for blocks of other parts."""
    try:
        get = FLOATS if type(blocks[0].attention.qkv) is Linear else SMALLER
        held = [(*get(block), cache.keys, cache.values) for block, cache in zip(blocks, caches, strict=True)]
    except AttributeError:
        return None
    plan = _plans.get(caches[0])
    if plan is None or not all(map(operator.is_, chain(*plan.held), chain(*held))):
        plan = _plans[caches[0]] = plan_of(held)
    return plan


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
    cos, sin = cos_and_sin(np.empty((1, 1, 1, width), np.float32), positions, attention.base)
    y = x.reshape(-1).copy()
    qkv = np.empty((attention.heads + 2 * kv_heads) * width, np.float32)
    attended, hidden = np.empty(attention.heads * width, np.float32), np.empty(plan.features, np.float32)
    sizes = attention.heads, kv_heads, width, length, capacity
    numbers = np.float32(norm.eps), cos.reshape(-1), sin.reshape(-1), np.float32(attention.scale)
    finite = np.ones(1, np.bool_)
    arrays = plan.kind, plan.maps, plan.gains, plan.stores, sizes, *numbers, y, qkv, attended, hidden, finite
    run_together(through_all, *arrays, most=max(1, plan.weights // PIECE))
    if not finite[0]:  # infinity and NaN have no whole number
        return NotImplemented
    for cache in caches:
        cache.length += 1
    return y.reshape(x.shape)
