"""Text out of a model: KV cache, samplers, streaming."""

from tinygrad_llm.generation.cache import KVCache
from tinygrad_llm.generation.decoding import generate_text, generate_tokens
from tinygrad_llm.generation.sampling import Sampling, choose

__all__ = ["KVCache", "Sampling", "choose", "generate_text", "generate_tokens"]
