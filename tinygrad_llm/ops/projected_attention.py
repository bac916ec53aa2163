"""Self-attention: queries, keys and values of all heads side by side in one projection."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.operation import op
from tinygrad_llm.ops.samples import normal
from tinygrad_llm.ops.scaled_attention import attention, score_gradient_forms, written_out


def split_heads(qkv, heads):
    """q, k and v (B, H, T, D) of a projection (B, T, 3 C), as views of it."""
    if qkv.ndim != 3 or heads < 1 or qkv.shape[2] % (3 * heads):
        raise ValueError(
            f"self_attention: qkv {qkv.shape}, heads {heads}: expected qkv (B, T, 3 C), with the channels C a multiple "
            "of the heads"
        )
    batch, time, channels = qkv.shape
    return qkv.reshape(batch, time, 3, heads, channels // (3 * heads)).transpose(2, 0, 3, 1, 4)


def heads_of(x, heads):
    """(B, T, C) as (B, H, T, D)."""
    batch, time, channels = x.shape
    return x.reshape(batch, time, heads, channels // heads).swapaxes(1, 2)


def join_heads(*parts):
    """Arrays (B, H, T, D) side by side as (B, T, parts H D): `split_heads` backwards."""
    batch, heads, time, width = parts[0].shape
    return np.stack([part.swapaxes(1, 2) for part in parts], axis=2).reshape(batch, time, len(parts) * heads * width)


@op
def self_attention(qkv, heads, mask=None, causal=False, scale=None):
    """``y = join(attention(q, k, v))``, with q, k and v of all heads side by side in one projection.

    qkv (B, T, 3 C), y (B, T, C). The channels of qkv are those of the queries, then the keys, then the values; each
    third is split into H heads of ``D = C / H`` channels. So entry d of head h of the queries is channel ``h D + d``,
    of the keys ``C + h D + d``, and of the values ``2 C + h D + d``. mask, causal and scale are those of `attention`.

    Splitting and joining only move values, so their vjps move gradients, each back to where its value came from: dy is
    split into heads, `attention` makes dq, dk and dv of it, and these are joined::

        dqkv = join(dq, dk, dv)

    Nothing is added up, since each entry of qkv is in one head only. Saves what `attention` does; cost and numerics are
    its own. As one operation it needs no copies: heads are read where they stand in qkv, and their gradients written
    where they belong in dqkv. Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.
    """
    y, attention_vjp = attention.reference(*split_heads(qkv, heads), mask, causal, scale)

    def vjp(dy):
        dq, dk, dv = attention_vjp(heads_of(dy, heads))
        return join_heads(dq(), dk(), dv())

    return join_heads(y), vjp


@self_attention.derivation("qkv")
def _(qkv, heads, dy, mask=None, causal=False, scale=None):
    q, k, v = split_heads(qkv, heads)
    dy = heads_of(dy, heads)
    first = [next(attention.derivations[x](q, k, v, dy, mask, causal, scale))[1] for x in "qkv"]
    yield (
        "channel `h D + d` of `qkv` is `q_td` of head `h`, the same channel of the next third `k_td`, of the last "
        "`v_td`; so its gradient is that of `q`, `k` or `v`, which by definition is the sum of `dy` times the Jacobian",
        join_heads(*first),
    )
    k, v, p, scale = written_out(q, k, v, mask, causal, scale)
    for why, ds in score_gradient_forms(dy, p, v):
        dq = scale * np.einsum("bhtr,bhrd->bhtd", ds, k)
        dk = scale * np.einsum("bhtr,bhtd->bhrd", ds, q)
        dv = np.einsum("bhts,bhte->bhse", p, dy)
        yield why + "; then `dq = scale ds k`, `dk = scale ds^T q` and `dv = p^T dy`", join_heads(dq, dk, dv)
    yield (
        "sums over tokens are matrix products",
        join_heads((ds @ k) * scale, ds.swapaxes(-1, -2) @ (scale * q), p.swapaxes(-1, -2) @ dy),
    )


def heads_for(shape):
    """Two heads where the channels allow it."""
    return 1 if shape[-1] % 6 else 2


@self_attention.sample
def _(rng, shape=(2, 3, 12)):
    return (normal(rng, shape),), {"heads": heads_for(shape), "causal": True}


@self_attention.sample
def _(rng, shape=(1, 4, 6)):  # one that sees everything, but for padding
    mask = np.arange(shape[1]) < rng.integers(1, shape[1] + 1, (shape[0], 1, 1, 1))
    return (normal(rng, shape),), {"heads": heads_for(shape), "mask": mask, "scale": 0.7}
