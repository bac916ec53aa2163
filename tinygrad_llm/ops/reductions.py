"""Reductions: sum, mean, max, over one axis (int), several (tuple) or all (None). Negative axes count from the end.

Letters: ``z`` is the result, one entry ``z_k`` for each group k of entries of x that are reduced together.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from tinygrad_llm.operation import op
from tinygrad_llm.ops.samples import apart, axes, normal


def restored(a, axis, keepdims):
    """The reduced axes of `a` put back with size 1, so that it broadcasts against what was reduced."""
    return a if keepdims or axis is None else np.expand_dims(a, axis)


def group_size(name, x, axis):
    """How many entries of x make one entry of the result; a ValueError if that is none."""
    shape = np.shape(x)
    reduced = range(len(shape)) if axis is None else normalize_axis_tuple(axis, len(shape))
    size = math.prod(shape[a] for a in reduced)
    if size == 0:
        raise ValueError(f"{name}: axis {axis} of shape {shape} has no elements, and nothing has no {name}")
    return size


def linear_map(function, shape, dy):
    """``sum_k dy_k ∂z_k/∂x_j`` for a linear `function`: column j of its Jacobian is its image of the unit array e_j."""
    size = math.prod(shape)
    units = np.eye(size).reshape(size, *shape)
    return np.array([np.sum(dy * function(unit)) for unit in units]).reshape(shape)


@op
def sum(x, axis=None, keepdims=False):  # Python's own sum is not used in this file
    """``z_k = sum_(j in k) x_j`` over `axis`: the sum of each group k of entries. Over no elements it is 0.

    Saves only the shape of x.

    Gradient: ``dx = dy``, the same for every entry of a group; a view of dy that repeats it (zero strides), no copy.
    """
    shape = np.shape(x)

    def vjp(dy):
        return np.broadcast_to(restored(dy, axis, keepdims), shape)

    return np.sum(x, axis=axis, keepdims=keepdims), vjp


@sum.derivation("x")
def _(x, dy, axis=None, keepdims=False):
    yield (
        "`dx_j = sum_k dy_k ∂z_k/∂x_j`, with `∂z_k/∂x_j = 1` where `x_j` belongs to the group `k`, else 0",
        linear_map(lambda unit: np.sum(unit, axis=axis, keepdims=keepdims), x.shape, dy),
    )
    yield (
        "`x_j` belongs to one group, so one term is left: that group's `dy`",
        np.ones(x.shape) * restored(dy, axis, keepdims),
    )


@sum.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {"axis": axes(rng, shape), "keepdims": bool(rng.integers(2))}


@sum.sample
def _(rng, shape=(3, 2, 2)):
    return (normal(rng, shape),), {"axis": -1, "keepdims": bool(rng.integers(2))}


@op
def mean(x, axis=None, keepdims=False):
    """``z_k = sum_(j in k) x_j / N`` over `axis`: the mean of each group k of N entries. Saves only the shape of x.

    Gradient: ``dx = dy / N``, repeated as for `sum`. Without entries (``N = 0``) the mean would be 0/0: a ValueError.
    """
    shape, n = np.shape(x), group_size("mean", x, axis)

    def vjp(dy):
        return np.broadcast_to(restored(dy, axis, keepdims) / n, shape)

    return np.mean(x, axis=axis, keepdims=keepdims), vjp


@mean.derivation("x")
def _(x, dy, axis=None, keepdims=False):
    yield (
        "`dx_j = sum_k dy_k ∂z_k/∂x_j`, with `∂z_k/∂x_j = 1/N` where `x_j` belongs to the group `k`, else 0",
        linear_map(lambda unit: np.mean(unit, axis=axis, keepdims=keepdims), x.shape, dy),
    )
    n = x.size / dy.size
    yield (
        "`x_j` belongs to one group, so one term is left: that group's `dy / N`",
        np.ones(x.shape) * restored(dy, axis, keepdims) / n,
    )


@mean.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {"axis": axes(rng, shape), "keepdims": bool(rng.integers(2))}


@mean.sample
def _(rng, shape=(3, 2, 2)):
    return (normal(rng, shape),), {"axis": -1, "keepdims": bool(rng.integers(2))}


@op
def max(x, axis=None, keepdims=False):  # Python's own max is not used in this file
    """``z = max x``, the largest entry, over `axis`. Saves x and z.

    Gradient: ``dx = dy`` at the largest entry, 0 elsewhere. Where several are equal there is a kink; they share dy
    equally, as in PyTorch's amax. A NaN counts as the largest. Without entries there is no largest: a ValueError.
    """
    group_size("max", x, axis)
    z = np.max(x, axis=axis, keepdims=keepdims)

    def vjp(dy):
        largest = (x == restored(z, axis, keepdims)) | np.isnan(x)
        ties = np.sum(largest, axis=axis, keepdims=True, dtype=dy.dtype)
        return largest * (restored(dy, axis, keepdims) / ties)

    return z, vjp


@max.derivation("x")
def _(x, dy, axis=None, keepdims=False):
    z = np.max(x, axis=axis, keepdims=keepdims)

    def changes(unit):
        """The groups whose max falls when the entry marked by `unit` is taken away."""
        return np.max(np.where(unit == 1, -np.inf, x), axis=axis, keepdims=keepdims) < z

    yield (
        "`dx_j = sum_k dy_k ∂z_k/∂x_j`; without ties `z_k` follows one entry, the one without which it would be "
        "smaller: `∂z_k/∂x_j = 1` for that `x_j`, else 0",
        linear_map(changes, x.shape, dy),
    )
    largest = x == restored(z, axis, keepdims)
    yield (
        "that is the entry which equals its group's max: it gets the group's `dy`",
        np.where(largest, restored(dy, axis, keepdims), 0),
    )
    ties = largest.sum(axis=axis, keepdims=True)
    yield (
        "divide by the number of such entries: without ties it is 1, and with ties they share `dy` equally",
        largest * (restored(dy, axis, keepdims) / ties),
    )


@max.sample
def _(rng, shape=(2, 3)):
    return (apart(rng, shape),), {"axis": axes(rng, shape), "keepdims": bool(rng.integers(2))}


@max.sample
def _(rng, shape=(3, 2, 2)):
    return (apart(rng, shape),), {"axis": -1, "keepdims": bool(rng.integers(2))}
