"""What a rank has begun and not finished, and how it waits.

MPI moves bytes only while a rank is inside one of its calls. So whoever waits for one operation lets all others go on
as well, whatever their axis: otherwise two ranks could wait for each other, each for what the other has put off.
A rank that waits by asking again and again takes the processor from the ranks it waits for, if they share it. A polite
one yields the processor, and later sleeps between two questions, for 20 us at first and at most 1 ms.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, Protocol

from tinygrad_llm.parallel.ledger import Entry

YIELDS = 10
SHORTEST, LONGEST = 20e-6, 1e-3


class Request(Protocol):
    """A message on its way."""

    peer: int
    """The rank in the world that it comes from or goes to."""

    def test(self) -> bool:
        """Whether it has arrived, or its memory may be used again. Raises Mismatch if it is not what was expected."""


class Mismatch(Exception):
    """A message of another size than the receiver has room for."""

    def __init__(self, peer: int, expected: int, got: str) -> None:
        super().__init__(peer, expected, got)
        self.peer, self.expected, self.got = peer, expected, got


Stages = Generator[Sequence[Request], None, Any]
"""An operation: it yields the messages it must wait for before it can go on, and returns its result."""


class Engine:
    """All that one rank waits for. The communicators of a mesh share it."""

    def __init__(self, polite: bool) -> None:
        self.polite = polite
        self.where = ""
        """Where the program is, as "step 10": the watchdog repeats it."""
        self.pending: list[Handle] = []
        self.waiting: tuple[Handle, float] | None = None
        self.patient = False
        """Whether this rank may wait as long as it takes: the watchdog says nothing."""

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """Within it, nobody knows how long another rank's work takes, as that of one which prepares what all need."""
        self.patient = True
        try:
            yield
        finally:
            self.patient = False

    def progress(self) -> None:
        """Let what is pending go on, without waiting for it."""
        for handle in tuple(self.pending):
            handle.advance()

    def wait(self, handle: Handle) -> None:
        """Until it is finished."""
        before, self.waiting = self.waiting, (handle, time.monotonic())
        asked, pause = 0, SHORTEST
        try:
            while True:
                self.progress()
                if handle.finished:
                    return
                if self.polite:
                    asked += 1
                    if asked <= YIELDS:
                        _yield_processor()
                    else:
                        time.sleep(pause)
                        pause = min(LONGEST, 1.5 * pause)
        finally:
            self.waiting = before


_yield_processor: Callable[[], object] = getattr(os, "sched_yield", lambda: time.sleep(0))


class Handle:
    """An operation that was begun. Its arrays must not be written to before it is finished."""

    def __init__(
        self,
        engine: Engine,
        about: Callable[[], str],
        stages: Stages,
        entry: Entry,
        explain: Callable[[Mismatch], Exception],
    ) -> None:
        self.about = about
        self.finished = False
        self.missing: Sequence[Request] = ()
        self._engine, self._stages, self._entry, self._explain = engine, stages, entry, explain
        self._value: Any = None
        self._error: BaseException | None = None
        begun = time.perf_counter()
        entry.count += 1
        engine.pending.append(self)
        self.advance()
        entry.seconds += time.perf_counter() - begun

    def advance(self) -> None:
        """Go on as far as it is possible now."""
        try:
            while not self.finished:
                self.missing = [request for request in self.missing if not request.test()]
                if self.missing:
                    return
                self.missing = next(self._stages)
        except StopIteration as end:
            self._value = end.value
            self._end()
        except Mismatch as error:
            self._end()
            self._error = self._explain(error)
            raise self._error from None
        except BaseException as error:
            self._end()
            self._error = error
            raise

    def _end(self) -> None:
        self.finished = True
        self._engine.pending.remove(self)

    def done(self) -> bool:
        """Whether `wait` would return at once."""
        self._engine.progress()
        return self.finished

    def wait(self) -> Any:
        """The result, as soon as there is one. What went wrong with it is raised again, whoever met it first."""
        if not self.finished:
            begun = time.perf_counter()
            self._engine.wait(self)
            self._entry.seconds += time.perf_counter() - begun
        if self._error is not None:
            raise self._error
        return self._value
