"""Compiled twins of `ops/residual_norms.py`: the sum and its norm in one pass, and what both hand back in another."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.layout import least_rows, matrix, same_float
from tinygrad_llm.kernels.norms import layer_norm_forward, layer_norm_gradients, rms_norm_forward, rms_norm_gradients
from tinygrad_llm.ops.residual_norms import add_layer_norm, add_rms_norm, check_sum


@add_layer_norm.kernel
def _(x, residual, gain, bias, eps=1e-5):
    if not same_float(x, residual, gain, bias):
        return NotImplemented
    check_sum("add_layer_norm", x, residual, gain=gain, bias=bias)
    xs = matrix(x)
    gain, bias = np.ascontiguousarray(gain), np.ascontiguousarray(bias)
    s, y = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    ss = matrix(s)
    mean, rstd, offset = np.empty((3, len(xs)), x.dtype)
    arrays = xs, matrix(residual), True, ss, gain, bias, x.dtype.type(eps), matrix(y), mean, rstd, offset
    threads.run(layer_norm_forward, len(xs), *arrays, least=least_rows(xs))

    def vjp(dys):
        ds, dy = dys
        dx, dgain, dbias = layer_norm_gradients(ss, gain, (mean, rstd, offset), matrix(dy), matrix(ds))
        dx = dx.reshape(dy.shape)
        return dx, dx, lambda: dgain.sum(0), lambda: dbias.sum(0)

    return (s, y), vjp


@add_rms_norm.kernel
def _(x, residual, gain, eps=1e-5):
    if not same_float(x, residual, gain):
        return NotImplemented
    check_sum("add_rms_norm", x, residual, gain=gain)
    xs = matrix(x)
    gain = np.ascontiguousarray(gain)
    s, y = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    ss = matrix(s)
    scale = np.empty(len(xs), x.dtype)
    arrays = xs, matrix(residual), True, ss, gain, x.dtype.type(eps), matrix(y), scale
    threads.run(rms_norm_forward, len(xs), *arrays, least=least_rows(xs))

    def vjp(dys):
        ds, dy = dys
        dx, dgain = rms_norm_gradients(ss, gain, scale, matrix(dy), matrix(ds))
        dx = dx.reshape(dy.shape)
        return dx, dx, lambda: dgain.sum(0)

    return (s, y), vjp
