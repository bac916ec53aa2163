"""An addition and a norm in one: add_layer_norm and add_rms_norm, as they follow each other in a pre-norm transformer.

A block adds what attention computed to the residual stream, and normalises the sum for the feed-forward network; the
sum itself is needed again at the end of the block. So both operations have two outputs, ``s = x + residual`` and the
norm y of s. As one operation they are one pass over memory for a kernel, forward and backward.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.norms import check_channels, layer_norm, rms_norm
from tinygrad_llm.ops.samples import normal


def check_sum(name, x, residual, **parameters):
    """Raise ValueError unless x and residual have one shape, (..., C), and every parameter is (C,)."""
    if x.shape != residual.shape:
        raise ValueError(f"{name}: x {x.shape} and residual {residual.shape} differ in shape")
    check_channels(name, x, **parameters)


@op
def add_layer_norm(x, residual, gain, bias, eps=1e-5):
    """``(s, y)`` with ``s = x + residual`` and ``y = gain xhat + bias``, where xhat is s normalised as in `layer_norm`:
    ``xhat = (s - mean) rstd`` with ``rstd = 1 / sqrt(var + eps)``.

    Shapes: x, residual, s and y (..., C), gain and bias (C,). Saves what `layer_norm` saves. With ds and dy the
    cotangents of s and y, and ``g = dy gain``::

        dx = dresidual = ds + (g - mean(g) - xhat mean(g xhat)) rstd,   dgain = sum dy xhat,   dbias = sum dy

    What x and residual receive is one array: s depends on both alike.
    """
    check_sum("add_layer_norm", x, residual, gain=gain, bias=bias)
    s = x + residual
    y, norm_vjp = layer_norm.reference(s, gain, bias, eps)

    def vjp(dys):
        ds, dy = dys
        through_norm, dgain, dbias = norm_vjp(dy)
        dx = ds + through_norm()
        return dx, dx, dgain, dbias

    return (s, y), vjp


def through_layer_norm(s, gain, dys, eps, name):
    """The forms of the gradient of x, or of residual, which has that `name`."""
    ds, dy = dys
    n = s.shape[-1]
    rstd = 1 / np.sqrt(s.var(-1, keepdims=True) + eps)
    xhat = (s - s.mean(-1, keepdims=True)) * rstd
    g = dy * gain
    delta = np.eye(n)
    jacobian = rstd[..., None] * (delta - 1 / n - xhat[..., :, None] * xhat[..., None, :] / n)
    yield (
        f"`d{name}_j = sum_i ds_i ∂s_i/∂{name}_j + sum_i g_i ∂xhat_i/∂{name}_j` with `g = dy gain`, in a row of `N` "
        f"entries; `∂s_i/∂{name}_j = delta_ij`, so xhat has the same derivative by it as by `s_j`, known "
        "from the norm alone: `rstd (delta_ij - 1/N - xhat_i xhat_j/N)`",
        np.einsum("...i,ij->...j", ds, delta) + np.einsum("...i,...ij->...j", g, jacobian),
    )
    yield (
        "only `i = j` is left of the first sum; multiply out the three terms of the second",
        ds + rstd * (g - g.sum(-1, keepdims=True) / n - xhat * (g * xhat).sum(-1, keepdims=True) / n),
    )
    means = g.mean(-1, keepdims=True), (g * xhat).mean(-1, keepdims=True)
    yield "a sum over the row divided by `N` is the row's mean", ds + (g - means[0] - xhat * means[1]) * rstd


@add_layer_norm.derivation("x")
def _(x, residual, gain, bias, dy, eps=1e-5):
    yield from through_layer_norm(x + residual, gain, dy, eps, "x")


@add_layer_norm.derivation("residual")
def _(x, residual, gain, bias, dy, eps=1e-5):
    yield from through_layer_norm(x + residual, gain, dy, eps, "residual")


@add_layer_norm.derivation("gain")
def _(x, residual, gain, bias, dy, eps=1e-5):
    s = x + residual
    xhat = (s - s.mean(-1, keepdims=True)) / np.sqrt(s.var(-1, keepdims=True) + eps)
    yield from of_a_parameter("gain", dy[1], xhat, "xhat_i")


@add_layer_norm.derivation("bias")
def _(x, residual, gain, bias, dy, eps=1e-5):
    yield from of_a_parameter("bias", dy[1], np.ones(dy[1].shape), "1")


def of_a_parameter(name, dy, slope, formula):
    """The forms of the gradient of a parameter that enters y with the given slope, and s not at all."""
    jacobian = slope[..., :, None] * np.eye(dy.shape[-1])
    yield (
        f"`d{name}_j = sum dy_i ∂y_i/∂{name}_j` over all rows and `i`; `∂y_i/∂{name}_j` is `{formula}` where `i = j`, "
        "else 0, and s does not depend on it",
        np.einsum("...i,...ij->...j", dy, jacobian).reshape(-1, dy.shape[-1]).sum(0),
    )
    yield "only `i = j` is left; the rows add", (dy * slope).reshape(-1, dy.shape[-1]).sum(0)


@add_layer_norm.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, shape), normal(rng, shape[-1:]), normal(rng, shape[-1:])), {}


@add_layer_norm.sample
def _(rng, shape=(2, 2, 4)):  # an eps that matters
    return (normal(rng, shape), normal(rng, shape), normal(rng, shape[-1:]), normal(rng, shape[-1:])), {"eps": 0.5}


# ---------------------------------------------------------------------------------------------------------------------


@op
def add_rms_norm(x, residual, gain, eps=1e-5):
    """``(s, y)`` with ``s = x + residual`` and ``y = gain xhat``, where xhat is s normalised as in `rms_norm`:
    ``xhat = s r`` with ``r = 1 / sqrt(mean(s^2) + eps)``.

    Shapes: x, residual, s and y (..., C), gain (C,). Saves what `rms_norm` saves. With ds and dy the cotangents of s
    and y, and ``g = dy gain``::

        dx = dresidual = ds + (g - xhat mean(g xhat)) r,   dgain = sum dy xhat

    What x and residual receive is one array: s depends on both alike.
    """
    check_sum("add_rms_norm", x, residual, gain=gain)
    s = x + residual
    y, norm_vjp = rms_norm.reference(s, gain, eps)

    def vjp(dys):
        ds, dy = dys
        through_norm, dgain = norm_vjp(dy)
        dx = ds + through_norm()
        return dx, dx, dgain

    return (s, y), vjp


def through_rms_norm(s, gain, dys, eps, name):
    """The forms of the gradient of x, or of residual, which has that `name`."""
    ds, dy = dys
    n = s.shape[-1]
    r = 1 / np.sqrt((s**2).mean(-1, keepdims=True) + eps)
    xhat = s * r
    g = dy * gain
    delta = np.eye(n)
    jacobian = r[..., None] * (delta - xhat[..., :, None] * xhat[..., None, :] / n)
    yield (
        f"`d{name}_j = sum_i ds_i ∂s_i/∂{name}_j + sum_i g_i ∂xhat_i/∂{name}_j` with `g = dy gain`, in a row of `N` "
        f"entries; `∂s_i/∂{name}_j = delta_ij`, so xhat has the same derivative by it as by `s_j`, known "
        "from the norm alone: `r (delta_ij - xhat_i xhat_j/N)`",
        np.einsum("...i,ij->...j", ds, delta) + np.einsum("...i,...ij->...j", g, jacobian),
    )
    yield (
        "only `i = j` is left of the first sum; multiply out the two terms of the second",
        ds + r * (g - xhat * (g * xhat).sum(-1, keepdims=True) / n),
    )
    yield (
        "a sum over the row divided by `N` is the row's mean",
        ds + (g - xhat * (g * xhat).mean(-1, keepdims=True)) * r,
    )


@add_rms_norm.derivation("x")
def _(x, residual, gain, dy, eps=1e-5):
    yield from through_rms_norm(x + residual, gain, dy, eps, "x")


@add_rms_norm.derivation("residual")
def _(x, residual, gain, dy, eps=1e-5):
    yield from through_rms_norm(x + residual, gain, dy, eps, "residual")


@add_rms_norm.derivation("gain")
def _(x, residual, gain, dy, eps=1e-5):
    s = x + residual
    yield from of_a_parameter("gain", dy[1], s / np.sqrt((s**2).mean(-1, keepdims=True) + eps), "xhat_i")


@add_rms_norm.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape), normal(rng, shape), normal(rng, shape[-1:])), {}


@add_rms_norm.sample
def _(rng, shape=(2, 2, 3)):  # an eps that matters
    return (normal(rng, shape), normal(rng, shape), normal(rng, shape[-1:])), {"eps": 0.5}
