"""The twin of `tokenizer.decoding`."""

from __future__ import annotations

import numpy as np

from tinygrad_llm.kernels.bits import read_8, read_64, write_8, write_64
from tinygrad_llm.kernels.compiled import compiled
from tinygrad_llm.tokenizer.decoding import join_tokens, unknown

EIGHT = np.uint64(8)


@compiled
def total_size(ids, sizes):
    """The bytes of all tokens; -1 - i if id i, the first of these, has none."""
    total = 0
    for i in range(len(ids)):
        number = ids[i]
        if number < 0 or number >= len(sizes) or sizes[number] < 0:
            return -1 - i
        total += sizes[number]
    return total


@compiled
def copy_tokens(ids, data, begins, sizes, out):
    """Write the tokens into `out`, which has room for 16 bytes more: a short token is copied with what stands behind
    it, and the next one writes over that."""
    source, target = np.uint64(data.ctypes.data), np.uint64(out.ctypes.data)
    for i in range(len(ids)):
        number = ids[i]
        token, size = source + np.uint64(begins[number]), np.uint64(sizes[number])
        write_64(target, read_64(token))
        write_64(target + EIGHT, read_64(token + EIGHT))
        for j in range(16, size):
            write_8(target + np.uint64(j), read_8(token + np.uint64(j)))
        target += size


@join_tokens.kernel
def _join_tokens(ids, data, begins, sizes):
    if ids.dtype not in (np.int32, np.int64, np.uint16) or not ids.flags.c_contiguous:
        return NotImplemented
    total = total_size(ids, sizes)
    if total < 0:
        raise ValueError(unknown(ids[-1 - total], len(sizes)))
    out = np.empty(total + 16, np.uint8)
    copy_tokens(ids, data, begins, sizes, out)
    return out[:total]
