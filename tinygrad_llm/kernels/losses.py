"""The compiled twin of `ops/losses.py`: forward one pass over the logits, backward one that writes their gradient.

A row of logits stays in the cache from the search for its largest to the sum of its exponentials.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.elementary import LOG2_E, exp2, number
from tinygrad_llm.kernels.layout import least_rows, matrix, same_float
from tinygrad_llm.kernels.vector import largest
from tinygrad_llm.ops.losses import check_options, checked_targets, cross_entropy

TILE = 1024
"""Logits that are in the innermost cache while their largest and their exponentials are found. The sum so far is
brought to a new maximum when there is one (Milakov and Gimelshein 2018, arXiv:1805.02867). So a row is read once from
memory, and the processor computes while it waits for the next tile."""


@compiled(inline=True)
def power_of_e(d):
    """``e^d`` for d <= 0, with NaN kept."""
    e = exp2(d * number(LOG2_E, d))
    return e if d == d else d


@compiled(inline=True)
def to_new_top(total, top, part):
    """The largest logit so far, and the sum of exponentials so far, relative to it."""
    most = largest(part)
    return (most, total * power_of_e(top - most)) if most > top else (top, total)


@compiled(inline=True)
def subtracted(top):
    """What is subtracted from logits of which this is the largest: -inf - -inf would be NaN too early."""
    return top if top > -np.inf else type(top)(0)


@compiled(inline=True, reorder=True)
def sum_of_exponentials(part, top):
    total = part.dtype.type(0)
    for c in range(len(part)):
        total += power_of_e(part[c] - top)
    return total


@compiled
def loss_of_rows(low, high, x, targets, kept, smoothing, z_loss, top, total, loss):
    """The loss of each row; of the rows that are kept also the largest logit, and the sum of ``exp(x - top)``."""
    columns = x.shape[1]
    zero, one = x.dtype.type(0), x.dtype.type(1)
    for i in range(low, high):
        loss[i] = zero
        if not kept[i]:
            continue
        xi, most, sum = x[i], x.dtype.type(-np.inf), zero
        for c in range(0, columns, TILE):
            part = xi[c : c + TILE]
            most, sum = to_new_top(sum, most, part)
            sum += sum_of_exponentials(part, subtracted(most))
        log_sum = x.dtype.type(math.log(sum))
        wanted = (one - smoothing) * (xi[targets[i]] - most)
        if smoothing != 0:
            below = zero
            for c in range(columns):
                below += xi[c] - most
            wanted += smoothing / x.dtype.type(columns) * below
        loss[i] = log_sum - wanted
        if z_loss != 0:
            loss[i] += z_loss * (most + log_sum) * (most + log_sum)
        top[i], total[i] = most, sum


@compiled
def gradient_of_rows(low, high, x, targets, kept, smoothing, z_loss, w, top, total, dx):
    columns = x.shape[1]
    one, two = x.dtype.type(1), x.dtype.type(2)
    for i in range(low, high):
        xi, dxi = x[i], dx[i]
        if not kept[i]:
            dxi[:] = 0
            continue
        most, factor = top[i], w[i] / total[i]
        if z_loss != 0:
            factor *= one + two * z_loss * (most + x.dtype.type(math.log(total[i])))
        share = w[i] * smoothing / x.dtype.type(columns)
        for c in range(columns):
            dxi[c] = power_of_e(xi[c] - most) * factor - share
        dxi[targets[i]] -= w[i] * (one - smoothing)


@cross_entropy.kernel
def _(logits, targets, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"):
    if not same_float(logits):
        return NotImplemented
    targets, kept = checked_targets("cross_entropy", logits.shape, targets, ignore_index)
    check_options(label_smoothing, reduction)
    x, kind, shape = matrix(logits), logits.dtype.type, logits.shape
    share = 1 / max(int(kept.sum()), 1) if reduction == "mean" else 1.0
    top, total, loss = np.empty((3, len(x)), x.dtype)
    given = x, targets.astype(np.intp), kept, kind(label_smoothing), kind(z_loss)
    threads.run(loss_of_rows, len(x), *given, top, total, loss, least=least_rows(x))

    def vjp(dy):
        w = dy.ravel() if reduction == "none" else np.broadcast_to(dy * share, len(x))
        dx = np.empty(x.shape, x.dtype)
        w = np.ascontiguousarray(w, x.dtype)
        threads.run(gradient_of_rows, len(x), *given, w, top, total, dx, least=least_rows(x))
        return dx.reshape(shape)

    return loss.reshape(shape[:-1]) if reduction == "none" else loss.sum() * share, vjp
