"""The KV cache: keys and values of earlier positions, so that a new token costs one position and not all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinygrad_llm.models import GPTConfig
from tinygrad_llm.tape import Array


class LayerKV:
    """Keys and values of one layer, in arrays (B, H, T, D) with room for the whole context."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: Any) -> None:
        self.keys, self.values = np.zeros(shape, dtype), np.zeros(shape, dtype)
        self.length = 0

    def extend(self, keys: Array, values: Array) -> tuple[Array, Array]:
        """Append keys and values of new positions; return views of all so far."""
        end = self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            raise ValueError(f"KV cache: {end} positions, but there is room for {self.keys.shape[2]}")
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = keys, values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


class KVCache:
    """The caches of all layers of a GPT, for `batch` sequences of equal (padded) length.

    Memory: ``2 L B T C`` numbers.
    """

    def __init__(self, config: GPTConfig, batch: int, dtype: Any = np.float32) -> None:
        shape = (batch, config.heads, config.context, config.channels // config.heads)
        self.layers = [LayerKV(shape, dtype) for _ in range(config.layers)]

    @property
    def length(self) -> int:
        """Positions held."""
        return self.layers[0].length
