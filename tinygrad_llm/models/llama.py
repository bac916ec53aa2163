"""Llama: the decoder-only transformer with RMSNorm, rotary positions, SwiGLU and grouped query heads.

By configuration it is also Mistral, Qwen2 and Qwen3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy.typing as npt

from tinygrad_llm import ops, random
from tinygrad_llm.backend import twinned
from tinygrad_llm.models.decoder import Cache, Decoder
from tinygrad_llm.models.rotary_scaling import RotaryScaling
from tinygrad_llm.nn import Embedding, Linear, Module, RMSNorm
from tinygrad_llm.nn.transformer import LayerCache, attend_cached
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor
from tinygrad_llm.weights import Layout, llama


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama. The defaults are those of a small one, 135 million parameters.

    In brackets the name in Hugging Face's configuration: V `vocab_size`, T at most `context` (max_position_embeddings),
    C `channels` (hidden_size), L `layers` (num_hidden_layers), H `heads` (num_attention_heads), of which H / Hkv share
    one of Hkv `kv_heads` (num_key_value_heads), D `head_channels` (head_dim; C / H if 0), F `feed_forward`
    (intermediate_size), `rotary_base` (rope_theta), `rotary_scaling` (rope_scaling), `norm_eps` (rms_norm_eps), `tied`
    (tie_word_embeddings): the head is the token embedding again, `init_std` (initializer_range): the spread of the
    matrices and embeddings at the start. Mistral has a `window` (sliding_window): a position sees so many of the last,
    itself included, or all if 0. Qwen2 has a `qkv_bias`, of queries, keys and values; Qwen3 a `qk_norm`, an RMSNorm of
    each query and key before they are rotated.
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
    head_channels: int = 0
    rotary_scaling: RotaryScaling | None = None
    window: int = 0
    qkv_bias: bool = False
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "channels", "layers", "heads", "kv_heads", "feed_forward"):
            if getattr(self, name) < 1:
                raise ValueError(f"LlamaConfig: {name}={getattr(self, name)} must be at least 1")
        for name in ("head_channels", "window"):
            if getattr(self, name) < 0:
                raise ValueError(f"LlamaConfig: {name}={getattr(self, name)} must not be negative")
        if self.head_channels == 0 and self.channels % self.heads:
            raise ValueError(f"LlamaConfig: channels={self.channels} is not a multiple of heads={self.heads}")
        if self.head_size % 2:
            raise ValueError(f"LlamaConfig: heads of {self.head_size} channels are odd: each rotates pairs of channels")
        if self.heads % self.kv_heads:
            raise ValueError(f"LlamaConfig: heads={self.heads} is not a multiple of kv_heads={self.kv_heads}")
        for name in ("rotary_base", "norm_eps", "init_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"LlamaConfig: {name}={getattr(self, name)} must be positive")
        if isinstance(self.rotary_scaling, Mapping):
            object.__setattr__(self, "rotary_scaling", RotaryScaling(**self.rotary_scaling))

    @property
    def head_size(self) -> int:
        """D, the channels of a head."""
        return self.head_channels or self.channels // self.heads


class RotaryAttention(Module):
    """Causal attention with rotary positions, in which H / Hkv query heads share a key head. x and y are (B, T, C).

    One matrix makes all heads, ``q, k, v = x W_qkv``: H of queries, Hkv of keys, Hkv of values, D channels each.
    """

    def __init__(self, config: LlamaConfig, residual_std: float) -> None:
        self.heads, self.kv_heads, self.window = config.heads, config.kv_heads, config.window
        self.base, self.frequencies, self.scale = config.rotary_base, None, 1 / math.sqrt(config.head_size)
        if config.rotary_scaling is not None:  # its magnitude m in q and k is m^2 in their products
            self.frequencies = config.rotary_scaling.frequencies(self.base, config.head_size)
            self.scale *= config.rotary_scaling.magnitude**2
        all_heads = config.heads + 2 * config.kv_heads
        self.qkv = Linear(config.channels, all_heads * config.head_size, bias=config.qkv_bias, std=config.init_std)
        self.out = Linear(config.heads * config.head_size, config.channels, bias=False, std=residual_std)
        self.q_norm = RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x: Tensor, positions: npt.ArrayLike, mask: Array | None = None, cache: LayerCache | None = None
    ) -> Tensor:
        batch, time, _ = x.shape
        all_heads = self.qkv(x).reshape(batch, time, self.heads + 2 * self.kv_heads, -1).transpose(0, 2, 1, 3)
        turning, v = ops.split(all_heads, [self.heads + self.kv_heads], axis=1)  # values are not rotated
        if self.q_norm is not None and self.k_norm is not None:
            q, k = ops.split(turning, [self.heads], axis=1)
            turning = ops.concatenate([self.q_norm(q), self.k_norm(k)], axis=1)
        turned = ops.rotary(turning, positions, base=self.base, frequencies=self.frequencies)
        q, k = ops.split(turned, [self.heads], axis=1)
        if cache is not None:
            return self.out(attend_cached(cache, q.data, k.data, v.data, mask, self.scale, self.window))
        y = ops.attention(q, k, v, mask=mask, causal=True, scale=self.scale, window=self.window)
        return self.out(y.transpose(0, 2, 1, 3).reshape(batch, time, -1))


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
        x, h = self.mlp_norm.add(x, self.attention(self.attention_norm(x), positions, mask, cache))
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

    Sources: Touvron et al. 2023, arXiv:2302.13971; grouped heads: arXiv:2307.09288; Mistral: Jiang et al. 2023,
    arXiv:2310.06825; Qwen2: arXiv:2407.10671; Qwen3: arXiv:2505.09388.
    """

    layout: ClassVar[Layout] = llama
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
        if cache is not None:
            x = self.token_embedding(ids)
            return self.final_norm(Tensor(through_blocks(x.data, self.blocks, positions, mask, cache.layers)))
        x = self.run_blocks(
            ids.shape,
            len(self.blocks),
            lambda: self.token_embedding(ids),
            lambda x, layer: self.blocks[layer](x, positions, mask),
        )
        return self.final_norm(x)
