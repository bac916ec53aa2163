"""Compiled twins of `ops/recurrent_cells.py`, and the formulas of one row, which `kernels/recurrent.py` has too.

The loops are short, with few arrays in each: before a loop runs on vectors it is made sure that what it writes overlaps
nothing that it reads, and LLVM gives up where this would take more than eight comparisons.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import number, sigmoid, tanh
from tinygrad_llm.kernels.layout import least_rows, matrix, same_float
from tinygrad_llm.ops.recurrent_cells import check_gates, gru_cell, lstm_cell


@compiled(inline=True)
def copy(x, y):
    for j in range(len(y)):
        y[j] = x[j]


@compiled(inline=True)
def add(x, y):
    """``y += x``."""
    for j in range(len(y)):
        y[j] += x[j]


@compiled(inline=True)
def sigmoids(a):
    for j in range(len(a)):
        a[j] = sigmoid(a[j])


# -- lstm --------------------------------------------------------------------------------------------------------------


@compiled(inline=True)
def lstm_row(a, before, h, after):
    """h and the cell state `after` of one row; its gates a become their activations."""
    n = len(h)
    i, f, g, o = a[:n], a[n : 2 * n], a[2 * n : 3 * n], a[3 * n : 4 * n]
    sigmoids(a[: 2 * n])
    for j in range(n):
        g[j] = tanh(g[j])
    sigmoids(o)
    for j in range(n):
        after[j] = f[j] * before[j] + i[j] * g[j]
    for j in range(n):
        h[j] = o[j] * tanh(after[j])


@compiled(inline=True)
def lstm_row_back(a, before, after, dh, dc, d):
    """d, the gradient of the gates, of the cotangents of h and of the cell state; dc becomes that of the one before."""
    n = len(dc)
    i, f, g, o = a[:n], a[n : 2 * n], a[2 * n : 3 * n], a[3 * n : 4 * n]
    d_i, d_f, d_g, d_o = d[:n], d[n : 2 * n], d[2 * n : 3 * n], d[3 * n : 4 * n]
    one = number(1, a[0])
    for j in range(n):
        d_o[j] = tanh(after[j])
    for j in range(n):
        through, t = dh[j] * o[j], d_o[j]
        dc[j] += through * (one - t * t)
        d_o[j] = through * t * (one - o[j])
    for j in range(n):
        total = dc[j]
        d_i[j] = total * g[j] * i[j] * (one - i[j])
        d_g[j] = total * i[j] * (one - g[j] * g[j])
    for j in range(n):
        total = dc[j] * f[j]
        d_f[j] = total * before[j] * (one - f[j])
        dc[j] = total


@compiled
def lstm_cell_forward(low, high, gates, c, activations, h, after):
    for b in range(low, high):
        copy(gates[b], activations[b])
        lstm_row(activations[b], c[b], h[b], after[b])


@compiled
def lstm_cell_backward(low, high, activations, c, after, dh, dafter, d, dc):
    for b in range(low, high):
        copy(dafter[b], dc[b])
        lstm_row_back(activations[b], c[b], after[b], dh[b], dc[b], d[b])


@lstm_cell.kernel
def _(gates, c):
    if not same_float(gates, c) or not c.size:
        return NotImplemented
    check_gates("lstm_cell", 4, c, "c", gates=gates)
    before, activations = matrix(c), np.empty(gates.shape, c.dtype)
    h, after = np.empty(c.shape, c.dtype), np.empty(c.shape, c.dtype)
    arrays = matrix(gates), before, matrix(activations), matrix(h), matrix(after)
    threads.run(lstm_cell_forward, len(before), *arrays, least=least_rows(gates))

    def vjp(dys):
        dgates, dc = np.empty(activations.shape, c.dtype), np.empty(c.shape, c.dtype)
        arrays = matrix(activations), before, matrix(after), *map(matrix, (*dys, dgates, dc))
        threads.run(lstm_cell_backward, len(before), *arrays, least=least_rows(activations))
        return dgates, dc

    return (h, after), vjp


# -- gru ---------------------------------------------------------------------------------------------------------------


@compiled(inline=True)
def gru_row(x, p, before, activations, h):
    """h of one row and its activations r, z, n and m, of what input and state give to the gates, x and p."""
    n = len(h)
    of_r, of_z = activations[:n], activations[n : 2 * n]
    of_n, of_m = activations[2 * n : 3 * n], activations[3 * n : 4 * n]
    gates, x_gates, x_n, p_n = activations[: 2 * n], x[: 2 * n], x[2 * n : 3 * n], p[2 * n : 3 * n]
    for j in range(2 * n):
        gates[j] = sigmoid(x_gates[j] + p[j])
    copy(p_n, of_m)
    for j in range(n):
        of_n[j] = tanh(x_n[j] + of_r[j] * p_n[j])
    for j in range(n):
        h[j] = of_n[j] + of_z[j] * (before[j] - of_n[j])


@compiled(inline=True)
def gru_row_back(activations, before, dh, da, dg):
    """da and dg, the gradients of x and p, of the cotangent dh; dh becomes the direct part of that of the state."""
    n = len(dh)
    r, z, of_n, m = activations[:n], activations[n : 2 * n], activations[2 * n : 3 * n], activations[3 * n : 4 * n]
    da_r, da_z, da_n, dg_n = da[:n], da[n : 2 * n], da[2 * n : 3 * n], dg[2 * n : 3 * n]
    one = number(1, r[0])
    for j in range(n):
        da_n[j] = dh[j] * (one - z[j]) * (one - of_n[j] * of_n[j])
    for j in range(n):
        da_z[j] = dh[j] * (before[j] - of_n[j]) * z[j] * (one - z[j])
    for j in range(n):
        part = da_n[j] * r[j]
        dg_n[j] = part
        da_r[j] = part * m[j] * (one - r[j])
    copy(da, dg[: 2 * n])
    for j in range(n):
        dh[j] *= z[j]


@compiled
def gru_cell_forward(low, high, x_gates, h_gates, h, activations, after):
    for b in range(low, high):
        gru_row(x_gates[b], h_gates[b], h[b], activations[b], after[b])


@compiled
def gru_cell_backward(low, high, activations, h, dafter, da, dg, dh):
    for b in range(low, high):
        copy(dafter[b], dh[b])
        gru_row_back(activations[b], h[b], dh[b], da[b], dg[b])


@gru_cell.kernel
def _(x_gates, h_gates, h):
    if not same_float(x_gates, h_gates, h) or not h.size:
        return NotImplemented
    check_gates("gru_cell", 3, h, "h", x_gates=x_gates, h_gates=h_gates)
    before, after = matrix(h), np.empty(h.shape, h.dtype)
    activations = np.empty((len(before), 4 * before.shape[1]), h.dtype)
    arrays = matrix(x_gates), matrix(h_gates), before, activations, matrix(after)
    threads.run(gru_cell_forward, len(before), *arrays, least=least_rows(activations))

    def vjp(dafter):
        dx_gates, dh_gates = (np.empty((*h.shape[:-1], 3 * h.shape[-1]), h.dtype) for _ in range(2))
        dh = np.empty(h.shape, h.dtype)
        arrays = activations, before, *map(matrix, (dafter, dx_gates, dh_gates, dh))
        threads.run(gru_cell_backward, len(before), *arrays, least=least_rows(activations))
        return dx_gates, dh_gates, dh

    return after, vjp
