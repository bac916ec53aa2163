"""Picking values by their index: getitem and embedding.

Both copy values from places in an array, so both gradients put cotangents back into those places: a gather forward is a
scatter backward, and a place that was read several times receives the sum.
"""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.samples import normal


def scatter_rows(ids, updates, count):
    """(count, ...) zeros to which ``updates[n]`` is added in row ``ids[n]``: repeated ids are summed.

    Sorting brings equal ids together, and each run of them is one segment of a `reduceat`. The sort is stable, so a row's
    updates are added in the order in which they came: the same bits on every run. Two to three times as fast as np.add.at.
    """
    total = np.zeros((count, *updates.shape[1:]), updates.dtype)
    if ids.size:
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
        total[ordered[starts]] = np.add.reduceat(updates[order], starts, axis=0)
    return total


@op
def embedding(weight, ids):
    """``y = weight[ids]``: weight (V, C), whole-number ids of any shape, y (*ids.shape, C).

    A lookup is a product with one-hot rows, ``y_n = e_(ids_n) W``, without the multiplications by zero. Saves the ids
    alone. The gradient is the product transposed: a row of the weight receives the sum of the cotangents of all the places
    that looked it up, and zero if none did::

        dW_v = sum_n [ids_n = v] dy_n

    Raises IndexError for an id outside [0, V): negative ids do not count from the end here, since in a token stream they
    are a mistake or padding. Cost: one pass over y forward; a sort of the ids, and one pass over dy and one over the
    weight backward.
    """
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"embedding: ids must be whole numbers, not {ids.dtype}")
    size = weight.shape[0]
    for extreme in (ids.min(), ids.max()) if ids.size else ():
        if not 0 <= extreme < size:
            raise IndexError(f"embedding: id {extreme} is outside the vocabulary of V={size} (ids 0 to {size - 1})")

    def vjp(dy):
        return lambda: scatter_rows(ids.ravel(), dy.reshape(ids.size, *weight.shape[1:]), size)

    return np.take(weight, ids, axis=0), vjp


@embedding.sample
def _(rng, shape=(4, 3)):
    return (normal(rng, shape), rng.integers(0, shape[0], (2, 3))), {}
