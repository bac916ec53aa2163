"""Arithmetic: add, sub, mul, div, neg, power. Elementwise, with NumPy's broadcasting.

Where an input was broadcast, each of its copies receives a cotangent, and the input receives their sum. The tape does
that sum (`tape.unbroadcast`) for every operation, so a vjp here returns the elementwise gradient; a derivation is
compared with it after that sum. Letters: ``z = x op y`` is the result, ``dy`` its cotangent, ``gx`` and ``gy`` the
gradients of the inputs ``x`` and ``y``.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.samples import apart, broadcast_shape, normal, positive


def diagonal(dy, local):
    """``sum_i dy_i dz_i/dx_j`` for an elementwise function: the dense Jacobian is diagonal, with `local` on it."""
    jacobian = np.diag(np.broadcast_to(local, dy.shape).ravel())
    return (dy.ravel() @ jacobian).reshape(dy.shape)


@op
def mul(x, y):
    """``z = x y``. Shapes broadcast. Saves both inputs; a multiplication each way.

    Gradients: ``gx = dy y`` and ``gy = dy x``: the cotangent, scaled by the other factor.
    """

    def vjp(dy):
        return lambda: dy * y, lambda: dy * x

    return x * y, vjp


@mul.derivation("x")
def _(x, y, dy):
    yield "gx_j = sum_i dy_i dz_i/dx_j, with dz_i/dx_j = y_i where i = j, else 0", diagonal(dy, y)
    yield "only the term i = j is left of the sum", dy * y


@mul.derivation("y")
def _(x, y, dy):
    yield "gy_j = sum_i dy_i dz_i/dy_j, with dz_i/dy_j = x_i where i = j, else 0", diagonal(dy, x)
    yield "only the term i = j is left of the sum", dy * x


@mul.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, broadcast_shape(rng, shape))), {}
