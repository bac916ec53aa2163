"""Gradients of parameters that are worked out later than those that others wait for.

Backward through a stage of a pipeline has two parts: the gradient of its input, which the stage before it waits for,
and those of its weights, which fill time that would be idle.

    with put_off(parameters) as later:
        y.backward(dy)      # the gradient of the input
    later.run()             # those of the parameters
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Later:
    """What is put off of backward, in the order in which it came up."""

    def __init__(self, leaves: Iterable[object]) -> None:
        self._leaves = {id(leaf) for leaf in leaves}
        self._waiting: deque[Callable[[], None]] = deque()

    def takes(self, target: object) -> bool:
        """Whether the gradients of this leaf are put off."""
        return id(target) in self._leaves

    def add(self, work: Callable[[], None]) -> None:
        """Put this off."""
        self._waiting.append(work)

    def run(self) -> None:
        """Do all that was put off."""
        while self._waiting:
            self._waiting.popleft()()


current: ContextVar[Later | None] = ContextVar("later", default=None)


@contextmanager
def put_off(leaves: Iterable[object]) -> Iterator[Later]:
    """Within it, backward leaves the gradients of these leaves to `Later.run`: the same bits, another time."""
    token = current.set(later := Later(leaves))
    try:
        yield later
    finally:
        current.reset(token)
