"""Normalisation over the channels: layer_norm and rms_norm.

Shapes: ``x`` (..., C), ``gain`` and ``bias`` (C,). Each row of C values is normalised by itself.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.samples import normal


def sum_rows(a):
    """Sum over all axes but the last: what a parameter shared by every row receives."""
    return a.reshape(-1, a.shape[-1]).sum(0)


@op
def layer_norm(x, gain, bias, eps=1e-5):
    """``y = gain xhat + bias`` with ``xhat = (x - mean) rstd`` and ``rstd = 1 / sqrt(var + eps)``, over the last axis.

    `var` is the biased variance (divided by C). Saves ``xhat`` and ``rstd`` rather than x and the mean: both gradients
    are formulas in them, and nothing is computed twice. With ``g = dy gain``::

        dx = (g - mean(g) - xhat mean(g xhat)) rstd,   dgain = sum dy xhat,   dbias = sum dy

    The two means are what x loses because its row's mean and variance move with it: shifting or scaling a row changes
    nothing. A constant row gives ``xhat = 0`` (eps keeps it finite). Cost: about 8 passes over x forward and backward.
    Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450, equation 4.
    """
    if gain.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ValueError(f"layer_norm: x has C={x.shape[-1]} channels, gain {gain.shape} and bias {bias.shape}")
    centred = x - x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps)
    xhat = centred * rstd

    def vjp(dy):
        g = dy * gain
        dx = (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True)) * rstd
        return dx, lambda: sum_rows(dy * xhat), lambda: sum_rows(dy)

    return gain * xhat + bias, vjp


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
        "dx_j = sum_i g_i dxhat_i/dx_j with g = dy gain; product rule on xhat_i = centred_i rstd, "
        "with dcentred_i/dx_j = delta_ij - 1/N and drstd/dx_j = -rstd^3 centred_j/N",
        np.einsum("...i,...ij->...j", g, dxhat),
    )
    inner = delta - 1 / n - xhat[..., :, None] * xhat[..., None, :] / n
    yield (
        "centred = xhat / rstd, so both terms share the factor rstd: dxhat_i/dx_j = rstd (delta_ij - 1/N - xhat_i xhat_j/N)",
        np.einsum("...i,...ij->...j", g, rstd[..., None] * inner),
    )
    sums = g.sum(-1, keepdims=True), (g * xhat).sum(-1, keepdims=True)
    yield (
        "multiply out: the three terms of the bracket, each summed over i",
        rstd * (g - sums[0] / n - xhat * sums[1] / n),
    )
    means = g.mean(-1, keepdims=True), (g * xhat).mean(-1, keepdims=True)
    yield "a sum over the row divided by N is the row's mean", (g - means[0] - xhat * means[1]) * rstd


@layer_norm.derivation("gain")
def _(x, gain, bias, dy, eps=1e-5):
    xhat = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    jacobian = xhat[..., :, None] * np.eye(x.shape[-1])
    yield (
        "dgain_j = sum over rows and i of dy_i times d(output_i)/dgain_j, which is xhat_i delta_ij in each row",
        sum_rows(np.einsum("...i,...ij->...j", dy, jacobian)),
    )
    yield "only i = j is left; every row uses the same gain, so their contributions add", sum_rows(dy * xhat)


@layer_norm.derivation("bias")
def _(x, gain, bias, dy, eps=1e-5):
    jacobian = np.broadcast_to(np.eye(x.shape[-1]), (*x.shape, x.shape[-1]))
    yield (
        "dbias_j = sum over rows and i of dy_i delta_ij: the bias is added as it is",
        sum_rows(np.einsum("...i,...ij->...j", dy, jacobian)),
    )
    yield "only i = j is left; the rows add", sum_rows(dy)


@layer_norm.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, shape[-1:]), normal(rng, shape[-1:])), {}
