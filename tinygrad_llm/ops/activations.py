"""Activations: tanh, sigmoid, relu, gelu, silu, softplus. Elementwise.

All are exact in the limits: at +-1e4 nothing overflows, because no exponential of a positive number is ever taken.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.arithmetic import diagonal
from tinygrad_llm.ops.samples import apart, normal

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
GELU_CUBIC = 0.044715  # Hendrycks and Gimpel's fit: x + 0.044715 x^3
_erfc = np.frompyfunc(math.erfc, 1, 1)


@op
def tanh(x):
    """``y = (e^x - e^-x) / (e^x + e^-x)``. Saves y. Gradient: ``dx = dy (1 - y^2)``."""
    y = np.tanh(x)

    def vjp(dy):
        return dy * (1 - y * y)

    return y, vjp


@tanh.derivation("x")
def _(x, dy):
    up, down = np.exp(x), np.exp(-x)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; only `i = j` counts, and the quotient rule on `(e^x - e^-x) / (e^x + e^-x)` "
        "gives `((e^x + e^-x)^2 - (e^x - e^-x)^2) / (e^x + e^-x)^2`",
        diagonal(dy, ((up + down) ** 2 - (up - down) ** 2) / (up + down) ** 2),
    )
    yield "divide term by term: the second one is `y^2`", dy * (1 - ((up - down) / (up + down)) ** 2)
    yield "`y` is the value that forward has computed", dy * (1 - np.tanh(x) ** 2)


@tanh.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {}


def stable_sigmoid(x):
    """``1 / (1 + e^-x)`` for x >= 0, and the same expanded by e^x, ``e^x / (e^x + 1)``, below: in one formula.

    ``min(x, -x)`` is -|x|, also for a complex x near the real axis (by which the complex step differentiates).
    """
    return np.exp(np.minimum(x, 0)) / (1 + np.exp(np.minimum(x, -x)))


@op
def sigmoid(x):
    """``y = 1 / (1 + e^-x)``. Saves y. Gradient: ``dx = dy y (1 - y)``.

    Computed as ``e^min(x, 0) / (1 + e^-|x|)``: no exponent is positive, and y keeps its relative precision for very
    negative x (``sigmoid(-100) = 3.7e-44``), where ``(1 + tanh(x/2)) / 2`` would give 0.
    """
    y = stable_sigmoid(x)

    def vjp(dy):
        return dy * y * (1 - y)

    return y, vjp


@sigmoid.derivation("x")
def _(x, dy):
    down = np.exp(-x)
    y = 1 / (1 + down)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; only `i = j` counts, and the derivative of `(1 + e^-x)^-1` is "
        "`e^-x (1 + e^-x)^-2`",
        diagonal(dy, down / (1 + down) ** 2),
    )
    yield "one factor `1 / (1 + e^-x)` is `y`", dy * y * (down / (1 + down))
    yield "`e^-x / (1 + e^-x) = 1 - 1 / (1 + e^-x) = 1 - y`", dy * y * (1 - y)


@sigmoid.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {}


@op
def relu(x):
    """``y = max(x, 0)``. Saves y: it is positive where x is, and the next operation keeps it anyway.

    Gradient: ``dx = dy`` where ``y > 0``, else 0. At the kink, ``x = 0``, it is 0, as in PyTorch.
    """
    y = np.maximum(x, 0)

    def vjp(dy):
        return dy * (y > 0)

    return y, vjp


@relu.derivation("x")
def _(x, dy):
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; where `i = j` it is 1 for `x_i > 0` and 0 for `x_i < 0`, elsewhere 0",
        diagonal(dy, np.where(x > 0, 1.0, 0.0)),
    )
    yield "only the term `i = j` is left of the sum: `dy` passes where `x > 0`", np.where(x > 0, dy, 0.0)
    yield "`x > 0` exactly where `y = max(x, 0) > 0`, so `y` is enough to know where", dy * (np.maximum(x, 0) > 0)


@relu.sample
def _(rng, shape=(2, 3)):
    return (apart(rng, shape),), {}


@op
def gelu(x, approximate=True):
    """``y = x P(x)``, with P the distribution function of the standard normal, or (the default) a fit to it by tanh.

    approximate=True is GPT-2's form. It saves x and t::

        y = x (1 + t) / 2     t = tanh(u)     u = sqrt(2/pi) (x + 0.044715 x^3)
        dx = dy (1 + t) (1 + x (1 - t) u') / 2     u' = sqrt(2/pi) (1 + 3 (0.044715) x^2)

    approximate=False is BERT's form. It saves x and P::

        y = x P     P = erfc(-x / sqrt(2)) / 2
        dx = dy (P + x p)     p = e^(-x^2/2) / sqrt(2 pi)

    In this gradient p is the density of the normal, the derivative of P.

    The two differ by less than 5e-4. erfc is used rather than ``1 + erf``, which cancels for negative x. NumPy has no
    erfc; Python's is called for each element (about 60 ns), as this is the reference.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """
    return _gelu_tanh(x) if approximate else _gelu_erf(x)


def _gelu_tanh(x):
    t = np.tanh((x * x * (SQRT_2_OVER_PI * GELU_CUBIC) + SQRT_2_OVER_PI) * x)

    def vjp(dy):
        slope = x * x * (3 * SQRT_2_OVER_PI * GELU_CUBIC) + SQRT_2_OVER_PI
        return dy * (0.5 * (1 + t) * (1 + x * (1 - t) * slope))

    return 0.5 * x * (1 + t), vjp


def _gelu_erf(x):
    scaled = np.asarray(x * -math.sqrt(0.5))
    cumulative = 0.5 * np.asarray(_erfc(scaled), scaled.dtype)

    def vjp(dy):
        density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return dy * (cumulative + x * density)

    return x * cumulative, vjp


@gelu.derivation("x")
def _(x, dy, approximate=True):
    return _derive_gelu_tanh(x, dy) if approximate else _derive_gelu_erf(x, dy)


def _derive_gelu_tanh(x, dy):
    u = SQRT_2_OVER_PI * (x + GELU_CUBIC * x**3)
    du = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * x**2)
    t = np.tanh(u)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; only `i = j` counts. Product rule on `x (1 + tanh u) / 2`, chain rule on "
        "`tanh u` with `tanh' = 1/cosh^2`: `∂y_i/∂x_i = (1 + tanh u) / 2 + x u' / (2 cosh^2 u)`",
        diagonal(dy, (1 + t) / 2 + x * du / (2 * np.cosh(u) ** 2)),
    )
    yield (
        "`1/cosh^2 u = 1 - tanh^2 u`, which needs only the saved `t = tanh u`",
        dy * ((1 + t) / 2 + x * (1 - t * t) * du / 2),
    )
    slope = SQRT_2_OVER_PI + 3 * SQRT_2_OVER_PI * GELU_CUBIC * x * x
    yield (
        "`1 - t^2 = (1 + t) (1 - t)`, so both terms share `(1 + t) / 2`",
        dy * (0.5 * (1 + t) * (1 + x * (1 - t) * slope)),
    )


