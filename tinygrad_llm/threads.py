"""One number of threads for everything: NumPy's BLAS and our kernels.

It is what `set_threads` was given, or `TINYGRAD_LLM_THREADS`, or what BLAS would obey (`OPENBLAS_NUM_THREADS` and its
like), or else the physical cores that this process may use, though no more than the processor time of its container is
worth, shared out among the ranks of this machine under MPI.

A kernel is a compiled function ``kernel(low, high, ...)`` that works on a range of independent units (rows, heads)
without Python's lock; `run` cuts the range into one piece for each thread of our own pool (see `pool.py`).
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

PAUSE = "16"
"""log2 of the processor's ticks, about 25 us, for which OpenBLAS's threads look for more work before they sleep.

By default it is 26, and so they take half of every core but one from our own threads until the next product. With
attention of 256 positions, two threads were no faster than one. OpenBLAS reads it once, when NumPy is loaded: import
this package before NumPy, or set the variable yourself.
"""
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", PAUSE)

from tinygrad_llm import pool  # noqa: E402, it loads NumPy

_threads: int | None = None
_blas: list[Any] = []


def thread_count() -> int:
    """The number of threads; the first call settles it."""
    if _threads is None:
        set_threads(_from_environment() or default_threads())
    assert _threads is not None
    return _threads


def set_threads(count: int) -> None:
    """Use `count` threads from now on, in BLAS and in kernels."""
    global _threads
    if count < 1:
        raise ValueError(f"threads: {count} must be at least 1")
    import threadpoolctl  # it looks through all loaded libraries: not while the package is imported

    _threads = count
    _blas[:] = threadpoolctl.ThreadpoolController().select(user_api="blas").lib_controllers
    _limit_blas(count)


def _limit_blas(count: int) -> None:
    for library in _blas:
        library.set_num_threads(count)


class one_blas_thread:
    """``with one_blas_thread():`` BLAS computes in the thread that calls it, as where several threads each do."""

    def __enter__(self) -> None:
        _limit_blas(1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _limit_blas(thread_count())


SETTINGS = ("TINYGRAD_LLM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that give the number of threads: ours, and those that NumPy's BLAS obeys."""


def _from_environment() -> int | None:
    for name in SETTINGS:
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
        if text and name == SETTINGS[0]:
            raise ValueError(f"{name}={text!r}: expected a whole number of at least 1")
    return None


def default_threads() -> int:
    """The physical cores, and the processor time, that this process may use, divided by this machine's MPI ranks."""
    allowed = allowed_processors()
    cores = len({_core(processor) for processor in allowed})
    cores = math.ceil(min([cores, *map(_quota, _control_groups())]))
    return max(1, cores // max(1, _sharers or _launched_here()))


_sharers: int | None = None


def share_with(ranks: int) -> None:
    """So many ranks, this one among them, run on the processors of this one: MPI knows better than `LOCAL_RANKS`."""
    global _sharers
    _sharers = ranks


def _launched_here() -> int:
    """How many ranks seem to share the processors."""
    if len(allowed_processors()) < (os.cpu_count() or 1):  # the launcher has given this rank processors of its own
        return 1
    return next((int(os.environ[n]) for n in LOCAL_RANKS if os.environ.get(n, "").isdecimal()), 1)


LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")
"""Where Open MPI, MPICH and Slurm say how many ranks they started on this machine."""


def allowed_processors() -> list[int]:
    """The numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core(processor: int) -> tuple[str, ...]:
    """What tells one physical core from another: two hyperthreads of a core have it in common."""
    folder = Path(f"/sys/devices/system/cpu/cpu{processor}/topology")
    try:
        return tuple((folder / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:
        return (str(processor),)


MEMBERSHIP, CONTROL = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
"""Where Linux says in which control groups this process is, and where they are: a container is made of such."""


def _control_groups() -> list[Path]:
    """The folders that may limit processor time, of version 2 or 1: those of this process, and all above them."""
    try:
        lines = MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    folders = []
    for line in lines:
        controllers, _, path = line.partition(":")[2].partition(":")
        if not controllers or "cpu" in controllers.split(","):
            group = CONTROL / ("cpu" if controllers else "") / path.lstrip("/")
            folders += [group, *group.parents]
    return folders


def _quota(group: Path) -> float:
    """How many processors' time its processes may use; infinity without a limit."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
            quota, period = ((group / name).read_text(encoding="utf-8") for name in names)
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError):  # no limits are kept here, or "max"
        return math.inf


# ---------------------------------------------------------------------------------------------------------------------


_busy = threading.Lock()
"""Held while the pool works. Looked at, and then taken by ``with``: an interrupt after ``acquire`` has returned, and
before ``try``, would leave it locked, and all that follows to one thread."""


def run(kernel: Callable[..., Any], length: int, *arguments: Any, least: int = 1) -> None:
    """``kernel(low, high, *arguments)`` over the range of `length` units, in at most one piece for each thread.

    A piece has at least `least` units: below about 20 us of work a second thread costs more than it saves. A call
    while another thread of the program is in here runs in one piece.
    """
    count = min(thread_count(), length // max(1, least))
    if count < 2 or _busy.locked():
        kernel(0, length, *arguments)
        return
    with _busy:
        edges = [length * piece // count for piece in range(count + 1)]
        pool.at_once(kernel, [(low, high, *arguments) for low, high in itertools.pairwise(edges)])


def together(part: Callable[[int, int], None], leave: Callable[[], None], most: int) -> None:
    """``part(thread, count)`` in all threads, at most so many, at the same time: they may wait for each other.

    `leave` is called when the part of the calling thread has ended, or will never begin: the others must not wait for
    it any more. A call while another thread of the program is in here or in `run` has one thread.
    """
    count = min(thread_count(), most)
    if count < 2 or _busy.locked():
        part(0, 1)
        return
    with _busy:
        pool.at_once(part, [(thread, count) for thread in range(count)], leave)


def _free_after_fork() -> None:
    global _busy
    _busy = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_after_fork)
