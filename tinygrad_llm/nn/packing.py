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


def one_block_like(arrays: Sequence[Array]) -> list[Array]:
    """Uninitialised arrays of the same shapes and dtypes, contiguous, all in one block of memory."""
    starts, end = [], 0
    for array in arrays:
        starts.append(end)
        end += -(-array.nbytes // LINE) * LINE
    block = np.empty(end + LINE, np.uint8)
    offset = -block.ctypes.data % LINE
    places = (block[offset + start : offset + start + a.nbytes] for start, a in zip(starts, arrays, strict=True))
    return [place.view(a.dtype).reshape(a.shape) for place, a in zip(places, arrays, strict=True)]


def in_one_block(arrays: Sequence[Array]) -> list[Array]:
    """Copies of the arrays, contiguous, all in one block of memory."""
    copies = one_block_like(arrays)
    for array, copy in zip(arrays, copies, strict=True):
        copy[...] = array
    return copies


def pack_parameters(model: Module, unset: bool = False) -> None:
    """Move all parameters of a model that generates into one block, in the order of their names in the model.

    The weights of linear maps lie there as (out, in): a token is multiplied by their columns one after the other, which
    are then read in the order of memory, by as many threads as there are. For use, not for training: an optimizer has
    arrangements of its own. `unset`: the values are not copied, as they are not read yet.
    """
    maps = {id(module.weight) for module in model.modules() if isinstance(module, Linear)}
    parameters = model.parameters()
    arrays = [p.data.T if id(p) in maps else p.data for p in parameters]
    packed = one_block_like(arrays) if unset else in_one_block(arrays)
    for parameter, array in zip(parameters, packed, strict=True):
        parameter.data = array.T if id(parameter) in maps else array
