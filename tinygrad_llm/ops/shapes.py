"""Operations that move values without changing them: reshape, transpose, concatenate, stack, split, pad.

Every entry of a result is one entry of an input (or a constant), so the Jacobian consists of zeros and ones, and the
vjp moves the cotangents back by the same road. Results and gradients are views where NumPy can give one. Nothing is
saved but shapes.
"""

from __future__ import annotations

import operator

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from tinygrad_llm.operation import op
from tinygrad_llm.ops.reductions import linear_map
from tinygrad_llm.ops.samples import normal, one_axis


@op
def reshape(x, shape):
    """``y = reshape(x, shape)``: the entries of x in the same (row-major) order; one size may be -1: it follows.

    Gradient: ``dx = dy`` in the shape of x. Saves that shape.
    """
    before = np.shape(x)
    wanted = tuple(operator.index(n) for n in np.atleast_1d(shape))
    try:
        y = np.reshape(x, wanted)
    except ValueError as error:
        raise ValueError(f"reshape: {before}, which is {np.size(x)} elements, does not fit into {wanted}") from error

    def vjp(dy):
        return dy.reshape(before)

    return y, vjp


@reshape.derivation("x")
def _(x, shape, dy):
    yield (
        "`dx_j = sum_k dy_k ∂y_k/∂x_j` with `∂y_k/∂x_j = 1` where entry `k` of the result is entry `j` of `x`, else 0",
        linear_map(lambda unit: unit.reshape(shape), x.shape, dy),
    )
    yield "the order of the entries is the same, so that is `k = j`, counted in row-major order", dy.reshape(x.shape)


@reshape.sample
def _(rng, shape=(2, 3)):
    return (normal(rng, shape),), {"shape": [(-1,), shape[::-1], (1, *shape)][int(rng.integers(3))]}


@op
def transpose(x, axes=None):
    """``y = transpose(x, axes)``: axis i of y is axis ``axes[i]`` of x; None reverses their order. Saves the axes.

    Gradient: the inverse permutation of dy, ``dx = transpose(dy, argsort(axes))``.
    """
    ndim = np.ndim(x)
    order = list(range(ndim))[::-1] if axes is None else [operator.index(a) for a in np.atleast_1d(axes)]
    positive = [a + ndim if a < 0 else a for a in order]
    if sorted(positive) != list(range(ndim)):
        raise ValueError(f"transpose: axes {tuple(order)} are not a permutation of the {ndim} axes of {np.shape(x)}")

    def vjp(dy):
        return np.transpose(dy, np.argsort(positive))

    return np.transpose(x, positive), vjp


@transpose.derivation("x")
def _(x, dy, axes=None):
    yield (
        "`dx_j = sum_k dy_k ∂y_k/∂x_j` with `∂y_k/∂x_j = 1` where entry `k` of the result is entry `j` of `x`, else 0",
        linear_map(lambda unit: np.transpose(unit, axes), x.shape, dy),
    )
    order = list(range(x.ndim))[::-1] if axes is None else [a % x.ndim for a in axes]
    yield (
        "axis `i` of `dy` is axis `axes[i]` of `x`: give each axis of `dy` the number it has in `x`, and put the "
        "numbers in order",
        np.einsum(dy, order, list(range(x.ndim))),
    )
    yield (
        "`argsort` finds, for each axis of `x`, which axis of `dy` has its number",
        np.transpose(dy, np.argsort(order)),
    )


@transpose.sample
def _(rng, shape=(2, 3)):
    n = len(shape)
    axes = tuple(int(a) for a in rng.permutation(n) - n * rng.integers(0, 2, n))  # some of them counted from the end
    return (normal(rng, shape),), {"axes": None if rng.random() < 0.3 else axes}


@transpose.sample
def _(rng, shape=(2, 3, 4)):
    return (normal(rng, shape),), {"axes": (*range(1, len(shape)), 0)}  # not its own inverse


@op
def concatenate(*xs, axis=0):
    """``y = concatenate(a, b, ...)``: arrays joined along an existing `axis`; other sizes are equal. Saves the sizes.

    Gradient: each array receives its own piece of dy, a view.
    """
    if not xs:
        raise ValueError("concatenate: no arrays given")
    y = np.concatenate(xs, axis=axis)
    ends = np.cumsum([np.shape(x)[axis] for x in xs])

    def vjp(dy):
        return tuple(np.split(dy, ends[:-1], axis=axis))

    return y, vjp


def each_alone(function, xs, dy):
    """`linear_map` for each of several inputs, while the others are 0."""
    return tuple(
        linear_map(
            lambda unit, k=k: function([unit if i == k else np.zeros(x.shape) for i, x in enumerate(xs)]),
            xs[k].shape,
            dy,
        )
        for k in range(len(xs))
    )


@concatenate.derivation("xs")
def _(*xs, dy, axis=0):
    yield (
        "`dx_j = sum_k dy_k ∂y_k/∂x_j` with `∂y_k/∂x_j = 1` where entry `k` of the result is entry `j` of this input, "
        "else 0",
        each_alone(lambda arrays: np.concatenate(arrays, axis=axis), xs, dy),
    )
    starts = [int(np.sum([x.shape[axis] for x in xs[:i]])) for i in range(len(xs))]
    yield (
        "input `i` fills the result from where the inputs before it end, so its entries meet `dy` from there on",
        tuple(np.take(dy, range(start, start + x.shape[axis]), axis=axis) for start, x in zip(starts, xs, strict=True)),
    )
    yield "cut `dy` at these places", tuple(np.split(dy, starts[1:], axis=axis))


