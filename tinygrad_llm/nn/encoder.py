"""The parts of an encoder as in the first transformer: self-attention that sees both ways, and the post-norm block."""

from __future__ import annotations

from tinygrad_llm import ops
from tinygrad_llm.nn.layers import Dropout, LayerNorm, Linear
from tinygrad_llm.nn.module import Module
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


class SelfAttention(Module):
    """Multi-head attention in which every position sees all. x and the result are (B, T, C).

    One matrix makes queries, keys and values, ``q, k, v = x W_qkv + b``, each split into H heads of D = C / H channels.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0, std: float = 0.02) -> None:
        self.heads = heads
        self.qkv = Linear(channels, 3 * channels, std=std)
        self.out = Linear(channels, channels, std=std)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Array | None = None) -> Tensor:
        return self.dropout(self.out(ops.self_attention(self.qkv(x), self.heads, mask=mask)))


class ExactMLP(Module):
    """The feed-forward network ``gelu(x W_up + b) W_down + b`` with the exact gelu; F channels wide inside."""

    def __init__(self, channels: int, width: int, dropout: float = 0.0, std: float = 0.02) -> None:
        self.up = Linear(channels, width, std=std)
        self.down = Linear(width, channels, std=std)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        inside = ops.bias_gelu(self.up(x, add_bias=False), self.up.bias, approximate=False)
        return self.dropout(self.down(inside))


class PostNormBlock(Module):
    """``x = norm(x + attention(x))``, then ``x = norm(x + mlp(x))``: each sum and its norm are one operation.

    Unlike in a pre-norm block, what flows from block to block is normalised: gradients are largest near the output at
    first, so training needs a warm-up (Xiong et al. 2020, arXiv:2002.04745).
    """

    def __init__(
        self, channels: int, heads: int, width: int, dropout: float = 0.0, std: float = 0.02, eps: float = 1e-12
    ) -> None:
        self.attention = SelfAttention(channels, heads, dropout, std)
        self.attention_norm = LayerNorm(channels, eps)
        self.mlp = ExactMLP(channels, width, dropout, std)
        self.mlp_norm = LayerNorm(channels, eps)

    def forward(self, x: Tensor, mask: Array | None = None) -> Tensor:
        _, x = self.attention_norm.add(x, self.attention(x, mask))
        _, x = self.mlp_norm.add(x, self.mlp(x))
        return x
