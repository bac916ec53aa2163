"""Relative positions: a bias of the attention scores, learned for each head and bucket of distances."""

from __future__ import annotations

import math

import numpy as np

from tinygrad_llm import ops
from tinygrad_llm.nn.layers import normal
from tinygrad_llm.nn.module import Module, Parameter
from tinygrad_llm.tape import Array
from tinygrad_llm.tensor import Tensor


def relative_buckets(distances: Array, buckets: int, max_distance: int, bidirectional: bool) -> Array:
    """The bucket, 0 to buckets - 1, of each distance ``s - t`` of a key s from a query t.

    Half of the buckets hold one distance each: 0, 1, 2 ... up to e - 1. The others reach from e to `max_distance`, each
    a constant factor farther than the one before; the last holds all that is farther::

        bucket(n) = n                                                              n < e
        bucket(n) = e + floor((buckets - e) log(n / e) / log(max_distance / e))    n >= e, at most buckets - 1

    If `bidirectional`, keys before the query have one half of all buckets, and those behind it the other; if not, all
    keys behind it are in bucket 0, as causality hides them. In float32, which decides what is just at a border, and in
    which T5 was trained. Source: Raffel et al. 2020, arXiv:1910.10683, section 2.1, and their code.
    """
    first = np.zeros_like(distances)
    if bidirectional:
        buckets //= 2
        first = np.where(distances > 0, buckets, 0)
        away = np.abs(distances)
    else:
        away = np.maximum(-distances, 0)
    exact = buckets // 2
    ratio = np.maximum(away, exact).astype(np.float32) / np.float32(exact)
    steps = np.log(ratio) / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + steps.astype(np.int64), buckets - 1)
    return first + np.where(away < exact, away, far)


class RelativeBias(Module):
    """A table (buckets, H): for each head, what is added to the scores of all keys whose distance is in a bucket."""

    def __init__(self, buckets: int, max_distance: int, heads: int, bidirectional: bool, std: float) -> None:
        self.weight = Parameter(normal((buckets, heads), std))
        self.max_distance, self.bidirectional = max_distance, bidirectional

    def forward(self, queries: int, keys: int) -> Tensor:
        """(1, H, T, S) for T queries and S keys, which end together: query t stands at ``S - T + t``."""
        line = np.arange(1 - keys, max(queries, keys))
        buckets = relative_buckets(line, len(self.weight), self.max_distance, self.bidirectional)
        distances = np.arange(keys) - np.arange(keys - queries, keys)[:, None]
        bias = ops.embedding(self.weight, buckets[distances + keys - 1])
        return bias.transpose(2, 0, 1).reshape(1, self.weight.shape[1], queries, keys)
