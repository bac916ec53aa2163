"""Picking values by their index: getitem and embedding.

Both copy values from places in an array, so both gradients put cotangents back into those places: a gather forward is a
scatter backward, and a place that was read several times receives the sum.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.backend import twinned
from tinygrad_llm.operation import op
from tinygrad_llm.ops.samples import normal
from tinygrad_llm.tensor import Tensor


@twinned
def scatter_rows(ids, updates, count):
    """(count, ...) zeros to which ``updates[n]`` is added in row ``ids[n]``: repeated ids are summed.

    Sorting brings equal ids together, and each run is one segment of a `reduceat`. The sort is stable: the order
    in which a row's updates are added, and so the last bits of their sum, do not depend on how this machine sorts.
    About twice as fast as np.add.at.
    """
    total = np.zeros((count, *updates.shape[1:]), updates.dtype)
    if ids.size:
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        total[ordered[starts]] = np.add.reduceat(updates[order], starts, axis=0)
    return total


@op
def embedding(weight, ids):
    """``y = weight[ids]``: weight (V, C), whole-number ids of any shape, y (*ids.shape, C).

    A lookup is a product with one-hot rows, ``y_n = e_(ids_n) W``, without the multiplications by zero. Saves the ids
    alone. The gradient is that product transposed: a row of the weight receives the sum of the cotangents of all places
    that looked it up, and zero if none did::

        dW_v = sum_n [ids_n = v] dy_n

    Raises IndexError for an id outside [0, V): negative ids do not count from the end here, since in a token stream
    they are a mistake or padding; TypeError for ids that are not whole numbers. Cost: one pass over y forward; a sort
    of the ids, two passes over dy and one over the weight backward.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids must be whole numbers, not {ids.dtype}")
    size, *row = weight.shape
    for extreme in (ids.min(), ids.max()) if ids.size else ():
        if not 0 <= extreme < size:
            raise IndexError(f"embedding: id {extreme} is outside the vocabulary of V={size} (ids 0 to {size - 1})")

    def vjp(dy):
        return lambda: scatter_rows(ids.ravel(), dy.reshape(ids.size, *row), size)

    return np.take(weight, ids, axis=0), vjp


@embedding.derivation("weight")
def _(weight, ids, dy):
    onehot = np.eye(len(weight))[ids.ravel()]  # (N, V): row n is e_(ids_n), so y = onehot W
    dy = dy.reshape(ids.size, -1)
    yield (
        "`dW_vc = sum_nd dy_nd ∂y_nd/∂W_vc`, with `∂y_nd/∂W_vc = 1` where `ids_n = v` and `d = c`, else 0",
        np.einsum("nd,nv,dc->vc", dy, onehot, np.eye(weight.shape[1])),
    )
    yield "only `d = c` is left: the gradient of a product with one-hot rows", onehot.T @ dy
    dw = np.zeros(weight.shape)
    for n, v in enumerate(ids.ravel()):
        dw[v] += dy[n]
    yield "leave out the products with 0: each cotangent is added to the row that was looked up", dw
    # the vjp does these additions in the order of v instead of n


@embedding.sample
def _(rng, shape=(4, 3)):
    return (normal(rng, shape), rng.integers(0, shape[0], (2, 3))), {}


# ---------------------------------------------------------------------------------------------------------------------


def plain_index(index):
    """`index` with arrays in place of Tensors."""
    if isinstance(index, tuple):
        return tuple(map(plain_index, index))
    index = index.data if isinstance(index, Tensor) else index
    if isinstance(index, np.ndarray) and index.size == 0 and index.dtype.kind == "f":
        return index.astype(np.intp)  # what NumPy makes of x[[]]
    return index


def reads_once(index):
    """Whether no place can be read twice: only whole numbers, slices, None, Ellipsis and boolean arrays."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None
        or part is Ellipsis
        or isinstance(part, (int, np.integer, slice))
        or (isinstance(part, np.ndarray) and part.dtype.kind == "b")
        for part in parts
    )


@op
def getitem(x, index):
    """``y = x[index]`` with NumPy's meaning: whole numbers, slices, None, Ellipsis, integer and boolean arrays.

    Saves the index and the shape of x, not x; for a basic index y is a view of x. The gradient is zeros, to which each
    cotangent is added at the place that was read; with ``place_n`` the place of x from which ``y_n`` was read::

        dx_j = sum_n [place_n = j] dy_n

    Only an integer array can read a place twice. Without one the sum has one term at most, and is an assignment; a
    single one is the same sum over rows as in `embedding`; else np.add.at. Cost: one pass over x backward, besides the
    scatter.
    """
    index = plain_index(index)
    shape = x.shape

    def vjp(dy):
        if isinstance(index, np.ndarray) and index.dtype.kind in "iu":
            count, *row = shape
            return scatter_rows(
                index.astype(np.intp).ravel() % count, dy.reshape(index.size, *row), count
            )  # -1 is count - 1
        dx = np.zeros(shape, dy.dtype)
        if reads_once(index):
            dx[index] = dy
        else:
            np.add.at(dx, index, dy)
        return dx

    return x[index], vjp


@getitem.derivation("x")
def _(x, index, dy):
    places = np.arange(x.size).reshape(x.shape)[plain_index(index)].ravel()  # y_n was read from place places[n] of x
    jacobian = np.eye(x.size)[places]
    yield (
        "`dx_j = sum_n dy_n ∂y_n/∂x_j`, with `∂y_n/∂x_j = 1` where `y_n` was read from place `j`, else 0",
        (dy.ravel() @ jacobian).reshape(x.shape),
    )
    dx = np.zeros(x.size)
    for n, place in enumerate(places):
        dx[place] += dy.ravel()[n]
    yield "leave out the zeros: each cotangent is added to the place that was read", dx.reshape(x.shape)


def index_sample(make):
    """Add to getitem a sample whose index is ``make(rng)``, for an x of shape (3, 4, 2)."""

    @getitem.sample
    def _(rng, shape=(3, 4, 2)):
        return (normal(rng, shape), make(rng)), {}


index_sample(lambda rng: 1)
index_sample(lambda rng: (slice(None), slice(3, 0, -2)))
index_sample(lambda rng: (Ellipsis, None, -1))
index_sample(lambda rng: rng.integers(-3, 3, (2, 3)))  # repeated, and counted from the end
index_sample(lambda rng: (slice(1, None), rng.integers(-4, 4, 5)))
index_sample(lambda rng: (rng.integers(0, 3, (2, 1)), slice(None), rng.integers(0, 2, 3)))
index_sample(lambda rng: rng.random((3, 4)) < 0.5)
index_sample(lambda rng: (0, rng.random(4) < 0.5))
