"""The exponential function and its relatives: exp, log, sqrt. Elementwise."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.arithmetic import diagonal
from tinygrad_llm.ops.samples import normal, positive


@op
def exp(x):
    """``y = e^x``. Saves y, which is its own derivative: ``dx = dy y``.

    Underflows silently to 0; above 709 (float32: 88) the value is infinite and NumPy warns. `softmax` and `logsumexp`
    are the ways around that.
    """
    y = np.exp(x)

    def vjp(dy):
        return dy * y

    return y, vjp


@exp.derivation("x")
def _(x, dy):
    series = sum(k * x ** (k - 1) / math.factorial(k) for k in range(1, 100))
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; only `i = j` counts, and differentiating `e^x = sum_k x^k / k!` term by term "
        "gives `sum_k k x^(k-1) / k!`",
        diagonal(dy, series),
    )
    yield "`k / k! = 1 / (k-1)!`: the same series again, so this is `dy y`", dy * np.exp(x)


@exp.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {}


@op
def log(x):
    """``y = log x``, the natural logarithm, for ``x > 0``. Saves x. Gradient: ``dx = dy / x``.

    At 0 (value -inf) and below (NaN) NumPy warns. For the log of a sum of exponentials use `logsumexp`, for that of a
    softmax `log_softmax`: both stay finite where the exponentials do not.
    """

    def vjp(dy):
        return dy / x

    return np.log(x), vjp


@log.derivation("x")
def _(x, dy):
    y = np.log(x)
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; differentiating `x = e^y` gives `1 = e^y ∂y/∂x`, so it is `e^-y_i` where "
        "`i = j`, else 0",
        diagonal(dy, np.exp(-y)),
    )
    yield "only the term `i = j` is left of the sum, and `e^-y = 1/x`", dy / x


@log.sample
def _(rng, shape=(2, 3)):
    return (positive(rng, shape),), {}


@op
def sqrt(x):
    """``y = sqrt(x)`` for ``x >= 0``. Saves y. Gradient: ``dx = dy / (2 y)``.

    At 0 the value is 0 and the slope infinite: so is the gradient, and NumPy warns. Below 0 the value is NaN.
    """
    y = np.sqrt(x)

    def vjp(dy):
        return 0.5 * dy / y

    return y, vjp


@sqrt.derivation("x")
def _(x, dy):
    yield "`dx_j = sum_i dy_i ∂y_i/∂x_j`, with `x_i^(-1/2) / 2` where `i = j`, else 0", diagonal(dy, 0.5 * x**-0.5)
    yield "only the term `i = j` is left of the sum", dy * 0.5 * x**-0.5
    yield "`x^(1/2)` is the value `y` that forward has computed", 0.5 * dy / np.sqrt(x)


@sqrt.sample
def _(rng, shape=(2, 3)):
    return (positive(rng, shape),), {}
