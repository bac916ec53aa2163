"""Who computes: the plain NumPy of a function, or its kernel, the fast twin that stands in the folder `kernels`.

Kernels mirror the package file by file: the twin of a function in ``tinygrad_llm.ops.norms`` is registered by
``tinygrad_llm.kernels.norms``, which is loaded when the function is first called on an array that is not small. So
importing the package stays light, and without the folder, or without Numba, everything works, only slower.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

BACKENDS = ("auto", "numpy", "numba")
SETTING = "TINYGRAD_LLM_BACKEND"
"""The environment variable that chooses for a process."""
_backend: str | None = None  # not settled yet

SMALL = 512
"""Under ``"auto"`` arrays of fewer elements go to NumPy: the time to load a kernel would never be won back."""

_whole: ContextVar[int] = ContextVar("whole", default=0)

P = ParamSpec("P")
R = TypeVar("R")


class use_backend:
    """Choose who computes, at once and for the whole process; as a context manager it also goes back afterwards.

    ``"auto"``: kernels, but for small arrays (`SMALL`). ``"numba"``: kernels for arrays of every size, as tests want.
    ``"numpy"``: only the references. A kernel may decline what it does not handle; then the reference computes it.
    Raises ValueError for another name, and for ``"numba"`` where nothing can be compiled.
    """

    def __init__(self, name: str) -> None:
        global _backend
        if name not in BACKENDS:
            raise ValueError(f"use_backend: unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")
        _check("use_backend", name)
        self._previous, _backend = _backend, name

    def __enter__(self) -> use_backend:
        return self

    def __exit__(self, *exception: object) -> None:
        global _backend
        _backend = self._previous


def chosen_backend() -> str:
    """The backend that is in use; the first call settles it, by the environment if nobody else has.

    Raises ValueError for a value of ``TINYGRAD_LLM_BACKEND`` that is none, or cannot be had.
    """
    global _backend
    if _backend is None:
        name = os.environ.get(SETTING) or "auto"
        if name not in BACKENDS:
            raise ValueError(f"{SETTING}={name!r}: expected one of {', '.join(BACKENDS)}")
        _check(SETTING, name)
        _backend = name
    return _backend


def why_no_kernels() -> str:
    """What keeps Numba from compiling kernels here, with the remedy; empty if nothing does."""
    try:
        importlib.import_module("tinygrad_llm.kernels.compiled")
    except ModuleNotFoundError as error:
        return f"{error}; install Numba (pip install numba)" if error.name == "numba" else str(error)
    except ImportError as error:
        return str(error)
    return ""


def _check(asker: str, name: str) -> None:
    reason = why_no_kernels() if name == "numba" else ""
    if reason:
        raise ValueError(f"{asker}: 'numba' cannot be had here: {reason}; 'auto' does without kernels")


@contextmanager
def part_of(size: int) -> Iterator[None]:
    """Inside it, arrays are parts of one of `size` elements, and whoever would compute that computes them: so that the
    parts have the same bits as the whole."""
    token = _whole.set(size)
    try:
        yield
    finally:
        _whole.reset(token)


class Kernel:
    """The slot for a fast twin: a decorator while it is given a function, the twin itself when called."""

    def __init__(self, home: str = "") -> None:
        package, _, path = home.partition(".")
        self._module = f"{package}.kernels.{path.rpartition('.')[2]}" if package == "tinygrad_llm" and path else ""
        self._function: Callable[..., Any] | None = None
        self._small = SMALL if self._module else 0  # a twin that is here already costs nothing to load

    @property
    def function(self) -> Callable[..., Any] | None:
        """The twin, or None. The first look loads the module where it should stand."""
        if self._module:
            _load(self._module)
            self._module = ""  # only now: what was interrupted is tried again
        return self._function

    def __bool__(self) -> bool:
        return self.function is not None

    def __call__(self, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and not options and inspect.isfunction(args[0]):
            self._function = args[0]
            return args[0]
        function = self.function
        return NotImplemented if function is None else function(*args, **options)

    def run(self, arrays: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What the twin makes of the arguments; NotImplemented if the backend, the sizes or the twin are against it."""
        backend = _backend or chosen_backend()
        if backend == "numpy":
            return NotImplemented
        if backend == "auto" and self._small and largest(arrays) < self._small and _whole.get() < self._small:
            return NotImplemented
        function = self.function
        return NotImplemented if function is None else function(*arrays, **options)


class twinned(Generic[P, R]):
    """A plain function that may have a kernel, as an operation may: the twin takes the same arguments."""

    def __init__(self, reference: Callable[P, R]) -> None:
        functools.update_wrapper(self, reference)
        self.reference = reference
        self.kernel = Kernel(reference.__module__)

    def __call__(self, *args: P.args, **options: P.kwargs) -> R:
        result = self.kernel.run(args, options)
        return self.reference(*args, **options) if result is NotImplemented else result


def largest(values: tuple[Any, ...]) -> int:
    """The number of elements of the largest array among `values`, also in lists of them."""
    size = 0
    for value in values:
        if isinstance(value, np.ndarray):
            size = max(size, value.size)
        elif isinstance(value, list):
            size = max(size, largest(tuple(value)))
    return size


def _load(module: str) -> None:
    """Import a module of kernels, if there is one and Numba can compile it."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not (module.startswith(missing) or missing.startswith(("numba", "llvmlite"))):
            raise
    except ImportError as error:  # Numba refuses a NumPy that is newer than it knows, or is switched off
        if "numba" not in str(error).lower():
            raise
