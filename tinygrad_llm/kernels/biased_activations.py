"""Compiled twin of `ops/biased_activations.py`: x is read once forward; backward, dx and db come from one pass."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.activations import gelu_normal, gelu_normal_derivative, gelu_tanh, gelu_tanh_derivative
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import BLOCK, least_blocks, least_rows, matrix, same_float
from tinygrad_llm.ops.biased_activations import bias_gelu, check_bias


@compiled(inline=True)
def value(x, exact):
    """gelu, as a rule in its tanh form; `exact` is None or True.

    None has a type of its own, for which Numba does not compile the branch that is not taken.
    """
    return gelu_tanh(x) if exact is None else gelu_normal(x)


@compiled(inline=True)
def derivative(x, exact):
    """The derivative of `value`."""
    return gelu_tanh_derivative(x) if exact is None else gelu_normal_derivative(x)


@compiled
def bias_gelu_forward(low, high, exact, x, bias, y):
    columns = x.shape[1]
    for i in range(low, high):
        xi, yi = x[i], y[i]
        for c in range(columns):
            yi[c] = value(xi[c] + bias[c], exact)


@compiled
def bias_gelu_backward(low, high, exact, x, bias, dy, dx, db):
    """Blocks of rows, each with a row of db of its own."""
    rows, columns = x.shape
    for block in range(low, high):
        db_block = db[block]
        db_block[:] = 0
        for i in range(block * BLOCK, min((block + 1) * BLOCK, rows)):
            xi, dyi, dxi = x[i], dy[i], dx[i]
            for c in range(columns):
                d = dyi[c] * derivative(xi[c] + bias[c], exact)
                dxi[c] = d
                db_block[c] += d


@bias_gelu.kernel
def _(x, bias, approximate=True):
    if not same_float(x, bias):
        return NotImplemented
    check_bias("bias_gelu", x, bias)
    xs, bias = matrix(x), np.ascontiguousarray(bias)
    y = np.empty(x.shape, x.dtype)
    exact = None if approximate else True
    threads.run(bias_gelu_forward, len(xs), exact, xs, bias, matrix(y), least=least_rows(x))

    def vjp(dy):
        dx = np.empty(x.shape, x.dtype)
        blocks = -(-len(xs) // BLOCK)
        db = np.empty((blocks, len(bias)), x.dtype)
        threads.run(bias_gelu_backward, blocks, exact, xs, bias, matrix(dy), matrix(dx), db, least=least_blocks(xs))
        return dx, db.sum(0)

    return y, vjp