@concatenate.sample
def _(rng, shape=(2, 3)):
    axis = one_axis(rng, shape)
    sizes = [shape[axis], *rng.integers(0, 4, int(rng.integers(0, 3)))]
    return tuple(normal(rng, resized(shape, axis, int(n))) for n in sizes), {"axis": axis}


def resized(shape, axis, size):
    """`shape` with another size along `axis`."""
    sizes = list(shape)
    sizes[axis] = size
    return tuple(sizes)


@op
def stack(*xs, axis=0):
    """``y = stack(a, b, ...)``: arrays of one shape joined along a new `axis` of the result. Saves nothing.

    Gradient: each array receives its own slice of dy, a view.
    """
    if not xs:
        raise ValueError("stack: no arrays given")

    def vjp(dy):
        return tuple(np.moveaxis(dy, axis, 0))

    return np.stack(xs, axis=axis), vjp


@stack.derivation("xs")
def _(*xs, dy, axis=0):
    yield (
        "`dx_j = sum_k dy_k ∂y_k/∂x_j` with `∂y_k/∂x_j = 1` where entry `k` of the result is entry `j` of this input, "
        "else 0",
        each_alone(lambda arrays: np.stack(arrays, axis=axis), xs, dy),
    )
    yield (
        "input `i` is slice `i` of the result along the new axis, so it receives slice `i` of `dy`",
        tuple(np.take(dy, i, axis=axis) for i in range(len(xs))),
    )
    yield "with that axis moved to the front, the slices follow one another", tuple(np.moveaxis(dy, axis, 0))


@stack.sample
def _(rng, shape=(2, 3)):
    axis = int(rng.integers(-len(shape) - 1, len(shape) + 1))
    return tuple(normal(rng, shape) for _ in range(int(rng.integers(1, 4)))), {"axis": axis}


@op
def split(x, sections, axis=0):
    """``(a, b, ...) = split(x, sections)``: x cut into pieces along `axis`, as a tuple of views.

    `sections` is a number of equal pieces, or the ascending indices at which to cut.

    Gradient: the pieces' cotangents joined again; a piece that is not used contributes zeros. Saves nothing.
    """
    shape = np.shape(x)
    size = shape[normalize_axis_index(axis, len(shape))]
    if np.ndim(sections) == 0 and (sections < 1 or size % sections):
        raise ValueError(f"split: axis {axis} of {shape} has size {size}, which {sections} does not divide")
    pieces = tuple(np.split(x, sections, axis=axis))
    if np.sum([piece.shape[axis] for piece in pieces]) != size:
        raise ValueError(f"split: the indices {np.array(sections)} do not ascend, so the pieces of {shape} overlap")

    def vjp(dys):
        return lambda: np.concatenate(dys, axis=axis)

    return pieces, vjp


@split.derivation("x")
def _(x, sections, dy, axis=0):
    yield (
        "`dx_j = sum_k dy_k ∂y_k/∂x_j` over the entries `k` of all pieces, with `∂y_k/∂x_j = 1` where entry `k` is "
        "entry `j` of `x`, else 0",
        sum(
            linear_map(lambda unit, i=i: np.split(unit, sections, axis=axis)[i], x.shape, piece)
            for i, piece in enumerate(dy)
        ),
    )
    yield (
        "the pieces do not overlap and follow one another, so joined they are `x` again",
        np.concatenate(dy, axis=axis),
    )


@split.sample
def _(rng, shape=(2, 3)):
    axis = one_axis(rng, shape)
    indices = sorted(int(i) for i in rng.integers(0, shape[axis] + 1, int(rng.integers(1, 3))))
    return (normal(rng, shape),), {"sections": shape[axis] if rng.random() < 0.3 else indices, "axis": axis}


@op
def pad(x, widths, value=0.0):
    """``y = pad(x, widths)``: x with `widths` entries around it, on every axis; or (before, after) for all or each.

    The new entries are the number `value`. Gradient: the part of dy where x lies, a view. Saves where that is.
    """
    shape = np.shape(x)
    try:
        pairs = np.broadcast_to(widths, (len(shape), 2)).tolist()
    except ValueError as error:
        raise ValueError(
            f"pad: widths of shape {np.shape(widths)} do not fit x of shape {shape}; "
            f"give one number, one (before, after), or {len(shape)} of these"
        ) from error
    inside = tuple(slice(before, before + n) for (before, _), n in zip(pairs, shape, strict=True))

    def vjp(dy):
        return dy[inside]

    return np.pad(x, pairs, constant_values=value), vjp


@pad.derivation("x")
def _(x, widths, dy, value=0.0):
    yield (
        "`dx_j = sum_k dy_k ∂y_k/∂x_j` with `∂y_k/∂x_j = 1` where entry `k` of the result is entry `j` of `x`, else "
        "0; the constants around `x` contribute nothing",
        linear_map(lambda unit: np.pad(unit, widths), x.shape, dy),
    )
    befores = [before for before, _ in np.broadcast_to(widths, (x.ndim, 2))]
    places = np.ix_(*(before + np.arange(n) for before, n in zip(befores, x.shape, strict=True)))
    yield "entry `j` of `x` lies at `j + before`, along every axis", dy[places]
    inside = tuple(slice(before, before + n) for before, n in zip(befores, x.shape, strict=True))
    yield "these places are a block without gaps: a slice", dy[inside]


@pad.sample
def _(rng, shape=(2, 3)):
    widths = [1, (2, 0), tuple((int(a), int(b)) for a, b in rng.integers(0, 3, (len(shape), 2)))][int(rng.integers(3))]
    return (normal(rng, shape),), {"widths": widths, "value": float(rng.standard_normal())}
