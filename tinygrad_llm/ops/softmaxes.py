"""Softmaxes: logsumexp, softmax, log_softmax, along one axis; each row along it by itself.

All three subtract the row's largest entry before exponentiating. That changes nothing: ``e^(x - m) / sum e^(x - m)`` is
``e^x / sum e^x`` expanded by ``e^-m``, and ``log sum e^x = m + log sum e^(x - m)``. But no exponent is positive then,
so nothing overflows, and one of them is 0, so the sum is at least 1 and its log is harmless.

An entry may be -inf (masked): its exponential is 0. A row may be fully masked, or have no entries: its sum of
exponentials is 0, so `logsumexp` is -inf; its `softmax` is taken to be 0 (not 0/0), its `log_softmax` -inf, and all
gradients 0. An entry +inf is not supported (inf - inf is NaN; NumPy warns).
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.reductions import restored
from tinygrad_llm.ops.samples import normal, one_axis


def shifted(x, axis):
    """``(x - m, m)`` with m the largest entry of each row, or 0 if the row is fully masked: -inf + inf would be NaN."""
    x = np.asarray(x)
    if x.dtype.kind not in "fc":  # -inf needs a floating-point number
        x = x.astype(np.float64)
    m = np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    m = np.where(m == -np.inf, 0, m)
    return x - m, m


def one_if_zero(total):
    """The sum of a row's exponentials; but 1 for a fully masked row, where it is 0, so that one can divide by it."""
    return np.where(total == 0, 1, total)


@op
def logsumexp(x, axis=-1, keepdims=False):
    """``z = log sum_i e^(x_i)`` along `axis`. Saves the exponentials e (shifted) and their sum s.

    Gradient: ``dx = dy e / s``, that is dy times the softmax of x. Numerics and masked rows: see the file's docstring.
    """
    below, m = shifted(x, axis)
    e = np.exp(below)
    s = e.sum(axis=axis, keepdims=True)
    with np.errstate(divide="ignore"):  # log 0 = -inf is meant: a fully masked row
        z = np.log(s) + m

    def vjp(dy):
        return e * (restored(dy, axis, keepdims) / one_if_zero(s))

    return z if keepdims else np.squeeze(z, axis), vjp


@logsumexp.derivation("x")
def _(x, dy, axis=-1, keepdims=False):
    rows = np.moveaxis(x, axis, -1)
    e = np.exp(rows)
    s = e.sum(-1, keepdims=True)
    per_row = np.moveaxis(restored(dy, axis, keepdims), axis, -1)
    ds = np.einsum("...i,ij->...j", e, np.eye(rows.shape[-1]))  # d s / d x_j = sum_i d e_i / d x_j
    yield (
        "`dx_j = dy ∂z/∂x_j` in each row; chain rule on `z = log s`, `s = sum_i e^x_i`: "
        "`∂z/∂x_j = (1/s) sum_i e^x_i delta_ij`",
        np.moveaxis(per_row / s * ds, -1, axis),
    )
    yield "only `i = j` is left of the sum: the softmax `e^x_j / s`", np.moveaxis(per_row * (e / s), -1, axis)
    e = np.exp(rows - rows.max(-1, keepdims=True))
    s = e.sum(-1, keepdims=True)
    yield (
        "expand the fraction by `e^-m`, `m` the row's largest entry: nothing overflows",
        np.moveaxis(e * (per_row / s), -1, axis),
    )


@logsumexp.sample
def _(rng, shape=(2, 3, 2)):
    return (normal(rng, shape),), {"axis": one_axis(rng, shape), "keepdims": bool(rng.integers(2))}


@op
def softmax(x, axis=-1):
    """``p_i = e^(x_i) / sum_k e^(x_k)`` along `axis`. Saves p only.

    Gradient: ``dx = p (dy - sum(dy p))``. The sum is what each ``x_j`` loses because the row must still add up to 1: a
    dy that is constant along the row gives 0. Numerics and masked rows: see the file's docstring.
    """
    e = np.exp(shifted(x, axis)[0])
    p = e / one_if_zero(e.sum(axis=axis, keepdims=True))

    def vjp(dy):
        return p * (dy - (dy * p).sum(axis=axis, keepdims=True))

    return p, vjp


