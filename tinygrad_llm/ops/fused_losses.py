"""A loss together with the linear map before it: linear_cross_entropy, whose logits are never all there at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.losses import checked_targets, cross_entropy
from tinygrad_llm.ops.products import rows
from tinygrad_llm.ops.samples import normal

LOGITS = 1 << 26
"""Bytes of logits that are held at once."""

LEAST_ROWS = 256
"""Rows that are taken at once even so: with fewer, a matrix product is slower."""


@op
def linear_cross_entropy(x, weight, targets, ignore_index=-100, reduction="mean", frozen=False):
    """``cross_entropy(x W^T, targets)``: a language model's loss, from the vectors that its head turns into logits.

    x (..., C), weight (V, C), which may be the token embedding, whole-number targets (...); the loss is a number, for
    reduction "mean" or "sum". For ``ignore_index`` and errors see `cross_entropy`. With N rows and a large vocabulary
    the N V logits are the largest array of a training step, and their gradient another one; here they are made for a
    few rows at a time (at most `LOGITS` bytes or `LEAST_ROWS` rows), and made again in the vjp.

    With p the softmax of a row's logits and w the cotangent of its loss, the gradient of the logits is that of
    `cross_entropy`, and those of x and W are those of a product, a sum over blocks b of rows for W::

        s = w (p - onehot(target))     dx = s W     dW = s^T x = sum_b s_b^T x_b

    Saves x and the weight. Cost: 2 N V C floating-point operations forward, and three times that backward, one of them
    for the logits. Its compiled twin works out p and both products of a block while it is there, if gradients are
    wanted, since the loss is a number and w can be multiplied in afterwards: then no logits are made twice.
    `frozen` says that the weight is not trained: then nothing is worked out for it. Sources: Hsu et al. 2024 (Liger
    Kernel), arXiv:2410.10989; Wijmans et al. 2024 (Cut Cross-Entropy), arXiv:2411.09009.
    """
    xs, targets, kept, share = checked_arguments(x, weight, targets, ignore_index, reduction)
    parts = blocks(len(xs), weight)

    def of_block(part):
        """Loss and vjp of the logits of some rows, which are summed."""
        some = np.where(kept[part], targets[part], -100)
        return cross_entropy.reference(xs[part] @ weight.T, some, ignore_index=-100, reduction="sum")

    loss = sum((of_block(part)[0] for part in parts), start=np.result_type(x, weight).type(0))

    def vjp(dy):
        dx, dweight = np.zeros_like(xs), None if frozen else np.zeros_like(weight)
        for part in parts:
            s = of_block(part)[1](dy * share)
            dx[part] = s @ weight
            if not frozen:
                dweight += s.T @ xs[part]
        return dx.reshape(x.shape), dweight

    return loss * share, vjp


def checked_arguments(x, weight, targets, ignore_index, reduction):
    """(rows of x, targets, kept, share): targets and kept as from `checked_targets`, and a row's share in the loss."""
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear_cross_entropy: x {named_shape(x.shape, 'BTC')} and weight {named_shape(weight.shape, 'VC')}: "
            "the last axes must be the same C"
        )
    if reduction not in ("mean", "sum"):
        raise ValueError(f"linear_cross_entropy: unknown reduction {reduction!r}; expected mean or sum")
    logits = (*x.shape[:-1], len(weight))
    targets, kept = checked_targets("linear_cross_entropy", logits, targets, ignore_index)
    return rows(x), targets, kept, 1 / max(int(kept.sum()), 1) if reduction == "mean" else 1.0


