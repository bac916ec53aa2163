"""The two halves of T5: a stack of blocks that encodes, and one that decodes with a look at what was encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinygrad_llm import ops, random
from tinygrad_llm.nn import Dropout, Linear, Module, RMSNorm
from tinygrad_llm.nn.relative_positions import RelativeBias
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


class LayerState:
    """What a decoder block keeps while it generates: keys and values (N, H, S, D), its own and the encoder's."""

    def __init__(self, cross_keys: Array, cross_values: Array) -> None:
        self.cross_keys, self.cross_values = cross_keys, cross_values
        self.keys, self.values = cross_keys[:, :, :0], cross_values[:, :, :0]

    def extend(self, k: Array, v: Array) -> tuple[Array, Array]:
        """Append keys and values of new positions; return all."""
        self.keys, self.values = np.concatenate([self.keys, k], axis=2), np.concatenate([self.values, v], axis=2)
        return self.keys, self.values


class T5Attention(Module):
    """Multi-head attention that does not divide the scores by sqrt(D): instead queries start smaller by that factor.

    H heads of D channels, whatever C is. Queries come from one sequence, keys and values from the same or another.
    """

    def __init__(self, config: Any) -> None:
        self.heads, inner = config.heads, config.heads * config.head_channels
        std = config.init_factor * config.channels**-0.5
        self.q = Linear(config.channels, inner, bias=False, std=std * config.head_channels**-0.5)
        self.kv = Linear(config.channels, 2 * inner, bias=False, std=std)
        self.out = Linear(inner, config.channels, bias=False, std=config.init_factor * inner**-0.5)

    def keys_and_values(self, x: Tensor) -> Sequence[Tensor]:
        """k and v (B, H, S, D) of x (B, S, C)."""
        return ops.split(self._heads(self.kv(x), 2 * self.heads), [self.heads], axis=1)

    def forward(
        self, x: Tensor, k: Any, v: Any, bias: Tensor | None = None, mask: Array | None = None, causal: bool = False
    ) -> Tensor:
        """(B, T, C): what x (B, T, C) finds at keys and values; the bias (1, H, T, S) is added to the scores."""
        q = self._heads(self.q(x), self.heads)
        if bias is None:
            y = ops.attention(q, k, v, mask=mask, causal=causal, scale=1.0)
        else:
            y = ops.biased_attention(q, k, v, bias, mask=mask, causal=causal, scale=1.0)
        batch, heads, time, width = y.shape
        return self.out(y.transpose(0, 2, 1, 3).reshape(batch, time, heads * width))

    @staticmethod
    def _heads(x: Tensor, heads: int) -> Tensor:
        """(B, T, H D) as (B, H, T, D)."""
        batch, time, channels = x.shape
        return x.reshape(batch, time, heads, channels // heads).transpose(0, 2, 1, 3)


class T5FeedForward(Module):
    """``relu(x W_up) W_down`` in T5 1.0, ``(gelu(x W_gate) (x W_up)) W_down`` in 1.1; F channels wide inside."""

    def __init__(self, config: Any) -> None:
        channels, width, factor = config.channels, config.feed_forward, config.init_factor
        self.gate = Linear(channels, width, bias=False, std=factor * channels**-0.5) if config.gated else None
        self.up = Linear(channels, width, bias=False, std=factor * channels**-0.5)
        self.down = Linear(width, channels, bias=False, std=factor * width**-0.5)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        inside = ops.relu(self.up(x)) if self.gate is None else ops.geglu(self.gate(x), self.up(x))
        return self.down(self.dropout(inside))


class T5EncoderBlock(Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: Any) -> None:
        self.attention_norm = RMSNorm(config.channels, config.norm_eps)
        self.attention = T5Attention(config)
        self.mlp_norm = RMSNorm(config.channels, config.norm_eps)
        self.mlp = T5FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, mask: Array | None) -> Tensor:
        h = self.attention_norm(x)
        attended = self.attention(h, *self.attention.keys_and_values(h), bias, mask)
        x, h = ops.add_rms_norm(x, self.dropout(attended), self.mlp_norm.gain, eps=self.mlp_norm.eps)
        return x + self.dropout(self.mlp(h))


