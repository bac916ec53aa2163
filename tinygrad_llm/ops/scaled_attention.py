"""Scaled dot-product attention."""

from __future__ import annotations

import functools
import math

import numpy as np

from tinygrad_llm.operation import named_shape, op
from tinygrad_llm.ops.samples import normal


@functools.lru_cache(maxsize=16)
def unseen(queries, keys, window):
    """(T, S): True where query t may not see key s, as it comes later, ``s > S - T + t``, or too long before,
    ``s <= S - T + t - window``. Built once per size, and read-only."""
    hidden = ~np.tri(queries, keys, keys - queries, dtype=bool)
    if window:
        hidden |= np.tri(queries, keys, keys - queries - window, dtype=bool)
    hidden.flags.writeable = False
    return hidden


def hide(scores, mask, causal, window=0):
    """Write -inf over the scores (B, H, T, S) that causality or `mask` forbids, or add a floating mask; in place."""
    if causal:
        np.copyto(scores, -np.inf, where=unseen(*scores.shape[-2:], window))
    if mask is None:
        return
    mask = check_mask(mask, scores.shape)
    if mask.dtype == bool:
        np.copyto(scores, -np.inf, where=~mask)
    else:
        scores += mask


def softmax_rows(scores):
    """Softmax over the last axis, in place. A row with nothing but -inf (or nothing at all) becomes zeros.

    Subtracting the row's maximum changes nothing, as exp(m) cancels, and leaves no exponent above 0. For a row of -inf
    there is no maximum to subtract: with 0 instead every exp is 0, and so is the sum, which is then not divided by.
    """
    top = scores.real.max(-1, keepdims=True, initial=-np.inf)
    top[top == -np.inf] = 0
    scores -= top
    np.exp(scores, out=scores)
    total = scores @ np.ones((scores.shape[-1], 1), scores.dtype)  # the sum of each row; BLAS adds fastest
    total[total == 0] = 1
    scores /= total
    return scores