@softmax.derivation("x")
def _(x, dy, axis=-1):
    rows, drows = np.moveaxis(x, axis, -1), np.moveaxis(dy, axis, -1)
    delta = np.eye(rows.shape[-1])
    e = np.exp(rows)
    s = e.sum(-1)[..., None, None]
    quotient_rule = (e[..., :, None] * delta * s - e[..., :, None] * e[..., None, :]) / s**2
    yield (
        "`dx_j = sum_i dy_i ∂p_i/∂x_j` in each row; quotient rule on `p_i = e_i / s` with `∂e_i/∂x_j = e_i delta_ij` "
        "and `∂s/∂x_j = e_j`: `∂p_i/∂x_j = (e_i delta_ij s - e_i e_j) / s^2`",
        np.moveaxis(np.einsum("...i,...ij->...j", drows, quotient_rule), -1, axis),
    )
    p = e / e.sum(-1, keepdims=True)
    jacobian = p[..., :, None] * (delta - p[..., None, :])
    yield (
        "divide by `s^2` term by term: `∂p_i/∂x_j = p_i (delta_ij - p_j)`",
        np.moveaxis(np.einsum("...i,...ij->...j", drows, jacobian), -1, axis),
    )
    inner = (drows * p).sum(-1, keepdims=True)
    yield (
        "multiply out: `delta_ij` leaves the term `i = j`, and `p_j` does not depend on `i`",
        np.moveaxis(drows * p - p * inner, -1, axis),
    )
    yield "both terms share the factor `p_j`", np.moveaxis(p * (drows - inner), -1, axis)


@softmax.sample
def _(rng, shape=(2, 3, 2)):
    return (normal(rng, shape),), {"axis": one_axis(rng, shape)}


@op
def log_softmax(x, axis=-1):
    """``y_i = x_i - log sum_k e^(x_k)`` along `axis`. Saves y, and which rows are fully masked.

    Gradient: ``dx = dy - e^y sum(dy)``; ``e^y`` is the softmax. Unlike ``log(softmax(x))``, which gives -inf as soon as
    an exponential underflows, y is accurate for all logits. Numerics and masked rows: see the file's docstring.
    """
    below, _ = shifted(x, axis)
    s = np.exp(below).sum(axis=axis, keepdims=True)
    y = below - np.log(one_if_zero(s))
    masked = s == 0

    def vjp(dy):
        dx = dy - np.exp(y) * dy.sum(axis=axis, keepdims=True)
        return np.where(masked, 0, dx) if masked.any() else dx

    return y, vjp


@log_softmax.derivation("x")
def _(x, dy, axis=-1):
    rows, drows = np.moveaxis(x, axis, -1), np.moveaxis(dy, axis, -1)
    e = np.exp(rows)
    s = e.sum(-1, keepdims=True)
    jacobian = np.eye(rows.shape[-1]) - (e / s)[..., None, :]
    yield (
        "`dx_j = sum_i dy_i ∂y_i/∂x_j` in each row; `y_i = x_i - log s`, and `log s` has the gradient `e_j / s` "
        "(logsumexp): `∂y_i/∂x_j = delta_ij - e_j / s`",
        np.moveaxis(np.einsum("...i,...ij->...j", drows, jacobian), -1, axis),
    )
    total = drows.sum(-1, keepdims=True)
    yield (
        "multiply out: `delta_ij` leaves the term `i = j`, and `e_j / s` does not depend on `i`",
        np.moveaxis(drows - e / s * total, -1, axis),
    )
    y = rows - np.log(s)
    yield (
        "`e_j / s = e^(x_j - log s) = e^y_j`: the saved value is enough",
        np.moveaxis(drows - np.exp(y) * total, -1, axis),
    )


@log_softmax.sample
def _(rng, shape=(2, 3, 2)):
    return (normal(rng, shape),), {"axis": one_axis(rng, shape)}
