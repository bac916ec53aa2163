"""The compiled twin of `ops/products.py`: few rows times a large matrix, which is as fast as the matrix can be read.

Generating one sequence is made of such products. BLAS is built for many rows, which use each number of the matrix many
times; here each is used once or a few times, in the order in which it lies in memory. Everything else is left to BLAS.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import same_float
from tinygrad_llm.ops.products import product

FEW = 4
"""Rows up to which these loops read the matrix faster than BLAS."""

LARGE = 1 << 14
"""Elements of the matrix from which on they do."""

PIECE = 1 << 20
"""Elements of the matrix below which a second thread costs more than it saves: one reads nearly as fast as two."""

PARTS = 8
"""Parts, at most, into which the sum over rows of a matrix is cut: as many for any number of threads."""


@compiled
def times_matrix(low, high, x, w, parts):
    """``sum(parts) = x w``: row after row of w (K, N) is added to one of the parts (P, M, N).

    Rows are read whole. In strips of columns the memory answers at half its speed, or less.
    """
    for p in range(low, high):
        y = parts[p]
        y[:] = 0
        for k in range(w.shape[0] * p // len(parts), w.shape[0] * (p + 1) // len(parts)):
            wk = w[k]
            for m in range(x.shape[0]):
                ym, factor = y[m], x[m, k]
                for n in range(len(wk)):
                    ym[n] += factor * wk[n]


@compiled
def times_transposed(low, high, x, w, y):
    """``y = x w^T`` for the rows `low` to `high` of w (N, K): each is multiplied by the rows of x."""
    for n in range(low, high):
        wn = w[n]
        for m in range(x.shape[0]):
            xm = x[m]
            total = x.dtype.type(0)
            for k in range(w.shape[1]):
                total += xm[k] * wn[k]
            y[m, n] = total


@product.kernel
def _(x, y):
    if len(x) > FEW or y.size < LARGE or x.shape[1] != y.shape[0] or not same_float(x, y):
        return NotImplemented
    x = np.ascontiguousarray(x)
    inner, columns = y.shape
    if y.flags.c_contiguous:
        parts = np.empty((max(1, min(y.size // PIECE, inner, PARTS)), len(x), columns), x.dtype)
        threads.run(times_matrix, len(parts), x, y, parts)
        return parts[0] if len(parts) == 1 else parts.sum(0)
    if y.flags.f_contiguous:
        result = np.empty((len(x), columns), x.dtype)
        threads.run(times_transposed, columns, x, y.T, result, least=max(1, PIECE // max(inner, 1)))
        return result
    return NotImplemented
