"""A worker process: builds the work of one contestant and repeats it when it is told to, else it sleeps on a pipe.

Requests and replies are lines of JSON on standard input and output. Whatever the work itself prints goes to standard
error. The worker ends with its input, whatever it is doing then, so that it cannot outlive the parent, and leaves
Ctrl-C to the parent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tinygrad_llm.memory import peak_memory
from tinygrad_llm.study.benchmarks.cases import Case
from tinygrad_llm.study.benchmarks.job import Job

OURS = ("reference", "kernel", "ours", "float32")
"""Contestants that need nothing but this package; float32 is ours with all bits, beside weights of fewer bits."""


class Worker:
    """Answers the requests of the parent; each method is one of them."""

    def __init__(self, contestant: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.contestant, self._clock = contestant, clock
        self._job: Job | None = None

    def machine(self, seconds: float) -> dict[str, Any]:
        """What this machine can do with the threads of this process."""
        from tinygrad_llm.study.machine import measure_rates

        return measure_rates(seconds).plain()

    def prepare(self, case: dict[str, Any]) -> dict[str, Any]:
        """Build the work, forgetting what was built before, and run it once; tell what it computes."""
        self._job = None
        gc.collect()
        reset_peak()
        self._job = job = self._build(Case(**case))
        job.before()
        job.run()
        return {"checks": job.checks, "operations": job.operations, "moved": job.moved, "amount": job.amount}

    def turn(self, seconds: float) -> dict[str, Any]:
        """Repeat the work for about so many seconds, once at least: each one's time and CPU seconds."""
        assert self._job is not None
        self._job.before()
        gc.disable()
        times: list[float] = []
        cpu: list[float] = []
        end = self._clock() + seconds
        try:
            while not times or (len(times) < self._job.runs if self._job.runs else self._clock() < end):
                used, start = time.process_time(), self._clock()
                self._job.run()
                times.append(self._clock() - start)
                cpu.append(time.process_time() - used)
        finally:
            gc.enable()
        return {"times": times, "cpu": cpu}

    def finish(self) -> dict[str, Any]:
        """The most memory held since the work was built."""
        return {"peak": high_water()}

    def _build(self, case: Case) -> Job:
        if self.contestant in OURS:
            from tinygrad_llm.study.benchmarks import ours

            if self.contestant != "float32":
                return ours.job(case)
            return dataclasses.replace(ours.job(with_all_bits(case)), checks=[])
        from tinygrad_llm.study.benchmarks import peers

        return peers.job(self.contestant, case)


def with_all_bits(case: Case) -> Case:
    """The same case with float32 weights."""
    return dataclasses.replace(case, sizes={**case.sizes, "weights": "float32"})


def reset_peak() -> None:
    """Have Linux forget how much memory this process once held."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def high_water() -> int | None:
    """The most bytes that this process has held since `reset_peak`; None where nothing tells.

    Not what the operating system keeps of processes in general: under Linux a new process inherits its parent's peak.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return peak_memory()


def answer(worker: Any, line: str) -> dict[str, Any]:
    """The reply to one request; an exception becomes one line of text."""
    request = json.loads(line)
    try:
        return getattr(worker, request.pop("do"))(**request)
    except Exception as error:
        message = (str(error).strip() or "no message").splitlines()[0]
        return {"error": f"{type(error).__name__}: {message}"}


def requests(lines: Iterable[str], end: Callable[[int], object] = os._exit) -> Iterator[str]:
    """The lines, read by a thread of their own: after the last one the process ends, even in the midst of work."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in lines:
            waiting.put(line)
        end(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def main() -> None:
    """Start the contestant that the command line names, and answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    contestant = sys.argv[1]
    if contestant in OURS:
        from tinygrad_llm.study.benchmarks.ours import start
    else:
        from tinygrad_llm.study.benchmarks.peers import start
    start(contestant)
    worker = Worker(contestant)
    for line in requests(sys.stdin):
        print(json.dumps(answer(worker, line)), file=replies, flush=True)


if __name__ == "__main__":
    main()
