"""Text out of a model: KV cache, samplers, beam search, streaming."""

from tinygrad_llm.generation.beam import EncoderDecoder, Hypothesis, beam_search
from tinygrad_llm.generation.cache import KVCache
from tinygrad_llm.generation.decoding import generate_text, generate_tokens
from tinygrad_llm.generation.encoder_decoder import generate_outputs
from tinygrad_llm.generation.sampling import Sampling, choose

__all__ = [
    "EncoderDecoder",
    "Hypothesis",
    "KVCache",
    "Sampling",
    "beam_search",
    "choose",
    "generate_outputs",
    "generate_text",
    "generate_tokens",
]
