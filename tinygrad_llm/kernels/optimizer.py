"""The compiled twin of `optim/optimizer.py`: the sums of squares behind the global norm, and how updates see arrays."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import PIECE
from tinygrad_llm.optim.optimizer import BLOCK, block_squares


@compiled
def add_squares(low, high, x, size, sums):
    """The sum of squares of each block of x."""
    for block in range(low, high):
        part = x[block * size : (block + 1) * size]
        total = x.dtype.type(0)
        for i in range(len(part)):
            total += part[i] * part[i]
        sums[block] = total


@block_squares.kernel
def _(array):
    views = flat_views(np.asarray(array, order="C"))
    if views is None:
        return NotImplemented
    x = views[0]
    sums = np.empty(-(-x.size // BLOCK))
    threads.run(add_squares, len(sums), x, BLOCK, sums, least=PIECE // BLOCK)
    return sums


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