@op
def attention(q, k, v, mask=None, causal=False, scale=None, window=0):
    """``y = softmax(scale q k^T) v``: every query takes a mean of the values, weighted by how well their keys match.

    q (B, H, T, D), k (B, Hkv, S, D), v (B, Hkv, S, D), y (B, H, T, D); the values may have a width of their own. In
    each head, for query t and key s::

        scores_ts = scale q_t . k_s       p_ts = exp(scores_ts) / sum_r exp(scores_tr)       y_t = sum_s p_ts v_s

    `scale` is ``1/sqrt(D)`` unless given: then scores of random q and k have variance 1, whatever D is. H may be a
    multiple of Hkv (grouped queries, Ainslie et al. 2023, arXiv:2305.13245): ``G = H/Hkv`` query heads in a row share a
    key head. They are handled as one head with G T queries, so that k and v are never repeated.

    causal: query t sees the keys ``s <= S - T + t``. Both sequences end together, so T new queries can follow ``S - T``
    keys in a cache. With a window (Beltagy et al. 2020, arXiv:2004.05150) it sees only the last ones of these, with
    ``s > S - T + t - window``; 0 is no window. A mask is a boolean array that broadcasts to (B, H, T, S), True where
    the query may attend (key padding is (B, 1, 1, S)); or a floating-point one, which is added to the scores. It
    receives no gradient. What is forbidden gets the score -inf, and so exactly ``p = 0``. A query that may see nothing,
    because of the mask or because ``T > S``, has ``y = 0``. Its gradients are 0.

    Saves q times scale, k, v, y and the probabilities p (B, H, T, S), not the scores. With ``dy`` the cotangent of y::

        dv = p^T dy,   dp = dy v^T,   ds = p (dp - rowsum(dp p)),   dq = scale ds k,   dk = scale ds^T q

    where ``rowsum(dp p) = rowsum(dy y)``, D products instead of S. A key head shared by G query heads receives the sum
    over them. Numerics: the row's maximum is subtracted first, so scores of 1e4 are as safe as scores of 1. Cost:
    4 B H T S D floating-point operations forward and 8 backward (half of them in vain if causal), and about 7 passes
    over (B, H, T, S) forward, 5 backward. Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; rowsum(dy y): Dao
    et al. 2022, arXiv:2205.14135, appendix B.2.
    """
    check_shapes(q, k, v)
    check_window(window, causal)
    shape = batch, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    if scale is None:
        scale = 1 / math.sqrt(max(width, 1))

    def grouped(a):
        """(B, H, T, X) as (B, Hkv, G T, X): the queries of the G heads that share a key head, one below the other."""
        return a.reshape(batch, kv_heads, heads // kv_heads * queries, a.shape[-1])

    qs = grouped(q * scale)  # cheaper than to scale the scores, which are more
    scores = (qs @ k.swapaxes(-1, -2)).reshape(batch, heads, queries, keys)
    hide(scores, mask, causal, window)
    p = grouped(softmax_rows(scores))
    y = p @ v

    def vjp(dy):
        dy = grouped(dy)

        ds = dy @ v.swapaxes(-1, -2)  # so far this is dp
        ds -= np.vecdot(dy, y)[..., None]
        ds *= p

        def dq():
            return (ds @ k).reshape(shape) * scale

        def dk():
            return ds.swapaxes(-1, -2) @ qs

        def dv():
            return p.swapaxes(-1, -2) @ dy

        return dq, dk, dv

    return y.reshape(batch, heads, queries, v.shape[-1]), vjp


def check_mask(mask, wanted):
    """The mask as an array; TypeError or ValueError unless it can be a mask of scores of shape `wanted`."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bf":
        raise TypeError(f"attention: a mask is boolean (True: may attend) or floating (to be added), not {mask.dtype}")
    if mask.ndim > 4 or any(n not in (1, m) for n, m in zip(mask.shape[::-1], wanted[::-1], strict=False)):
        raise ValueError(f"attention: a mask of shape {mask.shape} does not broadcast to {named_shape(wanted, 'BHTS')}")
    return mask


def check_window(window, causal):
    """Raise ValueError unless window is a whole number, 0, or above 0 and causal."""
    if not isinstance(window, (int, np.integer)) or window < 0 or (window and not causal):
        raise ValueError(
            f"attention: window={window!r}: expected a whole number, 0 for none, or causal attention with it"
        )


def check_shapes(q, k, v):
    """Raise ValueError unless q (B, H, T, D), k (B, Hkv, S, D) and v (B, Hkv, S, any width) fit together."""
    if q.ndim == k.ndim == v.ndim == 4:
        fits = q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3] and k.shape[:3] == v.shape[:3]
        if fits and k.shape[1] and q.shape[1] % k.shape[1] == 0:
            return
    raise ValueError(
        f"attention: q {q.shape}, k {k.shape}, v {v.shape}: expected q (B, H, T, D) and k, v (B, Hkv, S, D), "
        "with H a multiple of Hkv"
    )


# ---------------------------------------------------------------------------------------------------------------------
# The derivations. In their subscripts b is the batch, h the head, t and u queries, s and r keys, d and e channels.


def written_out(q, k, v, mask, causal, scale, window=0):
    """(k, v, p, scale): k and v repeated for every query head, and the probabilities from their definition."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, axis=1), np.repeat(v, group, axis=1)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = scale * np.einsum("bhtd,bhsd->bhts", q, k)
    if causal:
        queries, keys = scores.shape[-2:]
        last = keys - queries + np.arange(queries)[:, None]
        sees = (np.arange(keys) <= last) & (np.arange(keys) > last - (window or keys + queries))
        scores = np.where(sees, scores, -np.inf)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
    weights = np.exp(scores)
    total = weights.sum(-1, keepdims=True)
    return k, v, weights / np.where(total == 0, 1, total), scale


def softmax_jacobian(p):
    """``∂p_ts/∂scores_tr = p_ts (delta_sr - p_tr)`` as (..., T, S, R): the quotient rule on exp / sum of exp."""
    return np.einsum("...ts,sr->...tsr", p, np.eye(p.shape[-1])) - np.einsum("...ts,...tr->...tsr", p, p)


def score_gradient_forms(dy, p, v):
    """The gradient of the scores, in the three forms that it takes on the way to the vjp: (why, ds) each."""
    dp = np.einsum("bhte,bhse->bhts", dy, v)
    yield (
        "sum over the channels `e` of the output first: `dp_ts = sum_e dy_te v_se` is the gradient of the "
        "probabilities, and `ds_tr = sum_s dp_ts p_ts (delta_sr - p_tr)` that of the scores",
        np.einsum("bhts,bhtsr->bhtr", dp, softmax_jacobian(p)),
    )
    yield (
        "multiply out the Jacobian of the softmax: `ds_tr = p_tr (dp_tr - sum_s dp_ts p_ts)`",
        p * (dp - (dp * p).sum(-1, keepdims=True)),
    )
    y = p @ v
    yield (
        "exchange the two sums: `sum_s p_ts sum_e dy_te v_se = sum_e dy_te y_te`, since `y_t = sum_s p_ts v_s`",
        p * (dp - (dy * y).sum(-1, keepdims=True)),
    )


def sum_groups(a, kv_heads):
    """(B, H, S, X) to (B, Hkv, S, X): a key head that several query heads share receives the sum over them."""
    return a.reshape(a.shape[0], kv_heads, -1, *a.shape[2:]).sum(2)


@attention.derivation("q")
def _(q, k, v, dy, mask=None, causal=False, scale=None, window=0):
    k, v, p, scale = written_out(q, k, v, mask, causal, scale, window)
    by_score = np.einsum("bhtsr,bhse->bhter", softmax_jacobian(p), v)  # ∂y_te/∂scores_tr
    jacobian = scale * np.einsum("bhter,bhrd,tu->bhteud", by_score, k, np.eye(q.shape[2]))
    yield (
        "`dq_ud = sum_te dy_te ∂y_te/∂q_ud`; chain rule from `y_te = sum_s p_ts v_se` over the softmax, "
        "`∂p_ts/∂scores_tr = p_ts (delta_sr - p_tr)`, to `scores_tr = scale q_t . k_r`, which has `q_u` in row "
        "`t = u` only",
        np.einsum("bhte,bhteud->bhud", dy, jacobian),
    )
    for why, ds in score_gradient_forms(dy, p, v):
        yield why + "; then `dq_td = scale sum_r ds_tr k_rd`", scale * np.einsum("bhtr,bhrd->bhtd", ds, k)
    yield "a sum over the keys `r` is the product of `ds` with `k`", (ds @ k) * scale


@attention.derivation("k")
def _(q, k, v, dy, mask=None, causal=False, scale=None, window=0):
    kv_heads = k.shape[1]
    k, v, p, scale = written_out(q, k, v, mask, causal, scale, window)
    by_score = np.einsum("bhtsr,bhse->bhter", softmax_jacobian(p), v)  # ∂y_te/∂scores_tr
    jacobian = scale * np.einsum("bhter,bhtd->bhterd", by_score, q)
    yield (
        "`dk_rd = sum_te dy_te ∂y_te/∂k_rd`, over all query heads that share the key head; the same chain rule, at "
        "whose end `scores_tr = scale q_t . k_r` has `k_r` in every row `t`",
        sum_groups(np.einsum("bhte,bhterd->bhrd", dy, jacobian), kv_heads),
    )
    for why, ds in score_gradient_forms(dy, p, v):
        gradient = scale * np.einsum("bhtr,bhtd->bhrd", ds, q)
        yield why + "; then `dk_rd = scale sum_t ds_tr q_td`", sum_groups(gradient, kv_heads)
    yield (
        "a sum over the queries `t` is the product of `ds` transposed with `scale q`",
        sum_groups(ds.swapaxes(-1, -2) @ (scale * q), kv_heads),
    )


@attention.derivation("v")
def _(q, k, v, dy, mask=None, causal=False, scale=None, window=0):
    kv_heads = k.shape[1]
    k, v, p, scale = written_out(q, k, v, mask, causal, scale, window)
    jacobian = np.einsum("bhts,ef->bhtesf", p, np.eye(v.shape[-1]))
    yield (
        "`dv_sf = sum_te dy_te ∂y_te/∂v_sf`, over all query heads that share the value head; "
        "`y_te = sum_s p_ts v_se`, so `∂y_te/∂v_sf = p_ts` where `e = f`, else 0",
        sum_groups(np.einsum("bhte,bhtesf->bhsf", dy, jacobian), kv_heads),
    )
    yield "only `e = f` is left", sum_groups(np.einsum("bhts,bhtf->bhsf", p, dy), kv_heads)
    yield (
        "a sum over the queries `t`: the product of `p` transposed with `dy`",
        sum_groups(p.swapaxes(-1, -2) @ dy, kv_heads),
    )


def qkv(rng, shape, keys, kv_heads=None):
    """q of the given shape (B, H, T, D), and k and v with as many keys and heads as asked for."""
    batch, heads, _, width = shape
    kv_shape = (batch, kv_heads or heads, keys, width)
    return normal(rng, shape), normal(rng, kv_shape), normal(rng, kv_shape)


@attention.sample
def _(rng, shape=(2, 2, 3, 2)):
    return qkv(rng, shape, keys=3), {}


@attention.sample
def _(rng, shape=(1, 2, 2, 2)):  # causal, behind two keys of a cache
    return qkv(rng, shape, keys=shape[2] + 2), {"causal": True}


@attention.sample
def _(rng, shape=(1, 1, 4, 3)):  # causal with fewer keys than queries: the first queries see nothing
    return qkv(rng, shape, keys=2), {"causal": True, "scale": 0.7}


@attention.sample
def _(rng, shape=(2, 2, 3, 2)):  # a boolean mask with a row that forbids everything
    mask = rng.random((shape[0], 1, shape[2], 4)) < 0.6
    mask[0, 0, 1] = False
    return (*qkv(rng, shape, keys=4), mask), {}


@attention.sample
def _(rng, shape=(2, 2, 2, 2)):  # key padding, and causal
    mask = np.arange(4) < rng.integers(1, 5, (shape[0], 1, 1, 1))
    return (*qkv(rng, shape, keys=4), mask), {"causal": True}


@attention.sample
def _(rng, shape=(1, 2, 2, 2)):  # a mask to be added
    mask = normal(rng, (shape[2], 3))
    mask[-1, -1] = -np.inf
    return (*qkv(rng, shape, keys=3), mask), {}


@attention.sample
def _(rng, shape=(1, 6, 2, 2)):  # grouped heads, and values wider than keys
    q, k, _ = qkv(rng, shape, keys=3, kv_heads=2)
    return (q, k, normal(rng, (shape[0], 2, 3, 3))), {"causal": True}


@attention.sample
def _(rng, shape=(1, 2, 4, 2)):  # the last two positions only, behind a key of a cache
    return qkv(rng, shape, keys=shape[2] + 1), {"causal": True, "window": 2}
