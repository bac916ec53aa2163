"""A vocabulary shared out among ranks: the embedding, and the loss of logits of which each rank has some columns.

The loss needs three numbers of each row: its largest logit, the sum of exponentials, and the logit of the target, which
one rank has. Those are sent, and never the logits. Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tinygrad_llm.ops.losses import checked_targets
from tinygrad_llm.parallel.collectives import chunk_bounds
from tinygrad_llm.parallel.communication_ops import communication
from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.parallel.placement import R, S
from tinygrad_llm.tape import Array


def own_columns(vocabulary: int, communicator: Communicator) -> slice:
    """The ids whose rows of the table, and whose logits, this rank has."""
    return chunk_bounds(vocabulary, communicator.size)[communicator.rank]


@communication(given=lambda **_: S(-1), made=lambda **_: R, also="varying")
def shared_cross_entropy(
    x: Array,
    communicator: Communicator,
    *,
    vocabulary: int,
    targets: Array,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """`ops.cross_entropy` of logits (..., V), of which rank r has the columns ``x_r``, for whole-number targets (...).

    With m the largest logit of a row and s the sum of ``exp(x - m)`` over all ranks, its loss is
    ``log s + m - x_target``. Sent, for N rows: m, by an all-reduce of N numbers; s and x_target, by one of 2 N.
    The vjp sends nothing: with w the cotangent of the row's loss, ``dx_r = w (exp(x_r - m) / s - onehot_r(target))``.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"shared_cross_entropy: unknown reduction {reduction!r}; expected mean or sum")
    targets, kept = checked_targets("shared_cross_entropy", (*x.shape[:-1], vocabulary), targets, ignore_index)
    columns = own_columns(vocabulary, communicator)
    z = x.reshape(-1, x.shape[-1])
    here = np.flatnonzero(kept & (targets >= columns.start) & (targets < columns.stop))
    place = here, targets[here] - columns.start
    m = communicator.max(z.max(-1, initial=-np.inf))
    e = np.exp(z - m[:, None])
    sums = np.stack([e.sum(-1), np.zeros(len(z), z.dtype)])
    sums[1, here] = z[place]
    s, target = communicator.all_reduce(sums)
    share = 1 / max(int(kept.sum()), 1) if reduction == "mean" else 1.0

    def vjp(dy: Array) -> Array:
        w = (dy * share * kept).astype(z.dtype, copy=False)
        dx = e * (w / s)[:, None]
        dx[place] -= w[here]
        return dx.reshape(x.shape)

    return ((np.log(s) + m - target)[kept].sum() * share).astype(z.dtype), vjp


@shared_cross_entropy.derivation("x")
def _(
    x: Array,
    ranks: int,
    dy: Array,
    vocabulary: int,
    targets: Array,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Iterator[tuple[str, Any]]:
    z, delta = x.reshape(-1, vocabulary), np.eye(vocabulary)
    kept = (targets != ignore_index).ravel()
    onehot = delta[np.where(kept, targets.ravel(), 0)]
    w = (dy * kept / (max(kept.sum(), 1) if reduction == "mean" else 1))[:, None]
    e = np.exp(z)
    s = e.sum(-1, keepdims=True)
    yield (
        "dx_v = w d loss/dx_v with loss = log s + m - x_target and s = sum_u exp(x_u - m), where w is dy times the "
        "row's share; m cancels: loss = log sum_u exp(x_u) - x_target; chain rule, with d exp(x_u)/dx_v = exp(x_u) "
        "delta_uv and dx_target/dx_v = [v = target]",
        (w * (np.einsum("nu,uv->nv", e, delta) / s - onehot)).reshape(x.shape),
    )
    m = z.max(-1, keepdims=True)
    shifted = np.exp(z - m)
    p = shifted / shifted.sum(-1, keepdims=True)
    yield "numerator and denominator divided by exp(m), so that none is too large", (w * (p - onehot)).reshape(x.shape)
    columns = np.array_split(p - onehot, ranks, -1)
    yield (
        "each rank has its columns of p, as it knows m and s, and of the onehot: nothing is sent",
        np.concatenate([w * own for own in columns], -1).reshape(x.shape),
    )


@shared_cross_entropy.sample
def _(rng: np.random.Generator, shape: tuple[int, ...] = (2, 1, 4)) -> Any:
    ranks = int(rng.integers(2, 4))
    vocabulary = shape[-1] * ranks
    targets = rng.integers(0, vocabulary, shape[:-1])
    if rng.integers(2):
        targets.ravel()[:1] = -100
    options = {"vocabulary": vocabulary, "targets": targets, "reduction": ("mean", "sum")[int(rng.integers(2))]}
    return (rng.standard_normal((*shape[:-1], vocabulary)), ranks), options
