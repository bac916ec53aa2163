"""Every differentiable operation: its formula, the derivation of its gradient, and its NumPy forward and vjp."""

from tinygrad_llm.ops.arithmetic import mul
from tinygrad_llm.ops.indexing import embedding
from tinygrad_llm.ops.losses import cross_entropy
from tinygrad_llm.ops.norms import layer_norm
from tinygrad_llm.ops.products import linear
from tinygrad_llm.ops.regularization import dropout
from tinygrad_llm.ops.scaled_attention import attention

__all__ = ["attention", "cross_entropy", "dropout", "embedding", "layer_norm", "linear", "mul"]