class T5DecoderBlock(Module):
    """Causal attention, attention to what was encoded, and the feed-forward network, each of the norm of x, added."""

    def __init__(self, config: Any) -> None:
        self.attention_norm = RMSNorm(config.channels, config.norm_eps)
        self.attention = T5Attention(config)
        self.cross_attention_norm = RMSNorm(config.channels, config.norm_eps)
        self.cross_attention = T5Attention(config)
        self.mlp_norm = RMSNorm(config.channels, config.norm_eps)
        self.mlp = T5FeedForward(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, bias: Tensor, cross: Sequence[Any], mask: Array | None, state: LayerState | None = None
    ) -> Tensor:
        """`cross` are the keys and values of what was encoded; a state holds those of earlier positions."""
        h = self.attention_norm(x)
        k, v = self.attention.keys_and_values(h)
        keys, values = (k, v) if state is None else state.extend(k.data, v.data)
        attended = self.attention(h, keys, values, bias, causal=True)
        norm = self.cross_attention_norm
        x, h = ops.add_rms_norm(x, self.dropout(attended), norm.gain, eps=norm.eps)
        found = self.cross_attention(h, *cross, mask=mask)
        x, h = ops.add_rms_norm(x, self.dropout(found), self.mlp_norm.gain, eps=self.mlp_norm.eps)
        return x + self.dropout(self.mlp(h))


class T5Encoder(Module):
    """L blocks with one table of relative positions, and a last norm."""

    def __init__(self, config: Any, seed: int) -> None:
        with random.scope(seed, "encoder"):
            self.position_bias = make_bias(config, bidirectional=True)
        self.blocks: list[T5EncoderBlock] = []
        for layer in range(config.layers):
            with random.scope(seed, "encoder", layer):
                self.blocks.append(T5EncoderBlock(config))
        self.final_norm = RMSNorm(config.channels, config.norm_eps)

    def forward(self, x: Tensor, mask: Array | None) -> Tensor:
        bias = self.position_bias(x.shape[1], x.shape[1])
        for block in self.blocks:
            x = block(x, bias, mask)
        return self.final_norm(x)


class T5Decoder(Module):
    """As many blocks as the configuration says, with one table of relative positions, and a last norm."""

    def __init__(self, config: Any, seed: int) -> None:
        with random.scope(seed, "decoder"):
            self.position_bias = make_bias(config, bidirectional=False)
        self.blocks: list[T5DecoderBlock] = []
        for layer in range(config.decoder_layers or config.layers):
            with random.scope(seed, "decoder", layer):
                self.blocks.append(T5DecoderBlock(config))
        self.final_norm = RMSNorm(config.channels, config.norm_eps)

    def forward(self, x: Tensor, memory: Tensor, mask: Array | None) -> Tensor:
        """x (B, T, C) with a look at what was encoded, memory (B, S, C)."""
        bias = self.position_bias(x.shape[1], x.shape[1])
        for block in self.blocks:
            x = block(x, bias, block.cross_attention.keys_and_values(memory), mask)
        return self.final_norm(x)

    def resumed(self, x: Tensor, states: Sequence[LayerState], mask: Array | None) -> Tensor:
        """x (N, T, C) at the positions that follow those of the states, which are extended; passes no gradient."""
        bias = self.position_bias(x.shape[1], states[0].keys.shape[2] + x.shape[1])
        for block, state in zip(self.blocks, states, strict=True):
            x = block(x, bias, (state.cross_keys, state.cross_values), mask, state)
        return self.final_norm(x)


def make_bias(config: Any, bidirectional: bool) -> RelativeBias:
    """The table of a stack."""
    std = config.init_factor * config.channels**-0.5
    return RelativeBias(config.buckets, config.max_distance, config.heads, bidirectional, std)
