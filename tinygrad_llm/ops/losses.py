"""The loss of a language model: cross_entropy."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.products import rows
from tinygrad_llm.ops.samples import normal

REDUCTIONS = ("mean", "sum", "none")


@op
def cross_entropy(logits, targets, ignore_index=-100, label_smoothing=0.0, z_loss=0.0, reduction="mean"):
    """``loss = logsumexp(logits) - logits[target]``"""
    kept = checked_targets(logits, targets, ignore_index, reduction)
    x, targets = rows(logits), np.where(kept, targets, 0).ravel()
    kept = kept.ravel()
    vocabulary, count = x.shape[-1], int(np.count_nonzero(kept))
    each = np.arange(len(x))

    top = x.real.max(-1, keepdims=True)
    shifted = x - top
    np.exp(shifted, out=shifted)
    lse = top[:, 0] + np.log(shifted @ np.ones(vocabulary, shifted.dtype))
    loss = lse - (1 - label_smoothing) * x[each, targets]
    if label_smoothing:
        loss -= label_smoothing / vocabulary * (x @ np.ones(vocabulary, x.dtype))
    if z_loss:
        loss += z_loss * lse**2
    loss *= kept

    def vjp(dloss):
        # the cotangent of each row's loss
        weight = dloss.ravel() if reduction == "none" else dloss / count if reduction == "mean" and count else dloss
        weight = kept * weight
        dx = x - lse[:, None]
        np.exp(dx, out=dx)
        dx *= (weight * (1 + 2 * z_loss * lse))[:, None]
        if label_smoothing:
            dx -= (weight * (label_smoothing / vocabulary))[:, None]
        dx[each, targets] -= weight * (1 - label_smoothing)
        return dx.reshape(logits.shape)

    if reduction == "none":
        return loss.reshape(logits.shape[:-1]), vjp
    return loss.sum() / (max(count, 1) if reduction == "mean" else 1), vjp


def checked_targets(logits, targets, ignore_index, reduction):
    """Which targets count, those unequal to `ignore_index`; raises where the arguments do not fit together."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"cross_entropy: unknown reduction {reduction!r}; expected one of {', '.join(REDUCTIONS)}")
    targets = np.asarray(targets)
    if targets.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: targets must be whole numbers, not {targets.dtype}")
    if logits.ndim == 0 or targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"cross_entropy: logits {named_shape(logits.shape, 'BTV')} need targets of shape {logits.shape[:-1]}, not {targets.shape}"
        )
    kept = targets != ignore_index
    bad = kept & ((targets < 0) | (targets >= logits.shape[-1]))
    if bad.any():
        raise IndexError(f"cross_entropy: target {targets[bad][0]} is outside the vocabulary of V={logits.shape[-1]}")
    return kept


@cross_entropy.sample
def _(rng, shape=(4, 3)):
    return (normal(rng, shape), rng.integers(0, shape[-1], shape[:-1])), {}
