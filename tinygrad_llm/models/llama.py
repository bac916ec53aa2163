"""Llama: the decoder-only transformer with RMSNorm, rotary positions, SwiGLU and grouped query heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy.typing as npt

from tinygrad_llm import ops, random
from tinygrad_llm.backend import twinned
from tinygrad_llm.models.decoder import Cache, Decoder
from tinygrad_llm.nn import Embedding, Linear, Module, RMSNorm
from tinygrad_llm.nn.transformer import LayerCache, attend_cached
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama. The defaults are those of a small one, 135 million parameters.

    In brackets the name in Hugging Face's configuration: V `vocab_size`, T at most `context` (max_position_embeddings),
    C `channels` (hidden_size), L `layers` (num_hidden_layers), H `heads` (num_attention_heads), of which H / Hkv share
    one of Hkv `kv_heads` (num_key_value_heads), F `feed_forward` (intermediate_size), `rotary_base` (rope_theta),
    `norm_eps` (rms_norm_eps), `tied` (tie_word_embeddings): the head is the token embedding again, `init_std`
    (initializer_range): the spread of the matrices and embeddings at the start.
    """

    vocab_size: int = 49152
    context: int = 2048
    channels: int = 576
    layers: int = 30
    heads: int = 9
    kv_heads: int = 3
    feed_forward: int = 1536
    rotary_base: float = 10000.0
    norm_eps: float = 1e-5
    tied: bool = True
    init_std: float = 0.02

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "channels", "layers", "heads", "kv_heads", "feed_forward"):
            if getattr(self, name) < 1:
                raise ValueError(f"LlamaConfig: {name}={getattr(self, name)} must be at least 1")
        if self.channels % (2 * self.heads):
            raise ValueError(
                f"LlamaConfig: channels={self.channels} is not a multiple of 2 x heads={self.heads}: each head rotates "
                "pairs of channels"
            )
        if self.heads % self.kv_heads:
            raise ValueError(f"LlamaConfig: heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        for name in ("rotary_base", "norm_eps", "init_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"LlamaConfig: {name}={getattr(self, name)} must be positive")

    @property
    def head_size(self) -> int:
        """D, the channels of a head."""
        return self.channels // self.heads


class RotaryAttention(Module):
    """Causal attention with rotary positions, in which H / Hkv query heads share a key head. x and y are (B, T, C).

    One matrix makes all heads, ``q, k, v = x W_qkv``: H of queries, Hkv of keys, Hkv of values, D channels each.
    """

    def __init__(self, config: LlamaConfig, residual_std: float) -> None:
        self.heads, self.kv_heads, self.base = config.heads, config.kv_heads, config.rotary_base
        all_heads = config.heads + 2 * config.kv_heads
        self.qkv = Linear(config.channels, all_heads * config.head_size, bias=False, std=config.init_std)
        self.out = Linear(config.channels, config.channels, bias=False, std=residual_std)

    def forward(
        self, x: Tensor, positions: npt.ArrayLike, mask: Array | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        batch, time, channels = x.shape
        heads, turning = self.heads, self.heads + self.kv_heads  # values are not rotated
        qkv = self.qkv(x)
        if cache is not None:
            parts = qkv.data.reshape(batch, time, turning + self.kv_heads, -1).transpose(0, 2, 1, 3)
            turned = ops.rotary(parts[:, :turning], positions, base=self.base).data
            return self.out(attend_cached(cache, turned[:, :heads], turned[:, heads:], parts[:, turning:], mask))
        all_heads = qkv.reshape(batch, time, turning + self.kv_heads, -1).transpose(0, 2, 1, 3)
        turned, v = ops.split(all_heads, [turning], axis=1)
        q, k = ops.split(ops.rotary(turned, positions, base=self.base), [heads], axis=1)
        y = ops.attention(q, k, v, mask=mask, causal=True)
        return self.out(y.transpose(0, 2, 1, 3).reshape(batch, time, channels))


class GatedMLP(Module):
    """The feed-forward network ``(silu(x W_gate) (x W_up)) W_down`` of each position by itself, F channels wide."""

    def __init__(self, channels: int, width: int, std: float, residual_std: float) -> None:
        self.gate = Linear(channels, width, bias=False, std=std)
        self.up = Linear(channels, width, bias=False, std=std)
        self.down = Linear(width, channels, bias=False, std=residual_std)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(ops.swiglu(self.gate(x), self.up(x)))


class LlamaBlock(Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``, with one operation for the sum and the second norm."""

    def __init__(self, config: LlamaConfig) -> None:
        residual_std = config.init_std / math.sqrt(2 * config.layers)
        self.attention_norm = RMSNorm(config.channels, config.norm_eps)
        self.attention = RotaryAttention(config, residual_std)
        self.mlp_norm = RMSNorm(config.channels, config.norm_eps)
        self.mlp = GatedMLP(config.channels, config.feed_forward, config.init_std, residual_std)

    def forward(
        self, x: Tensor, positions: npt.ArrayLike, mask: Array | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        attended, norm = self.attention(self.attention_norm(x), positions, mask, cache), self.mlp_norm
        x, h = ops.add_rms_norm(x, attended, norm.gain, eps=norm.eps)
        return x + self.mlp(h)


@twinned
def through_blocks(
    x: Array, blocks: Sequence[LlamaBlock], positions: npt.ArrayLike, mask: Array | None, caches: Sequence[LayerCache]
) -> Array:
    """x (B, T, C) after all blocks, each with its cache. A single token has a kernel of its own."""
    y = Tensor(x)
    for block, cache in zip(blocks, caches, strict=True):
        y = block(y, positions, mask, cache)
    return y.data


class Llama(Decoder):
    """Token embeddings, L pre-norm blocks, a last norm, and a head. Linear maps have no biases.

    Source: Touvron et al. 2023, arXiv:2302.13971; grouped heads: arXiv:2307.09288.
    """

    architecture = "llama"
    config_type = LlamaConfig

    def __init__(self, config: LlamaConfig, seed: int = 0) -> None:
        self.config = config
        with random.scope(seed, "embeddings"):
            self.token_embedding = Embedding(config.vocab_size, config.channels, config.init_std)
        self.blocks: list[LlamaBlock] = []
        for layer in range(config.layers):
            with random.scope(seed, "block", layer):
                self.blocks.append(LlamaBlock(config))
        self.final_norm = RMSNorm(config.channels, config.norm_eps)
        if not config.tied:
            with random.scope(seed, "head"):
                self.lm_head = Linear(config.channels, config.vocab_size, bias=False, std=config.init_std)

    def hidden(
        self,
        ids: npt.ArrayLike,
        positions: npt.ArrayLike | None = None,
        mask: Array | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        ids, positions = self.checked(ids, positions, cache)
        x = self.token_embedding(ids)
        if cache is not None:
            return self.final_norm(Tensor(through_blocks(x.data, self.blocks, positions, mask, cache.layers)))
        for block in self.blocks:
            x = block(x, positions, mask)
        return self.final_norm(x)
