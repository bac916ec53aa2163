"""Arithmetic: add, sub, mul, div, neg, power. Elementwise, with NumPy's broadcasting.

Where an input was broadcast, each of its copies receives a cotangent, and the input receives their sum. The tape does
that sum (`tape.unbroadcast`) for every operation, so a vjp here returns the elementwise gradient; a derivation is
compared with it after that sum. Letters: ``z = x op y`` is the result, ``dy`` its cotangent, ``gx`` and ``gy`` the
gradients of the inputs ``x`` and ``y``. Either input may be a Python number.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.samples import broadcast_shape, normal, positive


def diagonal(dy, local):
    """``sum_i dy_i ∂z_i/∂x_j`` for an elementwise function: the dense Jacobian is diagonal, with `local` on it."""
    jacobian = np.diag(np.broadcast_to(local, dy.shape).ravel())
    return (dy.ravel() @ jacobian).reshape(dy.shape)


@op
def add(x, y):
    """``z = x + y``. Shapes broadcast. Saves nothing.

    Gradients: ``gx = gy = dy``: a sum hands its cotangent on to every term as it is.
    """

    def vjp(dy):
        return dy, dy

    return x + y, vjp


@add.derivation("x")
def _(x, y, dy):
    yield "`gx_j = sum_i dy_i ∂z_i/∂x_j`, with `∂z_i/∂x_j = 1` where `i = j`, else 0", diagonal(dy, 1.0)
    yield "only the term `i = j` is left of the sum", dy


@add.derivation("y")
def _(x, y, dy):
    yield "`gy_j = sum_i dy_i ∂z_i/∂y_j`, with `∂z_i/∂y_j = 1` where `i = j`, else 0", diagonal(dy, 1.0)
    yield "only the term `i = j` is left of the sum", dy


@add.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, broadcast_shape(rng, shape))), {}


@op
def sub(x, y):
    """``z = x - y``. Shapes broadcast. Saves nothing.

    Gradients: ``gx = dy`` and ``gy = -dy``.
    """

    def vjp(dy):
        return dy, lambda: -dy

    return x - y, vjp


@sub.derivation("x")
def _(x, y, dy):
    yield "`gx_j = sum_i dy_i ∂z_i/∂x_j`, with `∂z_i/∂x_j = 1` where `i = j`, else 0", diagonal(dy, 1.0)
    yield "only the term `i = j` is left of the sum", dy


@sub.derivation("y")
def _(x, y, dy):
    yield "`gy_j = sum_i dy_i ∂z_i/∂y_j`, with `∂z_i/∂y_j = -1` where `i = j`, else 0", diagonal(dy, -1.0)
    yield "only the term `i = j` is left of the sum", -dy


@sub.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, broadcast_shape(rng, shape))), {}


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
    yield "`gx_j = sum_i dy_i ∂z_i/∂x_j`, with `∂z_i/∂x_j = y_i` where `i = j`, else 0", diagonal(dy, y)
    yield "only the term `i = j` is left of the sum", dy * y


@mul.derivation("y")
def _(x, y, dy):
    yield "`gy_j = sum_i dy_i ∂z_i/∂y_j`, with `∂z_i/∂y_j = x_i` where `i = j`, else 0", diagonal(dy, x)
    yield "only the term `i = j` is left of the sum", dy * x


@mul.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, broadcast_shape(rng, shape))), {}


@op
def div(x, y):
    """``z = x / y``. Shapes broadcast. Saves ``y`` and ``z`` (not ``x``: with the quotient, gy needs no square of y).

    Gradients: ``gx = dy / y`` and ``gy = -dy z / y``. At ``y = 0`` value and gradients have a pole: NumPy warns and
    gives infinities, or NaN for 0/0.
    """
    z = x / y

    def vjp(dy):
        return lambda: dy / y, lambda: -dy * z / y

    return z, vjp


@div.derivation("x")
def _(x, y, dy):
    yield "`gx_j = sum_i dy_i ∂z_i/∂x_j`, with `∂z_i/∂x_j = 1/y_i` where `i = j`, else 0", diagonal(dy, 1 / y)
    yield "only the term `i = j` is left of the sum", dy / y


@div.derivation("y")
def _(x, y, dy):
    yield (
        "`gy_j = sum_i dy_i ∂z_i/∂y_j`, with `∂z_i/∂y_j = -x_i / y_i^2` where `i = j`, else 0",
        diagonal(dy, -x / (y * y)),
    )
    yield "only the term `i = j` is left of the sum", -dy * x / (y * y)
    yield "`x / y` is the quotient `z`, which forward has computed", -dy * (x / y) / y


@div.sample
def _(rng, shape=(2, 3)):
    y = positive(rng, broadcast_shape(rng, shape))
    return (normal(rng, shape), np.copysign(y, rng.standard_normal(y.shape), out=y)), {}


@op
def neg(x):
    """``z = -x``. Saves nothing. Gradient: ``-dy``."""

    def vjp(dy):
        return -dy

    return -x, vjp


@neg.derivation("x")
def _(x, dy):
    yield "`dx_j = sum_i dy_i ∂z_i/∂x_j`, with `∂z_i/∂x_j = -1` where `i = j`, else 0", diagonal(dy, -1.0)
    yield "only the term `i = j` is left of the sum", -dy


@neg.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {}


def power_slope(x, y, z):
    """``∂z/∂x = y x^(y-1)`` for ``z = x^y``, and 0 for ``y = 0`` also at ``x = 0``, where 0 times 0^-1 would be NaN.

    The two exponents of which NumPy has a cheap power, but not of the one below, use z.
    """
    if isinstance(y, (int, float)):
        if y == 0.5:
            return 0.5 / z
        if y == -1:
            return -z * z
        return y * x ** (y - 1 if y else 0)
    return y * x ** np.where(y == 0, 0, y - 1)


def power_log(x, z):
    """``∂z/∂y = z log x`` for ``z = x^y``: 0 at ``x = 0``, NaN for ``x < 0``, where no y nearby has a real power."""
    base = np.asarray(x, np.result_type(z))
    log = np.log(np.where(base > 0, base, 1))
    return z * np.where(base < 0, np.nan, log)


@op
def power(x, y):
    """``z = x^y``. Shapes broadcast. Saves both inputs and z.

    Gradients: ``gx = dy y x^(y-1)`` and ``gy = dy z log x``. The exponents 2, 0.5 and -1, given as Python numbers, cost
    no call of pow in either direction.

    At the edges: ``0^0 = 1`` with ``gx = 0``, and ``0^1`` has ``gx = dy``. ``0^y`` does not change with ``y > 0``, so
    ``gy = 0`` there (and by convention at ``y = 0``, as in PyTorch). A negative x has a power only for whole y: gx is
    right, gy is NaN, for there is no derivative by y. Where z or the slope is infinite (``0^-1``; the slope of
    ``0^0.5``), NumPy warns.
    """
    z = x**y

    def vjp(dy):
        return lambda: dy * power_slope(x, y, z), lambda: dy * power_log(x, z)

    return z, vjp


@power.derivation("x")
def _(x, y, dy):
    yield (
        "`gx_j = sum_i dy_i ∂z_i/∂x_j`; with `z = exp(y log x)` the chain rule gives `∂z_i/∂x_i = exp(y log x) y / x`",
        diagonal(dy, np.exp(y * np.log(x)) * y / x),
    )
    yield "only the term `i = j` is left of the sum, and `exp(y log x)` is `x^y`", dy * x**y * y / x
    yield "`x^y / x = x^(y-1)`, which also holds where `log x` does not exist", dy * (y * x ** (y - 1))


@power.derivation("y")
def _(x, y, dy):
    yield (
        "`gy_j = sum_i dy_i ∂z_i/∂y_j`; with `z = exp(y log x)` the chain rule gives `∂z_i/∂y_i = exp(y log x) log x`",
        diagonal(dy, np.exp(y * np.log(x)) * np.log(x)),
    )
    yield "only the term `i = j` is left of the sum, and `exp(y log x)` is `z`", dy * x**y * np.log(x)


@power.sample
def _(rng, shape=(2, 3)):
    return (positive(rng, shape), normal(rng, broadcast_shape(rng, shape))), {}


@power.sample
def _(rng, shape=(2, 3)):
    return (positive(rng, shape),), {"y": [2, 0.5, -1, 3, 1, 0, -1.5][int(rng.integers(7))]}
