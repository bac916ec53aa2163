"""Matrix products: matmul, linear, einsum. All the arithmetic is BLAS; what is written here is which product to ask for.

One rule is behind every gradient of this file. In a product each factor enters linearly, so the gradient of one factor is
the cotangent times the other factor, summed over every letter that the factor itself does not have::

    Y_tf = sum_c X_tc W_cf     dX_tc = sum_f dY_tf W_cf = dY W^T     dW_cf = sum_t X_tc dY_tf = X^T dY

"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.samples import normal


def rows(a):
    """`a` as a matrix: its last axis, and all the others as one. No copy where the layout allows a view."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def sum_rows(a):
    """Sum over all axes but the last: what a parameter shared by every row receives.

    As a product with a row of ones, since BLAS adds rows several times faster than NumPy's `sum`.
    """
    a = rows(a)
    return np.ones(len(a), a.dtype) @ a


@op
def linear(x, weight, bias=None):
    """``y = x W + b``: x (..., C), weight (C, F), bias (F,) or None, y (..., F). The weight is stored as (in, out).

    All leading axes of x are rows of one matrix, so there is one matrix product, however many axes x has. Saves x and the
    weight, copies of neither. With rows t::

        dx = dy W^T,   dW = x^T dy,   db = sum_t dy_t

    all three deferred: a frozen weight costs nothing, and a pipeline schedule may put the weight gradients off. Cost: 2
    N C F floating-point operations forward and twice that backward, N the number of rows.
    """
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"linear: {named_shape(x.shape, 'BTC')} @ {named_shape(weight.shape, 'CF')}: "
            "the last axis of x and the first of the weight must be the same C"
        )
    features = weight.shape[1]
    if bias is not None and bias.shape != (features,):
        raise ValueError(
            f"linear: the weight {named_shape(weight.shape, 'CF')} needs a bias (F={features},), not {bias.shape}"
        )
    y = rows(x) @ weight
    if bias is not None:
        y += bias

    def vjp(dy):
        def dx():
            return (rows(dy) @ weight.T).reshape(x.shape)

        def dweight():
            return rows(x).T @ rows(dy)

        def dbias():
            return sum_rows(dy)

        return (dx, dweight) if bias is None else (dx, dweight, dbias)

    return y.reshape(*x.shape[:-1], features), vjp


@linear.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, (shape[-1], 4)), normal(rng, (4,))), {}


@linear.sample
def _(rng, shape=(2, 2, 3)):
    return (normal(rng, shape), normal(rng, (shape[-1], 2))), {}
