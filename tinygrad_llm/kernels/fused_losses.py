"""The compiled twin of `ops/fused_losses.py`: a block's logits become their gradient in place, between BLAS products.

The loss is a number, so its cotangent is one factor of all gradients: they are worked out in the forward pass, while a
block of logits is there, and multiplied afterwards. Only the products of the last block are left to the vjp, which
takes the factor into them: with one block, as in most models, it costs nothing, nor does a gradient not asked for.
"""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import threads
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.kernels.layout import least_rows, same_float
from tinygrad_llm.kernels.losses import TILE, loss_of_rows, power_of_e, subtracted, to_new_top
from tinygrad_llm.kernels.optimizer import combine
from tinygrad_llm.ops.fused_losses import blocks, checked_arguments, linear_cross_entropy
from tinygrad_llm.ops.products import product
from tinygrad_llm.tape import grad_enabled


@compiled(inline=True, reorder=True)
def exponentials(part, top):
    """``exp(x - top)`` in place of the logits; returns their sum."""
    total = part.dtype.type(0)
    for c in range(len(part)):
        e = power_of_e(part[c] - top)
        part[c] = e
        total += e
    return total


@compiled
def multiply(part, factor):
    for c in range(len(part)):
        part[c] *= factor


@compiled
def loss_and_slope(low, high, x, targets, kept, share, loss):
    """The loss of each row, and in place of its logits their gradient: ``share (p - onehot)``."""
    columns = x.shape[1]
    tops = np.empty(columns // TILE + 1, x.dtype)
    for i in range(low, high):
        xi, top, total = x[i], x.dtype.type(-np.inf), x.dtype.type(0)
        if not kept[i]:
            loss[i] = 0
            xi[:] = 0
            continue
        wanted = xi[targets[i]]
        for c in range(0, columns, TILE):
            part = xi[c : c + TILE]
            top, total = to_new_top(total, top, part)
            tops[c // TILE] = subtracted(top)
            total += exponentials(part, tops[c // TILE])
        loss[i] = x.dtype.type(math.log(total)) - (wanted - top)
        for c in range(0, columns, TILE):
            multiply(xi[c : c + TILE], share / total * power_of_e(tops[c // TILE] - top))
        xi[targets[i]] -= share


@linear_cross_entropy.kernel
def _(x, weight, targets, ignore_index=-100, reduction="mean", frozen=False):
    if not same_float(x, weight):
        return NotImplemented
    options = targets, ignore_index, reduction
    xs, targets, kept, share = checked_arguments(x, weight, *options)
    parts = blocks(len(xs), weight) or [slice(0, 0)]
    kind, shape, places = x.dtype.type, x.shape, targets.astype(np.intp)
    loss = np.empty(len(xs), x.dtype)
    held = np.empty((max(p.stop - p.start for p in parts), len(weight)), x.dtype)

    def rows_of(part, function, *arguments):
        """A block's logits, after the compiled `function` has seen them and noted its losses."""
        logits = product(xs[part], weight.T, out=held[: part.stop - part.start])
        given = logits, places[part], kept[part], *arguments, loss[part]
        threads.run(function, len(logits), *given, least=least_rows(logits))
        return logits

    if not grad_enabled():
        top, total = np.empty((2, len(held)), x.dtype)
        for part in parts:
            rows_of(part, loss_of_rows, kind(0), kind(0), top, total)
        return loss.sum() * share, lambda dy: linear_cross_entropy.reference(x, weight, *options, frozen)[1](dy)

    *earlier, last = parts
    dx, dweight = np.empty((last.start, xs.shape[1]), x.dtype), None
    for part in earlier:
        slope = rows_of(part, loss_and_slope, kind(share))
        product(slope, weight, out=dx[part])
        if not frozen:
            dweight = sum_of(product(slope.T, xs[part]), 1, dweight)
    slope = rows_of(last, loss_and_slope, kind(share))

    def vjp(dy):
        dy = kind(dy)

        def whole_dx():
            return np.concatenate((dx, product(slope, weight))).reshape(shape) * dy

        return whole_dx, None if frozen else lambda: sum_of(product(slope.T, xs[last] * dy), dy, dweight)

    return loss.sum() * share, vjp


def sum_of(result, factor, earlier):
    """`result`, to which `factor` times the sum of the blocks before is added, if there are any."""
    if earlier is not None:
        combine(factor, earlier, 1, result)
    return result
