"""Local derivatives read off a vjp: which outputs of an operation one entry of an input acts on, and how strongly.

A vjp is linear in its cotangent, so ``∂y_i/∂x_j`` is entry j of what it gives for the i-th unit cotangent. Trying every
unit would take one run per output entry. Most are zero, and these are found by halving: if the cotangents of a block of
outputs, each times a random positive weight, give exactly 0 at entry j, then no term of the sum comes from that block.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinygrad_llm.study.graph import Use, vjp_of
from tinygrad_llm.tape import Array

Index = tuple[int, ...]
Block = tuple[int, int, int]
"""Output number, and the first and last (exclusive) of its entries in flat order."""

PROBES = 4096
"""How often the vjp of one consumer is run at most, in search of the terms of one entry."""


@dataclass(frozen=True)
class LocalTerm:
    """``∂y_i/∂x_j`` (local) and the gradient of ``y_i`` (upstream), with y the output of that number, i its index."""

    output: int
    index: Index
    local: float
    upstream: float

    @property
    def product(self) -> float:
        return self.local * self.upstream


def exact_sum(numbers: Iterable[float]) -> float:
    """The sum, rounded once; of infinities, NaN, or numbers so large that a part of it overflows, as NumPy adds."""
    numbers = list(numbers)
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):
        with np.errstate(all="ignore"):
            return float(np.sum(numbers))


def local_terms(
    use: Use, index: Index, cotangents: Sequence[Array | None], probes: int = PROBES
) -> tuple[list[LocalTerm], float]:
    """All terms of what the consumer sends to entry `index` of its input, largest first; and the sum of those left.

    The heaviest block is halved first. If `probes` runs of the vjp do not suffice, the blocks that are left are not
    taken apart: their sum is returned.
    """
    search = _Halving(use, index, cotangents)
    terms = []
    while search.heap and search.probes < probes:
        number, start, stop = heapq.heappop(search.heap)[1]
        if stop - start == 1:
            terms.append(search.term(number, start))
        else:
            middle = (start + stop) // 2
            search.push((number, start, middle))
            search.push((number, middle, stop))
    rest = exact_sum(search.run(block, search.upstream(block)) for _, block in search.heap)
    return sorted(terms, key=lambda term: -abs(term.product)), rest


class _Halving:
    """The blocks that are still to be taken apart, the heaviest first."""

    def __init__(self, use: Use, index: Index, cotangents: Sequence[Array | None]) -> None:
        self.node, self.edge, self.index = use.node, use.edge, index
        self.vjp = vjp_of(use.node)
        self.cotangents = [None if c is None else np.array(c).ravel() for c in cotangents]
        rng = np.random.default_rng(0)
        self.weights = [rng.uniform(0.5, 1.5, math.prod(shape)) for shape, _ in self.node.outputs]
        self.probes = 0
        self.heap: list[tuple[float, Block]] = []
        for number, dy in enumerate(self.cotangents):
            if dy is not None:
                self.push((number, 0, dy.size))

    def run(self, block: Block, values: Array) -> float:
        """Entry `index` of the gradient if the block had these cotangents, and all other outputs none."""
        self.probes += 1
        number, start, stop = block
        shape, dtype = self.node.outputs[number]
        flat = np.zeros(math.prod(shape), dtype)
        flat[start:stop] = values
        given = [flat.reshape(shape) if n == number else None for n in range(len(self.cotangents))]
        return float(self.node.gradients(self.vjp, given, [self.edge])[0][self.index])

    def upstream(self, block: Block) -> Array:
        """The cotangents of the block."""
        number, start, stop = block
        dy = self.cotangents[number]
        assert dy is not None
        return dy[start:stop]

    def push(self, block: Block) -> None:
        """Keep the block, unless it contributes nothing."""
        number, start, stop = block
        upstream = self.upstream(block)
        weight = self.run(block, upstream * self.weights[number][start:stop])
        elsewhere = math.isnan(weight) and np.isfinite(upstream).all() and not self.acts(block)
        if weight != 0 and not elsewhere:
            heapq.heappush(self.heap, (-abs(weight), block))

    def acts(self, block: Block) -> bool:
        """Whether the block acts on the entry, if some local derivative is infinite.

        Then 0 times it is NaN, for every block. With a cotangent of ones nothing is multiplied by 0: turning the signs
        of a block changes what arrives only if the infinity is in there.
        """
        number, start, stop = block
        ones = [
            None if c is None else np.ones(s, t) for c, (s, t) in zip(self.cotangents, self.node.outputs, strict=True)
        ]
        turned = [None if c is None else c.copy() for c in ones]
        np.asarray(turned[number]).reshape(-1)[start:stop] = -1
        self.probes += 2
        before, after = (float(self.node.gradients(self.vjp, c, [self.edge])[0][self.index]) for c in (ones, turned))
        return before != after

    def term(self, number: int, place: int) -> LocalTerm:
        block = number, place, place + 1
        shape, dtype = self.node.outputs[number]
        index = tuple(int(i) for i in np.unravel_index(place, shape))
        return LocalTerm(number, index, self.run(block, np.ones(1, dtype)), float(self.upstream(block)[0]))
