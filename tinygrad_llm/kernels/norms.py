"""Compiled twins of `ops/norms.py`: each row is read from memory once forward, and all gradients come from one pass.

The functions also serve the twins of `ops/residual_norms.py`: where `fused` is true, the addition before the norm, and
the cotangent of its sum behind it, are part of the same pass.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import BLOCK, least_blocks, least_rows, matrix, same_float
from tinygrad_llm.ops.norms import check_channels, layer_norm, rms_norm


@compiled
def layer_norm_forward(low, high, x, residual, fused, s, gain, bias, eps, y, mean, rstd, offset):
    """Normalise the rows of x into y; or, if `fused`, of ``s = x + residual``. ``xhat = (s - mean) rstd - offset``."""
    channels = x.shape[1]
    zero, n = x.dtype.type(0), x.dtype.type(channels)
    for i in range(low, high):
        xi, yi = x[i], y[i]
        total = zero
        if fused:
            ri, si = residual[i], s[i]
            for c in range(channels):
                v = xi[c] + ri[c]
                si[c] = v
                yi[c] = v
                total += v
        else:
            for c in range(channels):
                yi[c] = xi[c]
                total += xi[c]
        mu = total / n
        # the mean is rounded: what it leaves in the centred values is taken out by a second mean
        rest, square = zero, zero
        for c in range(channels):
            d = yi[c] - mu
            yi[c] = d
            rest += d
            square += d * d
        rest /= n
        variance = square / n - rest * rest
        if variance < rest * rest:  # that has cancelled: the row is nearly constant, and its values large
            square = zero
            for c in range(channels):
                square += (yi[c] - rest) * (yi[c] - rest)
            variance = square / n
        r = x.dtype.type(1) / np.sqrt(variance + eps)
        for c in range(channels):
            yi[c] = (yi[c] - rest) * r * gain[c] + bias[c]
        mean[i], rstd[i], offset[i] = mu, r, rest * r


@compiled
def layer_norm_backward(low, high, s, gain, mean, rstd, offset, dy, ds, fused, dx, dgain, dbias):
    """Blocks of rows: dx (plus ds, if `fused`), and a row of dgain and dbias for each block."""
    rows, channels = s.shape
    zero, n = s.dtype.type(0), s.dtype.type(channels)
    for block in range(low, high):
        dgain_block, dbias_block = dgain[block], dbias[block]
        dgain_block[:] = 0
        dbias_block[:] = 0
        for i in range(block * BLOCK, min((block + 1) * BLOCK, rows)):
            si, dyi, dxi = s[i], dy[i], dx[i]
            mu, r, shift = mean[i], rstd[i], offset[i]
            g_mean, along = zero, zero
            for c in range(channels):
                product = dyi[c] * ((si[c] - mu) * r - shift)
                dgain_block[c] += product
                dbias_block[c] += dyi[c]
                along += product * gain[c]
                g_mean += dyi[c] * gain[c]
            g_mean /= n
            along /= n
            if fused:
                dsi = ds[i]
                for c in range(channels):
                    dxi[c] = (dyi[c] * gain[c] - g_mean - ((si[c] - mu) * r - shift) * along) * r + dsi[c]
            else:
                for c in range(channels):
                    dxi[c] = (dyi[c] * gain[c] - g_mean - ((si[c] - mu) * r - shift) * along) * r


@layer_norm.kernel
def _(x, gain, bias, eps=1e-5):
    if not same_float(x, gain, bias):
        return NotImplemented
    check_channels("layer_norm", x, gain=gain, bias=bias)
    gain = np.ascontiguousarray(gain)
    s, y, statistics = layer_norm_of_sum(x, None, gain, bias, eps)

    def vjp(dy):
        dx, dgain, dbias = layer_norm_gradients(s, gain, statistics, dy)
        return dx, lambda: dgain.sum(0), lambda: dbias.sum(0)

    return y, vjp


def layer_norm_of_sum(x, residual, gain, bias, eps):
    """``s = x + residual``, or x if there is no residual; its norm y; and what the gradients need of each row."""
    xs, y = matrix(x), np.empty(x.shape, x.dtype)
    ys, statistics = matrix(y), tuple(np.empty((3, len(xs)), x.dtype))
    s = xs if residual is None else np.empty(x.shape, x.dtype)
    # without a residual y stands for it, unread: x may be read-only, and Numba would compile for that once more
    added = (ys, False, ys) if residual is None else (matrix(residual), True, matrix(s))
    factors = gain, np.ascontiguousarray(bias), x.dtype.type(eps)
    threads.run(layer_norm_forward, len(xs), xs, *added, *factors, ys, *statistics, least=least_rows(xs))
    return s, y, statistics


def layer_norm_gradients(s, gain, statistics, dy, ds=None):
    """dx, plus ds if there is one, and the contributions of each block of rows to dgain and dbias."""
    s, dys, fused = matrix(s), matrix(dy), ds is not None
    blocks = -(-len(s) // BLOCK)
    dx = np.empty(dy.shape, s.dtype)
    dgain, dbias = np.empty((2, blocks, s.shape[1]), s.dtype)
    arrays = s, gain, *statistics, dys, matrix(ds) if fused else dys, fused, matrix(dx), dgain, dbias
    threads.run(layer_norm_backward, blocks, *arrays, least=least_blocks(s))
    return dx, dgain, dbias


# ---------------------------------------------------------------------------------------------------------------------


@compiled
def rms_norm_forward(low, high, x, residual, fused, s, gain, eps, y, scale):
    """Normalise the rows of x into y; or, if `fused`, of ``s = x + residual``. ``xhat = s scale``."""
    channels = x.shape[1]
    for i in range(low, high):
        xi, yi = x[i], y[i]
        square = x.dtype.type(0)
        if fused:
            ri, si = residual[i], s[i]
            for c in range(channels):
                v = xi[c] + ri[c]
                si[c] = v
                yi[c] = v
                square += v * v
        else:
            for c in range(channels):
                yi[c] = xi[c]
                square += xi[c] * xi[c]
        r = x.dtype.type(1) / np.sqrt(square / x.dtype.type(channels) + eps)
        for c in range(channels):
            yi[c] = yi[c] * r * gain[c]
        scale[i] = r


@compiled
def rms_norm_backward(low, high, s, gain, scale, dy, ds, fused, dx, dgain):
    """Blocks of rows: dx (plus ds, if `fused`), and a row of dgain for each block."""
    rows, channels = s.shape
    for block in range(low, high):
        dgain_block = dgain[block]
        dgain_block[:] = 0
        for i in range(block * BLOCK, min((block + 1) * BLOCK, rows)):
            si, dyi, dxi = s[i], dy[i], dx[i]
            r = scale[i]
            along = s.dtype.type(0)
            for c in range(channels):
                product = dyi[c] * (si[c] * r)
                dgain_block[c] += product
                along += product * gain[c]
            along /= s.dtype.type(channels)
            if fused:
                dsi = ds[i]
                for c in range(channels):
                    dxi[c] = (dyi[c] * gain[c] - si[c] * r * along) * r + dsi[c]
            else:
                for c in range(channels):
                    dxi[c] = (dyi[c] * gain[c] - si[c] * r * along) * r


@rms_norm.kernel
def _(x, gain, eps=1e-5):
    if not same_float(x, gain):
        return NotImplemented
    check_channels("rms_norm", x, gain=gain)
    gain = np.ascontiguousarray(gain)
    s, y, scale = rms_norm_of_sum(x, None, gain, eps)

    def vjp(dy):
        dx, dgain = rms_norm_gradients(s, gain, scale, dy)
        return dx, lambda: dgain.sum(0)

    return y, vjp


def rms_norm_of_sum(x, residual, gain, eps):
    """``s = x + residual``, or x if there is no residual; its norm y; and the scale of each row."""
    xs, y = matrix(x), np.empty(x.shape, x.dtype)
    ys, scale = matrix(y), np.empty(len(xs), x.dtype)
    s = xs if residual is None else np.empty(x.shape, x.dtype)
    added = (ys, False, ys) if residual is None else (matrix(residual), True, matrix(s))
    threads.run(rms_norm_forward, len(xs), xs, *added, gain, x.dtype.type(eps), ys, scale, least=least_rows(xs))
    return s, y, scale


def rms_norm_gradients(s, gain, scale, dy, ds=None):
    """dx, plus ds if there is one, and the contributions of each block of rows to dgain."""
    s, dys, fused = matrix(s), matrix(dy), ds is not None
    blocks = -(-len(s) // BLOCK)
    dx = np.empty(dy.shape, s.dtype)
    dgain = np.empty((blocks, s.shape[1]), s.dtype)
    arrays = s, gain, scale, dys, matrix(ds) if fused else dys, fused, matrix(dx), dgain
    threads.run(rms_norm_backward, blocks, *arrays, least=least_blocks(s))
    return dx, dgain
