"""Ends the job when a rank has waited too long, and says for what.

A rank that is stuck, or gone without a word, leaves the others waiting for ever. Each has a thread that looks, now and
then, at what its rank waits for. It runs while the rank waits, since the waiting gives Python's lock away.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from tinygrad_llm.parallel.waiting import Engine

STATUS = 17
"""The exit status of a job that the watchdog has ended."""

LIMIT = 600.0
"""Seconds, unless TINYGRAD_LLM_WATCHDOG gives others. A rank may have to wait while another compiles or saves."""


def limit_from_environment() -> float:
    """How long a rank may wait for one operation, in seconds."""
    text = os.environ.get("TINYGRAD_LLM_WATCHDOG", "")
    try:
        limit = float(text) if text else LIMIT
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise ValueError(f"TINYGRAD_LLM_WATCHDOG={text!r}: expected seconds, more than 0")
    return limit


class Watchdog:
    """Looks at what one rank waits for; ``end(status)`` ends the whole job."""

    def __init__(self, engine: Engine, rank: int, limit: float, end: Callable[[int], None]) -> None:
        self._engine, self._rank, self.limit, self._end = engine, rank, limit, end
        threading.Thread(target=self._loop, name="tinygrad_llm watchdog", daemon=True).start()

    def _loop(self) -> None:
        while True:
            time.sleep(min(1.0, self.limit / 10))
            if text := self._complaint():
                print(f"[rank {self._rank}] {text}", file=sys.stderr, flush=True)
                self._end(STATUS)
                return

    def _complaint(self) -> str:
        waiting = self._engine.waiting
        if waiting is None or self._engine.patient or (waited := time.monotonic() - waiting[1]) < self.limit:
            return ""
        handle = waiting[0]
        silent = sorted({request.peer for request in handle.missing})
        return f"stuck {waited:.3g} s in {handle.about()}; nothing from {silent} (TINYGRAD_LLM_WATCHDOG={self.limit:g})"
