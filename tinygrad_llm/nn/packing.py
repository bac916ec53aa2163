"""Weights side by side in one block of memory, which is read faster than many pieces.

The system backs a block of some megabytes with large pages (NumPy asks Linux for that), and the processor need not look
up where every 4 KB lie. Generating a token reads each weight once, and little else: there it is a quarter of the time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinygrad_llm.nn.layers import Linear
from tinygrad_llm.nn.module import Module
from tinygrad_llm.tape import Array

LINE = 64
"""Bytes of a cache line, where each array begins."""


def in_one_block(arrays: Sequence[Array]) -> list[Array]:
    """Copies of the arrays, contiguous, all in one block of memory."""
    starts, end = [], 0
    for array in arrays:
        starts.append(end)
        end += -(-array.nbytes // LINE) * LINE
    block = np.empty(end + LINE, np.uint8)
    offset = -block.ctypes.data % LINE
    copies = []
    for array, start in zip(arrays, starts, strict=True):
        copy = block[offset + start : offset + start + array.nbytes].view(array.dtype).reshape(array.shape)
        copy[...] = array
        copies.append(copy)
    return copies


def pack_parameters(model: Module) -> None:
    """Move all parameters of a model that generates into one block, in the order of their names in the model.

    The weights of linear maps lie there as (out, in): a token is multiplied by their columns one after the other, which
    are then read in the order of memory, by as many threads as there are. For use, not for training: an optimizer has
    arrangements of its own.
    """
    maps = {id(module.weight) for module in model.modules() if isinstance(module, Linear)}
    parameters = model.parameters()
    copies = in_one_block([p.data.T if id(p) in maps else p.data for p in parameters])
    for parameter, copy in zip(parameters, copies, strict=True):
        parameter.data = copy.T if id(parameter) in maps else copy
