"""An activation of a sum with a bias, as it stands in a feed-forward network between two matrix products: bias_gelu."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.activations import GELU_CUBIC, SQRT_2_OVER_PI, gelu
from tinygrad_llm.ops.arithmetic import diagonal
from tinygrad_llm.ops.products import rows, sum_rows
from tinygrad_llm.ops.samples import normal


def check_bias(name, x, bias):
    """Raise ValueError unless bias is one number for each of the F entries of the last axis of x."""
    if x.ndim == 0 or bias.shape != x.shape[-1:]:
        raise ValueError(
            f"{name}: x {x.shape} needs a bias of the shape of its last axis, {x.shape[-1:]}, not {bias.shape}"
        )


@op
def bias_gelu(x, bias, approximate=True):
    """``y = gelu(z)``, ``z = x + b``: x (..., F), bias (F,), the same for every row. `approximate` as in `gelu`.

    With rows t and the derivative gelu' (see `gelu`)::

        dx = dy gelu'(x + b),   db = sum_t dx_t

    db is deferred. Saves x and the bias; z, and what gelu' needs of it, are computed again, since in a network F wide
    inside they would be its largest arrays. One operation rather than two: a kernel reads x once, and adds up db while
    it writes dx. A bias of another shape is a ValueError.
    """
    check_bias("bias_gelu", x, bias)

    def vjp(dy):
        dx = gelu.reference(x + bias, approximate)[1](dy)
        return dx, lambda: sum_rows(dx)

    return gelu.reference(x + bias, approximate)[0], vjp


def _gelu_derivative(z, approximate):
    """As it follows from the formulas of y, before anything is rearranged."""
    if approximate:
        u = SQRT_2_OVER_PI * (z + GELU_CUBIC * z**3)
        du = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * z**2)
        return (1 + np.tanh(u)) / 2 + z * du / (2 * np.cosh(u) ** 2)
    erf = np.array([math.erf(each / math.sqrt(2)) for each in z.ravel()]).reshape(z.shape)
    return (1 + erf) / 2 + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


@bias_gelu.derivation("x")
def _(x, bias, dy, approximate=True):
    slope = _gelu_derivative(x + bias, approximate)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; only `i = j` counts. Chain rule with `z = x + b`: `∂y_i/∂x_i = gelu'(z_i) "
        "∂z_i/∂x_i`, and `∂z_i/∂x_i = 1`",
        diagonal(dy, slope),
    )
    yield "only the term `i = j` is left of the sum", dy * slope
    yield "this is the gradient of `gelu` at `z`, as derived there", gelu.reference(x + bias, approximate)[1](dy)


@bias_gelu.derivation("bias")
def _(x, bias, dy, approximate=True):
    slope = rows(_gelu_derivative(x + bias, approximate))
    yield (
        "`db_g = sum_tf dy_tf ∂y_tf/∂b_g` over rows `t`; chain rule with `z = x + b`: `∂y_tf/∂b_g = gelu'(z_tf)` where "
        "`f = g`, else 0",
        np.einsum("tf,tf,fg->g", rows(dy), slope, np.eye(len(bias))),
    )
    yield "only `f = g` is left; every row uses the same bias, so the rows add", (rows(dy) * slope).sum(0)
    dx = gelu.reference(x + bias, approximate)[1](dy)
    yield "`dy_tf gelu'(z_tf)` is `dx_tf`, which is there already: the sum of its rows", sum_rows(dx)


@bias_gelu.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, shape[-1:])), {}


@bias_gelu.sample
def _(rng, shape=(2, 2, 3)):
    return (normal(rng, shape), normal(rng, shape[-1:])), {"approximate": False}
