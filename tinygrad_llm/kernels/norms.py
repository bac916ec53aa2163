"""Compiled twins of `ops/norms.py`: each row is read from memory once forward, and its gradient is one pass."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import least_rows, matrix, same_float
from tinygrad_llm.ops.norms import check_channels, layer_norm

BLOCK = 64
"""Rows whose contributions to a parameter's gradient are added up before the blocks are: so the result does not depend
on the number of threads."""


@compiled
def layer_norm_forward(low, high, x, gain, bias, eps, y, mean, rstd):
    channels = x.shape[1]
    for i in range(low, high):
        xi, yi = x[i], y[i]
        total = x.dtype.type(0)
        for c in range(channels):
            total += xi[c]
        mu = total / channels
        # the mean of float32 values is rounded: what it leaves in the centred values is taken out by a second mean
        rest = x.dtype.type(0)
        square = x.dtype.type(0)
        for c in range(channels):
            d = xi[c] - mu
            rest += d
            square += d * d
        rest /= channels
        mu += rest
        r = 1 / np.sqrt(square / channels - rest * rest + eps)
        for c in range(channels):
            yi[c] = (xi[c] - mu) * r * gain[c] + bias[c]
        mean[i], rstd[i] = mu, r


@compiled
def layer_norm_backward(low, high, x, gain, mean, rstd, dy, dx):
    channels = x.shape[1]
    for i in range(low, high):
        xi, dyi, dxi = x[i], dy[i], dx[i]
        mu, r = mean[i], rstd[i]
        g_sum = x.dtype.type(0)
        along = x.dtype.type(0)
        for c in range(channels):
            g = dyi[c] * gain[c]
            g_sum += g
            along += g * (xi[c] - mu)
        g_mean = g_sum / channels
        along = along * r * r / channels
        for c in range(channels):
            dxi[c] = (dyi[c] * gain[c] - g_mean - (xi[c] - mu) * along) * r


@compiled
def layer_norm_parameters(low, high, x, mean, rstd, dy, dgain, dbias):
    """Blocks of rows, each into a row of its own of dgain and dbias."""
    rows, channels = x.shape
    for block in range(low, high):
        dgain_block, dbias_block = dgain[block], dbias[block]
        dgain_block[:] = 0
        dbias_block[:] = 0
        for i in range(block * BLOCK, min((block + 1) * BLOCK, rows)):
            xi, dyi = x[i], dy[i]
            mu, r = mean[i], rstd[i]
            for c in range(channels):
                dgain_block[c] += dyi[c] * (xi[c] - mu) * r
                dbias_block[c] += dyi[c]


@layer_norm.kernel
def _(x, gain, bias, eps=1e-5):
    if not same_float(x, gain, bias):
        return NotImplemented
    check_channels("layer_norm", x, gain=gain, bias=bias)
    xs, eps = matrix(x), x.dtype.type(eps)
    y = np.empty(x.shape, x.dtype)
    mean, rstd = np.empty(len(xs), x.dtype), np.empty(len(xs), x.dtype)
    gain, bias = np.ascontiguousarray(gain), np.ascontiguousarray(bias)
    threads.run(layer_norm_forward, len(xs), xs, gain, bias, eps, matrix(y), mean, rstd, least=least_rows(x))

    def vjp(dy):
        dys = matrix(dy)

        def dx():
            dx = np.empty(x.shape, x.dtype)
            threads.run(layer_norm_backward, len(xs), xs, gain, mean, rstd, dys, matrix(dx), least=least_rows(dx))
            return dx

        blocks = -(-len(xs) // BLOCK)
        dgain, dbias = np.empty((2, blocks, xs.shape[1]), x.dtype)
        threads.run(layer_norm_parameters, blocks, xs, mean, rstd, dys, dgain, dbias)
        return dx, dgain.sum(0), dbias.sum(0)

    return y, vjp
