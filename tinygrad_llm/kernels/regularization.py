"""Compiled twin of `ops/regularization.py`: dropout with the reference's own random numbers, drawn faster.

The stream is Philox 4x64 with 10 rounds (Salmon et al. 2011): a block of four 64-bit words is a function of its number
and of the key alone, so threads draw blocks anywhere. NumPy numbers blocks from 1, and makes two float32 of each word,
the lower half first, of the upper 24 bits of each half. Kept of it is the mask, one byte for each element.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import extending
from numba.core import types

from tinygrad_llm import random, threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import PIECE, same_float
from tinygrad_llm.ops.regularization import dropout

intrinsic: Any = extending.intrinsic  # what it makes is called without the context of typing

HALVES = 8
"""The float32 made of a block's four words."""

BLOCKS = 64
"""Blocks that are drawn before their elements of x are multiplied: the mask is in the cache then."""

FACTORS = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
STEPS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
"""Philox's constants: the multipliers of a round, and what the key grows by."""

HALF, LOWER = np.uint64(32), np.uint64(0xFFFFFFFF)


@intrinsic
def product(typingctx, x, y):
    """The 128 bits of the product of two uint64, as (upper, lower) 64."""
    pair = types.UniTuple(types.uint64, 2)

    def generate(context, builder, signature, arguments):
        word, wide = ir.IntType(64), ir.IntType(128)
        x, y = (builder.zext(a, wide) for a in arguments)
        z = builder.mul(x, y)
        upper = builder.trunc(builder.lshr(z, ir.Constant(wide, 64)), word)
        return context.make_tuple(builder, pair, (upper, builder.trunc(z, word)))

    return pair(types.uint64, types.uint64), generate


@compiled(inline=True)
def philox(number, first, second):
    """Block `number` of the stream whose key is (first, second): four words."""
    zero = np.uint64(0)
    a, b, c, d = number, zero, zero, zero
    for _ in range(10):
        upper_a, lower_a = product(a, FACTORS[0])
        upper_c, lower_c = product(c, FACTORS[1])
        a, b, c, d = upper_c ^ b ^ first, lower_c, upper_a ^ d ^ second, lower_a
        first += STEPS[0]
        second += STEPS[1]
    return a, b, c, d


@compiled
def dropout_forward(low, high, x, first, second, limit, factor, kept, y):
    """Groups of `BLOCKS` blocks. An element is kept if its 32 bits are `limit` or more."""
    for group in range(low, high):
        start = group * BLOCKS * HALVES
        mask = kept[start : start + BLOCKS * HALVES]
        for block in range(len(mask) // HALVES):
            a, b, c, d = philox(np.uint64(group * BLOCKS + block + 1), first, second)
            eight = mask[block * HALVES : (block + 1) * HALVES]
            eight[0], eight[1] = (a & LOWER) >= limit, (a >> HALF) >= limit
            eight[2], eight[3] = (b & LOWER) >= limit, (b >> HALF) >= limit
            eight[4], eight[5] = (c & LOWER) >= limit, (c >> HALF) >= limit
            eight[6], eight[7] = (d & LOWER) >= limit, (d >> HALF) >= limit
        xs, ys = x[start : start + BLOCKS * HALVES], y[start : start + BLOCKS * HALVES]
        for i in range(len(xs)):
            ys[i] = xs[i] * (factor if mask[i] else x.dtype.type(0))


@compiled
def dropout_backward(low, high, dy, factor, kept, dx):
    dy, kept, dx = dy[low:high], kept[low:high], dx[low:high]
    for i in range(len(dy)):
        dx[i] = dy[i] * (factor if kept[i] else dx.dtype.type(0))


@dropout.kernel
def _(x, p, key):
    if not same_float(x) or type(p) not in (float, int) or not 0 <= p < 1:
        return NotImplemented
    first, second = random.stream(key, "dropout").bit_generator.state["state"]["key"]
    # a float32 is its 24 upper bits times 2^-24, and is compared with p as a float32
    limit = np.uint64(math.ceil(float(np.float32(p)) * 2.0**24) << 8)
    factor = x.dtype.type(1 / (1 - p))
    y = np.empty(x.shape, x.dtype)
    shape, dtype = x.shape, x.dtype
    kept = np.empty(-(-x.size // HALVES) * HALVES, np.bool_)
    groups = -(-x.size // (BLOCKS * HALVES))
    flat = np.ascontiguousarray(x).reshape(-1)
    least = max(1, PIECE // (BLOCKS * HALVES))
    threads.run(dropout_forward, groups, flat, first, second, limit, factor, kept, y.reshape(-1), least=least)

    def vjp(dy):
        dx = np.empty(shape, dtype)
        flat = np.ascontiguousarray(dy).reshape(-1)
        threads.run(dropout_backward, dx.size, flat, factor, kept, dx.reshape(-1), least=PIECE)
        return dx

    return y, vjp
