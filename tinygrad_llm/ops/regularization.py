"""Dropout."""

from __future__ import annotations

import numpy as np

from tinygrad_llm import random
from tinygrad_llm.operation import op
from tinygrad_llm.ops.samples import normal


@op
def dropout(x, p, key):
    """``y = x m / (1 - p)``: each m is 0 with probability `p`, else 1. The survivors are scaled up, so that E[y] = x.

    The mask comes from the stream ``random.stream(key, "dropout")``: the same key (a whole number) and shape give the
    same mask, so that a recomputed layer drops what it dropped before. A module draws a fresh key for each call. Saves
    the mask, with the factor ``1/(1 - p)`` already in it. y is linear in x, so the gradient passes the same mask::

        dx = dy m / (1 - p)

    ``p = 0`` is the identity; p outside [0, 1) is a ValueError (at ``p = 1`` the factor would be infinite). Cost: one
    random number per element and a multiplication each way. Source: Srivastava et al. 2014, JMLR 15, with the scaling
    moved from test to training time ("inverted").
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p={p} is not a probability in [0, 1)")
    kept = random.stream(key, "dropout").random(x.shape, np.float32) >= p
    mask = kept.astype(x.real.dtype)
    mask *= 1 / (1 - p)

    def vjp(dy):
        return dy * mask

    return x * mask, vjp


@dropout.derivation("x")
def _(x, p, key, dy):
    factor = np.where(random.stream(key, "dropout").random(x.shape, np.float32) < p, 0, 1 / (1 - p))  # m / (1 - p)
    jacobian = np.diag(factor.ravel())
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j`; `y_i = x_i m_i / (1 - p)`, so `∂y_i/∂x_j = m_i / (1 - p)` where `i = j`, else "
        "0",
        (dy.ravel() @ jacobian).reshape(x.shape),
    )
    yield "only `i = j` is left: the gradient passes where `x` passed, scaled alike", dy * factor


@dropout.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), 0.4, int(rng.integers(2**63))), {}


@dropout.sample
def _(rng, shape=(3, 2)):  # nothing is dropped
    return (normal(rng, shape), 0.0, 0), {}
