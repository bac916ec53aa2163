"""Compiled twins of `ops/softmaxes.py`, along the last axis: a row stays in the cache while it is passed over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import exp
from tinygrad_llm.kernels.layout import least_rows, matrix, same_float
from tinygrad_llm.kernels.vector import largest
from tinygrad_llm.ops.softmaxes import log_softmax, logsumexp, softmax


def fits(x: Any, axis: Any) -> bool:
    """Whether the loops can run along the last axis of x, and there is something in it."""
    return same_float(x) and x.size > 0 and x.ndim > 0 and axis in (-1, x.ndim - 1)


@compiled(inline=True)
def highest(row):
    """The largest entry, or 0 if the row is fully masked: -inf + inf would be NaN."""
    top = largest(row)
    return top if top > -np.inf else row.dtype.type(0)


@compiled(inline=True)
def difference(x, top, log_total):
    """``(x - top) - log_total`` in this order, which an inlined function keeps: of logits 1e4 the sum loses digits."""
    return (x - top) - log_total


# -- softmax -----------------------------------------------------------------------------------------------------------


@compiled
def softmax_forward(low, high, x, p):
    columns = x.shape[1]
    for i in range(low, high):
        xi, pi = x[i], p[i]
        top = highest(xi)
        total = x.dtype.type(0)
        for c in range(columns):
            e = exp(xi[c] - top)
            pi[c] = e
            total += e
        factor = x.dtype.type(1) / total if total != 0 else total
        for c in range(columns):
            pi[c] *= factor


@compiled
def softmax_backward(low, high, p, dy, dx):
    columns = p.shape[1]
    for i in range(low, high):
        pi, dyi, dxi = p[i], dy[i], dx[i]
        along = p.dtype.type(0)
        for c in range(columns):
            along += dyi[c] * pi[c]
        for c in range(columns):
            dxi[c] = pi[c] * (dyi[c] - along)


@softmax.kernel
def _(x, axis=-1):
    if not fits(x, axis):
        return NotImplemented
    xs, p = matrix(x), np.empty(x.shape, x.dtype)
    threads.run(softmax_forward, len(xs), xs, matrix(p), least=least_rows(x))

    def vjp(dy):
        dx = np.empty(p.shape, p.dtype)
        ps = matrix(p)
        threads.run(softmax_backward, len(ps), ps, matrix(dy), matrix(dx), least=least_rows(p))
        return dx

    return p, vjp


# -- log_softmax -------------------------------------------------------------------------------------------------------


@compiled
def log_softmax_forward(low, high, x, y, masked):
    columns = x.shape[1]
    for i in range(low, high):
        xi, yi = x[i], y[i]
        top = highest(xi)
        total = x.dtype.type(0)
        for c in range(columns):
            total += exp(xi[c] - top)
        masked[i] = total == 0
        log_total = x.dtype.type(math.log(total)) if total != 0 else total
        for c in range(columns):
            yi[c] = difference(xi[c], top, log_total)


@compiled
def log_softmax_backward(low, high, y, masked, dy, dx):
    columns = y.shape[1]
    for i in range(low, high):
        yi, dyi, dxi = y[i], dy[i], dx[i]
        if masked[i]:
            dxi[:] = 0
            continue
        total = y.dtype.type(0)
        for c in range(columns):
            total += dyi[c]
        for c in range(columns):
            dxi[c] = dyi[c] - exp(yi[c]) * total


@log_softmax.kernel
def _(x, axis=-1):
    if not fits(x, axis):
        return NotImplemented
    xs, y = matrix(x), np.empty(x.shape, x.dtype)
    masked = np.empty(len(xs), np.bool_)
    threads.run(log_softmax_forward, len(xs), xs, matrix(y), masked, least=least_rows(x))

    def vjp(dy):
        dx = np.empty(y.shape, y.dtype)
        ys = matrix(y)
        threads.run(log_softmax_backward, len(ys), ys, masked, matrix(dy), matrix(dx), least=least_rows(y))
        return dx

    return y, vjp


# -- logsumexp ---------------------------------------------------------------------------------------------------------


@compiled
def logsumexp_forward(low, high, x, z, tops, totals):
    columns = x.shape[1]
    for i in range(low, high):
        xi = x[i]
        top = highest(xi)
        total = x.dtype.type(0)
        for c in range(columns):
            total += exp(xi[c] - top)
        z[i] = x.dtype.type(math.log(total)) + top  # of a fully masked row: log 0 is -inf here, not an error
        tops[i], totals[i] = top, total


@compiled
def logsumexp_backward(low, high, x, tops, totals, dy, dx):
    columns = x.shape[1]
    for i in range(low, high):
        xi, dxi = x[i], dx[i]
        top = tops[i]
        factor = dy[i] / totals[i] if totals[i] != 0 else dy[i]
        for c in range(columns):
            dxi[c] = exp(xi[c] - top) * factor


@logsumexp.kernel
def _(x, axis=-1, keepdims=False):
    if not fits(x, axis):
        return NotImplemented
    xs = matrix(x)
    z, top, total = np.empty((3, len(xs)), x.dtype)
    threads.run(logsumexp_forward, len(xs), xs, z, top, total, least=least_rows(x))

    def vjp(dy):
        dx = np.empty(x.shape, x.dtype)
        dys = np.ascontiguousarray(dy).reshape(-1)
        threads.run(logsumexp_backward, len(xs), xs, top, total, dys, matrix(dx), least=least_rows(x))
        return dx

    return z.reshape(*x.shape[:-1], 1) if keepdims else z.reshape(x.shape[:-1]), vjp
