"""Modules: what models are put together from."""

from tinygrad_llm.nn.layers import Dropout, Embedding, LayerNorm, Linear, Norm, RMSNorm, unset
from tinygrad_llm.nn.lora import LoRALinear
from tinygrad_llm.nn.module import Module, Parameter
from tinygrad_llm.nn.quantized import QuantizedEmbedding, QuantizedLinear, quantize
from tinygrad_llm.nn.transformer import MLP, Block, CausalSelfAttention

__all__ = [
    "MLP",
    "Block",
    "CausalSelfAttention",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "Linear",
    "LoRALinear",
    "Module",
    "Norm",
    "Parameter",
    "QuantizedEmbedding",
    "QuantizedLinear",
    "RMSNorm",
    "quantize",
    "unset",
]
