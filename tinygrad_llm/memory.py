"""The process's memory: how to keep what was freed for the next step, and the most that was ever held."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have freed arrays of any size stay with the process, for later ones; return whether that can be done here.

    By default glibc fetches every array above 32 MB from the operating system and hands it back when it is freed. Each
    page of a fresh array is then cleared and mapped once more when it is first touched: a 51 MB array costs four times
    as much to fill as one that was there before. A training step allocates the same sizes again and again, so it takes
    them from what the step before has freed. Elsewhere than on Linux with glibc, nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a C library of another kind
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def peak_memory() -> int | None:
    """The most bytes of memory that this process has held at once; None where nothing tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
