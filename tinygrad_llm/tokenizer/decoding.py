"""From ids to bytes: the tokens of many ids, one after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tinygrad_llm.backend import twinned


class TokenTable:
    """The bytes of all tokens in one row: token i is ``data[begins[i]:begins[i] + sizes[i]]``; sizes of -1 are no ids.

    16 bytes stand behind the last, so that a kernel may always read 16.
    """

    def __init__(self, bytes_of: Mapping[int, bytes]) -> None:
        self.sizes = np.full(max(bytes_of) + 1, -1, np.int64)
        self.begins = np.zeros(len(self.sizes), np.int64)
        numbers = np.fromiter(bytes_of, np.int64, len(bytes_of))
        sizes = np.fromiter(map(len, bytes_of.values()), np.int64, len(bytes_of))
        self.sizes[numbers], self.begins[numbers] = sizes, np.cumsum(sizes) - sizes
        self.data = np.frombuffer(b"".join(bytes_of.values()) + bytes(16), np.uint8)


@twinned
def join_tokens(ids: np.ndarray, data: np.ndarray, begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The bytes of the tokens `ids` (n), uint8: ``concatenate([data[begins[i]:begins[i] + sizes[i]] for i in ids])``.

    `data`, `begins` and `sizes` are those of a `TokenTable`. Raises ValueError for an id that has no token.
    """
    known = (ids >= 0) & (ids < len(sizes))
    lengths = np.where(known, sizes[np.where(known, ids, 0)], -1)
    if np.any(lengths < 0):
        raise ValueError(unknown(ids[lengths < 0][0], len(sizes)))
    ends = np.cumsum(lengths)
    total = ends[-1] if len(ends) else 0
    return data[np.arange(total) + np.repeat(begins[ids] - (ends - lengths), lengths)]


def unknown(number: int, vocab_size: int) -> str:
    """What is wrong with an id."""
    return f"id {number} is not in this vocabulary (ids 0 to {vocab_size - 1})"
