"""Worker processes side by side, of which one at a time works, in alternating rounds: all meet the same machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

import tinygrad_llm
from tinygrad_llm.threads import SETTINGS

PAUSE = 0.05
"""Seconds between two turns, in which the threads of the last one stop spinning."""


class Asker(Protocol):
    """Something that answers requests: a process, or a stand-in."""

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        """The reply to one request. Raises WorkFailed for an error of the work, ChildProcessError if it is gone."""


class WorkFailed(ValueError):
    """A worker could not do what it was asked, and said why."""


class Process:
    """A worker process of one contestant; leaving the ``with`` block ends it at once, whatever it is doing."""

    def __init__(self, contestant: str, threads: int, extra: Mapping[str, str] | None = None) -> None:
        self.contestant = contestant
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process is
        command = [sys.executable, "-P", "-m", "tinygrad_llm.study.benchmarks.worker", contestant]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(threads) | dict(extra or {}),
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # a request that the worker never read
                pass

    def ask(self, do: str, **more: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        if not line.endswith("\n"):
            raise ChildProcessError(self._obituary())
        reply = json.loads(line)
        if "error" in reply:
            raise WorkFailed(f"{self.contestant}: {reply['error']}")
        return reply

    def _obituary(self) -> str:
        """How the worker ended, and its last words."""
        status = self._process.wait()
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"the worker process of {self.contestant} {how}" + (f": {lines[-1].strip()}" if lines else "")


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker: so many threads for every library, and this package whatever the folder."""
    root = str(Path(tinygrad_llm.__file__).parent.parent)
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, **dict.fromkeys(SETTINGS, str(threads)), "PYTHONPATH": path}


def alternate(
    workers: Mapping[str, Asker],
    rounds: int,
    seconds: float,
    progress: Callable[[int, int], object] = lambda done, total: None,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, list[tuple[float, float]]]:
    """(seconds, CPU seconds) of a run of each worker in each round: the medians of its turn.

    The order moves on by one from round to round, so that none always follows the same other.
    """
    names = list(workers)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            sleep(PAUSE)
            reply = workers[name].ask("turn", seconds=seconds)
            found[name].append((float(np.median(reply["times"])), float(np.median(reply["cpu"]))))
        progress(number + 1, rounds)
    return found
