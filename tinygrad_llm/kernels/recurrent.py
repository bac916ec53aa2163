"""Compiled twins of `ops/recurrent.py`: all steps of a sequence in one compiled loop, forward and backward.

Sequences do not depend on each other, so threads share them out, and wait for nobody between steps. The matrix that
multiplies the state is the same in all steps: it is copied once into panels, the layout in which a product in registers
reads it. BLAS would copy it again in each step, which for few sequences takes as long as the product. The products over
all steps at once are those of the reference.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import number, tanh
from tinygrad_llm.kernels.layout import same_float
from tinygrad_llm.kernels.panels import copy_back, copy_rows, copy_transposed, multiply, rounded
from tinygrad_llm.kernels.recurrent_cells import add, copy, gru_row, gru_row_back, lstm_row, lstm_row_back
from tinygrad_llm.kernels.vector import ROWS, allocate, block_columns, matrix_at, multiply_pair, row_of, rows_from
from tinygrad_llm.ops.products import linear, product, rows, sum_rows
from tinygrad_llm.ops.recurrent import check_sequence, gru, lstm, rnn, states_before

LEAST_WORK = 1 << 21
"""Multiplications below which a piece of work is not given to another thread."""


def place(a):
    """(address, strides in bytes) of an array (B, T, F), or (B, F) for all steps; its rows must be contiguous.

    Compiled functions take these numbers rather than arrays: they would be compiled again for each kind of array.
    """
    return (a.ctypes.data, a.strides[0], a.strides[1] if a.ndim == 3 else 0)


def in_place(a):
    """The array, or a copy of it if its rows are not contiguous. Whoever asks for its place must keep it."""
    return a if a.strides[-1] == a.itemsize else np.ascontiguousarray(a)


@compiled(inline=True)
def at(place, start, t, count, columns, like):
    """The rows of `count` sequences from `start`, at step t."""
    address, across, along = place
    return matrix_at(address + start * across + t * along, across, count, columns, like)


@compiled
def copy_strips(x, panels):
    """The columns of x (n, c) as panels: panel p has ``x[:, p W : (p + 1) W]``, n rows of W numbers."""
    width = block_columns(x)
    for p in range(len(panels) // len(x)):
        first, most = p * width, min(width, x.shape[1] - p * width)
        for k in range(len(x)):
            source, target = row_of(x, k)[first : first + most], row_of(panels, p * len(x) + k)
            for j in range(most):
                target[j] = source[j]


@compiled(inline=True)
def strips(weight, units, columns, like):
    """Panels for a product of states with weight (F, G)."""
    step = block_columns(like)
    panels = allocate(rounded(columns, step) // step * units, step, like)
    copy_strips(at(weight, 0, 0, units, columns, like), panels)
    return panels


@compiled(inline=True)
def transposed_strips(weight, units, columns, like):
    """Panels for a product with the transpose of weight (F, G)."""
    step = block_columns(like)
    panels = allocate(rounded(units, step) // step * columns, step, like)
    copy_transposed(at(weight, 0, 0, units, columns, like), panels)
    return panels


@compiled(inline=True)
def times(x, count, panels, y, added):
    """``y = x w`` for a w in panels, or ``y += x w``, of the first `count` rows; nobody looks at the others."""
    if count <= 2:
        _pair_times(rows_from(x, 0), panels, rows_from(y, 0), np.bool_(added))
        return
    step, inner = block_columns(x), x.shape[1]
    for p in range(y.shape[1] // step):
        multiply(x, 0, count, rows_from(panels, p * inner), 0, inner, step, y, 0, p * step, added)


@compiled
def _pair_times(x, panels, y, added):
    """`times` for one row or two: in blocks of ROWS most of the work would be for nobody."""
    step, inner = block_columns(x), x.shape[1]
    for p in range(y.shape[1] // step):
        multiply_pair(x, 0, rows_from(panels, p * inner), 0, 0, inner, y, 0, p * step, added)


@compiled(inline=True)
def room(count, columns, like):
    """A matrix for `count` rows, in as many as a product takes at once; nobody looks at those beyond."""
    return allocate(rounded(count, ROWS), columns, like)


# -- rnn ---------------------------------------------------------------------------------------------------------------


@compiled
def rnn_forward(low, high, sizes, like, weight, h, y):
    """Blocks of ROWS sequences; y holds what the inputs give, and becomes the states."""
    batch, time, n = sizes
    start, count = low * ROWS, min(high * ROWS, batch) - low * ROWS
    panels, state = strips(weight, n, n, like), room(count, n, like)
    given = room(count, rounded(n, block_columns(like)), like)
    copy_rows(at(h, start, 0, count, n, like), state, like.dtype.type(1))
    for t in range(time):
        times(state, count, panels, given, False)
        hidden = at(y, start, t, count, n, like)
        for b in range(count):
            yb, pb = row_of(hidden, b), row_of(given, b)
            for j in range(n):
                yb[j] = tanh(yb[j] + pb[j])
            copy(yb, row_of(state, b))


@compiled
def rnn_backward(low, high, sizes, like, weight, y, dy, dlast, da, dh):
    batch, time, n = sizes
    start, count = low * ROWS, min(high * ROWS, batch) - low * ROWS
    panels, d = transposed_strips(weight, n, n, like), room(count, n, like)
    back = room(count, rounded(n, block_columns(like)), like)
    copy_rows(at(dlast, start, 0, count, n, like), back, like.dtype.type(1))
    for t in range(time - 1, -1, -1):
        hidden, arriving = at(y, start, t, count, n, like), at(dy, start, t, count, n, like)
        out = at(da, start, t, count, n, like)
        for b in range(count):
            yb, dyb, pb, db = row_of(hidden, b), row_of(arriving, b), row_of(back, b), row_of(d, b)
            for j in range(n):
                db[j] = (dyb[j] + pb[j]) * (number(1, yb[j]) - yb[j] * yb[j])
            copy(db, row_of(out, b))
        times(d, count, panels, back, False)
    copy_back(back, at(dh, start, 0, count, n, like), like.dtype.type(1))


@rnn.kernel
def _(x, h, weight_x, weight_h, bias):
    if not same_float(x, h, weight_x, weight_h, bias) or declined(x, h):
        return NotImplemented
    check_sequence("rnn", 1, x, h, weight_x=weight_x, weight_h=weight_h, bias=bias)
    y, linear_vjp = linear.reference(x, weight_x, bias)
    run(rnn_forward, y, weight_h, h, y)

    def vjp(dys):
        da, dh = np.empty_like(y), np.empty(h.shape, h.dtype)
        run(rnn_backward, y, weight_h, y, *dys, da, dh)
        dx, dweight_x, dbias = linear_vjp(da)
        return dx, dh, dweight_x, lambda: product(rows(states_before(h, y)).T, rows(da)), dbias

    return (y, y[:, -1].copy()), vjp


def declined(x, h):
    """Whether there is too little to do: the matrix is not copied for a single step."""
    return x.ndim != 3 or x.shape[1] < 2 or not h.size


def run(function, y, *arrays):
    """Share out the sequences of y (B, T, F) over the threads."""
    batch, time, units = y.shape
    arrays = tuple(map(in_place, arrays))
    work = ROWS * time * arrays[0].size
    sizes, like = (batch, time, units), np.empty((0, 0), y.dtype)
    threads.run(function, -(-batch // ROWS), sizes, like, *map(place, arrays), least=-(-LEAST_WORK // work))


# -- lstm --------------------------------------------------------------------------------------------------------------


@compiled
def lstm_forward(low, high, sizes, like, weight, h, c, gates, y, cells):
    """Blocks of ROWS sequences; the gates hold what the inputs give, and become their activations."""
    batch, time, n = sizes
    start, count = low * ROWS, min(high * ROWS, batch) - low * ROWS
    panels, state = strips(weight, n, 4 * n, like), room(count, n, like)
    given = room(count, rounded(4 * n, block_columns(like)), like)
    copy_rows(at(h, start, 0, count, n, like), state, like.dtype.type(1))
    before = at(c, start, 0, count, n, like)
    for t in range(time):
        times(state, count, panels, given, False)
        a, hidden = at(gates, start, t, count, 4 * n, like), at(y, start, t, count, n, like)
        after = at(cells, start, t, count, n, like)
        for b in range(count):
            ab = row_of(a, b)
            add(row_of(given, b), ab)
            lstm_row(ab, row_of(before, b), row_of(hidden, b), row_of(after, b))
            copy(row_of(hidden, b), row_of(state, b))
        before = after


@compiled
def lstm_backward(low, high, sizes, like, weight, activations, c, cells, dy, dlast, dlast_c, da, dh, dc):
    batch, time, n = sizes
    start, count = low * ROWS, min(high * ROWS, batch) - low * ROWS
    panels, d = transposed_strips(weight, n, 4 * n, like), room(count, 4 * n, like)
    back = room(count, rounded(n, block_columns(like)), like)
    copy_rows(at(dlast, start, 0, count, n, like), back, like.dtype.type(1))
    through = at(dc, start, 0, count, n, like)
    copy_rows(at(dlast_c, start, 0, count, n, like), through, like.dtype.type(1))
    for t in range(time - 1, -1, -1):
        a, out = at(activations, start, t, count, 4 * n, like), at(da, start, t, count, 4 * n, like)
        after, arriving = at(cells, start, t, count, n, like), at(dy, start, t, count, n, like)
        before = at(cells, start, t - 1, count, n, like) if t > 0 else at(c, start, 0, count, n, like)
        for b in range(count):
            dhb, db = row_of(back, b)[:n], row_of(d, b)
            add(row_of(arriving, b), dhb)
            lstm_row_back(row_of(a, b), row_of(before, b), row_of(after, b), dhb, row_of(through, b), db)
            copy(db, row_of(out, b))
        times(d, count, panels, back, False)
    copy_back(back, at(dh, start, 0, count, n, like), like.dtype.type(1))


@lstm.kernel
def _(x, h, c, weight_x, weight_h, bias):
    if not same_float(x, h, c, weight_x, weight_h, bias) or declined(x, h):
        return NotImplemented
    check_sequence("lstm", 4, x, h, c=c, weight_x=weight_x, weight_h=weight_h, bias=bias)
    activations, linear_vjp = linear.reference(x, weight_x, bias)
    y, cells = (np.empty((*x.shape[:2], h.shape[1]), h.dtype) for _ in range(2))
    run(lstm_forward, y, weight_h, h, c, activations, y, cells)

    def vjp(dys):
        da, dh, dc = np.empty_like(activations), np.empty(h.shape, h.dtype), np.empty(h.shape, h.dtype)
        run(lstm_backward, y, weight_h, activations, c, cells, *dys, da, dh, dc)
        dx, dweight_x, dbias = linear_vjp(da)
        return dx, dh, dc, dweight_x, lambda: product(rows(states_before(h, y)).T, rows(da)), dbias

    return (y, y[:, -1].copy(), cells[:, -1].copy()), vjp


# -- gru ---------------------------------------------------------------------------------------------------------------


@compiled
def gru_forward(low, high, sizes, like, weight, bias, h, entering, activations, y):
    batch, time, n = sizes
    start, count = low * ROWS, min(high * ROWS, batch) - low * ROWS
    panels, state = strips(weight, n, 3 * n, like), room(count, n, like)
    given = room(count, rounded(3 * n, block_columns(like)), like)
    copy_rows(at(h, start, 0, count, n, like), state, like.dtype.type(1))
    added = at(bias, 0, 0, 1, 3 * n, like)
    for t in range(time):
        for b in range(count):
            copy(row_of(added, 0), row_of(given, b)[: 3 * n])
        times(state, count, panels, given, True)
        x_gates, hidden = at(entering, start, t, count, 3 * n, like), at(y, start, t, count, n, like)
        a = at(activations, start, t, count, 4 * n, like)
        for b in range(count):
            gru_row(row_of(x_gates, b), row_of(given, b), row_of(state, b), row_of(a, b), row_of(hidden, b))
            copy(row_of(hidden, b), row_of(state, b))


@compiled
def gru_backward(low, high, sizes, like, weight, activations, h, y, dy, dlast, da, dg, dh):
    batch, time, n = sizes
    start, count = low * ROWS, min(high * ROWS, batch) - low * ROWS
    panels, d = transposed_strips(weight, n, 3 * n, like), room(count, 3 * n, like)
    back = room(count, rounded(n, block_columns(like)), like)
    copy_rows(at(dlast, start, 0, count, n, like), back, like.dtype.type(1))
    for t in range(time - 1, -1, -1):
        a, arriving = at(activations, start, t, count, 4 * n, like), at(dy, start, t, count, n, like)
        of_x, of_h = at(da, start, t, count, 3 * n, like), at(dg, start, t, count, 3 * n, like)
        before = at(y, start, t - 1, count, n, like) if t > 0 else at(h, start, 0, count, n, like)
        for b in range(count):
            dhb, db = row_of(back, b)[:n], row_of(d, b)
            add(row_of(arriving, b), dhb)
            gru_row_back(row_of(a, b), row_of(before, b), dhb, row_of(of_x, b), db)
            copy(db, row_of(of_h, b))
        times(d, count, panels, back, True)  # to the direct part
    copy_back(back, at(dh, start, 0, count, n, like), like.dtype.type(1))


@gru.kernel
def _(x, h, weight_x, weight_h, bias_x, bias_h):
    if not same_float(x, h, weight_x, weight_h, bias_x, bias_h) or declined(x, h):
        return NotImplemented
    check_sequence("gru", 3, x, h, weight_x=weight_x, weight_h=weight_h, bias_x=bias_x, bias_h=bias_h)
    entering, linear_vjp = linear.reference(x, weight_x, bias_x)
    activations = np.empty((*x.shape[:2], 4 * h.shape[1]), h.dtype)
    y = np.empty((*x.shape[:2], h.shape[1]), h.dtype)
    run(gru_forward, y, weight_h, bias_h[None], h, entering, activations, y)

    def vjp(dys):
        da, dg, dh = np.empty_like(entering), np.empty_like(entering), np.empty(h.shape, h.dtype)
        run(gru_backward, y, weight_h, activations, h, y, *dys, da, dg, dh)
        dx, dweight_x, dbias_x = linear_vjp(da)

        def dweight_h():
            return product(rows(states_before(h, y)).T, rows(dg))

        return dx, dh, dweight_x, dweight_h, dbias_x, lambda: sum_rows(dg)

    return (y, y[:, -1].copy()), vjp
