"""Read-only arrays: what a vjp still needs may not be written to until the vjp has run.

A write in place would silently falsify the gradient, so NumPy refuses it ("assignment destination is read-only"). Locks
are counted per owner of the memory, since a view cannot be made writeable again before its owner is. A view taken
before its array came on the tape is not reached. Threads may share arrays.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_locks: dict[int, list[Any]] = {}
"""id(owner) to [count, owner, the arrays made read-only ...]."""

_one_at_a_time = threading.RLock()
"""Reentrant: the garbage collector may delete a node, and so unlock, in the middle of a call."""


def lock(array: Array) -> None:
    """Make an array, and the owner of its memory, read-only until as many calls of `unlock` have followed."""
    owner = array if array.base is None or not isinstance(array.base, np.ndarray) else array.base
    with _one_at_a_time:
        entry = _locks.get(id(owner))
        if entry is None:
            entry = _locks[id(owner)] = [0, owner]
        entry[0] += 1
        _locks[id(owner)] = entry  # again: the garbage collector may have undone the last lock since it was looked up
        # what NumPy would never make writeable again is left alone: a view whose owner the user made read-only
        can_be_undone = _may_be_freed(owner) or any(locked is owner for locked in entry[2:])
        if can_be_undone and array.flags.writeable:  # the view first: once its owner is locked it would be so by itself
            array.flags.writeable = False
            entry.append(array)
        if owner is not array and _may_be_freed(owner):
            owner.flags.writeable = False
            entry.append(owner)


def _may_be_freed(owner: Array) -> bool:
    """Whether an owner is writeable, and NumPy would make it so again: not where the memory is that of a library which
    does not tell whether it may be written to, as PyTorch's."""
    if not owner.flags.writeable or owner.base is None:
        return owner.flags.writeable
    try:
        return not memoryview(owner.base).readonly  # type: ignore[arg-type]
    except TypeError:
        return False


def unlock(array: Array) -> None:
    """Undo one `lock`; after the last, what was writeable before is so again."""
    owner = array if array.base is None or not isinstance(array.base, np.ndarray) else array.base
    with _one_at_a_time:
        entry = _locks[id(owner)]
        entry[0] -= 1
        if entry[0] == 0:
            del _locks[id(owner)]
            for locked in sorted(entry[2:], key=lambda a: a is not owner):  # the owner first
                locked.flags.writeable = True
