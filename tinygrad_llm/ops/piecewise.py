"""Piecewise linear operations: abs, clip, where. Elementwise.

At a kink there is no derivative, only a range of slopes between the left and the right one; which of them the gradient
is, is a choice. The choices here are PyTorch's: ``abs'(0) = 0``, and clip passes the gradient on at its bounds.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.arithmetic import diagonal
from tinygrad_llm.ops.samples import apart, broadcast_shape, normal


@op
def abs(x):  # Python's own abs is not used in this file
    """``y = |x|``. Saves x. Gradient: ``dx = dy sign(x)``, which is 0 at the kink ``x = 0``."""

    def vjp(dy):
        return dy * np.sign(x)

    return np.abs(x), vjp


@abs.derivation("x")
def _(x, dy):
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; where `i = j` it is 1 for `x_i > 0` and -1 for `x_i < 0`, elsewhere 0",
        diagonal(dy, np.where(x > 0, 1.0, -1.0)),
    )
    yield "only the term `i = j` is left of the sum: `dy` keeps its sign where `x > 0`", np.where(x > 0, dy, -dy)
    yield "both cases are `dy sign(x)`, which is also defined at 0", dy * np.sign(x)


@abs.sample
def _(rng, shape=(2, 3)):
    return (apart(rng, shape),), {}


@op
def clip(x, low=None, high=None):
    """``y = min(max(x, low), high)``; without `low` or `high`, bounded on the other side only. Saves x.

    `low` and `high` are constants: numbers, or arrays that broadcast. Gradient: ``dx = dy`` where ``low <= x <= high``,
    bounds included, else 0. If ``low > high``, y is high and the gradient 0.
    """
    if low is None and high is None:
        raise ValueError("clip: neither low nor high is given; at least one is needed")

    def vjp(dy):
        inside = np.ones(dy.shape, bool)
        if low is not None:
            inside &= x >= low
        if high is not None:
            inside &= x <= high
        return dy * inside

    return np.clip(x, low, high), vjp


@clip.derivation("x")
def _(x, dy, low=None, high=None):
    low, high = -np.inf if low is None else low, np.inf if high is None else high
    y = np.minimum(np.maximum(x, low), high)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; where `i = j` it is 1 if `y_i = x_i`, and 0 if `y_i` is one of the bounds, "
        "elsewhere 0",
        diagonal(dy, np.where(y == x, 1.0, 0.0)),
    )
    yield (
        "only the term `i = j` is left of the sum, and `y = x` where `x` is within the bounds",
        dy * ((low <= x) & (x <= high)),
    )


@clip.sample
def _(rng, shape=(2, 3)):
    # each multiple of 0.1 is 0.05 away from the bounds: no kink is within a numerical step
    return (apart(rng, shape),), {"low": [None, -0.25][int(rng.integers(2))], "high": 0.35}


@clip.sample
def _(rng, shape=(2, 3)):
    return (apart(rng, shape),), {"low": 0.15}


@op
def where(condition, x, y):
    """``z = where(condition, x, y)``: x where the condition holds, y elsewhere. Shapes broadcast.

    Gradients: ``gx = dy`` where the condition holds, else 0; ``gy`` the other way round. The condition has none.
    Saves the condition only. What was not chosen gets exactly 0 here; but if it was infinite or NaN, the operation that
    made it may turn 0 into NaN (0 times infinity): choose legal arguments before such an operation, not results after.
    """

    def vjp(dy):
        return None, lambda: np.where(condition, dy, 0), lambda: np.where(condition, 0, dy)

    return np.where(condition, x, y), vjp


@where.derivation("x")
def _(condition, x, y, dy):
    chosen = np.where(condition, 1.0, 0.0)
    yield (
        "`gx_j = sum_i dy_i ∂z_i/∂x_j`, with `∂z_i/∂x_j = 1` where `i = j` and the condition holds, else 0",
        diagonal(dy, chosen),
    )
    yield "only the term `i = j` is left of the sum: `dy` where the condition holds", np.where(condition, dy, 0)


@where.derivation("y")
def _(condition, x, y, dy):
    chosen = np.where(condition, 0.0, 1.0)
    yield (
        "`gy_j = sum_i dy_i ∂z_i/∂y_j`, with `∂z_i/∂y_j = 1` where `i = j` and the condition does not hold, else 0",
        diagonal(dy, chosen),
    )
    yield "only the term `i = j` is left of the sum: `dy` where the condition does not hold", np.where(condition, 0, dy)


@where.sample
def _(rng, shape=(2, 3)):
    condition = rng.random(broadcast_shape(rng, shape)) < 0.5
    return (condition, normal(rng, shape), normal(rng, broadcast_shape(rng, shape))), {}
