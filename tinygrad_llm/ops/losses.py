"""The loss of a language model: cross_entropy."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.products import rows
from tinygrad_llm.ops.samples import normal

REDUCTIONS = ("mean", "sum", "none")


@op
def cross_entropy(logits, targets, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"):
    """``loss = -log p_(target)`` with ``p = softmax(logits)``: the surprise, in nats, at the token that really came.

    logits (..., V), whole-number targets (...); the loss is a number, or of the targets' shape for reduction "none".
    With x one row of logits, a the label_smoothing, ``lse = log sum_v exp(x_v)``, and so ``log p_v = x_v - lse``::

        loss = -sum_v t_v log p_v + z_loss lse^2     t = (1 - a) onehot(target) + a / V

    A smoothed target never asks for infinite logits (Szegedy et al. 2016, arXiv:1512.00567, section 7). z_loss keeps
    lse near 0, which the `softmax` itself leaves free (PaLM: Chowdhery et al. 2022, arXiv:2204.02311, section 5). Rows
    whose target is `ignore_index` have loss 0, and the mean is over the others; without any other row it is 0 (PyTorch:
    NaN, the mean of nothing; but one such batch would ruin a training run). Ignored rows have gradient 0.

    Saves the maximum m of each row and the sum of ``exp(x - m)``, not p: the logits exist anyway, and p follows from
    them. With w the cotangent of a row's loss, ``dy / count`` for the mean::

        dx = w (p (1 + 2 z_loss lse) - t)

    which without smoothing and z_loss is ``w (p - onehot(target))``.

    Numerics: after subtracting the row's maximum the largest exponent is 0 and the sum at least 1, and the loss is made
    of differences to the maximum: logits of +-1e4 neither overflow nor cost digits of the loss. Cost: forward 4 passes
    over the logits and backward 3, with one exp per logit in each, and one temporary array of their size. Raises
    IndexError for a target outside [0, V).
    """
    targets, kept = checked_targets("cross_entropy", logits.shape, targets, ignore_index)
    check_options(label_smoothing, reduction)
    x, vocabulary = rows(logits), logits.shape[-1]
    each = np.arange(len(x))
    share = 1 / max(int(kept.sum()), 1) if reduction == "mean" else 1.0

    top = x.real.max(-1)
    e = x - top[:, None]
    ones = np.ones(vocabulary, e.dtype)  # a product with ones is a sum; BLAS adds fastest
    wanted = (1 - label_smoothing) * e[each, targets]
    if label_smoothing:
        wanted += label_smoothing / vocabulary * (e @ ones)
    np.exp(e, out=e)
    total = e @ ones
    log_total = np.log(total)
    lse = top + log_total
    loss = log_total - wanted + z_loss * lse**2
    loss[~kept] = 0

    def vjp(dy):
        w = kept * (dy.ravel() if reduction == "none" else dy * share)
        dx = x - top[:, None]
        np.exp(dx, out=dx)
        dx *= (w * (1 + 2 * z_loss * lse) / total)[:, None]  # exp(x - top) / total is p
        dx[~kept] = 0  # 0 times an infinite logit would not be 0
        dx[each, targets] -= w * (1 - label_smoothing)
        if label_smoothing:
            dx -= (w * (label_smoothing / vocabulary))[:, None]
        return dx.reshape(logits.shape)

    return loss.reshape(logits.shape[:-1]) if reduction == "none" else loss.sum() * share, vjp


def check_options(label_smoothing, reduction):
    if reduction not in REDUCTIONS:
        raise ValueError(f"cross_entropy: unknown reduction {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing={label_smoothing} is not in [0, 1]")


def checked_targets(name, shape, targets, ignore_index):
    """(targets, kept) as one row each, with target 0 where kept is False; raises where they do not fit logits of this
    shape, in the name of the operation."""
    targets = np.asarray(targets)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"{name}: targets must be whole numbers, not {targets.dtype}")
    if not shape or targets.shape != shape[:-1] or shape[-1] == 0:
        raise ValueError(
            f"{name}: logits {named_shape(shape, 'BTV')} and targets {targets.shape}: "
            "expected (..., V) and (...), with V at least 1"
        )
    kept = targets != ignore_index
    bad = targets[kept & ((targets < 0) | (targets >= shape[-1]))]
    if bad.size:
        raise IndexError(
            f"{name}: target {bad[0]} is outside the vocabulary of V={shape[-1]} "
            f"(and is not ignore_index={ignore_index})"
        )
    return np.where(kept, targets, 0).ravel(), kept.ravel()


@cross_entropy.derivation("logits")
def _(logits, targets, dy, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"):
    vocabulary = logits.shape[-1]
    kept = (targets != ignore_index).astype(float)
    w = dy * kept / (max(kept.sum(), 1) if reduction == "mean" else 1)  # the cotangent of each row's loss
    onehot = np.eye(vocabulary)[np.where(kept, targets, 0)]
    t = (1 - label_smoothing) * onehot + label_smoothing / vocabulary
    total = np.exp(logits).sum(-1, keepdims=True)
    p, lse = np.exp(logits) / total, np.log(total)
    w, delta = w[..., None], np.eye(vocabulary)

    jacobian = p[..., :, None] * (delta - p[..., None, :])  # ∂p_v/∂x_j: the quotient rule on exp(x_v) / total
    from_z = 2 * z_loss * lse * (np.exp(logits) / total)  # ∂lse/∂x_j = (∂total/∂x_j) / total = exp(x_j) / total
    yield (
        "`dx_j = w ∂loss/∂x_j`, where `loss = -sum_v t_v log p_v + z_loss lse^2`, and `w` is `dy` times the row's "
        "share in the mean (1 if none is taken; 0 for an ignored row); chain rule with `∂log p_v/∂p_v = 1/p_v`, "
        "`∂p_v/∂x_j = p_v (delta_vj - p_j)` and `∂lse/∂x_j = exp(x_j) / sum_v exp(x_v)`",
        w * (np.einsum("...v,...vj->...j", -t / p, jacobian) + from_z),
    )
    yield (
        "`p_v` cancels against `1/p_v`: `∂log p_v/∂x_j = delta_vj - p_j`; and `∂lse/∂x_j` is `p_j` itself",
        w * (np.einsum("...v,...vj->...j", -t, delta - p[..., None, :]) + 2 * z_loss * lse * p),
    )
    yield (
        "multiply out: only `v = j` is left of the first term, `-t_j`; the second is `p_j` times `sum_v t_v`",
        w * (-t + p * t.sum(-1, keepdims=True) + 2 * z_loss * lse * p),
    )
    yield "the targets `t` are a distribution: `sum_v t_v = 1`", w * (p - t + 2 * z_loss * lse * p)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    yield (
        "collect `p`, in which `exp(m)` cancels, `m` the row's maximum: `p = exp(x - m) / sum_v exp(x_v - m)`; and "
        "write out `t`: for a plain loss this is `w (p - onehot)`",
        w * (1 + 2 * z_loss * lse) / e.sum(-1, keepdims=True) * e
        - w * (1 - label_smoothing) * onehot
        - w * label_smoothing / vocabulary,
    )


def labelled(rng, shape, ignored=0):
    """Logits of the given shape and targets, the first `ignored` of which are ignored."""
    targets = rng.integers(0, shape[-1], shape[:-1])
    targets.ravel()[:ignored] = -100
    return normal(rng, shape), targets


@cross_entropy.sample
def _(rng, shape=(4, 3)):
    return labelled(rng, shape), {}


@cross_entropy.sample
def _(rng, shape=(2, 3, 4)):
    return labelled(rng, shape, ignored=2), {"label_smoothing": 0.2, "z_loss": 0.3}


@cross_entropy.sample
def _(rng, shape=(2, 3, 4)):
    return labelled(rng, shape, ignored=1), {"reduction": "sum", "label_smoothing": 1.0}


@cross_entropy.sample
def _(rng, shape=(5, 3)):
    return labelled(rng, shape, ignored=1), {"reduction": "none", "z_loss": 0.5}


@cross_entropy.sample
def _(rng, shape=(3,)):  # one row, and another number that is ignored
    return (normal(rng, shape), np.asarray(rng.integers(0, shape[-1]))), {"ignore_index": -1}


@cross_entropy.sample
def _(rng, shape=(3, 2)):  # nothing counts
    return labelled(rng, shape, ignored=3), {}
