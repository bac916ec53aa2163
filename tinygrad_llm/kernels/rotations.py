"""The compiled twin of `ops/rotations.py`: one pass over x, wherever its rows lie in memory."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import PIECE, same_float
from tinygrad_llm.ops.rotations import cos_and_sin, rotary


@compiled
def rotate(low, high, x, x_steps, heads, time, cos, sin, turn, table_step, y, y_steps):
    """Heads of x into y, both as lines of memory with the steps of their axes; sines times `turn`.

    The indices are unsigned: for negative ones, which count from the end, there would be a test at each access.
    """
    half = np.uint64(cos.shape[1])
    cosines, sines = cos.ravel(), sin.ravel()
    for head in range(low, high):
        b, h = head // heads, head % heads
        for t in range(time):
            x1 = np.uint64(b * x_steps[0] + h * x_steps[1] + t * x_steps[2])
            y1 = np.uint64(b * y_steps[0] + h * y_steps[1] + t * y_steps[2])
            x2, y2, angle = x1 + half, y1 + half, np.uint64(b * table_step + t) * half
            for i in range(half):
                first, second = x[x1 + i], x[x2 + i]
                c, s = cosines[angle + i], sines[angle + i] * turn
                y[y1 + i] = first * c - second * s
                y[y2 + i] = second * c + first * s


@rotary.kernel
def _(x, positions, base=10000.0, frequencies=None):
    if not same_float(x):
        return NotImplemented
    cos, sin = cos_and_sin(x, positions, base, frequencies)
    if not x.size:
        return NotImplemented
    order = memory_order(x)

    def vjp(dy):
        return rotated(dy, cos, sin, -1, order)

    return rotated(x, cos, sin, 1, order), vjp


def memory_order(x):
    """The axes of x (B, H, T, D) as they follow each other in memory; D is taken to be the last."""
    return (*sorted(range(3), key=lambda axis: -x.strides[axis]), 3)


def rotated(x, cos, sin, turn, order):
    """x rotated, or rotated back with a `turn` of -1, in an array whose axes lie in memory in the given order.

    The heads of a projection are rows of its tokens, and go back into such: in that order nothing has to be copied.
    """
    if x.strides[3] != x.itemsize or any(stride < 0 or stride % x.itemsize for stride in x.strides):
        x = np.ascontiguousarray(x)
    batch, heads, time, channels = x.shape
    memory = np.empty([x.shape[axis] for axis in order], x.dtype)
    y = memory.transpose(np.argsort(order))
    x_steps, y_steps = (tuple(stride // a.itemsize for stride in a.strides[:3]) for a in (x, y))
    span = channels + sum((n - 1) * step for n, step in zip(x.shape, x_steps, strict=False))
    line = as_strided(x, (span,), (x.itemsize,), writeable=False)
    table_step = time if cos.ndim == 4 else 0
    cos, sin = cos.reshape(-1, channels // 2), sin.reshape(-1, channels // 2)
    arrays = line, x_steps, heads, time, cos, sin, x.dtype.type(turn), table_step, memory.reshape(-1), y_steps
    threads.run(rotate, batch * heads, *arrays, least=max(1, PIECE // (time * channels)))
    return y
