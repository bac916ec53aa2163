"""Parts of blocked kernels: copies of matrices in the layout that a product reads, and exponentials of rows."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import exp
from tinygrad_llm.kernels.vector import ROWS, block_columns, largest, multiply_block, row_of, rows_from, transpose_block


@compiled(inline=True)
def rounded(length, step):
    """`length` rounded up to a multiple of `step`."""
    return (length + step - 1) // step * step


@compiled(inline=True)
def multiply(a, low, high, b, first, last, columns, c, m, n, add):
    """``a[low:high, first:last] @ b[first:last, :columns]`` into c or added to it, its rows from m, columns from n.

    In whole blocks (see `multiply_block`): the arrays are large enough for them.
    """
    a, b, c = rows_from(a, 0), rows_from(b, 0), rows_from(c, 0)
    _multiply(a, low, high, b, np.intp(first), np.intp(last), columns, c, np.intp(m), np.intp(n), np.bool_(add))


@compiled
def _multiply(a, low, high, b, first, last, columns, c, m, n, add):
    """`multiply` with arguments of one type whatever is given, lest it is compiled for each."""
    for i in range(low, high, ROWS):
        for j in range(0, columns, block_columns(a)):
            multiply_block(a, i, b, j, first, last, c, m + i, n + j, add)


@compiled
def copy_rows(x, y, factor):
    """``y[:n, :c] = factor x`` for x (n, c), and 0 in what else there is of y, which a block may read."""
    rows, columns = x.shape
    for i in range(len(y)):
        yi = row_of(y, i)
        if i < rows:
            xi = row_of(x, i)
            for c in range(columns):
                yi[c] = xi[c] * factor
        for c in range(columns if i < rows else 0, y.shape[1]):
            yi[c] = 0


@compiled
def copy_transposed(x, panels):
    """The rows of x (n, c) as columns: panel p has ``x[p W : (p + 1) W].T``, c rows of W numbers; 0 for no row."""
    rows, columns = x.shape
    width = block_columns(x)
    lanes = width // 2
    for start in range(0, rounded(rows, width), width):
        panel = rows_from(panels, start // width * columns)
        for j in range(0, width, lanes):
            i = start + j
            whole = columns // lanes * lanes if i + lanes <= rows else 0
            for c in range(0, whole, lanes):
                transpose_block(x, i, c, panel, c, j)
            for c in range(whole, columns):
                row = row_of(panel, c)[j : j + lanes]
                for r in range(lanes):
                    row[r] = x[i + r, c] if i + r < rows else 0


@compiled
def copy_back(x, y, factor):
    """``y = factor x``, of x only so many rows and columns as y has."""
    for i in range(len(y)):
        copy_scaled(row_of(x, i), row_of(y, i), factor)


@compiled(inline=True)
def copy_scaled(x, y, factor):
    for c in range(len(y)):
        y[c] = x[c] * factor


@compiled(inline=True, reorder=True)
def exponentials(scores, low, high, first, end, top, total):
    """Make the scores of rows low to high ``exp(score - top)``, with the maximum and the sum of each row in `top` and
    `total`. Of nothing but -inf: 0 and 0.

    Columns first to end are whole blocks: with loops of one length nothing is left to be done one by one. Each step
    is taken in all rows before the next, since a processor works on several rows at once if none waits for itself.
    """
    step = block_columns(scores)
    for i in range(low, high):
        most = largest(row_of(scores, i)[first:end])
        top[i] = most if most > -np.inf else scores.dtype.type(0)
    for i in range(low, high):
        row, most = row_of(scores, i)[first:end], top[i]
        for begin in range(0, end - first, step):
            part = row[begin : begin + step]
            for s in range(step):
                part[s] = exp(part[s] - most)
    for i in range(low, high):
        row, sum = row_of(scores, i)[first:end], scores.dtype.type(0)
        for s in range(end - first):
            sum += row[s]
        total[i] = sum


@compiled(inline=True)
def fill(row, value):
    for s in range(len(row)):
        row[s] = value


@compiled(inline=True, reorder=True)
def inner(x, y):
    """The dot product of two rows."""
    total = x.dtype.type(0)
    for d in range(len(x)):
        total += x[d] * y[d]
    return total
