"""The compiled twin of `optim/optimizer.py`: the sum of squares behind the global norm, and how updates see arrays."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import PIECE
from tinygrad_llm.optim.optimizer import sum_of_squares

BLOCK = 1 << 14
"""Elements whose squares are added up in their own dtype. Blocks do not depend on the number of threads, and their
sums are added in float64, without rounding: nor does the result."""


@compiled
def block_squares(low, high, x, sums):
    """The sum of squares of each block of x."""
    for block in range(low, high):
        part = x[block * BLOCK : (block + 1) * BLOCK]
        total = x.dtype.type(0)
        for i in range(len(part)):
            total += part[i] * part[i]
        sums[block] = total


@sum_of_squares.kernel
def _(array):
    views = flat_views(np.asarray(array, order="C"))
    if views is None:
        return NotImplemented
    x = views[0]
    sums = np.empty(-(-x.size // BLOCK))
    threads.run(block_squares, len(sums), x, sums, least=PIECE // BLOCK)
    total = float(sums.sum())
    return math.fsum(sums) if math.isfinite(total) else total


FLOATS = np.dtype(np.float32), np.dtype(np.float64)


def flat_views(*arrays):
    """C-contiguous arrays of one float dtype and shape as one-dimensional views; None where they are something else.

    A model has many small parameters, and each update comes through here: this must take no time.
    """
    dtype, shape = arrays[0].dtype, arrays[0].shape
    if dtype not in FLOATS:
        return None
    for a in arrays:
        if a.dtype != dtype or a.shape != shape or not a.flags.c_contiguous:
            return None
    return [a.reshape(-1) for a in arrays]


@compiled
def add_scaled(low, high, a, x, b, y):
    """``y = a x + b y``."""
    x, y = x[low:high], y[low:high]
    for i in range(len(y)):
        y[i] = a * x[i] + b * y[i]


def combine(a, x, b, y):
    """``y = a x + b y`` for C-contiguous arrays of one dtype."""
    kind = y.dtype.type
    threads.run(add_scaled, y.size, kind(a), x.reshape(-1), kind(b), y.reshape(-1), least=PIECE)
