"""Every differentiable operation: its formula, the derivation of its gradient, and its NumPy forward and vjp."""

from tinygrad_llm.ops.activations import gelu, relu, sigmoid, silu, softplus, tanh
from tinygrad_llm.ops.arithmetic import add, div, mul, neg, power, sub
from tinygrad_llm.ops.attention_bias import biased_attention
from tinygrad_llm.ops.biased_activations import bias_gelu
from tinygrad_llm.ops.exponential import exp, log, sqrt
from tinygrad_llm.ops.fused_losses import linear_cross_entropy
from tinygrad_llm.ops.gated import geglu, swiglu
from tinygrad_llm.ops.indexing import embedding, getitem
from tinygrad_llm.ops.losses import cross_entropy
from tinygrad_llm.ops.low_rank import lora
from tinygrad_llm.ops.norms import layer_norm, rms_norm
from tinygrad_llm.ops.piecewise import abs, clip, where
from tinygrad_llm.ops.preference import dpo_loss
from tinygrad_llm.ops.products import einsum, linear, matmul
from tinygrad_llm.ops.projected_attention import self_attention
from tinygrad_llm.ops.quantized import quantized_linear
from tinygrad_llm.ops.recurrent import gru, lstm, rnn
from tinygrad_llm.ops.recurrent_cells import gru_cell, lstm_cell
from tinygrad_llm.ops.reductions import max, mean, sum
from tinygrad_llm.ops.regularization import dropout
from tinygrad_llm.ops.residual_norms import add_layer_norm, add_rms_norm
from tinygrad_llm.ops.rotations import rotary
from tinygrad_llm.ops.scaled_attention import attention
from tinygrad_llm.ops.shapes import concatenate, pad, reshape, split, stack, transpose
from tinygrad_llm.ops.softmaxes import log_softmax, logsumexp, softmax

__all__ = [
    "abs",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "attention",
    "bias_gelu",
    "biased_attention",
    "clip",
    "concatenate",
    "cross_entropy",
    "div",
    "dpo_loss",
    "dropout",
    "einsum",
    "embedding",
    "exp",
    "geglu",
    "gelu",
    "getitem",
    "gru",
    "gru_cell",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "log",
    "log_softmax",
    "logsumexp",
    "lora",
    "lstm",
    "lstm_cell",
    "matmul",
    "max",
    "mean",
    "mul",
    "neg",
    "pad",
    "power",
    "quantized_linear",
    "relu",
    "reshape",
    "rms_norm",
    "rnn",
    "rotary",
    "self_attention",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "split",
    "sqrt",
    "stack",
    "sub",
    "sum",
    "swiglu",
    "tanh",
    "transpose",
    "where",
]
