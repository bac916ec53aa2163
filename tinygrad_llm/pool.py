"""Threads that work for this one. It gives them pieces of work, does a piece itself, and waits for the others.

To wake a thread that sleeps takes some 25 us, and a step of training has hundreds of pieces. So both sides look at a
number in memory for a while before they sleep, without Python's lock: `watch`, which `kernels/meeting.py` provides,
since only compiled code can look without it. Whoever finishes early does what others have not begun: where other
programs hold a core, nobody waits for the thread that should have run there.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

POSTED, FINISHED = 0, 16
"""Of a worker's numbers: the pieces it was given, and those it is done with. Each has a cache line of its own."""


def _sleep_at_once(numbers: Numbers, place: int, value: int) -> None:
    """What stands for `watch` without compiled code."""


watch: Callable[[Numbers, int, int], Any] = _sleep_at_once
"""``watch(numbers, place, value)`` returns when ``numbers[place]`` is not the value any more, or after a while."""


def watch_with(function: Callable[[Numbers, int, int], Any]) -> None:
    """Look in this way from now on."""
    global watch
    watch = function


class Piece:
    """A part of the work, for whoever comes first."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._function, self._arguments = function, arguments
        self._begun, self._end = threading.Lock(), threading.Lock()
        self._end.acquire()
        self._finished, self._error = False, None

    def begin(self) -> bool:
        """Whether it is the caller's now: of all who ask, the first."""
        return self._begun.acquire(blocking=False)

    def work(self) -> None:
        """Do it, unless somebody has begun."""
        if self.begin():
            try:
                self._function(*self._arguments)
            except BaseException as error:
                self._error = error  # type: ignore[assignment]
            self.end()

    def end(self) -> None:
        """Nobody works on it any more."""
        self._finished = True
        self._end.release()

    def wait(self, worker: Worker, number: int) -> BaseException | None:
        """Wait for the end, whatever happens: the work writes into the caller's arrays. Returns what was raised."""
        raised: BaseException | None = None
        while not self._finished:
            try:
                watch(worker.numbers, FINISHED, number - 1)
                if not self._finished:
                    self._end.acquire()
            except BaseException as error:  # Ctrl-C, or what another signal's handler raises, as that of a time limit
                raised = error
        return raised or self._error


class Worker:
    """A thread that works on one piece after another."""

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()
        self.numbers = np.zeros(2 * FINISHED, np.int64)
        self.given = 0
        watch(self.numbers, POSTED, -1)  # compiled here and now, if it must be
        threading.Thread(target=self._loop, name="tinygrad_llm worker", daemon=True).start()

    def give(self, piece: Piece) -> None:
        """One more piece for it, if nobody else takes it first."""
        self.given += 1
        self.pieces.put(piece)
        self.numbers[POSTED] = self.given

    def _loop(self) -> None:
        done = 0
        while True:
            watch(self.numbers, POSTED, done)
            piece = self.pieces.get()
            piece.work()
            del piece  # and the arrays with it
            done += 1
            self.numbers[FINISHED] = done


_workers: list[Worker] = []


def at_once(
    function: Callable[..., Any], calls: list[tuple[Any, ...]], leave: Callable[[], None] | None = None
) -> None:
    """The calls in as many threads: the first in this one. Raises what one of them raises, when all have ended.

    `leave` is called when the first has ended, or will never begin. If it fails, what nobody has begun is not done.
    """
    while len(_workers) < len(calls) - 1:
        _workers.append(Worker())
    pieces = [Piece(function, call) for call in calls[1:]]
    given: list[int] = []
    whole = False
    try:
        for worker, piece in zip(_workers, pieces, strict=False):
            given.append(worker.given + 1)
            worker.give(piece)
        function(*calls[0])
        whole = True
    finally:
        if leave is not None:
            leave()
        for piece in pieces:
            if whole:
                piece.work()
            elif piece.begin():
                piece.end()
        errors = [piece.wait(worker, n) for piece, worker, n in zip(pieces, _workers, given, strict=False)]
    for error in errors:
        if error is not None:
            raise error


def _forget_workers() -> None:
    """After a fork: the child has none of the parent's threads."""
    _workers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)
