"""Gradients of the parts of a step, added up two and two.

A sum of floats depends on its order. Here that is a tree that knows only the numbers of the parts,

    ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)) + ...

so whoever has computed parts 0 to 3 holds a number that stands in the tree, and processes that share out the parts of a
step end with the same bits as one that has them all, if each has a power of two of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from tinygrad_llm.nn import Parameter
from tinygrad_llm.tape import Array

Gradients = list[Array | None]


class PairwiseSum:
    """Takes the gradients of part after part. At most one sum for each power of two is held."""

    def __init__(self, parameters: Iterable[Parameter]) -> None:
        self._parameters = list(parameters)
        self._sums: list[Gradients] = []
        self._parts = 0

    def add(self) -> None:
        """Take the gradients of the next part from the parameters, which are left without."""
        total: Gradients = [p.grad for p in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        self._parts += 1
        level = self._parts
        while level % 2 == 0:  # two neighbours of one size are there
            total = added(self._sums.pop(), total)
            level //= 2
        self._sums.append(total)

    def finish(self) -> None:
        """Leave the sums of all parts with the parameters."""
        total: Gradients = [None] * len(self._parameters)
        while self._sums:
            total = added(self._sums.pop(), total)
        for parameter, gradient in zip(self._parameters, total, strict=True):
            parameter.grad = gradient
        self._parts = 0


def added(left: Gradients, right: Gradients) -> Gradients:
    """``left + right`` of each parameter, in the arrays of `left`; one without a gradient counts as zero."""
    for number, gradient in enumerate(right):
        here = left[number]
        if here is None:
            left[number] = gradient
        elif gradient is not None:
            here += gradient
    return left
