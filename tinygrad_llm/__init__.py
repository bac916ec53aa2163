"""A large language model from scratch on NumPy, with every gradient derived by hand, executable, and checked."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tinygrad_llm import threads  # first: it tells BLAS how to wait, before NumPy loads BLAS

# isort: split
from tinygrad_llm import ops
from tinygrad_llm.backend import use_backend
from tinygrad_llm.operation import checkpoint, op
from tinygrad_llm.tape import detect_anomaly, enable_grad, keep_graph, no_grad
from tinygrad_llm.tensor import Tensor, registry

if TYPE_CHECKING:
    from tinygrad_llm import study
    from tinygrad_llm.checking import gradcheck

__version__ = "0.1.0"
__all__ = [
    "Tensor",
    "checkpoint",
    "detect_anomaly",
    "enable_grad",
    "gradcheck",
    "keep_graph",
    "no_grad",
    "op",
    "ops",
    "registry",
    "study",
    "threads",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    """`study` and `gradcheck` are loaded when they are first used: the one needs more than NumPy, both take time."""
    if name == "study":
        return importlib.import_module("tinygrad_llm.study")
    if name == "gradcheck":
        return importlib.import_module("tinygrad_llm.checking").gradcheck
    raise AttributeError(f"module 'tinygrad_llm' has no attribute {name!r}")
