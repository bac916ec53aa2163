"""The KV cache: keys and values of earlier positions, so that a new token costs one position and not all of them."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.tape import Array


class CachedSizes(Protocol):
    """What a model's configuration says of its keys and values."""

    @property
    def layers(self) -> int:
        """L."""

    @property
    def kv_heads(self) -> int:
        """Heads that have keys and values."""

    @property
    def head_size(self) -> int:
        """D."""

    @property
    def context(self) -> int:
        """Positions at most."""


def attend_last(q: Array, keys: Array, values: Array, scale: float | None = None) -> Array:
    """Attention of one query in each head, q (B, H, D), to all keys and values (B, Hkv, S, D): y (B, H, D).

    ``y = softmax(scale q k^T) v``, with the scale ``1/sqrt(D)`` unless given; as in `ops.attention`, H / Hkv queries
    share a key head. BLAS reads the keys and values, of which nothing is used twice, as fast as loops of our own do.
    """
    batch, kv_heads, _, width = keys.shape
    grouped = q.reshape(batch, kv_heads, -1, width) * q.dtype.type(1 / math.sqrt(width) if scale is None else scale)
    weights = grouped @ keys.swapaxes(-1, -2)
    weights -= weights.max(-1, keepdims=True)
    np.exp(weights, out=weights)
    weights /= weights.sum(-1, keepdims=True)
    return (weights @ values).reshape(q.shape)


class LayerKV:
    """Keys and values of one layer, in arrays (B, Hkv, T, D) with room for the whole context."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: Any) -> None:
        self.keys, self.values = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self.length = 0

    def extend(self, keys: Array, values: Array) -> None:
        """Append keys and values of new positions."""
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"KV cache: {end} positions, but there is room for {self.keys.shape[2]}")
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = keys, values
        self.length = end

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        mask: Array | None = None,
        scale: float | None = None,
        window: int = 0,
    ) -> Array:
        """Append k and v (B, Hkv, T, D), and let q (B, H, T, D) attend causally to all so far, or to the `window` last;
        (B, T, H D)."""
        self.extend(k, v)
        batch, heads, time, width = q.shape
        keys, values = self.keys[:, :, : self.length], self.values[:, :, : self.length]
        if time == 1 and mask is None:
            keys, values = keys[:, :, -window:], values[:, :, -window:]
            return attend_last(q[:, :, 0], keys, values, scale).reshape(batch, 1, heads * width)
        y = ops.attention(q, keys, values, mask=mask, causal=True, scale=scale, window=window).data
        return y.transpose(0, 2, 1, 3).reshape(batch, time, heads * width)


class KVCache:
    """The caches of all layers of a model, for `batch` sequences of equal (padded) length, with room for `length`
    positions T, by default as many as the model's context has.

    Memory: ``2 L B T Hkv D`` numbers.
    """

    def __init__(self, config: CachedSizes, batch: int, dtype: Any = np.float32, length: int = 0) -> None:
        if not hasattr(config, "kv_heads"):
            raise ValueError(
                f"a model of {type(config).__name__} has no keys and values to keep: this needs a transformer"
            )
        shape = (batch, config.kv_heads, length or config.context, config.head_size)
        self.layers = [LayerKV(shape, dtype) for _ in range(config.layers)]

    @property
    def length(self) -> int:
        """Positions held."""
        return self.layers[0].length

    def cut(self, length: int) -> None:
        """Forget all positions from `length` on, of whichever layers hold so many."""
        for layer in self.layers:
            layer.length = min(layer.length, length)
