"""Whether other processes take the cores that training computes on; Linux alone tells."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path

from tinygrad_llm.threads import allowed_processors, thread_count

SECONDS = 10.0
"""How long is counted before it is judged."""
TAKEN = 0.25
"""Part of a core that others may use: a desktop does that at rest."""
IDLE = slice(3, 5)
"""Where a line of /proc/stat has the ticks without work: idle, and waiting for a disk."""


class SharedCores:
    """Says once that the cores are too few for this process's threads and for what else runs.

    Each matrix product ends when its last thread does. If another process is on one of the cores, that thread waits
    for its time slice, a few milliseconds, at every product, of which most take less than one. Two trainings with two
    threads each on two cores ran at 600 to 7,000 tokens a second, with one thread each at 10,000.
    """

    def __init__(self) -> None:
        self._processors = allowed_processors()
        self._told = thread_count() < 2
        self._start()

    def _start(self) -> None:
        self._began, self._own, self._all = time.monotonic(), time.process_time(), busy_seconds(self._processors)

    def remark(self) -> str:
        """The line for the user, the first time that there is reason for it; empty else."""
        seconds = time.monotonic() - self._began
        if self._told or self._all is None or seconds < SECONDS:
            return ""
        own, before = self._own, self._all
        self._start()
        if self._all is None:
            return ""
        others = (self._all - before - (self._own - own)) / seconds
        threads, cores = thread_count(), len(self._processors)
        if threads + others < cores + TAKEN:
            return ""
        self._told = True
        fewer = max(1, int(cores - others))  # than there are, by the condition above
        return (
            f"note        other processes use {others:.1f} of the {cores} cores, and {threads} threads often wait for "
            f"each other then; --threads {fewer} is likely faster"
        )


def busy_seconds(processors: Collection[int]) -> float | None:
    """Seconds that these processors have worked since the machine was started; None where nothing tells."""
    ticks = 0
    try:
        for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
            name, *numbers = line.split()
            if name[:3] == "cpu" and name[3:].isdecimal() and int(name[3:]) in processors:
                counts = [int(number) for number in numbers[:8]]  # what follows is counted in these already
                ticks += sum(counts) - sum(counts[IDLE])
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
