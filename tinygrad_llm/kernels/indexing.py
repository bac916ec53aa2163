"""The compiled twin of `ops/indexing.py`: rows added where their ids say, in the order in which they come."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import PIECE, same_float
from tinygrad_llm.ops.indexing import scatter_rows

LINE = 32
"""Columns of which a thread has a whole number, so that no two write to one line of the cache."""


@compiled
def add_rows(low, high, ids, updates, total):
    """``total[ids[n]] += updates[n]`` for some columns: each sum is one thread's, whatever the ids."""
    first, last = low * LINE, min(high * LINE, updates.shape[1])
    for n in range(len(ids)):
        row, update = total[ids[n], first:last], updates[n, first:last]
        for c in range(last - first):
            row[c] += update[c]


@scatter_rows.kernel
def _(ids, updates, count):
    if not same_float(updates) or ids.dtype.kind not in "iu":
        return NotImplemented
    if ids.size and not (ids.min() >= 0 and ids.max() < count):
        return NotImplemented  # the reference says what is wrong; here it would be written outside the array
    total = np.zeros((count, *updates.shape[1:]), updates.dtype)
    columns = math.prod(updates.shape[1:])
    if updates.size:
        updates = np.ascontiguousarray(updates).reshape(len(ids), columns)
        least = -(-PIECE // (LINE * len(ids)))
        threads.run(
            add_rows, -(-columns // LINE), ids.astype(np.intp), updates, total.reshape(count, columns), least=least
        )
    return total
