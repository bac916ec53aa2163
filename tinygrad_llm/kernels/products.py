"""The twins of `ops/products.py`: who computes which part of a product, and compiled loops where BLAS is not at home.

A product is cut into parts for the threads of our own pool, and BLAS computes each in one thread. With threads of its
own BLAS is as fast on an idle machine; but they wait for each other many times within a product, and when another
program holds one of the cores, each time may last until that one is moved: a small step of training then took four
times as long. Ours wait once, at the end.

Few rows times a large matrix, of which generating one sequence is made, is as fast as the matrix can be read. BLAS is
built for many rows, which use each number of the matrix many times; here each is used once or a few times, in the order
in which it lies in memory.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm import pool, threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import BLOCK, least_blocks, matrix, same_float
from tinygrad_llm.kernels.meeting import watch
from tinygrad_llm.ops.products import product, sum_rows

pool.watch_with(watch)

FEW = 4
"""Rows up to which these loops read the matrix faster than BLAS."""

LARGE = 1 << 14
"""Elements of the matrix from which on they do."""

PIECE = 1 << 20
"""Elements of the matrix below which a second thread costs more than it saves: one reads nearly as fast as two."""

UNIT = 16
"""Rows or columns of which a part of a product has a whole number: those of a block of BLAS."""

LEAST = 1 << 20
"""Multiplications, about 20 us, below which a part is not given to another thread."""

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


def rows_of_product(low, high, x, y, out):
    """Blocks of rows of ``x @ y``, with Python's lock let go in between."""
    part = slice(low * UNIT, high * UNIT)
    np.matmul(x[part], y, out=out[part])


def columns_of_product(low, high, x, y, out):
    part = slice(low * UNIT, high * UNIT)
    np.matmul(x, y[:, part], out=out[:, part])


@product.kernel
def _(x, y, out=None):
    if not same_float(x, y) or x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[0]:
        return NotImplemented
    (count, inner), columns = x.shape, y.shape[1]
    if out is None and count <= FEW and y.size >= LARGE:
        return few_rows(x, y)
    if threads.thread_count() == 1 or count * inner * columns < 2 * LEAST or not can_take(out, x, y):
        return NotImplemented
    result = np.empty((count, columns), x.dtype) if out is None else out
    wide = columns > 4 * count
    across, along, function = (columns, count, columns_of_product) if wide else (count, columns, rows_of_product)
    with threads.one_blas_thread():
        least = -(-LEAST // (inner * along * UNIT))
        threads.run(function, -(-across // UNIT), x, y, result, least=least)
    return result


def can_take(out, x, y):
    """Whether parts can be written to `out`: where it shares memory with a factor, they would be read by the others."""
    if out is None:
        return True
    shares = np.may_share_memory(out, x) or np.may_share_memory(out, y)
    return same_float(x, out) and out.shape == (len(x), y.shape[1]) and not shares


def few_rows(x, y):
    """``x @ y`` for few rows x: by the rows of y as they lie in memory, or by its columns."""
    inner, columns = y.shape
    x = np.ascontiguousarray(x)
    if y.flags.c_contiguous:
        parts = np.empty((max(1, min(y.size // PIECE, inner, PARTS)), len(x), columns), x.dtype)
        threads.run(times_matrix, len(parts), x, y, parts)
        return parts[0] if len(parts) == 1 else parts.sum(0)
    if y.flags.f_contiguous:
        result = np.empty((len(x), columns), x.dtype)
        threads.run(times_transposed, columns, x, y.T, result, least=max(1, PIECE // max(inner, 1)))
        return result
    return NotImplemented


@compiled
def sums_of_blocks(low, high, a, sums):
    """Row b of the sums is that of the rows b BLOCK to (b + 1) BLOCK of a."""
    for block in range(low, high):
        total = sums[block]
        for c in range(len(total)):
            total[c] = 0
        for n in range(block * BLOCK, min((block + 1) * BLOCK, len(a))):
            row = a[n]
            for c in range(len(total)):
                total[c] += row[c]


@sum_rows.kernel
def _(a):
    if not same_float(a):
        return NotImplemented
    a = matrix(a)
    sums = np.empty((-(-len(a) // BLOCK), a.shape[1]), a.dtype)
    threads.run(sums_of_blocks, len(sums), a, sums, least=least_blocks(a))
    return sums[0] if len(sums) == 1 else sums.sum(0)
