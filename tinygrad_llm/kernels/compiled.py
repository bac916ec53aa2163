"""`compiled`: Numba's compiler with our settings, a cache on disk, and a line of text when it makes someone wait."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import event
from numba.core.caching import NullCache

if getattr(numba.config, "DISABLE_JIT", 0):
    raise ImportError("Numba's compiler is switched off; unset NUMBA_DISABLE_JIT")

REORDER = {"reassoc", "contract", "nsz"}
"""What the compiler may do with floating-point arithmetic: reorder sums, fuse ``a * b + c``, ignore the sign of zero.
It may not assume that there is no NaN or infinity."""

PATIENCE = 1.0
"""Seconds of compiling after which the user is told."""


def compiled(function: Callable[..., Any] | None = None, *, inline: bool = False, reorder: bool = False) -> Any:
    """Compile a function when it is first called, and keep the result on disk for the next time.

    The function runs without Python's lock, so threads may run it at once. `inline`: a small function that is called
    inside loops, and must become part of them to be vectorised. Its own sums are not reordered, since it may depend on
    cancellation, unless it asks for that with `reorder`.

    A function that adds and is called by other compiled ones must be inline. Else Numba keeps two versions of it, by
    itself and inside its caller, that add in different orders; which of them runs depends on whether the caller was
    compiled just now or loaded from disk, and so would the last bits of a result.
    """
    if function is None:
        return lambda given: compiled(given, inline=inline, reorder=reorder)
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if inline:
        return numba.njit(**options, fastmath=REORDER if reorder else {"contract"}, forceinline=True)(function)
    options["fastmath"] = REORDER
    try:
        dispatcher = numba.njit(**options, cache=True)(function)
    except RuntimeError:  # there is no folder that the cache could be written to
        return numba.njit(**options)(function)
    module = function.__module__.rpartition(".")
    if module[0] == __package__:
        # Numba looks whether the function's own file has changed, not the files of the functions that it calls
        dispatcher._cache._cache_file._source_stamp = _fingerprint(module[2])
    return dispatcher


def is_ready(function: Any) -> bool:
    """Whether a compiled function has been compiled before, in this process or, kept on disk, in another."""
    if function.overloads:
        return True
    if isinstance(function._cache, NullCache):
        return False
    return bool(function._cache._cache_file._load_index())


def entry(function: Any) -> Callable[..., Any]:
    """What a compiled function, which has been called before, calls itself once it has looked at the arguments' types.

    To look takes 0.16 us, as much as a short piece of work. The types must be those of the first call.
    """
    return next(iter(function.overloads.values())).entry_point


@functools.cache
def _fingerprint(module: str) -> str:
    """A hash of a module of this folder and of those that it imports: compiled from other sources, it is void."""
    source = (Path(__file__).parent / f"{module}.py").read_bytes()
    return hashlib.sha256(source + "".join(map(_fingerprint, _imported(source.decode()))).encode()).hexdigest()


IMPORT = re.compile(r"^[ \t]*from tinygrad_llm\.kernels(?:\.(\w+) import| import (\([^)]*\)|.*))", re.MULTILINE)


def _imported(source: str) -> list[str]:
    """The modules of this folder that a source imports. By searching: to parse the files would take 60 ms at start."""
    names = []
    for module, modules in IMPORT.findall(re.sub("#.*", "", source)):
        names += [module] if module else re.findall(r"(\w+)(?: as \w+)?", modules)
    return names


class _Notice(event.Listener):
    """Says once that kernels are being compiled, when that has taken a while, be it the first of them."""

    def __init__(self) -> None:
        self.seconds, self.depth, self.began, self.told = 0.0, 0, 0.0, False
        self.timer: threading.Timer | None = None

    def on_start(self, event: Any) -> None:
        if self.depth == 0:
            self.began = time.perf_counter()
            if not self.told:
                left = max(0.0, PATIENCE - self.seconds)
                self.timer = threading.Timer(left, self._tell, [event.data["dispatcher"]])
                self.timer.daemon = True
                self.timer.start()
        self.depth += 1

    def on_end(self, event: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.seconds += time.perf_counter() - self.began
            if self.timer:
                self.timer.cancel()

    def _tell(self, dispatcher: Any) -> None:
        self.told = True
        print(f"compiling kernels for this processor ({_how_often(dispatcher)}) ...", file=sys.stderr)


def _how_often(dispatcher: Any) -> str:
    if isinstance(dispatcher._cache, NullCache):
        return "at every start: no folder to keep the result in; set NUMBA_CACHE_DIR to one that can be written"
    return "once; the result is kept"


event.register("numba:compile", _Notice())
