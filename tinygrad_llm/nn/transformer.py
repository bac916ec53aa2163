"""The parts of a pre-norm transformer: causal self-attention, the feed-forward network, and the block of both."""

from __future__ import annotations

import math
from typing import Protocol

from tinygrad_llm import ops
from tinygrad_llm.nn.layers import Dropout, LayerNorm, Linear
from tinygrad_llm.nn.module import Module
from tinygrad_llm.tape import Array, grad_enabled
from tinygrad_llm.tensor import Tensor


class LayerCache(Protocol):
    """The keys and values of earlier positions of one layer (see `tinygrad_llm.generation`)."""

    def attend(
        self, q: Array, k: Array, v: Array, mask: Array | None, scale: float | None = None, window: int = 0
    ) -> Array:
        """Append k and v (B, Hkv, T, D), and let q (B, H, T, D) attend to all so far; (B, T, H D)."""


def attend_cached(
    cache: LayerCache,
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None,
    scale: float | None = None,
    window: int = 0,
) -> Tensor:
    """`LayerCache.attend`, which no gradient passes."""
    if grad_enabled():
        raise RuntimeError("attention: the KV cache passes no gradients; use it under no_grad()")
    return Tensor(cache.attend(q, k, v, mask, scale, window))


class CausalSelfAttention(Module):
    """Multi-head attention in which position t sees positions up to t. x and the result are (B, T, C).

    One matrix makes queries, keys and values, ``q, k, v = x W_qkv + b``, each split into H heads of D = C / H channels.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(
        self, channels: int, heads: int, dropout: float = 0.0, std: float = 0.02, residual_std: float = 0.02
    ) -> None:
        if channels % heads:
            raise ValueError(f"attention: {channels} channels cannot be split evenly over {heads} heads")
        self.heads = heads
        self.qkv = Linear(channels, 3 * channels, std=std)
        self.out = Linear(channels, channels, std=residual_std)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Array | None = None, cache: LayerCache | None = None) -> Tensor:
        qkv = self.qkv(x)
        if cache is not None:
            batch, time, _ = x.shape
            new_q, new_k, new_v = qkv.data.reshape(batch, time, 3, self.heads, -1).transpose(2, 0, 3, 1, 4)
            return self.dropout(self.out(attend_cached(cache, new_q, new_k, new_v, mask)))
        return self.dropout(self.out(ops.self_attention(qkv, self.heads, mask=mask, causal=True)))


class MLP(Module):
    """The feed-forward network ``gelu(x W_up + b) W_down + b`` of each position by itself, F channels wide inside."""

    def __init__(
        self, channels: int, width: int, dropout: float = 0.0, std: float = 0.02, residual_std: float = 0.02
    ) -> None:
        self.up = Linear(channels, width, std=std)
        self.down = Linear(width, channels, std=residual_std)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(ops.bias_gelu(self.up(x, add_bias=False), self.up.bias)))


class Block(Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; the first addition and the second norm are one operation.

    The two matrices that write into the residual stream start smaller by sqrt(2 L), so that its variance does not grow
    with the number of layers L (Radford et al. 2019, section 2.3).
    """

    def __init__(
        self, channels: int, heads: int, width: int, layers: int, dropout: float = 0.0, std: float = 0.02
    ) -> None:
        residual_std = std / math.sqrt(2 * layers)
        self.attention_norm = LayerNorm(channels)
        self.attention = CausalSelfAttention(channels, heads, dropout, std, residual_std)
        self.mlp_norm = LayerNorm(channels)
        self.mlp = MLP(channels, width, dropout, std, residual_std)

    def forward(self, x: Tensor, mask: Array | None = None, cache: LayerCache | None = None) -> Tensor:
        x, h = self.mlp_norm.add(x, self.attention(self.attention_norm(x), mask, cache))
        return x + self.mlp(h)