def _derive_gelu_erf(x, dy):
    v = x / math.sqrt(2)
    erf = np.array([math.erf(each) for each in v.ravel()]).reshape(x.shape)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; only `i = j` counts. Product rule on `x (1 + erf v) / 2` with "
        "`v = x / sqrt(2)`, chain rule with `erf' v = 2 e^(-v^2) / sqrt(pi)`: "
        "`∂y_i/∂x_i = (1 + erf v) / 2 + (x/2) (2 e^(-v^2) / sqrt(pi)) / sqrt(2)`",
        diagonal(dy, (1 + erf) / 2 + x / 2 * (2 * np.exp(-v * v) / math.sqrt(math.pi)) / math.sqrt(2)),
    )
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    yield (
        "`v^2 = x^2/2`, and the constants are `1 / sqrt(2 pi)`: the density `p = e^(-x^2/2) / sqrt(2 pi)` of the "
        "normal",
        dy * ((1 + erf) / 2 + x * density),
    )
    erfc = np.array([math.erfc(-each) for each in v.ravel()]).reshape(x.shape)
    yield (
        "`1 + erf v = erfc(-v)`, without the cancellation: this is `2 P`, and `P` is saved",
        dy * (erfc / 2 + x * density),
    )


@gelu.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {}


@gelu.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {"approximate": False}


@op
def silu(x):
    """``y = x sigmoid(x)``, also called swish. Saves y, which the next operation keeps anyway, and ``s = sigmoid(x)``.

    Gradient: ``dx = dy (s + y (1 - s))``. Source: Elfwing, Uchibe, Doya 2017, arXiv:1702.03118.
    """
    s = stable_sigmoid(x)
    y = x * s

    def vjp(dy):
        return dy * (s + y * (1 - s))

    return y, vjp


@silu.derivation("x")
def _(x, dy):
    down = np.exp(-x)
    s = 1 / (1 + down)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; only `i = j` counts, and the product rule on `x s` gives `s + x s'` with "
        "`s' = e^-x / (1 + e^-x)^2`",
        diagonal(dy, s + x * (down / (1 + down) ** 2)),
    )
    yield "`s' = s (1 - s)`, as for the sigmoid", dy * (s + x * (s * (1 - s)))
    yield "`x s` is `y`, so `x` itself need not be kept", dy * (s + (x * s) * (1 - s))


@silu.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {}


@op
def softplus(x):
    """``y = log(1 + e^x)``, a smooth max(x, 0). Saves y only. Gradient: ``dx = dy sigmoid(x) = dy (1 - e^-y)``.

    Computed as ``max(x, 0) + log(1 + e^-|x|)``, where no exponent is positive. log1p and expm1 keep the relative
    precision where y is small: ``softplus(-40) = 4.2e-18``.
    """
    y = np.maximum(x, 0) + np.log1p(np.exp(np.minimum(x, -x)))

    def vjp(dy):
        return dy * -np.expm1(-y)

    return y, vjp


@softplus.derivation("x")
def _(x, dy):
    up = np.exp(x)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; only `i = j` counts, and the chain rule on `log(1 + e^x)` gives "
        "`e^x / (1 + e^x)`",
        diagonal(dy, up / (1 + up)),
    )
    yield "`e^x / (1 + e^x) = 1 - 1 / (1 + e^x)`", dy * (1 - 1 / (1 + up))
    yield (
        "`1 + e^x` is `e^y` by definition, so the saved `y` is enough; `1 - e^-y` is `-expm1(-y)`",
        dy * (1 - np.exp(-np.log(1 + up))),
    )


@softplus.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {}
