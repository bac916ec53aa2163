"""Language models: a configuration and a Module each."""

from tinygrad_llm.models.decoder import Decoder
from tinygrad_llm.models.gpt import GPT, GPTConfig
from tinygrad_llm.models.llama import Llama, LlamaConfig

__all__ = ["GPT", "Decoder", "GPTConfig", "Llama", "LlamaConfig"]
