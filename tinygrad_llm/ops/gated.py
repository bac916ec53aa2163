"""Gated units: swiglu and geglu, the inside of a gated feed-forward network. Elementwise.

A gate, an activation of one projection of x, multiplies another projection: ``activation(x W_gate) (x W_up)``. gate and
up have one shape, (..., F) in a feed-forward network.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.activations import GELU_CUBIC, SQRT_2_OVER_PI, stable_sigmoid
from tinygrad_llm.ops.arithmetic import diagonal
from tinygrad_llm.ops.samples import normal


def check_same_shape(name, gate, up):
    """Raise ValueError unless gate and up have one shape."""
    if np.shape(gate) != np.shape(up):
        raise ValueError(f"{name}: gate {np.shape(gate)} and up {np.shape(up)} differ in shape")


@op
def swiglu(gate, up):
    """``y = silu(gate) up``, with ``silu(gate) = gate s`` and ``s = sigmoid(gate)``. Saves gate, up and s.

    Gradients: ``dgate = dy up (s + gate s (1 - s))`` and ``dup = dy gate s``. The bracket is the derivative of `silu`.

    The sigmoid never takes the exponential of a positive number: +-1e4 is as safe as 1. The feed-forward network of
    Llama. Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """
    check_same_shape("swiglu", gate, up)
    s = stable_sigmoid(gate)

    def vjp(dy):
        def dgate():
            return dy * up * (s + gate * s * (1 - s))

        return dgate, lambda: dy * (gate * s)

    return gate * s * up, vjp


@swiglu.derivation("gate")
def _(gate, up, dy):
    down = np.exp(-gate)
    s = 1 / (1 + down)
    yield (
        "`dgate_j = sum_i dy_i ∂y_i/∂gate_j`; only `i = j` counts, and up is a constant factor. Product rule on "
        "`gate s`: `s + gate s'`, with `s' = e^-gate / (1 + e^-gate)^2`",
        diagonal(dy, up * (s + gate * (down / (1 + down) ** 2))),
    )
    yield "only the term `i = j` is left; `s' = s (1 - s)`, as for the sigmoid", dy * (up * (s + gate * (s * (1 - s))))
    yield "multiplied from left to right, as computed", dy * up * (s + gate * s * (1 - s))


@swiglu.derivation("up")
def _(gate, up, dy):
    silu = gate / (1 + np.exp(-gate))
    yield "`dup_j = sum_i dy_i ∂y_i/∂up_j`, with `∂y_i/∂up_j = silu(gate_j)` where `i = j`, else 0", diagonal(dy, silu)
    yield "only the term `i = j` is left of the sum", dy * silu
    yield "`silu(gate) = gate s` with the saved `s`", dy * (gate * stable_sigmoid(gate))


@swiglu.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, shape)), {}


# ---------------------------------------------------------------------------------------------------------------------


@op
def geglu(gate, up):
    """``y = gelu(gate) up``, with the fit of `gelu` by tanh. Saves gate, up and t::

        y = gate (1 + t) up / 2     t = tanh(u)     u = sqrt(2/pi) (gate + 0.044715 gate^3)
        dgate = dy up (1 + t) (1 + gate (1 - t) u') / 2     u' = sqrt(2/pi) (1 + 3 (0.044715) gate^2)
        dup = dy gate (1 + t) / 2

    The feed-forward network of T5 1.1 and Gemma. Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """
    check_same_shape("geglu", gate, up)
    t = np.tanh((gate * gate * (SQRT_2_OVER_PI * GELU_CUBIC) + SQRT_2_OVER_PI) * gate)

    def vjp(dy):
        def dgate():
            slope = gate * gate * (3 * SQRT_2_OVER_PI * GELU_CUBIC) + SQRT_2_OVER_PI
            return dy * up * (0.5 * (1 + t) * (1 + gate * (1 - t) * slope))

        return dgate, lambda: dy * (0.5 * gate * (1 + t))

    return 0.5 * gate * (1 + t) * up, vjp


@geglu.derivation("gate")
def _(gate, up, dy):
    u = SQRT_2_OVER_PI * (gate + GELU_CUBIC * gate**3)
    slope = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * gate**2)
    t = np.tanh(u)
    yield (
        "`dgate_j = sum_i dy_i ∂y_i/∂gate_j`; only `i = j` counts, and up is a constant factor. Product rule on "
        "`gate (1 + tanh u) / 2`, chain rule on `tanh u` with `tanh' = 1/cosh^2`: "
        "`(1 + tanh u) / 2 + gate u' / (2 cosh^2 u)`",
        diagonal(dy, up * ((1 + t) / 2 + gate * slope / (2 * np.cosh(u) ** 2))),
    )
    yield (
        "only the term `i = j` is left; `1/cosh^2 u = 1 - t^2` with the saved `t = tanh u`",
        dy * up * ((1 + t) / 2 + gate * (1 - t * t) * slope / 2),
    )
    yield (
        "`1 - t^2 = (1 + t) (1 - t)`, so both terms share `(1 + t) / 2`",
        dy * up * (0.5 * (1 + t) * (1 + gate * (1 - t) * slope)),
    )


@geglu.derivation("up")
def _(gate, up, dy):
    gelu = 0.5 * gate * (1 + np.tanh(SQRT_2_OVER_PI * (gate + GELU_CUBIC * gate**3)))
    yield "`dup_j = sum_i dy_i ∂y_i/∂up_j`, with `∂y_i/∂up_j = gelu(gate_j)` where `i = j`, else 0", diagonal(dy, gelu)
    yield "only the term `i = j` is left of the sum", dy * gelu


@geglu.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, shape)), {}
