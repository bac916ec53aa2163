"""Every differentiable operation: its formula, the derivation of its gradient, and its NumPy forward and vjp."""

from tinygrad_llm.ops.arithmetic import mul
from tinygrad_llm.ops.norms import layer_norm

__all__ = ["layer_norm", "mul"]
