"""Parameters side by side in one flat space, of which each rank owns a part.

    unit 0                          unit 1
    | rank 0 | rank 1 | rank 2 |    | rank 0 | rank 1 | rank 2 |
     a a a b    b b b    c d .       e e e e    e e e    f . .

A unit is what is communicated together, as a block of the model. Its space is cut into as many equal chunks as there
are ranks, one after the other; what is left over (.) stays zero. Chunks end where the blocks end whose squares the
global norm adds up, and a parameter of less than a block lies in one: so the pieces of parameters that ranks own have
the same sums as whole parameters have, whatever the number of ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tinygrad_llm.nn import Parameter
from tinygrad_llm.optim.optimizer import BLOCK
from tinygrad_llm.tape import Array

Named = tuple[str, Parameter]


class Piece(NamedTuple):
    """A part of a parameter: its elements `start` to `stop`, which lie at `place` in the chunk of their owner."""

    name: str
    start: int
    stop: int
    place: int


class Unit:
    """The flat space of some parameters, shared out among ranks."""

    def __init__(self, named: Sequence[Named], ranks: int, block: int = BLOCK) -> None:
        self.named, self.ranks = sorted(named, key=lambda pair: pair[1].size < block), ranks  # the small ones together
        self.dtype = np.result_type(*(p.dtype for _, p in self.named))
        self.begins: dict[str, int] = {}
        end = 0
        for name, parameter in self.named:
            begin = _begin(end, parameter.size, block)
            self.begins[name], end = begin, begin + parameter.size
        self.chunk = -(-end // (ranks * block)) * block
        self.size = self.chunk * ranks
        """Elements of the whole space."""

    def pieces(self, rank: int) -> Iterator[Piece]:
        """The parts of parameters in the chunk of a rank."""
        low, high = rank * self.chunk, (rank + 1) * self.chunk
        for name, parameter in self.named:
            begin = self.begins[name]
            start, stop = max(low, begin), min(high, begin + parameter.size)
            if start < stop:
                yield Piece(name, start - begin, stop - begin, start - low)

    def join(self, arrays: dict[str, Array | None]) -> Array:
        """The flat space, filled with arrays of the parameters' shapes; zero where there is none."""
        flat = np.zeros(self.size, self.dtype)
        for name, array in arrays.items():
            if array is not None:
                begin = self.begins[name]
                flat[begin : begin + array.size] = array.reshape(-1)
        return flat

    def views(self, flat: Array) -> dict[str, Array]:
        """The parameters' parts of a flat array, in their shapes."""
        return {
            name: flat[self.begins[name] : self.begins[name] + parameter.size].reshape(parameter.shape)
            for name, parameter in self.named
        }

    @property
    def waste(self) -> int:
        """Elements of the space that hold nothing."""
        return self.size - sum(parameter.size for _, parameter in self.named)


def _begin(end: int, size: int, block: int) -> int:
    """Where a parameter begins after what ends at `end`: in the same block if it fits, else with the next one."""
    rest = -end % block
    return end if size <= rest else end + rest
