"""Compiled twins of `ops/gated.py`: one pass forward, and one backward for both gradients.

Only gate and up are kept for the vjp: to compute the sigmoid again costs less than to write it to memory and read it.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.activations import gelu_share, gelu_slope, gelu_tanh
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import number, sigmoid
from tinygrad_llm.kernels.layout import PIECE, same_float
from tinygrad_llm.ops.gated import check_same_shape, geglu, swiglu


@compiled
def swiglu_forward(low, high, gate, up, y):
    gate, up, y = gate[low:high], up[low:high], y[low:high]
    for i in range(len(y)):
        y[i] = gate[i] * sigmoid(gate[i]) * up[i]


@compiled
def swiglu_backward(low, high, gate, up, dy, dgate, dup):
    gate, up, dy, dgate, dup = gate[low:high], up[low:high], dy[low:high], dgate[low:high], dup[low:high]
    for i in range(len(dy)):
        s = sigmoid(gate[i])
        silu = gate[i] * s
        dgate[i] = dy[i] * up[i] * (s + silu * (number(1, s) - s))
        dup[i] = dy[i] * silu


@compiled
def geglu_forward(low, high, gate, up, y):
    gate, up, y = gate[low:high], up[low:high], y[low:high]
    for i in range(len(y)):
        y[i] = gelu_tanh(gate[i]) * up[i]


@compiled
def geglu_backward(low, high, gate, up, dy, dgate, dup):
    gate, up, dy, dgate, dup = gate[low:high], up[low:high], dy[low:high], dgate[low:high], dup[low:high]
    for i in range(len(dy)):
        g = gate[i]
        s = gelu_share(g)
        dgate[i] = dy[i] * up[i] * gelu_slope(g, s)
        dup[i] = dy[i] * (g * s)


def gated(name, forward, backward, gate, up):
    """The value and the vjp of a gated unit."""
    if not same_float(gate, up):
        return NotImplemented
    check_same_shape(name, gate, up)
    shape = gate.shape
    gate, up = (np.ascontiguousarray(a).reshape(-1) for a in (gate, up))
    y = np.empty_like(gate)
    threads.run(forward, y.size, gate, up, y, least=PIECE)

    def vjp(dy):
        dgate, dup = np.empty_like(gate), np.empty_like(up)
        threads.run(backward, gate.size, gate, up, np.ascontiguousarray(dy).reshape(-1), dgate, dup, least=PIECE)
        return dgate.reshape(shape), dup.reshape(shape)

    return y.reshape(shape), vjp


@swiglu.kernel
def _(gate, up):
    return gated("swiglu", swiglu_forward, swiglu_backward, gate, up)


@geglu.kernel
def _(gate, up):
    return gated("geglu", geglu_forward, geglu_backward, gate, up)
