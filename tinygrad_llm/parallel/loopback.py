"""Ranks that are threads of this process: the same communication without MPI, to study it and to check it.

ranks = Loopback(4)
sums = ranks.run(lambda communicator: communicator.all_reduce(np.ones(3)))
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tinygrad_llm.parallel.communicator import Communicator
from tinygrad_llm.parallel.ledger import Ledger
from tinygrad_llm.parallel.waiting import Engine, Mismatch, Request
from tinygrad_llm.tape import Array

Result = TypeVar("Result")
Address = tuple[Any, ...]
"""Group, channel, source, destination, tag."""


def _bytes(array: Array) -> Array:
    if not array.flags.c_contiguous:
        raise ValueError(f"strides {array.strides} of an array {array.shape}: only contiguous memory can be sent")
    return array.reshape(-1).view(np.uint8)


class _Left(Exception):
    """Another rank has failed: this one must not wait for it."""


class _Sent:
    """A message that has been copied: its array is free at once."""

    def __init__(self, peer: int) -> None:
        self.peer = peer

    def test(self) -> bool:
        return True


class _Awaited:
    """A message that may or may not be in its box."""

    def __init__(self, peer: int, box: deque[Array], array: Array, failed: threading.Event) -> None:
        self.peer, self._box, self._array, self._failed = peer, box, array, failed

    def test(self) -> bool:
        if not self._box:
            if self._failed.is_set():
                raise _Left
            return False
        message = self._box.popleft()
        if message.nbytes != self._array.nbytes:
            raise Mismatch(self.peer, self._array.nbytes, str(message.nbytes))
        _bytes(self._array)[...] = message
        return True


class _Boxes:
    """What all ranks share."""

    def __init__(self) -> None:
        self.messages: defaultdict[Address, deque[Array]] = defaultdict(deque)
        self.lock = threading.Lock()
        self.failed = threading.Event()

    def at(self, address: Address) -> deque[Array]:
        with self.lock:
            return self.messages[address]


class _Thread:
    """One rank of a group, whose name all of its ranks know."""

    def __init__(self, boxes: _Boxes, group: Address, ranks: Sequence[int], rank: int) -> None:
        self.rank, self.ranks = rank, ranks
        self._boxes, self._group = boxes, group
        self._splits = 0

    def send(self, array: Array, to: int, tag: int, channel: int) -> Request:
        self._boxes.at((self._group, channel, self.rank, to, tag)).append(_bytes(array).copy())
        return _Sent(self.ranks[to])

    def receive(self, array: Array, source: int, tag: int, channel: int) -> Request:
        box = self._boxes.at((self._group, channel, source, self.rank, tag))
        return _Awaited(self.ranks[source], box, array, self._boxes.failed)

    def among(self, members: Sequence[int]) -> _Thread:
        self._splits += 1
        name = (self._group, self._splits, *members)
        return _Thread(self._boxes, name, [self.ranks[m] for m in members], members.index(self.rank))


class Loopback:
    """So many ranks of a world of threads. Their communicators last from one `run` to the next, until one fails."""

    def __init__(self, size: int, checked: bool = True) -> None:
        boxes = self._boxes = _Boxes()
        self.ranks = [
            Communicator(_Thread(boxes, ("world",), range(size), rank), "world", Ledger(), Engine(polite=True), checked)
            for rank in range(size)
        ]

    def run(self, main: Callable[[Communicator], Result]) -> list[Result]:
        """``main(communicator)`` on every rank at once; what each returned. Raises what a rank raised; RuntimeError if
        one has raised something before, as messages to it are still on their way."""
        if self._boxes.failed.is_set():
            raise RuntimeError("Loopback: a rank has failed in an earlier run; make new ones")
        results: list[Any] = [None] * len(self.ranks)
        errors: list[BaseException] = []

        def work(communicator: Communicator) -> None:
            try:
                results[communicator.rank] = main(communicator)
            except _Left:
                pass
            except BaseException as error:
                errors.append(error)
                self._boxes.failed.set()

        threads = [threading.Thread(target=work, args=(c,), name=f"rank {c.rank}", daemon=True) for c in self.ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results
