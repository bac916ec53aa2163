"""Compiled twins of `optim/muon.py`: one pass for what stands between the matrix products, in buffers made once."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import PIECE, same_float
from tinygrad_llm.kernels.optimizer import combine, flat_views
from tinygrad_llm.ops.products import product
from tinygrad_llm.optim.muon import COEFFICIENTS, muon_update, orthogonalize
from tinygrad_llm.optim.optimizer import sum_of_squares


@compiled
def look_ahead(low, high, scale, gradient, momentum, velocity, direction):
    """``v = momentum v + scale g``, and the direction ``scale g + momentum v``."""
    g, v, d = gradient[low:high], velocity[low:high], direction[low:high]
    for i in range(len(g)):
        step = scale * g[i]
        moved = momentum * v[i] + step
        v[i] = moved
        d[i] = step + momentum * moved


@orthogonalize.kernel
def _(matrix, steps=5):
    if not same_float(matrix) or matrix.ndim != 2 or not matrix.size:
        return NotImplemented
    a, b, c = COEFFICIENTS
    x = np.ascontiguousarray(matrix)
    norm = math.sqrt(sum_of_squares(x))
    if norm == 0:
        return np.zeros_like(matrix)
    tall = x.shape[0] > x.shape[1]
    x = x / x.dtype.type(norm)
    # A = X X^T and X = a X + (b A + c A A) X; of a tall matrix the smaller A is X^T X, and stands on the right
    gram, polynomial = np.empty((2, min(x.shape), min(x.shape)), x.dtype)
    other = np.empty_like(x)
    for _ in range(steps):
        product(*((x.T, x) if tall else (x, x.T)), out=gram)
        product(gram, gram, out=polynomial)
        combine(b, gram, c, polynomial)
        product(*((x, polynomial) if tall else (polynomial, x)), out=other)
        combine(a, x, 1, other)
        x, other = other, x
    return x


@muon_update.kernel
def _(weight, gradient, velocity, rate, momentum, decay, scale=1.0):
    gradient = np.asarray(gradient, order="C")
    arrays = flat_views(weight, gradient, velocity)
    if arrays is None:
        return NotImplemented
    kind, direction = weight.dtype.type, np.empty_like(weight)
    threads.run(
        look_ahead, weight.size, kind(scale), arrays[1], kind(momentum), arrays[2], direction.reshape(-1), least=PIECE
    )
    combine(-rate, np.ascontiguousarray(orthogonalize(direction)), 1 - decay, weight)
    return None
