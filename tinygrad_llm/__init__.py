"""A large language model from scratch on NumPy, with every gradient derived by hand, executable, and checked."""

from tinygrad_llm import ops
from tinygrad_llm.checking import gradcheck
from tinygrad_llm.operation import checkpoint, op, use_backend
from tinygrad_llm.tape import detect_anomaly, enable_grad, no_grad
from tinygrad_llm.tensor import Tensor, registry

__version__ = "0.1.0"
__all__ = [
    "Tensor",
    "checkpoint",
    "detect_anomaly",
    "enable_grad",
    "gradcheck",
    "no_grad",
    "op",
    "ops",
    "registry",
    "use_backend",
]
