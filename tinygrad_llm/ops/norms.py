"""Normalisation over the channels: layer_norm and rms_norm.

Shapes: ``x`` (..., C), ``gain`` and ``bias`` (C,). Each row of C values is normalised by itself.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.products import rows, sum_rows
from tinygrad_llm.ops.samples import normal


def mean_row(a):
    """The mean of each row, with its axis kept. A product with ones: BLAS adds several times faster than `mean`."""
    channels = a.shape[-1]
    return (a @ np.ones(channels, a.dtype))[..., None] / max(channels, 1)


def mean_product(a, b):
    """The mean of ``a b`` over each row, with its axis kept; without a temporary for the product."""
    return np.einsum("...c,...c->...", a, b)[..., None] / max(a.shape[-1], 1)


def check_channels(name, x, **parameters):
    """Raise ValueError unless every parameter is (C,), C being the last axis of x."""
    for parameter, values in parameters.items():
        if x.ndim == 0 or values.shape != x.shape[-1:]:
            raise ValueError(
                f"{name}: x {named_shape(x.shape, 'BTC')} needs a {parameter} of shape (C,), not {values.shape}"
            )


@op
def layer_norm(x, gain, bias, eps=1e-5):
    """``y = gain xhat + bias`` with ``xhat = (x - mean) rstd`` and ``rstd = 1 / sqrt(var + eps)``, over the last axis.

    `var` is the biased variance (divided by C). Saves ``xhat`` and ``rstd`` rather than x and the mean: both gradients
    are formulas in them, and nothing is computed twice. With ``g = dy gain``::

        dx = (g - mean(g) - xhat mean(g xhat)) rstd,   dgain = sum dy xhat,   dbias = sum dy

    The two means are what x loses because its row's mean and variance move with it: adding a constant to a row changes
    nothing, and neither (but for eps) does scaling it. A constant row gives ``xhat = 0`` (eps keeps it finite), and so
    does a single channel. The variance is the mean of squares of the centred values: ``mean(x^2) - mean^2`` would
    cancel. Cost: 8 passes over x forward, 9 backward. Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450, equation 4.
    """
    check_channels("layer_norm", x, gain=gain, bias=bias)
    xhat = x - mean_row(x)  # centred; divided by the standard deviation in place
    xhat -= mean_row(xhat)  # the first mean is rounded, and rstd, up to 1/sqrt(eps), would magnify what it left
    rstd = 1 / np.sqrt(mean_product(xhat, xhat) + eps)
    xhat *= rstd
    y = xhat * gain
    y += bias

    def vjp(dy):
        def dx():
            g = dy * gain
            along = xhat * mean_product(g, xhat)
            g -= mean_row(g)
            g -= along
            g *= rstd
            return g

        return dx, lambda: sum_rows(dy * xhat), lambda: sum_rows(dy)

    return y, vjp


@layer_norm.derivation("x")
def _(x, gain, bias, dy, eps=1e-5):
    n = x.shape[-1]
    centred = x - x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + eps)
    xhat = centred * rstd
    g = dy * gain
    delta = np.eye(n)

    dcentred = delta - np.ones((n, n)) / n  # d centred_i / d x_j: x_j moves itself, and the mean by 1/N
    dvar = 2 * centred / n  # d var / d x_j; its path through the mean vanishes, since the centred values sum to zero
    drstd = -0.5 * rstd**3 * dvar  # d (var + eps)^(-1/2) / d x_j
    dxhat = dcentred * rstd[..., None] + centred[..., :, None] * drstd[..., None, :]
    yield (
        "`dx_j = sum_i g_i ∂xhat_i/∂x_j` with `g = dy gain`, in a row of `N` entries; product rule on "
        "`xhat_i = centred_i rstd`, with `∂centred_i/∂x_j = delta_ij - 1/N`, for `x_j` moves the mean by `1/N`. The "
        "centred values sum to 0, so the variance does not feel that: `∂var/∂x_j = 2 centred_j/N`, and "
        "`∂rstd/∂x_j = -rstd^3 centred_j/N`",
        np.einsum("...i,...ij->...j", g, dxhat),
    )
    inner = delta - 1 / n - xhat[..., :, None] * xhat[..., None, :] / n
    yield (
        "`centred = xhat / rstd`, so both terms share the factor `rstd`: "
        "`∂xhat_i/∂x_j = rstd (delta_ij - 1/N - xhat_i xhat_j/N)`",
        np.einsum("...i,...ij->...j", g, rstd[..., None] * inner),
    )
    sums = g.sum(-1, keepdims=True), (g * xhat).sum(-1, keepdims=True)
    yield (
        "multiply out: the three terms of the bracket, each summed over `i`",
        rstd * (g - sums[0] / n - xhat * sums[1] / n),
    )
    means = g.mean(-1, keepdims=True), (g * xhat).mean(-1, keepdims=True)
    yield "a sum over the row divided by `N` is the row's mean", (g - means[0] - xhat * means[1]) * rstd


@layer_norm.derivation("gain")
def _(x, gain, bias, dy, eps=1e-5):
    xhat = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    jacobian = xhat[..., :, None] * np.eye(x.shape[-1])
    yield (
        "`dgain_j = sum dy_i ∂y_i/∂gain_j` over all rows and `i`, where `∂y_i/∂gain_j` is `xhat_i delta_ij` in each "
        "row",
        rows(np.einsum("...i,...ij->...j", dy, jacobian)).sum(0),
    )
    yield "only `i = j` is left; every row uses the same gain, so their contributions add", rows(dy * xhat).sum(0)


@layer_norm.derivation("bias")
def _(x, gain, bias, dy, eps=1e-5):
    jacobian = np.broadcast_to(np.eye(x.shape[-1]), (*x.shape, x.shape[-1]))
    yield (
        "`dbias_j = sum dy_i delta_ij` over all rows and `i`: the bias is added as it is",
        rows(np.einsum("...i,...ij->...j", dy, jacobian)).sum(0),
    )
    yield "only `i = j` is left; the rows add", rows(dy).sum(0)


@layer_norm.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, shape[-1:]), normal(rng, shape[-1:])), {}


@layer_norm.sample
def _(rng, shape=(2, 2, 4)):  # an eps that matters
    return (normal(rng, shape), normal(rng, shape[-1:]), normal(rng, shape[-1:])), {"eps": 0.5}


# ---------------------------------------------------------------------------------------------------------------------


@op
def rms_norm(x, gain, eps=1e-5):
    """``y = gain xhat`` with ``xhat = x r`` and ``r = 1 / sqrt(mean(x^2) + eps)``, over the last axis.

    `layer_norm` without the mean and the bias: only the length of a row is normalised. Saves ``xhat`` and ``r``. With
    ``g = dy gain``::

        dx = (g - xhat mean(g xhat)) r,   dgain = sum dy xhat

    What is subtracted is the part of g along xhat: scaling a row changes nothing (but for eps), so no gradient points
    that way. A row of zeros gives zeros. Cost: 3 passes over x forward, 6 backward. Source: Zhang, Sennrich 2019,
    arXiv:1910.07467, equation 4, with eps as in Llama.
    """
    check_channels("rms_norm", x, gain=gain)
    r = 1 / np.sqrt(mean_product(x, x) + eps)
    xhat = x * r

    def vjp(dy):
        def dx():
            g = dy * gain
            g -= xhat * mean_product(g, xhat)
            g *= r
            return g

        return dx, lambda: sum_rows(dy * xhat)

    return xhat * gain, vjp


@rms_norm.derivation("x")
def _(x, gain, dy, eps=1e-5):
    n = x.shape[-1]
    mean_square = (x**2).sum(-1, keepdims=True) / n
    r = (mean_square + eps) ** -0.5
    xhat = x * r
    g = dy * gain
    delta = np.eye(n)

    dr = -0.5 * r**3 * (2 * x / n)  # d (mean_square + eps)^(-1/2) / dx_j, with d mean_square / dx_j = 2 x_j / N
    dxhat = delta * r[..., None] + x[..., :, None] * dr[..., None, :]
    yield (
        "`dx_j = sum_i g_i ∂xhat_i/∂x_j` with `g = dy gain`, in a row of `N` entries; product rule on "
        "`xhat_i = x_i r`, with `∂x_i/∂x_j = delta_ij` and `∂r/∂x_j = -r^3 x_j/N`, for `∂mean(x^2)/∂x_j = 2 x_j/N`",
        np.einsum("...i,...ij->...j", g, dxhat),
    )
    inner = delta - xhat[..., :, None] * xhat[..., None, :] / n
    yield (
        "`x = xhat / r`, so both terms share the factor `r`: `∂xhat_i/∂x_j = r (delta_ij - xhat_i xhat_j/N)`",
        np.einsum("...i,...ij->...j", g, r[..., None] * inner),
    )
    yield (
        "multiply out: only `i = j` is left of the first term, and `xhat_j` does not depend on `i`",
        r * (g - xhat * (g * xhat).sum(-1, keepdims=True) / n),
    )
    yield "a sum over the row divided by `N` is the row's mean", (g - xhat * (g * xhat).mean(-1, keepdims=True)) * r


@rms_norm.derivation("gain")
def _(x, gain, dy, eps=1e-5):
    xhat = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    jacobian = xhat[..., :, None] * np.eye(x.shape[-1])
    yield (
        "`dgain_j = sum dy_i ∂y_i/∂gain_j` over all rows and `i`, where `∂y_i/∂gain_j` is `xhat_i delta_ij` in each "
        "row",
        rows(np.einsum("...i,...ij->...j", dy, jacobian)).sum(0),
    )
    yield "only `i = j` is left; every row uses the same gain, so their contributions add", rows(dy * xhat).sum(0)


@rms_norm.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, shape[-1:])), {}


@rms_norm.sample
def _(rng, shape=(2, 2, 3)):  # an eps that matters
    return (normal(rng, shape), normal(rng, shape[-1:])), {"eps": 0.5}
