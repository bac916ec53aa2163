"""Compiled twins of `ops/activations.py`: one pass forward and one backward, whatever the formula.

gelu and silu keep x alone for the vjp, and compute there again what the reference keeps beside it: that costs less than
to write an array to memory and to read it. The others keep y, as the reference does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels import elementary
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import LOG2_E, expm1, falling, normal, number
from tinygrad_llm.kernels.layout import PIECE, same_float
from tinygrad_llm.ops.activations import GELU_CUBIC, SQRT_2_OVER_PI, gelu, relu, sigmoid, silu, softplus, tanh
from tinygrad_llm.tape import Array


def elementwise(function: Callable[..., Any], *arrays: Array) -> Array:
    """A new array of what ``function(low, high, *inputs, output)`` computes from arrays of one shape."""
    y = np.empty(arrays[0].shape, arrays[0].dtype)
    flat = [np.ascontiguousarray(a).reshape(-1) for a in arrays]
    threads.run(function, y.size, *flat, y.reshape(-1), least=PIECE)
    return y


# -- gelu --------------------------------------------------------------------------------------------------------------

CUBIC, SLOPE = 2 * SQRT_2_OVER_PI * GELU_CUBIC, 2 * SQRT_2_OVER_PI
FALLING_CUBIC, FALLING_SLOPE = -LOG2_E * CUBIC, -LOG2_E * SLOPE
"""Of 2 u. The tanh form is ``y = x s``, ``s = (1 + tanh u) / 2 = sigmoid(2 u)``, and ``(1 - tanh u) / 2 = 1 - s``."""

INVERSE_SQRT_2_PI = 1 / math.sqrt(2 * math.pi)


@compiled(inline=True)
def gelu_share(x):
    """s, the share of x that the tanh form lets through."""
    return falling((x * x * number(FALLING_CUBIC, x) + number(FALLING_SLOPE, x)) * x)


@compiled(inline=True)
def gelu_tanh(x):
    return x * gelu_share(x)


@compiled(inline=True)
def gelu_tanh_derivative(x):
    return gelu_slope(x, gelu_share(x))


@compiled(inline=True)
def gelu_slope(x, s):
    """The derivative of ``x s``, multiplied in this order: ``x slope`` alone would overflow where it counts 0."""
    slope = x * x * number(3 * CUBIC, x) + number(SLOPE, x)
    return s * (number(1, x) + x * (number(1, x) - s) * slope)


@compiled(inline=True)
def gelu_normal(x):
    return x * normal(x)[0]


@compiled(inline=True)
def gelu_normal_derivative(x):
    cumulative, e = normal(x)
    return cumulative + x * (e * number(INVERSE_SQRT_2_PI, x))


@compiled
def gelu_tanh_forward(low, high, x, y):
    x, y = x[low:high], y[low:high]
    for i in range(len(x)):
        y[i] = gelu_tanh(x[i])


@compiled
def gelu_tanh_backward(low, high, x, dy, dx):
    x, dy, dx = x[low:high], dy[low:high], dx[low:high]
    for i in range(len(x)):
        dx[i] = dy[i] * gelu_tanh_derivative(x[i])


@compiled
def gelu_normal_forward(low, high, x, y):
    x, y = x[low:high], y[low:high]
    for i in range(len(x)):
        y[i] = gelu_normal(x[i])


@compiled
def gelu_normal_backward(low, high, x, dy, dx):
    x, dy, dx = x[low:high], dy[low:high], dx[low:high]
    for i in range(len(x)):
        dx[i] = dy[i] * gelu_normal_derivative(x[i])


@gelu.kernel
def _(x, approximate=True):
    if not same_float(x):
        return NotImplemented
    y = elementwise(gelu_tanh_forward if approximate else gelu_normal_forward, x)
    return y, lambda dy: elementwise(gelu_tanh_backward if approximate else gelu_normal_backward, x, dy)


# -- the others --------------------------------------------------------------------------------------------------------


@compiled
def silu_forward(low, high, x, y):
    x, y = x[low:high], y[low:high]
    for i in range(len(x)):
        y[i] = x[i] * falling(x[i] * number(-LOG2_E, x[i]))


@compiled
def silu_backward(low, high, x, dy, dx):
    x, dy, dx = x[low:high], dy[low:high], dx[low:high]
    for i in range(len(x)):
        s = falling(x[i] * number(-LOG2_E, x[i]))
        dx[i] = dy[i] * (s + x[i] * s * (number(1, s) - s))


@silu.kernel
def _(x):
    if not same_float(x):
        return NotImplemented
    return elementwise(silu_forward, x), lambda dy: elementwise(silu_backward, x, dy)


def keep_y(operation, forward, backward):
    """Register the kernel of an operation whose gradient is computed from y."""

    @operation.kernel
    def _(x):
        if not same_float(x):
            return NotImplemented
        y = elementwise(forward, x)
        return y, lambda dy: elementwise(backward, y, dy)


@compiled
def tanh_forward(low, high, x, y):
    x, y = x[low:high], y[low:high]
    for i in range(len(x)):
        y[i] = elementary.tanh(x[i])


@compiled
def tanh_backward(low, high, y, dy, dx):
    y, dy, dx = y[low:high], dy[low:high], dx[low:high]
    for i in range(len(y)):
        dx[i] = dy[i] * (number(1, y[i]) - y[i] * y[i])


keep_y(tanh, tanh_forward, tanh_backward)


@compiled
def sigmoid_forward(low, high, x, y):
    x, y = x[low:high], y[low:high]
    for i in range(len(x)):
        y[i] = elementary.sigmoid(x[i])


@compiled
def sigmoid_backward(low, high, y, dy, dx):
    y, dy, dx = y[low:high], dy[low:high], dx[low:high]
    for i in range(len(y)):
        dx[i] = dy[i] * y[i] * (number(1, y[i]) - y[i])


keep_y(sigmoid, sigmoid_forward, sigmoid_backward)


@compiled
def relu_forward(low, high, x, y):
    x, y = x[low:high], y[low:high]
    for i in range(len(x)):
        y[i] = number(0, x[i]) if x[i] <= 0 else x[i]  # so that NaN stays


@compiled
def relu_backward(low, high, y, dy, dx):
    y, dy, dx = y[low:high], dy[low:high], dx[low:high]
    for i in range(len(y)):
        dx[i] = dy[i] * (number(1, dy[i]) if y[i] > 0 else number(0, dy[i]))


keep_y(relu, relu_forward, relu_backward)


@compiled
def softplus_forward(low, high, x, y):
    x, y = x[low:high], y[low:high]
    for i in range(len(x)):
        y[i] = elementary.softplus(x[i])


@compiled
def softplus_backward(low, high, y, dy, dx):
    y, dy, dx = y[low:high], dy[low:high], dx[low:high]
    for i in range(len(y)):
        least = -y[i] if y[i] < 80 else number(-80, y[i])
        e = dy[i] * -expm1(least)
        dx[i] = e if y[i] == y[i] else y[i]


keep_y(softplus, softplus_forward, softplus_backward)
