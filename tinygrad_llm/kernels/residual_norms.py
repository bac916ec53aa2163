"""Compiled twins of `ops/residual_norms.py`: the sum and its norm in one pass, and what both hand back in another."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.layout import same_float
from tinygrad_llm.kernels.norms import layer_norm_gradients, layer_norm_of_sum, rms_norm_gradients, rms_norm_of_sum
from tinygrad_llm.ops.residual_norms import add_layer_norm, add_rms_norm, check_sum


@add_layer_norm.kernel
def _(x, residual, gain, bias, eps=1e-5):
    if not same_float(x, residual, gain, bias):
        return NotImplemented
    check_sum("add_layer_norm", x, residual, gain=gain, bias=bias)
    gain = np.ascontiguousarray(gain)
    s, y, statistics = layer_norm_of_sum(x, residual, gain, bias, eps)

    def vjp(dys):
        ds, dy = dys
        dx, dgain, dbias = layer_norm_gradients(s, gain, statistics, dy, ds)
        return dx, dx, lambda: dgain.sum(0), lambda: dbias.sum(0)

    return (s, y), vjp


@add_rms_norm.kernel
def _(x, residual, gain, eps=1e-5):
    if not same_float(x, residual, gain):
        return NotImplemented
    check_sum("add_rms_norm", x, residual, gain=gain)
    gain = np.ascontiguousarray(gain)
    s, y, scale = rms_norm_of_sum(x, residual, gain, eps)

    def vjp(dys):
        ds, dy = dys
        dx, dgain = rms_norm_gradients(s, gain, scale, dy, ds)
        return dx, dx, lambda: dgain.sum(0)

    return (s, y), vjp