def blocks(count, weight):
    """Slices of `count` rows, of about equal length, whose logits are held at once."""
    most = max(LEAST_ROWS, LOGITS // max(1, len(weight) * weight.itemsize))
    number = -(-count // most)
    edges = [count * i // number for i in range(number + 1)] if number else []
    return [slice(low, high) for low, high in pairwise(edges)]


def parts_of(x, weight, targets, ignore_index, dy, reduction):
    """For the derivations: one row of x and of the softmax per target, and the cotangents of the rows' losses."""
    kept = (targets != ignore_index).ravel()
    w = dy * kept / (max(kept.sum(), 1) if reduction == "mean" else 1)
    e = np.exp(rows(x) @ weight.T)
    p = e / e.sum(-1, keepdims=True)
    return rows(x), p, np.eye(len(weight))[np.where(kept, targets.ravel(), 0)], w[:, None]


@linear_cross_entropy.derivation("x")
def _(x, weight, targets, dy, ignore_index=-100, reduction="mean", frozen=False):
    _, p, onehot, w = parts_of(x, weight, targets, ignore_index, dy, reduction)
    delta = np.eye(len(weight))
    jacobian = p[:, :, None] * (delta - p[:, None, :])  # ∂p_u/∂z_v: see softmax
    yield (
        "`dx_c = w ∂loss/∂x_c`, where `loss = -log p_target`, `p` is the softmax of the logits `z = W x`, and `w` is "
        "`dy` times the row's share in the mean (1 if none is taken; 0 for an ignored row); chain rule with "
        "`∂loss/∂p_u = -[u = target] / p_u`, `∂p_u/∂z_v = p_u (delta_uv - p_v)` and `∂z_v/∂x_c = W_vc`",
        (w * np.einsum("nu,nuv,vc->nc", -onehot / p, jacobian, weight)).reshape(x.shape),
    )
    yield (
        "`p_u` cancels, and of the sum over `u` only the target is left: `∂loss/∂z_v = p_v - [v = target]`",
        (w * np.einsum("nv,vc->nc", p - onehot, weight)).reshape(x.shape),
    )
    s = w * (p - onehot)
    yield "with `s` the gradient of the logits, as of `cross_entropy`, a matrix product", (s @ weight).reshape(x.shape)
    halves = [slice(0, len(s) // 2), slice(len(s) // 2, len(s))]
    yield (
        "each row by itself, so the rows may be taken in blocks",
        np.concatenate([s[half] @ weight for half in halves]).reshape(x.shape),
    )


@linear_cross_entropy.derivation("weight")
def _(x, weight, targets, dy, ignore_index=-100, reduction="mean", frozen=False):
    xs, p, onehot, w = parts_of(x, weight, targets, ignore_index, dy, reduction)
    delta = np.eye(len(weight))
    slopes = np.einsum("nt,ntu->nu", -onehot / p, p[:, :, None] * (delta - p[:, None, :]))  # ∂loss_n/∂z_nu, as for x
    yield (
        "`dW_vc = sum_n w_n ∂loss_n/∂W_vc`, with `w_n` the cotangent of the loss of row `n`; chain rule through the "
        "logits `z_nu = sum_c W_uc x_nc`, with `∂z_nu/∂W_vc = delta_uv x_nc`",
        np.einsum("nu,uv,nc->vc", w * slopes, delta, xs),
    )
    s = w * (p - onehot)
    yield (
        "`∂loss_n/∂z_nu = p_nu - [u = target_n]`, as for `x`; only `u = v` is left of the sum",
        np.einsum("nv,nc->vc", s, xs),
    )
    yield "a sum over the rows is a matrix product: `s^T x`", s.T @ xs
    half = len(s) // 2
    yield "the rows may be taken in blocks, whose products are added", s[:half].T @ xs[:half] + s[half:].T @ xs[half:]


def labelled(rng, shape, vocabulary, ignored=0):
    """x of the given shape, a weight, and targets, the first `ignored` of which are ignored."""
    targets = rng.integers(0, vocabulary, shape[:-1])
    targets.ravel()[:ignored] = -100
    return normal(rng, shape), normal(rng, (vocabulary, shape[-1])), targets


@linear_cross_entropy.sample
def _(rng, shape=(4, 3)):
    return labelled(rng, shape, 5), {}


@linear_cross_entropy.sample
def _(rng, shape=(2, 3, 4)):
    return labelled(rng, shape, 3, ignored=2), {}


@linear_cross_entropy.sample
def _(rng, shape=(2, 2, 3)):
    return labelled(rng, shape, 4, ignored=1), {"reduction": "sum"}


@linear_cross_entropy.sample
def _(rng, shape=(3, 2)):  # nothing counts
    return labelled(rng, shape, 3, ignored=3), {}


@linear_cross_entropy.sample
def _(rng, shape=(3,)):  # one row, and another number that is ignored
    x, weight, target = labelled(rng, shape, 4)
    return (x, weight, np.asarray(target)), {"ignore_index": -1}
