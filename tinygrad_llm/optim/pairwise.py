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
    """Takes the arrays of part after part. At most one sum for each power of two is held."""

    def __init__(self) -> None:
        self._sums: list[Gradients] = []
        self._parts = 0

    def add(self, arrays: Gradients) -> None:
        """Take those of the next part, which may be written to."""
        self._parts += 1
        level = self._parts
        while level % 2 == 0:  # two neighbours of one size are there
            arrays = added(self._sums.pop(), arrays)
            level //= 2
        self._sums.append(arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of all sums that are held."""
        return sum(array.nbytes for arrays in self._sums for array in arrays if array is not None)

    def finish(self) -> Gradients:
        """The sums of all parts; then it may be used again. No part at all gives an empty list."""
        total = self._sums.pop() if self._sums else []
        while self._sums:
            total = added(self._sums.pop(), total)
        self._parts = 0
        return total


def added(left: Gradients, right: Gradients) -> Gradients:
    """``left + right`` of each array, in those of `left`; None counts as zero."""
    for number, array in enumerate(right):
        here = left[number]
        if here is None:
            left[number] = array
        elif array is not None:
            here += array
    return left


def take_gradients(parameters: Iterable[Parameter]) -> Gradients:
    """The gradients of parameters, which are left without."""
    found: Gradients = []
    for parameter in parameters:
        found.append(parameter.grad)
        parameter.grad = None
    return found
